"""Reads traces of Oche: events, mappings, lifetimes and faults, as dataclasses.

    from oche_trace import Trace

    with Trace("boot.oche") as trace:
        for fault in trace.faults():
            print(fault.time_ns, fault.device, hex(fault.iova))

Events are read as they are asked for; memory grows with the number of chunks and with what is
mapped at once. The format is described in docs/trace.md.
"""

from .events import Event, Gap, event_of
from .names import Names, Place
from .reader import Device, Session, Trace, TraceError
from .views import Buffer, Fault, Lifetime, Mapping

__all__ = [
    "Buffer",
    "Device",
    "Event",
    "Fault",
    "Gap",
    "Lifetime",
    "Mapping",
    "Names",
    "Place",
    "Session",
    "Trace",
    "TraceError",
    "event_of",
]
