//! `cargo xtask sweep`: the enumerations of the simulator, sampled or whole.

use crate::cores;
use clap::Subcommand;
use ibid_sim::disk::cut::Survive;
use ibid_sim::sweep::crash::{self, Point, Victim};
use ibid_sim::sweep::expect::{self, Cell};
use ibid_sim::sweep::pool::Failed;
use ibid_sim::sweep::script::{VARIANTS, Variant};
use ibid_sim::sweep::{matrix, nth};
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum Sweep {
    /// Power goes behind each effect of a fixed workload, and any part of what was not flushed survives (E1)
    Crash {
        /// One boundary in so many
        #[arg(long, default_value_t = 50)]
        every: u64,
        /// Many more subsets of what was not flushed behind each
        #[arg(long)]
        whole: bool,
        /// Another sample
        #[arg(long, default_value_t = 0)]
        offset: u64,
        /// Threads; as many as there are cores if not given
        #[arg(long)]
        threads: Option<usize>,
    },
    /// One fault of each structure, of each kind, in each activity, on each node (E2)
    Matrix {
        /// Threads; as many as there are cores if not given
        #[arg(long)]
        threads: Option<usize>,
        /// One cell only, as a report names it: structure, kind, activity, 0 or 1 for the node
        #[arg(long, num_args = 4)]
        case: Option<Vec<String>>,
    },
    /// The N-th operation of each kind fails, for every N (E3)
    Nth {
        /// Not every N
        #[arg(long, default_value_t = 1)]
        every: u64,
        /// Threads; as many as there are cores if not given
        #[arg(long)]
        threads: Option<usize>,
        /// One case only, as a report names it: stall or continue, what, 0 or 1 for the node, once or while, N
        #[arg(long, num_args = 5)]
        case: Option<Vec<String>>,
    },
    /// Run one crash as the report of a sweep names it, and print its story
    At {
        /// stall or continue
        #[arg(value_parser = |text: &str| Variant::parse(text).ok_or("stall or continue"))]
        variant: Variant,
        /// Behind this effect
        boundary: u64,
        /// source, destination or both
        #[arg(value_parser = |text: &str| Victim::parse(text).ok_or("source, destination or both"))]
        victim: Victim,
        /// What survives: none, all, completed, single:N, all-but:N, torn:WRITE:MASK:rest, random:SEED
        #[arg(value_parser = |text: &str| Survive::parse(text).ok_or("no such subset"))]
        survive: Survive,
        /// Power goes again, so many effects after the restart
        #[arg(long)]
        again: Option<u64>,
    },
}

/// Failures that are printed in full.
const TOLD_MAX: usize = 5;

impl Sweep {
    pub(crate) fn run(self) -> ExitCode {
        match self {
            Sweep::Crash { every, whole, offset, threads } => {
                let sweep = crash::Sweep { every, whole, threads: cores(threads), offset };
                let mut failed = false;
                for variant in VARIANTS {
                    let swept = crash::sweep(variant, sweep, |line| eprintln!("{line}"));
                    println!("{variant:?}: {}", swept.text());
                    failed |= report(&swept.failures) == ExitCode::FAILURE;
                }
                if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
            }
            Sweep::Matrix { case: Some(case), .. } => {
                ibid_sim::trace::print_stories(true);
                let words: Vec<&str> = case.iter().map(String::as_str).collect();
                let cell = Cell::parse(&words).expect("a cell as a report names it");
                println!("expected: {:?}", expect::expect(&cell));
                let ran = matrix::run(&cell);
                println!("seen: {:?}, differed: {:?}", ran.operator.seen, ran.different);
                matrix::judge(&cell);
                ExitCode::SUCCESS
            }
            Sweep::Matrix { threads, case: None } => {
                let matrix = matrix::run_all(cores(threads), |line| eprintln!("{line}"));
                println!("{}", matrix.text());
                report(&matrix.failures)
            }
            Sweep::Nth { case: Some(case), .. } => {
                ibid_sim::trace::print_stories(true);
                let words: Vec<&str> = case.iter().map(String::as_str).collect();
                let case = nth::Case::parse(&words).expect("a case as a report names it");
                let (came, restarts) = nth::run(&case);
                println!("{} holds, its failure came: {came}, {restarts} restarts", case.name());
                ExitCode::SUCCESS
            }
            Sweep::Nth { every, threads, case: None } => {
                let (all, time) = nth::run_all(every, cores(threads), |line| eprintln!("{line}"));
                println!("{}", nth::text(&all, time));
                report(&all.into_iter().flat_map(|looped| looped.failures).collect::<Vec<_>>())
            }
            Sweep::At { variant, boundary, victim, survive, again } => {
                ibid_sim::trace::print_stories(true);
                let point = Point { variant, boundary, victim, survive, again };
                let ran = crash::run(&point);
                println!("{} holds: {:?}, {} recoveries", point.name(), ran.last, ran.recoveries);
                ExitCode::SUCCESS
            }
        }
    }
}

fn report(failures: &[Failed]) -> ExitCode {
    for failure in failures.iter().take(TOLD_MAX) {
        println!("{}\n", failure.text());
    }
    for failure in failures.iter().skip(TOLD_MAX) {
        let first = failure.message.lines().take(2).collect::<Vec<_>>().join(" ");
        println!("{} fails: {first}", failure.name);
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
