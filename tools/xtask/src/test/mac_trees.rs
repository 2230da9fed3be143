//! The device trees of all M1 Macs, completed as m1n1 completes them: read as Oche reads them, and
//! rewritten for the guest. A third program, dtc, says what the rewrite changed.

mod text;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use oche::progress::Step;
use oche::workspace;
use oche_boot::guest_fdt::{Changes, Reservation, SpinCpu, rewrite};
use oche_boot::header::Kernel;
use oche_boot::layout::{LayoutRequest, MemoryLayout, below_image, trace_bytes};
use oche_boot::machine::Machine;
use oche_boot::normalize::MAX_NORMALIZED_BYTES;
use oche_m1::framebuffer::{self, BootScreen, DRAM};
use oche_m1::{aic, device_tree, memory};
use oche_m1_sim::completion::{CompletedTree, completed};
use oche_trace::directory;
use oche_types::range::PhysRange;

use crate::m1::device_tree::KernelSource;

/// The fewest and the most nodes that m1n1 adds to `/reserved-memory`.
const RESERVED: [usize; 2] = [20, 40];
/// Bytes of a CPU's trace ring.
const RING_BYTES: usize = 1 << 20;
/// The place of Oche's image, which m1n1 chooses, and its size.
const IMAGE: PhysRange = PhysRange { start: 0x8_0a00_0000, end: 0x8_0a20_0000 };
/// A guest's kernel.
const KERNEL: Kernel = Kernel { text_offset: 0, image_size: 48 << 20 };
/// The highest line of the interrupt controller, which no Mac's tree names.
const LAST_LINE: u32 = 895;
/// The compatible string of the DARTs that Oche drives.
const DART: &str = "apple,t8103-dart";

/// Reads and rewrites every tree of `source`.
///
/// # Errors
///
/// Oche refuses one, reads it wrongly, or changes more than it means to.
pub(crate) fn run(source: &KernelSource, step: &Step) -> Result<String> {
    let folder = workspace::target().join("test").join("mac-trees");
    workspace::create_folder(&folder)?;
    let blobs = source.device_trees(step)?;
    let mut darts = 0;
    for blob in &blobs {
        let name = blob.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        step.detail(&name);
        let compiled = fs::read(blob).with_context(|| format!("cannot read {}", blob.display()))?;
        for reserved in RESERVED {
            let tree = completed(&compiled, reserved).with_context(|| name.clone())?;
            let tried = Tried { folder: &folder, name: &name, tree: &tree };
            darts += tried.run().with_context(|| format!("{name}, {reserved} nodes reserved"))?;
        }
    }
    Ok(format!("{}: {} Macs, {darts} DARTs, each tree twice", source.name(), blobs.len()))
}

/// One completed tree.
struct Tried<'a> {
    folder: &'a Path,
    name: &'a str,
    tree: &'a CompletedTree,
}

