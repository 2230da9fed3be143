//! Compares the memory that the guest is offered with the memory that Oche keeps.

use anyhow::{Context, Result, bail};
use oche_m1_sim::BoardOutcome;
use oche_types::range::PhysRange;

/// Holds the ranges that the guest read in its FDT against Oche's own words of its memory, and
/// against `image`, which the board knows by itself.
///
/// # Errors
///
/// Something of Oche's is offered to the guest without a no-map reservation.
pub(super) fn judge(outcome: &BoardOutcome, image: PhysRange) -> Result<()> {
    let printed = |prefix: &str| -> Result<Vec<PhysRange>> {
        outcome.lines.iter().filter_map(|line| line.strip_prefix(prefix)).map(range).collect()
    };
    let (offered, kept) = (printed("guest: memory ")?, printed("guest: no-map ")?);
    if offered.is_empty() {
        bail!("the guest does not print which memory it is offered");
    }
    let mut own = vec![("image", image)];
    for name in ["trace", "heap", "pool"] {
        let word = format!("{name} ");
        let text = outcome
            .lines
            .iter()
            .filter(|line| line.starts_with("oche: "))
            .find_map(|line| line.split_once(&word).map(|(_, text)| text));
        own.push((
            name,
            range(text.with_context(|| format!("Oche does not print where its {name} is"))?)?,
        ));
    }
    for (name, own) in own {
        let is_kept = kept.iter().any(|kept| kept.covers(&own));
        if let Some(offered) = offered.iter().find(|offered| !is_kept && offered.overlaps(&own)) {
            bail!(
                "the guest is offered {offered}, without a reservation of Oche's {name} at {own}"
            );
        }
    }
    Ok(())
}

/// The range in words such as `0x808000000..0x8081d0000, trace`.
fn range(text: &str) -> Result<PhysRange> {
    let number = |text: &str| {
        let digits = text.trim_start_matches("0x");
        let end = digits.find(|letter: char| !letter.is_ascii_hexdigit()).unwrap_or(digits.len());
        u64::from_str_radix(digits.get(..end).unwrap_or_default(), 16)
    };
    let (start, end) = text.split_once("..").with_context(|| format!("no range: {text}"))?;
    let both = number(start).and_then(|start| Ok(PhysRange { start, end: number(end)? }));
    both.with_context(|| format!("no range: {text}"))
}

#[cfg(test)]
mod tests {
    use super::judge;
    use oche_m1_sim::BoardOutcome;

    use oche_types::range::PhysRange;

    fn outcome(offered: &str) -> BoardOutcome {
        let own = "oche: image 0x1000..0x3000, trace 0x8000..0x9000, pool 0xa000..0xb000\n\
                   oche: heap 0x9000..0xa000 (1 of 4 KiB used)\n";
        let lines = format!("{own}{offered}").lines().map(str::to_owned).collect();
        BoardOutcome { lines, ..BoardOutcome::default() }
    }

    #[test]
    fn what_is_offered_must_be_the_guests_or_reserved() {
        let image = PhysRange { start: 0x1000, end: 0x3000 };
        let verdict = |offered: &str| judge(&outcome(offered), image);
        assert!(verdict("guest: memory 0x0..0x8000\nguest: no-map 0x1000..0x3000").is_ok());
        for (offered, wrong) in [
            ("", "does not print"),
            ("guest: memory 0x0..0x8000", "image"),
            ("guest: memory 0x0..0x8000\nguest: no-map 0x1000..0x2000", "image"),
            ("guest: memory 0x8fff..0x9000", "trace"),
            ("guest: memory 0x9000..0x9001", "heap"),
            ("guest: memory 0xafff..0xc000", "pool"),
        ] {
            let error = verdict(offered).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
