//! What must hold of connections and controllers between two calls, in one place. For tests and fuzz targets: it looks at everything.

use super::Frontend;
use super::connection::{Connection, Phase, State, To};
use super::controller::Controller;
use ibid_units::Nanos;
use ibid_wire::nvme_tcp::ControllerKind;

impl Frontend {
    /// Checks that pools, queues and controllers agree with each other.
    ///
    /// # Panics
    /// If they don't, or if events were not drained.
    pub fn audit(&self) {
        assert!(self.events.is_empty(), "events were not drained");
        for (c, connection) in self.connections.iter().enumerate() {
            connection.audit();
            assert!(
                self.next <= connection.next_deadline(),
                "a deadline of connection {c} would be missed"
            );
            assert!(
                connection.auth_not_before == Nanos::ZERO
                    || self.next <= connection.auth_not_before,
                "a failure of connection {c} would never be told"
            );
            let Some(k) = connection.controller.map(usize::from) else {
                continue;
            };
            let controller = &self.controllers[k];
            assert!(controller.id != 0, "connection {c} belongs to a controller that is gone");
            assert!(
                (connection.qid == 0) == (usize::from(controller.admin) == c),
                "connection {c} is queue {} of a controller whose admin queue is connection {}",
                connection.qid,
                controller.admin
            );
            let twins = self.connections[c + 1..].iter().filter(|other| {
                other.controller == connection.controller && other.qid == connection.qid
            });
            assert!(twins.count() == 0, "queue {} of a controller is there twice", connection.qid);
        }
        for (k, controller) in self.controllers.iter().enumerate() {
            if controller.id == 0 {
                continue;
            }
            let admin = &self.connections[usize::from(controller.admin)];
            assert!(admin.controller == Some(k as u16), "a controller outlives its admin queue");
            assert!(self.next <= controller.deadline, "a keep-alive deadline would be missed");
            let twins = self.controllers[k + 1..].iter().filter(|other| other.id == controller.id);
            assert!(twins.count() == 0, "controller {} is there twice", controller.id);
        }
        self.audit_hosts();
    }

    /// What the table of hosts counts.
    fn audit_hosts(&self) {
        for (h, host) in self.hosts.iter().enumerate() {
            let own = |k: &Controller| k.id != 0 && usize::from(k.host) == h;
            let controllers = self.controllers.iter().filter(|&k| own(k)).count();
            assert!(
                controllers == usize::from(host.controllers),
                "a host's controllers are miscounted"
            );
            let connections = self.connections.iter().filter(|connection| {
                connection.controller.is_some_and(|k| {
                    let controller = &self.controllers[usize::from(k)];
                    own(controller) && controller.kind == ControllerKind::Io
                })
            });
            assert!(
                connections.count() == usize::from(host.connections),
                "a host's connections are miscounted"
            );
        }
    }

    /// Whether nobody is connected. After [`Frontend::audit`] it also means that everything is back in its pool.
    pub fn is_idle(&self) -> bool {
        self.connections.iter().all(|connection| connection.state == State::Free)
            && self.controllers_open() == 0
    }
}

impl Connection {
    fn audit(&self) {
        let count = |is: &dyn Fn(&super::connection::Slot) -> bool| {
            self.slots.iter().filter(|slot| is(slot)).count()
        };
        assert!(
            count(&|slot| slot.phase == Phase::Free) == self.free.len(),
            "slots are lost from the pool, or in it twice"
        );
        for &index in &self.free {
            assert!(
                self.slots[usize::from(index)].phase == Phase::Free,
                "a used slot is in the pool"
            );
        }
        assert!(
            count(&|slot| slot.queued) == self.queue.len(),
            "FE-2: the transmit queue is wrong"
        );
        for &index in &self.queue {
            let slot = &self.slots[usize::from(index)];
            assert!(slot.queued, "FE-2: a slot stands in the transmit queue twice");
            let has_words = matches!(
                slot.phase,
                Phase::AwaitsR2t { .. }
                    | Phase::Sending { .. }
                    | Phase::Reply { .. }
                    | Phase::Responding { .. }
            );
            assert!(has_words, "{:?} stands in a transmit queue", slot.phase);
        }
        assert!(
            count(&|slot| slot.r2t.is_some()) == usize::from(self.r2ts),
            "R2Ts that are out are miscounted"
        );
        let mut owned = self.slots.iter().filter(|slot| slot.owns_cid);
        assert!(owned.all(|slot| self.has_cid(slot.cid)), "an identifier in use is not noted");
        // The whole table is looked at where it should be empty and may not be: the rest of the time that takes too long.
        if self.state != State::Free && self.outstanding() == 0 {
            assert!(!self.has_cids(), "a command identifier is taken by nobody");
        }
        for slot in self.slots.iter().filter(|slot| slot.phase == Phase::Free) {
            assert!(
                !slot.owns_cid && !slot.pinned && !slot.queued && slot.r2t.is_none(),
                "a free slot still has something"
            );
        }
        assert!(self.outstanding() <= usize::from(self.entries), "more commands than entries");
        if let Some(body) = &self.body {
            let slot = &self.slots[usize::from(body.slot)];
            assert!(slot.phase != Phase::Free, "data of a command that is gone");
            assert!(slot.r2t.is_some() == body.by_r2t, "data that no R2T asked for");
        }
        let fetches = count(&|slot| slot.phase == Phase::AwaitsAuth);
        assert!(fetches <= usize::from(self.auth_fetch.is_some()), "a fetch that nobody ends");
        let owes = self.r2ts > 0 || self.body.is_some_and(|body| body.to != To::Await);
        match self.state {
            State::Free => {
                assert!(self.free.len() == self.slots.len(), "slots are lost with a connection");
                assert!(self.have == 0 && self.body.is_none(), "bytes outlive a connection");
                assert!(self.stage.is_empty(), "words outlive a connection");
                assert!(self.controller.is_none(), "a controller keeps a connection that is gone");
            }
            State::AwaitsIcReq | State::AwaitsConnect => {
                assert!(self.step_deadline != Nanos::NEVER, "a handshake without a deadline");
            }
            State::Connected => {
                assert!(
                    !owes
                        || self.body.is_some_and(|body| body.to == To::Await)
                        || self.data_deadline != Nanos::NEVER,
                    "a host owes data and has no deadline"
                );
            }
            State::Closing => {
                assert!(self.body.is_none(), "a connection that ends receives");
                assert!(self.queue.is_empty(), "a connection that ends queues");
            }
        }
    }
}
