//! What two nodes do when they meet: one decision, made by the destination from where both stand, checked again by the source (`confirm`).
//! Takes both standings and the destination's own log; gives what is kept and who sends what, or why nothing may go on. Writes nothing.
//! MEET-1  an entry that was acknowledged, on both nodes or by the source alone, is dropped by no outcome.
//! MEET-2  after the outcome the destination's log is a beginning of the source's: nothing of another history stays or is taken.
//! MEET-3  volumes that are caught up by a map differ from the source's only in what the map names.
//! MEET-4  two nodes whose devices keep what they were given always come to an outcome, if need be by a whole copy (`Blank`).

use ibid_units::{CpId, Epoch, Lsn, Mutant};
use ibid_wire::disk::{Superblock, SyncState};
use ibid_wire::peer::{
    DestinationStanding, Held, HeldList, HelloRefusal, Identity, SourceStanding,
};

/// The end of a batch in a node's own log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchEnd {
    /// Its last entry.
    pub last: Lsn,
    /// Its checksum, which continues those before it in the segment.
    pub crc: u32,
}

/// A node's own log, where the two numbers that a standing has for each segment do not suffice.
pub trait OwnLog {
    /// The end of batch number `count` (from 1) of a segment. Asked only for what the node's own standing says it holds.
    fn batch(&self, segment: CpId, count: u32) -> BatchEnd;
}

/// The destination, as it sees itself.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// What must be alike.
    pub identity: &'a Identity,
    /// An I/O error or a contradiction has stopped it.
    pub failed: bool,
    /// Where it stands.
    pub standing: &'a DestinationStanding,
}

/// What comes of a meeting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meeting {
    /// Nothing goes on.
    Refuse(HelloRefusal),
    /// The volumes need nothing: only the log goes on. (With a source that is out of sync, CPs still carry blocks of its map.)
    Level {
        /// The end of what the destination keeps of its log. What it holds above is void.
        keep: Lsn,
        /// What goes on.
        log: LogPlan,
    },
    /// The source takes over these entries from the destination's log, which otherwise stays as it is, and says hello again. The destination
    /// makes nothing durable but the epoch.
    Salvage {
        /// The first that the source lacks.
        from: Lsn,
        /// The last.
        to: Lsn,
    },
    /// The destination's volumes are an earlier state that the source's map covers. It adopts the source's CP, last entry and chain, drops
    /// its log, is out of sync, and remembers as its base where its volumes come from.
    CatchUp {
        /// The base to be remembered …
        base_cp: CpId,
        /// … and the chain digest there.
        base_chain: [u8; 32],
    },
}

/// How the logs go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogPlan {
    /// The source sends, beginning with this entry.
    Continue {
        /// The first entry that the destination lacks.
        from: Lsn,
    },
    /// The source takes over these entries from the destination's log before it does anything else.
    Fetch {
        /// The first that it lacks.
        from: Lsn,
        /// The last.
        to: Lsn,
    },
    /// The destination has void entries after this one and drops them; then the source sends what it has after it.
    Rollback {
        /// The last entry that both hold.
        to: Lsn,
    },
}

/// Decides. Unless it refuses or salvages, the destination makes the source's `epoch`, `opened` and `agreed` its own, durably, together with what the outcome
/// asks, before it answers.
pub fn meet(source: &SourceStanding, own: Destination<'_>, log: &impl OwnLog) -> Meeting {
    let mine = own.standing;
    // First whether these two belong together at all. The epoch is the fence: a source that was replaced, or restored from an old
    // backup, must learn that before anything else, and it may learn nothing more.
    if source.identity.pair != own.identity.pair {
        return Meeting::Refuse(HelloRefusal::Pair);
    }
    let older = if Mutant::SameEpochRefused.is_on() {
        source.epoch <= mine.epoch
    } else {
        source.epoch < mine.epoch
    };
    if older && !Mutant::OlderEpochTaken.is_on() {
        return Meeting::Refuse(HelloRefusal::Epoch);
    }
    let geometry = |identity: &Identity| (identity.segments, identity.segment_blocks);
    if geometry(&source.identity) != geometry(own.identity) {
        return Meeting::Refuse(HelloRefusal::Geometry);
    }
    if source.identity.volumes != own.identity.volumes {
        return Meeting::Refuse(HelloRefusal::Volumes);
    }
    if own.failed {
        return Meeting::Refuse(HelloRefusal::Failed);
    }
    // Then the volumes, which say from where on the logs can be compared; then the logs.
    match volumes(source, mine) {
        Volumes::Level { ahead } => logs(source, mine, ahead, log),
        Volumes::Adopt(base) => catch_up(source, mine, Ok(base), log),
        Volumes::Blank => catch_up(source, mine, Err(HelloRefusal::Blank), log),
        Volumes::Short => Meeting::Refuse(HelloRefusal::Lost),
        Volumes::Strange => Meeting::Refuse(HelloRefusal::History),
    }
}

