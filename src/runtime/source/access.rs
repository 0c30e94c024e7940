//! Whether this node is a path to its volumes, and what hosts are told when that changes: ANA *optimized* while it can serve them,
//! *inaccessible* where it can't until somebody does something about it. Then a host that has another path takes that one, and one that
//! has none keeps its commands, instead of giving its programs an error.

use super::Core;
use super::reads::{Purpose, ReadSlot};
use crate::clients::Serve;
use ibid_driver::Disk;
use ibid_engine::frontend::AnaState;
use ibid_units::{Nanos, VolumeId};
use ibid_wire::nvme_tcp::Status;
use ibid_wire::peer::HelloRefusal;

/// A log that is not open after so many times the peer's timeout waits for a peer that is not there: going on alone, where that is allowed,
/// takes one and a little more.
const UNMET_TIMEOUTS: u64 = 2;

impl<D: Disk> Core<D> {
    /// The peer does not take this source, because another one may be the one that writes, or because this one lacks what was acknowledged:
    /// what it would answer may be old.
    fn is_fenced(&self) -> bool {
        match self.peer.refusal() {
            Some(HelloRefusal::Epoch | HelloRefusal::History | HelloRefusal::Lost) => true,
            // It is as good as away, gets its whole copy, or is none of this pair's: nobody but this node has written, and reads go on.
            Some(
                HelloRefusal::Failed
                | HelloRefusal::Blank
                | HelloRefusal::Pair
                | HelloRefusal::Geometry
                | HelloRefusal::Volumes
                | HelloRefusal::Encryption,
            )
            | None => false,
        }
    }

    /// Whether commands of hosts can come to an end here, now or by waiting a little.
    fn can_serve(&self, now: Nanos) -> bool {
        let patience = Nanos::new(UNMET_TIMEOUTS * self.sync.peer_timeout.get());
        // SYNC-2: until then neither reads nor writes.
        let opens = self.log.is_open() || now.since(self.sync.sought_since) < patience;
        self.fault.is_none() && !self.is_fenced() && opens
    }

    /// Tells hosts where they stand, once it has changed.
    pub(super) fn access_turn(&mut self, now: Nanos) {
        let serves = self.can_serve(now);
        if serves == self.serves {
            return;
        }
        self.serves = serves;
        let state = if serves { AnaState::Optimized } else { AnaState::Inaccessible };
        for place in 0..self.volume_sectors.len() as u16 {
            self.clients.frontend.set_access(now, VolumeId::new(place), state);
            self.drain_events(now);
        }
        if !serves {
            self.let_go(now);
        }
    }

    /// Ends a read, compare or verify that has not begun.
    fn end_waiting_read(&mut self, now: Nanos, place: u32, status: Status) {
        let ReadSlot { abandoned, purpose, .. } = *self.reads.get(place);
        match purpose {
            _ if abandoned => self.finish_read(now, place),
            Purpose::Compare => self.end_compare(now, place, status),
            Purpose::Read | Purpose::Verify => self.end_read(now, place, status),
        }
    }

    /// What hosts wait for ends with a status that sends them to another path. What has its Lsn stays in the log, and comes before
    /// whatever is sent again.
    fn let_go(&mut self, now: Nanos) {
        for place in 0..self.writes.count() as u32 {
            self.expire_write(now, place, Nanos::ZERO, Status::ANA_INACCESSIBLE);
        }
        for _ in 0..self.waiting_reads.len() {
            let Some(place) = self.waiting_reads.pop_front() else { break };
            self.end_waiting_read(now, place, Status::ANA_INACCESSIBLE);
        }
        while let Some(place) = self.compares.pop_waiting() {
            self.end_waiting_read(now, place, Status::ANA_INACCESSIBLE);
        }
    }
}
