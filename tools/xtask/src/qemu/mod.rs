//! QEMU as a child: started with memory that the runner can read, watched line by line, always
//! reaped.

mod console;
mod machine;
mod memory;
mod monitor;
mod outcome;
pub(crate) mod plugin;
mod process;
pub mod smmu;

pub use console::ConsoleLine;
pub(crate) use machine::escape_commas;
pub use machine::{OLDEST, PROGRAM, QemuMachine, Serial};
pub use memory::{GuestRam, RAM_BASE};
pub use monitor::Monitor;
pub use outcome::RunEnding;
pub use process::{Running, Wish};
pub(crate) use process::{launcher, version};