/// Where the destination's CP lies, seen from the source's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// The same number, the same chain digest.
    Same,
    /// The next one, and it ends with the entry with which the source's first segment ends: the source holds all that is in it.
    Next,
    /// The next one, and the source's first segment ends before it, or is not closed.
    NextShort,
    /// An earlier one.
    Behind,
    /// The same number with another digest, the next one with fewer entries than the source's segment, or one further on.
    Elsewhere,
}

fn place(source: &SourceStanding, mine: &DestinationStanding) -> Place {
    if mine.cp < source.cp {
        Place::Behind
    } else if mine.cp == source.cp {
        let same = mine.chain == source.chain && mine.last_lsn == source.last_lsn;
        if same { Place::Same } else { Place::Elsewhere }
    } else if mine.cp.get() - source.cp.get() > 1 || mine.last_lsn < source.first_end {
        Place::Elsewhere
    } else if mine.last_lsn > source.first_end {
        Place::NextShort
    } else {
        Place::Next
    }
}

/// A CP by its number and the chain digest there.
type Point = (CpId, [u8; 32]);

/// If the source's map names every block in which the destination's volumes may differ from its own at its CP: the point by which the
/// source knows those volumes. Bits are set for every CP that the peer did not take, and cleared only for blocks of a CP that is
/// durable there.
fn covered(source: &SourceStanding, mine: &DestinationStanding) -> Option<Point> {
    let peer = (source.peer_cp, source.peer_chain);
    let none = (Superblock::PEER_NONE, [0; 32]);
    // Whatever else it says: of volumes that never met a source nothing is known.
    let is_new = mine.state == SyncState::New;
    let base = if is_new { none } else { (mine.base_cp, mine.base_chain) };
    let cp = (mine.cp, mine.chain);
    if !is_new && cp == peer {
        // Where the source last knew it. If it had only adopted that, the map covered it then, and nothing has been cleared since.
        return Some(cp);
    }
    let known = if base.0 == Superblock::PEER_NONE || source.peer_cp == Superblock::PEER_NONE {
        // Volumes of no CP are covered by a map of everything; volumes of holes by one that names what is allocated. A source whose
        // map is made for such a peer covers no other: those are another's volumes, not earlier states.
        let covers = source.whole || mine.fresh || Mutant::WholeForgotten.is_on();
        base.0 == source.peer_cp && covers
    } else {
        // What it has adopted since, and the source has not heard of, changed no volume.
        let next = (source.peer_cp.next(), source.peer_next_chain);
        base == peer || (base == next && source.peer_cp < source.cp)
    };
    known.then_some(base)
}

/// True if the destination is where the source last knew it, or has made the one CP after that with it.
fn is_known_next(source: &SourceStanding, mine: &DestinationStanding) -> bool {
    let known = (source.peer_cp, source.peer_chain) == (source.cp, source.chain);
    known && mine.base_cp == mine.cp
}

enum Volumes {
    /// The source's log, without its first segment where the destination is ahead, goes on from the destination's volumes.
    Level { ahead: bool },
    /// The destination's volumes are an earlier state, or none, and the source's map covers that.
    Adopt(Point),
    /// They are none, and the map does not cover that yet.
    Blank,
    /// They hold entries that the source's log has lost.
    Short,
    /// They are not of this history.
    Strange,
}

