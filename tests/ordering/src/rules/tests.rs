//! Each rule with a sequence that keeps it, and with each of its operations taken out.

use super::registers::*;
use super::*;
use crate::decode::Instruction as I;

const TABLE: u64 = 0x1000;
const SHARED: u64 = 0x2000;
const COMMAND: u64 = 0x3000;
const COMPLETION: u64 = 0x3010;
const CONSUMER: u64 = 0x3020;
const OWN_TABLE: u64 = 0x4800;
const HANDOFF: u64 = 0x5000;
const SLOTS: u64 = 0x5100;
const ANNOUNCED: u64 = 0x6000;
const MAILBOX: u64 = 0x7000;
const DESCRIPTOR: u64 = 0x9000;
const LOADED: u64 = 0x8000;
const IMAGE: u64 = 0x4000;

fn settings() -> Settings {
    let one = |start| vec![Range { start, end: start + 0x10 }];
    Settings {
        image: Some(Range { start: 0x4000, end: 0x5000 }),
        tables: one(TABLE),
        own_tables: one(OWN_TABLE),
        shared: one(SHARED),
        devices: one(COMMAND),
        completions: one(COMPLETION),
        consumers: one(CONSUMER),
        handoff: [one(HANDOFF), one(SLOTS)].concat(),
        announced: one(ANNOUNCED),
        mailbox: one(MAILBOX),
        descriptors: vec![Range { start: DESCRIPTOR, end: DESCRIPTOR + 2 * DESCRIPTOR_BYTES }],
        loaded: vec![Range { start: LOADED, end: LOADED + LINE_BYTES }],
        ..Settings::default()
    }
}

/// A step of a CPU.
#[derive(Clone, Copy, Debug)]
enum Step {
    Load(u64),
    Store(u64),
    Do(I),
}
use Step::{Do, Load, Store};

const fn dsb(domain: Domain, accesses: Accesses) -> Step {
    Do(I::Barrier { is_dsb: true, domain, accesses })
}
const fn tlbi(scope: Scope) -> Step {
    Do(I::Tlbi { scope, is_broadcast: true })
}
const DSB_SY: Step = dsb(Domain::System, Accesses::All);
const DSB_ST: Step = dsb(Domain::System, Accesses::Stores);
const DSB_ISH: Step = dsb(Domain::Inner, Accesses::All);
const DSB_ISHST: Step = dsb(Domain::Inner, Accesses::Stores);
const DSB_NSH: Step = dsb(Domain::Own, Accesses::All);
const DMB_OSHLD: Step =
    Do(I::Barrier { is_dsb: false, domain: Domain::Outer, accesses: Accesses::Loads });
const ISB: Step = Do(I::Isb);
const ERET: Step = Do(I::Return);
const CLEAN: Step = Do(I::Maintain(Cache::CleanToCoherency));
const CVAU: Step = Do(I::Maintain(Cache::CleanToUnification));
const IC: Step = Do(I::Maintain(Cache::Instructions));

fn run(steps: &[Step]) -> Option<&'static str> {
    let settings = settings();
    let mut cpu = Cpu::default();
    steps.iter().enumerate().find_map(|(pc, step)| {
        let pc = pc as u64;
        let broken = match *step {
            Load(address) => cpu.access(&settings, pc, address, false, Access::Plain),
            Store(address) => cpu.access(&settings, pc, address, true, Access::Plain),
            Do(instruction) => cpu.execute(pc, instruction),
        };
        broken.map(|violation| violation.rule)
    })
}

/// The sequence keeps every rule; without the step at each index in `needed` it breaks `rule`.
fn check(rule: &str, steps: &[Step], needed: &[usize]) {
    assert_eq!(run(steps), None, "{steps:?}");
    for index in needed {
        let mut without = steps.to_vec();
        let removed = without.remove(*index);
        assert_eq!(run(&without), Some(rule), "{steps:?} without {removed:?}");
    }
}

#[test]
fn table_stores_are_complete_before_a_device_is_commanded() {
    check("store-before-command", &[Store(SHARED), DSB_ST, Store(COMMAND)], &[1]);
    assert_eq!(run(&[Store(SHARED), DSB_ISHST, Store(COMMAND)]), Some("store-before-command"));
    assert_eq!(run(&[Store(SHARED), DMB_OSHLD, Store(COMMAND)]), Some("store-before-command"));
}

#[test]
fn what_a_device_wrote_is_loaded_behind_its_completion() {
    check("load-after-completion", &[Load(COMPLETION), DMB_OSHLD, Load(SHARED)], &[1]);
    assert_eq!(run(&[Load(COMPLETION), DSB_ISH, Load(SHARED)]), Some("load-after-completion"));
    assert_eq!(run(&[Load(COMPLETION), DSB_ST, Load(SHARED)]), Some("load-after-completion"));
    check("load-before-return", &[Load(SHARED), DSB_SY, Store(CONSUMER)], &[1]);
}

#[test]
fn break_before_make_is_complete_at_each_step() {
    let steps = [
        Store(TABLE),
        DSB_ISHST,
        tlbi(Scope::SecondStage),
        DSB_ISH,
        tlbi(Scope::FirstStage),
        DSB_ISH,
        Store(SHARED),
        Store(TABLE),
        DSB_ISHST,
        ERET,
    ];
    check("table-store-before-tlbi", &steps, &[1]);
    check("tlbi-incomplete", &steps, &[3, 5]);
    check("table-store-before-return", &steps, &[8]);
    assert_eq!(run(&[tlbi(Scope::BothStages), DSB_NSH, ERET]), Some("tlbi-incomplete"));
    assert_eq!(
        run(&[tlbi(Scope::BothStages), dsb(Domain::Inner, Accesses::Stores), ERET]),
        Some("tlbi-incomplete")
    );
    let own = Do(I::Tlbi { scope: Scope::BothStages, is_broadcast: false });
    check("tlbi-incomplete", &[own, DSB_NSH, Do(I::Write(VTTBR_EL2))], &[1]);
}

