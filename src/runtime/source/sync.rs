//! How the source stands with its peer's copy: in sync, alone, catching it up; and what that lets a write do.
//! SYNC-1  a write is completed alone only after a durable superblock says that the peer may lack something (`OutOfSync`) and since when.
//! SYNC-2  after an unclean stop no write gets a place in the log, and no read is answered, before this node has met its peer, which may hold
//!         entries that are lost here, or goes on alone by SYNC-1.
//! SYNC-3  a source that knows of acknowledged entries which its own log lost never goes on alone.

use super::point::CpPhase;
use super::{Core, SourceConfig};
use crate::snapshot::SyncState;
use ibid_driver::Disk;
use ibid_engine::log::RecoveredLog;
use ibid_units::{CpId, Lsn, Mutant, Nanos};
use ibid_wire::disk::{self, Superblock};
use ibid_wire::nvme_tcp::Status;
use ibid_wire::peer::HelloRefusal;

/// What a source does without its peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerLoss {
    /// Writes wait for it.
    Stall,
    /// Writes complete on this node alone; what the peer misses is noted in the out-of-sync map.
    Continue,
}

/// Writes that wait too long are looked for so often.
const EXPIRE_EVERY: Nanos = Nanos::from_millis(50);

/// Standing with the peer, beside what the superblock says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sync {
    pub(super) policy: PeerLoss,
    /// A peer that is silent for so long is away.
    pub(super) peer_timeout: Nanos,
    /// Writes that wait longer end with a status that asks for a retry.
    pub(super) stall_timeout: Nanos,
    /// Bytes of catch-up per second; 0 has no bound.
    pub(super) catch_up_rate: u64,
    /// Writes complete without the peer, since then.
    pub(super) alone_since: Option<Nanos>,
    /// The peer holds nothing of use: the map must name every block before the next hello.
    pub(super) want_whole: bool,
    /// The node had been stopped in good order, or is new: nothing is in its log that the peer could hold otherwise.
    pub(super) was_clean: bool,
    /// The recovered log lacks entries that were acknowledged; until the peer gave them back.
    pub(super) damaged: bool,
    /// The newest entry of which recovery found proof that it was acknowledged.
    pub(super) proved: Lsn,
    /// The peer's volumes may be no state of any time: older blocks have begun to travel, or may have before this start.
    pub(super) mirror_mixed: bool,
    /// Since when the peer has been sought, for one that was never heard.
    pub(super) sought_since: Nanos,
    expire_at: Nanos,
    /// The next catch-up CP may begin then.
    pub(super) catch_up_at: Nanos,
    /// Writes that ended because they waited too long.
    pub(super) expired: u64,
}

impl Sync {
    pub(super) fn new(
        config: &SourceConfig,
        recovered: &RecoveredLog,
        out_of_sync: bool,
        was_clean: bool,
    ) -> Self {
        Self {
            was_clean,
            policy: config.peer_loss,
            peer_timeout: config.peer_timeout,
            stall_timeout: config.stall_timeout,
            catch_up_rate: config.catch_up_rate,
            alone_since: None,
            want_whole: false,
            damaged: recovered.is_damaged(),
            proved: recovered.committed,
            mirror_mixed: out_of_sync,
            sought_since: Nanos::ZERO,
            expire_at: Nanos::ZERO,
            catch_up_at: Nanos::ZERO,
            expired: 0,
        }
    }
}

impl<D: Disk> Core<D> {
    /// Writes complete on this node alone.
    pub(super) fn is_alone(&self) -> bool {
        self.sync.alone_since.is_some()
    }

    /// The peer may lack something that is not in the log.
    pub(super) fn is_out_of_sync(&self) -> bool {
        self.superblock.durable.state != disk::SyncState::InSync
    }

    /// The epoch is durable: nothing of an earlier start can be taken for this one's.
    pub(super) fn has_epoch(&self) -> bool {
        self.superblock.durable.epoch == self.epoch
    }

    pub(super) fn sync_turn(&mut self, now: Nanos) -> bool {
        if self.fault.is_some() {
            return false;
        }
        let Self { map_writer, arena, disks, map, .. } = self;
        let mut busy = map_writer.turn(arena, disks, map);
        busy |= self.make_whole();
        busy |= self.note_peer();
        busy |= self.settle();
        busy |= self.leave_peer(now);
        busy
    }

