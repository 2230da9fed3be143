//! The guest's own trace in the same timeline: a track a CPU and a track a task, events as they
//! are.

use std::io::{self, Write};

use super::super::description::plain;
use super::super::filter::EventFilter;
use super::super::ftrace::{Ftrace, FtraceEvent};
use super::schema::{Annotation, EventKind, ProcessDescriptor, TrackDescriptor, TrackEvent};
use super::tracks::{TrackKind, track};
use super::writer::Writer;

/// The guest's trace, and how its clock stands to Oche's.
#[derive(Clone, Copy, Debug)]
pub struct GuestTrace<'a> {
    /// The trace.
    pub ftrace: &'a Ftrace,
    /// What is added to its nanoseconds for those of Oche's clock.
    pub offset_ns: i64,
}

impl<W: Write> Writer<'_, W> {
    /// Writes the events of `guest` in the time that `filter` chooses.
    pub(super) fn guest(&mut self, guest: &GuestTrace<'_>, filter: &EventFilter) -> io::Result<()> {
        for event in guest.ftrace.events() {
            // Before Oche's start there was no guest: such a time is damaged.
            let Some(time) = event.time_ns.checked_add_signed(guest.offset_ns) else { continue };
            let is_shown = filter.from_ns.is_none_or(|from| time >= from)
                && filter.until_ns.is_none_or(|until| time <= until)
                && filter.cpu.is_none_or(|cpu| u32::from(cpu) == event.cpu);
            if is_shown {
                let cpu = self.guest_cpu_track(event.cpu)?;
                self.event(time, instant(cpu, &event))?;
                let task = self.guest_task_track(&event)?;
                self.event(time, instant(task, &event))?;
            }
        }
        Ok(())
    }

    fn guest_cpu_track(&mut self, cpu: u32) -> io::Result<u64> {
        let all = track(TrackKind::GuestCpus, 0, 0);
        self.guest_process(all, 1001, "guest's CPUs (ftrace)")?;
        let uuid = track(TrackKind::GuestCpu, 0, cpu);
        self.declare(TrackDescriptor {
            parent_uuid: Some(all),
            ..TrackDescriptor::named(uuid, &format!("guest's CPU {cpu}"))
        })?;
        Ok(uuid)
    }

    fn guest_task_track(&mut self, event: &FtraceEvent<'_>) -> io::Result<u64> {
        let all = track(TrackKind::GuestTasks, 0, 0);
        self.guest_process(all, 1002, "guest's tasks (ftrace)")?;
        let uuid = track(TrackKind::GuestTask, 0, event.pid);
        self.declare(TrackDescriptor {
            parent_uuid: Some(all),
            ..TrackDescriptor::named(uuid, &format!("{}-{}", plain(event.task), event.pid))
        })?;
        Ok(uuid)
    }

    fn guest_process(&mut self, uuid: u64, pid: i32, name: &str) -> io::Result<()> {
        let process = ProcessDescriptor { pid: Some(pid), process_name: Some(name.into()) };
        let descriptor = TrackDescriptor::named(uuid, name);
        self.declare(TrackDescriptor { process: Some(process), ..descriptor })
    }
}

fn instant(track: u64, event: &FtraceEvent<'_>) -> TrackEvent {
    let text = |text: &str| text.chars().filter(|char| !char.is_control()).collect::<String>();
    TrackEvent {
        name: Some(text(event.name)),
        categories: vec!["ftrace".into()],
        ..TrackEvent::new(EventKind::Instant, track).with(vec![
            Annotation::text("fields", text(event.fields)),
            Annotation::text("task", format!("{}-{}", text(event.task), event.pid)),
            Annotation::number("cpu", u64::from(event.cpu)),
        ])
    }
}
