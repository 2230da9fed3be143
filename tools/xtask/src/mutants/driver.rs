//! Mistakes of the M1's driver that no guest's own flush leaves to be seen: a model of a DART is
//! strict enough.

use super::list::Mutant;

const DARTS: &str = "platform/m1/src/darts.rs";

const FOUND: &str = "platform/m1/src/found.rs";
const NVME: &str = "platform/m1/src/nvme.rs";
const QUEUE: &str = "platform/m1/src/nvme/queue.rs";

/// All of them.
pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "m1-driver-takes-over-without-an-invalidation",
        file: DARTS,
        text: "        self.flush(dart, StreamSet(u16::MAX))\n",
        replacement: "        Ok(())\n",
        breaks: "what was remembered before is used after",
    },
    Mutant {
        name: "m1-driver-attaches-without-an-invalidation",
        file: DARTS,
        text: "        self.flush(dart, streams)\n",
        replacement: "        Ok(())\n",
        breaks: "a stream goes on by the tables of before",
    },
    Mutant {
        name: "m1-driver-touches-a-dart-that-is-off",
        file: DARTS,
        text: "                Power::Off => {
                    self.set_contents(dart, Contents::Nothing);
                    return Ok(());
                }",
        replacement: "                Power::Off => {}",
        breaks: "a bus error in the middle of a flush",
    },
    Mutant {
        name: "m1-driver-skips-a-dart-whose-clock-is-gated",
        file: FOUND,
        text: "(actual == ACTIVE || is_automatic)",
        replacement: "(actual == ACTIVE)",
        breaks: "stale entries outlive their frames",
    },
    Mutant {
        name: "m1-driver-calls-a-flush-done-that-nothing-answered",
        file: DARTS,
        text: "Power::Unreachable => break,",
        replacement: "Power::Unreachable => return Ok(()),",
        breaks: "stale entries are used when the clock comes back",
    },
    Mutant {
        name: "m1-driver-does-not-look-at-the-power-again",
        file: DARTS,
        text: "Ok(()) if self.hardware.power(dart) == Power::On => {",
        replacement: "Ok(()) => {",
        breaks: "registers that read as 0 look like the end of a command",
    },
    Mutant {
        name: "m1-driver-forgets-that-power-was-lost",
        file: DARTS,
        text: "                    self.set_contents(dart, Contents::Nothing);
                    return Ok(());",
        replacement: "                    return Ok(());",
        breaks: "streams stay blocked though they are attached",
    },
    Mutant {
        name: "m1-driver-forgets-a-flush-that-failed",
        file: DARTS,
        text: "        self.set_contents(dart, Contents::Older);
        Err(InvalidateTimedOut)",
        replacement: "        self.set_contents(dart, Contents::Current);
        Err(InvalidateTimedOut)",
        breaks: "a stream that was cut off goes on by what is cached",
    },
    Mutant {
        name: "m1-driver-calls-older-tables-confirmed",
        file: DARTS,
        text: "mediated.all(|entry| entry.contents != Contents::Older);",
        replacement: "mediated.all(|_| true);",
        breaks: "a device writes into a frame that has become something else",
    },
    Mutant {
        name: "m1-driver-compares-nothing-at-a-touch",
        file: DARTS,
        text: "Power::On if contents == Contents::Current && self.holds_what_it_must(dart) => return,",
        replacement: "Power::On if contents == Contents::Current => return,",
        breaks: "a DART that lost its power faults for ever",
    },
    Mutant {
        name: "m1-driver-names-a-table-before-its-entries",
        file: DARTS,
        text: "        self.hardware.complete_stores();
        for index",
        replacement: "        for index",
        breaks: "a device reaches what the frame held before",
    },
    Mutant {
        name: "m1-driver-commands-before-its-entries",
        file: DARTS,
        text: "        self.hardware.complete_stores();
        self.hardware.write(dart, STREAM_SELECT",
        replacement: "        self.hardware.write(dart, STREAM_SELECT",
        breaks: "the DART walks an entry that was taken out",
    },
    Mutant {
        name: "m1-driver-does-not-order-loads-behind-a-command",
        file: DARTS,
        text: "        self.hardware.order_loads();\n",
        replacement: "",
        breaks: "received bytes are lost",
    },
    Mutant {
        name: "m1-driver-offers-bypass-with-larger-pages",
        file: DARTS,
        text: "value & !PARAMS2_BYPASS",
        replacement: "value",
        breaks: "a device uses the homes of pages that are away",
    },
    Mutant {
        name: "m1-nvme-does-not-order-loads-behind-a-completion",
        file: NVME,
        text: "            machine.order_loads();\n",
        replacement: "",
        breaks: "what the disk wrote is read before it is there",
    },
    Mutant {
        name: "m1-nvme-takes-a-queue-that-is-not-memory",
        file: QUEUE,
        text: ".filter(|_| machine.word(at).is_some());",
        replacement: ";",
        breaks: "an entry's words are taken from nowhere",
    },
    Mutant {
        name: "m1-nvme-takes-a-queue-between-pages",
        file: QUEUE,
        text: ".filter(|_| place.at.is_multiple_of(PAGE))",
        replacement: "",
        breaks: "a word of an entry lies in two pages",
    },
];