/// Compares the volumes.
fn volumes(source: &SourceStanding, mine: &DestinationStanding) -> Volumes {
    use Place::{Behind, Elsewhere, Next, NextShort, Same};
    use SyncState::{InSync, New, OutOfSync};
    let place = place(source, mine);
    let covered = covered(source, mine);
    let next = is_known_next(source, mine);
    // It has adopted a CP (an old hello may have come late to a new device), and never made one: its volumes are still nobody's.
    let never_made = mine.state == OutOfSync && mine.base_cp == Superblock::PEER_NONE;
    match (source.in_sync, mine.state, place) {
        // Nothing is known of what lies in its volumes. A source in sync had another peer, or this one with another device.
        (true, New, Same | Next | NextShort | Behind | Elsewhere) => Volumes::Blank,
        // The pair at rest, and all short absences.
        (true, InSync, Same) => Volumes::Level { ahead: false },
        // The destination had recorded a CP, and the source had not heard or not recorded it yet. It still has that CP's segment:
        // slots are freed only by its own record.
        (true, InSync, Next) => Volumes::Level { ahead: true },
        // Entries of that CP were acknowledged, and this source does not have them: its log rotted, or is an old copy.
        (true, InSync, NextShort) => Volumes::Short,
        // A source in sync frees a segment only after the destination's record of its CP: behind is a destination that lost its own.
        // Further ahead is one whose source is an old copy.
        (true, InSync, Behind | Elsewhere) => Volumes::Strange,
        // A source is in sync only after the destination's record that it is. Volumes of no time can't be what it knew.
        (true, OutOfSync, Same | Next | NextShort | Behind | Elsewhere) => {
            if never_made {
                Volumes::Blank
            } else {
                Volumes::Strange
            }
        }
        // A first copy, or the first after a device was replaced.
        (false, New, Same | Next | NextShort | Behind | Elsewhere) => {
            covered.map_or(Volumes::Blank, Volumes::Adopt)
        }
        // It was away while no CP was made, or the answer to the hello by which it adopted this CP was lost. The map goes on to count.
        (false, InSync | OutOfSync, Same) => {
            covered.map_or(Volumes::Strange, |_| Volumes::Level { ahead: false })
        }
        // As in sync. The chain digest of that CP is compared when the source has made its list.
        (false, InSync | OutOfSync, Next) => {
            if next {
                Volumes::Level { ahead: true }
            } else {
                Volumes::Strange
            }
        }
        (false, InSync | OutOfSync, NextShort) => {
            if next {
                Volumes::Short
            } else {
                Volumes::Strange
            }
        }
        // The source went on alone. What the destination holds is where it was left, whatever it has adopted since without a CP.
        (false, InSync | OutOfSync, Behind) => match covered {
            Some(base) => Volumes::Adopt(base),
            None if never_made => Volumes::Blank,
            None => Volumes::Strange,
        },
        // It has adopted, or made, what this source never made.
        (false, InSync | OutOfSync, Elsewhere) => Volumes::Strange,
    }
}

/// The newest entry that the log of either is known to have held.
fn known(source: &SourceStanding, mine: &DestinationStanding) -> Lsn {
    source.known().max(mine.committed)
}

/// A destination that is caught up drops its log, and one that is blank has none: all that was acknowledged must be at the source.
fn catch_up(
    source: &SourceStanding,
    mine: &DestinationStanding,
    base: Result<Point, HelloRefusal>,
    log: &impl OwnLog,
) -> Meeting {
    if let Some(salvage) = salvage(source, mine, log) {
        return salvage;
    }
    if known(source, mine) > source.end {
        return Meeting::Refuse(HelloRefusal::Lost);
    }
    match base {
        Ok((base_cp, base_chain)) => Meeting::CatchUp { base_cp, base_chain },
        Err(refusal) => Meeting::Refuse(refusal),
    }
}

