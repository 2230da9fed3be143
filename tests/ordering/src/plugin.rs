//! What the plugin does with what QEMU reports.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::decode::Instruction;
use crate::report::Report;
use crate::rules::{Cpu, Violation};
use crate::settings::{COUNTERS_BYTES, Settings};

/// CPUs that a machine may have.
const MAX_CPUS: usize = 16;
/// Bytes of EL2's vector table.
const VECTORS_BYTES: u64 = 0x800;
/// Bytes of one vector.
const VECTOR_BYTES: u64 = 0x80;

/// Set in the environment: the run ends at the first violation.
const FIRST_ONLY: &str = "OCHE_FIRST_VIOLATION";

/// An instruction at its place.
#[derive(Debug)]
pub(crate) struct Site {
    pc: u64,
    instruction: Instruction,
}

#[derive(Debug)]
struct Plugin {
    settings: Settings,
    report: Mutex<Report>,
    sites: Mutex<HashMap<(u64, u32), Vec<&'static Site>>>,
    cpus: [Mutex<Vcpu>; MAX_CPUS],
}

/// One CPU: what is not ordered yet, and how long its exit takes.
#[derive(Debug, Default)]
struct Vcpu {
    rules: Cpu,
    /// The exit that is under way.
    exit: Option<Exit>,
    /// The most instructions by kind.
    longest: HashMap<Option<u64>, u64>,
}

/// An exit from the guest.
#[derive(Debug, Default)]
struct Exit {
    /// The place of the counter that EL2 counted it in.
    kind: Option<u64>,
    instructions: u64,
    /// Of these, those that waited for a lock.
    waited: u64,
}

static PLUGIN: OnceLock<Plugin> = OnceLock::new();

fn plugin() -> &'static Plugin {
    PLUGIN.get().expect("QEMU installs the plugin before it calls it")
}

/// Reads the arguments and opens the report.
pub(crate) fn begin(arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let settings = Settings::parse(arguments)?;
    let report = Mutex::new(Report::create(&settings.report, settings.symbols.as_deref())?);
    let cpus = std::array::from_fn(|_| Mutex::new(Vcpu::default()));
    let made = Plugin { settings, report, sites: Mutex::new(HashMap::new()), cpus };
    PLUGIN.set(made).map_err(|_| "the plugin is loaded twice".to_owned())
}

/// Whether EL2's code is there.
pub(crate) fn is_in_image(pc: u64) -> bool {
    plugin().settings.image.is_some_and(|image| image.contains(pc))
}

/// The site of an instruction, the same each time: blocks are translated again and again.
pub(crate) fn site(pc: u64, instruction: Instruction) -> &'static Site {
    let key = (pc, u32::from(matches!(instruction, Instruction::Block { .. })));
    let mut sites = plugin().sites.lock().unwrap_or_else(PoisonError::into_inner);
    let here = sites.entry(key).or_default();
    if let Some(known) = here.iter().find(|site| site.instruction == instruction) {
        return known;
    }
    let made: &'static Site = Box::leak(Box::new(Site { pc, instruction }));
    here.push(made);
    made
}

/// `cpu` is about to execute the instruction.
pub(crate) fn executed(cpu: usize, site: &Site) {
    with_cpu(cpu, |vcpu, plugin| {
        if let Instruction::Block { length } = site.instruction {
            vcpu.count(site.pc, length, &plugin.settings);
            return None;
        }
        if site.instruction == Instruction::Return {
            vcpu.end_exit(cpu, plugin);
        }
        if vcpu.rules.is_new(site.instruction) {
            plugin.report().seen(&format!("{:?}", site.instruction));
        }
        vcpu.rules.execute(site.pc, site.instruction)
    });
}

/// `cpu` has loaded or stored at `address`.
pub(crate) fn accessed(cpu: usize, site: &Site, address: u64, is_store: bool) {
    let Instruction::Memory(kind) = site.instruction else { return };
    with_cpu(cpu, |vcpu, plugin| {
        if is_store {
            vcpu.note_kind(cpu, address, &plugin.settings);
        }
        vcpu.rules.access(&plugin.settings, site.pc, address, is_store, kind)
    });
}

/// The checker itself is at its end.
pub(crate) fn fail(text: &str) {
    plugin().report().violation("checker", 0, text);
}

fn with_cpu(cpu: usize, work: impl FnOnce(&mut Vcpu, &'static Plugin) -> Option<Violation>) {
    let plugin = plugin();
    let Some(vcpu) = plugin.cpus.get(cpu) else {
        return plugin.report().violation("checker", 0, "the machine has too many CPUs");
    };
    let found = work(&mut vcpu.lock().unwrap_or_else(PoisonError::into_inner), plugin);
    if let Some(violation) = found {
        let mut report = plugin.report();
        let earlier = report.place(violation.earlier);
        let text = format!("cpu {cpu}: {} (that was at {earlier})", violation.text);
        report.violation(violation.rule, violation.pc, &text);
        if std::env::var_os(FIRST_ONLY).is_some() {
            // Another CPU may be in the middle of anything: no destructors.
            std::process::abort();
        }
    }
}

impl Plugin {
    fn report(&self) -> std::sync::MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vcpu {
    fn count(&mut self, pc: u64, length: u32, settings: &Settings) {
        if let Some(offset) = settings.vectors.and_then(|vectors| pc.checked_sub(vectors))
            && offset < VECTORS_BYTES
            && offset.is_multiple_of(VECTOR_BYTES)
        {
            self.exit = Some(Exit::default());
            self.rules.enter();
        }
        if settings.start == Some(pc) {
            self.exit = None;
        }
        if let Some(exit) = &mut self.exit {
            let is_waiting = settings.waiting.iter().any(|range| range.contains(pc));
            exit.instructions += u64::from(length);
            exit.waited += if is_waiting { u64::from(length) } else { 0 };
        }
    }

    /// EL2 counts the exit under way: the first of the CPU's counters of exits that it stores to
    /// says of which kind it is.
    fn note_kind(&mut self, cpu: usize, address: u64, settings: &Settings) {
        let Some(exit) = self.exit.as_mut().filter(|exit| exit.kind.is_none()) else { return };
        let offset = settings.counters.filter(|counters| counters.contains(address));
        if let Some(offset) = offset.map(|counters| address - counters.start)
            && offset / COUNTERS_BYTES == cpu as u64
            && offset % COUNTERS_BYTES / 8 < settings.kinds
        {
            exit.kind = Some(offset % COUNTERS_BYTES / 8);
        }
    }

    fn end_exit(&mut self, cpu: usize, plugin: &Plugin) {
        let Some(Exit { kind, instructions, waited }) = self.exit.take() else { return };
        let longest = self.longest.entry(kind).or_default();
        if instructions - waited > *longest {
            *longest = instructions - waited;
            let kind = kind.map_or_else(|| "none".to_owned(), |kind| kind.to_string());
            plugin.report().line(&format!("exit: {kind} {cpu} {instructions} {waited}"));
        }
    }
}
