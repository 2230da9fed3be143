//! A page that CPUs use while it has copies for a device.

use oche_guest_common::Pages;

use super::edu::STREAM;
use super::mapping::{self, Rights};

/// The page.
pub(super) static DATA: Pages<1> = Pages::new();
/// IOVA pages in different slots, so that the page has copies.
const IOVAS: [usize; 2] = [0x11, 0x16];

/// Maps the page at both IOVAs with `rights`, or unmaps it.
pub(super) fn map(rights: Option<Rights>) {
    for iova in IOVAS {
        mapping::set(STREAM, iova, rights.map(|rights| (DATA.address(), rights)));
    }
}
