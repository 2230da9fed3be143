//! The description of a CTF trace's streams and events, in TSDL. Source: Common Trace Format
//! 1.8.3, chapter 7 and appendix C.

use std::fmt::Write;

use oche_types::event::Kind;
use sha2::{Digest, Sha256};

use super::super::description::TraceDescription;
use super::super::event_fields::{CLASSES, EventClass, FieldType};

/// The description's name.
pub(super) const METADATA: &str = "metadata";
/// What a stream's name begins with; the CPU's number follows.
pub(super) const STREAM: &str = "cpu";
/// The begin of every description that this program writes: by it an earlier export is known.
pub(super) const HEADING: &str = "/* CTF 1.8 */\n/* Written by oche: `oche trace ctf`. */\n";

/// The numeric types. All are aligned to bytes, so that nothing is padded.
const TYPES: &str = "
typealias integer { size = 8; align = 8; signed = false; base = 10; } := u8;
typealias integer { size = 16; align = 8; signed = false; base = 10; } := u16;
typealias integer { size = 16; align = 8; signed = true; base = 10; } := i16;
typealias integer { size = 32; align = 8; signed = false; base = 10; } := u32;
typealias integer { size = 64; align = 8; signed = false; base = 10; } := u64;
typealias integer { size = 8; align = 8; signed = false; base = 16; } := x8;
typealias integer { size = 64; align = 8; signed = false; base = 16; } := x64;
typealias string { encoding = UTF8; } := text;
";

/// The stream: its packets' context is in the order in which `Packet::finish` writes it, its
/// events' that of `Stream::event`.
///
/// The names of an event's fields begin with an underscore, which readers take away: one of them
/// is a word of TSDL (`stream`).
const STREAMS: &str = "
typealias integer { size = 64; align = 8; signed = false; map = clock.oche.value; } := time;

stream {
	id = 0;
	packet.context := struct {
		time timestamp_begin;
		time timestamp_end;
		u64 content_size;
		u64 packet_size;
		u64 events_discarded;
		u64 packet_seq_num;
		u32 cpu_id;
	};
	event.header := struct {
		u8 id;
		time timestamp;
	};
	/* dart, stream: -1 where the event is of none. pc: 0 where no code of the guest's caused it. */
	event.context := struct {
		i16 _dart;
		i16 _stream;
		text _device;
		x64 _pc;
		text _code_name;
		u32 _seq;
	};
};
";

/// What a trace's description says besides its types.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// The machine, its DARTs and its devices.
    pub(super) description: &'a TraceDescription,
    /// Which boot of the trace file it is, from 1.
    pub(super) boot: usize,
    /// Nanoseconds since 1970 UTC when the recording began.
    pub(super) recorded_unix_ns: u64,
    /// Nanoseconds since 1970 UTC of Oche's start, where known.
    pub(super) start_unix_ns: Option<u64>,
}

