//! `oche`: packs images of Oche and reads traces.

fn main() -> std::process::ExitCode {
    oche::cli::main()
}
