//! Tests of the driver with a thread that models the SMMU: queues, acknowledgements, errors.

use std::boxed::Box;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::vec::Vec;

use super::*;
use crate::iommu_map::{Choice, RequesterId};

/// Offsets from IHI 0070, 6.1, independent of the driver.
const IDR0: usize = 0x00;
const IDR1: usize = 0x04;
const IDR5: usize = 0x14;
const CR0: usize = 0x20;
const CR0ACK: usize = 0x24;
const GBPA: usize = 0x44;
const IRQ_CTRL: usize = 0x50;
const IRQ_CTRLACK: usize = 0x54;
const GERROR: usize = 0x60;
const GERRORN: usize = 0x64;
const STRTAB_BASE: usize = 0x80;
const CMDQ_BASE: usize = 0x90;
const CMDQ_PROD: usize = 0x98;
const CMDQ_CONS: usize = 0x9c;
const EVENTQ_BASE: usize = 0xa0;
const EVENTQ_PROD: usize = 0x1_00a8;
const EVENTQ_CONS: usize = 0x1_00ac;

const COMMAND_SYNC: u8 = 0x46;

/// An SMMU's registers as plain memory, and a thread that behaves as the SMMU would.
struct Played {
    registers: &'static [AtomicU64],
    /// Commands in the order in which they were consumed.
    commands: Arc<Mutex<Vec<[u64; 2]>>>,
    stops: Arc<AtomicBool>,
    /// The opcode of commands that it rejects, or 0 for none.
    refused: Arc<AtomicU32>,
    player: Option<JoinHandle<()>>,
}

/// A fault of the modelled SMMU.
#[derive(Clone, Copy, Default)]
struct Faults {
    /// It consumes no commands.
    is_deaf: bool,
    /// It rejects commands with this opcode.
    refuses: Option<u8>,
}

fn register(registers: &[AtomicU64], offset: usize) -> &AtomicU32 {
    let word = registers[offset / 8].as_ptr().cast::<u32>().wrapping_add(offset % 8 / 4);
    // SAFETY: inside the word, aligned, and the memory lives for ever.
    unsafe { AtomicU32::from_ptr(word) }
}

