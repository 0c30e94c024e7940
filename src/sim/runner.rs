//! Many seeds on several threads: progress, a summary, and of a seed that fails everything that is needed to look at it.

use crate::faults::FAULTS;
use crate::run::{Report, run};
use crate::trace::{self, EVENTS, Reached, STATES};
use std::cell::RefCell;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One seed in so many runs twice, to compare the hashes.
const TWICE_EVERY: u64 = 100;

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    pub from: u64,
    /// How many; `None`: until the time is over.
    pub count: Option<u64>,
    pub time: Option<Duration>,
    pub threads: usize,
    pub keep_going: bool,
}

/// A seed that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub message: String,
    pub story: Vec<String>,
}

impl Failure {
    /// For people.
    pub fn text(&self) -> String {
        let Failure { seed, message, story } = self;
        format!(
            "seed {seed} fails: {message}\n{}\nagain: cargo xtask sim {seed} --trace",
            story.join("\n")
        )
    }
}

/// What came of all of them.
#[derive(Debug)]
pub struct Summary {
    pub seeds: u64,
    pub time: Duration,
    simulated: u64,
    steps: u64,
    events: u64,
    acknowledged: u64,
    failed: u64,
    unanswered: u64,
    slowest: (Duration, u64),
    faults: [u64; FAULTS.len()],
    reached: Reached,
    pub failures: Vec<Failure>,
}

thread_local! {
    static MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
    static QUIET: RefCell<bool> = const { RefCell::new(false) };
}

/// Runs one seed; what it panics with becomes a failure.
pub fn attempt(seed: u64) -> Result<Report, Failure> {
    quietly(|| run(seed)).map_err(|message| Failure {
        seed,
        message,
        story: trace::last().map(|trace| trace.story()).unwrap_or_default(),
    })
}

/// Runs something; what it panics with is given, not printed.
pub(crate) fn quietly<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    hook();
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(false);
    result.map_err(|_| MESSAGE.take().unwrap_or_default())
}

/// The panics of simulated seeds are kept, not printed.
fn hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.with_borrow(|quiet| *quiet) {
                MESSAGE.set(Some(info.to_string()));
            } else {
                before(info);
            }
        }));
    });
}

/// A seed, now and then twice.
fn judge(seed: u64) -> Result<Report, Failure> {
    let report = attempt(seed)?;
    if seed.is_multiple_of(TWICE_EVERY) {
        let again = attempt(seed)?;
        if again.hash != report.hash {
            return Err(Failure {
                seed,
                message: format!(
                    "the same seed gives trace hash {:016x} and then {:016x}: something decides that is not from the seed",
                    report.hash, again.hash
                ),
                story: Vec::new(),
            });
        }
    }
    Ok(report)
}

/// Runs what was ordered. `progress` is shown a line now and then.
pub fn run_all(order: Order, progress: impl Fn(&str) + Sync) -> Summary {
    let began = Instant::now();
    let next = AtomicU64::new(order.from);
    let stop = AtomicBool::new(false);
    let summary = Mutex::new(Summary::new());
    let told = Mutex::new(Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..order.threads.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed)
                    && order.time.is_none_or(|time| began.elapsed() < time)
                {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if order.count.is_some_and(|count| seed - order.from >= count) {
                        return;
                    }
                    let started = Instant::now();
                    let result = judge(seed);
                    let failed = result.is_err();
                    if let Err(failure) = &result {
                        let lines: Vec<&str> = failure.message.lines().take(2).collect();
                        progress(&format!("seed {seed} fails: {}", lines.join(" ")));
                    }
                    let mut summary = summary.lock().expect("nobody panics holding it");
                    summary.add(seed, result, started.elapsed());
                    if failed && !order.keep_going {
                        stop.store(true, Ordering::Relaxed);
                    }
                    let mut told = told.lock().expect("nobody panics holding it");
                    if told.elapsed() >= Duration::from_secs(2) {
                        *told = Instant::now();
                        progress(&summary.line(began.elapsed(), order.count));
                    }
                }
            });
        }
    });
    let mut summary = summary.into_inner().expect("nobody panics holding it");
    summary.time = began.elapsed();
    summary.failures.sort_by_key(|failure| failure.seed);
    summary
}

