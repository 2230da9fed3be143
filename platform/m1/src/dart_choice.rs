//! `oche.darts`: which DARTs Oche may emulate.

use alloc::vec::Vec;

use oche_types::dart::stream::DartId;

use crate::device_tree::{DartNode, candidates};

/// The DARTs that Oche may emulate; all others are the guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DartChoice {
    /// By DART.
    chosen: Vec<bool>,
}

impl DartChoice {
    /// The choice that `text` makes among `all`: `all`, `none`, or names and addresses with commas
    /// between them. Passes each word that fits no DART to `complain`.
    pub fn parse<'a>(text: &'a str, all: &[DartNode], complain: &mut dyn FnMut(&'a str)) -> Self {
        let count = candidates(all).count();
        let mut chosen = alloc::vec![text == "all"; count];
        if !matches!(text, "all" | "none") {
            for word in text.split(',').map(str::trim) {
                match candidates(all).position(|(_, dart)| is_named(dart, word)) {
                    Some(index) => {
                        chosen.iter_mut().skip(index).take(1).for_each(|one| *one = true)
                    }
                    None => complain(word),
                }
            }
        }
        Self { chosen }
    }

    /// All of `count` DARTs.
    pub fn all(count: usize) -> Self {
        Self { chosen: alloc::vec![true; count] }
    }

    /// How many DARTs there are to choose from.
    pub fn count(&self) -> usize {
        self.chosen.len()
    }

    /// Whether `dart` is chosen.
    pub fn has(&self, dart: DartId) -> bool {
        self.chosen.get(dart.index()).is_some_and(|chosen| *chosen)
    }

    /// Whether no DART is: then nothing moves a page.
    pub fn is_none(&self) -> bool {
        !self.chosen.contains(&true)
    }
}

fn is_named(dart: &DartNode, word: &str) -> bool {
    let digits = word.strip_prefix("0x").unwrap_or(word);
    dart.name == word || u64::from_str_radix(digits, 16) == Ok(dart.registers.start)
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec::Vec;

    use super::*;

    fn parse(text: &str) -> (Vec<bool>, Vec<&str>) {
        let all = [("pcie0_dart_0", 0x6_8100_8000), ("sio_dart", 0x2_3500_4000)]
            .map(|(name, start)| DartNode::named(name, start));
        let mut wrong = Vec::new();
        let choice = DartChoice::parse(text, &all, &mut |word| wrong.push(word));
        assert_eq!(choice.is_none(), choice.chosen == [false, false], "{text}");
        assert_eq!(choice.count(), 2);
        (choice.chosen, wrong)
    }

    #[test]
    fn darts_are_chosen_by_name_and_by_address() {
        for (text, chosen) in [
            ("all", [true, true]),
            ("none", [false, false]),
            ("sio_dart", [false, true]),
            ("0x681008000", [true, false]),
            ("681008000, sio_dart", [true, true]),
        ] {
            assert_eq!(parse(text), (chosen.to_vec(), [].to_vec()), "{text}");
        }
        let both = DartChoice::all(2);
        assert!(both.has(DartId::new(1).expect("a DART")));
        assert!(!both.has(DartId::new(2).expect("a DART")), "not among them");
    }

    #[test]
    fn what_names_no_dart_is_reported_and_chooses_none() {
        assert_eq!(parse("dcp,sio_dart").1, ["dcp"]);
        assert_eq!(parse("pcie0_dart_0,235004001").1, ["235004001"]);
        assert_eq!(parse("").1.first().map(|word| word.to_string()), Some("".to_string()));
        assert_eq!(parse("none,all").0, [false, false], "neither is a DART's name");
    }
}
