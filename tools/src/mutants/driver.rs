//! Mistakes of the M1's driver that no guest's own flush leaves to be seen: a model of a DART is strict enough.

use super::list::Mutant;

const DARTS: &str = "platform/m1/src/darts.rs";

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
        text: "        streams.insert(stream);
        self.flush(dart, streams)",
        replacement: "        streams.insert(stream);
        Ok(())",
        breaks: "a stream goes on by the tables of before",
    },
    Mutant {
        name: "m1-driver-touches-a-dart-that-is-off",
        file: DARTS,
        text: "            if self.hardware.is_powered(dart) {
                self.flush(dart, streams)?;
            }",
        replacement: "            self.flush(dart, streams)?;",
        breaks: "a bus error in the middle of a flush",
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