impl Summary {
    fn new() -> Summary {
        Summary {
            seeds: 0,
            time: Duration::ZERO,
            simulated: 0,
            steps: 0,
            events: 0,
            acknowledged: 0,
            failed: 0,
            unanswered: 0,
            slowest: (Duration::ZERO, 0),
            faults: [0; FAULTS.len()],
            reached: [[[0; EVENTS.len()]; STATES.len()]; 2],
            failures: Vec::new(),
        }
    }

    fn add(&mut self, seed: u64, result: Result<Report, Failure>, took: Duration) {
        self.seeds += 1;
        self.slowest = self.slowest.max((took, seed));
        let report = match result {
            Ok(report) => report,
            Err(failure) => return self.failures.push(failure),
        };
        self.simulated += report.time.get();
        self.steps += report.steps;
        self.events += report.events;
        self.acknowledged += report.acknowledged;
        self.failed += report.failed;
        self.unanswered += report.unanswered;
        for (sum, count) in self.faults.iter_mut().zip(report.faults) {
            *sum += count;
        }
        let all = self.reached.iter_mut().flatten().flatten();
        for (sum, count) in all.zip(report.reached.iter().flatten().flatten()) {
            *sum += count;
        }
    }

    fn line(&self, elapsed: Duration, count: Option<u64>) -> String {
        let of = count.map_or(String::new(), |count| format!(" of {count}"));
        format!(
            "{} seeds{of}, {} failed, {:.1} simulated hours, {:.2} M events/s",
            self.seeds,
            self.failures.len(),
            self.simulated as f64 / 3.6e12,
            self.events as f64 / elapsed.as_secs_f64() / 1e6,
        )
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let seconds = self.time.as_secs_f64();
        let _ = writeln!(
            out,
            "{} seeds in {seconds:.1} s ({:.3} s each), {} failed; {:.1} simulated hours",
            self.seeds,
            seconds / self.seeds.max(1) as f64,
            self.failures.len(),
            self.simulated as f64 / 3.6e12,
        );
        let _ = writeln!(
            out,
            "{} events, {:.2} M events/s; {} steps; commands: {} acknowledged, {} ended with an error, {} unanswered; slowest seed {} ({:.2} s)",
            self.events,
            self.events as f64 / seconds / 1e6,
            self.steps,
            self.acknowledged,
            self.failed,
            self.unanswered,
            self.slowest.1,
            self.slowest.0.as_secs_f64(),
        );
        let _ = writeln!(out, "\nfaults injected:");
        for ((_, name), count) in FAULTS.iter().zip(self.faults) {
            let _ = writeln!(out, "  {name:<28}{count:>12}");
        }
        for (node, reached) in ["source", "destination"].iter().zip(&self.reached) {
            let _ = writeln!(out, "\nevents by state, {node}:");
            let never = never(reached);
            for ((_, state), events) in STATES.iter().zip(reached) {
                let seen: Vec<String> = EVENTS
                    .iter()
                    .zip(events)
                    .filter(|(_, count)| **count > 0)
                    .map(|((_, event), count)| format!("{event} {count}"))
                    .collect();
                let _ = writeln!(out, "  {state:<12}{}", seen.join(", "));
            }
            let _ = writeln!(out, "  never reached: {}", never.join(", "));
        }
        out
    }
}

/// What no run has come to: states that were never left, events that were met in none.
fn never(reached: &[[u64; EVENTS.len()]; STATES.len()]) -> Vec<&'static str> {
    let states =
        STATES.iter().zip(reached).filter(|(_, events)| events.iter().all(|count| *count == 0));
    let events = (0..EVENTS.len()).filter(|event| reached.iter().all(|events| events[*event] == 0));
    states.map(|((_, state), _)| *state).chain(events.map(|event| EVENTS[event].1)).collect()
}
