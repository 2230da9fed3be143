//! The driver against simulated DARTs.

mod bench;
mod fault;
mod flush;
mod idle;
mod power;
mod takeover;

use oche_engine::host::{DomainId, Iommu};
use oche_types::addr::HostGranule;
use oche_types::dart::registers::PARAMS1;
use oche_types::dart::stream::{DartId, Members, StreamId};

use super::DartDriver;
use crate::ownership::{DartAccess, Takeover};
use bench::{Bench, DEVICE};

fn dart(index: usize) -> DartId {
    DartId::new(index).expect("a test names DARTs that exist")
}

fn stream(index: usize) -> StreamId {
    StreamId::new(index).expect("a test names streams that exist")
}

/// The access with which the guest asks for 4K pages.
fn read_page_size() -> DartAccess {
    DartAccess { dart: dart(0), offset: PARAMS1, bytes: 4, write: None }
}

const ROOT: HostGranule = HostGranule((0x8_1000_0000_u64 >> 14) as u32);

fn taken(count: usize) -> (Bench, DartDriver<Bench>) {
    let bench = Bench::of(count);
    let mut darts = DartDriver::new(bench.clone(), count, true);
    for index in 0..count {
        assert_eq!(darts.take_over(dart(index)), Ok(()));
    }
    (bench, darts)
}

/// A DART whose device has cached an entry.
fn used() -> (Bench, DartDriver<Bench>, Members) {
    let (bench, mut darts) = taken(1);
    bench.store_entry(1);
    assert_eq!(darts.attach(dart(0), stream(DEVICE), DomainId(0), ROOT), Ok(()));
    assert_eq!(bench.device_reads(0), Some((TTBR_OF_ROOT, 1)));
    let mut members = Members::default();
    members.insert(dart(0), stream(DEVICE));
    (bench, darts, members)
}

const TTBR_OF_ROOT: u32 = 0x8081_0000;

const OTHER_ROOT: HostGranule = HostGranule(ROOT.0 + 1);

const TTBR_OF_OTHER_ROOT: u32 = 0x8081_0004;
