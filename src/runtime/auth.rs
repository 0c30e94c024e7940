//! Where a shard has things computed that take too long for it: the arithmetic of authentications. Two bounded queues, and a thread that
//! whoever starts the node gives to [`AuthRoom::serve`]. The shard never waits for it, and it never touches what is the shard's.

use crossbeam::queue::ArrayQueue;
use ibid_engine::frontend::{AuthAnswer, AuthJob};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::Duration;

/// How long the thread sleeps when it is not woken: what a wake-up that was lost would cost, and a stop.
const REST: Duration = Duration::from_millis(50);

/// The room between a shard and the thread that computes for it.
pub struct AuthRoom {
    jobs: ArrayQueue<AuthJob>,
    answers: ArrayQueue<AuthAnswer>,
    worker: OnceLock<Thread>,
    closed: AtomicBool,
}

impl AuthRoom {
    /// A room for so many jobs at a time, which are as many as there are connections: each has at most one, and what a connection that is gone
    /// has left behind counts, too. One more is refused.
    pub fn new(jobs_max: usize) -> Self {
        Self {
            jobs: ArrayQueue::new(jobs_max),
            answers: ArrayQueue::new(jobs_max),
            worker: OnceLock::new(),
            closed: AtomicBool::new(false),
        }
    }

    /// Gives the thread a job; one that finds no room comes back.
    pub(crate) fn ask(&self, job: AuthJob) -> Option<AuthJob> {
        let refused = self.jobs.push(job).err();
        if let Some(worker) = self.worker.get() {
            worker.unpark();
        }
        refused
    }

    /// The next answer.
    pub(crate) fn answer(&self) -> Option<AuthAnswer> {
        self.answers.pop()
    }

    /// Computes until the room is closed, on the thread that calls it, first come, first served. `random` fills its argument with what nobody
    /// can guess.
    pub fn serve<E>(&self, mut random: impl FnMut(&mut [u8]) -> Result<(), E>) {
        // A second thread would only not be woken.
        drop(self.worker.set(std::thread::current()));
        while !self.closed.load(Ordering::Acquire) {
            let Some(job) = self.jobs.pop() else {
                std::thread::park_timeout(REST);
                continue;
            };
            let mut answer = job.run(&mut random);
            while let Err(back) = self.answers.push(answer) {
                if self.closed.load(Ordering::Acquire) {
                    return;
                }
                answer = back;
                std::thread::park_timeout(REST);
            }
        }
    }

    /// Lets the thread go, after the job it is at.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if let Some(worker) = self.worker.get() {
            worker.unpark();
        }
    }
}
