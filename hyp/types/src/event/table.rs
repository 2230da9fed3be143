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
/// `also` is recorded in addition to the fields and is not a field of the event. `reach` gives the
/// IOVAs that the event concerns, `text` the text of the event (methods of the trace's `Fields`, in
/// order), `counts` the counters that it changes.
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
                /// The value that was written or read.
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

            /// The guest wrote the invalidate command: a flush begins.
            Flush = 2, "flush" {
                /// The DART.
                dart: DartId = dart(),
                /// The selected streams.
                streams: StreamSet = streams(0, 16),
            }
            reach()
            text(hex("streams", u64::from(streams.0), 4))
            counts(flushes += 1)

            /// The work of a flush in this trap ended and the guest continues.
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

            /// A page was mapped for a device.
            Map = 4, "map" {
                /// On behalf of which stream.
                at: Place = at(32, 32),
                /// The guest page.
                page: Gfn = payload(0, 32),
                /// What the device may do.
                permission: Permission = detail(0, 2),
                /// Where the page is.
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

            /// A page was unmapped: no device reaches it at this IOVA any more.
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

            /// A mapping was refused; the device faults there.
            Refused = 6, "refused" {
                /// On behalf of which stream.
                at: Place = at(32, 32),
                /// The page in the guest's entry.
                page: Gfn = payload(0, 32),
                /// The reason.
                reason: Refusal = detail(0, 8),
            }
            reach(at.iova.iova(), $crate::addr::PAGE_BYTES as u64)
            text(
                hex("iova", at.iova.iova(), 16),
                hex("paddr", page.address(), 16),
                word("reason", reason.name()),
            )
            counts(refused += 1, refused_for[reason] += 1)

            /// A page moved to the host page `to`.
            Moved = 7, "moved" {
                /// The guest page.
                page: Gfn = payload(0, 32),
                /// The host page where it is now; `page.home()` if it moved home.
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

            /// A granule moved to another frame while devices use it.
            LiveMove = 8, "live_move" {
                /// The granule's first page, and the stream.
                at: Place = at(32, 32),
                /// Its new frame.
                to: HostGranule = payload(0, 32),
                /// Number of bytes that devices wrote into the old frame meanwhile, which were
                /// merged.
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
                /// Number of bytes that differed.
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
                /// Number of bytes of the page that no longer held the pattern.
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

            /// A guest page with tables became unsync (writes to it are not trapped, and each flush
            /// compares it) or write-protected.
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

            /// The hardware did not complete an invalidation in time; the streams of the domain are
            /// blocked.
            InvalidateTimedOut = 15, "invalidate_timeout" {
                /// A DART of the domain.
                dart: DartId = dart(),
            }
            reach()
            text()
            counts(invalidate_timeouts += 1)

            /// The guest accessed a trapped page, or something that it may not access.
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

            /// The filter changed: from here on, events may be missing on purpose.
            Filter = 17, "filter" {
                /// Number of the setting, counted from 1.
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

            /// The first bytes of a page, taken when it is mapped for a device to read or unmapped
            /// after a device could write it. [`Event::Data`] with `bytes` bytes follow at once on
            /// the same CPU.
            Snapshot = 18, "snapshot" {
                /// On behalf of which stream.
                at: Place = at(32, 32),
                /// The guest page.
                page: Gfn = payload(0, 32),
                /// Whether it was unmapped after the device could write it; otherwise it was mapped
                /// for the device to read.
                is_written: bool = detail(14, 1),
                /// Number of bytes, at most 4096.
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

            /// Bytes of the event before, as little-endian words in the order of their addresses,
            /// padded with zeros. Such a record has no program counter.
            Data = 19, "data" {
                /// The bytes.
                words: [u64; 2] = words(),
            }
            reach()
            text(bytes("bytes", words))
            counts()

            /// A CPU accessed watched bytes. [`Event::Data`] with the `bytes` bytes of the value
            /// follow at once on the same CPU.
            Watch = 20, "watch" {
                /// The IOVA's page, and the stream on whose behalf it is watched.
                at: Place = at(44, 20),
                /// The first byte's offset in the page.
                offset: u16 = payload(32, 12),
                /// The guest page.
                page: Gfn = payload(0, 32),
                /// Number of bytes that are reported, at most 64.
                bytes: u8 = detail(1, 7),
                /// Whether it was a store.
                is_write: bool = detail(0, 1),
                /// How the access was carried out.
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

            /// The callers of the code that flushes. [`Event::Data`] with the return addresses
            /// after the first follow at once on the same CPU.
            Callers = 21, "callers" {
                /// The DART.
                dart: DartId = dart(),
                /// Number of return addresses, at most 12.
                frames: u8 = detail(0, 4),
                /// The return address of the innermost function, a virtual address of the guest.
                first: u64 = payload(0, 64),
            }
            reach()
            text(number("frames", u64::from(frames)), hex("first", first, 16))
            counts()

            /// A page that was away moved home for an untranslated bus master.
            Fetched = 22, "fetched" {
                /// The guest page.
                page: Gfn = payload(0, 32),
                /// The host page where it was.
                from: Hfn = payload(32, 32),
            }
            reach()
            text(hex("gpa", page.address(), 16), hex("hpa", from.address(), 16))
            counts()

            /// The permission of a mapped page changed.
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

            /// The callers of the code that flushes, as
            /// [`call_chain`](crate::call_chain) stores them: their distances from the program
            /// counter in bytes, signed. [`Event::Data`] with the distances after the second, 32
            /// bits each, follow at once on the same CPU.
            CallChain = 24, "callchain" {
                /// The DART.
                dart: DartId = dart(),
                /// Number of callers, at most 10.
                frames: u8 = detail(0, 4),
                /// Whether the chain may go on: its end was not seen.
                is_cut: bool = detail(4, 1),
                /// Distance of the innermost function's return address, in bits 31:0, and of its
                /// caller's, in bits 63:32; 0 where there is none.
                nearest: u64 = payload(0, 64),
            }
            reach()
            text(number("frames", u64::from(frames)), word("cut", if is_cut { "yes" } else { "no" }))
            counts()
        }
    };
}
