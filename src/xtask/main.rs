//! Work on the project itself: `cargo xtask sim` runs the simulator, `cargo xtask soak` runs it for as long as it is given,
//! `cargo xtask mutants` shows what it finds, `cargo xtask fuzz` makes up what hosts might send.

mod fuzz;
mod mutants;
mod sweep;

use clap::{Parser, Subcommand};
use ibid_sim::runner::{Order, Summary, attempt, run_all};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Work on ibid itself")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run the simulator: one seed, or many
    Sim {
        /// The seed to run
        #[arg(required_unless_present = "seeds", conflicts_with_all = ["seeds", "from", "threads", "keep_going"])]
        seed: Option<u64>,
        /// Run so many seeds
        #[arg(long)]
        seeds: Option<u64>,
        /// The first of them
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Threads; as many as there are cores if not given
        #[arg(long)]
        threads: Option<usize>,
        /// Go on after a seed that failed
        #[arg(long)]
        keep_going: bool,
        /// Print the story of the seed as it happens
        #[arg(long, conflicts_with = "seeds")]
        trace: bool,
    },
    /// Make mistakes in the code, one at a time: does the simulator find them?
    Mutants(mutants::Mutants),
    /// Make up what hosts might send, guided by what code it reaches
    Fuzz(fuzz::Fuzz),
    /// Run what is enumerated: crashes behind every effect, single faults, N-th failures
    #[command(subcommand)]
    Sweep(sweep::Sweep),
    /// Run seeds that nobody has run before, for a while
    Soak {
        /// How long
        #[arg(long)]
        minutes: u64,
        /// The first seed; chosen by the time of day if not given
        #[arg(long)]
        from: Option<u64>,
        /// Threads; as many as there are cores if not given
        #[arg(long)]
        threads: Option<usize>,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().task {
        Task::Sim { seed: Some(seed), trace, .. } => one(seed, trace),
        Task::Sim { seed: None, seeds, from, threads, keep_going, .. } => {
            let order =
                Order { from, count: seeds, time: None, threads: cores(threads), keep_going };
            many(order)
        }
        Task::Fuzz(order) => order.run(),
        Task::Mutants(order) => order.run(),
        Task::Sweep(order) => order.run(),
        Task::Soak { minutes, from, threads } => {
            let from = from.unwrap_or_else(|| {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                since.as_secs() * 1_000_000
            });
            let time = Some(Duration::from_secs(minutes * 60));
            let order =
                Order { from, count: None, time, threads: cores(threads), keep_going: true };
            many(order)
        }
    }
}

pub(crate) fn cores(threads: Option<usize>) -> usize {
    threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

fn one(seed: u64, trace: bool) -> ExitCode {
    ibid_sim::trace::print_stories(trace);
    match attempt(seed) {
        Ok(report) => {
            println!(
                "seed {seed} holds: trace hash {:016x}, {} steps, {} events, {:.3} simulated seconds, {} commands acknowledged",
                report.hash,
                report.steps,
                report.events,
                report.time.get() as f64 / 1e9,
                report.acknowledged
            );
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{}", failure.text());
            ExitCode::FAILURE
        }
    }
}

fn many(order: Order) -> ExitCode {
    println!("seeds from {} on, {} threads", order.from, order.threads);
    let summary: Summary = run_all(order, |line| eprintln!("{line}"));
    println!("{}", summary.text());
    for failure in &summary.failures {
        println!("{}\n", failure.text());
    }
    if summary.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
