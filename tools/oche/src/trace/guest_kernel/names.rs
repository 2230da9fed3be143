//! What is read of a kernel.

/// What a kernel calls its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelNames {
    /// The kernel's banner: `Linux version 6.12...`, in plain text.
    pub release: String,
    /// Its functions and its modules', by address.
    pub functions: Vec<Function>,
    /// Its devices.
    pub devices: Vec<Device>,
    /// What is not known, why, and the remedy: a line each.
    pub missing: Vec<String>,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function {
    /// Its virtual address.
    pub address: u64,
    /// Its name, as /proc/kallsyms has it.
    pub name: String,
    /// The module that it is of; none: the kernel itself.
    pub module: Option<String>,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Its name, as in /sys/devices.
    pub name: String,
    /// The name of the driver that is bound to it.
    pub driver: Option<String>,
}

/// Whether a symbol of this type, as `nm` has it, is code.
pub(super) fn is_function(kind: u8) -> bool {
    matches!(kind, b't' | b'T' | b'w' | b'W')
}
