"""The package against `oche trace` on the same files: OCHE names the program."""

import io
import json
import os
import random
import struct
import subprocess
import tempfile
import unittest
import zlib

from oche_trace import Event, Gap, Names, Trace, TraceError

OCHE = os.environ.get("OCHE", "oche")
TRACES = os.environ.get("OCHE_TRACES", "").split(os.pathsep)
INPUTS = int(os.environ.get("OCHE_INPUTS", "300"))
# Fields that `text --json` prints as hexadecimal text.
HEXADECIMAL = {
    "iova", "paddr", "gpa", "hpa", "frame", "offset", "streams", "flags", "code", "root",
    "first", "detail", "payload", "pc",
}


def oche(*arguments):
    """What `oche trace` prints."""
    run = subprocess.run([OCHE, "trace", *arguments], stdout=subprocess.PIPE, check=True)
    return run.stdout.decode()


def as_json(event):
    """An event as `text --json` prints it."""
    fields = dict(event.fields)
    for name in ("dart", "stream", "device"):
        value = getattr(event, name)
        if value is not None:
            fields[name] = value
    if event.pc:
        fields["pc"] = event.pc
    is_hexadecimal = lambda name: name in HEXADECIMAL or (
        name == "value" and event.kind == "register"
    )
    shown = {
        name: f"{value:#x}" if is_hexadecimal(name) and isinstance(value, int) else value
        for name, value in fields.items()
    }
    return {
        "type": "event",
        "time_ns": event.time_ns,
        "ticks": event.ticks,
        "cpu": event.cpu,
        "event": event.kind,
        **shown,
        "seq": event.seq,
    }


class Agreement(unittest.TestCase):
    """Each trace, read in both ways."""

    def test_events_and_gaps(self):
        for path in TRACES:
            with self.subTest(path=path), Trace(path) as trace:
                lines = [json.loads(line) for line in oche("text", "--json", "--all", path).splitlines()]
                boots = [[]]
                for line in lines:
                    if line["type"] == "session":
                        boots.append([])
                        continue
                    for name in ("chain", "value"):
                        if line.get("event") not in (None, "register"):
                            line.pop(name, None)
                    boots[-1].append(line)
                self.assertEqual(len(trace.sessions), len(boots) - 1)
                count = 0
                for index, expected in enumerate(boots[1:]):
                    items = list(trace.events(index))
                    events = [as_json(item) for item in items if isinstance(item, Event)]
                    gaps = sorted(
                        ("lost" if gap.is_lost else "unreadable", gap.cpu, gap.records)
                        for gap in items
                        if isinstance(gap, Gap)
                    )
                    self.assertEqual(events, [line for line in expected if line["type"] == "event"])
                    told = sorted(
                        (line["type"], line["cpu"], line["records"])
                        for line in expected
                        if line["type"] != "event"
                    )
                    self.assertEqual(gaps, told)
                    count += len(events)
                self.assertGreater(count, 0)

    def test_maps(self):
        for path in TRACES:
            with self.subTest(path=path), Trace(path) as trace:
                answer = json.loads(oche("maps", "--json", path))
                expected = [
                    (device["dart"], device["stream"], buffer["iova"], buffer["bytes"],
                     buffer["gpa"], buffer["permission"], buffer["placement"],
                     buffer["since_ns"], buffer["cpu"])
                    for device in answer["devices"]
                    for buffer in device["buffers"]
                ]
                found = [
                    (of.first.dart, of.first.stream, f"{of.first.iova:#x}", of.bytes,
                     f"{of.first.gpa:#x}", of.first.permission, of.first.placement,
                     of.first.since_ns, of.first.cpu)
                    for of in trace.maps()
                ]
                self.assertEqual(found, expected)

    def test_lifetimes_and_faults(self):
        for path in TRACES:
            with self.subTest(path=path), Trace(path) as trace:
                figures = json.loads(oche("stats", "--json", path))[-1]
                lifetimes = list(trace.lifetimes())
                still = sum(1 for of in lifetimes if of.until_ns is None)
                self.assertEqual(still, json.loads(oche("maps", "--json", path))["pages"])
                self.assertTrue(all((of.duration_ns or 0) >= 0 for of in lifetimes))
                faults = sum(1 for _ in trace.faults())
                self.assertEqual(faults, figures["kinds"].get("io_page_fault", 0))
                by_leaks = json.loads(oche("leaks", "--json", path))
                ended = {}
                for of in lifetimes:
                    if of.until_ns is not None:
                        key = (of.mapping.dart, of.mapping.stream, of.mapping.permission)
                        ended[key] = ended.get(key, 0) + 1
                for group in by_leaks["groups"]:
                    key = (group["dart"], group["stream"], group["permission"])
                    self.assertEqual(ended.get(key, 0), group["completed"], key)


