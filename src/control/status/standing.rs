//! How the two nodes stand to each other, and what a client may rely on in that standing, in words.
//! Takes facts ([`Standing`]); gives [`Promise`] and [`SyncStatus`], which are worded from those facts and from nothing else, so that no
//! line can say more than the node knows. Does no arithmetic on logs or maps: the node hands over bytes and seconds.
//!
//! STATUS-1  A promise of both nodes is made only where the state is [`PairState::InSync`] or [`PairState::CatchingUp`], or of the time
//!           before the peer fell silent.

use serde::{Deserialize, Serialize};

use super::text::{amount, long_span, moment};
use crate::config::{Durability, OnPeerLoss, Role};

/// How the two nodes stand to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairState {
    /// Started, and the peer has not been heard yet.
    Connecting,
    /// Both logs hold every acknowledged write, and both volumes differ by nothing else.
    InSync,
    /// New writes reach both logs while older blocks still travel.
    CatchingUp,
    /// The peer was there and has gone silent; writes wait.
    Away,
    /// The peer is away and the source goes on without it.
    Alone,
}

impl PairState {
    /// The state's word, as JSON has it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::InSync => "in-sync",
            Self::CatchingUp => "catching-up",
            Self::Away => "away",
            Self::Alone => "alone",
        }
    }
}

/// What the destination's volumes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MirrorState {
    /// The source's volumes at a consistency point.
    Consistent,
    /// The source's volumes as they were when it went on alone.
    Stale,
    /// No state of any time: a part is newer than the rest.
    CatchingUp,
    /// Nothing of the source's yet.
    NeverSynchronised,
}

impl MirrorState {
    /// The state in words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Consistent => "consistent",
            Self::Stale => "consistent, but as old as the source has been alone",
            Self::CatchingUp => "being caught up, not usable until then",
            Self::NeverSynchronised => "never synchronised",
        }
    }
}

/// Everything that the promise of a node follows from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Which node speaks.
    pub role: Role,
    /// How the pair stands.
    pub state: PairState,
    /// What an acknowledged write has reached on this node.
    pub durability: Durability,
    /// The same on the peer, once it has told.
    pub peer_durability: Option<Durability>,
    /// What the source does without its peer.
    pub on_peer_loss: OnPeerLoss,
    /// What the mirror is; at a source as far as it knows, and only a source knows [`MirrorState::Stale`].
    pub mirror: MirrorState,
    /// Seconds the peer has been silent, where it is away.
    pub away_s: u64,
    /// Since when the source has been alone, in seconds since 1970; where it is, or where it was and the peer is not caught up yet.
    pub alone_since_s: Option<u64>,
    /// Bytes of blocks that the peer lacks, whole blocks of 4 KiB.
    pub out_of_sync_bytes: u64,
    /// Whether a fault keeps the node from making anything durable until it is started again.
    pub failed: bool,
}

/// What a client may rely on now, as facts and as the one line an operator reads.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Promise {
    /// How the pair stands.
    pub state: PairState,
    /// What an acknowledged write has reached on this node.
    pub durability: Durability,
    /// The same on the peer, once it has told.
    pub peer_durability: Option<Durability>,
    /// How long the peer has been silent, where it is away.
    pub away_s: Option<u64>,
    /// The promise in one line.
    pub line: String,
}

/// How far the two copies are the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncStatus {
    /// The state in words, such as `in sync` or `catching up, 310 MiB left`.
    pub line: String,
    /// What the source does without its peer.
    pub on_peer_loss: OnPeerLoss,
    /// Since when the source has been alone, in seconds since 1970: a lower bound of what the other copy lacks.
    pub alone_since_s: Option<u64>,
    /// Bytes of blocks that the peer lacks, whole blocks of 4 KiB: with what is in the log, never less than the difference.
    pub out_of_sync_bytes: u64,
    /// What the mirror is.
    pub mirror: MirrorState,
}

impl Promise {
    /// Words the promise.
    pub fn new(standing: &Standing) -> Self {
        let Standing { state, durability, peer_durability, .. } = *standing;
        let is_away = matches!(state, PairState::Away | PairState::Alone);
        let line = match standing.role {
            Role::Source => of_source(standing),
            Role::Destination => of_destination(standing),
        };
        let away_s = is_away.then_some(standing.away_s);
        Self { state, durability, peer_durability, away_s, line }
    }
}

