//! Programs as files: [`CorpusProgram`] is one, and `tests/corpus/README.md` describes the format.

use crate::program::{Program, Setting, Step};
use serde::{Deserialize, Serialize};
use std::fmt::{Display, Formatter};

/// A program with the reason why it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusProgram {
    /// What the program shows, or what differed.
    pub why: String,
    /// The machine.
    pub setting: Setting,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

impl CorpusProgram {
    /// `program`, kept because of `why`.
    pub fn new(why: String, program: Program) -> Self {
        let Program { setting, steps } = program;
        Self { why, setting, steps }
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    ///
    /// The text is not JSON, or a field is missing, unknown or of another type.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The program alone.
    pub fn into_program(self) -> Program {
        Program { setting: self.setting, steps: self.steps }
    }
}

/// The text of the program's file, with a line for each step.
impl Display for CorpusProgram {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        fn json(value: &impl Serialize) -> Result<String, std::fmt::Error> {
            serde_json::to_string(value).map_err(|_| std::fmt::Error)
        }
        writeln!(f, "{{\n  \"why\": {},", json(&self.why)?)?;
        write!(f, "  \"setting\": {},\n  \"steps\": [", json(&self.setting)?)?;
        for (number, step) in self.steps.iter().enumerate() {
            let separator = if number == 0 { "" } else { "," };
            write!(f, "{separator}\n    {}", json(step)?)?;
        }
        writeln!(f, "\n  ]\n}}")
    }
}

#[cfg(test)]
mod tests {
    use super::CorpusProgram;
    use crate::program::Mode;
    use crate::program::generate::{Kind, generate};

    #[test]
    fn a_program_is_read_as_it_was_written() {
        for kind in [Kind::Driver, Kind::Scarce, Kind::Sloppy, Kind::Hostile, Kind::Failing] {
            let written =
                CorpusProgram::new("\"why\"".to_owned(), generate(7, kind, Mode::Concurrent, 1500));
            assert_eq!(CorpusProgram::parse(&written.to_string()).unwrap(), written);
        }
    }

    #[test]
    fn an_unknown_field_is_an_error() {
        let text = CorpusProgram::new(String::new(), generate(1, Kind::Driver, Mode::Quiescent, 3))
            .to_string();
        assert!(CorpusProgram::parse(&text).is_ok());
        let unknown = text.replacen("\"setting\"", "\"size\": 1, \"setting\"", 1);
        assert!(CorpusProgram::parse(&unknown).is_err());
    }
}
