//! The options of `cargo xtask demo`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use oche::workspace;

use super::disks::Sizes;
use crate::guest::kernel::KernelOptions;

/// The board that the demo runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DemoBoard {
    /// QEMU's virt machine: an SMMUv3 for the DARTs, real drivers and devices.
    QemuVirt,
    /// An M1 that this process simulates around QEMU's CPUs: strict DARTs, UART, framebuffer, the
    /// way m1n1 enters.
    M1Sim,
}

/// Options of `cargo xtask demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoOptions {
    /// The board: QEMU's virt machine with real devices, or a simulated M1 with the image that a
    /// Mac would get.
    #[arg(long, value_enum, default_value_t = DemoBoard::QemuVirt)]
    pub board: DemoBoard,
    /// Move less data; for tests.
    #[arg(long)]
    pub short: bool,
    /// Build Oche so that it misplaces pages. The digests must notice: the run is good if they do.
    #[arg(long, conflicts_with = "without_oche")]
    pub break_placement: bool,
    /// Build Oche with the trace compiled out: the same must happen, unrecorded.
    #[arg(long, conflicts_with_all = ["without_oche", "break_placement"])]
    pub without_trace: bool,
    /// Boot the same guest straight on QEMU, with no Oche and no DART: separates the guest's
    /// trouble from Oche's.
    #[arg(long)]
    pub without_oche: bool,
    /// Leave out the boot of the same guest on QEMU's SMMUv3 without Oche, and so how many times
    /// as long as natively each transfer takes on Oche.
    #[arg(long)]
    pub without_native: bool,
    /// How often to boot; every run must end well.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,
    /// CPU model, as QEMU names it.
    #[arg(long, default_value = "cortex-a76")]
    pub cpu: String,
    /// Number of CPUs.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub cpus: u32,
    /// Memory of the machine in MiB, Oche's part included.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(768..=65536))]
    pub memory: u64,
    /// The kernel.
    #[command(flatten)]
    pub kernel: KernelOptions,
    /// An option for Oche, NAME=VALUE, such as oche.pool=64M or oche.log=debug; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub option: Vec<String>,
    /// More words for the guest's command line; may be repeated.
    #[arg(long, value_name = "WORDS")]
    pub append: Vec<String>,
    /// Give up after so many seconds of one boot.
    #[arg(long, default_value_t = 420)]
    pub limit: u64,
    /// Where results go; target/demo, or target/demo-m1 for the simulated M1, and for each variant
    /// a folder of its own, such as target/demo-newest-short.
    #[arg(long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
    /// More arguments for QEMU, behind `--`.
    #[arg(last = true, value_name = "QEMU ARGUMENTS")]
    pub qemu: Vec<std::ffi::OsString>,
}

impl DemoOptions {
    /// The options of an empty command line.
    #[must_use]
    pub fn usual() -> Self {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            options: DemoOptions,
        }
        <Alone as clap::Parser>::parse_from(["demo"]).options
    }

    /// Whether the guest is booted natively as well.
    #[must_use]
    pub fn has_native(&self) -> bool {
        !self.without_native && !self.without_oche && !self.break_placement
    }

    /// Sizes of disks and files.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        if self.short { Sizes::SHORT } else { Sizes::FULL }
    }

    /// Whether the runs leave a trace that is worth a look.
    #[must_use]
    pub fn is_traced(&self) -> bool {
        !self.without_trace && !self.without_oche && !self.break_placement
    }

    /// Where results go: each variant has a folder of its own.
    #[must_use]
    pub fn output(&self) -> PathBuf {
        let mut usual = match self.board {
            DemoBoard::QemuVirt => "demo".to_owned(),
            DemoBoard::M1Sim => "demo-m1".to_owned(),
        };
        let variants = [
            (self.short, "short"),
            (self.break_placement, "broken"),
            (self.without_trace, "without-trace"),
            (self.without_oche, "without-oche"),
        ];
        let kernel = self.kernel.variant();
        let names = variants.into_iter().filter_map(|(is_it, name)| is_it.then_some(name));
        for name in kernel.as_deref().into_iter().chain(names) {
            usual.push('-');
            usual.push_str(name);
        }
        self.output.clone().unwrap_or_else(|| workspace::target().join(usual))
    }
}

/// Takes `oche.NAME=VALUE` apart.
pub(crate) fn parse_option(option: &str) -> Result<(String, String)> {
    let (name, value) =
        option.split_once('=').with_context(|| format!("{option} is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{DemoBoard, DemoOptions, parse_option};

    #[test]
    fn options_for_oche_are_taken_apart_at_the_first_equals_sign() {
        let option = parse_option("oche.bootargs=a=b").unwrap();
        assert_eq!(option, ("oche.bootargs".to_owned(), "a=b".to_owned()));
        assert!(parse_option("oche.pool").is_err());
    }

    #[test]
    fn an_empty_command_line_means_the_whole_demo_once() {
        let options = DemoOptions::usual();
        assert!(!options.short && !options.break_placement && options.repeat == 1);
        assert!(options.has_native());
        assert!(options.output().ends_with("target/demo"));
        let output = |change: fn(&mut DemoOptions)| {
            let mut options = DemoOptions::usual();
            change(&mut options);
            options.output().file_name().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(output(|it| it.board = DemoBoard::M1Sim), "demo-m1");
        assert_eq!(output(|it| (it.short, it.break_placement) = (true, true)), "demo-short-broken");
        let newest = |it: &mut DemoOptions| {
            it.kernel.kernel_series = crate::guest::kernel::KernelSeries::Newest;
        };
        assert_eq!(output(newest), "demo-newest");
        assert_eq!(
            output(|it| it.kernel.suite = Some("bookworm-backports".into())),
            "demo-bookworm-backports"
        );
    }
}
