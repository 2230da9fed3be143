//! The mistakes at what a Mac meets first: each must fail a run of the simulated board.

use super::list::Mutant;

const ENTRY: &str = "boot/src/bare/entry.rs";
const EVERY_ENTRY: &str = "hyp/el2/src/smp/entry.rs";
const EL2: &str = "hyp/el2/src/cpu_setup.rs";
const REGISTERS: &str = "hyp/el2/src/registers.rs";
const SMP: &str = "hyp/el2/src/smp.rs";
const SPIN_TABLE: &str = "boot/src/bare/spin_table.rs";
const LAUNCH: &str = "boot/src/bare/launch.rs";
const LAYOUT: &str = "boot/src/layout.rs";
const GUEST_MAP: &str = "boot/src/guest_map.rs";
const STAGE1: &str = "boot/src/bare/stage1.rs";
const GUEST_FDT: &str = "boot/src/guest_fdt.rs";
const DARTS: &str = "platform/m1/src/darts.rs";
const MMIO: &str = "hyp/el2/src/mmio/hw.rs";
const CONSOLE: &str = "platform/m1/src/bare/console.rs";
const LEAVES: &str = "platform/m1/src/entry.rs";

/// All of them.
pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "m1-bss-not-cleared",
        file: ENTRY,
        text: "    stp     xzr, xzr, [x9], #16",
        replacement: "    add     x9, x9, #16",
        breaks: "Oche takes what firmware left behind the image for its own",
    },
    Mutant {
        name: "m1-bss-cleared-but-for-its-last-page",
        file: ENTRY,
        text: "    add     x10, x10, :lo12:__bss_end",
        replacement: "    add     x10, x10, :lo12:__bss_end\n    sub     x10, x10, #4096",
        breaks: "the same, of what happens to lie last",
    },
    Mutant {
        name: "m1-not-relocated",
        file: ENTRY,
        text: "    str     x13, [x21, x11]",
        replacement: "",
        breaks: "pointers lead to where the image was linked",
    },
    Mutant {
        name: "m1-relocated-for-one-address",
        file: ENTRY,
        text: "    add     x13, x13, x21",
        replacement: "    movz    x14, #0x0800, lsl #16
    movk    x14, #0x8, lsl #32
    add     x13, x13, x14",
        breaks: "the image runs at one address alone",
    },
    Mutant {
        name: "m1-hcr-left-as-firmware-had-it",
        file: EVERY_ENTRY,
        text: "    msr     hcr_el2, x9",
        replacement: "",
        breaks: "TGE stays set, and whatever else m1n1 had set",
    },
    Mutant {
        name: "m1-entered-with-tge",
        file: EVERY_ENTRY,
        text: ".equ HCR_BOOT_LOW, 0x8000",
        replacement: ".equ HCR_BOOT_LOW, 0x8800",
        breaks: "EL1 does not exist while Oche boots",
    },
    Mutant {
        name: "m1-entered-without-e2h",
        file: EVERY_ENTRY,
        text: ".equ HCR_BOOT_HIGH, 0x4",
        replacement: ".equ HCR_BOOT_HIGH, 0x0",
        breaks: "registers have a layout that an M1 does not have",
    },
    Mutant {
        name: "m1-other-cpus-left-as-firmware-had-them",
        file: EVERY_ENTRY,
        text: "    enter_el2
    ldp     x0, x1, [x20]",
        replacement: "    ldp     x0, x1, [x20]",
        breaks: "TGE stays set on every CPU but the first",
    },
    Mutant {
        name: "m1-guest-entered-without-e2h",
        file: EL2,
        text: "        + HCR_EL2::E2H::EnableOsAtEl2\n",
        replacement: "",
        breaks: "Oche's own registers change their layout as the guest starts",
    },
    Mutant {
        name: "m1-guests-vectors-by-their-el1-name",
        file: REGISTERS,
        text: "S3_5_C12_C0_0",
        replacement: "S3_0_C12_C0_0",
        breaks: "with E2H that is EL2's own register",
    },
    Mutant {
        name: "m1-guests-timer-by-its-el1-name",
        file: REGISTERS,
        text: "S3_5_C14_C2_1",
        replacement: "S3_3_C14_C2_1",
        breaks: "the guest begins with firmware's timer on",
    },
    Mutant {
        name: "m1-other-cpus-not-taken",
        file: SPIN_TABLE,
        text: "others.map(|(affinity, word)|",
        replacement: "others.take(0).map(|(affinity, word)|",
        breaks: "a CPU enters the guest at EL2",
    },
    Mutant {
        name: "m1-guest-told-firmwares-words",
        file: GUEST_FDT,
        text: "Some(release) => set(node, \"cpu-release-addr\", release),",
        replacement: "Some(_) => {}",
        breaks: "the guest writes where no CPU waits any more",
    },
    Mutant {
        name: "m1-guest-told-of-a-cpu-that-never-came",
        file: GUEST_FDT,
        text: "None => dead.push(String::from(node.name())),",
        replacement: "None => drop(dead.iter().map(String::len).max()),",
        breaks: "the guest waits for it",
    },
    Mutant {
        name: "m1-cpus-words-not-cleared",
        file: SPIN_TABLE,
        text: "    unsafe { core::ptr::write_bytes(slots.start as *mut u8, 0, PAGE as usize) };",
        replacement: "",
        breaks: "a CPU enters the guest before it is asked to",
    },
    Mutant {
        name: "m1-cpus-words-offered-to-the-guest",
        file: LAYOUT,
        text: "        let mut offered = guest;",
        replacement: "        let mut offered = ram;
        offered.subtract(PhysRange { end: release.start, ..reserved })?;
        offered.subtract(PhysRange { start: release.end, ..reserved })?;",
        breaks: "the guest uses the page in which its CPUs look for their words",
    },
    Mutant {
        name: "m1-cpus-words-out-of-reach",
        file: GUEST_MAP,
        text: ".chain([&self.release])",
        replacement: "",
        breaks: "the guest cannot store to the page in which its CPUs look for their words",
    },
    Mutant {
        name: "m1-cpu-released-anywhere",
        file: SMP,
        text: "if guest::is_memory(entry) && entry.is_multiple_of(4) {",
        replacement: "if entry != 0 {",
        breaks: "a CPU enters the guest where no memory is",
    },
    Mutant {
        name: "m1-firmwares-words-stored-to-unasked",
        file: SPIN_TABLE,
        text: "stage1::check_store(word)",
        replacement: "stage1::check_store(slots.start)",
        breaks: "a word that EL2 cannot store to is a data abort that names no CPU",
    },
    Mutant {
        name: "m1-blocks-below-the-image-in-stage-1",
        file: STAGE1,
        text: "let may_be_block = at >= align_up(image::range().start, BLOCK);",
        replacement: "let may_be_block = at >= align_up(image::range().start.min(0), BLOCK);",
        breaks: "a block of EL2's own map overlaps the memory that CTRR names",
    },
    Mutant {
        name: "m1-blocks-below-the-image-in-stage-2",
        file: GUEST_MAP,
        text: "        stage2.require_pages(self.by_page);",
        replacement: "",
        breaks: "a block of the guest's overlaps the memory that CTRR names",
    },
    Mutant {
        name: "m1-screen-opened-once-the-machine-is-known",
        file: LAUNCH,
        text: "    (board.on_fdt)(bytes(whole));",
        replacement: "    if Machine::read(bytes(whole)).is_ok() {
        (board.on_fdt)(bytes(whole));
    }",
        breaks: "why an FDT is refused is on no screen",
    },
    Mutant {
        name: "m1-memory-left-behind-the-reservation",
        file: LAYOUT,
        text: "        let piece = PhysRange { start, end };",
        replacement: "        let piece = PhysRange { start, end: start + bytes };",
        breaks: "the guest has a second bank of memory, which U-Boot does not map",
    },
    Mutant {
        name: "m1-image-not-reserved",
        file: LAUNCH,
        text: "            reserved.push(Reservation {
                name: \"oche\",",
        replacement: "            drop(Reservation {
                name: \"oche\",",
        breaks: "the guest takes Oche's image for its own memory",
    },
    Mutant {
        name: "m1-image-reserved-to-its-first-page",
        file: LAUNCH,
        text: "range: self.layout.image.grown_to(PAGE),",
        replacement: "range: PhysRange { end: self.layout.image.start + PAGE, ..self.layout.image },",
        breaks: "the same, of all but the first page",
    },
    Mutant {
        name: "m1-image-may-be-mapped",
        file: LAUNCH,
        text: "no_map: true,",
        replacement: "no_map: false,",
        breaks: "a CPU of the guest fetches from the image before it asks for it",
    },
    Mutant {
        name: "m1-pool-offered-to-the-guest",
        file: LAYOUT,
        text: "        let mut offered = guest;",
        replacement: "        let mut offered = ram;
        offered.subtract(PhysRange { end: pool.start, ..reserved })?;",
        breaks: "the guest's FDT says that the frames are its memory",
    },
    Mutant {
        name: "m1-rings-offered-to-the-guest",
        file: LAYOUT,
        text: "        let mut offered = guest;",
        replacement: "        let mut offered = ram;
        offered.subtract(PhysRange { start: trace.end, ..reserved })?;",
        breaks: "the guest's FDT says that the trace is its memory",
    },
    Mutant {
        name: "m1-own-memory-left-open",
        file: LAYOUT,
        text: "        guest.subtract(reserved)?;",
        replacement: "",
        breaks: "the guest reads and writes heap, tables, frames and trace",
    },
    Mutant {
        name: "m1-image-left-open",
        file: LAYOUT,
        text: "        guest.subtract(request.image.grown_to(PAGE))?;",
        replacement: "",
        breaks: "the guest reads and writes Oche's code",
    },
    Mutant {
        name: "m1-dart-not-invalidated",
        file: DARTS,
        text: "        self.hardware.write(dart, STREAM_COMMAND, command.into_bits())?;\n",
        replacement: "        let _ = command;\n",
        breaks: "a device goes on by what the DART remembers",
    },
    Mutant {
        name: "m1-dart-not-waited-for",
        file: DARTS,
        text: "        self.wait(dart)?;
        self.hardware.order_loads();",
        replacement: "        self.hardware.order_loads();",
        breaks: "the same, for as long as the invalidation takes",
    },
    Mutant {
        name: "m1-dart-commanded-while-it-is-busy",
        file: DARTS,
        text: "        self.wait(dart)?;
        self.hardware.complete_stores();",
        replacement: "        self.hardware.complete_stores();",
        breaks: "a DART that takes long is given a second command",
    },
    Mutant {
        name: "m1-dart-invalidated-for-one-stream",
        file: DARTS,
        text: "self.hardware.write(dart, STREAM_SELECT, u32::from(streams.0))?;",
        replacement: "self.hardware.write(dart, STREAM_SELECT, u32::from(streams.0) & 1)?;",
        breaks: "streams other than the first keep what they remember",
    },
    Mutant {
        name: "m1-second-dart-not-invalidated",
        file: DARTS,
        text: "let flushed = members.iter().map(",
        replacement: "let flushed = members.iter().take(1).map(",
        breaks: "of two DARTs with one table the second remembers",
    },
    Mutant {
        name: "m1-window-not-checked",
        file: LEAVES,
        text: "let check = if window == Window::WHOLE { WINDOW_OFF } else { 0 };",
        replacement: "let check = WINDOW_OFF;",
        breaks: "a device reaches what is beside a page in its granule",
    },
    Mutant {
        name: "m1-window-not-asked-for",
        file: DARTS,
        text: "        self.has_windows
    }",
        replacement: "        false
    }",
        breaks: "the same, though it is a red zone",
    },
    Mutant {
        name: "m1-window-begins-a-word-early",
        file: LEAVES,
        text: "start: (slots.first() * UNITS) as u16",
        replacement: "start: (slots.first() * UNITS).saturating_sub(1) as u16",
        breaks: "a device reaches the word in front of a page",
    },
    Mutant {
        name: "m1-window-ends-a-word-late",
        file: LEAVES,
        text: "end: ((slots.last() + 1) * UNITS - 1) as u16",
        replacement: "end: ((slots.last() + 1) * UNITS).min(LAST_UNIT as usize) as u16",
        breaks: "a device reaches the word behind a page",
    },
    Mutant {
        name: "m1-locked-dart-taken",
        file: DARTS,
        text: "self.is_locked || !self.live.is_empty()",
        replacement: "!self.live.is_empty()",
        breaks: "Oche writes what a locked DART does not take",
    },
    Mutant {
        name: "m1-translating-dart-taken",
        file: DARTS,
        text: "self.is_locked || !self.live.is_empty()",
        replacement: "self.is_locked",
        breaks: "what firmware uses is cut off",
    },
    Mutant {
        name: "m1-dart-taken-from-a-guest-that-uses-it",
        file: DARTS,
        text: "if self.condition(dart).is_none_or(|condition| condition.is_taken()) {",
        replacement: "if self.condition(dart).is_none() {",
        breaks: "16K tables in use are cut off as somebody asks for the page size",
    },
    Mutant {
        name: "m1-no-fixup-for-read32",
        file: MMIO,
        text: "    fixup .Loche_mmio_read32_access, .Loche_mmio_read32_done, .Loche_mmio_read32_fixup\n",
        replacement: "",
        breaks: "a device that does not answer stops the machine",
    },
    Mutant {
        name: "m1-no-fixup-for-read64",
        file: MMIO,
        text: "    fixup .Loche_mmio_read64_access, .Loche_mmio_read64_done, .Loche_mmio_read64_fixup\n",
        replacement: "",
        breaks: "a device that does not answer stops the machine",
    },
    Mutant {
        name: "m1-no-fixup-for-write32",
        file: MMIO,
        text: "    fixup .Loche_mmio_write32_access, .Loche_mmio_write32_done, .Loche_mmio_write32_fixup\n",
        replacement: "",
        breaks: "a device that does not answer stops the machine",
    },
    Mutant {
        name: "m1-no-fixup-for-write64",
        file: MMIO,
        text: "    fixup .Loche_mmio_write64_access, .Loche_mmio_write64_done, .Loche_mmio_write64_fixup\n",
        replacement: "",
        breaks: "a device that does not answer stops the machine",
    },
    Mutant {
        name: "m1-serial-port-used-without-power",
        file: CONSOLE,
        text: "    if POWER.get().is_some_and(|domains| domains.power() != Power::On) {\n        return;\n    }\n",
        replacement: "",
        breaks: "a log line is a bus error",
    },
];
