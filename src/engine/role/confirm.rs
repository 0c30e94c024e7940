//! Whether a source believes the answer to its hello. The destination decides; an answer that this source's own log contradicts is not acted
//! upon, whoever sent it. Takes what was said, what came back and the source's log; gives the contradiction, if there is one.

use super::OwnLog;
use ibid_wire::disk::SyncState;
use ibid_wire::peer::{Held, HelloAnswer, Outcome, SourceStanding};

/// What an answer claims and cannot be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum FalseClaim {
    /// The destination took the source and is not of its epoch.
    #[error("the answer is of another epoch")]
    Epoch,
    /// Its volumes can't be in that state now.
    #[error("the peer's volumes cannot be in the state it claims")]
    State,
    /// Its CP is not one that the outcome allows.
    #[error("the peer's consistency point does not allow the outcome")]
    Cp,
    /// Its log ends where it can't, given the outcome.
    #[error("the peer claims entries that it cannot have")]
    End,
    /// What it holds differs from what this source wrote.
    #[error("the peer's log differs from this node's")]
    Log,
}

/// Compares an answer with the source that it answers, whose standing is still the one it said.
pub fn confirm(
    source: &SourceStanding,
    answer: &HelloAnswer,
    log: &impl OwnLog,
) -> Result<(), FalseClaim> {
    let Ok(outcome) = answer.verdict else {
        // A refusal asks for nothing to be believed.
        return Ok(());
    };
    let peer = &answer.standing;
    if peer.epoch != source.epoch {
        return Err(FalseClaim::Epoch);
    }
    let state = match (source.in_sync, outcome) {
        (true, Outcome::Continue | Outcome::Fetch | Outcome::Rollback) => {
            peer.state == SyncState::InSync
        }
        (false, Outcome::Continue | Outcome::Fetch | Outcome::Rollback) => {
            peer.state != SyncState::New
        }
        // A source in sync has nothing to catch a destination up with.
        (true, Outcome::CatchUp | Outcome::Salvage) => false,
        (false, Outcome::Salvage) => peer.state != SyncState::New,
        (false, Outcome::CatchUp) => peer.state == SyncState::OutOfSync,
    };
    if !state {
        return Err(FalseClaim::State);
    }
    let same = (peer.cp, peer.chain, peer.last_lsn) == (source.cp, source.chain, source.last_lsn);
    let next = peer.cp == source.cp.next() && peer.last_lsn == source.first_end;
    let ahead = match outcome {
        Outcome::Continue | Outcome::Fetch | Outcome::Rollback if same => false,
        Outcome::Continue | Outcome::Fetch | Outcome::Rollback if next => true,
        Outcome::CatchUp if same => false,
        Outcome::Salvage if peer.cp < source.cp => false,
        Outcome::Continue
        | Outcome::Fetch
        | Outcome::Salvage
        | Outcome::Rollback
        | Outcome::CatchUp => {
            return Err(FalseClaim::Cp);
        }
    };
    let theirs = peer.held.as_slice();
    let end = match outcome {
        Outcome::Continue | Outcome::Rollback => peer.end <= source.end,
        // What it has beyond can only be from before this source was settled.
        Outcome::Fetch | Outcome::Salvage => !source.is_settled() && peer.end > source.end,
        Outcome::CatchUp => {
            peer.end == source.last_lsn && theirs.iter().all(|held| held.batches == 0)
        }
    };
    if !end {
        return Err(FalseClaim::End);
    }
    let own = source.held.as_slice();
    let own = if ahead { own.get(1..).unwrap_or(&[]) } else { own };
    let (mut segment, mut last) = (peer.cp, peer.last_lsn);
    let mut theirs = theirs;
    if outcome == Outcome::Salvage {
        // What this source has drained since is not asked for.
        let drained = source.cp.get() - peer.cp.get();
        theirs = usize::try_from(drained)
            .ok()
            .and_then(|drained| theirs.get(drained..))
            .ok_or(FalseClaim::Log)?;
        (segment, last) = (source.cp, source.last_lsn);
    }
    let mut ended = false;
    for at in 0..own.len().max(theirs.len()) {
        segment = segment.next();
        let one = |held: &[Held]| held.get(at).copied().unwrap_or_default();
        let (mine, peers) = (one(own), one(theirs));
        let (longer, shorter) = match outcome {
            Outcome::Continue | Outcome::Rollback | Outcome::CatchUp => (mine, peers),
            Outcome::Fetch | Outcome::Salvage => (peers, mine),
        };
        // The shorter log is a beginning of the longer one: no batch after the first that it lacks.
        if shorter.batches > longer.batches || (ended && shorter.batches > 0) {
            return Err(FalseClaim::Log);
        }
        ended |= shorter.batches < longer.batches;
        if shorter.batches == 0 {
            continue;
        }
        if mine.epoch != peers.epoch {
            return Err(FalseClaim::Log);
        }
        let end = log.batch(segment, shorter.batches);
        // Where the peer's is the longer one it had this source's sum, and has compared it.
        if peers.batches == shorter.batches && end.crc != peers.crc {
            return Err(FalseClaim::Log);
        }
        last = end.last;
    }
    let ends = match outcome {
        Outcome::Continue | Outcome::Rollback | Outcome::CatchUp => peer.end,
        Outcome::Fetch | Outcome::Salvage => source.end,
    };
    if ends == last { Ok(()) } else { Err(FalseClaim::End) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::BatchEnd;
    use ibid_units::{CpId, Epoch, Lsn};
    use ibid_wire::disk::Superblock;
    use ibid_wire::peer::{DestinationStanding, HeldList, HelloRefusal, Identity};

    /// Segment 11 begins with entry 101 and has three; a batch is an entry.
    struct Threes;

    fn end(segment: u64, count: u32) -> BatchEnd {
        let last = 97 + (segment - 10) * 3 + u64::from(count);
        BatchEnd { last: Lsn::new(last), crc: last as u32 * 7 }
    }

    impl OwnLog for Threes {
        fn batch(&self, segment: CpId, count: u32) -> BatchEnd {
            end(segment.get(), count)
        }
    }

    fn held(first: u64, batches: &[u32]) -> HeldList {
        let mut list = HeldList::EMPTY;
        for (segment, &batches) in (first..).zip(batches) {
            let crc = end(segment, batches).crc;
            list.push(Held { epoch: Epoch::new(4), batches, crc });
        }
        list
    }

    /// A source with entries 101 to 105.
    fn source() -> SourceStanding {
        SourceStanding {
            epoch: Epoch::new(5),
            identity: Identity { pair: [1; 16], volumes: [2; 32], segments: 4, segment_blocks: 8 },
            in_sync: true,
            whole: false,
            cp: CpId::new(10),
            last_lsn: Lsn::new(100),
            chain: [10; 32],
            end: Lsn::new(105),
            committed: Lsn::new(101),
            opened: Epoch::new(4),
            agreed: Lsn::new(100),
            first_end: Lsn::new(103),
            peer_cp: Superblock::PEER_NONE,
            peer_chain: [0; 32],
            peer_next_chain: [0; 32],
            held: held(11, &[3, 2]),
        }
    }

    fn answer(outcome: Outcome, end: u64, held: HeldList) -> HelloAnswer {
        let standing = DestinationStanding {
            epoch: Epoch::new(5),
            state: SyncState::InSync,
            fresh: false,
            cp: CpId::new(10),
            last_lsn: Lsn::new(100),
            chain: [10; 32],
            end: Lsn::new(end),
            committed: Lsn::new(100),
            base_cp: CpId::new(10),
            base_chain: [10; 32],
            held,
        };
        HelloAnswer {
            verdict: Ok(outcome),
            standing,
            segment_limit: CpId::new(14),
            in_memory: false,
        }
    }

    #[test]
    fn what_can_be_is_believed() {
        let next = |end, held| {
            let mut answer = answer(Outcome::Continue, end, held);
            let standing = &mut answer.standing;
            (standing.cp, standing.last_lsn, standing.chain) =
                (CpId::new(11), Lsn::new(103), [11; 32]);
            answer
        };
        for answer in [
            answer(Outcome::Continue, 105, held(11, &[3, 2])),
            answer(Outcome::Continue, 102, held(11, &[2])),
            answer(Outcome::Rollback, 104, held(11, &[3, 1])),
            answer(Outcome::Continue, 100, HeldList::EMPTY),
            answer(Outcome::Fetch, 106, held(11, &[3, 3])),
            answer(Outcome::Fetch, 107, held(11, &[3, 3, 1])),
            next(103, HeldList::EMPTY),
            next(104, held(12, &[1])),
        ] {
            assert_eq!(confirm(&source(), &answer, &Threes), Ok(()), "{answer:?}");
        }
        let alone = SourceStanding { in_sync: false, ..source() };
        let mut earlier = answer(Outcome::Salvage, 106, held(10, &[2, 3, 3]));
        (earlier.standing.cp, earlier.standing.last_lsn) = (CpId::new(9), Lsn::new(98));
        assert_eq!(confirm(&alone, &earlier, &Threes), Ok(()));
        let mut adopted = answer(Outcome::CatchUp, 100, HeldList::EMPTY);
        adopted.standing.state = SyncState::OutOfSync;
        assert_eq!(confirm(&alone, &adopted, &Threes), Ok(()));
        let refused = HelloAnswer {
            verdict: Err(HelloRefusal::History),
            ..answer(Outcome::Fetch, 9, held(11, &[1]))
        };
        assert_eq!(confirm(&source(), &refused, &Threes), Ok(()));
    }

    #[test]
    fn what_can_not_be_is_not_believed() {
        let is = |source: &SourceStanding, answer: HelloAnswer, claim| {
            assert_eq!(confirm(source, &answer, &Threes), Err(claim), "{answer:?}");
        };
        let with = |mut answer: HelloAnswer, change: fn(&mut DestinationStanding)| {
            change(&mut answer.standing);
            answer
        };
        let all = answer(Outcome::Continue, 105, held(11, &[3, 2]));
        let alone = SourceStanding { in_sync: false, ..source() };
        let settled = SourceStanding { opened: Epoch::new(5), ..source() };

        is(&source(), with(all, |peer| peer.epoch = Epoch::new(4)), FalseClaim::Epoch);
        is(&source(), with(all, |peer| peer.state = SyncState::OutOfSync), FalseClaim::State);
        is(&alone, with(all, |peer| peer.state = SyncState::New), FalseClaim::State);
        let adopted = answer(Outcome::CatchUp, 100, HeldList::EMPTY);
        is(&source(), adopted, FalseClaim::State);
        is(&alone, adopted, FalseClaim::State);

        is(&source(), with(all, |peer| peer.chain = [9; 32]), FalseClaim::Cp);
        is(&source(), with(all, |peer| peer.cp = CpId::new(9)), FalseClaim::Cp);
        is(&source(), with(all, |peer| peer.cp = CpId::new(11)), FalseClaim::Cp);
        let adopted = with(adopted, |peer| peer.state = SyncState::OutOfSync);
        is(&alone, with(adopted, |peer| peer.cp = CpId::new(9)), FalseClaim::Cp);

        is(&alone, with(adopted, |peer| peer.end = Lsn::new(101)), FalseClaim::End);
        is(&source(), with(all, |peer| peer.end = Lsn::new(106)), FalseClaim::End);
        is(&source(), with(all, |peer| peer.end = Lsn::new(104)), FalseClaim::End);
        is(&settled, answer(Outcome::Fetch, 106, held(11, &[3, 3])), FalseClaim::End);
        is(&source(), answer(Outcome::Fetch, 105, held(11, &[3, 2])), FalseClaim::End);

        let earlier = answer(Outcome::Salvage, 106, held(10, &[2, 3, 3]));
        is(&source(), earlier, FalseClaim::State);
        is(&alone, earlier, FalseClaim::Cp);
        let earlier = with(earlier, |peer| peer.cp = CpId::new(9));
        is(&SourceStanding { in_sync: false, ..settled }, earlier, FalseClaim::End);
        is(&alone, with(earlier, |peer| peer.end = Lsn::new(105)), FalseClaim::End);
        is(&alone, with(earlier, |peer| peer.held = held(10, &[])), FalseClaim::Log);
        is(&alone, with(earlier, |peer| peer.held = held(10, &[2, 3, 1])), FalseClaim::Log);

        is(&source(), answer(Outcome::Continue, 105, held(11, &[3, 3])), FalseClaim::Log);
        is(&source(), answer(Outcome::Continue, 104, held(11, &[2, 1])), FalseClaim::Log);
        is(&source(), answer(Outcome::Fetch, 106, held(11, &[2, 2])), FalseClaim::Log);
        let mut other = HeldList::EMPTY;
        other.push(Held { epoch: Epoch::new(4), batches: 3, crc: 1 });
        is(&source(), answer(Outcome::Continue, 103, other), FalseClaim::Log);
        let mut other = HeldList::EMPTY;
        other.push(Held { epoch: Epoch::new(3), ..held(11, &[3]).as_slice()[0] });
        is(&source(), answer(Outcome::Continue, 103, other), FalseClaim::Log);
    }
}
