//! The file: m1n1 itself, and the payloads behind it.

use anyhow::{Result, bail};
use schemars::JsonSchema;
use serde::Serialize;

use super::payload::{self, End, Payload};

/// The last eight bytes of m1n1's own file: its stack's end, behind which payloads begin.
pub(super) const STACK_END: &[u8] = b"STACKBOT";
/// What m1n1's sections are aligned to, in bytes.
pub(super) const SECTION_ALIGNMENT: usize = 0x4000;
/// The text before m1n1's version.
const VERSION_MARK: &[u8] = b"##m1n1_ver##";
/// The most bytes of a version that are shown.
const VERSION_BYTES: usize = 64;

/// A boot file, as m1n1 reads it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BootFile {
    /// m1n1's version, if it names one.
    pub version: Option<String>,
    /// Bytes of m1n1 itself: payloads begin behind them.
    pub m1n1_bytes: u64,
    /// The payloads that m1n1 reaches, in order.
    pub payloads: Vec<Payload>,
    /// Why m1n1 reaches no more.
    pub end: End,
}

impl BootFile {
    /// Reads the bytes of a boot file. `None`: m1n1 is not at its beginning.
    ///
    /// # Errors
    ///
    /// m1n1 is in it without the end of its stack: the file is cut short, or of another build.
    pub fn read(file: &[u8]) -> Result<Option<Self>> {
        let Some(mark) = find(file, VERSION_MARK) else { return Ok(None) };
        let Some(start) = start_of_payloads(file) else {
            bail!("m1n1 is in it, but not where its payloads begin: it is cut short");
        };
        if start < mark {
            return Ok(None);
        }
        let version = file
            .get(mark + VERSION_MARK.len()..)
            .unwrap_or_default()
            .iter()
            .take(VERSION_BYTES)
            .take_while(|byte| byte.is_ascii_graphic());
        let version: String = version.map(|byte| char::from(*byte)).collect();
        let (payloads, end) = payload::walk(file, start);
        Ok(Some(Self {
            version: (!version.is_empty()).then_some(version),
            m1n1_bytes: start as u64,
            payloads,
            end,
        }))
    }
}

/// The offset behind m1n1's own bytes.
fn start_of_payloads(file: &[u8]) -> Option<usize> {
    let ends = (SECTION_ALIGNMENT..=file.len()).step_by(SECTION_ALIGNMENT);
    ends.into_iter().find(|end| file.get(end - STACK_END.len()..*end) == Some(STACK_END))
}

fn find(file: &[u8], what: &[u8]) -> Option<usize> {
    file.windows(what.len()).position(|bytes| bytes == what)
}
