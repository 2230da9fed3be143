//! `oche.darts`: one DART is emulated, or none.

use oche_guest_common::CaseReport;
use oche_guest_common::fdt::Tree;

use super::board::{PCIE_0, PCIE_1};
use super::drivers::{linux, not_chosen};

/// With the option `guest=chosen-one`, the first DART is emulated; otherwise none is.
pub(super) fn run(report: &mut CaseReport, tree: &Tree) {
    let has_one = tree.has_option("guest=chosen-one");
    if has_one {
        report.case(format_args!("linux on the DART that is chosen"), linux(PCIE_0));
    } else {
        report.case(format_args!("u-boot on the first DART"), not_chosen(PCIE_0, false));
    }
    report.case(format_args!("u-boot on a DART that is not chosen"), not_chosen(PCIE_1, has_one));
}