impl Played {
    /// QEMU 7.2's identification: IDR0 and IDR5 as its `hw/arm/smmuv3.c` sets them.
    fn new(faults: Faults) -> Self {
        let registers: Box<[AtomicU64]> = (0..0x2_0000 / 8).map(|_| AtomicU64::new(0)).collect();
        let registers: &'static [AtomicU64] = Box::leak(registers);
        register(registers, IDR0).store(0x0d40_101a, Ordering::SeqCst);
        register(registers, IDR1).store(19 << 21 | 19 << 16 | 16, Ordering::SeqCst);
        register(registers, IDR5).store(0x74, Ordering::SeqCst);
        let commands = Arc::new(Mutex::new(Vec::new()));
        let stops = Arc::new(AtomicBool::new(false));
        let (log, stop) = (commands.clone(), stops.clone());
        let refused = Arc::new(AtomicU32::new(faults.refuses.map_or(0, u32::from)));
        let refuses = refused.clone();
        let player = std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let refuses =
                    Some(refuses.load(Ordering::SeqCst) as u8).filter(|opcode| *opcode != 0);
                play(registers, Faults { refuses, ..faults }, &log);
                std::thread::yield_now();
            }
        });
        Self { registers, commands, stops, refused, player: Some(player) }
    }

    fn driver(&self) -> Registers {
        // SAFETY: the memory is as large as the registers, aligned, and only the player uses it
        // besides.
        unsafe { Registers::at(self.registers.as_ptr().expose_provenance()) }
    }

    fn smmu(&self, map: &str) -> Smmu {
        let choice = Choice::parse(map).expect("it is good");
        Smmu::new(self.driver(), IommuMap::of(&choice), 32).expect("it obeys")
    }

    fn refuse(&self, opcode: u8) {
        self.refused.store(u32::from(opcode), Ordering::SeqCst);
    }

    fn read(&self, offset: usize) -> u32 {
        register(self.registers, offset).load(Ordering::SeqCst)
    }

    fn base(&self, offset: usize) -> u64 {
        self.registers[offset / 8].load(Ordering::SeqCst) & 0xf_ffff_ffff_ffe0
    }

    /// Commands since the last call, by opcode, without the syncs.
    fn take_commands(&self) -> Vec<[u64; 2]> {
        let mut commands = self.commands.lock().unwrap();
        core::mem::take(&mut *commands)
            .into_iter()
            .filter(|words| words[0] as u8 != COMMAND_SYNC)
            .collect()
    }

    /// Records `event` as the SMMU does. Returns whether there was room.
    fn raise(&self, event: [u64; 4]) -> bool {
        let size = 1 << (self.registers[EVENTQ_BASE / 8].load(Ordering::SeqCst) & 0x1f);
        let (produced, consumed) = (self.read(EVENTQ_PROD), self.read(EVENTQ_CONS));
        let mask = 2 * size - 1;
        if (produced & mask) ^ (consumed & mask) == size {
            // The overflow flag differs from its acknowledgement until that follows.
            let flagged = (!consumed & 1 << 31) | produced & mask;
            register(self.registers, EVENTQ_PROD).store(flagged, Ordering::SeqCst);
            return false;
        }
        for (index, word) in event.into_iter().enumerate() {
            let at =
                self.base(EVENTQ_BASE) + u64::from(produced & (size - 1)) * 32 + index as u64 * 8;
            memory(at).store(word, Ordering::SeqCst);
        }
        let next = produced & 1 << 31 | (produced + 1) & mask;
        register(self.registers, EVENTQ_PROD).store(next, Ordering::SeqCst);
        true
    }

    /// The words of the context of `requester`, found as the hardware finds it, or `None` if its
    /// accesses abort or it is not known.
    fn context_of(&self, requester: u16) -> Option<[u64; 8]> {
        let bus =
            memory(self.base(STRTAB_BASE) + u64::from(requester >> 8) * 8).load(Ordering::SeqCst);
        if bus & 0x1f == 0 {
            return None;
        }
        assert_eq!(bus & 0x1f, 9, "a table of 256 entries");
        let entry = (bus & !0x1f) + u64::from(requester & 0xff) * 64;
        let first = memory(entry).load(Ordering::SeqCst);
        assert_eq!(first & 1, 1, "every entry of a known bus is valid");
        match first >> 1 & 0b111 {
            0b000 => None,
            0b101 => {
                let context = first & 0xf_ffff_ffff_ffc0;
                Some(core::array::from_fn(|word| {
                    memory(context + word as u64 * 8).load(Ordering::SeqCst)
                }))
            }
            other => panic!("Config {other:#b}"),
        }
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::SeqCst);
        if let Some(player) = self.player.take() {
            player.join().unwrap();
        }
    }
}

fn memory(address: u64) -> &'static AtomicU64 {
    let pointer = core::ptr::with_exposed_provenance::<AtomicU64>(address as usize);
    // SAFETY: the driver's blocks live for ever, and the tests ask for aligned words in them only.
    unsafe { &*pointer }
}

/// One round of the modelled SMMU.
fn play(registers: &[AtomicU64], faults: Faults, log: &Mutex<Vec<[u64; 2]>>) {
    let at = |offset| register(registers, offset);
    for (control, acknowledge) in [(CR0, CR0ACK), (IRQ_CTRL, IRQ_CTRLACK)] {
        at(acknowledge).store(at(control).load(Ordering::SeqCst), Ordering::SeqCst);
    }
    at(GBPA).fetch_and(!(1 << 31), Ordering::SeqCst);
    let is_stopped =
        (at(GERROR).load(Ordering::SeqCst) ^ at(GERRORN).load(Ordering::SeqCst)) & 1 != 0;
    if faults.is_deaf || is_stopped || at(CR0).load(Ordering::SeqCst) & 1 << 3 == 0 {
        return;
    }
    let base = registers[CMDQ_BASE / 8].load(Ordering::SeqCst);
    let size = 1_u32 << (base & 0x1f);
    let consumed = at(CMDQ_CONS).load(Ordering::SeqCst) & 0xf_ffff;
    if consumed == at(CMDQ_PROD).load(Ordering::SeqCst) {
        return;
    }
    let entry = (base & 0xf_ffff_ffff_ffe0) + u64::from(consumed & (size - 1)) * 16;
    let words = [memory(entry).load(Ordering::SeqCst), memory(entry + 8).load(Ordering::SeqCst)];
    if faults.refuses == Some(words[0] as u8) {
        at(CMDQ_CONS).store(1 << 24 | consumed, Ordering::SeqCst);
        at(GERROR).fetch_xor(1, Ordering::SeqCst);
        return;
    }
    log.lock().unwrap().push(words);
    at(CMDQ_CONS).store((consumed + 1) & (2 * size - 1), Ordering::SeqCst);
}

