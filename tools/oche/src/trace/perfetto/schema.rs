//! The part of Perfetto's schema that is written. Numbers: `protos/perfetto/trace/` of Perfetto; a
//! test of `cargo xtask test` reads the output with the descriptors that Perfetto's own package
//! carries.

use prost::{Message, Oneof};

/// `Trace`: packets, one behind the other.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Trace {
    #[prost(message, repeated, tag = "1")]
    pub(super) packet: Vec<TracePacket>,
}

/// `TracePacket`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TracePacket {
    /// Nanoseconds of the trace's clock.
    #[prost(uint64, optional, tag = "8")]
    pub(super) timestamp: Option<u64>,
    #[prost(message, optional, tag = "6")]
    pub(super) clock_snapshot: Option<ClockSnapshot>,
    #[prost(uint32, optional, tag = "10")]
    pub(super) trusted_packet_sequence_id: Option<u32>,
    #[prost(message, optional, tag = "11")]
    pub(super) track_event: Option<TrackEvent>,
    #[prost(uint32, optional, tag = "13")]
    pub(super) sequence_flags: Option<u32>,
    #[prost(message, optional, tag = "60")]
    pub(super) track_descriptor: Option<TrackDescriptor>,
    #[prost(bool, optional, tag = "87")]
    pub(super) first_packet_on_sequence: Option<bool>,
}

impl TracePacket {
    /// `SEQ_INCREMENTAL_STATE_CLEARED`.
    pub(super) const STATE_CLEARED: u32 = 1;
}

/// `ClockSnapshot`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ClockSnapshot {
    #[prost(message, repeated, tag = "1")]
    pub(super) clocks: Vec<Clock>,
    #[prost(int32, optional, tag = "2")]
    pub(super) primary_trace_clock: Option<i32>,
}

/// `ClockSnapshot.Clock`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Clock {
    #[prost(uint32, tag = "1")]
    pub(super) clock_id: u32,
    #[prost(uint64, tag = "2")]
    pub(super) timestamp: u64,
}

impl Clock {
    /// `BUILTIN_CLOCK_REALTIME`.
    pub(super) const REALTIME: u32 = 1;
    /// `BUILTIN_CLOCK_BOOTTIME`.
    pub(super) const BOOTTIME: u32 = 6;
}

/// `TrackDescriptor`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TrackDescriptor {
    #[prost(uint64, tag = "1")]
    pub(super) uuid: u64,
    #[prost(string, optional, tag = "2")]
    pub(super) name: Option<String>,
    #[prost(message, optional, tag = "3")]
    pub(super) process: Option<ProcessDescriptor>,
    #[prost(uint64, optional, tag = "5")]
    pub(super) parent_uuid: Option<u64>,
    #[prost(message, optional, tag = "8")]
    pub(super) counter: Option<CounterDescriptor>,
}

impl TrackDescriptor {
    pub(super) fn named(uuid: u64, name: &str) -> Self {
        Self { uuid, name: Some(name.into()), ..Self::default() }
    }
}

/// `ProcessDescriptor`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ProcessDescriptor {
    #[prost(int32, optional, tag = "1")]
    pub(super) pid: Option<i32>,
    #[prost(string, optional, tag = "6")]
    pub(super) process_name: Option<String>,
}

/// `CounterDescriptor`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CounterDescriptor {
    #[prost(int32, optional, tag = "3")]
    pub(super) unit: Option<i32>,
    #[prost(string, optional, tag = "6")]
    pub(super) unit_name: Option<String>,
}

impl CounterDescriptor {
    /// `UNIT_SIZE_BYTES`.
    pub(super) const BYTES: i32 = 3;
}

/// `TrackEvent`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TrackEvent {
    #[prost(message, repeated, tag = "4")]
    pub(super) debug_annotations: Vec<Annotation>,
    #[prost(int32, optional, tag = "9")]
    pub(super) r#type: Option<i32>,
    #[prost(uint64, optional, tag = "11")]
    pub(super) track_uuid: Option<u64>,
    #[prost(string, repeated, tag = "22")]
    pub(super) categories: Vec<String>,
    #[prost(string, optional, tag = "23")]
    pub(super) name: Option<String>,
    #[prost(int64, optional, tag = "30")]
    pub(super) counter_value: Option<i64>,
}

/// `TrackEvent.Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventKind {
    SliceBegin = 1,
    SliceEnd = 2,
    Instant = 3,
    Counter = 4,
}

impl TrackEvent {
    pub(super) fn new(kind: EventKind, track: u64) -> Self {
        Self { r#type: Some(kind as i32), track_uuid: Some(track), ..Self::default() }
    }

    pub(super) fn with(self, debug_annotations: Vec<Annotation>) -> Self {
        Self { debug_annotations, ..self }
    }
}

/// `DebugAnnotation`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Annotation {
    #[prost(string, optional, tag = "10")]
    pub(super) name: Option<String>,
    #[prost(oneof = "Value", tags = "3, 6, 7")]
    pub(super) value: Option<Value>,
}

/// `DebugAnnotation.value`, as far as it is used.
#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Value {
    #[prost(uint64, tag = "3")]
    Number(u64),
    #[prost(string, tag = "6")]
    Text(String),
    #[prost(uint64, tag = "7")]
    Pointer(u64),
}

impl Annotation {
    /// A text by name.
    pub(super) fn text(name: &str, text: String) -> Self {
        Self { name: Some(name.into()), value: Some(Value::Text(text)) }
    }

    /// A number by name.
    pub(super) fn number(name: &str, number: u64) -> Self {
        Self { name: Some(name.into()), value: Some(Value::Number(number)) }
    }

    /// The viewer shows it in hexadecimal.
    pub(super) fn address(name: &str, address: u64) -> Self {
        Self { name: Some(name.into()), value: Some(Value::Pointer(address)) }
    }
}