class Damage(unittest.TestCase):
    """Whatever the bytes are, the answer is an error of one line or what could be read."""

    def test_foreign_and_newer_files_are_refused(self):
        for raw in (b"", b"x" * 100, b"OCHEFILE" + b"\x09" + bytes(40)):
            with self.assertRaises(TraceError) as caught:
                Trace(io.BytesIO(raw))
            self.assertNotIn("\n", str(caught.exception))

    def test_damaged_files_are_read_as_far_as_they_go(self):
        with open(TRACES[0], "rb") as file:
            whole = file.read()
        numbers = random.Random(1)
        for _ in range(INPUTS):
            raw = bytearray(whole[: numbers.randrange(len(whole))] if numbers.random() < 0.5 else whole)
            for _ in range(numbers.randrange(8)):
                if raw:
                    raw[numbers.randrange(len(raw))] = numbers.randrange(256)
            try:
                trace = Trace(io.BytesIO(bytes(raw)))
            except TraceError:
                continue
            sum(1 for _ in trace.events())
            trace.maps()
            sum(1 for _ in trace.lifetimes())

    def test_a_damaged_file_says_the_same_in_both(self):
        with open(TRACES[0], "rb") as file:
            raw = bytearray(file.read())
        raw[len(raw) // 2] ^= 1
        with tempfile.NamedTemporaryFile(suffix=".oche") as file:
            file.write(raw)
            file.flush()
            with Trace(file.name) as trace:
                items = list(trace.events())
            figures = json.loads(oche("stats", "--json", file.name))[-1]
            events = [item for item in items if isinstance(item, Event)]
            unreadable = sum(item.records for item in items if isinstance(item, Gap))
            self.assertEqual(unreadable, figures["unreadable"] + figures["lost"])
            self.assertTrue(events or unreadable)


class GuestNames(unittest.TestCase):
    """The names inside a trace."""

    @staticmethod
    def payload(text):
        compressed = zlib.compress(text.encode())
        return struct.pack("<2Q", len(text.encode()), len(compressed)) + compressed

    def test_code_is_named_as_oche_names_it(self):
        names = Names()
        names.take(self.payload("kernel Linux version 6.12\ndevice 0000:00:01.0 nvme\n1000 early\n"))
        names.take(self.payload("1000 early_alias\n5000 late usb\n9000 a one\n9100 b two\nodd\n"))
        self.assertEqual(names.kernel, "Linux version 6.12")
        self.assertEqual(names.drivers, {"0000:00:01.0": "nvme"})
        self.assertEqual(str(names.find(0x1004)), "early+0x4")
        self.assertEqual(str(names.find(0x5010)), "late+0x10 [usb]")
        self.assertIsNone(names.find(0x9004), "two modules were at the page")
        self.assertIsNone(names.find(0xFFF))
        self.assertIsNone(names.find(0x5000 + (2 << 20)))

    def test_damage_is_an_error(self):
        whole = self.payload("1000 early\n")
        for damaged in (b"", whole[:15], whole[:-1], b"\x01" + whole[1:], whole[:16] + b"x" * 30):
            with self.assertRaises(ValueError):
                Names().take(damaged)

    def test_names_of_a_trace_are_those_that_oche_prints(self):
        with tempfile.TemporaryDirectory() as folder:
            path, kallsyms = os.path.join(folder, "t.oche"), os.path.join(folder, "kallsyms")
            with open(path, "wb") as out, open(TRACES[0], "rb") as whole:
                out.write(whole.read())
            with open(kallsyms, "w") as out:
                out.write("ffff800008000000 T _stext\nffff800009000100 t flush\t[dart]\n")
            oche("symbols", path, "--add", kallsyms)
            printed = oche("symbols", path)
            with Trace(path) as trace:
                self.assertEqual(trace.warnings, [])
                for line in printed.splitlines():
                    address, _, name = line.split()[:3]
                    place = trace.names().find(int(address, 16))
                    self.assertEqual((place.function, place.offset), (name, 0))


if __name__ == "__main__":
    unittest.main()
