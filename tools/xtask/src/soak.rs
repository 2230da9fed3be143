//! `cargo xtask soak`: random programs on the engine and on the reference for hours, to be stopped
//! and continued.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use oche::workspace;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub(crate) mod hostile;

/// Options of `cargo xtask soak`.
#[derive(Clone, Debug, clap::Args)]
pub struct SoakOptions {
    /// How many operations to run; a program has 1500.
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    pub ops: u64,
    /// The number that all programs come from; the same seed makes the same run [default: the
    /// time].
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Run random hostile sequences instead of programs: registers, queues, and instructions in
    /// QEMU.
    #[arg(long, conflicts_with_all = ["threads", "keep_going", "only"])]
    pub hostile: bool,
    /// Threads to run programs on [default: as many as there are processors].
    #[arg(long, value_name = "T")]
    pub threads: Option<usize>,
    /// Go on with the run that the state file describes, of the same code.
    #[arg(long, conflicts_with = "seed")]
    pub resume: bool,
    /// Go on after a program that fails, and list all that do at the end; `--only` shortens one.
    #[arg(long, conflicts_with = "resume")]
    pub keep_going: bool,
    /// Run only this program of the run, by its number.
    #[arg(long, value_name = "PROGRAM", requires = "seed")]
    pub only: Option<u64>,
    /// Where the state is kept [default: target/soak/state.json, or hostile.json].
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Carries out `cargo xtask soak`.
///
/// # Errors
///
/// A program fails: it has been printed, shortened, as a file for `tests/corpus`; with
/// `--keep-going`, only its number has. Or the run cannot begin or go on.
pub fn main(options: &SoakOptions) -> Result<()> {
    let name = if options.hostile { "hostile.json" } else { "state.json" };
    let path = options.state.clone().unwrap_or_else(|| workspace::target().join("soak").join(name));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_secs());
    let seed = options.seed.unwrap_or(now);
    if options.hostile {
        let state = match options.resume {
            true => hostile::read(&path, &commit()?)?,
            false => hostile::begin(commit()?, seed, options.ops),
        };
        println!("{}", hostile::run(state, &path, options.json)?);
        return Ok(());
    }
    let code = code()?;
    if options.resume {
        check_resumable(&path, &code)?;
    } else {
        let state = json!({
            "commit": commit()?, "code": code, "seed": seed, "wanted": options.ops, "programs": 0, "operations": 0,
            "seconds": 0.0, "keeps_going": options.keep_going, "failures": {}, "counts": {},
        });
        workspace::write_whole(&path, &serde_json::to_vec_pretty(&state)?)?;
    }
    let is_good = run_programs(options, &path)?;
    let state = read(&path)?;
    if options.only.is_none() {
        let result = if options.json { serde_json::to_string(&state)? } else { summary(&state) };
        println!("{result}");
    }
    if !is_good {
        bail!("the run failed");
    }
    Ok(())
}

/// Refuses to go on with a run of other code, and with one that ended at a failure.
fn check_resumable(path: &Path, code: &str) -> Result<()> {
    let state = read(path)?;
    let begun = state.get("code").and_then(Value::as_str).unwrap_or_default();
    if begun != code || code.ends_with("-dirty") {
        bail!("{} is a run of code {begun}, and this is {code}: begin a new run", path.display());
    }
    let keeps_going = state.get("keeps_going").and_then(Value::as_bool) == Some(true);
    if !keeps_going && !failures(&state).is_empty() {
        bail!("{} is a run that has found a failure: begin a new run", path.display());
    }
    Ok(())
}

/// Runs the programs of the state file `path`; returns whether all of them passed.
fn run_programs(options: &SoakOptions, path: &Path) -> Result<bool> {
    let threads = options
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["run", "--quiet", "--profile", "soak"]);
    cargo.args(["--package", "oche-differential", "--bin", "soak", "--"]);
    cargo.current_dir(workspace::root()).arg(std::path::absolute(path)?).arg(threads.to_string());
    if let Some(program) = options.only {
        cargo.arg(program.to_string());
    }
    Ok(cargo.status().context("cannot start cargo")?.success())
}

