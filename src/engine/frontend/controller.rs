//! Controllers: who connected, as whom, and what was set. A controller lives as long as its admin connection.

use super::connection::State;
use super::events::{ENABLED_AT_FIRST, Events};
use super::features::THRESHOLDS_K;
use super::{ConnId, Event, Frontend};
use ibid_units::Nanos;
use ibid_wire::nvme_tcp::{Cc, ControllerKind, Csts};

/// Discovery controllers are at most one part of so many of all controllers, and at least one.
const DISCOVERY_PARTS: usize = 4;

/// One controller.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    /// Its identifier; 0 is a free place.
    pub(super) id: u16,
    pub(super) kind: ControllerKind,
    /// When it was connected to.
    pub(super) since: Nanos,
    pub(super) hostnqn: [u8; 256],
    pub(super) hostid: [u8; 16],
    /// Whose it is, in the table of hosts.
    pub(super) host: u16,
    pub(super) admin: u16,
    pub(super) cc: Cc,
    pub(super) csts: Csts,
    /// I/O queues that were granted.
    pub(super) queues: u16,
    pub(super) kato_ms: u32,
    /// When the host counts as gone.
    pub(super) deadline: Nanos,
    /// Asynchronous events that the host wants.
    pub(super) async_events: u32,
    pub(super) events: Events,
    /// Temperatures in kelvin that the host wants to hear of: over, under.
    pub(super) thresholds: [u16; 2],
    /// The host tries commands again after the time that their completions name (Host Behavior Support, ACRE).
    pub(super) retries_later: bool,
}

impl Default for Controller {
    fn default() -> Self {
        Self {
            id: 0,
            kind: ControllerKind::Io,
            since: Nanos::ZERO,
            hostnqn: [0; 256],
            hostid: [0; 16],
            host: 0,
            admin: 0,
            cc: Cc::default(),
            csts: Csts::default(),
            queues: 0,
            kato_ms: 0,
            deadline: Nanos::NEVER,
            async_events: ENABLED_AT_FIRST,
            events: Events::default(),
            thresholds: THRESHOLDS_K,
            retries_later: false,
        }
    }
}

/// A host that has controllers. Hosts are told apart by their names: what one may have is counted over all its controllers.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) nqn: [u8; 256],
    /// Its controllers; without any, the place is free.
    pub(super) controllers: u16,
    /// Its connections that are past Connect, those to discovery aside: anybody may have them in its name (ADM-3).
    pub(super) connections: u16,
}

impl Default for Host {
    fn default() -> Self {
        Self { nqn: [0; 256], controllers: 0, connections: 0 }
    }
}

impl Controller {
    /// Whether commands are taken: enabled, ready, not shut down.
    pub(super) const fn serves(&self) -> bool {
        self.cc.enable() && self.csts.ready && !self.csts.shut_down && !self.csts.failed
    }
}

impl Frontend {
    /// Controllers in use.
    pub fn controllers_open(&self) -> u32 {
        self.controllers.iter().filter(|controller| controller.id != 0).count() as u32
    }

    /// A free place and a fresh identifier, if there is one. Identifiers come round late, so that a host's late I/O queue
    /// does not find another host's controller.
    pub(super) fn take_controller(&mut self) -> Option<(usize, u16)> {
        let k = self.controllers.iter().position(|controller| controller.id == 0)?;
        let (first, last) = self.config.controller_ids;
        // At most as many are in use as there are controllers, so this ends.
        loop {
            let id = self.controller_id_next;
            self.controller_id_next = if id == last { first } else { id + 1 };
            if self.controllers.iter().all(|controller| controller.id != id) {
                return Some((k, id));
            }
        }
    }

    /// The place of a host in their table: its own, or a free one. There are as many as controllers, so one is always free for a new
    /// controller's host.
    pub(super) fn host_place(&self, nqn: &[u8; 256]) -> usize {
        let free = || self.hosts.iter().position(|host| host.controllers == 0);
        let place = self.known_host(nqn).or_else(free);
        place.expect("every controller has a host, and one controller more is wanted")
    }

