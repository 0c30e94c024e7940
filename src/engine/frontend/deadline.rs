//! Time: nobody may hold a connection, pages or a controller without moving on. All limits are named here.

use super::auth_commands::AUTH_LIMIT;
use super::connection::{Connection, First, State, To};
use super::{ConnId, Event, Frontend};
use ibid_units::Nanos;

/// From the TCP connection to the ICReq (R1).
const IC_REQ_LIMIT: Nanos = Nanos::from_millis(5_000);
/// From the ICReq to the end of Connect (R1).
const CONNECT_LIMIT: Nanos = Nanos::from_millis(10_000);
/// From an R2T, or from the header of data, to the data (R4).
const DATA_LIMIT: Nanos = Nanos::from_millis(30_000);
/// From one byte that the host takes of what waits for it to the next (R5).
pub(super) const SEND_LIMIT: Nanos = Nanos::from_millis(30_000);
/// For the host to take our last words.
const CLOSE_LIMIT: Nanos = Nanos::from_millis(2_000);
/// Granularity of the keep-alive timer; what Identify says as KAS, in 100 ms.
pub(super) const KAS_100MS: u16 = 10;
/// The longest keep-alive timeout that is granted; more is cut to it.
pub(super) const KATO_MS_MAX: u32 = 600_000;
/// A discovery controller whose host asks for none ends after this (Base 4.5: such connections are short).
pub(super) const DISCOVERY_KATO_MS: u32 = 120_000;

impl Frontend {
    /// Ends what has waited too long. Call when [`Frontend::next_deadline`] has come; more often does no harm.
    pub fn tick(&mut self, now: Nanos) {
        self.now = now;
        if now < self.next {
            return;
        }
        for k in 0..self.controllers.len() {
            if self.controllers[k].id != 0 && self.controllers[k].deadline <= now {
                // The host is gone: every queue closes, every command ends with its connection (R6).
                self.counters.deadlines_missed += 1;
                self.controllers[k].csts.failed = true;
                self.controllers[k].deadline = Nanos::NEVER;
                self.close_io_queues(k);
                let c = usize::from(self.controllers[k].admin);
                self.begin_close(c);
                self.push(Event::Attend { conn: ConnId(c as u16) });
            }
        }
        for c in 0..self.connections.len() {
            let not_before = self.connections[c].auth_not_before;
            if Nanos::ZERO < not_before && not_before <= now {
                self.auth_is_due(c);
            }
            let connection = &mut self.connections[c];
            if connection.next_deadline() > now {
                continue;
            }
            let takes_nothing = connection.send_deadline <= now;
            let is_closing = connection.state == State::Closing;
            if !is_closing {
                self.counters.deadlines_missed += 1;
                self.begin_close(c);
            }
            if is_closing || takes_nothing {
                // The host does not take our last words either.
                let connection = &mut self.connections[c];
                connection.stage_is_lost();
                connection.step_deadline = Nanos::NEVER;
            }
            self.push(Event::Attend { conn: ConnId(c as u16) });
        }
        let steps = self.connections.iter().map(Connection::next_deadline);
        let controllers = self.controllers.iter().map(|controller| controller.deadline);
        let failures = self
            .connections
            .iter()
            .map(|connection| connection.auth_not_before)
            .filter(|not_before| *not_before > Nanos::ZERO);
        self.next = steps.chain(controllers).chain(failures).min().unwrap_or(Nanos::NEVER);
    }

    /// Nothing happens by time before this. May lie earlier than what is really due, never later.
    pub fn next_deadline(&self) -> Nanos {
        self.next
    }

    fn note(&mut self, deadline: Nanos) {
        self.next = self.next.min(deadline);
    }

    pub(super) fn set_handshake_deadline(&mut self, c: usize, now: Nanos) {
        let deadline = now.after(IC_REQ_LIMIT);
        self.connections[c].step_deadline = deadline;
        self.note(deadline);
    }

    pub(super) fn set_connect_deadline(&mut self, c: usize, now: Nanos) {
        let deadline = now.after(CONNECT_LIMIT);
        self.connections[c].step_deadline = deadline;
        self.note(deadline);
    }

    pub(super) fn set_auth_deadline(&mut self, c: usize) {
        let deadline = self.now.after(AUTH_LIMIT);
        self.connections[c].step_deadline = deadline;
        self.note(deadline);
    }

    /// An authentication failed: that is told after a while.
    pub(super) fn delay_failure(&mut self, c: usize, span: Nanos) {
        let not_before = self.now.after(span);
        self.connections[c].auth_not_before = not_before;
        self.note(not_before);
    }

    pub(super) fn set_close_deadline(&mut self, c: usize) {
        self.set_leave_deadline(c);
        self.connections[c].data_deadline = Nanos::NEVER;
        self.connections[c].send_deadline = Nanos::NEVER;
    }

    /// The host has said goodbye, and may take what is still queued for it.
    pub(super) fn set_leave_deadline(&mut self, c: usize) {
        let deadline = self.now.after(CLOSE_LIMIT);
        self.connections[c].step_deadline = deadline;
        self.note(deadline);
    }

    /// Data is owed, or no longer. It runs from the first debt, and anew when a PDU's data was paid in full (`moved`): a trickle does
    /// not extend it. What waits for pages of ours is no debt of the host.
    pub(super) fn set_data_deadline(&mut self, c: usize, moved: bool) {
        let now = self.now;
        let connection = &mut self.connections[c];
        let owes = match connection.body {
            Some(body) => body.to != To::Await,
            // The second command of a fused pair is owed like data.
            None => connection.r2ts > 0 || connection.first != First::None,
        };
        if !owes || connection.state == State::Closing {
            connection.data_deadline = Nanos::NEVER;
        } else if moved || connection.data_deadline == Nanos::NEVER {
            let deadline = now.after(DATA_LIMIT);
            connection.data_deadline = deadline;
            self.note(deadline);
        }
    }

    /// Something waits for the host, or no longer. It runs anew from each byte that the host takes; one that is closed has its own limit.
    pub(super) fn set_send_deadline(&mut self, c: usize) {
        let now = self.now;
        let connection = &mut self.connections[c];
        if connection.stage.is_empty() || connection.state == State::Closing {
            connection.send_deadline = Nanos::NEVER;
        } else if connection.send_deadline == Nanos::NEVER {
            let deadline = now.after(SEND_LIMIT);
            connection.send_deadline = deadline;
            self.note(deadline);
        }
    }

    /// The host of a controller is alive. The timeout counts from now, rounded up to the granularity (Base 3.9).
    pub(super) fn restart_keep_alive(&mut self, k: usize) {
        let step = u32::from(KAS_100MS) * 100;
        let controller = &mut self.controllers[k];
        if controller.csts.failed && controller.deadline == Nanos::NEVER {
            return;
        }
        let span = Nanos::from_millis(u64::from(controller.kato_ms.next_multiple_of(step)));
        let deadline = self.now.after(span);
        controller.deadline = deadline;
        self.note(deadline);
    }
}

impl Connection {
    pub(super) fn next_deadline(&self) -> Nanos {
        self.step_deadline.min(self.data_deadline).min(self.send_deadline)
    }
}
