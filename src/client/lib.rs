//! An NVMe/TCP initiator: what demo, bench and tests drive a target with.
//! Takes requests with buffers the caller owns, gives them back with a status. One thread, non-blocking inside; sleeps in poll(2)
//! where it waits, so it may share a core with the target. Nothing is allocated per request.
//! Authenticates where the target asks for it. Not here: TLS, multipath, reconnecting. A broken connection ends the [`Initiator`].

mod auth;
mod connect;
mod initiator;
mod io;
mod queue;
mod receive;
mod wait;

#[cfg(test)]
mod loopback;

pub use connect::discover;
pub use ibid_chap::Secret;
pub use ibid_wire::nvme_tcp::{AnaState, AuthRefusal, Status};
pub use initiator::{ConnectOptions, Initiator, Namespace, Subsystem};
pub use io::{PairRefused, Refused, RefusedWhy};
pub use queue::Completion;

use ibid_wire::nvme_tcp::FatalError;

/// Why the initiator gives up.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket failed.
    #[error("{doing}: {source}")]
    Socket {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The target closed the connection.
    #[error("the target closed the connection")]
    Closed,
    /// The target ended the connection and said why.
    #[error("the target ended the connection: {0}")]
    Terminated(FatalError),
    /// The target sent something that the standard does not allow here.
    #[error("the target broke the protocol: {0}")]
    Protocol(&'static str),
    /// A command failed.
    #[error("{doing}: {status}")]
    Failed {
        /// Which command.
        doing: &'static str,
        /// Its status.
        status: Status,
    },
    /// The target asks who we are.
    #[error("the target asks for authentication, and there is no secret to give")]
    SecretNeeded,
    /// The target should have said who it is, and does not even ask who we are.
    #[error(
        "the target does not authenticate, though it must for the controller's secret that was given"
    )]
    NotAuthenticated,
    /// Authentication failed, on either side.
    #[error("authentication: {}", .0.text())]
    Authentication(AuthRefusal),
    /// No answer in time.
    #[error("{0}: no answer in time")]
    Timeout(&'static str),
    /// A name that is no NQN.
    #[error("not an NQN (1 to 223 printable characters)")]
    BadName,
    /// The target can't do what was asked of it.
    #[error("the target does not support {0}")]
    Unsupported(&'static str),
    /// The request was refused before it was sent.
    #[error("{0}")]
    Refused(RefusedWhy),
}
