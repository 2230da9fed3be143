//! The mistakes: each a few words of the source, what stands there instead, and what that breaks.

/// One mistake, made in a copy of the tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mutant {
    /// What it is called.
    pub(super) name: &'static str,
    /// The file, from the top of the tree.
    pub(super) file: &'static str,
    /// What stands there: exactly once.
    pub(super) text: &'static str,
    /// What stands there instead.
    pub(super) replacement: &'static str,
    /// What a guest would see.
    pub(super) breaks: &'static str,
}

const DIRECT: &str = "hyp/engine/src/granule/direct.rs";
const ADDITION: &str = "hyp/engine/src/granule/addition.rs";
const REMOVAL: &str = "hyp/engine/src/granule/removal.rs";
const PLACEMENT: &str = "hyp/engine/src/granule.rs";
const COST: &str = "hyp/engine/src/granule/cost.rs";
const COPIES: &str = "hyp/engine/src/granule/copies.rs";
const GUARD: &str = "hyp/engine/src/granule/cpu_trap.rs";
const ALIAS: &str = "hyp/engine/src/granule/alias.rs";
const MOVER: &str = "hyp/engine/src/mover.rs";
const TRACKER: &str = "hyp/engine/src/tracker.rs";
const POOL: &str = "hyp/engine/src/pool.rs";
const FOLLOW: &str = "hyp/engine/src/granule/follow.rs";
const WATCH: &str = "hyp/engine/src/granule/watch.rs";
const BUDGET: &str = "hyp/engine/src/budget.rs";
const ENGINE: &str = "hyp/engine/src/engine.rs";
const SHADOW: &str = "hyp/engine/src/shadow.rs";
const STAGE2: &str = "hyp/el2/src/stage2.rs";
const WALK: &str = "hyp/el2/src/stage2/walk.rs";
const ENTRY: &str = "hyp/el2/src/stage2/entry.rs";
const VIEW: &str = "hyp/el2/src/stage2/view.rs";
const MAINTENANCE: &str = "hyp/el2/src/stage2/maintenance.rs";
const EMULATION: &str = "hyp/el2/src/trapped_page.rs";
const MONITOR: &str = "hyp/el2/src/trapped_page/monitor.rs";
const PROGRESS: &str = "hyp/el2/src/trapped_page/progress.rs";
const FIQ: &str = "hyp/el2/src/fiq.rs";
const QUEUE: &str = "hyp/virtio/src/queue.rs";
const PORT: &str = "hyp/virtio/src/port.rs";
const EXPORT: &str = "hyp/trace/src/export.rs";