/// What comes first where the destination's log, though it begins at an earlier CP, goes on where that of a source ends which has not opened
/// it yet: those entries may have been acknowledged, and torn or rotten at the source.
fn salvage(
    source: &SourceStanding,
    mine: &DestinationStanding,
    log: &impl OwnLog,
) -> Option<Meeting> {
    if source.is_settled() || mine.cp > source.cp {
        return None;
    }
    let counting = counting(source, mine, log);
    let drained = usize::try_from(source.cp.get() - mine.cp.get()).ok()?;
    let (before, after) = counting.held.as_slice().split_at_checked(drained)?;
    let ends = (mine.cp.get() + 1..).zip(before).filter(|(_, held)| held.batches > 0).last();
    let end = ends
        .map_or(mine.last_lsn, |(segment, held)| log.batch(CpId::new(segment), held.batches).last);
    if end != source.last_lsn {
        // It parted from the source's within what the source has drained since.
        return None;
    }
    let theirs = source.held.as_slice();
    let from = (source.cp, source.last_lsn);
    let ends = (source.end, counting.end);
    let Some((beyond, common)) = compare(theirs, after, from, ends, log) else {
        return Some(Meeting::Refuse(HelloRefusal::History));
    };
    match beyond {
        Beyond::Nothing | Beyond::Source | Beyond::SourceLater | Beyond::Both => None,
        Beyond::Destination(epoch) if is_doubtful(source, mine, epoch) => {
            Some(Meeting::Refuse(HelloRefusal::Lost))
        }
        Beyond::Destination(_) if known(source, mine) > counting.end => {
            Some(Meeting::Refuse(HelloRefusal::Lost))
        }
        Beyond::Destination(_) => Some(Meeting::Salvage { from: common.next(), to: counting.end }),
    }
}

/// Whether what the destination has of `epoch`, beyond the end of a source's log, may be something else than what the source is known to have
/// held, and has lost: the destination was away when the source opened its log, so its entries of the same numbers may have been abandoned
/// long ago. Not to be told apart, so not taken.
fn is_doubtful(source: &SourceStanding, mine: &DestinationStanding, epoch: Epoch) -> bool {
    epoch < source.opened && mine.epoch < source.opened
}

/// What counts of the destination's log.
struct Counting {
    held: HeldList,
    end: Lsn,
}

