//! QEMU's command line, from what the runner wants to see.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::qemu::memory::GuestRam;

/// QEMU's name.
pub const PROGRAM: &str = "qemu-system-aarch64";
/// The oldest version that will do: one before it cannot turn off its NVMe's shadow doorbells, and
/// has another interface for plugins.
pub const OLDEST: u32 = 10;

/// The destination of the guest's console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serial {
    /// Out to the runner, which watches it; nothing comes in.
    Watched,
    /// To and from the runner's own terminal.
    Terminal,
}

/// A virt machine with an SMMUv3 and only the devices that the arguments add.
#[derive(Clone, Debug)]
pub struct QemuMachine {
    /// CPU model, as QEMU names it.
    pub cpu: String,
    /// Number of CPUs.
    pub cpus: u32,
    /// Size of RAM in MiB.
    pub memory_mib: u64,
    /// The arm64 Image that QEMU enters.
    pub kernel: PathBuf,
    /// An initrd for QEMU to load, where the kernel does not carry one.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub append: String,
    /// The console's destination.
    pub serial: Serial,
    /// More arguments: devices, and what the user named.
    pub arguments: Vec<OsString>,
}

impl QemuMachine {
    /// The arguments for QEMU, with RAM in a shared file and the monitor on a socket.
    #[must_use]
    pub fn arguments(&self, memory: &GuestRam, monitor: &Path) -> Vec<OsString> {
        let mut all: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| all.extend(words.iter().map(OsString::from));
        add(&["-M", "virt,virtualization=on,gic-version=3,iommu=smmuv3,memory-backend=ram"]);
        add(&[
            "-cpu",
            &self.cpu,
            "-smp",
            &self.cpus.to_string(),
            "-m",
            &format!("{}M", self.memory_mib),
        ]);
        // No default devices: what is on the bus is what the caller put there.
        add(&["-nodefaults", "-display", "none", "-no-reboot"]);
        // No option ROMs, unless a device's own argument names one: nothing here runs them, and
        // they need files that a small installation of QEMU lacks.
        add(&["-global", "pci-device.romfile="]);
        let serial = match self.serial {
            Serial::Watched => "stdio,id=console,signal=off",
            Serial::Terminal => "stdio,id=console,signal=off,mux=on",
        };
        add(&["-chardev", serial, "-serial", "chardev:console"]);
        if self.serial == Serial::Terminal {
            // Ctrl-A x ends QEMU, as its own -nographic does.
            add(&["-mon", "chardev=console,mode=readline"]);
        }
        if !self.append.is_empty() {
            add(&["-append", &self.append]);
        }
        let mut push = |flag: &str, before: &str, path: &Path| {
            let mut value = OsString::from(before);
            value.push(escape_commas(path));
            all.extend([flag.into(), value]);
        };
        push(
            "-object",
            &format!("memory-backend-file,id=ram,size={}M,share=on,mem-path=", self.memory_mib),
            memory.path(),
        );
        push("-chardev", "socket,id=monitor,server=on,wait=off,path=", monitor);
        all.extend(["-mon".into(), "chardev=monitor,mode=control".into()]);
        all.extend(["-kernel".into(), self.kernel.clone().into()]);
        if let Some(initrd) = &self.initrd {
            all.extend(["-initrd".into(), initrd.clone().into()]);
        }
        all.extend(self.arguments.iter().cloned());
        all
    }
}

/// Inside a comma-separated option QEMU takes two commas for one.
pub(crate) fn escape_commas(path: &Path) -> OsString {
    path.to_string_lossy().replace(',', ",,").into()
}

#[cfg(test)]
mod tests {
    use super::{QemuMachine, Serial, escape_commas};
    use crate::qemu::memory::GuestRam;
    use std::path::Path;

    fn machine() -> QemuMachine {
        QemuMachine {
            cpu: "cortex-a76".into(),
            cpus: 4,
            memory_mib: 64,
            kernel: "image".into(),
            initrd: None,
            append: String::new(),
            serial: Serial::Watched,
            arguments: vec!["-device".into(), "edu".into()],
        }
    }

    #[test]
    fn the_arguments_name_the_shared_memory_and_the_callers_devices() {
        let memory = GuestRam::create(64 << 20).unwrap();
        let arguments = machine().arguments(&memory, Path::new("/tmp/m"));
        let line =
            arguments.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        assert!(line.contains(&format!("share=on,mem-path={}", memory.path().display())), "{line}");
        assert!(
            line.contains("iommu=smmuv3") && line.ends_with("-kernel image -device edu"),
            "{line}"
        );
        assert!(line.contains("-global pci-device.romfile= "), "{line}");
        assert!(!line.contains("-append") && !line.contains("-initrd"), "{line}");
    }

    #[test]
    fn a_comma_in_a_path_stays_part_of_the_path() {
        assert_eq!(escape_commas(Path::new("/a,b")), "/a,,b");
    }
}
