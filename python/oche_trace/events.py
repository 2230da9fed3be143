"""Records of 32 bytes, and the events that they hold (docs/trace.md, "A record")."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Callable, Dict, Optional, Tuple, Union

RECORD_BYTES = 32
PAGE_BYTES = 4096
FRAME_BYTES = 16384
_NONE = 0xFF
_WORDS = struct.Struct("<4Q")

Value = Union[int, str]

PERMISSIONS = ("--", "r-", "-w", "rw")
PLACEMENTS = ("direct", "migrated", "bounce")
REASONS = (
    "pool-exhausted",
    "not-guest-memory",
    "device-not-direct",
    "sub-page-window",
    "too-many-aliases",
    "table-not-guest-memory",
    "too-many-tables",
    "too-many-domains",
    "out-of-stage2-tables",
    "not-trappable",
    "mixed-permission",
)
HOW = ("exact", "before", "after", "given-up")


@dataclass(frozen=True)
class Event:
    """An event. `fields` has what `oche trace text --json` has, numbers as integers."""

    time_ns: int
    """Nanoseconds since Oche's start."""
    ticks: int
    cpu: int
    kind: str
    """The event's name, such as `map`; `unknown` where a later version wrote it. Where a record
    makes no sense, its fields are `kind`, `detail` and `payload`."""
    seq: int
    """The event's number on its CPU, modulo 2**32."""
    dart: Optional[int]
    stream: Optional[int]
    device: Optional[str]
    pc: int
    """The guest's program counter; 0: no guest instruction is the cause."""
    fields: Dict[str, Value] = field(default_factory=dict)
    value: bytes = b""
    """Of a watched access, a hit of a red zone or callers: the bytes behind it."""


@dataclass(frozen=True)
class Gap:
    """Records that are missing before the CPU's next event."""

    cpu: int
    records: int
    is_lost: bool
    """They were overwritten before they were read, or else the file is damaged."""


def _word(of: Tuple[str, ...], index: int) -> Optional[str]:
    return of[index] if index < len(of) else None


def _yes(flag: int) -> str:
    return "yes" if flag else "no"


def _op(flag: int) -> str:
    return "write" if flag else "read"


def _page(payload: int) -> int:
    return (payload & 0xFFFFFFFF) * PAGE_BYTES


def _iova(payload: int) -> int:
    return (payload >> 32) * PAGE_BYTES


Fields = Optional[Dict[str, Value]]


def _map(d: int, p: int) -> Fields:
    placement = _word(PLACEMENTS, d >> 2 & 0xF)
    if placement is None:
        return None
    return {
        "iova": _iova(p),
        "paddr": _page(p),
        "size": PAGE_BYTES,
        "perm": PERMISSIONS[d & 3],
        "placement": placement,
    }


def _unmap(_: int, p: int) -> Fields:
    return {"iova": _iova(p), "size": PAGE_BYTES, "unmapped_size": PAGE_BYTES, "paddr": _page(p)}


def _refused(d: int, p: int) -> Fields:
    reason = _word(REASONS, d & 0xFF)
    return None if reason is None else {"iova": _iova(p), "paddr": _page(p), "reason": reason}


def _moved(_: int, p: int) -> Fields:
    return {"gpa": _page(p), "hpa": _iova(p), "home": _yes(p & 0xFFFFFFFF == p >> 32)}


def _live_move(d: int, p: int) -> Fields:
    frame = (p & 0xFFFFFFFF) * FRAME_BYTES
    return {"iova": _iova(p), "frame": frame, "merged": d & 0x7FFF}


def _fault(d: int, p: int) -> Fields:
    return {"iova": p, "flags": d >> 13 & 1, "code": d & 0x1FFF, "hidden": _yes(d >> 14 & 1)}


def _snapshot(d: int, p: int) -> Fields:
    when = "unmap" if d >> 14 & 1 else "map"
    return {"iova": _iova(p), "paddr": _page(p), "when": when, "bytes": d & 0x1FFF}


def _watch(d: int, p: int) -> Fields:
    offset = p >> 32 & 0xFFF
    return {
        "op": _op(d & 1),
        "iova": (p >> 44) * PAGE_BYTES | offset,
        "gpa": _page(p) | offset,
        "bytes": d >> 1 & 0x7F,
        "how": HOW[d >> 8 & 3],
    }


