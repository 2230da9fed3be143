//! The table of events: each event is described here, once.

/// Calls the macro `$callback` with the table of events, from which the code of each concern is
/// generated: the types ([`event`](crate::event)), and in the crate of the trace the records, their
/// text, their layout, the filter and the counters.
///
/// An entry reads
///
/// ```text
/// /// What happened.
/// Kind = number, "name" {
///     /// What the field holds.
///     field: Type = place,
/// }
/// also name: Type = place from value;
/// reach(first IOVA, bytes)
/// text(method("name", value, ...), ...)
/// counts(counter += amount, counter_by[field] += amount, ...)
/// ```
///
/// The number and the places are part of the file format and never change. Kind 10 was never
/// recorded. A place is one of
///
/// - `dart()`, `stream()`: the record's DART and stream;
/// - `at(low, bits)`: both, and the IOVA page in the payload's bits from `low` on;
/// - `detail(low, bits)`, `payload(low, bits)`: bits of that word;
/// - `streams(low, bits)`: a set of streams in the payload, which a filter looks into;
/// - `optional(flag, low, bits)`: bits of the payload, there if the bit `flag` of the detail is
///   set;
/// - `words()`: words 2 and 3 whole.
///
/// `also` is written beside the fields and is not a field of the event. `reach` says which IOVAs
/// the event is about, `text` what people read in which order (methods of the trace's `Fields`),
/// `counts` which counters it moves.
#[macro_export]
macro_rules! events {
    ($callback:ident) => {
        $callback! {
            /// The guest read or wrote a register of an emulated DART.
            Register = 1, "register" {
                /// The DART.
                dart: DartId = dart(),
                /// Byte offset in the register region.
                offset: u16 = payload(32, 16),
                /// Whether it was a write.
                is_write: bool = detail(0, 1),
                /// The value written or answered.
                value: u32 = payload(0, 32),
            }
            reach()
            text(
                word("op", if is_write { "write" } else { "read" }),
                hex("offset", u64::from(offset), 4),
                hex("value", u64::from(value), 8),
            )
            counts(
                register_writes += u64::from(is_write),
                register_reads += u64::from(!is_write),
            )

            /// The guest asked to invalidate: a sync begins.
            Flush = 2, "flush" {
                /// The DART.
                dart: DartId = dart(),
                /// The selected streams.
                streams: StreamSet = streams(0, 16),
            }
            reach()
            text(hex("streams", u64::from(streams.0), 4))
            counts(flushes += 1)

            /// A sync ended and the guest may go on.
            FlushDone = 3, "flush_done" {
                /// The DART.
                dart: DartId = dart(),
                /// Pages that were mapped or unmapped in it.
                pages: u32 = payload(0, 32),
                /// Whether work is left for the next poll of the busy bit.
                is_busy: bool = detail(0, 1),
            }
            reach()
            text(
                number("pages", u64::from(pages)),
                word("busy", if is_busy { "yes" } else { "no" }),
            )
            counts(flushes_split += u64::from(is_busy))

            /// A page became reachable for a device.
            Map = 4, "map" {
                /// On behalf of which stream.
                at: Place = at(32, 32),
                /// The guest page.
                page: Gfn = payload(0, 32),
                /// What the device may do.
                permission: Permission = detail(0, 2),
                /// How the page is reached.
                placement: Placement = detail(2, 4),
            }
            reach(at.iova.iova(), $crate::addr::PAGE_BYTES as u64)
            text(
                range("iova", at.iova.iova(), $crate::addr::PAGE_BYTES as u64),
                hex("paddr", page.address(), 16),
                number("size", $crate::addr::PAGE_BYTES as u64),
                word("perm", permission.name()),
                word("placement", placement.name()),
            )
            counts(maps += 1, bytes_of[placement] += $crate::addr::PAGE_BYTES as u64)

            /// A page is no longer reachable for a device.
            Unmap = 5, "unmap" {
                /// On behalf of which stream.
                at: Place = at(32, 32),
                /// The guest page.
                page: Gfn = payload(0, 32),
            }
            reach(at.iova.iova(), $crate::addr::PAGE_BYTES as u64)
            text(
                range("iova", at.iova.iova(), $crate::addr::PAGE_BYTES as u64),
                number("size", $crate::addr::PAGE_BYTES as u64),
                number("unmapped_size", $crate::addr::PAGE_BYTES as u64),
                hex("paddr", page.address(), 16),
            )
            counts(unmaps += 1)

            /// A page could not be made reachable; the device finds nothing there.
            Refused = 6, "refused" {
                /// On behalf of which stream.
                at: Place = at(32, 32),
                /// The page that the guest named.
                page: Gfn = payload(0, 32),
                /// Why.
                reason: Refusal = detail(0, 8),
            }
            reach(at.iova.iova(), $crate::addr::PAGE_BYTES as u64)
            text(
                hex("iova", at.iova.iova(), 16),
                hex("paddr", page.address(), 16),
                word("reason", reason.name()),
            )
            counts(refused += 1, refused_for[reason] += 1)

            /// A page's bytes moved and CPUs now find them at `to`.
            Moved = 7, "moved" {
                /// The guest page.
                page: Gfn = payload(0, 32),
                /// Where it is now; `page.home()` when it went home.
                to: Hfn = payload(32, 32),
            }
            reach()
            text(
                hex("gpa", page.address(), 16),
                hex("hpa", to.address(), 16),
                word("home", if to == page.home() { "yes" } else { "no" }),
            )
            counts(
                home_moves += u64::from(to == page.home()),
                moved_pages += u64::from(to != page.home()),
            )

            /// A granule that devices use changed its frame while mapped.
            LiveMove = 8, "live_move" {
                /// The granule's first page, and the stream.
                at: Place = at(32, 32),
                /// The frame that it has now.
                to: HostGranule = payload(0, 32),
                /// Bytes that the device wrote into the old frame meanwhile, brought along.
                merged_bytes: u32 = detail(0, 15),
            }
            reach(at.iova.iova(), $crate::addr::FRAME_BYTES as u64)
            text(
                hex("iova", at.iova.iova(), 16),
                hex("frame", to.address(), 16),
                number("merged", u64::from(merged_bytes)),
            )
            counts(live_moves += 1, live_move_bytes += u64::from(merged_bytes))

            /// The copies of a page mapped more than once were made equal.
            Merged = 9, "merged" {
                /// The guest page.
                page: Gfn = payload(0, 32),
                /// Bytes that had changed.
                bytes: u32 = payload(32, 32),
            }
            reach()
            text(hex("gpa", page.address(), 16), number("merged", u64::from(bytes)))
            counts(merges += 1, merged_bytes += u64::from(bytes))

            /// A device wrote into a part of a granule where nothing is mapped. One [`Event::Data`]
            /// follows at once on the same CPU with the page's bytes from `offset` on, as many as
            /// fit.
            RedZone = 11, "red_zone" {
                /// The page in which the first byte was hit, and the stream.
                at: Place = at(32, 32),
                /// The first byte's offset in the page.
                offset: u16 = payload(0, 16),
                /// How many bytes of the page no longer held the pattern.
                bytes: u16 = payload(16, 16),
            }
            also follow: u16 = detail(0, 15)
                from ($crate::addr::PAGE_BYTES as u16).saturating_sub(offset).min(16);
            reach(at.iova.iova(), $crate::addr::PAGE_BYTES as u64)
            text(
                hex("iova", at.iova.iova().saturating_add(u64::from(offset)), 16),
                number("bytes", u64::from(bytes)),
            )
            counts(red_zone_hits += 1)

            /// A device's access was refused.
            Fault = 12, "io_page_fault" {
                /// The DART.
                dart: DartId = dart(),
                /// The stream.
                stream: StreamId = stream(),
                /// The IOVA.
                iova: u64 = payload(0, 64),
                /// The code as the guest reads it in its DART's ERROR register.
                code: u16 = detail(0, 13),
                /// Whether it was a write.
                is_write: bool = detail(13, 1),
                /// Whether the ERROR register still held an earlier fault, so the guest will not
                /// see this one.
                is_hidden: bool = detail(14, 1),
            }
            reach(iova, 1)
            // Linux: IOMMU_FAULT_READ 0, IOMMU_FAULT_WRITE 1.
            text(
                hex("iova", iova, 16),
                hex("flags", u64::from(is_write), 4),
                hex("code", u64::from(code), 3),
                word("hidden", if is_hidden { "yes" } else { "no" }),
            )
            counts(faults += 1, faults_hidden += u64::from(is_hidden))

            /// A guest page became unsync (writes to it are not trapped; it is compared at each
            /// sync) or write-protected.
            Table = 13, "table" {
                /// The guest page that holds a table.
                page: Gfn = payload(0, 32),
                /// Whether CPUs may write it without a trap.
                is_unsync: bool = detail(0, 1),
            }
            reach()
            text(
                hex("gpa", page.address(), 16),
                word("state", if is_unsync { "unsync" } else { "write-protected" }),
            )
            counts(
                table_unsyncs += u64::from(is_unsync),
                table_write_protects += u64::from(!is_unsync),
            )

            /// A stream began to translate through tables, or (no root) was blocked.
            Attach = 14, "attach" {
                /// The DART.
                dart: DartId = dart(),
                /// The stream.
                stream: StreamId = stream(),
                /// The guest page that TTBR 0 names, if the stream translates.
                root: Option<Gfn> = optional(0, 0, 32),
            }
            reach()
            text(hex_or_none("root", root.map(|page| page.address()), 16))
            counts(
                attaches += u64::from(root.is_some()),
                blocks += u64::from(root.is_none()),
            )

            /// The hardware did not finish an invalidation in time; its streams are blocked.
            InvalidateTimedOut = 15, "invalidate_timeout" {
                /// A DART of the domain.
                dart: DartId = dart(),
            }
            reach()
            text()
            counts(invalidate_timeouts += 1)

            /// The guest touched a watched page of its own, or something that it may not touch.
            Access = 16, "access" {
                /// Guest-physical address.
                address: u64 = payload(0, 64),
                /// Whether it was a write.
                is_write: bool = detail(0, 1),
            }
            reach()
            text(
                hex("gpa", address, 16),
                word("op", if is_write { "write" } else { "read" }),
            )
            counts(trapped_accesses += 1)

            /// What is recorded changed: from here on events may be missing on purpose.
            Filter = 17, "filter" {
                /// Which setting it is, counted from 1.
                generation: u32 = payload(0, 32),
                /// Whether every event is recorded.
                is_whole: bool = detail(0, 1),
            }
            reach()
            text(
                number("setting", u64::from(generation)),
                word("whole", if is_whole { "yes" } else { "no" }),
            )
            counts()

            /// The first bytes of a page, taken when a device may begin to read it or has ended to
            /// write it. As many [`Event::Data`] follow at once on the same CPU as hold `bytes`.
            Snapshot = 18, "snapshot" {
                /// On behalf of which stream.
                at: Place = at(32, 32),
                /// The guest page.
                page: Gfn = payload(0, 32),
                /// Whether it was unmapped after the device could write it; otherwise it was mapped
                /// for the device to read.
                is_written: bool = detail(14, 1),
                /// How many bytes were taken, at most 4096.
                bytes: u16 = detail(0, 13),
            }
            reach(at.iova.iova(), $crate::addr::PAGE_BYTES as u64)
            text(
                hex("iova", at.iova.iova(), 16),
                hex("paddr", page.address(), 16),
                word("when", if is_written { "unmap" } else { "map" }),
                number("bytes", u64::from(bytes)),
            )
            counts()

            /// Bytes of the event before, as little-endian words in the order of their addresses;
            /// behind its end there are zeros. Such a record has no program counter.
            Data = 19, "data" {
                /// The bytes.
                words: [u64; 2] = words(),
            }
            reach()
            text(bytes("bytes", words))
            counts()

            /// A CPU touched watched bytes. As many [`Event::Data`] follow at once on the same CPU
            /// as hold `bytes`: the value.
            Watch = 20, "watch" {
                /// The IOVA's page, and the stream on whose behalf it is watched.
                at: Place = at(44, 20),
                /// The first byte's offset in the page.
                offset: u16 = payload(32, 12),
                /// The guest page.
                page: Gfn = payload(0, 32),
                /// How many bytes are reported of, at most 64.
                bytes: u8 = detail(1, 7),
                /// Whether it was a store.
                is_write: bool = detail(0, 1),
                /// What is known of it.
                how: WatchHow = detail(8, 2),
            }
            reach(at.iova.iova() | u64::from(offset), u64::from(bytes).max(1))
            text(
                word("op", if is_write { "write" } else { "read" }),
                hex("iova", at.iova.iova() | u64::from(offset), 16),
                hex("gpa", page.address() | u64::from(offset), 16),
                number("bytes", u64::from(bytes)),
                word("how", how.name()),
            )
            counts(watch_hits += 1)

            /// Who called the code that is about to flush. As many [`Event::Data`] follow at once
            /// on the same CPU as hold the return addresses behind the first.
            Callers = 21, "callers" {
                /// The DART.
                dart: DartId = dart(),
                /// How many return addresses there are, at most 12.
                frames: u8 = detail(0, 4),
                /// Where the innermost function returns to, a virtual address of the guest's.
                first: u64 = payload(0, 64),
            }
            reach()
            text(number("frames", u64::from(frames)), hex("first", first, 16))
            counts()

            /// A master that no DART translates names a page that is away: it comes home.
            Fetched = 22, "fetched" {
                /// The guest page.
                page: Gfn = payload(0, 32),
                /// Where it was.
                from: Hfn = payload(32, 32),
            }
            reach()
            text(hex("gpa", page.address(), 16), hex("hpa", from.address(), 16))
            counts()

            /// A page stays where it was, and a device may from now on do something else with it.
            Permission = 23, "permission" {
                /// On behalf of which stream.
                at: Place = at(32, 32),
                /// The guest page.
                page: Gfn = payload(0, 32),
                /// What the device may do.
                permission: Permission = detail(0, 2),
            }
            reach(at.iova.iova(), $crate::addr::PAGE_BYTES as u64)
            text(
                range("iova", at.iova.iova(), $crate::addr::PAGE_BYTES as u64),
                hex("paddr", page.address(), 16),
                number("size", $crate::addr::PAGE_BYTES as u64),
                word("perm", permission.name()),
            )
            counts()
        }
    };
}
