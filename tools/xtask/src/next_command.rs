//! What to do with a trace that was just recorded: the program that reads it, and the next
//! commands.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use oche::progress::Step;
use oche::{command, workspace};

/// Builds `oche`, and returns its path.
///
/// # Errors
///
/// It does not compile.
pub(crate) fn build_oche(step: &Step) -> Result<PathBuf> {
    step.detail("compiling the program that reads traces");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--package", "oche", "--message-format", "json-render-diagnostics"]);
    cargo.current_dir(workspace::root());
    let text = command::text(&mut cargo, "building oche")?;
    let is_binary = |message: &serde_json::Value| {
        message.pointer("/target/name").is_some_and(|name| name == "oche")
    };
    let messages = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    let executable = messages
        .filter(is_binary)
        .filter_map(|message| Some(message.pointer("/executable")?.as_str()?.to_owned()))
        .next_back();
    executable.map(PathBuf::from).ok_or_else(|| anyhow::anyhow!("cargo has built no oche"))
}

/// The commands, a line each, to be pasted into the shell that this program was started from.
pub(crate) fn next_commands(oche: &Path, trace: &Path) -> String {
    let (oche, trace) = (for_shell(oche), for_shell(trace));
    format!(
        "Next, what the devices may reach, since when and by which function:\n  \
         {oche} trace report {trace}   # one page of HTML\n  \
         {oche} trace check {trace}    # DMA errors; see docs/trace-examples.md"
    )
}

/// `path` from the current folder, quoted where a shell needs it.
pub(crate) fn for_shell(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let short = path.strip_prefix(here).unwrap_or(path).to_string_lossy();
    oche::shell::quoted(&short)
}

#[cfg(test)]
mod tests {
    use super::next_commands;
    use std::path::Path;

    #[test]
    fn paths_are_short_and_quoted() {
        let here = std::env::current_dir().unwrap();
        let text = next_commands(&here.join("target/debug/oche"), Path::new("/a b/trace.oche"));
        assert!(text.contains("\n  target/debug/oche trace report '/a b/trace.oche' "), "{text}");
    }
}
