//! Controllers: who connected, as whom, and what was set. A controller lives as long as its admin connection.

use super::connection::State;
use super::{ConnId, Event, Frontend};
use ibid_units::Nanos;
use ibid_wire::nvme_tcp::{Cc, ControllerKind, Csts};

/// One controller.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    /// Its identifier; 0 is a free place.
    pub(super) id: u16,
    pub(super) kind: ControllerKind,
    pub(super) hostnqn: [u8; 256],
    pub(super) hostid: [u8; 16],
    pub(super) admin: u16,
    pub(super) cc: Cc,
    pub(super) csts: Csts,
    /// I/O queues that were granted.
    pub(super) queues: u16,
    pub(super) kato_ms: u32,
    /// When the host counts as gone.
    pub(super) deadline: Nanos,
    /// What Set Features keeps: asynchronous events and temperature threshold, which change nothing here.
    pub(super) async_events: u32,
    pub(super) temperature: u32,
}

impl Default for Controller {
    fn default() -> Self {
        Self {
            id: 0,
            kind: ControllerKind::Io,
            hostnqn: [0; 256],
            hostid: [0; 16],
            admin: 0,
            cc: Cc::default(),
            csts: Csts::default(),
            queues: 0,
            kato_ms: 0,
            deadline: Nanos::NEVER,
            async_events: 0,
            temperature: 0,
        }
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

    /// A connection is gone: with an admin queue goes the controller, with it its I/O queues.
    pub(super) fn leave_controller(&mut self, c: usize) {
        let Some(k) = self.connections[c].controller.map(usize::from) else {
            return;
        };
        self.connections[c].controller = None;
        if self.connections[c].qid == 0 {
            self.close_io_queues(k);
            self.controllers[k] = Controller::default();
        }
    }

    /// Closes the I/O queues of a controller: it was reset, or is gone.
    pub(super) fn close_io_queues(&mut self, k: usize) {
        for c in 0..self.connections.len() {
            let connection = &mut self.connections[c];
            if connection.qid != 0 && connection.controller == Some(k as u16) {
                connection.controller = None;
                if connection.state != State::Closing {
                    self.begin_close(c);
                }
                self.push(Event::Attend { conn: ConnId(c as u16) });
            }
        }
    }
}