def _permission(d: int, p: int) -> Fields:
    return {"iova": _iova(p), "paddr": _page(p), "size": PAGE_BYTES, "perm": PERMISSIONS[d & 3]}


_DECODERS: Dict[int, Tuple[str, Callable[[int, int], Fields]]] = {
    1: ("register", lambda d, p: {
        "op": _op(d & 1), "offset": p >> 32 & 0xFFFF, "value": p & 0xFFFFFFFF}),
    2: ("flush", lambda d, p: {"streams": p & 0xFFFF}),
    3: ("flush_done", lambda d, p: {"pages": p & 0xFFFFFFFF, "busy": _yes(d & 1)}),
    4: ("map", _map),
    5: ("unmap", _unmap),
    6: ("refused", _refused),
    7: ("moved", _moved),
    8: ("live_move", _live_move),
    9: ("merged", lambda d, p: {"gpa": _page(p), "merged": p >> 32}),
    11: ("red_zone", lambda d, p: {
        "iova": _iova(p) + (p & 0xFFFF), "bytes": p >> 16 & 0xFFFF}),
    12: ("io_page_fault", _fault),
    13: ("table", lambda d, p: {
        "gpa": _page(p), "state": "unsync" if d & 1 else "write-protected"}),
    14: ("attach", lambda d, p: {"root": _page(p) if d & 1 else "none"}),
    15: ("invalidate_timeout", lambda d, p: {}),
    16: ("access", lambda d, p: {"gpa": p, "op": _op(d & 1)}),
    17: ("filter", lambda d, p: {"setting": p & 0xFFFFFFFF, "whole": _yes(d & 1)}),
    18: ("snapshot", _snapshot),
    20: ("watch", _watch),
    21: ("callers", lambda d, p: {"frames": d & 0xF, "first": p}),
    22: ("fetched", lambda d, p: {"gpa": _page(p), "hpa": _iova(p)}),
    23: ("permission", _permission),
    24: ("callchain", lambda d, p: {"frames": d & 0xF, "cut": _yes(d >> 4 & 1)}),
}
KINDS = {number: name for number, (name, _) in _DECODERS.items()}
KINDS[19] = "data"


@dataclass(frozen=True)
class Record:
    """A record's words, taken apart."""

    time: int
    seq: int
    kind: int
    cpu: int
    dart: Optional[int]
    stream: Optional[int]
    pc: int
    detail: int
    payload: int
    words: Tuple[int, int]


def record_of(raw: bytes, offset: int = 0) -> Record:
    """The record at `offset` of `raw`."""
    time, one, two, three = _WORDS.unpack_from(raw, offset)
    dart, stream = one >> 48 & 0xFF, one >> 56
    kind = one >> 32 & 0xFF
    pc = two & 0xFFFFFFFFFFFF
    if two >> 48 & 1:
        pc |= 0xFFFF << 48
    return Record(
        time,
        one & 0xFFFFFFFF,
        kind,
        one >> 40 & 0xFF,
        None if dart == _NONE else dart,
        None if stream == _NONE else stream,
        0 if kind == 19 else pc,
        two >> 49,
        three,
        (two, three),
    )


def bytes_behind(record: Record) -> int:
    """How many bytes the `data` records behind `record` hold."""
    if record.kind == 11:
        return record.detail & 0x7FFF
    if record.kind == 18:
        return record.detail & 0x1FFF
    if record.kind == 20:
        return record.detail >> 1 & 0x7F
    if record.kind == 21:
        return max(0, (record.detail & 0xF) - 1) * 8
    if record.kind == 24:
        return max(0, (record.detail & 0xF) - 2) * 4
    return 0


def event_of(record: Record, time_ns: int, device: Optional[str], value: bytes = b"") -> Event:
    """The event that `record` holds."""
    kind, fields = "unknown", None
    if record.kind == 19:
        kind, fields = "data", {"bytes": struct.pack("<2Q", *record.words).hex()}
    elif record.kind in _DECODERS:
        kind, decode = _DECODERS[record.kind]
        fields = decode(record.detail, record.payload)
    if fields is None:
        fields = {"kind": record.kind, "detail": record.detail, "payload": record.payload}
    return Event(
        time_ns,
        record.time,
        record.cpu,
        kind,
        record.seq,
        record.dart,
        record.stream,
        device,
        record.pc,
        fields,
        value,
    )