/// The result in one line.
fn summary(state: &Value) -> String {
    let of = |name: &str| number(state, name).unwrap_or(0);
    let seconds = state.get("seconds").and_then(Value::as_f64).unwrap_or(0.0);
    let is_whole = of("operations") >= of("wanted");
    let what = match &failures(state)[..] {
        [] if is_whole => "no difference".to_owned(),
        [] => "stopped before its end, no difference so far".to_owned(),
        [program] => format!("program {program} fails"),
        several => format!("{} programs fail: {}", several.len(), several.join(", ")),
    };
    let in_mode = |mode: &str| {
        state.pointer(&format!("/counts/{mode}/programs")).and_then(Value::as_u64).unwrap_or(0)
    };
    format!(
        "{} operations in {} programs ({} quiescent, {} concurrent), seed {}, commit {}: \
         {what} ({:.0} s, {:.0} operations a second)",
        of("operations"),
        of("programs"),
        in_mode("quiescent"),
        in_mode("concurrent"),
        of("seed"),
        state.get("commit").and_then(Value::as_str).unwrap_or("unknown"),
        seconds,
        of("operations") as f64 / seconds.max(1.0),
    )
}

/// Numbers of the programs that failed.
fn failures(state: &Value) -> Vec<String> {
    let failures = state.get("failures").and_then(Value::as_object);
    let mut numbers: Vec<String> =
        failures.into_iter().flat_map(|all| all.keys().cloned()).collect();
    numbers.sort_by_key(|number| (number.len(), number.clone()));
    numbers
}

fn number(state: &Value, name: &str) -> Option<u64> {
    state.get(name).and_then(Value::as_u64)
}

fn read(path: &Path) -> Result<Value> {
    let text =
        std::fs::read(path).with_context(|| format!("no run to go on with: {}", path.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is not the state of a run", path.display()))
}

/// The commit that is checked out, and whether files differ from it; `unknown` without version
/// control.
pub(crate) fn commit() -> Result<String> {
    Ok(oche::stamp::commit(&workspace::root()))
}

/// What the programs are run on and by, in twelve digits: commits that differ elsewhere, in
/// documents, tools or drivers, are the same to a run.
fn code() -> Result<String> {
    let git = |arguments: &[&str]| {
        let run =
            Command::new("git").args(arguments).args(CODE).current_dir(workspace::root()).output();
        run.ok().filter(|run| run.status.success()).map(|run| run.stdout)
    };
    let (Some(files), Some(changed)) = (
        git(&["ls-tree", "-r", "--full-tree", "HEAD", "--"]),
        git(&["status", "--porcelain", "--untracked-files=all", "--"]),
    ) else {
        return Ok("unknown".to_owned());
    };
    let digits: String =
        Sha256::digest(&files).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    Ok(if changed.is_empty() { digits } else { format!("{digits}-dirty") })
}

/// The files of [`code`].
const CODE: [&str; 8] = [
    "hyp/types",
    "hyp/host",
    "hyp/engine",
    "hyp/el2/src/stage2.rs",
    "hyp/el2/src/stage2",
    "tests/sim/src",
    "tests/differential/src",
    "tests/reference",
];

#[cfg(test)]
mod tests {
    use super::summary;
    use serde_json::json;

    #[test]
    fn a_result_shows_whether_the_run_was_completed() {
        let mut state = json!({
            "commit": "abc", "seed": 7, "wanted": 3000, "programs": 2, "operations": 3000, "seconds": 2.0,
            "failures": {}, "counts": { "quiescent": { "programs": 2 } },
        });
        assert!(summary(&state).contains("2 programs (2 quiescent, 0 concurrent), seed 7"));
        let end = "commit abc: no difference (2 s, 1500 operations a second)";
        assert!(summary(&state).ends_with(end), "{}", summary(&state));
        state["wanted"] = json!(4000);
        assert!(summary(&state).contains("stopped before its end"));
        state["failures"] = json!({ "2": "a byte" });
        assert!(summary(&state).contains("commit abc: program 2 fails (2 s"));
        state["failures"] = json!({ "10": "a byte", "2": "a byte" });
        assert!(summary(&state).contains("commit abc: 2 programs fail: 2, 10 (2 s"));
    }
}
