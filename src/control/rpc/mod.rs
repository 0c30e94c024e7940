//! The control socket: JSON-RPC 2.0 over a UNIX stream socket that only its owner may open.
//! [`Server`] answers for a node through its [`Handler`], on threads of its own; [`Client`] is what `ibid status` and `ibid cp` use.
//! Requests follow one another as lines or simply one behind the other, as SPDK's tools send them. Never on a data thread.
//!
//! RPC-1  A server that runs holds the lock beside its socket; a socket whose lock is free belongs to a dead process.
//! RPC-2  Nothing a client sends makes the server hold more than [`REQUEST_BYTES_MAX`] of it, or wait for it longer than [`Timeouts`] say.

mod client;
mod message;
mod server;
#[cfg(test)]
mod tests;

use core::time::Duration;

use serde::{Deserialize, Serialize};

pub use client::{Client, ClientError};
pub use server::{Server, ServerError};

use crate::status::{CpReport, Histograms, Status, VerifyReport, VerifyRequest};

/// Largest request, with all of a batch.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Most requests in a batch.
pub const BATCH_MAX: usize = 16;
/// Most clients at a time; one more is told so and turned away.
pub const CLIENTS_MAX: usize = 16;
/// Largest answer a client takes.
pub const REPLY_BYTES_MAX: usize = 8 << 20;
/// Every method, in the order of [`Handler`]'s.
pub const METHODS: &[&str] =
    &["status", "cp", "histograms", "verify", "verify_progress", "verify_stop", "stop", "version"];

/// What a node answers with. Called from several threads at a time, none of them a data thread; each call should end within
/// seconds, as [`Server`]'s drop waits for it.
pub trait Handler: Send + Sync + 'static {
    /// What the node has to say about itself.
    fn status(&self) -> Result<Status, Refused>;
    /// Takes a consistency point and answers when it is durable on both nodes.
    fn cp(&self) -> Result<CpReport, Refused>;
    /// The distribution of every stage's latency.
    fn histograms(&self) -> Result<Histograms, Refused>;
    /// Begins to compare both copies of a volume, and answers at once with where that stands. One comparison at a time.
    fn verify(&self, request: &VerifyRequest) -> Result<VerifyReport, Refused>;
    /// Where the running comparison stands, or how the last one ended.
    fn verify_progress(&self) -> Result<VerifyReport, Refused>;
    /// Ends the running comparison before it is through; what it has found so far, or how the last one ended.
    fn verify_stop(&self) -> Result<VerifyReport, Refused>;
    /// Begins the stop that SIGTERM begins, and answers without waiting for its end.
    fn stop(&self) -> Result<(), Refused>;
}

/// Why a node doesn't do what it was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// The shard doesn't run yet.
    #[error("the node is starting")]
    Starting,
    /// The shard doesn't run any more.
    #[error("the node is stopping")]
    Stopping,
    /// A destination can't begin this.
    #[error("only a source can do this")]
    NotSource,
    /// The other node is needed and silent.
    #[error("the peer is away")]
    PeerAway,
    /// There was no answer in time; what was begun may still happen.
    #[error("not done in time; it may still happen")]
    TimedOut,
    /// This shard has no such thing.
    #[error("not supported by this shard")]
    NotSupported,
    /// A comparison runs already.
    #[error(
        "another volume is being compared; see `verify_progress`, or end it with `verify_stop`"
    )]
    Verifying,
    /// There was none.
    #[error("no volume has been compared since the node started")]
    NeverVerified,
    /// A name that no volume has.
    #[error("there is no volume of this name; `status` lists them")]
    NoSuchVolume,
    /// A device failed; the number is the operating system's error code.
    #[error("a device failed: {}", std::io::Error::from_raw_os_error(*.0))]
    Faulted(i32),
}

impl Refused {
    /// The JSON-RPC error code, from the range the specification leaves to servers (JSON-RPC 2.0, 5.1).
    pub const fn code(self) -> i64 {
        match self {
            Self::Starting => -32001,
            Self::Stopping => -32002,
            Self::NotSource => -32003,
            Self::PeerAway => -32004,
            Self::TimedOut => -32005,
            Self::Faulted(_) => -32006,
            Self::NotSupported => -32007,
            Self::Verifying => -32008,
            Self::NeverVerified => -32009,
            Self::NoSuchVolume => -32010,
        }
    }
}

/// The answer to `version`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Version {
    /// Version of the program.
    pub version: String,
    /// Version of this interface; grows when something is taken away or changes its meaning.
    pub interface: u32,
    /// What can be asked for.
    pub methods: Vec<String>,
}

impl Version {
    /// What this build answers.
    pub fn current() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            interface: 1,
            methods: METHODS.iter().map(|method| (*method).to_owned()).collect(),
        }
    }
}

/// How long a server waits for one client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// For the first byte of a request.
    pub idle: Duration,
    /// From there to the request's end.
    pub request: Duration,
    /// For the client to take the whole answer.
    pub reply: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(300),
            request: Duration::from_secs(10),
            reply: Duration::from_secs(10),
        }
    }
}