#[test]
fn a_descriptor_becomes_valid_last() {
    for barrier in [DSB_ST, DSB_SY] {
        check(
            "descriptor-valid-last",
            &[ERET, Store(DESCRIPTOR + 8), barrier, Store(DESCRIPTOR)],
            &[2],
        );
    }
    let steps = [ERET, Store(DESCRIPTOR + 8), DSB_ISHST, Store(DESCRIPTOR)];
    assert_eq!(run(&steps), Some("descriptor-valid-last"));
    // The last word of one and the first of the next; and memory that is not yet the SMMU's.
    assert_eq!(run(&[ERET, Store(DESCRIPTOR + 56), Store(DESCRIPTOR + 64)]), None);
    assert_eq!(run(&[Store(DESCRIPTOR + 8), Store(DESCRIPTOR)]), None);
}

#[test]
fn an_exclusive_store_to_a_table_that_failed_needs_no_completion() {
    let (load, store) = (0x100, 0x10c);
    let returns = |accesses: &[(u64, bool)]| {
        let mut cpu = Cpu::default();
        for (pc, is_store) in accesses {
            assert!(cpu.access(&settings(), *pc, TABLE, *is_store, Access::Exclusive).is_none());
        }
        cpu.execute(0x200, I::Return).is_none()
    };
    assert!(returns(&[(load, false)]));
    assert!(!returns(&[(load, false), (store, true)]));
    assert!(returns(&[(load, false), (store, true), (load, false)]));
    assert!(!returns(&[(load, false), (store, true), (load, false), (store, true)]));
    // A store before it stays, and so does one that another pair follows.
    assert!(!returns(&[(load - 4, true), (load, false), (store, true), (load, false)]));
    assert!(!returns(&[(load, false), (store, true), (store + 4, false)]));
}

#[test]
fn own_tables_are_complete_and_synchronized_before_they_are_used() {
    check("own-table-store", &[Store(OWN_TABLE), DSB_ISHST, ISB, Load(SHARED)], &[1, 2]);
}

#[test]
fn registers_are_synchronized_before_what_depends_on_them() {
    check("translate-before-par", &[Do(I::Translate), ISB, Do(I::Read(PAR_EL1))], &[1]);
    check("context", &[Do(I::Write(CPTR_EL2)), ISB, Do(I::Write(ZCR_EL2))], &[1]);
    check("context", &[Do(I::Write(VTTBR_EL2)), ISB, tlbi(Scope::AllGuests), DSB_ISH], &[1]);
    check("context", &[Do(I::Write(HCR_EL2)), ISB, Do(I::Translate)], &[1]);
    check("context", &[Store(TABLE), DSB_ISHST, ISB, Do(I::Translate)], &[1, 2]);
    check("context", &[Do(I::Write(MDSCR_EL1)), ISB, ERET], &[1]);
    assert_eq!(run(&[Do(I::Write(HCR_EL2)), ERET, Do(I::Translate)]), None);
}

#[test]
fn instructions_are_synchronized_step_by_step() {
    let steps = [CVAU, DSB_ISH, IC, DSB_ISH, Store(TABLE), DSB_ISHST, ERET];
    check("instruction-cache", &steps, &[1, 3]);
    let own = Do(I::Maintain(Cache::OwnInstructions));
    check("instruction-cache", &[own, DSB_NSH, Do(I::Write(SCTLR_EL2))], &[1]);
}

#[test]
fn what_a_cpu_without_caches_reads_is_cleaned_first() {
    let sev = Do(I::SendEvent);
    check("handoff-not-cleaned", &[Store(HANDOFF), CLEAN, DSB_SY, sev], &[1, 2]);
    check("handoff-not-cleaned", &[Store(HANDOFF), CLEAN, DSB_SY, Do(I::Call)], &[1, 2]);
    check("handoff-not-cleaned", &[Store(LOADED), CLEAN, DSB_SY, ERET], &[1]);
    let two = [Store(HANDOFF), CLEAN, DSB_SY, Store(SLOTS), CLEAN, DSB_SY, sev];
    check("handoff-not-cleaned", &two, &[1, 2, 4, 5]);
    let both = [Store(HANDOFF), CLEAN, DSB_SY, Store(LOADED), CLEAN, DSB_SY, ERET];
    check("handoff-not-cleaned", &both, &[1, 2, 4]);
    check("mailbox-not-dropped", &[Load(MAILBOX), CLEAN, DSB_SY, Load(MAILBOX)], &[1, 2]);
    check("call-before-store", &[Store(ANNOUNCED), DSB_ISHST, Do(I::Call)], &[1]);
}

#[test]
fn an_image_is_written_with_the_caches_off_only_between_two_cleanings() {
    let off = Do(I::Write(SCTLR_EL2));
    let steps =
        [off, ISB, CLEAN, DSB_SY, Store(IMAGE), CLEAN, DSB_SY, Do(I::Write(SCTLR_EL2)), ISB];
    check("caches-off", &steps, &[2, 3, 5, 6]);
}
