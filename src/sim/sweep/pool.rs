//! Runs many short cases on several threads and keeps what they panicked with.

use crate::runner::quietly;
use crate::trace;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A case that did not hold.
#[derive(Clone, Debug)]
pub struct Failed {
    pub name: String,
    pub message: String,
    pub story: Vec<String>,
}

impl Failed {
    /// For people.
    pub fn text(&self) -> String {
        let Failed { name, message, story } = self;
        format!("{name} fails: {message}\n{}", story.join("\n"))
    }
}

/// Runs one case.
pub fn attempt<R>(name: &str, work: impl FnOnce() -> R) -> Result<R, Failed> {
    quietly(work).map_err(|message| Failed {
        name: name.to_string(),
        message,
        story: trace::last().map(|trace| trace.story()).unwrap_or_default(),
    })
}

/// Does each job on one of `threads` threads; results in the order of the jobs.
pub fn each<J: Sync, R: Send>(
    jobs: &[J],
    threads: usize,
    work: impl Fn(&J) -> R + Sync,
    progress: impl Fn(usize) + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let told = Mutex::new(Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(at) else { return };
                    let result = work(job);
                    let mut results = results.lock().expect("nobody panics holding it");
                    results.push((at, result));
                    let count = results.len();
                    drop(results);
                    let mut told = told.lock().expect("nobody panics holding it");
                    if told.elapsed() >= Duration::from_secs(5) {
                        *told = Instant::now();
                        progress(count);
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().expect("nobody panics holding it");
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}
