//! Damages device trees in many ways and compares what two parsers read.
//!
//! Each number makes one input: some changes to the tokens of a sound tree, then some to the bytes.
//! An input is either refused for a reason, or dtoolkit reads from it what the crate `fdt` reads
//! from its normalized form. Nothing panics, and everything ends.

use std::collections::BTreeMap;
use std::fs;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use oche_boot::blob::{self, Refusal};
use oche_boot::normalize::{MAX_NORMALIZED_BYTES, Normalized, normalize};
use oche_boot::tree::{Tree, TreeNode};

pub(crate) mod random;
mod tokens;

use random::Random;
use tokens::Parts;

/// Paths of further trees, separated by colons.
const VARIABLE: &str = "OCHE_DEVICE_TREES";

/// How many inputs ended in what.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    pub(crate) accepted: usize,
    pub(crate) refused: BTreeMap<String, usize>,
}

/// What reads an input: its bytes, and its tree if it is accepted.
pub(crate) type Reader<'r> = &'r mut dyn FnMut(&[u8], Option<Tree<'_>>);

/// `tree`, and the trees that the environment names.
pub(crate) fn with_named_trees(tree: &[u8]) -> Vec<Vec<u8>> {
    let paths = std::env::var(VARIABLE).unwrap_or_default();
    let paths = paths.split(':').filter(|path| !path.is_empty());
    let named = paths.map(|path| fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}")));
    std::iter::once(tree.to_vec()).chain(named).collect()
}

/// Makes `count` inputs from each of `trees`, and passes each to `reader`.
pub(crate) fn run(trees: &[Vec<u8>], count: u64, reader: Reader<'_>) -> Outcomes {
    let mut outcomes = Outcomes::default();
    let mut buffer = vec![0; MAX_NORMALIZED_BYTES];
    for tree in trees {
        let parts = Parts::of(tree);
        for number in 0..count {
            let input = input(&parts, number);
            match normalize(&input, &mut buffer) {
                Ok(normalized) => {
                    outcomes.accepted += 1;
                    compare(&input, normalized);
                    reader(&input, Some(Tree::new(normalized)));
                }
                Err(refusal) => {
                    check_refusal(&input, refusal);
                    reader(&input, None);
                    *outcomes.refused.entry(format!("{refusal:?}")).or_default() += 1;
                }
            }
        }
    }
    outcomes
}

/// The input that `number` makes of `parts`; 0 changes nothing.
fn input(parts: &Parts, number: u64) -> Vec<u8> {
    if number == 0 {
        return parts.blob(0);
    }
    let mut random = Random(number);
    let mut parts = parts.clone();
    for _ in 0..random.below(5) {
        parts.mutate(&mut random);
    }
    let gap = if random.below(4) == 0 { random.below(4) } else { 0 };
    let mut bytes = parts.blob(gap);
    if random.below(3) == 0 {
        for _ in 0..=random.below(8) {
            damage(&mut random, &mut bytes);
        }
    }
    if random.below(16) == 0 {
        bytes.truncate(random.below(bytes.len() + 1));
        let length = (bytes.len() as u32).to_be_bytes();
        if let Some(size) = bytes.get_mut(4..8).filter(|_| random.below(2) == 0) {
            size.copy_from_slice(&length);
        }
    }
    if random.below(8) == 0 {
        bytes.extend([0xff; 12]);
    }
    bytes
}

/// Changes a byte: of the header, of a word's end (tokens and lengths), or any.
fn damage(random: &mut Random, bytes: &mut [u8]) {
    let at = match random.below(4) {
        0 => random.below(40),
        1 => random.below(bytes.len() / 4) * 4 + 3,
        _ => random.below(bytes.len()),
    };
    bytes[at] = match random.below(3) {
        0 => bytes[at] ^ 1 << random.below(8),
        1 => random.below(10) as u8,
        _ => random.below(256) as u8,
    };
}

/// Both parsers read the same, by both of the ways through a tree that `fdt` has.
fn compare(input: &[u8], normalized: Normalized<'_>) {
    let checked = blob::check(input).expect("it was normalized");
    let tree = Tree::new(normalized);
    let mut names = Vec::new();
    compare_nodes(&checked.fdt.root(), &tree.root(), &mut names);
    names[0] = "/";
    assert!(tree.nodes().map(|node| node.name()).eq(names), "in order the same nodes are met");
    let reservations = checked.fdt.memory_reservations();
    assert!(tree.reservations().eq(reservations.map(|one| (one.address(), one.size()))));
    let mut buffer = vec![0; normalized.bytes().len()];
    let again = normalize(normalized.bytes(), &mut buffer).expect("it is sound");
    assert_eq!(again.bytes(), normalized.bytes());
    // dtoolkit's own checks accept what was written, but for names, of which Oche takes more.
    let error = Fdt::new(normalized.bytes()).err().map(|error| error.to_string());
    assert!(error.as_ref().is_none_or(|error| error.contains("name")), "{error:?}");
}

/// Compares a node that dtoolkit reads with one that `fdt` reads, and all below. The names of the
/// nodes are added to `names`.
fn compare_nodes<'a>(dtoolkit: &FdtNode<'a>, fdt: &TreeNode<'_, 'a>, names: &mut Vec<&'a str>) {
    names.push(fdt.name());
    let mut properties = fdt.properties();
    for property in dtoolkit.properties() {
        assert_eq!(properties.next(), Some((property.name(), property.value())));
    }
    assert_eq!(properties.next(), None);
    let mut children = fdt.children();
    for child in dtoolkit.children() {
        let other = children.next().expect("the same children");
        assert_eq!(other.name(), child.name());
        compare_nodes(&child, &other, names);
    }
    assert!(children.next().is_none());
}

/// What dtoolkit's own checks accept is refused for Oche's limits only.
fn check_refusal(input: &[u8], refusal: Refusal) {
    let blob = blob::total_size(input).and_then(|size| input.get(..size));
    if blob.is_some_and(|blob| Fdt::new(blob).is_ok()) {
        let limits =
            [Refusal::Nesting, Refusal::Duplicate, Refusal::Siblings, Refusal::Size, Refusal::Name];
        assert!(limits.contains(&refusal), "{refusal:?}");
    }
}