impl SyncStatus {
    /// Words the state.
    pub fn new(standing: &Standing) -> Self {
        let Standing { out_of_sync_bytes, alone_since_s, mirror, on_peer_loss, .. } = *standing;
        let never = mirror == MirrorState::NeverSynchronised;
        let line = match standing.state {
            PairState::InSync => "in sync".to_owned(),
            // A destination is sent what it lacks and does not know how much more there is.
            PairState::CatchingUp if standing.role == Role::Destination => "catching up".to_owned(),
            PairState::CatchingUp => format!("catching up, {} left", amount(out_of_sync_bytes)),
            PairState::Alone => format!("alone since {}", since(alone_since_s)),
            PairState::Connecting | PairState::Away if never => "not synchronised yet".to_owned(),
            PairState::Connecting => "not met since the start".to_owned(),
            PairState::Away if standing.role == Role::Destination => "source away".to_owned(),
            PairState::Away => "away, writes wait".to_owned(),
        };
        Self { line, on_peer_loss, alone_since_s, out_of_sync_bytes, mirror }
    }
}

/// Where an acknowledged write lies while both nodes take part.
fn held(standing: &Standing) -> &'static str {
    match (standing.durability, standing.peer_durability) {
        (Durability::Memory, Some(Durability::Memory)) => {
            "in the memory of both nodes (a power cut on both loses it)"
        }
        (Durability::Memory, Some(Durability::Disk) | None) => "on both nodes, here in memory only",
        (Durability::Disk, Some(Durability::Memory)) => "on both nodes, at the peer in memory only",
        (Durability::Disk, Some(Durability::Disk) | None) => "on both nodes",
    }
}

fn of_source(standing: &Standing) -> String {
    let held = held(standing);
    let missing = amount(standing.out_of_sync_bytes);
    let lacks = standing.out_of_sync_bytes > 0;
    let silent = long_span(standing.away_s);
    if standing.failed {
        return "no write is acknowledged: this node has failed, see the fault; what was acknowledged before is kept"
            .to_owned();
    }
    match standing.state {
        PairState::Connecting => "no write is acknowledged: waiting for the peer".to_owned(),
        PairState::InSync => format!("every acknowledged write is {held}"),
        PairState::CatchingUp => format!(
            "catching up: every new write is {held}, {missing} of older blocks are still to come; the mirror is not usable until then"
        ),
        PairState::Away if lacks => format!(
            "writes wait: the peer is silent for {silent}; it lacks {missing} of older blocks, so its mirror is not usable"
        ),
        PairState::Away => format!(
            "writes wait: the peer is silent for {silent}; every acknowledged write is {held}"
        ),
        PairState::Alone => {
            let memory = match standing.durability {
                Durability::Memory => ", in memory until the next consistency point",
                Durability::Disk => "",
            };
            format!(
                "since {} on this node only{memory}; the peer lacks {missing}, and what has come since and is still in the log",
                since(standing.alone_since_s)
            )
        }
    }
}

fn of_destination(standing: &Standing) -> String {
    let silent = long_span(standing.away_s);
    if standing.failed {
        return "nothing is taken from the source: this node has failed, see the fault".to_owned();
    }
    match (standing.mirror, standing.state) {
        (MirrorState::NeverSynchronised, PairState::CatchingUp) => {
            "first synchronisation: this mirror is not usable until its end".to_owned()
        }
        (MirrorState::NeverSynchronised, _) => {
            "this node holds nothing yet: waiting for the first synchronisation".to_owned()
        }
        (MirrorState::CatchingUp, PairState::Connecting | PairState::Away | PairState::Alone) => {
            "this mirror is no state of any time and not usable: waiting for the source to go on catching it up"
                .to_owned()
        }
        (_, PairState::CatchingUp) | (MirrorState::CatchingUp, PairState::InSync) => {
            "catching up: this mirror is not usable until older blocks have come from the source".to_owned()
        }
        // Only a source knows that it has gone on alone.
        (MirrorState::Stale, _) => "this mirror is older than its source".to_owned(),
        (MirrorState::Consistent, PairState::Connecting) => {
            "this mirror is consistent: waiting for the source".to_owned()
        }
        (MirrorState::Consistent, PairState::InSync) => {
            "this node holds every write that its source has acknowledged".to_owned()
        }
        // Whether the source has gone on alone meanwhile can't be known here.
        (MirrorState::Consistent, PairState::Away | PairState::Alone) => format!(
            "this node holds every write that its source acknowledged until it fell silent, {silent} ago"
        ),
    }
}

