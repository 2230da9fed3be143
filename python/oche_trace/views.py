"""What the events mean: mappings, how long they lasted, buffers, faults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Tuple, Union

from .events import PAGE_BYTES, Event, Gap

Items = Iterator[Union[Event, Gap]]


@dataclass(frozen=True)
class Mapping:
    """A page of a device's IOVA space that is mapped."""

    dart: int
    stream: int
    device: Optional[str]
    iova: int
    gpa: int
    """The guest page's address."""
    permission: str
    """`rw`, `r-` or `-w`."""
    placement: str
    since_ns: int
    cpu: int
    pc: int
    """The guest's code that flushed."""
    flush: int
    """Which flush of the CPU brought it; 0: none is known."""


@dataclass(frozen=True)
class Lifetime:
    """A mapping from its begin to its end."""

    mapping: Mapping
    until_ns: Optional[int]
    """None: it was still mapped at the trace's end."""
    cpu: Optional[int]
    pc: Optional[int]

    @property
    def duration_ns(self) -> Optional[int]:
        """How long it was mapped."""
        return None if self.until_ns is None else self.until_ns - self.mapping.since_ns


@dataclass(frozen=True)
class Buffer:
    """Neighbouring pages that one flush brought."""

    first: Mapping
    pages: int

    @property
    def bytes(self) -> int:
        """Its bytes, whole pages."""
        return self.pages * PAGE_BYTES


@dataclass(frozen=True)
class Fault:
    """An access that was refused."""

    time_ns: int
    dart: int
    stream: int
    device: Optional[str]
    iova: int
    code: int
    is_write: bool
    is_hidden: bool
    """The guest's register still held an earlier one."""


_Place = Tuple[int, int]
_Key = Tuple[_Place, int]


class _Model:
    """Follows what is mapped. Streams with one table root share their mappings."""

    def __init__(self) -> None:
        self.live: Dict[_Key, Mapping] = {}
        self.replaced: Dict[Tuple[_Key, int], Mapping] = {}
        self._space: Dict[_Place, _Place] = {}
        self._roots: Dict[_Place, int] = {}
        self._flushes: Dict[int, int] = {}

    def follow(self, event: Event) -> Optional[Mapping]:
        """Follows `event`; the mapping that it ended."""
        if event.kind == "flush":
            self._flushes[event.cpu] = self._flushes.get(event.cpu, 0) + 1
            return None
        if event.dart is None or event.stream is None:
            return None
        place = (event.dart, event.stream)
        if event.kind == "attach":
            self._attach(place, event.fields.get("root", "none"))
            return None
        # A damaged record may be of a kind and not have its fields.
        if event.kind not in ("map", "unmap", "permission") or "paddr" not in event.fields:
            return None
        key = (self._space.get(place, place), int(event.fields["iova"]))
        gpa = int(event.fields["paddr"])
        if event.kind == "map":
            over = self.live.get(key)
            if over is not None:
                self.replaced[(key, over.gpa)] = over
            self.live[key] = self._mapping(event, place)
            return None
        known = self.live.get(key)
        if event.kind == "permission":
            if known is not None and known.gpa == gpa:
                values = {**known.__dict__, "permission": str(event.fields["perm"])}
                self.live[key] = Mapping(**values)
            return None
        if known is None or known.gpa != gpa:
            old = self.replaced.pop((key, gpa), None)
            if old is not None:
                return old
        return self.live.pop(key, None)

    def mappings(self) -> List[Mapping]:
        """All that is mapped, by stream, address and time."""
        every = list(self.live.values()) + list(self.replaced.values())
        return sorted(every, key=lambda of: (of.dart, of.stream, of.iova, of.since_ns))

    def _mapping(self, event: Event, place: _Place) -> Mapping:
        fields = event.fields
        return Mapping(
            place[0],
            place[1],
            event.device,
            int(fields["iova"]),
            int(fields["paddr"]),
            str(fields["perm"]),
            str(fields["placement"]),
            event.time_ns,
            event.cpu,
            event.pc,
            self._flushes.get(event.cpu, 0),
        )

    def _attach(self, place: _Place, root: Union[int, str]) -> None:
        before = self._space.get(place, place)
        self._roots.pop(place, None)
        space = place
        if isinstance(root, int):
            sharers = (other for other, of in self._roots.items() if of == root)
            sharer = next(sharers, None)
            self._roots[place] = root
            if sharer is not None:
                space = self._space.get(sharer, sharer)
            elif self._is_alone(place, before):
                space = before
        elif self._is_alone(place, before):
            space = before
        self._space[place] = space
        if before == place and space != before and before not in self._space.values():
            for key in [key for key in self.live if key[0] == before]:
                self.live[(space, key[1])] = self.live.pop(key)

    def _is_alone(self, place: _Place, space: _Place) -> bool:
        return all(of != space for other, of in self._space.items() if other != place)


def lifetimes(items: Items) -> Iterator[Lifetime]:
    """Each mapping as it ends, then those that do not."""
    model = _Model()
    for event in items:
        if isinstance(event, Event):
            ended = model.follow(event)
            if ended is not None:
                yield Lifetime(ended, event.time_ns, event.cpu, event.pc)
    for mapping in model.mappings():
        yield Lifetime(mapping, None, None, None)


def maps(_: object, items: Items, at_ns: Optional[int]) -> List[Buffer]:
    """What is mapped at `at_ns`, or at the end."""
    model = _Model()
    for event in items:
        if isinstance(event, Event):
            if at_ns is not None and event.time_ns > at_ns:
                break
            model.follow(event)
    buffers: List[Buffer] = []
    last: Optional[Mapping] = None
    for mapping in model.mappings():
        if buffers and last is not None and _goes_on(last, mapping):
            buffers[-1] = Buffer(buffers[-1].first, buffers[-1].pages + 1)
        else:
            buffers.append(Buffer(mapping, 1))
        last = mapping
    return buffers


def _goes_on(last: Mapping, following: Mapping) -> bool:
    def of(mapping: Mapping) -> Tuple[int, int, str, int, int]:
        return (mapping.dart, mapping.stream, mapping.permission, mapping.flush, mapping.cpu)

    return following.iova == last.iova + PAGE_BYTES and of(following) == of(last)


def faults(items: Items) -> Iterator[Fault]:
    """Each access that was refused."""
    for event in items:
        if isinstance(event, Event) and event.kind == "io_page_fault":
            fields = event.fields
            if event.dart is None or event.stream is None:
                continue
            yield Fault(
                event.time_ns,
                event.dart,
                event.stream,
                event.device,
                int(fields["iova"]),
                int(fields["code"]),
                fields["flags"] == 1,
                fields["hidden"] == "yes",
            )