    /// The map names every block, durably, before a peer that holds nothing of use is told so.
    fn make_whole(&mut self) -> bool {
        if !self.sync.want_whole || !self.superblock.is_idle() || !self.has_epoch() {
            return false;
        }
        let durable = self.superblock.durable;
        if durable.whole && durable.peer_cp == Superblock::PEER_NONE {
            self.sync.want_whole = false;
            return false;
        }
        if self.map.blocks() < self.map_blocks {
            self.map.set_all();
            // What a CP under way brings, it brings to a peer that is no more.
            self.settles = false;
            self.peer_has_cp = false;
            return true;
        }
        if self.map.is_dirty() || !self.map_writer.is_idle() {
            return false;
        }
        self.superblock.begin(&self.arena, &mut self.disks, |next| {
            next.state = disk::SyncState::OutOfSync;
            next.whole = true;
            next.peer_cp = Superblock::PEER_NONE;
            next.peer_chain = [0; 32];
            next.peer_next_chain = [0; 32];
            next.clean = false;
        });
        true
    }

    /// Where the peer's volumes are now is durable here before any of it changes by a CP: should this node be alone again, it must know
    /// them by what they were.
    fn note_peer(&mut self) -> bool {
        // A peer that only gives back a tail stays where it is.
        let meets = self.peer.is_connected() && self.fetch.is_none();
        if !meets || !self.superblock.is_idle() || self.peer_is_noted() {
            return false;
        }
        self.superblock.begin(&self.arena, &mut self.disks, |next| {
            next.peer_cp = next.cp;
            next.peer_chain = next.chain;
            next.peer_next_chain = [0; 32];
            next.whole = false;
        });
        true
    }

    /// A CP may be offered to the peer.
    pub(super) fn peer_is_noted(&self) -> bool {
        let durable = &self.superblock.durable;
        durable.state == disk::SyncState::InSync
            || (durable.peer_cp, durable.peer_chain) == (durable.cp, durable.chain)
            || Mutant::PeerUnnoted.is_on()
    }

    /// Both logs are one again: what of older epochs lies above their common end can't come back (SYNC-2), and the log opens.
    fn settle(&mut self) -> bool {
        if self.sync.was_clean && self.has_epoch() && !self.log.is_open() {
            self.log.open_log();
            return true;
        }
        if self.log.is_open()
            || !self.peer.is_connected()
            || self.fetch.is_some()
            || !self.superblock.is_idle()
            || !self.has_epoch()
            || !self.peer_is_noted()
        {
            return false;
        }
        let end = self.log.batched();
        if self.log.durable_here_lsn() < end || end < self.sync.proved {
            return false;
        }
        self.open_log(end)
    }

    /// Opens the log behind `end`, once that is durably so: what older epochs wrote above never counts again.
    fn open_log(&mut self, end: Lsn) -> bool {
        let epoch = self.epoch;
        if self.superblock.durable.opened != epoch {
            self.superblock.begin(&self.arena, &mut self.disks, |next| {
                next.opened = epoch;
                next.agreed = if Mutant::AgreedUnwritten.is_on() { next.agreed } else { end };
                next.clean = false;
            });
            return true;
        }
        self.sync.damaged = false;
        let (oldest, next) = self.log.segments();
        if self.is_out_of_sync() && !self.peer.is_connected() && oldest == next {
            // An earlier life may have had the peer take a CP of an empty segment, of which nothing is left here. So this one's first
            // CP is of none either: then the two are the same CP, with the same chain.
            self.log.seal_for_cp(self.now);
        }
        self.log.open_log();
        true
    }

