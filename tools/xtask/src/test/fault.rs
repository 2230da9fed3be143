//! A device reads and writes where nothing is mapped: the stock driver must name the stream, the
//! IOVA and the code.

use anyhow::{Result, bail};
use oche::el2::Toolchain;
use oche::progress::Step;
use oche::trace;

use super::stock::{self, StockGuest};

/// The guest's script.
const SCRIPT: &str = include_str!("fault.sh");

/// The device's stream on DART 0.
const STREAM: u8 = 6;

/// Boots the guest, and compares what its kernel logs with what the device was asked to do.
///
/// # Errors
///
/// The driver does not report a fault, reports it wrongly, or a run cannot be made.
pub(super) fn run(toolchain: Toolchain, step: &Step) -> Result<String> {
    let folder = stock::folder("fault")?;
    let map = format!("0x40:0:{STREAM}");
    let guest = StockGuest {
        folder: &folder,
        script: SCRIPT,
        modules: &["pci-stub"],
        driver: None,
        options: &[("oche.iommu-map", &map)],
        cpus: 2,
        devices: ["-device", "edu,addr=8,dma_mask=0xffffffff"].map(Into::into).into(),
    };
    let boot = guest.boot(toolchain, None, step)?;
    let reported = judge(boot.lines())?;
    let counted = trace::read_statistics(&boot.ram())?
        .into_iter()
        .find(|(name, _)| name == "faults")
        .map_or(0, |(_, n)| n);
    if counted < reported as u64 {
        bail!("the driver reported {reported} faults and Oche counted {counted}");
    }
    Ok(format!(
        "{reported} faults reported by the stock driver, each with its stream, IOVA and code"
    ))
}

/// A fault as the driver reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ReportedFault {
    stream: u8,
    code: u32,
    iova: u64,
}

/// Checks that each access that was asked for is reported, by its own stream, a code for an IOVA
/// that nothing is mapped at, and the IOVA. Gives how many there were.
fn judge(lines: &[String]) -> Result<usize> {
    if let Some(error) = lines.iter().find_map(|line| line.strip_prefix("fault: error ")) {
        bail!("the guest could not ask the device: {error}");
    }
    let asked: Vec<u64> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("fault: asked 0x"))
        .filter_map(|rest| u64::from_str_radix(rest.split(' ').next()?, 16).ok())
        .collect();
    if asked.len() != 2 {
        bail!("the guest asked for {} accesses instead of 2", asked.len());
    }
    let reported: Vec<ReportedFault> = lines.iter().filter_map(|line| parse_fault(line)).collect();
    for iova in &asked {
        let Some(fault) = reported.iter().find(|fault| fault.iova & !63 == *iova) else {
            bail!("the driver reported no fault at {iova:#x}; it reported {reported:?}");
        };
        // Bits 0 to 2: no table, no first-level entry, no leaf. Source: Linux `apple-dart.c`, the
        // fault's codes.
        if fault.stream != STREAM || fault.code == 0 || fault.code & !7 != 0 {
            bail!("the driver reported the fault at {iova:#x} as {fault:?}");
        }
    }
    Ok(asked.len())
}

/// Understands `translation fault: status:0x86000002 stream:6 code:0x2 (NO DTE FOR IOVA) at
/// 0xabcd000`.
fn parse_fault(line: &str) -> Option<ReportedFault> {
    let (_, rest) = line.split_once("translation fault: status:")?;
    let after = |name: &str| {
        let (_, value) = rest.split_once(name)?;
        value.split([' ', ')']).next()
    };
    let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    Some(ReportedFault {
        stream: after("stream:")?.parse().ok()?,
        code: u32::try_from(number(after("code:")?)?).ok()?,
        iova: number(rest.rsplit_once(" at ")?.1.trim())?,
    })
}

#[cfg(test)]
mod tests {
    use super::{ReportedFault, judge, parse_fault};

    const READ: &str = "[    4.1] apple-dart 9100000.iommu: translation fault: status:0x86000002 stream:6 code:0x2 (NO DTE \
                        FOR IOVA) at 0xabcd000";
    const WRITE: &str = "[    6.1] apple-dart 9100000.iommu: translation fault: status:0x86000004 stream:6 code:0x4 (NO PTE \
                         FOR IOVA) at 0x123f03c";

    fn lines(reported: &[&str]) -> Vec<String> {
        let asked = ["fault: asked 0x0abcd000 read", "fault: asked 0x0123f000 write"];
        asked.iter().chain(reported).map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn a_fault_line_is_understood() {
        assert_eq!(parse_fault(READ), Some(ReportedFault { stream: 6, code: 2, iova: 0xabc_d000 }));
        assert_eq!(
            parse_fault("[    4.1] apple-dart 9100000.iommu: DART [pagesize 1000, 16 streams"),
            None
        );
    }

    #[test]
    fn both_faults_must_be_reported_with_the_right_stream_and_place() {
        assert_eq!(judge(&lines(&[READ, WRITE])).unwrap(), 2);
        assert!(judge(&lines(&[READ])).is_err(), "one is missing");
        assert!(
            judge(&lines(&[READ, &WRITE.replace("stream:6", "stream:5")])).is_err(),
            "another stream"
        );
        assert!(
            judge(&lines(&[READ, &WRITE.replace("at 0x123f03c", "at 0x123e03c")])).is_err(),
            "another IOVA"
        );
        assert!(
            judge(&lines(&[READ, &WRITE.replace("code:0x4", "code:0x8")])).is_err(),
            "another code"
        );
        assert!(judge(&[lines(&[READ, WRITE]), vec!["fault: error x".into()]].concat()).is_err());
    }
}