/// All of them.
pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "page-lands-one-slot-off",
        file: ADDITION,
        text: "to: frame.page(at.iova.slot() ^ MISPLACED)",
        replacement: "to: frame.page(at.iova.slot() ^ 1)",
        breaks: "a device finds a page in its neighbour's slot",
    },
    Mutant {
        name: "bounce-page-without-a-trap",
        file: ADDITION,
        text: "if kind == CopyKind::Move || Self::trap_for(permission) > self.mover.trap(page) {",
        replacement: "if kind == CopyKind::Move {",
        breaks: "CPUs store into one copy of a page alone",
    },
    Mutant {
        name: "live-frame-filled-without-a-drain",
        file: ADDITION,
        text: "if fills_reached_slot {",
        replacement: "if fills_reached_slot && copies.is_empty() {",
        breaks: "a stray write lands in a page that moves into its red zone",
    },
    Mutant {
        name: "frame-reused-while-a-device-may-reach-it",
        file: POOL,
        text: "            return self.put_aside(frame);
        }
        self.free(host, frame);",
        replacement: "        }
        self.free(host, frame);",
        breaks: "a shadow table lies where a device still writes",
    },
    Mutant {
        name: "marked-frame-reused-while-a-device-may-reach-it",
        file: POOL,
        text: "            return self.put_aside(frame);
        }
        host.release(frame);",
        replacement: "        }
        host.release(frame);",
        breaks: "a granule lies where a device still writes",
    },
    Mutant {
        name: "frame-taken-back-too-early",
        file: POOL,
        text: "self.aside.is_empty() || !host.is_confirmed()",
        replacement: "self.aside.is_empty()",
        breaks: "the same, a flush later",
    },
    Mutant {
        name: "direct-while-away",
        file: DIRECT,
        text: "self.mover.is_ram(page) && self.mover.is_home(page) && !self.mover.is_broken(page)",
        replacement: "self.mover.is_ram(page) && !self.mover.is_broken(page)",
        breaks: "a device reaches the home that a page has left",
    },
    Mutant {
        name: "invalid-entry-stays-cached",
        file: ADDITION,
        text: "needs_invalidation |= before != entry && (before != 0 || is_negatively_cached(host));",
        replacement: "needs_invalidation |= before != entry && before != 0;",
        breaks: "a new mapping faults where hardware remembers that there was none",
    },
    Mutant {
        name: "permission-widened-without-an-invalidation",
        file: ADDITION,
        text: "needs_invalidation |= before != entry && (before != 0 || is_negatively_cached(host));",
        replacement: "needs_invalidation |= before == 0 && entry != 0 && is_negatively_cached(host);",
        breaks: "a device goes on with the permission of before",
    },
    Mutant {
        name: "strict-copy-not-private",
        file: ADDITION,
        text: "let is_private = self.needs_private(&state, &wanted);",
        replacement: "let is_private = false;",
        breaks: "with strict isolation a device writes a page that it may only read",
    },
    Mutant {
        name: "bounce-page-shown-before-its-bytes",
        file: ADDITION,
        text: "if !is_anything_moving && !copies.is_empty() {",
        replacement: "if !is_anything_moving && copies.len() > 1000 {",
        breaks: "a device reads what a frame held before",
    },
    Mutant {
        name: "red-zone-hit-not-told",
        file: ADDITION,
        text: "report_red_zone(host, copy.at, copy.to, (offset, bytes));",
        replacement: "let _ = (offset, bytes);\n            host.fill_page(copy.to, crate::pool::RED_ZONE);",
        breaks: "a stray write goes unreported",
    },
    Mutant {
        name: "home-not-restored",
        file: REMOVAL,
        text: "            host.copy_page(self.mover.locate(page), page.home());
            self.mover.place(host, page, page.home());",
        replacement: "            host.copy_page(self.mover.locate(page), page.home());",
        breaks: "a page that no DART maps stays away",
    },
    Mutant {
        name: "home-without-its-bytes",
        file: REMOVAL,
        text: "            host.copy_page(self.mover.locate(page), page.home());
            self.mover.place(host, page, page.home());",
        replacement: "            self.mover.place(host, page, page.home());",
        breaks: "what a device wrote is lost when the page goes home",
    },
    Mutant {
        name: "merge-forgotten-at-unmap",
        file: REMOVAL,
        text: "                    self.equalize(host, slot.page);",
        replacement: "",
        breaks: "what a device wrote into a bounce page goes with it",
    },
    Mutant {
        name: "merge-of-what-moves-alone",
        file: REMOVAL,
        text: "                if self.list(slot.page) {",
        replacement: "                if self.list(slot.page) && self.mover.is_broken(slot.page) {",
        breaks: "what a device wrote into a bounce page is lost with it, or not seen when another mapping of the page goes",
    },
    Mutant {
        name: "readers-forgotten-at-a-flush",
        file: FOLLOW,
        text: "            self.equalize(host, page);",
        replacement: "",
        breaks: "a device reads for ever what a page held before another device wrote it",
    },
    Mutant {
        name: "followed-space-forgotten",
        file: FOLLOW,
        text: "        } else if is_whole_pass {",
        replacement: "        }
        if is_whole_pass {",
        breaks: "a device reads for ever what a page held before another device wrote it",
    },
    Mutant {
        name: "write-protected-table-of-a-bus-master",
        file: TRACKER,
        text: "            || mover.is_pinned(page)
",
        replacement: "",
        breaks: "an entry that a bus master writes into a write-protected table goes unseen",
    },
    Mutant {
        name: "table-write-protected-in-the-batch-that-maps-it",
        file: TRACKER,
        text: "            || batch.maps(page)
",
        replacement: "",
        breaks: "an entry that a device writes into a write-protected table goes unseen",
    },
    Mutant {
        name: "own-stores-into-a-write-protected-table",
        file: ENGINE,
        text: "        self.tracker.mark_unsync(host, &mut self.mapper.mover, page);
        self.mapper.store(",
        replacement: "        self.mapper.store(",
        breaks: "an entry that a virtual device stores into a write-protected table goes unseen",
    },
    Mutant {
        name: "slice-without-an-end",
        file: BUDGET,
        text: "self.left = self.left.saturating_sub_unsigned(bytes);",
        replacement: "self.left = self.left.saturating_sub_unsigned(bytes / 1024);",
        breaks: "one trap does any amount of work",
    },
    Mutant {
        name: "comparison-without-a-charge",
        file: TRACKER,
        text: "            budget.charge(PAGE_BYTES);
            let reserve",
        replacement: "            let reserve",
        breaks: "one trap compares any number of tables",
    },
    Mutant {
        name: "change-without-a-charge",
        file: COST,
        text: "let (mut bytes, mut compared) = (CHANGE_BYTES, 0);",
        replacement: "let (mut bytes, mut compared) = (CHANGE_BYTES / 1024, 0);",
        breaks: "one trap acts on any number of entries that map nothing",
    },
    Mutant {
        name: "table-without-a-charge",
        file: TRACKER,
        text: "budget.charge(TABLE_BYTES * tables);",
        replacement: "budget.charge(tables);",
        breaks: "one trap begins to watch any number of tables",
    },
    Mutant {
        name: "search-without-a-charge",
        file: PLACEMENT,
        text: "budget.charge(RECLAIM_BYTES);",
        replacement: "budget.charge(RECLAIM_BYTES / 1024);",
        breaks: "one trap searches all spaces any number of times",
    },
    Mutant {
        name: "told-of-a-stream-that-left",
        file: ENGINE,
        text: "            entry.requester = other;",
        replacement: "            let _ = other;",
        breaks: "the trace lays what happens in a space to a stream that has other tables by now",
    },
    Mutant {
        name: "unmap-without-an-invalidation",
        file: REMOVAL,
        text: "            // Even where no entry changed: only this makes sure that what a device wrote has
            // landed.
            self.invalidate(host, domain);",
        replacement: "",
        breaks: "a device still reaches a page that was unmapped",
    },
    Mutant {
        name: "live-move-loses-writes",
        file: REMOVAL,
        text: "merged_bytes += apply_diff(host, copied, home, to, true) as u32;",
        replacement: "merged_bytes += u32::from(copied == to);",
        breaks: "what a device writes during a live move is lost",
    },
    Mutant {
        name: "live-move-shown-before-its-bytes",
        file: REMOVAL,
        text: "if ops.iter().any(|op| op.split.is_some()) {",
        replacement: "if ops.len() > 1000 {",
        breaks: "a device reads what a frame held before",
    },
    Mutant {
        name: "left-slot-not-marked",
        file: REMOVAL,
        text: "            host.fill_page(frame.page(index), RED_ZONE);",
        replacement: "            let _ = (RED_ZONE, index);",
        breaks: "a device reads the bytes of a page that was unmapped",
    },
    Mutant {
        name: "no-bounce-page-promoted",
        file: REMOVAL,
        text: "        self.promote(host, page);",
        replacement: "",
        breaks: "an alias whose first mapping goes leaves a copy that nobody follows",
    },
    Mutant {
        name: "frame-given-back-too-early",
        file: REMOVAL,
        text: "        if remainder(op).is_vacant() {
            self.pool",
        replacement: "        if op.is_leaving.contains(&true) {
            self.pool",
        breaks: "a frame gets a second owner while the first has pages in it",
    },
    Mutant {
        name: "window-too-wide",
        file: PLACEMENT,
        text: "host.leaf_entry(frame, state.permission(), Self::window(host, state))",
        replacement: "host.leaf_entry(frame, state.permission(), crate::addr::SlotRun::ALL)",
        breaks: "a device reaches pages beside those that are mapped",
    },
    Mutant {
        name: "permission-too-wide",
        file: PLACEMENT,
        text: "host.leaf_entry(frame, state.permission(), Self::window(host, state))",
        replacement: "host.leaf_entry(frame, crate::dart::entry::Permission::READ_WRITE, Self::window(host, state))",
        breaks: "a device writes what it may only read",
    },
    Mutant {
        name: "red-zones-not-looked-at",
        file: PLACEMENT,
        text: "if let Some((offset, bytes)) = red_zone_damage(host, frame.page(slot)) {",
        replacement: "if let Some((offset, bytes)) = red_zone_damage(host, frame.page(slot)).filter(|_| slot > 3) {",
        breaks: "a stray write goes unreported",
    },
    Mutant {
        name: "timed-out-streams-go-on",
        file: PLACEMENT,
        text: "                host.block(dart, stream);",
        replacement: "                let _ = stream;",
        breaks: "a device whose invalidation was never confirmed reaches pages of others",
    },
    Mutant {
        name: "merge-looks-at-the-wrong-bounce-pages",
        file: COPIES,
        text: "for copy in copies.iter_mut().filter(|copy| copy.is_writable) {",
        replacement: "for copy in copies.iter_mut().filter(|copy| !copy.is_writable) {",
        breaks: "what a device wrote into a bounce page is not seen",
    },
    Mutant {
        name: "merge-forgets-the-twin",
        file: COPIES,
        text: "    host.store(twin, word, value);
    taken.count_ones() / 8",
        replacement: "    taken.count_ones() / 8",
        breaks: "an old write is taken for a new one and undoes what a CPU stored",
    },
    Mutant {
        name: "merge-without-a-charge",
        file: COPIES,
        text: "        self.merged_words = self.merged_words.wrapping_add(changed * copies.len());",
        replacement: "        let _ = changed;",
        breaks: "one trap makes any number of copies equal, however they differ",
    },
    Mutant {
        name: "watch-without-an-end",
        file: WATCH,
        text: "            if left == 0 {
                self.watches.pass",
        replacement: "            if false {
                self.watches.pass",
        breaks: "one trap sets a watch of any number of pages",
    },
    Mutant {
        name: "heir-without-the-bytes",
        file: COPIES,
        text: "            host.copy_page(self.mover.locate(page), at);
        }
        self.mover.place",
        replacement: "        }
        self.mover.place",
        breaks: "a bounce page becomes the page and lacks what CPUs wrote",
    },
    Mutant {
        name: "store-into-one-copy",
        file: GUARD,
        text: "for to in bounce_pages.chain([self.mover.locate(page)]).chain(self.twin(page)) {",
        replacement: "for to in bounce_pages.take(0).chain([self.mover.locate(page)]).chain(self.twin(page)) {",
        breaks: "a device reads what a CPU has overwritten",
    },
    Mutant {
        name: "trap-too-weak",
        file: GUARD,
        text: "if permission.write { CpuTrap::All } else { CpuTrap::Writes }",
        replacement: "let _ = permission; CpuTrap::Writes",
        breaks: "a CPU reads a page without what a device wrote into a copy",
    },
    Mutant {
        name: "settle-forgets-bounce-pages",
        file: FOLLOW,
        text: "                host.store(bounce, word, value);",
        replacement: "                let _ = value;",
        breaks: "what a stepped instruction stored stays in one copy",
    },
    Mutant {
        name: "opened-without-a-merge",
        file: GUARD,
        text: "        self.merge_copies(host, page);
        self.mover.locate(page)",
        replacement: "        self.mover.locate(page)",
        breaks: "a stepped load misses what a device wrote",
    },
    Mutant {
        name: "exclusives-not-trapped",
        file: GUARD,
        text: "if trap == CpuTrap::Writes && self.mover.has_exclusives(page) { CpuTrap::All } else { trap }",
        replacement: "trap",
        breaks: "a CPU's store-exclusive to a trapped page fails for ever",
    },
    Mutant {
        name: "alias-list-cut-short",
        file: ALIAS,
        text: "Some(previous) => previous.next = node.next,",
        replacement: "Some(previous) => previous.next = NONE,",
        breaks: "mappings of an alias are forgotten",
    },
    Mutant {
        name: "write-protected-page-writable",
        file: MOVER,
        text: "(CpuTrap::Writes, _) | (CpuTrap::None, true) => CpuAccess::ReadOnly,
                (CpuTrap::None, false)",
        replacement: "(CpuTrap::Writes, _) => CpuAccess::ReadOnly,
                (CpuTrap::None, _)",
        breaks: "a change of a tracked table goes unseen",
    },
    Mutant {
        name: "moved-under-the-cpus",
        file: MOVER,
        text: "            stage2.flush_broken();
",
        replacement: "            let _ = stage2;
",
        breaks: "a CPU stores into the place that a page has left",
    },
    Mutant {
        name: "made-and-not-published",
        file: MOVER,
        text: "        self.is_flushed = false;
        host.publish();",
        replacement: "        self.is_flushed = false;",
        breaks: "a device finds a page before its bytes are there",
    },
    Mutant {
        name: "place-not-kept",
        file: MOVER,
        text: "state.away = if to == page.home() { 0 } else { to.0 };",
        replacement: "state.away = if to == page.home() { 0 } else { to.0 ^ 1 };",
        breaks: "CPUs find a page in its neighbour's slot",
    },
    Mutant {
        name: "last-granule-of-a-table-not-compared",
        file: TRACKER,
        text: "            *next = first + SLOTS;",
        replacement: "            *next = first + SLOTS;
            if *next == ENTRIES { return is_changed; }",
        breaks: "the last entries of a table are never looked at",
    },
    Mutant {
        name: "table-compared-anew-in-each-batch",
        file: TRACKER,
        text: "self.tracked_mut(domain).cursor = Some((at, next));",
        replacement: "self.tracked_mut(domain).cursor = Some((at, 0));",
        breaks: "a flush never ends while another CPU goes on writing the table",
    },
    Mutant {
        name: "old-table-not-drained",
        file: TRACKER,
        text: "if leaf != NONE && !self.drain(leaf, number, batch) {",
        replacement: "if leaf != NONE && number > 4 * ENTRIES && !self.drain(leaf, number, batch) {",
        breaks: "what a replaced table mapped stays mapped",
    },
    Mutant {
        name: "drained-table-stays-write-protected",
        file: TRACKER,
        text: "                if let Some(page) = self.at(leaf).map(|table| table.page) {
                    self.mark_unsync(host, mover, page);
                }
",
        replacement: "",
        breaks: "what was drained of a table that returns is never mapped again",
    },
    Mutant {
        name: "opened-table-not-compared",
        file: TRACKER,
        text: "                if !is_unsync {
                    self.link_unsync(at);
                }",
        replacement: "                let _ = is_unsync;",
        breaks: "a table that was quiet for long is never looked at again",
    },
    Mutant {
        name: "write-protected-table-that-a-device-may-write",
        file: TRACKER,
        text: "                if mover.is_write_protected(leaf.page) {
                    self.mark_unsync(host, mover, leaf.page);
                }",
        replacement: "                let _ = leaf;",
        breaks: "a device changes a table and nobody looks",
    },
    Mutant {
        name: "single-page-given-back-unmarked",
        file: POOL,
        text: "        memory.fill_page(page, RED_ZONE);
        let frame",
        replacement: "        let _ = memory;
        let frame",
        breaks: "a device reads bytes of a page that was never mapped for it",
    },
    Mutant {
        name: "table-linked-before-it-is-empty",
        file: SHADOW,
        text: "            host.publish();",
        replacement: "",
        breaks: "the hardware takes what a frame held before for entries",
    },
    Mutant {
        name: "live-entries-miscounted",
        file: SHADOW,
        text: "table.live = table.live + u16::from(entry != 0) - u16::from(before != 0);",
        replacement: "table.live = (table.live + u16::from(entry != 0)).saturating_sub(1);",
        breaks: "a table with entries in it is taken back",
    },
    Mutant {
        name: "break-not-ordered",
        file: STAGE2,
        text: "        // The invalid entries must be seen by walks before the TLBs drop the valid ones.
        self.hardware.order_stores();",
        replacement: "",
        breaks: "a TLB takes the old entry again after it was told to drop it",
    },
    Mutant {
        name: "split-over-a-valid-block",
        file: STAGE2,
        text: "self.hardware.store(position.table, position.index, Entry::InMotion.encode(position.level));",
        replacement: "",
        breaks: "TLBs hold a block and its pages at once",
    },
    Mutant {
        name: "made-before-its-bytes",
        file: STAGE2,
        text: "        // The bytes that were copied to `at` come before the entry that shows them.
        self.hardware.order_stores();",
        replacement: "",
        breaks: "a CPU reads what a frame held before",
    },
    Mutant {
        name: "executed-before-the-caches-know",
        file: WALK,
        text: "        hardware.synchronize_instructions(code);",
        replacement: "        let _ = code;",
        breaks: "a CPU executes what another page held",
    },
    Mutant {
        name: "fetched-without-a-mark",
        file: WALK,
        text: "        let marked = entry.encode_marked(cpu);",
        replacement: "        let (marked, _) = (entry.encode(LEAF_LEVEL), cpu);",
        breaks: "a CPU executes what the page held before it went and came back",
    },
    Mutant {
        name: "all-cpus-have-one-mark",
        file: ENTRY,
        text: "        bits | (cpu as u64 + 1) << MARK_SHIFT",
        replacement: "        bits | 1 << MARK_SHIFT",
        breaks: "a CPU takes another's mark for its own and executes what the page held before",
    },
    Mutant {
        name: "first-stage-not-invalidated",
        file: MAINTENANCE,
        text: "        self.invalidate(Translations::FirstStage);
        self.barrier(Barrier::Everything);",
        replacement: "",
        breaks: "a TLB entry of both stages outlives the page",
    },
    Mutant {
        name: "view-left-with-its-translations",
        file: MAINTENANCE,
        text: "        self.invalidate(Translations::AllHere);",
        replacement: "",
        breaks: "a CPU's next step uses the pages of the one before",
    },
    Mutant {
        name: "view-opens-shared-tables",
        file: VIEW,
        text: "            table = if is_own {",
        replacement: "            table = if is_own || level == 2 {",
        breaks: "a page that is opened for one CPU is open for all",
    },
    Mutant {
        name: "store-keeps-others-monitors",
        file: EMULATION,
        text: "        self.monitors.note_store(self.cpu, self.page, self.offset + index * self.bytes);",
        replacement: "",
        breaks: "a store-exclusive succeeds over another CPU's store",
    },
    Mutant {
        name: "access-beyond-the-page-emulated",
        file: EMULATION,
        text: "if !is_same_page || offset + access.length() > PAGE_BYTES {",
        replacement: "if !is_same_page {",
        breaks: "an access that straddles two pages is carried out on one",
    },
    Mutant {
        name: "replaced-instruction-emulated",
        file: EMULATION,
        text: "access.is_write() != is_write || distance >= length",
        replacement: "distance >= length",
        breaks: "a load that another CPU replaces by a store has the store made with the load's rights",
    },
    Mutant {
        name: "fault-at-another-address-emulated",
        file: EMULATION,
        text: "access.is_write() != is_write || distance >= length",
        replacement: "access.is_write() != is_write",
        breaks: "an access that another replaced is made where nothing faulted",
    },
    Mutant {
        name: "monitor-outlives-its-sequence",
        file: MONITOR,
        text: "        *self.of(cpu) = None;",
        replacement: "        let _ = cpu;",
        breaks: "a store-exclusive succeeds by a load-exclusive before another pair",
    },
    Mutant {
        name: "monitor-of-any-size",
        file: MONITOR,
        text: "monitor.place == place",
        replacement: "monitor.place.page == place.page && monitor.place.offset == place.offset",
        breaks: "a store-exclusive of eight bytes succeeds after a load-exclusive of four",
    },
    Mutant {
        name: "hopeless-exclusives-repeated-for-ever",
        file: PROGRESS,
        text: "Outcome::Hopeless => HOPELESS,",
        replacement: "Outcome::Hopeless => 0,",
        breaks: "a program whose exclusives cannot be emulated gets nowhere",
    },
    Mutant {
        name: "view-never-executable",
        file: VIEW,
        text: "no_execute: shared.no_execute,",
        replacement: "no_execute: true,",
        breaks: "code that steps an access to its own page gets nowhere",
    },
    Mutant {
        name: "timer-never-let-through-again",
        file: FIQ,
        text: "self.open = lines.others();",
        replacement: "self.open = self.open.and(lines.others());",
        breaks: "with oche.fiq=virtual a guest gets one tick and no more",
    },
    Mutant {
        name: "asserted-timer-not-masked",
        file: FIQ,
        text: "self.open = lines.others();",
        replacement: "self.open = if self.is_polling { lines.others() } else { Timers::BOTH };",
        breaks: "with oche.fiq=virtual one FIQ is taken to EL2 again and again",
    },
    Mutant {
        name: "timer-looked-at-once",
        file: FIQ,
        text: "self.is_polling = lines.is_any();",
        replacement: "self.is_polling = lines.is_any() && !has_fired;",
        breaks: "with oche.fiq=virtual a FIQ that the guest took its time for never ends",
    },
    Mutant {
        name: "call-not-shown",
        file: FIQ,
        text: "is_pending: lines.is_any() || self.pending.is_any(), poll }",
        replacement: "is_pending: lines.is_any() || self.pending.has_overflow, poll }",
        breaks: "with oche.fiq=virtual an IPI is lost",
    },
    Mutant {
        name: "overflow-forgotten",
        file: FIQ,
        text: "        self.has_overflow = true;\n",
        replacement: "",
        breaks: "with oche.fiq=virtual an overflow of a counter is lost",
    },
    Mutant {
        name: "reset-queue-allocates",
        file: QUEUE,
        text: "Self::with_buffers(core::mem::take(&mut self.buffers))",
        replacement: "Self::default()",
        breaks: "a guest that resets the trace's port stops the machine",
    },
    Mutant {
        name: "order-takes-the-line's-memory",
        file: PORT,
        text: "        self.line = line;\n",
        replacement: "",
        breaks: "a guest's second order to the trace's port stops the machine",
    },
    Mutant {
        name: "export-without-room-for-the-counters",
        file: EXPORT,
        text: "staged: Vec::with_capacity(max_staged_bytes(layout.cpus())),",
        replacement: "staged: Vec::with_capacity(max_staged_bytes(1)),",
        breaks: "a trace of many CPUs stops the machine when the guest reads its counters",
    },
];
