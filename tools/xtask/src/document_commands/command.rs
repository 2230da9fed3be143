//! A command that a document names.

/// A command of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DocumentCommand {
    /// The document, from the top folder.
    pub(crate) document: String,
    /// The line on which the command begins.
    pub(crate) line: usize,
    pub(crate) program: Program,
    /// The arguments.
    pub(crate) arguments: Vec<String>,
    /// Whether it stands in a code block and is complete. A code span in prose may name a command
    /// without its arguments.
    pub(crate) is_complete: bool,
}

/// The programs whose commands are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Xtask,
    Oche,
    CargoTest,
}

impl Program {
    /// The start of its commands; the longer of two that begin alike comes first.
    pub(super) const PREFIXES: [(&'static [&'static str], Self); 4] = [
        (&["cargo", "xtask"], Self::Xtask),
        (&["cargo", "run", "-p", "oche", "--"], Self::Oche),
        (&["cargo", "test"], Self::CargoTest),
        (&["oche"], Self::Oche),
    ];
}

impl std::fmt::Display for DocumentCommand {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let program = match self.program {
            Program::Xtask => "cargo xtask",
            Program::Oche => "oche",
            Program::CargoTest => "cargo test",
        };
        let Self { document, line, arguments, .. } = self;
        write!(formatter, "{document}:{line}: {program} {}", arguments.join(" "))
    }
}
