//! What went wrong at a node, and what it found in its log when it started: facts with a sentence each.
//! Takes numbers from the node's shard; gives serialisable structs. What to do about a fault is docs/runbook.md's and the operator's.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::text::{amount, long_span, span};
use crate::config::Role;

/// What failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultSubject {
    /// The log device.
    Log,
    /// A volume.
    Volume,
    /// The peer's structures contradict themselves.
    Peer,
    /// The chain digests of the nodes differ after a consistency point.
    Chain,
    /// A page of the log in memory.
    Memory,
}

/// A fault.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FaultStatus {
    /// What failed.
    pub subject: FaultSubject,
    /// Whether it stays until the node is started again. Others are tried again and go away by themselves.
    pub is_final: bool,
    /// The operating system's error code, where there is one.
    pub errno: Option<i32>,
    /// Seconds since it was seen first.
    pub since_s: u64,
    /// How often it was seen since then.
    pub count: u64,
    /// All of it in one line.
    pub line: String,
}

impl FaultStatus {
    /// One that is tried again.
    pub fn transient(subject: FaultSubject, errno: i32, since_s: u64, count: u64) -> Self {
        let what = match subject {
            FaultSubject::Log => "the log device fails",
            FaultSubject::Volume => "a volume fails, and the log keeps what it lacks",
            FaultSubject::Peer => "the peer's frames contradict themselves",
            FaultSubject::Chain => "the chain digests differ",
            FaultSubject::Memory => "a page of the log is not what came",
        };
        let line = format!(
            "{what} ({}), {count} times in {}: trying again",
            error(errno),
            long_span(since_s)
        );
        Self { subject, is_final: false, errno: Some(errno), since_s, count, line }
    }

    /// One that stays. It says what that means for a node in `role`.
    pub fn stopped(role: Role, subject: FaultSubject, errno: Option<i32>, since_s: u64) -> Self {
        let what = match subject {
            FaultSubject::Log => "the log device failed",
            FaultSubject::Volume => "a volume failed, and the log keeps what it lacks",
            FaultSubject::Peer => "the peer's log contradicts itself",
            FaultSubject::Chain => "the two nodes' chain digests differ after a consistency point",
            FaultSubject::Memory => {
                "a page of the log changed in memory, and neither the log device nor the peer has it as it came"
            }
        };
        let then = match role {
            Role::Source => "no write is acknowledged any more; what was acknowledged is safe",
            Role::Destination => "nothing more is taken from the source",
        };
        let code = errno.map_or_else(String::new, |errno| format!(" ({})", error(errno)));
        let line = format!("{what}{code}: {then}");
        Self { subject, is_final: true, errno, since_s, count: 1, line }
    }
}

/// How the log ended that a node found at its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogEnd {
    /// With its last batch.
    Whole,
    /// In a batch that was never acknowledged: an ordinary crash.
    TornTail,
    /// Below an entry that both nodes had held: this device has lost something it had said was durable.
    Damaged,
}

/// What a node found in its log when it started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecoveryStatus {
    /// Whether the node had been stopped in good order: then there was nothing to recover.
    pub clean: bool,
    /// How the log ended.
    pub end: LogEnd,
    /// Entries after the last consistency point that came back.
    pub entries: u64,
    /// Segments they lie in.
    pub segments: u32,
    /// Bytes of the log that were read.
    pub bytes: u64,
    /// How long it took.
    pub took_ns: u64,
    /// The newest entry that came back.
    pub lsn: u64,
    /// The newest entry that both nodes are known to have held; past `lsn` only where the log is damaged.
    pub lsn_committed: u64,
}

impl fmt::Display for RecoveryStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.clean {
            return f.write_str("not needed: the last stop was in good order");
        }
        write!(
            f,
            "{} entries in {} segments, {} read in {}; ",
            self.entries,
            self.segments,
            amount(self.bytes),
            span(self.took_ns)
        )?;
        match self.end {
            LogEnd::Whole => f.write_str("the log was whole"),
            LogEnd::TornTail => f.write_str("the log ended in a write that was never acknowledged"),
            LogEnd::Damaged => write!(
                f,
                "THE LOG IS DAMAGED after entry {}, and entry {} had been acknowledged: the peer is asked for the rest",
                self.lsn, self.lsn_committed
            ),
        }
    }
}

fn error(errno: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_whether_it_stays() {
        let full = FaultStatus::transient(FaultSubject::Volume, 28, 95, 17);
        assert_eq!(
            full.line,
            "a volume fails, and the log keeps what it lacks (No space left on device (os error 28)), 17 times in 1 min 35 s: trying again"
        );
        let gone = FaultStatus::stopped(Role::Source, FaultSubject::Log, Some(5), 3);
        assert!(gone.is_final && gone.line.contains("no write is acknowledged any more"));
        let chain = FaultStatus::stopped(Role::Destination, FaultSubject::Chain, None, 3);
        assert!(chain.line.ends_with("consistency point: nothing more is taken from the source"));
    }

    #[test]
    fn recovery_tells_a_torn_tail_from_damage() {
        let torn = RecoveryStatus {
            clean: false,
            end: LogEnd::TornTail,
            entries: 1_200,
            segments: 3,
            bytes: 160 << 20,
            took_ns: 310_000_000,
            lsn: 9_000,
            lsn_committed: 8_990,
        };
        assert_eq!(
            torn.to_string(),
            "1200 entries in 3 segments, 160 MiB read in 310 ms; the log ended in a write that was never acknowledged"
        );
        let damaged = RecoveryStatus { end: LogEnd::Damaged, lsn_committed: 9_100, ..torn };
        assert!(damaged.to_string().contains("DAMAGED after entry 9000, and entry 9100"));
        let clean = RecoveryStatus { clean: true, ..torn };
        assert!(clean.to_string().starts_with("not needed"));
    }
}
