//! Plays every short life of a pair and looks at each possible meeting: writes, batches durable here or there, acknowledgements, CPs of
//! either side, crashes, silence, going on alone, lost answers, a blank device, a rotten log. The truth of what was acknowledged is
//! kept beside; `meet` is asked at every point where two nodes could meet. One batch is one entry, a segment has two.

extern crate std;

use super::{BatchEnd, Destination, LogPlan, Meeting, OwnLog, confirm, meet};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use ibid_units::{CpId, Epoch, Lsn};
use ibid_wire::disk::{Superblock, SyncState};
use ibid_wire::peer::{
    DestinationStanding, Held, HeldList, HelloAnswer, HelloRefusal, Identity, Outcome,
    SourceStanding,
};

const BLOCKS: usize = 2;
const SEGMENT_BATCHES: usize = 2;
const SEGMENTS: usize = 3;
const ALL: u8 = (1 << BLOCKS) - 1;
const IDENTITY: Identity =
    Identity { pair: [1; 16], volumes: [2; 32], segments: SEGMENTS as u32, segment_blocks: 8 };

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Batch {
    lsn: u64,
    /// Which write it is: no two have the same, though two may have had the same Lsn.
    id: u8,
    committed: u64,
}

impl Batch {
    fn block(&self) -> usize {
        usize::from(self.id) % BLOCKS
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Segment {
    epoch: u64,
    closed: bool,
    batches: Vec<Batch>,
}

/// A log after its node's CP, and the volumes at that CP.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Store {
    cp: u64,
    last: u64,
    chain: u64,
    volume: [u8; BLOCKS],
    /// A bit for each write that the volumes contain or contained.
    applied: u16,
    log: Vec<Segment>,
    /// What batches behind a break said about acknowledged entries.
    evidence: u64,
    epoch: u64,
    opened: u64,
    agreed: u64,
}

fn bit(id: u8) -> u16 {
    1 << id
}

fn mix(a: u64, b: u64) -> u64 {
    (a.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ b).rotate_left(23).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

fn chain(raw: u64) -> [u8; 32] {
    let mut out = [0; 32];
    out[..8].copy_from_slice(&raw.to_le_bytes());
    out
}

impl Store {
    fn new() -> Store {
        Store {
            cp: 0,
            last: 0,
            chain: 0,
            volume: [0; BLOCKS],
            applied: 0,
            log: vec![],
            evidence: 0,
            epoch: 0,
            opened: 0,
            agreed: 0,
        }
    }

    fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.log.iter().flat_map(|segment| &segment.batches)
    }

    fn end(&self) -> u64 {
        self.batches().last().map_or(self.last, |batch| batch.lsn)
    }

    fn has(&self) -> u16 {
        self.batches().fold(self.applied, |all, batch| all | bit(batch.id))
    }

    fn committed(&self) -> u64 {
        let seen = self.batches().map(|batch| batch.committed).max().unwrap_or(0);
        seen.max(self.last).max(self.evidence)
    }

    /// Keeps what is up to `end`.
    fn cut(&mut self, end: u64) {
        for segment in &mut self.log {
            segment.batches.retain(|batch| batch.lsn <= end);
        }
        while self.log.last().is_some_and(|segment| segment.batches.is_empty()) {
            self.log.pop();
        }
    }

    /// What recovery makes of the log: entries of epochs before `opened` above `agreed` are void, and what follows them.
    fn recover(&mut self) {
        let void = |segment: &Segment| {
            let old = segment.epoch < self.opened;
            segment.batches.iter().find(|batch| old && batch.lsn > self.agreed).map(|it| it.lsn)
        };
        if let Some(first) = self.log.iter().find_map(void) {
            self.cut(first - 1);
        }
        for segment in &mut self.log {
            segment.closed = true;
        }
    }

    /// The volumes once the whole log of `log` is in them.
    fn played(&self, log: &Store) -> [u8; BLOCKS] {
        let mut volume = self.volume;
        let skip = (self.cp - log.cp) as usize;
        for batch in log.log.iter().skip(skip).flat_map(|segment| &segment.batches) {
            volume[batch.block()] = batch.id;
        }
        volume
    }

    /// Puts the first segment of `log` into the volumes.
    fn drain(&mut self, segment: &Segment) {
        let mut sum = mix(self.chain, self.cp + 1);
        for batch in &segment.batches {
            self.volume[batch.block()] = batch.id;
            self.applied |= bit(batch.id);
            sum = mix(sum, u64::from(batch.id));
            self.last = batch.lsn;
        }
        self.chain = sum;
        self.cp += 1;
        if !self.log.is_empty() {
            self.log.remove(0);
        }
    }

    /// The batches of a log that lack in this one, with their segments, in order.
    fn push(&mut self, number: u64, epoch: u64, batch: &Batch) {
        let at = (number - self.cp - 1) as usize;
        assert!(at <= self.log.len(), "segments come in order");
        if at == self.log.len() {
            self.log.push(Segment { epoch, closed: true, batches: vec![] });
        }
        assert_eq!(self.log[at].epoch, epoch, "MEET-2: a segment is of one epoch");
        assert_eq!(batch.lsn, self.end() + 1, "MEET-2: entries follow without gaps");
        self.log[at].batches.push(batch.clone());
    }

    fn held(&self) -> HeldList {
        let mut list = HeldList::EMPTY;
        for (at, segment) in self.log.iter().enumerate() {
            let count = segment.batches.len() as u32;
            let crc = self.batch(CpId::new(self.cp + 1 + at as u64), count).crc;
            list.push(Held { epoch: Epoch::new(segment.epoch), batches: count, crc });
        }
        list
    }
}

impl OwnLog for Store {
    fn batch(&self, segment: CpId, count: u32) -> BatchEnd {
        let held = &self.log[(segment.get() - self.cp - 1) as usize];
        let batches = &held.batches[..count as usize];
        let crc = batches.iter().fold(held.epoch, |sum, batch| mix(sum, u64::from(batch.id)));
        let last = batches.last().expect("a batch is named that is held").lsn;
        BatchEnd { last: Lsn::new(last), crc: crc as u32 }
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct World {
    source: Store,
    in_sync: bool,
    whole: bool,
    settled: bool,
    /// What the source holds durably; what is above is in its memory, and may be with the peer.
    durable: u64,
    committed: u64,
    peer: Option<(u64, u64)>,
    next: u64,
    map: u8,
    /// Goes on alone.
    alone: bool,
    /// Blocks of the map that the CP under way carries.
    carried: u8,

    peer_store: Store,
    state: u8,
    fresh: bool,
    base: Option<(u64, u64)>,

    session: bool,
    ids: u8,
    acked: u16,
    rotten: bool,
    replaced: bool,
}

const NEW: u8 = 0;
const IN_SYNC: u8 = 1;
const OUT_OF_SYNC: u8 = 2;

impl World {
    /// A pair at its first start; `fresh`: the destination's volumes are holes.
    fn first(fresh: bool) -> World {
        let mut source = Store::new();
        source.epoch = 1;
        let mut peer_store = Store::new();
        if !fresh {
            peer_store.volume = [99; BLOCKS];
        }
        World {
            source,
            in_sync: false,
            whole: false,
            settled: false,
            durable: 0,
            committed: 0,
            peer: None,
            next: 0,
            map: 0,
            alone: false,
            carried: 0,
            peer_store,
            state: NEW,
            fresh,
            base: None,
            session: false,
            ids: 0,
            acked: 0,
            rotten: false,
            replaced: false,
        }
    }

    /// A pair in sync, with a session.
    fn running() -> World {
        let mut world = World::first(true);
        world.in_sync = true;
        world.open();
        world.state = IN_SYNC;
        world.base = Some((0, 0));
        world.fresh = false;
        world.peer_store.epoch = 1;
        world.session = true;
        world
    }

    /// The source opens its log for new writes.
    fn open(&mut self) {
        self.settled = true;
        self.source.opened = self.source.epoch;
        self.source.agreed = self.source.end();
    }

    fn source_standing(&self) -> SourceStanding {
        let store = &self.source;
        let (peer_cp, peer_chain) =
            self.peer.map_or((Superblock::PEER_NONE, 0), |(cp, chain)| (CpId::new(cp), chain));
        let first = store.log.first().filter(|segment| segment.closed);
        SourceStanding {
            epoch: Epoch::new(store.epoch),
            identity: IDENTITY,
            in_sync: self.in_sync,
            whole: self.whole,
            cp: CpId::new(store.cp),
            last_lsn: Lsn::new(store.last),
            chain: chain(store.chain),
            end: Lsn::new(store.end()),
            committed: Lsn::new(self.committed.max(store.committed())),
            opened: Epoch::new(store.opened),
            agreed: Lsn::new(store.agreed),
            first_end: Lsn::new(
                first.and_then(|segment| segment.batches.last()).map_or(0, |batch| batch.lsn),
            ),
            peer_cp,
            peer_chain: chain(peer_chain),
            peer_next_chain: chain(self.next),
            held: store.held(),
        }
    }

    fn destination_standing(&self) -> DestinationStanding {
        let store = &self.peer_store;
        let (base_cp, base_chain) =
            self.base.map_or((Superblock::PEER_NONE, 0), |(cp, chain)| (CpId::new(cp), chain));
        DestinationStanding {
            epoch: Epoch::new(store.epoch),
            state: [SyncState::New, SyncState::InSync, SyncState::OutOfSync]
                [usize::from(self.state)],
            fresh: self.fresh,
            cp: CpId::new(store.cp),
            last_lsn: Lsn::new(store.last),
            chain: chain(store.chain),
            end: Lsn::new(store.end()),
            committed: Lsn::new(store.committed()),
            base_cp,
            base_chain: chain(base_chain),
            held: store.held(),
        }
    }

    // What can happen. Each gives the world after it, or nothing where it can't happen now.

    fn write(&self) -> Option<World> {
        if !self.settled || self.ids == IDS_MAX || !(self.session || self.alone) {
            return None;
        }
        let mut world = self.clone();
        let (lsn, epoch) = (self.source.end() + 1, self.source.epoch);
        let open = self.source.log.last().is_some_and(|segment| !segment.closed);
        if !open {
            if self.source.log.len() == SEGMENTS {
                return None;
            }
            world.source.log.push(Segment { epoch, closed: false, batches: vec![] });
        }
        world.ids += 1;
        let batch = Batch { lsn, id: world.ids, committed: self.committed };
        let segment = world.source.log.last_mut().expect("one was just made");
        segment.batches.push(batch);
        segment.closed = segment.batches.len() == SEGMENT_BATCHES;
        Some(world)
    }

    fn durable_here(&self) -> Option<World> {
        (self.durable < self.source.end())
            .then(|| World { durable: self.durable + 1, ..self.clone() })
    }

    fn durable_there(&self) -> Option<World> {
        let end = self.peer_store.end();
        if !self.session || end >= self.source.end() {
            return None;
        }
        let mut world = self.clone();
        let (number, epoch, batch) = find(&self.source, end + 1);
        world.peer_store.push(number, epoch, batch);
        Some(world)
    }

    fn acknowledge(&self) -> Option<World> {
        let both = self.durable.min(self.peer_store.end());
        let to = if self.session { both } else { self.durable };
        let may = self.settled && (self.session || self.alone) && to > self.committed;
        may.then(|| {
            let mut world = self.clone();
            world.committed = to;
            let batches = self.source.batches().filter(|batch| batch.lsn <= to);
            world.acked |= batches.fold(0, |all, batch| all | bit(batch.id));
            world
        })
    }

    /// The segment that the next CP drains, if all of it is acknowledged.
    fn drainable(&self) -> Option<Segment> {
        let first = self.source.log.first()?;
        let last = first.batches.last()?.lsn;
        (self.settled && last <= self.committed && last <= self.durable).then(|| first.clone())
    }

    fn cp_there(&self, whole: bool) -> Option<World> {
        let segment = self.drainable()?;
        let level = self.session && self.peer_store.cp == self.source.cp;
        let last = segment.batches.last()?.lsn;
        if !level || self.peer_store.end() < last {
            return None;
        }
        let mut world = self.clone();
        world.source.log[0].closed = true;
        if !self.in_sync {
            // Before a source out of sync announces a CP it records where its peer is.
            world.peer = Some((self.source.cp, self.source.chain));
            world.next = 0;
        }
        world.carried = self.map & self.map.wrapping_neg();
        if !whole {
            // Cut off while it applies: one block is new, nothing is recorded.
            world.peer_store.volume[segment.batches[0].block()] = segment.batches[0].id;
            world.session = false;
            return Some(world);
        }
        for block in 0..BLOCKS {
            if world.carried & 1 << block != 0 {
                world.peer_store.volume[block] = self.source.volume[block];
            }
        }
        world.peer_store.drain(&segment);
        world.base = Some((world.peer_store.cp, world.peer_store.chain));
        world.fresh = false;
        if self.state == OUT_OF_SYNC && world.carried == self.map {
            world.state = IN_SYNC;
        }
        Some(world)
    }

    fn cp_recorded(&self) -> Option<World> {
        let segment = self.drainable()?;
        if !self.session || self.peer_store.cp != self.source.cp + 1 {
            return None;
        }
        let mut world = self.clone();
        world.source.drain(&segment);
        assert_eq!(world.source.chain, self.peer_store.chain, "one history has one digest");
        if !self.in_sync {
            world.peer = Some((world.source.cp, world.source.chain));
            world.map &= !self.carried;
            world.in_sync = world.map == 0 && self.state == IN_SYNC;
            world.whole &= !world.in_sync;
        }
        world.carried = 0;
        Some(world)
    }

    fn cp_alone(&self) -> Option<World> {
        let segment = self.drainable()?;
        if self.session || self.in_sync {
            return None;
        }
        let mut world = self.clone();
        for batch in &segment.batches {
            world.map |= 1 << batch.block();
        }
        world.source.drain(&segment);
        if self.peer.is_some_and(|(cp, _)| cp == self.source.cp) {
            world.next = world.source.chain;
        }
        world.carried = 0;
        Some(world)
    }

    fn silence(&self) -> Option<World> {
        self.session.then(|| World { session: false, ..self.clone() })
    }

    /// The policy is to go on, and the peer has been silent for long enough.
    fn go_on_alone(&self) -> Option<World> {
        let damaged = self.rotten && !self.settled;
        if self.session || self.alone || damaged {
            return None;
        }
        let mut world = self.clone();
        world.alone = true;
        if self.in_sync {
            world.in_sync = false;
            world.peer = Some((self.source.cp, self.source.chain));
            world.next = 0;
            world.map = 0;
        }
        if !self.settled {
            world.open();
        }
        Some(world)
    }

    /// The source's process ends and starts again. `kept`: what it had not flushed is on its device all the same.
    fn source_restarts(&self, kept: bool) -> Option<World> {
        if self.source.epoch == EPOCHS_MAX || (kept && self.durable == self.source.end()) {
            return None;
        }
        let mut world = self.clone();
        if !kept {
            world.source.cut(self.durable);
        }
        world.source.recover();
        world.session = false;
        world.alone = false;
        world.settled = false;
        world.carried = 0;
        world.durable = world.source.end();
        world.committed = world.source.committed();
        world.source.epoch += 1;
        Some(world)
    }

    /// It starts again, and the last batch but `behind` of its log does not check any more.
    fn source_rots(&self, behind: u64) -> Option<World> {
        let first = self.durable.checked_sub(behind)?;
        if first <= self.source.last {
            return None;
        }
        let mut world = self.source_restarts(false)?;
        if world.source.end() < first {
            return None;
        }
        let log = world.source.clone();
        let cut: Vec<&Batch> = log.batches().filter(|batch| batch.lsn >= first).collect();
        // What the batch says that does not check is not known; what those behind it say is.
        let behind = cut[1..].iter().map(|batch| batch.committed).max().unwrap_or(0);
        world.source.cut(first - 1);
        world.source.evidence = behind.max(world.source.committed());
        world.durable = world.source.end();
        world.committed = world.source.evidence;
        for batch in cut {
            // No copy and no trace is left of what only this node had acknowledged, and neither a later batch nor the opening speaks of.
            let known = world.source.evidence.max(world.source.agreed);
            if batch.lsn > known && self.peer_store.has() & bit(batch.id) == 0 {
                world.acked &= !bit(batch.id);
            }
        }
        world.rotten = true;
        Some(world)
    }

    fn peer_restarts(&self) -> World {
        let mut world = self.clone();
        world.session = false;
        world.peer_store.recover();
        if !self.rotten && !self.replaced {
            let lost = self.peer_store.has() & !world.peer_store.has() & self.acked;
            assert_eq!(
                lost, 0,
                "a restart of the destination voids what was acknowledged: {self:?}"
            );
        }
        world
    }

    fn peer_rots(&self) -> Option<World> {
        let last = self.peer_store.batches().last()?.lsn;
        let mut world = self.clone();
        world.rotten = true;
        world.session = false;
        world.peer_store.evidence = world.peer_store.committed();
        world.peer_store.cut(last - 1);
        Some(world)
    }

    fn peer_replaced(&self, fresh: bool) -> Option<World> {
        if self.state == NEW {
            return None;
        }
        let blank = World::first(fresh);
        Some(World {
            peer_store: blank.peer_store,
            state: NEW,
            fresh,
            base: None,
            session: false,
            replaced: true,
            ..self.clone()
        })
    }

    /// Both meet. Gives the worlds that may follow, and what was decided.
    fn meeting(&self) -> Option<(Meeting, Vec<World>)> {
        if self.session {
            return None;
        }
        let said = self.source_standing();
        let mine = self.destination_standing();
        let own = Destination { identity: &IDENTITY, failed: false, standing: &mine };
        let meeting = meet(&said, own, &self.peer_store);
        let mut world = self.clone();
        let lost = self.acked & !self.source.has();
        let (outcome, after) = match meeting {
            Meeting::Refuse(refusal) => {
                let follows = match refusal {
                    HelloRefusal::Blank => {
                        assert_eq!((self.state, lost), (NEW, 0), "MEET-4: {self:?}");
                        assert!(!(self.peer.is_none() && self.whole), "a second time: {self:?}");
                        world.in_sync = false;
                        world.peer = None;
                        world.next = 0;
                        world.whole = true;
                        world.map = ALL;
                        vec![world]
                    }
                    HelloRefusal::Lost => {
                        assert!(self.rotten, "MEET-4: {self:?}");
                        let gone =
                            lost & !self.peer_store.batches().fold(0, |all, b| all | bit(b.id));
                        let elsewhere = self.source.cp != self.peer_store.cp
                            || self.peer_store.epoch < self.source.opened;
                        let known = self.source.end() < self.source.agreed;
                        assert!(known || gone != 0 || (lost != 0 && elsewhere), "MEET-4: {self:?}");
                        vec![]
                    }
                    HelloRefusal::Pair
                    | HelloRefusal::Epoch
                    | HelloRefusal::Geometry
                    | HelloRefusal::Volumes
                    | HelloRefusal::History
                    | HelloRefusal::Failed
                    | HelloRefusal::Encryption => panic!("MEET-4: {refusal:?} {self:?}"),
                };
                return Some((meeting, follows));
            }
            Meeting::Level { keep, log } => {
                world.peer_store.cut(keep.get());
                assert_eq!(world.peer_store.end(), keep.get(), "{self:?}");
                let outcome = match log {
                    LogPlan::Continue { from } => {
                        assert_eq!(from.get(), keep.get() + 1);
                        assert_eq!(world.peer_store.end(), self.peer_store.end());
                        Outcome::Continue
                    }
                    LogPlan::Fetch { from, to } => {
                        assert_eq!((from.get(), to), (self.source.end() + 1, keep));
                        Outcome::Fetch
                    }
                    LogPlan::Rollback { to } => {
                        assert_eq!(to, keep);
                        Outcome::Rollback
                    }
                };
                (outcome, world)
            }
            Meeting::Salvage { from, to } => {
                assert_eq!(from.get(), self.source.end() + 1);
                assert!(to.get() <= self.peer_store.end());
                (Outcome::Salvage, world)
            }
            Meeting::CatchUp { base_cp, base_chain } => {
                let base = u64::from_le_bytes(base_chain[..8].try_into().expect("eight bytes"));
                let none = base_cp == Superblock::PEER_NONE;
                world.base = (!none).then_some((base_cp.get(), base));
                let source = &self.source;
                let peer = &mut world.peer_store;
                (peer.cp, peer.last, peer.chain) = (source.cp, source.last, source.chain);
                peer.log.clear();
                world.state = OUT_OF_SYNC;
                (Outcome::CatchUp, world)
            }
        };
        let mut world = after;
        world.peer_store.epoch = self.source.epoch;
        if outcome != Outcome::Salvage {
            world.peer_store.opened = self.source.opened;
            world.peer_store.agreed = self.source.agreed;
            world.peer_store.evidence = 0;
        }
        let dropped = self.peer_store.has() & !world.peer_store.has() & self.acked;
        let catch_up = outcome == Outcome::CatchUp;
        assert!(catch_up || dropped == 0, "MEET-1: the destination drops it: {self:?}");
        let answer = HelloAnswer {
            verdict: Ok(outcome),
            standing: world.destination_standing(),
            segment_limit: CpId::new(world.peer_store.cp + SEGMENTS as u64),
            in_memory: false,
        };
        assert_eq!(confirm(&said, &answer, &self.source), Ok(()), "{self:?} {meeting:?}");

        // The answer is lost; or it arrives, and the source fetches all of what it lacks, or ends when it has fetched one entry.
        let mut follows = vec![world.clone()];
        if let Meeting::Salvage { to, .. } = meeting {
            while world.source.end() < to.get() {
                world.fetch();
                follows.push(world.clone());
            }
            return Some((meeting, follows));
        }
        world.session = true;
        world.alone = false;
        if outcome == Outcome::Fetch {
            let mut partly = world.clone();
            partly.fetch();
            partly.session = false;
            follows.push(partly);
            while world.source.end() < world.peer_store.end() {
                world.fetch();
            }
        }
        if !world.settled {
            world.open();
        }
        if !world.in_sync {
            world.peer = Some((self.source.cp, self.source.chain));
            world.next = 0;
        }
        world.source.evidence = 0;
        world.check();
        follows.push(world);
        Some((meeting, follows))
    }

    /// The source takes over one entry of the destination's.
    fn fetch(&mut self) {
        let (number, epoch, batch) = find(&self.peer_store, self.source.end() + 1);
        let batch = batch.clone();
        self.source.push(number, epoch, &batch);
        self.durable = self.source.end();
    }

    /// What must hold whenever a session has begun.
    fn check(&self) {
        let lost = self.acked & !self.source.has();
        assert_eq!(lost, 0, "MEET-1: the source lacks it: {self:?}");
        let theirs: Vec<&Batch> = self.peer_store.batches().collect();
        let from = self.peer_store.last;
        let ours: Vec<&Batch> = self.source.batches().filter(|batch| batch.lsn > from).collect();
        assert!(ours.starts_with(&theirs), "MEET-2: {self:?}");
        let (ours, theirs) =
            (self.source.played(&self.source), self.peer_store.played(&self.source));
        for block in 0..BLOCKS {
            let named = !self.in_sync && self.map & 1 << block != 0;
            assert!(named || ours[block] == theirs[block], "MEET-3: block {block}: {self:?}");
        }
    }

    fn follows(&self) -> Vec<World> {
        let once = [
            self.write(),
            self.durable_here(),
            self.durable_there(),
            self.acknowledge(),
            self.cp_there(true),
            self.cp_there(false),
            self.cp_recorded(),
            self.cp_alone(),
            self.silence(),
            self.go_on_alone(),
            self.source_restarts(false),
            self.source_restarts(true),
            Some(self.peer_restarts()),
        ];
        once.into_iter().flatten().collect()
    }

    /// One in a life.
    fn accidents(&self) -> Vec<World> {
        if self.rotten || self.replaced {
            return vec![];
        }
        let once = [
            self.source_rots(0),
            self.source_rots(1),
            self.peer_rots(),
            self.peer_replaced(true),
            self.peer_replaced(false),
        ];
        once.into_iter().flatten().collect()
    }
}

/// An entry of a log, with the number and epoch of its segment.
fn find(store: &Store, lsn: u64) -> (u64, u64, &Batch) {
    let mut found = store.log.iter().zip(store.cp + 1..).flat_map(|(segment, number)| {
        segment.batches.iter().map(move |batch| (number, segment.epoch, batch))
    });
    found.find(|(_, _, batch)| batch.lsn == lsn).expect("an entry of the log")
}

const IDS_MAX: u8 = 4;
const EPOCHS_MAX: u64 = 4;

fn name(meeting: &Meeting) -> String {
    match meeting {
        Meeting::Refuse(refusal) => format!("Refuse({refusal:?})"),
        Meeting::Level { log: LogPlan::Continue { .. }, .. } => String::from("Continue"),
        Meeting::Level { log: LogPlan::Fetch { .. }, .. } => String::from("Fetch"),
        Meeting::Level { log: LogPlan::Rollback { .. }, .. } => String::from("Rollback"),
        Meeting::Salvage { .. } => String::from("Salvage"),
        Meeting::CatchUp { .. } => String::from("CatchUp"),
    }
}

/// Plays everything that can happen from `start` in so many steps; gives how often each outcome came, and in how many worlds.
fn play(starts: &[World], steps: usize, accidents: bool) -> (BTreeMap<String, usize>, usize) {
    let mut seen: BTreeSet<World> = starts.iter().cloned().collect();
    let mut open: VecDeque<(World, usize)> =
        starts.iter().map(|world| (world.clone(), 0)).collect();
    let mut outcomes = BTreeMap::new();
    while let Some((world, step)) = open.pop_front() {
        let meeting = world.meeting();
        if let Some((meeting, _)) = &meeting {
            *outcomes.entry(name(meeting)).or_default() += 1;
        }
        if step == steps {
            continue;
        }
        let met = meeting.map(|(_, follows)| follows).unwrap_or_default();
        let hurt = if accidents { world.accidents() } else { vec![] };
        for next in world.follows().into_iter().chain(met).chain(hurt) {
            if seen.insert(next.clone()) {
                open.push_back((next, step + 1));
            }
        }
    }
    (outcomes, seen.len())
}

fn expect(found: &(BTreeMap<String, usize>, usize), outcomes: &[&str]) {
    std::println!("{} worlds: {:?}", found.1, found.0);
    assert_eq!(found.0.keys().map(String::as_str).collect::<Vec<_>>(), outcomes);
}

#[test]
fn a_pair_that_only_crashes_and_falls_silent_always_goes_on_and_loses_nothing() {
    let found = play(&[World::running()], 13, false);
    expect(&found, &["CatchUp", "Continue", "Fetch", "Rollback", "Salvage"]);
}

#[test]
fn a_pair_at_its_first_start_always_goes_on_and_loses_nothing() {
    let found = play(&[World::first(true), World::first(false)], 13, false);
    expect(&found, &["CatchUp", "Continue", "Fetch", "Refuse(Blank)", "Rollback", "Salvage"]);
}

#[test]
fn after_one_accident_what_is_lost_is_named_and_nothing_else_is_refused() {
    let found = play(&[World::running()], 11, true);
    expect(
        &found,
        &["CatchUp", "Continue", "Fetch", "Refuse(Blank)", "Refuse(Lost)", "Rollback", "Salvage"],
    );
}