fn place(dart: usize, stream: usize) -> (DartId, StreamId) {
    (DartId::new(dart).unwrap(), StreamId::new(stream).unwrap())
}

const ROOT: HostGranule = HostGranule(0x1_2345);

#[test]
fn it_comes_up_with_every_known_requester_in_the_void_and_every_other_aborting() {
    let played = Played::new(Faults::default());
    let smmu = played.smmu("0x08:0:1,0x110:0:2");
    assert_eq!(played.read(CR0), 0b1101, "events, commands and translation enabled");
    assert_eq!(played.read(IRQ_CTRL), 0b100, "the event queue's interrupt alone");
    let blocking = smmu.layout().blocking;
    for requester in [0x08, 0x110] {
        let context = played.context_of(requester).expect("it translates");
        assert_eq!(context[1], blocking, "through the blocking context");
    }
    assert_eq!(played.context_of(0x09), None);
    assert_eq!(played.context_of(0x200), None);
}

#[test]
fn an_smmu_without_a_16k_granule_or_coherence_is_refused() {
    let played = Played::new(Faults::default());
    register(played.registers, IDR5).store(0x54, Ordering::SeqCst);
    let map = || IommuMap::of(&Choice::default());
    let refused = |smmu: Result<Smmu, Unsupported>| smmu.err();
    assert_eq!(refused(Smmu::new(played.driver(), map(), 32)), Some(Unsupported::No16KiBGranule));
    register(played.registers, IDR5).store(0x74, Ordering::SeqCst);
    register(played.registers, IDR0).store(0x0d40_100a, Ordering::SeqCst);
    assert_eq!(refused(Smmu::new(played.driver(), map(), 32)), Some(Unsupported::NotCoherent));
    assert_eq!(played.read(CR0), 0, "it was not touched");
}

#[test]
fn attaching_moves_every_requester_of_the_stream_and_blocking_takes_all_back() {
    let played = Played::new(Faults::default());
    let mut smmu = played.smmu("0x10:0:2,0x11:0:2,0x18:0:3");
    played.take_commands();
    let (dart, stream) = place(0, 2);
    assert_eq!(smmu.attach(dart, stream, DomainId(4), ROOT), Ok(()));
    for requester in [0x10, 0x11] {
        let context = played.context_of(requester).expect("it translates");
        assert_eq!((context[1], context[0] >> 48), (ROOT.address(), 5), "root and ASID");
    }
    assert_eq!(played.context_of(0x18).expect("it translates")[1], smmu.layout().blocking);
    let forgets =
        [Command::ForgetEntry(RequesterId(0x10)), Command::ForgetEntry(RequesterId(0x11))];
    let commands = played.take_commands();
    assert!(forgets.iter().all(|forget| commands.contains(&forget.words())), "{commands:x?}");

    smmu.block(dart, stream);
    for requester in [0x10, 0x11] {
        assert_eq!(played.context_of(requester).expect("it translates")[1], smmu.layout().blocking);
    }
    let commands = played.take_commands();
    assert!(forgets.iter().all(|forget| commands.contains(&forget.words())), "{commands:x?}");
    assert!(
        commands.contains(&Command::DropTranslations(structures::Asid(5)).words()),
        "{commands:x?}"
    );
}

