"""The guest's names inside a trace: functions, modules, devices and their drivers."""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Set, Tuple

# Farthest that code may be from the symbol before it, and the size of a page: as `oche` has them.
_FARTHEST = 1 << 20
_PAGE_BITS = 12
_LONGEST = 128 << 20
_HEAD = struct.Struct("<2Q")


@dataclass(frozen=True)
class Place:
    """Code in a function of the guest."""

    function: str
    offset: int
    module: Optional[str]

    def __str__(self) -> str:
        module = f" [{self.module}]" if self.module else ""
        return f"{self.function}+{self.offset:#x}{module}"


@dataclass
class Names:
    """What the guest calls its code and its devices."""

    kernel: str = ""
    drivers: Dict[str, str] = field(default_factory=dict)
    """The driver of each device that has one."""
    missing: List[str] = field(default_factory=list)
    """What is not known, and why."""

    def __post_init__(self) -> None:
        self._functions: Set[Tuple[int, str, str]] = set()
        self._addresses: List[int] = []
        self._places: List[Optional[Tuple[str, str]]] = []

    def find(self, pc: int) -> Optional[Place]:
        """The code at the address, if its name is known."""
        if len(self._addresses) == 0 and self._functions:
            self._sort()
        index = bisect_right(self._addresses, pc) - 1
        if index < 0:
            return None
        place, offset = self._places[index], pc - self._addresses[index]
        if place is None or offset >= _FARTHEST:
            return None
        return Place(place[0], offset, place[1] or None)

    def take(self, payload: bytes) -> None:
        """Adds the names in a chunk's payload; ValueError where it is damaged."""
        if len(payload) < _HEAD.size:
            raise ValueError("it has no length")
        wanted, count = _HEAD.unpack_from(payload)
        compressed = payload[_HEAD.size : _HEAD.size + count]
        if wanted > _LONGEST or len(compressed) < count:
            raise ValueError("its length is wrong")
        inflate = zlib.decompressobj()
        try:
            text = inflate.decompress(compressed, wanted + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        if len(text) != wanted:
            raise ValueError(f"it has not {wanted} bytes of text")
        for line in text.decode(errors="replace").split("\n"):
            self._take_line(line)
        self._addresses = []

    def _take_line(self, line: str) -> None:
        first, _, rest = line.partition(" ")
        words = rest.split()
        if first == "kernel":
            self.kernel = rest
        elif first == "missing":
            self.missing.append(rest)
        elif first == "device":
            if len(words) > 1:
                self.drivers[words[0]] = words[1]
        elif words:
            try:
                address = int(first, 16)
            except ValueError:
                return
            self._functions.add((address, words[0], words[1] if len(words) > 1 else ""))

    def _sort(self) -> None:
        # Of several names for one address the shortest; none where two modules were at one page.
        pages: Dict[int, Set[str]] = {}
        for address, _, module in self._functions:
            pages.setdefault(address >> _PAGE_BITS, set()).add(module)
        self._addresses, self._places = [], []
        for address, name, module in sorted(
            self._functions, key=lambda one: (one[0], len(one[1]), one[1])
        ):
            if self._addresses and self._addresses[-1] == address:
                continue
            is_one = len(pages[address >> _PAGE_BITS]) == 1
            self._addresses.append(address)
            self._places.append((name, module) if is_one else None)
