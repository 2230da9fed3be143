"""The file: its chunks, its boots, and all CPUs' records in the order of time."""

from __future__ import annotations

import heapq
import os
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import BinaryIO, Dict, Iterator, List, Optional, Tuple, Type, Union

from .events import RECORD_BYTES, Event, Gap, Record, bytes_behind, event_of, record_of
from .names import Names
from .views import Buffer, Fault, Lifetime, faults, lifetimes, maps

_FILE_MAGIC = b"OCHEFILE"
_CHUNK_MAGIC = b"OCHECHNK"
_VERSION = 1
_FILE_HEADER = 32
_CHUNK_HEADER = 64
_MAX_PAYLOAD = 16 << 20
_HEADER = struct.Struct("<8sII5Q")
_MASK = (1 << 64) - 1
_SHOWN_WITH_VALUE = (11, 20, 21, 24)


class TraceError(Exception):
    """A file that is no trace, or one of a later version."""


@dataclass(frozen=True)
class Device:
    """A device behind a DART."""

    name: str
    dart: int
    stream: int
    requester: int


@dataclass(frozen=True)
class _Chunk:
    cpu: int
    payload_at: int
    payload_bytes: int
    present: int
    checksum: int
    first: int
    lost_before: int
    header: bytes


@dataclass
class Session:
    """One boot of Oche."""

    board: str
    counter_hz: int
    start_ticks: int
    devices: List[Device]
    chunks: Dict[int, List[_Chunk]] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    """What the guest calls its code and its devices, as far as the trace has it."""

    def __post_init__(self) -> None:
        self._names: Dict[Tuple[int, int], str] = {}
        for device in self.devices:
            place = (device.dart, device.stream)
            known = self._names.get(place)
            self._names[place] = device.name if known is None else f"{known}+{device.name}"

    def nanoseconds(self, ticks: int) -> int:
        """Nanoseconds from Oche's start to `ticks`."""
        hz = max(1, self.counter_hz)
        since = max(0, ticks - self.start_ticks)
        return since // hz * 1_000_000_000 + since % hz * 1_000_000_000 // hz

    def device(self, dart: Optional[int], stream: Optional[int]) -> Optional[str]:
        """The name of what is at the stream, if it has one."""
        if dart is None or stream is None:
            return None
        return self._names.get((dart, stream))

    def name_of(self, dart: int, stream: int) -> str:
        """The same, or `dartN/streamM`."""
        return self._names.get((dart, stream), f"dart{dart}/stream{stream}")