#[test]
fn a_domain_that_gets_another_root_takes_it_to_all_its_streams() {
    let played = Played::new(Faults::default());
    let mut smmu = played.smmu("0x10:0:2,0x18:0:3");
    let ((dart, first), (_, second)) = (place(0, 2), place(0, 3));
    assert_eq!(smmu.attach(dart, first, DomainId(0), ROOT), Ok(()));
    played.take_commands();
    assert_eq!(smmu.attach(dart, second, DomainId(0), HostGranule(7)), Ok(()));
    for requester in [0x10, 0x18] {
        assert_eq!(
            played.context_of(requester).expect("it translates")[1],
            HostGranule(7).address()
        );
    }
    let commands = played.take_commands();
    assert!(commands.contains(&Command::ForgetContext(RequesterId(0x10)).words()), "{commands:x?}");
    assert!(
        commands.contains(&Command::DropTranslations(structures::Asid(1)).words()),
        "{commands:x?}"
    );
}

#[test]
fn invalidating_drops_the_domain_and_nothing_else_through_many_wraps_of_the_queue() {
    let played = Played::new(Faults::default());
    let mut smmu = played.smmu("0x10:0:2");
    played.take_commands();
    for _ in 0..700 {
        assert_eq!(smmu.invalidate(DomainId(9), &Members::default()), Ok(()));
    }
    let drop = Command::DropTranslations(structures::Asid(10)).words();
    assert_eq!(played.take_commands(), [drop; 700]);
}

#[test]
fn a_refused_command_is_reported_and_the_next_one_works() {
    let faults = Faults { refuses: Some(0x11), ..Faults::default() };
    let played = Played::new(faults);
    let mut smmu = played.smmu("0x10:0:2");
    assert_eq!(smmu.invalidate(DomainId(0), &Members::default()), Err(InvalidateTimedOut));
    assert_eq!(smmu.statistics().commands_refused, 1);
    let (dart, stream) = place(0, 2);
    assert_eq!(
        smmu.attach(dart, stream, DomainId(0), ROOT),
        Err(InvalidateTimedOut),
        "it drops as well"
    );
    assert_eq!(smmu.statistics().commands_timed_out, 0, "the queue went on");
}

#[test]
fn frames_are_used_again_once_everything_older_is_dropped() {
    let played = Played::new(Faults { refuses: Some(0x11), ..Faults::default() });
    let mut smmu = played.smmu("0x10:0:2");
    assert!(smmu.is_confirmed());
    played.take_commands();
    assert_eq!(smmu.invalidate(DomainId(0), &Members::default()), Err(InvalidateTimedOut));
    assert!(smmu.is_confirmed(), "all configuration and all translations are dropped");
    let all = [Command::ForgetAllConfiguration, Command::DropAllTranslations].map(Command::words);
    assert_eq!(played.take_commands(), all);
    assert!(smmu.is_confirmed());
    assert_eq!(played.take_commands(), [[0; 2]; 0], "once");
    assert_eq!(smmu.invalidate(DomainId(0), &Members::default()), Err(InvalidateTimedOut));
    // The commands that invalidate everything are rejected as well.
    played.refuse(Command::DropAllTranslations.words()[0] as u8);
    assert!(!smmu.is_confirmed());
    assert!(!smmu.is_confirmed(), "it is tried again, and refused");
    played.refuse(0x11);
    assert!(smmu.is_confirmed());
}

#[test]
fn the_sync_in_place_of_a_refused_command_is_complete_before_the_smmu_goes_on() {
    let played = Played::new(Faults { refuses: Some(0x11), ..Faults::default() });
    let mut smmu = played.smmu("0x10:0:2");
    barrier::log::take();
    assert_eq!(smmu.invalidate(DomainId(0), &Members::default()), Err(InvalidateTimedOut));
    // The command and its sync; the sync that replaces the command, of which the SMMU is notified;
    // its end.
    let is_store = |step: &barrier::log::Step| matches!(step, barrier::log::Step::Store { .. });
    let kinds: Vec<bool> = barrier::log::take().iter().map(is_store).collect();
    assert_eq!(kinds, [true, true, true, true, false, true, true, false, false]);
}