/// Leaves out what is void: entries of epochs before the source opened its log that were not in it then, and all that follows them.
fn counting(source: &SourceStanding, mine: &DestinationStanding, log: &impl OwnLog) -> Counting {
    let mut counting = Counting { held: HeldList::EMPTY, end: mine.last_lsn };
    let mut segment = mine.cp;
    for held in mine.held.as_slice() {
        segment = segment.next();
        let counts = |count: u32| {
            held.epoch >= source.opened || log.batch(segment, count).last <= source.agreed
        };
        // Entries are numbered upwards, so the batches that count are the first ones: their number is found by halving.
        let (mut low, mut high) = (0, held.batches);
        while low < high {
            let middle = high - (high - low) / 2;
            if counts(middle) {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        let end =
            if low > 0 { log.batch(segment, low) } else { BatchEnd { last: counting.end, crc: 0 } };
        counting.end = end.last;
        counting.held.push(Held { batches: low, crc: end.crc, ..*held });
        if low < held.batches {
            break;
        }
    }
    counting
}

/// What either log holds beyond the beginning that both have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Beyond {
    Nothing,
    Source,
    /// The destination's goes on with a segment of this epoch.
    Destination(Epoch),
    /// Both go on: the source's with a segment that it opened later than all that the destination holds beyond.
    SourceLater,
    /// Both go on in any other way.
    Both,
}

/// Compares two logs, the source's and the destination's, that go on from the same CP and its last entry and end with these: what lies beyond their common beginning, and its last entry. `None` where what
/// one epoch wrote differs, or a side's numbers contradict each other: of one epoch there is one log, whoever holds it.
fn compare(
    theirs: &[Held],
    ours: &[Held],
    (mut segment, mut common): (CpId, Lsn),
    (source_end, mine_end): (Lsn, Lsn),
    log: &impl OwnLog,
) -> Option<(Beyond, Lsn)> {
    // The epoch of what a side has beyond: of its first batch (the source), of all of them (the destination, first and newest).
    let (mut source_from, mut mine_from, mut mine_newest) = (None, None, Epoch::new(0));
    for at in 0..theirs.len().max(ours.len()) {
        segment = segment.next();
        // A segment that holds no batch, or does not exist, says nothing.
        let one = |held: &[Held]| held.get(at).copied().unwrap_or_default();
        let (s, d) = (one(theirs), one(ours));
        let parted = source_from.is_some() || mine_from.is_some();
        // A segment is of one epoch: with two, all of it is in conflict.
        let both = if s.epoch == d.epoch && !parted { s.batches.min(d.batches) } else { 0 };
        if both > 0 {
            let end = log.batch(segment, both);
            // Where the destination's is the shorter one, only the source can compare (`confirm`).
            if s.batches == both && end.crc != s.crc {
                return None;
            }
            common = end.last;
        }
        if s.batches > both {
            source_from = source_from.or(Some(s.epoch));
        }
        if d.batches > both {
            mine_from = mine_from.or(Some(d.epoch));
            mine_newest = mine_newest.max(d.epoch);
        }
    }
    let sound = source_end >= common
        && (source_end > common) == source_from.is_some()
        && (mine_end > common) == mine_from.is_some();
    let beyond = match (source_from, mine_from) {
        (None, None) => Beyond::Nothing,
        (Some(_), None) => Beyond::Source,
        (None, Some(epoch)) => Beyond::Destination(epoch),
        (Some(epoch), Some(_)) if epoch > mine_newest => Beyond::SourceLater,
        (Some(_), Some(_)) => Beyond::Both,
    };
    sound.then_some((beyond, common))
}

/// Decides about logs that go on from the same volumes.
fn logs(
    source: &SourceStanding,
    mine: &DestinationStanding,
    ahead: bool,
    log: &impl OwnLog,
) -> Meeting {
    let counting = counting(source, mine, log);
    let theirs = source.held.as_slice().get(usize::from(ahead)..).unwrap_or_default();
    let from = (mine.cp, mine.last_lsn);
    let ends = (source.end, counting.end);
    let Some((beyond, common)) = compare(theirs, counting.held.as_slice(), from, ends, log) else {
        return Meeting::Refuse(HelloRefusal::History);
    };
    match (beyond, source.is_settled(), source.in_sync) {
        // The source's log has all that counts.
        (Beyond::Nothing | Beyond::Source, false | true, false | true) => {
            keep(source, mine, common, None)
        }
        // It goes on from the common beginning with what it opened its log for, alone, and later than the destination heard of. So what
        // the destination has instead was never acknowledged, or was abandoned knowingly.
        (Beyond::SourceLater, false | true, false) => keep(source, mine, common, None),
        // A source in sync meets its destination before it opens its log, and leaves nothing there that it lacks.
        (Beyond::SourceLater, false | true, true) => Meeting::Refuse(HelloRefusal::History),
        // Entries that were under way when the source ended: durable at the destination, perhaps acknowledged, torn or rotten at the
        // source. It has not opened its log since, so nothing contradicts them.
        (Beyond::Destination(epoch), false, false | true) => {
            if is_doubtful(source, mine, epoch) {
                return Meeting::Refuse(HelloRefusal::Lost);
            }
            keep(source, mine, common, Some(counting.end))
        }
        // The destination has only what a source sent it, and a source that has opened its log has all that it sent, but for what is
        // void. So this is not the one that it met.
        (Beyond::Destination(_), true, false | true)
        | (Beyond::Both, false | true, false | true) => Meeting::Refuse(HelloRefusal::History),
    }
}

/// Both go on from their common beginning, or from the end of what the source fetches; unless acknowledged entries would be lost by that
/// (MEET-1).
fn keep(
    source: &SourceStanding,
    mine: &DestinationStanding,
    common: Lsn,
    fetch: Option<Lsn>,
) -> Meeting {
    let keep = fetch.unwrap_or(common);
    if keep < mine.end && mine.committed > keep {
        // Of what the destination would drop something was acknowledged, and the source has gone on without it: two histories.
        return Meeting::Refuse(HelloRefusal::History);
    }
    if known(source, mine) > source.end.max(keep) {
        return Meeting::Refuse(HelloRefusal::Lost);
    }
    let log = match fetch {
        Some(to) => LogPlan::Fetch { from: common.next(), to },
        None if common < mine.end => LogPlan::Rollback { to: common },
        None => LogPlan::Continue { from: common.next() },
    };
    Meeting::Level { keep, log }
}