impl Facts<'_> {
    /// An identifier of the trace: the same for the same boot of the same recording.
    pub(super) fn uuid(&self) -> [u8; 16] {
        let machine = &self.description.machine;
        let mut hash = Sha256::new();
        hash.update(machine.board.as_str());
        hash.update([0]);
        hash.update(machine.release.as_str());
        hash.update([0]);
        for number in [self.boot as u64, self.recorded_unix_ns, machine.start_ticks] {
            hash.update(number.to_le_bytes());
        }
        let mut uuid = [0; 16];
        for (to, from) in uuid.iter_mut().zip(hash.finalize()) {
            *to = from;
        }
        // Version 8 (of a content of one's own), variant 1. Source: RFC 9562, 5.8.
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        uuid
    }

    /// The description's text.
    pub(super) fn tsdl(&self) -> String {
        let mut text = format!("{HEADING}{TYPES}");
        let _ = write!(
            text,
            "
trace {{
	major = 1;
	minor = 8;
	uuid = \"{}\";
	byte_order = le;
	packet.header := struct {{
		u32 magic;
		u8 uuid[16];
		u32 stream_id;
	}};
}};
",
            written(self.uuid())
        );
        self.environment(&mut text);
        self.clock(&mut text);
        text.push_str(STREAMS);
        for class in &CLASSES {
            event(class, &mut text);
        }
        text
    }

    fn environment(&self, text: &mut String) {
        let machine = &self.description.machine;
        let mut entry = |name: &str, value: &str| {
            let _ = writeln!(text, "\t{name} = {};", quoted(value));
        };
        entry("tracer_name", "oche");
        entry("oche_version", crate::version::SHORT);
        entry("board", machine.board.as_str());
        entry("release", &self.description.release());
        for dart in &self.description.darts {
            entry(&format!("dart_{}", dart.dart.index()), dart.name.as_str());
        }
        for device in &self.description.devices {
            let (dart, stream) = (device.dart.index(), device.stream.index());
            let name = format!("device_{:04x}", device.requester);
            entry(&name, &format!("{} dart={dart} stream={stream}", device.name.as_str()));
        }
        let numbers = [("boot", self.boot as u64), ("counter_hz", machine.counter_hz)];
        for (name, value) in numbers {
            // An integer of the environment is signed.
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            let _ = writeln!(text, "\t{name} = {value};");
        }
        let begun = text.find("\ttracer_name").unwrap_or(text.len());
        text.insert_str(begun, "\nenv {\n");
        text.push_str("};\n");
    }

    fn clock(&self, text: &mut String) {
        let start = self.start_unix_ns.unwrap_or(0);
        let _ = write!(
            text,
            "
clock {{
	name = oche;
	description = \"{}\";
	freq = 1000000000;
	offset_s = {};
	offset = {};
	absolute = {};
}};
",
            match self.start_unix_ns {
                Some(_) => "nanoseconds since Oche's start; the offset makes them UTC",
                None => "nanoseconds since Oche's start; its time of day is not known",
            },
            start / 1_000_000_000,
            start % 1_000_000_000,
            if self.start_unix_ns.is_some() { "TRUE" } else { "FALSE" },
        );
    }
}

fn event(class: &EventClass, text: &mut String) {
    let id = class.kind.map_or(0, Kind::number);
    let _ = write!(
        text,
        "
/*{} */
event {{
	name = \"{}\";
	id = {id};
	stream_id = 0;
	fields := struct {{
",
        // A comment's end in it would end this one.
        class.about.replace("*/", "* /"),
        class.name
    );
    for (name, of) in class.fields {
        field(name, *of, text);
    }
    match class.kind {
        Some(Kind::Watch | Kind::RedZone) => sequence("value", "x8", text),
        Some(Kind::Callers | Kind::CallChain) => {
            sequence("chain", "x64", text);
            text.push_str("\t\ttext _chain_names;\n");
        }
        _ => {}
    }
    text.push_str("\t};\n};\n");
}

fn field(name: &str, of: FieldType, text: &mut String) {
    let _ = match of {
        FieldType::Hex | FieldType::Range => writeln!(text, "\t\tx64 _{name};"),
        FieldType::Number => writeln!(text, "\t\tu64 _{name};"),
        FieldType::Word => writeln!(text, "\t\ttext _{name};"),
        FieldType::Bytes => writeln!(text, "\t\tx8 _{name}[16];"),
        FieldType::HexOrNone => writeln!(
            text,
            "\t\tenum : u8 {{ none = 0, address = 1 }} _{name}_is;\n\
             \t\tvariant <_{name}_is> {{ struct {{}} none; x64 address; }} _{name};"
        ),
    };
}

fn sequence(name: &str, of: &str, text: &mut String) {
    let _ = writeln!(text, "\t\tu16 __{name}_length;\n\t\t{of} _{name}[ __{name}_length ];");
}

/// `uuid` as people write it.
fn written(uuid: [u8; 16]) -> String {
    let mut text = String::new();
    for (place, byte) in uuid.into_iter().enumerate() {
        let dash = if matches!(place, 4 | 6 | 8 | 10) { "-" } else { "" };
        let _ = write!(text, "{dash}{byte:02x}");
    }
    text
}

/// A string of TSDL: as in C. A name from a damaged trace may hold anything.
fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for char in value.chars() {
        match char {
            '"' | '\\' => text.extend(['\\', char]),
            _ if char.is_control() => text.push('_'),
            _ => text.push(char),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_end_its_string() {
        assert_eq!(quoted("a\"b\\c\nd"), "\"a\\\"b\\\\c_d\"");
    }

    #[test]
    fn an_identifier_is_written_in_five_groups() {
        let text = written(std::array::from_fn(|place| place as u8 * 0x11));
        assert_eq!(text, "00112233-4455-6677-8899-aabbccddeeff");
    }
}
