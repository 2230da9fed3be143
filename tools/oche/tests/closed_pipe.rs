//! A reader that closes the pipe early, as `oche ... | head` does, is no error and no panic.

use std::fs;
use std::io::pipe;
use std::process::{Child, Command, Output, Stdio};

use oche::pack::append;
use oche_boot::header;
use oche_boot::payload::ItemKind;
use oche_types::identity;

/// A packed image that `oche inspect` accepts.
fn image() -> Vec<u8> {
    let mut kernel = vec![0; 8192];
    kernel[header::IMAGE_SIZE..header::IMAGE_SIZE + 8].copy_from_slice(&0x1_0000_u64.to_le_bytes());
    kernel[header::FLAGS] = 0b1010;
    kernel[header::MAGIC_OFFSET..header::MAGIC_OFFSET + 4].copy_from_slice(&header::MAGIC);
    let mut image = vec![0; 8192];
    image[header::MAGIC_OFFSET..header::MAGIC_OFFSET + 4].copy_from_slice(&header::MAGIC);
    image[4096..4096 + identity::RECORD_BYTES].copy_from_slice(&identity::record("m1", "9.8.7"));
    append(&mut image, &[(ItemKind::Kernel, &kernel)]).expect("packed");
    image
}

fn inspect(stdout: impl Into<Stdio>) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("image");
    fs::write(&path, image()).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_oche"));
    let child = command.arg("inspect").arg(&path).stdout(stdout).stderr(Stdio::piped()).spawn();
    child.and_then(Child::wait_with_output).expect("oche ran")
}

#[test]
fn inspect_ends_quietly_when_its_reader_has_gone() {
    let read = inspect(Stdio::piped());
    assert!(read.status.success() && !read.stdout.is_empty(), "{read:?}");
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let unread = inspect(writer);
    assert!(unread.status.success() && unread.stderr.is_empty(), "{unread:?}");
}