class Trace:
    """A trace file. Damage is skipped and counted; `warnings` says what was wrong."""

    def __init__(self, source: Union[str, "os.PathLike[str]", BinaryIO]) -> None:
        self._owns = isinstance(source, (str, os.PathLike))
        self._file: BinaryIO = open(source, "rb") if self._owns else source  # type: ignore
        self.warnings: List[str] = []
        self.sessions: List[Session] = []
        try:
            self._index()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file, if it was opened here."""
        if self._owns:
            self._file.close()

    def __enter__(self) -> "Trace":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def events(self, session: Optional[int] = None) -> Iterator[Union[Event, Gap]]:
        """Every event in the order of time, with the gaps between; of the last boot by default."""
        of = self._session(session)
        if of is None:
            return
        yield from _with_values(of, self._merged(of))

    def maps(self, at_ns: Optional[int] = None, session: Optional[int] = None) -> List[Buffer]:
        """What is mapped at a moment, or at the end: neighbouring pages of one flush together."""
        of = self._session(session)
        return [] if of is None else maps(of, self.events(session), at_ns)

    def lifetimes(self, session: Optional[int] = None) -> Iterator[Lifetime]:
        """Each page's mapping as it ends; those that do not end come last, with no end."""
        return lifetimes(self.events(session))

    def faults(self, session: Optional[int] = None) -> Iterator[Fault]:
        """Each access that was refused."""
        return faults(self.events(session))

    def names(self, session: Optional[int] = None) -> Names:
        """What the guest calls its code: `str(trace.names().find(event.pc))`."""
        of = self._session(session)
        return Names() if of is None else of.names

    def _session(self, index: Optional[int]) -> Optional[Session]:
        if index is None:
            return self.sessions[-1] if self.sessions else None
        return self.sessions[index]

    def _read(self, at: int, count: int) -> bytes:
        self._file.seek(at)
        return self._file.read(count)

    def _index(self) -> None:
        length = self._file.seek(0, os.SEEK_END)
        header = self._read(0, _FILE_HEADER)
        if len(header) < _FILE_HEADER or not header.startswith(_FILE_MAGIC):
            raise TraceError("not a trace: it does not begin with OCHEFILE")
        version = struct.unpack_from("<I", header, 8)[0]
        if version != _VERSION:
            raise TraceError(f"a trace of version {version}; this package reads {_VERSION}")
        at = _FILE_HEADER
        while at < length:
            taken = self._take(at, length)
            if taken is not None:
                at = taken
                continue
            following = self._find(at + 1, length)
            if following is None:
                self.warnings.append(f"the last {length - at} bytes are no chunk")
                return
            self.warnings.append(f"{following - at} bytes at offset {at:#x} are damaged")
            at = following

    def _find(self, at: int, length: int) -> Optional[int]:
        while at < length:
            window = self._read(at, 1 << 16)
            found = window.find(_CHUNK_MAGIC)
            if found >= 0:
                return at + found
            if len(window) < len(_CHUNK_MAGIC):
                return None
            at += len(window) - len(_CHUNK_MAGIC) + 1
        return None

    def _take(self, at: int, length: int) -> Optional[int]:
        """Files the chunk at `at`; where the next one begins, or None if none is there."""
        raw = self._read(at, _CHUNK_HEADER)
        if len(raw) < _CHUNK_HEADER or not raw.startswith(_CHUNK_MAGIC):
            return None
        _, kind, cpu, count, checksum, first, lost, _ = _HEADER.unpack_from(raw)
        if count > _MAX_PAYLOAD or count % 8:
            return None
        start = at + _CHUNK_HEADER
        end = start + count
        present = min(count, length - start)
        if present < count and self._find(start, length) is not None:
            return None
        if kind == 1:
            payload = self._read(start, present)
            if present == count and _checksum(raw, payload) == checksum:
                self.sessions.append(_session_of(payload[16:]))
            else:
                self.warnings.append(f"the description at offset {at:#x} is damaged")
        elif kind == 2 and self.sessions and cpu < 32:
            chunk = _Chunk(cpu, start, count, present, checksum, first, lost, raw)
            self.sessions[-1].chunks.setdefault(cpu, []).append(chunk)
        elif kind == 5 and self.sessions:
            payload = self._read(start, present)
            try:
                if present < count or _checksum(raw, payload) != checksum:
                    raise ValueError("its checksum is wrong")
                self.sessions[-1].names.take(payload)
            except ValueError as error:
                self.warnings.append(f"the names at offset {at:#x} are damaged: {error}")
        elif kind == 2:
            self.warnings.append("records with no description before them are left out")
        return end

    def _merged(self, session: Session) -> Iterator[Union[Record, Gap]]:
        streams = [self._of_cpu(cpu, chunks) for cpu, chunks in sorted(session.chunks.items())]
        heap: List[Tuple[int, int, Record, List[Gap]]] = []

        def push(index: int) -> Iterator[Gap]:
            gaps: List[Gap] = []
            for item in streams[index]:
                if isinstance(item, Gap):
                    gaps.append(item)
                    continue
                heapq.heappush(heap, (item.time, index, item, gaps))
                return
            yield from gaps

        for index in range(len(streams)):
            yield from push(index)
        while heap:
            _, index, record, gaps = heapq.heappop(heap)
            yield from gaps
            yield record
            yield from push(index)

    def _of_cpu(self, cpu: int, chunks: List[_Chunk]) -> Iterator[Union[Record, Gap]]:
        expected = 0
        damaged = 0
        for chunk in chunks:
            payload = self._read(chunk.payload_at, chunk.present)
            if chunk.present == chunk.payload_bytes:
                is_sound = _checksum(chunk.header, payload) == chunk.checksum
                count = len(payload) // RECORD_BYTES if is_sound else 0
            else:
                count = _numbered(payload, chunk)
            if count == 0:
                damaged += chunk.present // RECORD_BYTES
                continue
            damaged = 0
            missing = max(0, chunk.first - expected)
            lost = min(chunk.lost_before, missing)
            if missing > lost:
                yield Gap(cpu, missing - lost, False)
            if lost:
                yield Gap(cpu, lost, True)
            for index in range(count):
                yield record_of(payload, index * RECORD_BYTES)
            expected = chunk.first + count
        if damaged:
            yield Gap(cpu, damaged, False)


