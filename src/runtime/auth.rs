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
///
/// CHAP-3: a connection has one place: what one that is gone has left behind there is replaced, not computed. So there is always room, and
/// nobody keeps more of it than he has connections.
pub struct AuthRoom {
    places: Box<[ArrayQueue<AuthJob>]>,
    /// Places with a job, in the order they got one; none stands here twice.
    order: ArrayQueue<usize>,
    answers: ArrayQueue<AuthAnswer>,
    worker: OnceLock<Thread>,
    closed: AtomicBool,
}

impl AuthRoom {
    /// A room for the jobs of so many connections.
    pub fn new(connections_max: usize) -> Self {
        Self {
            places: (0..connections_max).map(|_| ArrayQueue::new(1)).collect(),
            order: ArrayQueue::new(connections_max),
            answers: ArrayQueue::new(connections_max),
            worker: OnceLock::new(),
            closed: AtomicBool::new(false),
        }
    }

    /// Gives the thread a job, in place of what its connection's place still has.
    pub(crate) fn ask(&self, job: AuthJob) {
        let place = job.conn().index();
        // Empty places are not in the order: each is put there by the job that fills it.
        if self.places[place].force_push(job).is_none() {
            self.order.push(place).expect("a place stands in the order once");
        }
        if let Some(worker) = self.worker.get() {
            worker.unpark();
        }
    }

    /// The next job; only for the one thread that serves.
    fn next(&self) -> Option<AuthJob> {
        let place = self.order.pop()?;
        self.places[place].pop()
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
            let Some(job) = self.next() else {
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
