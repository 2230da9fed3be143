//! What the plugin does with what QEMU reports.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::decode::Instruction;
use crate::report::Report;
use crate::rules::{Cpu, Violation};
use crate::settings::Settings;

/// CPUs that a machine may have.
const MAX_CPUS: usize = 16;
/// Bytes of EL2's vector table.
const VECTORS_BYTES: u64 = 0x800;
/// Bytes of one vector.
const VECTOR_BYTES: u64 = 0x80;

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
    /// The vector of the exit that is under way, with its instructions and those around spin hints.
    exit: Option<(u64, u64, u64)>,
    /// The most by vector.
    longest: HashMap<u64, u64>,
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
        if let Instruction::Block { length, waits } = site.instruction {
            vcpu.count(site.pc, length, waits, plugin);
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
    let acquires = matches!(site.instruction, Instruction::Memory { acquires: true });
    with_cpu(cpu, |vcpu, plugin| vcpu.rules.access(&plugin.settings, site.pc, address, is_store, acquires));
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
    }
}

impl Plugin {
    fn report(&self) -> std::sync::MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vcpu {
    fn count(&mut self, pc: u64, length: u32, waits: bool, plugin: &Plugin) {
        if let Some(offset) = plugin.settings.vectors.and_then(|vectors| pc.checked_sub(vectors))
            && offset < VECTORS_BYTES
            && offset.is_multiple_of(VECTOR_BYTES)
        {
            self.exit = Some((offset, 0, 0));
            self.rules.enter();
        }
        if let Some((_, instructions, waited)) = &mut self.exit {
            *instructions += u64::from(length);
            *waited += if waits { u64::from(length) } else { 0 };
        }
    }

    fn end_exit(&mut self, cpu: usize, plugin: &Plugin) {
        let Some((vector, instructions, waited)) = self.exit.take() else { return };
        let longest = self.longest.entry(vector).or_default();
        if instructions - waited > *longest {
            *longest = instructions - waited;
            plugin.report().line(&format!("exit: {vector:#x} {cpu} {instructions} {waited}"));
        }
    }
}