#[test]
fn a_context_is_valid_only_behind_its_other_words() {
    let played = Played::new(Faults::default());
    let mut smmu = played.smmu("0x10:0:2");
    let (dart, stream) = place(0, 2);
    barrier::log::take();
    assert_eq!(smmu.attach(dart, stream, DomainId(0), ROOT), Ok(()));
    let steps = barrier::log::take();
    let first = smmu.contexts.address(DomainId(0));
    let is_valid = |step: &barrier::log::Step| match step {
        barrier::log::Step::Store { address, .. } => *address == first,
        barrier::log::Step::Barrier => false,
    };
    let valid = steps.iter().position(is_valid).expect("the word with the valid bit is stored");
    assert_eq!(steps[valid - 1], barrier::log::Step::Barrier);
}

#[test]
fn an_smmu_that_does_nothing_ends_the_wait() {
    let played = Played::new(Faults { is_deaf: true, ..Faults::default() });
    let map = IommuMap::of(&Choice::default());
    assert_eq!(Smmu::new(played.driver(), map, 32).err(), Some(Unsupported::NoCommands));
}

fn translation_fault(requester: u16, iova: u64) -> [u64; 4] {
    [0x10 | u64::from(requester) << 32, 0, iova, 0]
}

fn dart(index: usize) -> DartId {
    DartId::new(index).expect("a DART")
}

#[test]
fn faults_come_out_in_order_as_streams_and_strangers_are_counted() {
    let played = Played::new(Faults::default());
    let mut smmu = played.smmu("0x10:0:2,0x18:1:15");
    assert_eq!(smmu.next_fault(dart(0)), None);
    assert!(played.raise(translation_fault(0x18, 0x1000)));
    assert!(played.raise([0x02 | 0x3000 << 32, 0, 0, 0]));
    assert!(played.raise(translation_fault(0x20, 0x2000)));
    for iova in [0xffff_f010, 0xffff_f020] {
        assert!(played.raise(translation_fault(0x10, iova)));
    }
    let mut next = |dart| smmu.next_fault(dart).map(|fault| (fault.stream, fault.iova));
    let ((first_dart, first), (second_dart, second)) = (place(1, 15), place(0, 2));
    assert_eq!(next(second_dart), Some((second, 0xffff_f010)), "another DART's came before it");
    assert_eq!(next(first_dart), Some((first, 0x1000)), "it is kept until it is asked for");
    assert_eq!(next(first_dart), None);
    assert_eq!(next(second_dart), Some((second, 0xffff_f020)), "it was kept meanwhile");
    assert_eq!(next(second_dart), None);
    assert_eq!(smmu.statistics().other_events, 2);
}

#[test]
fn faults_of_a_dart_that_is_never_asked_for_do_not_hold_up_the_others() {
    let played = Played::new(Faults::default());
    let mut smmu = played.smmu("0x10:0:2,0x18:1:15");
    for iova in 0..100 {
        assert!(played.raise(translation_fault(0x18, iova)));
    }
    assert!(played.raise(translation_fault(0x10, 77)));
    assert_eq!(smmu.next_fault(dart(0)).map(|fault| fault.iova), Some(77));
    let kept = core::iter::from_fn(|| smmu.next_fault(dart(1))).count() as u64;
    assert_eq!(kept + smmu.statistics().event_losses, 100, "what is dropped is counted");
}

#[test]
fn a_queue_overflow_is_reported_once_and_the_queue_goes_on() {
    let played = Played::new(Faults::default());
    let mut smmu = played.smmu("0x10:0:2");
    let mut raised = 0;
    while played.raise(translation_fault(0x10, raised)) {
        raised += 1;
    }
    assert_eq!(raised, 512);
    let next = |smmu: &mut Smmu| smmu.next_fault(dart(0)).map(|fault| (fault.iova, fault.is_write));
    for iova in 0..raised {
        assert_eq!(next(&mut smmu), Some((iova, true)));
    }
    assert_eq!(next(&mut smmu), None);
    assert_eq!(smmu.statistics().event_losses, 1);
    assert!(played.raise(translation_fault(0x10, 77)));
    assert_eq!(next(&mut smmu), Some((77, true)));
    assert_eq!((next(&mut smmu), smmu.statistics().event_losses), (None, 1));
}
