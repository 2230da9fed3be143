//! `oche inspect`: the contents of a packed image, or of the boot file in which m1n1 finds it.

pub mod boot_file;
pub mod command;
pub mod image;
