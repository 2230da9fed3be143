//! The build script of every image for EL2: links it with boot's linker script, position
//! independent.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../boot/image.ld");
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rerun-if-changed=../link.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo:rustc-link-arg-bins=-T{script}");
        // The target's code model is static, and yet only data holds absolute addresses: `-pie`
        // turns them into relative relocations, `notext` allows that in constants, which the entry
        // code relocates with the MMU off.
        for argument in ["-pie", "--no-dynamic-linker", "-znotext", "-znorelro"] {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}
