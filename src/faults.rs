//! `--link-faults`: a link that is made bad on purpose, for tests of what lies above it.
//! Takes the words of the command line; gives [`LinkFaults`], and says loudly and everywhere that they are there.

use ibid_control::config::{parse_size, parse_span};
use ibid_driver::{Blackout, Bottleneck, CERTAIN, LinkFaultCounts, LinkFaults};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::warn;

/// What was asked for, and what was understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Injected {
    /// The words, as they were written.
    pub(crate) said: String,
    pub(crate) faults: LinkFaults,
}

/// How the option is written.
pub(crate) const HELP: &str = "\
Spoil the link on purpose: a comma-separated list of drop=1%, duplicate=1%, reorder=1%, corrupt=1%, delay=1ms (one way), \
rate=100MiB (bytes a second) with queue=1MiB before it, blackout=60s@10s (so long, so long after the start), seed=1. For tests; \
never with data that anybody needs";

/// Takes the option apart.
pub(crate) fn parse(text: &str) -> Result<Injected, String> {
    let mut faults = LinkFaults { seed: 1, ..LinkFaults::default() };
    let (mut rate, mut queue) = (None, None);
    let mut seen = Vec::new();
    for part in text.split(',') {
        let (key, value) = part.split_once('=').ok_or(format!("{part:?} is no key=value"))?;
        let said = |error: String| format!("{key}={value}: {error}");
        if seen.contains(&key) {
            return Err(said("is there twice".to_owned()));
        }
        seen.push(key);
        let chance = || chance(value).map_err(said);
        let size = || positive_size(value).map_err(said);
        match key {
            "drop" => faults.drop = chance()?,
            "duplicate" => faults.duplicate = chance()?,
            "reorder" => faults.reorder = chance()?,
            "corrupt" => faults.corrupt = chance()?,
            "delay" => faults.delay = parse_span(value).map_err(|error| said(error.to_string()))?,
            "rate" => rate = Some(size()?),
            "queue" => queue = Some(size()?),
            "blackout" => faults.blackout = Some(blackout(value).map_err(said)?),
            "seed" => {
                faults.seed = value.parse().map_err(|_| said("must be a number".to_owned()))?
            }
            _ => {
                return Err(said(
                    "the key must be drop, duplicate, reorder, corrupt, delay, rate, queue, blackout or seed"
                        .to_owned(),
                ));
            }
        }
    }
    faults.bottleneck = match (rate, queue) {
        (Some(rate), queue) => Some(Bottleneck { rate, queue: queue.unwrap_or(QUEUE_BYTES) }),
        (None, None) => None,
        (None, Some(_)) => return Err("queue goes only with rate".to_owned()),
    };
    Ok(Injected { said: text.to_owned(), faults })
}

/// `0.1%` as millionths.
fn chance(value: &str) -> Result<u32, String> {
    let percent: Option<f64> = value.strip_suffix('%').and_then(|number| number.parse().ok());
    match percent {
        Some(percent) if (0.0..=100.0).contains(&percent) => {
            Ok((percent / 100.0 * f64::from(CERTAIN)).round() as u32)
        }
        Some(_) | None => Err("must be a percentage such as 0.1%".to_owned()),
    }
}

fn positive_size(value: &str) -> Result<u64, String> {
    match parse_size(value) {
        Ok(0) => Err("must be more than nothing".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(format!("{error}; such as 100MiB")),
    }
}

fn blackout(value: &str) -> Result<Blackout, String> {
    let (length, from) = value.split_once('@').ok_or("must be such as 60s@10s".to_owned())?;
    let span = |text: &str| parse_span(text).map_err(|error| format!("{error}; such as 60s@10s"));
    Ok(Blackout { from: span(from)?, length: span(length)? })
}

/// Says at which moments a blackout begins and ends, on a thread of its own, which ends with the second.
pub(crate) fn announce(injected: &Injected) -> anyhow::Result<()> {
    warn!("{}", warning(injected, None));
    let Some(blackout) = injected.faults.blackout else { return Ok(()) };
    let began = Instant::now();
    std::thread::Builder::new().name("link-faults".into()).spawn(move || {
        let mut at = Duration::from_nanos(blackout.from.get());
        std::thread::sleep(at.saturating_sub(began.elapsed()));
        warn!("link faults: the blackout begins");
        at += Duration::from_nanos(blackout.length.get());
        std::thread::sleep(at.saturating_sub(began.elapsed()));
        warn!("link faults: the blackout ends");
    })?;
    Ok(())
}

/// What start and status say.
pub(crate) fn warning(injected: &Injected, counts: Option<&Arc<LinkFaultCounts>>) -> String {
    let mut text = format!("the link is spoilt on purpose, by --link-faults {}", injected.said);
    if let Some(counts) = counts {
        text += &format!(
            ": {} frames dropped, {} duplicated, {} reordered, {} corrupted, {} without room, {} in a blackout",
            counts.dropped(),
            counts.duplicated(),
            counts.reordered(),
            counts.corrupted(),
            counts.overflowed(),
            counts.blacked_out(),
        );
    }
    text
}

/// What waits before a bottleneck, where nothing else is said: about what a switch's port holds.
const QUEUE_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use ibid_units::Nanos;

    #[test]
    fn every_word_is_understood() {
        let text = "drop=0.1%,duplicate=10%,reorder=5%,corrupt=1%,delay=1ms,rate=10MiB,queue=64KiB,blackout=60s@10s,seed=7";
        let Injected { said, faults } = parse(text).unwrap();
        assert_eq!(said, text);
        assert_eq!(
            faults,
            LinkFaults {
                drop: 1_000,
                duplicate: 100_000,
                reorder: 50_000,
                corrupt: 10_000,
                delay: Nanos::from_millis(1),
                bottleneck: Some(Bottleneck { rate: 10 << 20, queue: 64 << 10 }),
                blackout: Some(Blackout {
                    from: Nanos::from_millis(10_000),
                    length: Nanos::from_millis(60_000),
                }),
                seed: 7,
            }
        );
        assert_eq!(parse("drop=100%").unwrap().faults.drop, CERTAIN);
        assert_eq!(parse("rate=1MiB").unwrap().faults.bottleneck.unwrap().queue, QUEUE_BYTES);
    }

    #[test]
    fn what_is_not_understood_is_refused_with_what_is() {
        for (text, told) in [
            ("", "no key=value"),
            ("drop", "no key=value"),
            ("drop=0.1", "percentage such as 0.1%"),
            ("drop=101%", "percentage"),
            ("drop=-1%", "percentage"),
            ("drop=NaN%", "percentage"),
            ("loss=1%", "the key must be drop, "),
            ("drop=1%,drop=2%", "twice"),
            ("delay=1", "delay=1: "),
            ("blackout=60s", "60s@10s"),
            ("blackout=60s@x", "60s@10s"),
            ("rate=0B", "more than nothing"),
            ("queue=1MiB", "only with rate"),
            ("seed=x", "must be a number"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
