//! Any Mac's compiled device tree, completed as m1n1 completes it on that Mac.
//!
//! The simulated board's own tree ([`crate::tree`]) has QEMU's CPUs and interrupt numbers; this one
//! keeps the Mac's. Source: m1n1 1.6.1 `src/kboot.c`, `dt_set_memory`, `dt_set_cpus`, `dt_set_fb`,
//! `dt_reserve_asc_firmware`; libfdt's `fdt_nop_node` leaves NOPs where a node was.

use anyhow::{Context, Result, anyhow, ensure};
use dtoolkit::fdt::Fdt;
use dtoolkit::memreserve::MemoryReservation;
use dtoolkit::model::{DeviceTree, DeviceTreeNode};
use dtoolkit::{Node, Property};
use oche_types::range::PhysRange;

use super::property::{cells, child_with_prefix, set};

/// The memory that iBoot leaves of 8 GiB: first byte and end. Source: `docs/m1.md`.
const USABLE: PhysRange = PhysRange { start: 0x8_019c_4000, end: 0x9_d9fa_4000 };
/// Carve-outs that are not `no-map`: m1n1 adds each to `/memory` as a bank of its own.
const CARVE_OUTS: [PhysRange; 3] = [
    PhysRange { start: 0x8_0040_0000, end: 0x8_0052_c000 },
    PhysRange { start: 0x9_da00_0000, end: 0x9_da0b_0000 },
    PhysRange { start: 0x9_e000_0000, end: 0x9_e004_0000 },
];
/// Bytes of the screen of each Mac: its place matters, not its size.
const SCREEN: PhysRange = PhysRange { start: 0x9_e0df_8000, end: 0x9_e1df_8000 };
/// m1n1 itself, behind the memory's first 64 MiB, and the FDT in its heap.
const M1N1: PhysRange = PhysRange { start: 0x8_0500_0000, end: 0x8_0540_0000 };
const FDT: PhysRange = PhysRange { start: 0x8_0600_0000, end: 0x8_0608_0000 };
/// Where the release words are, and the stack of each CPU that waits.
const RELEASE: u64 = M1N1.start + 0x2_0040;
const RELEASE_BYTES: u64 = 64;
const STACKS: u64 = 0x8_0700_0000;
const STACK_BYTES: u64 = 0x1_0000;

const NOP: u32 = 4;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;

/// A completed tree, and what it names.
#[derive(Clone, Debug)]
pub struct CompletedTree {
    /// The blob.
    pub blob: Vec<u8>,
    /// The banks of `/memory`.
    pub memory: Vec<PhysRange>,
    /// The release word of each CPU but the first, by affinity.
    pub release_words: Vec<(u64, u64)>,
    /// The nodes in `/reserved-memory`.
    pub reserved: usize,
}

/// Completes a tree, with `reserved` nodes of firmware's memory in `/reserved-memory`; the last CPU
/// did not start, so m1n1 has overwritten its node with NOPs.
///
/// # Errors
///
/// The blob is no tree of a Mac.
pub fn completed(blob: &[u8], reserved: usize) -> Result<CompletedTree> {
    let fdt = Fdt::new(blob).map_err(|error| anyhow!("the compiled tree: {error}"))?;
    let mut tree = DeviceTree::from_fdt(&fdt);
    let root = &mut tree.root;
    let banks: Vec<PhysRange> = std::iter::once(USABLE).chain(CARVE_OUTS).collect();
    let reg = cells(&banks.iter().flat_map(|bank| [bank.start, bank.size()]).collect::<Vec<_>>());
    set(child_with_prefix(root, "memory").context("the tree has no /memory")?, "reg", reg);
    let reserved = add_reserved(root, reserved)?;
    let (release_words, dead) = set_cpus(root)?;
    set_chosen(root)?;
    tree.memory_reservations = std::iter::once(M1N1)
        .chain([FDT])
        .chain((0..release_words.len() as u64).map(|index| {
            let start = STACKS + index * STACK_BYTES;
            PhysRange { start, end: start + STACK_BYTES }
        }))
        .map(|range| MemoryReservation::new(range.start, range.size()))
        .collect();
    let mut blob = tree.to_dtb();
    nop_node(&mut blob, &dead)?;
    Ok(CompletedTree { blob, memory: banks, release_words, reserved })
}

/// Adds nodes to `/reserved-memory`: carve-outs that are in `/memory`, and firmware's sections,
/// which are `no-map`. Returns how many nodes there are.
fn add_reserved(root: &mut DeviceTreeNode, count: usize) -> Result<usize> {
    if root.child_mut("reserved-memory").is_none() {
        let mut parent = DeviceTreeNode::new_unchecked("reserved-memory");
        set(&mut parent, "#address-cells", 2_u32);
        set(&mut parent, "#size-cells", 2_u32);
        set(&mut parent, "ranges", Vec::<u32>::new());
        root.add_child(parent);
    }
    let parent = root.child_mut("reserved-memory").context("no /reserved-memory")?;
    for range in CARVE_OUTS {
        let mut node = DeviceTreeNode::new_unchecked(format!("calibration@{:x}", range.start));
        set(&mut node, "reg", cells(&[range.start, range.size()]));
        parent.add_child(node);
    }
    for index in 0..count.saturating_sub(CARVE_OUTS.len()) as u64 {
        // Sections of firmware: outside what is usable, 16 KiB and more, one behind the other.
        let start = 0x9_f000_0000 + index * 0x10_0000;
        let mut node = DeviceTreeNode::new_unchecked(format!("asc-firmware@{start:x}"));
        set(&mut node, "reg", cells(&[start, 0x4000 * (index + 1)]));
        set(&mut node, "no-map", Vec::<u32>::new());
        parent.add_child(node);
    }
    Ok(parent.children().count())
}

