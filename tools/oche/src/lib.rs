//! The `oche` command's parts: views of a trace, packing of images, and the probe.

// `println!` panics when the reader of a pipe has gone: commands use `output::to_standard_output`.
#![cfg_attr(not(test), deny(clippy::print_stdout))]

/// Prints a line for the person at the terminal, on standard error. A failure to write it is
/// ignored.
#[macro_export]
macro_rules! message {
    () => {
        $crate::message!("")
    };
    ($($words:tt)*) => {{
        use std::io::Write as _;
        // One write: lines of two programs do not mix.
        let line = format!($($words)*) + "\n";
        let _ = std::io::stderr().write_all(line.as_bytes());
    }};
}

pub mod cli;
pub mod command;
pub mod decode_panic;
pub mod destination;
pub mod el2;
pub mod embedded;
pub mod environment;
pub mod image_source;
pub mod inspect;
pub mod install;
pub mod kernel_check;
pub mod linked_image;
pub mod needs;
pub mod output;
pub mod pack;
pub mod probe;
pub mod progress;
pub mod schema;
pub mod shell;
pub mod source_paths;
pub mod stamp;
pub mod trace;
pub mod version;
pub mod workspace;