impl Tried<'_> {
    /// Returns how many DARTs it has.
    fn run(&self) -> Result<usize> {
        let mut buffer = vec![0; MAX_NORMALIZED_BYTES];
        let machine = Machine::read(&self.tree.blob, &mut buffer);
        let machine = machine.map_err(|error| anyhow!("refused: {}", error.reason()))?;
        let before = text::properties(self.folder, self.name, &self.tree.blob)?;
        self.check_machine(&machine)?;
        let darts = self.check_devices(&machine, &before)?;
        let (blob, allowed) = self.rewritten(&machine)?;
        let after = text::properties(self.folder, &format!("{}-guest", self.name), &blob)?;
        compare(&before, &after, &allowed)?;
        Ok(darts)
    }

    fn check_machine(&self, machine: &Machine<'_>) -> Result<()> {
        let tree = self.tree;
        let mut banks = tree.memory.clone();
        banks.sort_by_key(|bank| bank.start);
        let mut ram = machine.ram.as_slice().to_vec();
        ram.sort_by_key(|bank| bank.start);
        ensure!(ram == banks, "memory is read as {ram:?}");
        let words: Vec<(u64, u64)> = machine.spin_table().collect();
        ensure!(words == tree.release_words, "release words are read as {words:x?}");
        // The first CPU has none.
        let cpus = machine.affinities().len();
        ensure!(cpus == words.len() + 1, "{cpus} CPUs are read");
        ensure!(machine.has_compatible("apple,t8103"), "it is not an M1's");
        let mut options = Vec::new();
        machine.chosen_options(&mut |name, value| options.push(format!("{name}={value}")));
        ensure!(options == ["oche.pool=96M"], "options are read as {options:?}");
        // Those of the tree, m1n1 itself, the FDT, and the stack of each CPU.
        let most = tree.reserved + 2 + tree.release_words.len();
        let count = machine.reserved.as_slice().len();
        ensure!(count > most / 2 && count <= most, "{count} ranges are reserved of {most}");
        Ok(())
    }

    fn check_devices(
        &self,
        machine: &Machine<'_>,
        before: &BTreeMap<String, String>,
    ) -> Result<usize> {
        let tree = machine.tree();
        let darts = device_tree::darts(tree);
        let named = before.iter().filter(|(name, value)| {
            name.ends_with(":compatible") && value.starts_with(&format!("\"{DART}\""))
        });
        ensure!(darts.len() == named.count(), "{} DARTs are read", darts.len());
        for dart in darts.iter().filter(|dart| dart.is_enabled) {
            ensure!(!dart.name.contains('@'), "the DART {} has no name", dart.name);
            ensure!(!dart.power.is_empty(), "the DART {} has no power domain", dart.name);
        }
        ensure!(device_tree::nvme(tree).is_some(), "the NVMe controller is not found");
        let line = aic::free_line(tree).context("the interrupt controller is not found")?;
        ensure!(line.number() == LAST_LINE, "line {} is taken for free", line.number());
        match framebuffer::find(&self.tree.blob) {
            Some(BootScreen::Console(_)) => {}
            other => bail!("the screen is read as {other:?}"),
        }
        Ok(darts.len())
    }

    /// The guest's tree, and what may differ in it.
    fn rewritten(&self, machine: &Machine<'_>) -> Result<(Vec<u8>, Vec<String>)> {
        let layout = layout(machine)?;
        let spin_table: Vec<SpinCpu> = machine
            .spin_table()
            .enumerate()
            .map(|(index, (affinity, _))| SpinCpu {
                affinity,
                release: Some(layout.release.start + 128 * index as u64),
            })
            .collect();
        let line = aic::free_line(machine.tree()).context("the interrupt controller")?;
        let changes = Changes {
            memory: layout.offered.as_slice(),
            initrd: None,
            bootargs: None,
            board: None,
            port: Some(line.port()),
            reserved: &[Reservation { name: "oche", range: layout.image, no_map: true }],
            spin_table: &spin_table,
        };
        let blob = rewrite(machine.blob(), &changes);
        let blob = blob.map_err(|error| anyhow!("not rewritten: {}", error.reason()))?;
        let mut buffer = vec![0; blob.len()];
        let guest = Machine::read(&blob, &mut buffer);
        let guest = guest.map_err(|error| anyhow!("the guest's is refused: {}", error.reason()))?;
        let words: Vec<u64> = guest.spin_table().map(|(_, word)| word).collect();
        let wanted: Vec<u64> = spin_table.iter().filter_map(|cpu| cpu.release).collect();
        ensure!(words == wanted, "the guest's release words are {words:x?}");
        let port = format!("/virtio_mmio@{:x}", line.port().window.start);
        let allowed =
            ["/memory@800000000:reg", "cpu-release-addr", "/reserved-memory/oche@", &port];
        Ok((blob, allowed.map(str::to_owned).to_vec()))
    }
}

/// The memory layout, as boot plans it.
fn layout(machine: &Machine<'_>) -> Result<MemoryLayout> {
    let ram = machine.ram.as_slice();
    let end = ram.iter().map(|range| range.end).max().unwrap_or(0);
    let around_ram = PhysRange { start: DRAM.start, end: end.next_multiple_of(1 << 30) };
    let trace = directory::Layout::new(machine.affinities().len(), RING_BYTES);
    let request = LayoutRequest {
        ram: &machine.ram,
        firmware: &machine.reserved,
        image: IMAGE,
        sources: &[],
        initrd: machine.initrd,
        kernel: KERNEL,
        pool_bytes: None,
        trace_bytes: trace_bytes(trace),
        engine_bytes: memory::engine_bytes,
        around_ram,
        by_page: below_image(IMAGE, around_ram, &machine.ram),
        keeps_image: true,
        address_limit: 1 << 36,
    };
    let layout = MemoryLayout::plan(&request).map_err(|error| anyhow!("no layout: {error}"))?;
    for range in machine.reserved.as_slice() {
        let own = [layout.reserved, layout.kernel];
        ensure!(!own.iter().any(|own| own.overlaps(range)), "{range} is firmware's");
    }
    Ok(layout)
}

/// Compares the properties of two trees. What differs must contain one of `allowed`, and each of
/// these must differ somewhere.
fn compare(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
    allowed: &[String],
) -> Result<()> {
    let names = before.keys().chain(after.keys());
    let changed: Vec<&String> =
        names.filter(|name| before.get(*name) != after.get(*name)).collect();
    let is_allowed = |name: &String| allowed.iter().any(|part| name.contains(part.as_str()));
    if let Some(name) = changed.iter().find(|name| !is_allowed(name)) {
        bail!("{name} was {:?} and is {:?}", before.get(*name), after.get(*name));
    }
    if let Some(part) = allowed.iter().find(|part| !changed.iter().any(|it| it.contains(*part))) {
        bail!("{part} is as it was");
    }
    Ok(())
}
