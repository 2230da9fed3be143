//! Build script of every guest: links it with the guests' script, position independent.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../common/guest.ld");
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rerun-if-changed=../common/link.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        for argument in
            [&format!("-T{script}"), "-pie", "--no-dynamic-linker", "-znotext", "-znorelro"]
        {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}
