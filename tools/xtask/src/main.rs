//! `cargo xtask`: builds, boots and checks Oche.

fn main() -> std::process::ExitCode {
    xtask::cli::main()
}
