//! The options of `cargo xtask nightly`.

/// Options of `cargo xtask nightly`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Results are kept in target/nightly/results.json and what each step printed in target/nightly/*.log.
A step that cannot run on this machine is listed as not run, with the reason, and the command fails
unless --allow-skips is given.")]
pub struct NightlyOptions {
    /// Run only steps whose name contains WORD, in any case; may be repeated
    #[arg(long, value_name = "WORD")]
    pub only: Vec<String>,
    /// List the steps' names and run none
    #[arg(long)]
    pub list: bool,
    /// Continue after a step that failed
    #[arg(long)]
    pub keep_going: bool,
    /// Leave out the steps that passed before on the same commit, and continue the runs of mutants
    /// and the soak runs
    #[arg(long)]
    pub resume: bool,
    /// Do not fail because of steps that cannot run on this machine
    #[arg(long)]
    pub allow_skips: bool,
    /// Operations of the soak run; the hostile sequences get a hundredth
    #[arg(long, value_name = "N", default_value_t = 100_000_000)]
    pub ops: u64,
    /// Damaged trace files to read
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub inputs: u64,
    /// In the fresh clone, run only the steps of `cargo xtask test` whose name contains WORD
    #[arg(long, value_name = "WORD")]
    pub test_only: Vec<String>,
    /// Apply only the seeded faults, and take away only the sites, whose name contains WORD
    #[arg(long, value_name = "WORD")]
    pub mutants_only: Vec<String>,
}