/// Gives each CPU but the first its release word. Returns the words by affinity, and the name of
/// the last CPU, which has none.
fn set_cpus(root: &mut DeviceTreeNode) -> Result<(Vec<(u64, u64)>, String)> {
    let cpus = root.child_mut("cpus").context("the tree has no /cpus")?;
    let names: Vec<String> = cpus
        .children()
        .map(|child| child.name().to_owned())
        .filter(|name| name.starts_with("cpu@"))
        .collect();
    ensure!(names.len() > 2, "the tree has {} CPUs", names.len());
    let dead = names.last().cloned().unwrap_or_default();
    let mut words = Vec::new();
    for (index, name) in names.iter().enumerate().skip(1).filter(|(_, name)| **name != dead) {
        let node = cpus.child_mut(name).context("a CPU")?;
        let affinity: [u8; 8] = node
            .property("reg")
            .and_then(|reg| reg.value().try_into().ok())
            .with_context(|| format!("{name} has no reg of two cells"))?;
        let word = RELEASE + index as u64 * RELEASE_BYTES;
        set(node, "cpu-release-addr", cells(&[word]));
        words.push((u64::from_be_bytes(affinity), word));
    }
    Ok((words, dead))
}

fn set_chosen(root: &mut DeviceTreeNode) -> Result<()> {
    let chosen = root.child_mut("chosen").context("the tree has no /chosen")?;
    let old = chosen.children().map(|child| child.name().to_owned());
    let old = old.into_iter().find(|name| name.starts_with("framebuffer"));
    let old = old.context("the tree has no framebuffer in /chosen")?;
    let mut screen = DeviceTreeNode::new_unchecked(format!("framebuffer@{:x}", SCREEN.start));
    for property in chosen.child(&old).context("the framebuffer")?.properties() {
        if property.name() != "status" {
            set(&mut screen, property.name(), property.value().to_vec());
        }
    }
    set(&mut screen, "reg", cells(&[SCREEN.start, SCREEN.size()]));
    set(&mut screen, "width", 2560_u32);
    set(&mut screen, "height", 1600_u32);
    set(&mut screen, "stride", 10240_u32);
    set(&mut screen, "format", "x2r10g10b10");
    chosen.remove_child(&old);
    chosen.add_child(screen);
    for (name, value) in [
        ("asahi,iboot1-version", "iBoot-7459.101.2"),
        ("asahi,system-fw-version", "12.3.1"),
        ("asahi,m1n1-stage2-version", "v1.6.1"),
        ("asahi,efi-system-partition", "01234567-89ab-cdef-0123-456789abcdef"),
        ("oche.pool", "96M"),
    ] {
        set(chosen, name, value);
    }
    set(chosen, "kaslr-seed", cells(&[0x0123_4567_89ab_cdef]));
    set(chosen, "rng-seed", vec![0x5a_u8; 64]);
    Ok(())
}

/// Overwrites the node that is called `name` with NOPs, its name and its children included.
fn nop_node(blob: &mut [u8], name: &str) -> Result<()> {
    let start = word(blob, 8)? as usize;
    let strings = word(blob, 12)? as usize;
    let mut at = start;
    // Where the node begins, and the level at which it ends.
    let mut found: Option<(usize, usize)> = None;
    let mut level = 0;
    while at < strings {
        let token = word(blob, at)?;
        let here = at;
        at += 4;
        match token {
            BEGIN_NODE => {
                let text: Vec<u8> =
                    blob[at..].iter().copied().take_while(|byte| *byte != 0).collect();
                at = (at + text.len() + 1).next_multiple_of(4);
                if text == name.as_bytes() && found.is_none() {
                    found = Some((here, level));
                }
                level += 1;
            }
            END_NODE => {
                level -= 1;
                if let Some((from, _)) = found.filter(|(_, own)| *own == level) {
                    blob[from..at].chunks_exact_mut(4).for_each(|token| {
                        token.copy_from_slice(&NOP.to_be_bytes());
                    });
                    return Ok(());
                }
            }
            PROPERTY => at = (at + 8 + word(blob, at)? as usize).next_multiple_of(4),
            NOP => {}
            _ => break,
        }
    }
    Err(anyhow!("the tree has no node {name}"))
}

fn word(blob: &[u8], at: usize) -> Result<u32> {
    let bytes = blob.get(at..at + 4).context("the blob is cut short")?;
    Ok(u32::from_be_bytes(bytes.try_into()?))
}
