//! The guests of Oche that run on this machine: QEMU processes whose memory is a shared file.
//!
//! QEMU's command line names the file (`-object memory-backend-file,...,mem-path=FILE`). The file
//! may have lost its name since, so it is opened as the process has it open, which needs the same
//! user, or root.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::super::description::TraceDescription;
use super::super::memory::TraceMemory;
use oche_trace::directory::DESCRIPTION_BYTES;
use oche_trace::words::Words;

/// A guest that runs on Oche.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// The number of QEMU's process.
    pub process: u32,
    /// Its memory, by a path that can be opened as long as it runs.
    pub ram: PathBuf,
    /// The board, as Oche names it, and QEMU's name for the guest if it has one.
    pub name: String,
}

impl Guest {
    /// Whether its process still runs.
    pub fn is_running(&self) -> bool {
        self.ram.exists()
    }
}

/// The guests that run and that this user may read, oldest process first.
pub fn running() -> Vec<Guest> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let mut processes: Vec<u32> = entries.flatten().filter_map(number).collect();
    processes.sort_unstable();
    processes.into_iter().filter_map(guest_of).collect()
}

fn guest_of(process: u32) -> Option<Guest> {
    let folder = PathBuf::from(format!("/proc/{process}"));
    let line = fs::read(folder.join("cmdline")).ok()?;
    let words: Vec<&str> =
        line.split(|byte| *byte == 0).filter_map(|word| str::from_utf8(word).ok()).collect();
    let file = words.iter().find_map(|word| memory_file(word))?;
    let ram = opened_as(&folder, &file)?;
    let memory = TraceMemory::find(&File::open(&ram).ok()?).ok()??;
    let words_of: Vec<u64> = (0..DESCRIPTION_BYTES / 8).map(|index| memory.load(index)).collect();
    let board = TraceDescription::read(&words_of).machine.board;
    let name = match given_name(&words) {
        Some(name) => format!("{} ({name})", board.as_str()),
        None => board.as_str().to_owned(),
    };
    Some(Guest { process, ram, name })
}

/// The file of `memory-backend-file,...,mem-path=FILE,...`. A comma in it is doubled.
/// Source: QEMU's manual, `-object memory-backend-file`.
fn memory_file(word: &str) -> Option<String> {
    let options = word.strip_prefix("memory-backend-file,")?;
    let single = options.replace(",,", "\0");
    let path = single.split(',').find_map(|option| option.strip_prefix("mem-path="))?;
    Some(path.replace('\0', ","))
}

/// QEMU's name for the guest, `-name NAME` or `-name guest=NAME`.
fn given_name<'a>(words: &[&'a str]) -> Option<&'a str> {
    let at = words.iter().position(|word| *word == "-name")?;
    let options = words.get(at + 1)?;
    let name = options.split(',').next()?;
    Some(name.strip_prefix("guest=").unwrap_or(name))
}

/// The path by which `file` is open in the process with this folder of /proc.
fn opened_as(folder: &Path, file: &str) -> Option<PathBuf> {
    let descriptors = fs::read_dir(folder.join("fd")).ok()?;
    descriptors.flatten().map(|entry| entry.path()).find(|path| {
        let target = fs::read_link(path).ok();
        let target = target.as_deref().and_then(Path::to_str);
        // Source: Linux's manual page proc(5), /proc/pid/fd: what has no name any more.
        target.is_some_and(|target| target.strip_suffix(" (deleted)").unwrap_or(target) == file)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_found_on_qemus_command_line() {
        let word = "memory-backend-file,id=ram,size=1024M,mem-path=/dev/shm/a,,b,share=on";
        assert_eq!(memory_file(word).as_deref(), Some("/dev/shm/a,b"));
        assert_eq!(memory_file("memory-backend-file,id=ram"), None);
        assert_eq!(memory_file("memory-backend-ram,mem-path=/x"), None);
        assert_eq!(given_name(&["qemu", "-name", "guest=disk,debug-threads=on"]), Some("disk"));
        assert_eq!((given_name(&["qemu", "-name"]), given_name(&["qemu"])), (None, None));
    }

    #[test]
    fn a_file_is_found_as_a_process_has_it_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ram");
        let file = File::create(&path).unwrap();
        let own = PathBuf::from("/proc/self");
        let name = path.to_str().unwrap();
        assert!(opened_as(&own, name).is_some());
        fs::remove_file(&path).unwrap();
        let found = opened_as(&own, name).unwrap();
        assert!(File::open(found).is_ok());
        drop(file);
        assert_eq!(opened_as(&own, name), None);
    }
}