fn since(moment_s: Option<u64>) -> String {
    moment_s.map_or_else(|| "an unknown time".to_owned(), moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-05 12:03:11 UTC.
    const ALONE_SINCE: u64 = 1_767_614_591;

    fn standing(role: Role, state: PairState) -> Standing {
        Standing {
            role,
            state,
            durability: Durability::Disk,
            peer_durability: Some(Durability::Disk),
            on_peer_loss: OnPeerLoss::Stall,
            mirror: MirrorState::Consistent,
            away_s: 12,
            alone_since_s: None,
            out_of_sync_bytes: 0,
            failed: false,
        }
    }

    fn promise(standing: &Standing) -> String {
        Promise::new(standing).line
    }

    fn sync(standing: &Standing) -> String {
        SyncStatus::new(standing).line
    }

    #[test]
    fn a_source_says_where_a_write_is_in_each_state() {
        let source = |state| standing(Role::Source, state);
        let in_sync = source(PairState::InSync);
        assert_eq!(promise(&in_sync), "every acknowledged write is on both nodes");
        assert_eq!(sync(&in_sync), "in sync");

        let away = source(PairState::Away);
        assert_eq!(
            promise(&away),
            "writes wait: the peer is silent for 12 s; every acknowledged write is on both nodes"
        );
        assert_eq!(sync(&away), "away, writes wait");
        assert_eq!(Promise::new(&away).away_s, Some(12));
        assert_eq!(Promise::new(&in_sync).away_s, None);

        let alone = Standing {
            alone_since_s: Some(ALONE_SINCE),
            out_of_sync_bytes: 1_288_490_188,
            on_peer_loss: OnPeerLoss::Continue,
            ..source(PairState::Alone)
        };
        assert_eq!(
            promise(&alone),
            "since 2026-01-05 12:03:11 UTC on this node only; the peer lacks 1.1 GiB, and what has come since and is still in the log"
        );
        assert_eq!(sync(&alone), "alone since 2026-01-05 12:03:11 UTC");

        let back = Standing { out_of_sync_bytes: 310 << 20, ..source(PairState::CatchingUp) };
        assert_eq!(
            promise(&back),
            "catching up: every new write is on both nodes, 310 MiB of older blocks are still to come; the mirror is not usable until then"
        );
        assert_eq!(sync(&back), "catching up, 310 MiB left");

        let connecting = source(PairState::Connecting);
        assert_eq!(promise(&connecting), "no write is acknowledged: waiting for the peer");
        assert_eq!(sync(&connecting), "not met since the start");
        let never = Standing { mirror: MirrorState::NeverSynchronised, ..connecting };
        assert_eq!(sync(&never), "not synchronised yet");
    }

    #[test]
    fn the_promise_names_memory_wherever_a_copy_is_in_memory_only() {
        let line = |state, durability, peer_durability| {
            promise(&Standing { durability, peer_durability, ..standing(Role::Source, state) })
        };
        for (here, there) in [
            (Durability::Memory, Some(Durability::Disk)),
            (Durability::Disk, Some(Durability::Memory)),
            (Durability::Memory, Some(Durability::Memory)),
            (Durability::Memory, None),
        ] {
            for state in [PairState::InSync, PairState::CatchingUp, PairState::Away] {
                assert!(
                    line(state, here, there).contains("memory"),
                    "{state:?} {here:?} {there:?}"
                );
            }
        }
        assert!(line(PairState::Alone, Durability::Memory, None).contains("memory"));
    }

    /// STATUS-1, over every combination of facts.
    #[test]
    fn nothing_is_promised_of_both_nodes_where_one_is_missing() {
        let states = [
            PairState::Connecting,
            PairState::InSync,
            PairState::CatchingUp,
            PairState::Away,
            PairState::Alone,
        ];
        let mirrors = [
            MirrorState::Consistent,
            MirrorState::Stale,
            MirrorState::CatchingUp,
            MirrorState::NeverSynchronised,
        ];
        for role in [Role::Source, Role::Destination] {
            for state in states {
                for mirror in mirrors {
                    for (out_of_sync_bytes, failed) in
                        [(0, false), (4096, false), (0, true), (4096, true)]
                    {
                        let standing =
                            Standing { mirror, out_of_sync_bytes, failed, ..standing(role, state) };
                        let line = promise(&standing);
                        let of_both = line.contains("both nodes")
                            || line.contains("holds every write that its source");
                        let before = line.contains("silent");
                        assert!(
                            !of_both
                                || before
                                || matches!(state, PairState::InSync | PairState::CatchingUp),
                            "{standing:?}: {line}"
                        );
                        assert!(!(failed && of_both), "{standing:?}: {line}");
                        // A mirror that is no state of any time is never called one.
                        if role == Role::Destination && mirror != MirrorState::Consistent {
                            assert!(!of_both && !line.contains("is consistent"), "{line}");
                        }
                        if role == Role::Source
                            && state == PairState::Away
                            && out_of_sync_bytes > 0
                            && !failed
                        {
                            assert!(line.contains("not usable"), "{line}");
                        }
                    }
                }
            }
        }
    }
}