def _numbered(payload: bytes, chunk: _Chunk) -> int:
    """How many records are those that the header announces, by their numbers and CPU."""
    for index in range(len(payload) // RECORD_BYTES):
        record = record_of(payload, index * RECORD_BYTES)
        if record.seq != chunk.first + index & 0xFFFFFFFF or record.cpu != chunk.cpu:
            return index
    return len(payload) // RECORD_BYTES


def _checksum(header: bytes, payload: bytes) -> int:
    total = running = 0
    header = header[:24] + bytes(8) + header[32:]
    for part in (header, payload):
        for word in struct.unpack(f"<{len(part) // 8}Q", part[: len(part) // 8 * 8]):
            total += word
            running += total
    total &= _MASK
    running &= _MASK
    return total ^ (running << 32 | running >> 32) & _MASK


def _text(raw: bytes) -> str:
    """A padded text as one word that is safe on a terminal."""
    text = raw.split(b"\0", 1)[0].decode("utf-8", "replace")
    return "".join("_" if char.isspace() or not char.isprintable() else char for char in text)


def _session_of(words: bytes) -> Session:
    (hz, start) = struct.unpack_from("<2Q", words, 0x38)
    (_, devices) = struct.unpack_from("<2I", words, 0x50)
    found: List[Device] = []
    for index in range(min(devices, 128)):
        at = 0x1100 + index * 64
        if at + 64 > len(words):
            break
        requester, dart, stream = struct.unpack_from("<IHH", words, at)
        if dart < 32 and stream < 16:
            found.append(Device(_text(words[at + 8 : at + 64]), dart, stream, requester))
    return Session(_text(words[0x60:0x80]), hz, start, found)


def _with_values(
    session: Session, items: Iterator[Union[Record, Gap]]
) -> Iterator[Union[Event, Gap]]:
    """Joins watched accesses, red zones and callers to their bytes, and names devices."""

    def event(record: Record, value: bytes = b"") -> Event:
        device = session.device(record.dart, record.stream)
        return event_of(record, session.nanoseconds(record.time), device, value)

    pending: Dict[int, Tuple[Record, bytearray, int]] = {}
    for item in items:
        if isinstance(item, Gap):
            yield item
            continue
        waiting = pending.pop(item.cpu, None)
        if waiting is not None:
            head, value, following = waiting
            if item.kind == 19 and item.seq == following:
                value += struct.pack("<2Q", *item.words)
                wanted = bytes_behind(head)
                if len(value) < wanted:
                    pending[item.cpu] = (head, value, following + 1 & 0xFFFFFFFF)
                else:
                    yield event(head, bytes(value[:wanted]))
                continue
            yield event(head)
        if item.kind in _SHOWN_WITH_VALUE and bytes_behind(item):
            pending[item.cpu] = (item, bytearray(), item.seq + 1 & 0xFFFFFFFF)
        else:
            yield event(item)
    for head, _, _ in pending.values():
        yield event(head)
