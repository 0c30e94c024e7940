//! How much the simulator is worth: each mistake that the code can be made to make is hunted with one seed after another, until one does not
//! hold that holds without the mistake. What that takes, and by which check it is found, is the answer.

use crate::runner::{Failure, Order, attempt, run_all};
use ibid_units::Mutant;
use ibid_units::mutant::make;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Found within few seeds, each by another check: these are hunted whenever the tests run.
pub const QUICK: &[Mutant] = &[
    Mutant::AckBeforePeer,
    Mutant::AckBeforeFlush,
    Mutant::ReportBeforeFlush,
    Mutant::SuperblockBeforeFlush,
    Mutant::RecordedBeforePeer,
    Mutant::OlderVersionWins,
    Mutant::MapForgotten,
    Mutant::LossIgnored,
];

/// How a hunt ended.
#[derive(Debug)]
pub struct Hunt {
    pub mutant: Mutant,
    /// The seed that found it; `None` where none did.
    pub killer: Option<Failure>,
    /// How many were tried, that one included.
    pub seeds: u64,
    /// Seeds that do not hold without the mistake either: they prove nothing.
    pub broken: Vec<u64>,
    pub time: Duration,
}

impl Hunt {
    /// What the seed that found it said, in a line.
    pub fn message(&self) -> &str {
        let Some(killer) = &self.killer else { return "" };
        // The first line says where it panicked.
        killer.message.lines().nth(1).unwrap_or(&killer.message)
    }

    /// For people who wait.
    pub fn line(&self) -> String {
        let (name, seconds) = (self.mutant.name(), self.time.as_secs_f64());
        let mut line = match &self.killer {
            Some(killer) => {
                let found = shorten(self.message());
                format!("{name}: killed by seed {} in {seconds:.1} s: {found}", killer.seed)
            }
            None => format!("{name}: survives {} seeds, {seconds:.1} s", self.seeds),
        };
        if !self.broken.is_empty() {
            let _ = write!(line, " (seeds that do not hold without it, too: {:?})", self.broken);
        }
        line
    }
}

/// Hunts one mistake with seeds from 1 on, `cap` of them at most.
pub fn hunt(mutant: Mutant, cap: u64, threads: usize) -> Hunt {
    let began = Instant::now();
    let mut broken = Vec::new();
    let mut from = 1;
    let killer = loop {
        let count = Some((cap + 1).saturating_sub(from));
        make(Some(mutant));
        let summary =
            run_all(Order { from, count, time: None, threads, keep_going: false }, |_| {});
        make(None);
        // Seeds are given out in order and every one that was begun is brought to its end: the lowest that failed is the first that does.
        let Some(failure) = summary.failures.into_iter().next() else { break None };
        if attempt(failure.seed).is_ok() {
            break Some(failure);
        }
        from = failure.seed + 1;
        broken.push(failure.seed);
    };
    let seeds = killer.as_ref().map_or(cap, |killer| killer.seed);
    Hunt { mutant, killer, seeds, broken, time: began.elapsed() }
}

/// All hunts, as a table and in sum.
pub fn text(hunts: &[Hunt]) -> String {
    let mut out = String::from("| mutant | the mistake | found by | seeds |\n|---|---|---|---|\n");
    for hunt in hunts {
        let found = match &hunt.killer {
            Some(_) => shorten(hunt.message()),
            None => "**survives**".to_owned(),
        };
        let (name, mistake) = (hunt.mutant.name(), hunt.mutant.mistake());
        let _ = writeln!(out, "| `{name}` | {mistake} | {found} | {} |", hunt.seeds);
    }
    let mut seeds: Vec<u64> =
        hunts.iter().filter(|hunt| hunt.killer.is_some()).map(|hunt| hunt.seeds).collect();
    seeds.sort_unstable();
    let time: Duration = hunts.iter().map(|hunt| hunt.time).sum();
    let _ = writeln!(
        out,
        "\n{} of {} mutants killed; seeds to kill: median {}, at most {}; {:.0} s",
        seeds.len(),
        hunts.len(),
        seeds.get(seeds.len() / 2).copied().unwrap_or_default(),
        seeds.last().copied().unwrap_or_default(),
        time.as_secs_f64(),
    );
    out
}

/// The beginning of a message without the values in braces, fit for a cell of a table.
fn shorten(message: &str) -> String {
    let mut depth = 0u32;
    let mut plain = String::new();
    for letter in message.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            '|' => plain.push('/'),
            _ => plain.push(letter),
        }
    }
    match plain.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &plain[..end]),
        None => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_to_a_cell() {
        assert_eq!(
            shorten("I1: a | b (Line { at: At { n: 1 }, c }) gone"),
            "I1: a / b (Line ) gone"
        );
        assert_eq!(shorten(&"ä".repeat(101)), format!("{}…", "ä".repeat(100)));
    }

    #[test]
    fn a_mistake_is_found_and_none_is_made_afterwards() {
        let hunt = hunt(Mutant::AckBeforePeer, 20, 1);
        assert!(hunt.killer.is_some() && hunt.message().starts_with("I1"), "{}", hunt.line());
        assert!(Mutant::ALL.iter().all(|mutant| !mutant.is_on()));
    }
}
