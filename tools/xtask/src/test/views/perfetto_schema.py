"""Reads a trace with the descriptors that Perfetto's own Python package carries, and judges it.

Prints `ok: ...` and exits with 0, or prints what is wrong and exits with 1.
"""

import collections
import sys

from google.protobuf import unknown_fields
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as schema


def no_unknown_fields(message, where):
    """Whatever Perfetto's schema does not know is an error of ours."""
    unknown = unknown_fields.UnknownFieldSet(message)
    assert len(unknown) == 0, f"{where}: field {unknown[0].field_number} is in no schema"
    for field, value in message.ListFields():
        if field.message_type is not None:
            values = [value] if hasattr(value, "DESCRIPTOR") else value
            for inner in values:
                no_unknown_fields(inner, f"{where}.{field.name}")


def main(path):
    trace = schema.Trace()
    with open(path, "rb") as file:
        trace.ParseFromString(file.read())
    assert trace.IsInitialized(), "a required field is missing"
    kind = schema.TrackEvent.Type
    tracks, events = {}, []
    for number, packet in enumerate(trace.packet):
        no_unknown_fields(packet, f"packet {number}")
        assert packet.trusted_packet_sequence_id == 1
        if packet.HasField("track_descriptor"):
            descriptor = packet.track_descriptor
            if descriptor.HasField("parent_uuid"):
                assert descriptor.parent_uuid in tracks, f"packet {number}: its parent is not declared"
            tracks[descriptor.uuid] = descriptor
        elif packet.HasField("track_event"):
            event = packet.track_event
            assert event.track_uuid in tracks, f"packet {number}: its track is not declared"
            assert event.type in kind.values(), f"packet {number}: type {event.type}"
            is_counter = event.type == kind.TYPE_COUNTER
            assert is_counter == tracks[event.track_uuid].HasField("counter")
            assert is_counter == event.HasField("counter_value")
            assert event.type != kind.TYPE_SLICE_BEGIN or event.name, f"packet {number}: a slice without a name"
            events.append((packet.timestamp, event))
        else:
            assert packet.HasField("clock_snapshot"), f"packet {number} holds nothing"
    depth = collections.Counter()
    by_type = collections.Counter()
    for _, event in sorted(events, key=lambda pair: pair[0]):
        by_type[kind.Name(event.type)] += 1
        if event.type == kind.TYPE_SLICE_BEGIN:
            depth[event.track_uuid] += 1
            assert depth[event.track_uuid] == 1, "slices of one track overlap"
        elif event.type == kind.TYPE_SLICE_END:
            depth[event.track_uuid] -= 1
            assert depth[event.track_uuid] == 0, "a slice ends that did not begin"
    names = {descriptor.name for descriptor in tracks.values()}
    for wanted in ["mappings", "mapped", "mapped, migrated", "flushes a second", "faults and changes"]:
        assert wanted in names, f"there is no track called {wanted}"
    for wanted in ["TYPE_SLICE_BEGIN", "TYPE_SLICE_END", "TYPE_COUNTER", "TYPE_INSTANT"]:
        assert by_type[wanted] > 0, f"there is no event of {wanted}"
    print(f"ok: {len(trace.packet)} packets, {len(tracks)} tracks, {by_type['TYPE_SLICE_BEGIN']} slices")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except AssertionError as error:
        sys.exit(f"{sys.argv[1]}: {error}")