    /// Goes on without a peer that is away, where that is wanted (SYNC-1).
    fn leave_peer(&mut self, now: Nanos) -> bool {
        if self.sync.policy == PeerLoss::Stall
            || self.is_alone()
            || self.peer.is_connected()
            || self.sync.damaged
            || !self.superblock.is_idle()
            || !self.has_epoch()
            || self.sync.want_whole
        {
            return false;
        }
        let allowed = match self.peer.refusal() {
            // It has failed, or is not there.
            None | Some(HelloRefusal::Failed) => true,
            // It is another pair's, or knows better who may write, or has another history: only an operator can tell.
            Some(
                HelloRefusal::Pair
                | HelloRefusal::Epoch
                | HelloRefusal::Geometry
                | HelloRefusal::Volumes
                | HelloRefusal::History
                | HelloRefusal::Blank
                | HelloRefusal::Lost
                | HelloRefusal::Encryption,
            ) => false,
        };
        let silent = now.since(self.peer.heard_since(self.sync.sought_since));
        let failed = self.peer.refusal() == Some(HelloRefusal::Failed);
        if !allowed || (silent < self.sync.peer_timeout && !failed) {
            return false;
        }
        let durable = self.superblock.durable;
        if durable.state == disk::SyncState::InSync && !Mutant::AloneUnrecorded.is_on() {
            self.superblock.begin(&self.arena, &mut self.disks, |next| {
                next.state = disk::SyncState::OutOfSync;
                next.whole = false;
                next.peer_cp = durable.cp;
                next.peer_chain = durable.chain;
                next.peer_next_chain = [0; 32];
                next.clean = false;
            });
            return true;
        }
        if !self.log.is_open() {
            return self.open_log(self.log.batched());
        }
        self.sync.alone_since = Some(now);
        self.log.commit_alone(true);
        true
    }

    /// The peer takes part again: from now on writes need both logs.
    pub(super) fn join_peer(&mut self) {
        self.sync.alone_since = None;
        self.sync.mirror_mixed |= self.is_out_of_sync();
        self.log.commit_alone(Mutant::AloneForGood.is_on() && self.log.is_open());
    }

    /// A CP without the peer is being recorded: until that is durable nothing can be agreed with it.
    pub(super) fn records_alone(&self) -> bool {
        matches!(self.cp_phase, CpPhase::Mapping | CpPhase::Recording) && !self.peer_has_cp
    }

    /// Whether log space is needed that only a CP gives, or somebody asked for one: a node that is alone takes no other CPs, so that
    /// a peer that is back soon finds all it lacks in the log.
    pub(super) fn must_drain(&self) -> bool {
        let (oldest, next) = self.log.segments();
        let free = u64::from(self.geometry.segments) - (next.get() - oldest.get());
        free == 0 || self.log.is_full() || !self.waiters.is_empty() || self.stopping.is_some()
    }

    /// A catch-up needs a CP whether or not clients write: seals a segment for it, empty or not.
    pub(super) fn want_catch_up(&mut self, now: Nanos) {
        let (oldest, next) = self.log.segments();
        let waits = next.get() - oldest.get() > 1;
        if self.peer.is_connected()
            && (self.is_out_of_sync() || !self.map.is_empty())
            && self.log.is_open()
            && self.stopping.is_none()
            && !waits
            && now >= self.sync.catch_up_at
        {
            self.log.seal_for_cp(now);
        }
    }

    /// When the next catch-up CP may begin, so that `bytes` keep to the rate.
    pub(super) fn pace_catch_up(&mut self, now: Nanos, bytes: u64) {
        let rate = self.sync.catch_up_rate;
        let nanos = bytes.saturating_mul(1_000_000_000).checked_div(rate).unwrap_or(0);
        self.sync.catch_up_at = now.after(Nanos::new(nanos));
    }

    /// Ends writes that have waited too long for the peer or for room, with a status that asks for a retry. One that has its Lsn stays in
    /// the log: it comes before whatever its host sends again.
    pub(super) fn expire_writes(&mut self, now: Nanos) {
        if now < self.sync.expire_at {
            return;
        }
        self.sync.expire_at = now.after(EXPIRE_EVERY);
        for place in 0..self.writes.count() as u32 {
            let (limit, status) = (self.sync.stall_timeout, Status::COMMAND_INTERRUPTED);
            self.sync.expired += u64::from(self.expire_write(now, place, limit, status));
        }
    }

    /// How this node stands, for status.
    pub(super) fn sync_state(&self) -> SyncState {
        let durable = &self.superblock.durable;
        if self.is_alone() {
            SyncState::Alone
        } else if durable.state == disk::SyncState::InSync {
            if self.peer.is_connected() { SyncState::InSync } else { SyncState::Waiting }
        } else if self.peer.is_connected() {
            SyncState::CatchingUp
        } else if durable.peer_cp == Superblock::PEER_NONE && durable.cp == CpId::new(0) {
            SyncState::Never
        } else {
            SyncState::Waiting
        }
    }
}