    fn known_host(&self, nqn: &[u8; 256]) -> Option<usize> {
        self.hosts.iter().position(|host| host.controllers > 0 && host.nqn == *nqn)
    }

    /// Whether a host may have one more connection.
    pub(super) fn has_room(&self, host: usize) -> bool {
        let host = &self.hosts[host];
        host.controllers == 0 || host.connections < self.config.limits.connections_per_host
    }

    /// Makes room for one more controller of a host, where there is none, by ending who gives way: for discovery its oldest (ADM-3), otherwise
    /// who has been authenticating for longest, of the host itself where it has its share, and of all where there is no free controller.
    /// False where that is not enough, and then nobody has gone.
    pub(super) fn make_room(&mut self, kind: ControllerKind, nqn: &[u8; 256]) -> bool {
        let discovery =
            if kind == ControllerKind::Discovery { self.last_of_discovery() } else { None };
        let host = self.known_host(nqn);
        let has_its_share = host.is_some_and(|host| !self.has_room(host));
        let mut own = None;
        if kind == ControllerKind::Io && has_its_share {
            own = self.slowest_auth(|connection| Some(usize::from(connection.host)) == host);
            if own.is_none() {
                return false;
            }
        }
        let is_free = discovery.is_some()
            || own.is_some_and(|c| self.connections[c].qid == 0)
            || self.controllers.iter().any(|controller| controller.id == 0);
        let mut any = None;
        if !is_free {
            any = self.slowest_auth(|connection| connection.qid == 0);
            if any.is_none() {
                return false;
            }
        }
        for c in [discovery, own, any].into_iter().flatten() {
            self.evict(c);
        }
        true
    }

    /// Discovery asks nobody who he is, so it has a share of the controllers only: of those that have it, the oldest goes for one more (ADM-3).
    fn last_of_discovery(&self) -> Option<usize> {
        let share = (self.controllers.len() / DISCOVERY_PARTS).max(1);
        let is_discovery = |controller: &&Controller| {
            controller.id != 0 && controller.kind == ControllerKind::Discovery
        };
        let all = self.controllers.iter().filter(is_discovery);
        let oldest = all.clone().min_by_key(|one| one.since)?;
        (all.count() >= share).then_some(oldest.admin.into())
    }

    /// Makes room for one more connection of a host that has its share: the one that has been authenticating for longest goes. Whether
    /// one went.
    pub(super) fn evict_auth_of(&mut self, host: usize) -> bool {
        let slowest = self.slowest_auth(|connection| usize::from(connection.host) == host);
        if let Some(c) = slowest {
            self.evict(c);
        }
        slowest.is_some()
    }

    /// Ends a connection that gives way.
    pub(super) fn evict(&mut self, c: usize) {
        self.leave_controller(c);
        self.begin_close(c);
        self.push(Event::Attend { conn: ConnId(c as u16) });
    }

    /// A connection is gone: with an admin queue goes the controller, with it its I/O queues.
    pub(super) fn leave_controller(&mut self, c: usize) {
        let Some(k) = self.connections[c].controller.map(usize::from) else {
            return;
        };
        self.part(c, k);
        if self.connections[c].qid == 0 {
            self.close_io_queues(k);
            self.hosts[usize::from(self.controllers[k].host)].controllers -= 1;
            self.controllers[k] = Controller::default();
        }
    }

    fn part(&mut self, c: usize, k: usize) {
        self.connections[c].controller = None;
        let Controller { kind, host, .. } = self.controllers[k];
        if kind == ControllerKind::Io {
            self.hosts[usize::from(host)].connections -= 1;
        }
    }

    /// Closes the I/O queues of a controller: it was reset, or is gone.
    pub(super) fn close_io_queues(&mut self, k: usize) {
        for c in 0..self.connections.len() {
            let connection = &self.connections[c];
            if connection.qid != 0 && connection.controller == Some(k as u16) {
                self.part(c, k);
                if self.connections[c].state != State::Closing {
                    self.begin_close(c);
                }
                self.push(Event::Attend { conn: ConnId(c as u16) });
            }
        }
    }
}
