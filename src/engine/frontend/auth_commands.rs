//! Authentication Send and Receive, the time an authentication has, and the way to whoever computes for it.
//!
//! The target never computes what takes long: it says [`Event::Authenticate`], the shard takes the [`AuthJob`] and brings the
//! [`AuthAnswer`]. A connection has at most one job out, so there are never more than [`super::Limits::connections_max`].

use super::auth::{Fetched, Next, Parties, Step};
use super::command::Verdict;
use super::connection::{Connection, Page, Phase, SMALL_BYTES, State};
use super::{ConnId, Event, Frontend};
use ibid_chap::{Done, Work};
use ibid_units::Nanos;
use ibid_wire::nvme_tcp::{AuthCommand, AuthMessage, AuthRefusal, Sqe, Status, fctype, opcode};

/// From Connect to the end of an authentication, however its messages are spaced (R1). A slow host may need some tens of seconds for an
/// exponentiation. Who only begins gives way long before that.
pub(super) const AUTH_LIMIT: Nanos = Nanos::from_millis(120_000);
/// What a failure costs whoever tries, before it is told.
pub(super) const FAILURE_DELAY: Nanos = Nanos::from_millis(100);

/// Something to compute for an authentication.
#[derive(Debug)]
pub struct AuthJob {
    conn: ConnId,
    generation: u32,
    /// What.
    pub work: Work,
}

/// What came of it.
#[derive(Debug)]
pub struct AuthAnswer {
    conn: ConnId,
    generation: u32,
    done: Option<Done>,
}

impl AuthJob {
    /// Computes it. `random` fills its argument with what nobody can guess; if it fails, the connection ends.
    pub fn run<E>(self, random: impl FnMut(&mut [u8]) -> Result<(), E>) -> AuthAnswer {
        let Self { conn, generation, work } = self;
        AuthAnswer { conn, generation, done: work.run(random).ok() }
    }
    /// The connection that it is for; one has at most one that counts.
    pub fn conn(&self) -> ConnId {
        self.conn
    }
    /// It will not be computed: the connection ends, without a word that the host could take for a wrong secret.
    pub fn refuse(self) -> AuthAnswer {
        AuthAnswer { conn: self.conn, generation: self.generation, done: None }
    }
}

/// The parties of a connection's authentication; a macro, so that nothing else of the frontend is borrowed.
macro_rules! parties {
    ($frontend:ident, $host:expr) => {
        Parties {
            keys: &$frontend.host_keys[$host],
            host: &$frontend.config.auth.hosts[$host].nqn,
            subsystem: &$frontend.config.nqn,
        }
    };
}

impl Frontend {
    /// What [`Event::Authenticate`] asked for. `None`: it is not wanted any more.
    pub fn take_auth_job(&mut self, conn: ConnId) -> Option<AuthJob> {
        let auth = &mut self.connections[conn.index()].auth;
        let generation = auth.generation;
        auth.take_work().map(|work| AuthJob { conn, generation, work })
    }

    /// Takes what was computed for an authentication. One that is over takes nothing.
    pub fn auth_computed(&mut self, now: Nanos, answer: AuthAnswer) {
        self.now = now;
        let c = answer.conn.index();
        let connection = &mut self.connections[c];
        if connection.state != State::Connected || connection.auth.generation != answer.generation {
            return;
        }
        if answer.done.is_none() {
            // Ours to blame, and passing. Hosts take a failure message for a wrong secret, and Linux then never tries again.
            self.evict(c);
            return;
        }
        let parties = parties!(self, connection.auth.host);
        if let Err(refusal) = connection.auth.computed(answer.done, &mut self.auth_seqnum, &parties)
        {
            self.fail_auth(c, refusal);
        }
        self.push(Event::Attend { conn: answer.conn });
        self.try_fetch(c);
    }

    /// Connections that have to authenticate before they may do anything.
    pub fn authenticating(&self) -> u32 {
        let authenticates = |connection: &&Connection| {
            connection.state == State::Connected && !connection.auth.is_open()
        };
        self.connections.iter().filter(authenticates).count() as u32
    }

    /// The place of a host among those that must authenticate.
    pub(super) fn auth_host(&self, nqn: &str) -> Option<usize> {
        self.config.auth.hosts.iter().position(|host| host.nqn == nqn)
    }

    /// A connection has to authenticate before it may do anything (AUTH-1).
    pub(super) fn begin_auth(&mut self, c: usize, host: usize) {
        let connection = &mut self.connections[c];
        connection.auth.begin(host);
        // The keep-alive timer runs once the controller is enabled, and there has an authentication to come before (Base 3.9). A host may
        // be silent over an exponentiation for longer than its timeout: an emulated Linux was for 6 to 12 s.
        if let (0, Some(k)) = (connection.qid, connection.controller) {
            self.controllers[usize::from(k)].deadline = Nanos::NEVER;
        }
        self.set_auth_deadline(c);
    }

    /// The connection that has been authenticating for longest, of those that may go.
    pub(super) fn slowest_auth(&self, may_go: impl Fn(&Connection) -> bool) -> Option<usize> {
        let all = self.connections.iter().enumerate().filter(|(_, connection)| {
            connection.state == State::Connected
                && connection.controller.is_some()
                && !connection.auth.is_open()
                && may_go(connection)
        });
        all.min_by_key(|(_, connection)| connection.step_deadline).map(|(c, _)| c)
    }

    /// Before it is authenticated a connection takes these two commands and no other (C37), afterwards others as well.
    pub(super) fn judge_auth(
        &mut self,
        c: usize,
        slot: u16,
        sqe: &Sqe,
        data: u32,
    ) -> Result<Verdict, Status> {
        match (sqe.opcode, sqe.fctype()) {
            (opcode::FABRICS, fctype::AUTH_SEND) => {
                let bytes = checked(sqe)?;
                if bytes > SMALL_BYTES as u32 {
                    return Err(Status::INVALID_FIELD);
                }
                // No host sends it in another way: a message is shorter than what every capsule takes.
                if self.inbound(sqe, data, bytes.into())? {
                    Ok(Verdict::AwaitData)
                } else {
                    Err(Status::SGL_TYPE_INVALID)
                }
            }
            (opcode::FABRICS, fctype::AUTH_RECEIVE) => {
                let bytes = checked(sqe)?;
                self.outbound(sqe, data, bytes.into())?;
                if sqe.sgl.length != bytes {
                    return Err(Status::SGL_LENGTH_INVALID);
                }
                let connection = &mut self.connections[c];
                if connection.auth_fetch.is_some() || connection.auth.is_over() {
                    return Err(Status::SEQUENCE_ERROR);
                }
                connection.slots[usize::from(slot)].phase = Phase::AwaitsAuth;
                connection.auth_fetch = Some((slot, bytes));
                self.try_fetch(c);
                Ok(Verdict::Taken)
            }
            _ => Err(Status::AUTHENTICATION_REQUIRED),
        }
    }

    /// An Authentication Send whose message is in `small`. It succeeds whatever the message is worth: that is told by what is fetched
    /// next (Base 8.13.5).
    pub(super) fn auth_message(&mut self, c: usize, slot: u16, bytes: usize) {
        let connection = &mut self.connections[c];
        let message = AuthMessage::parse(&connection.small[..bytes]);
        let again = connection.auth.is_over();
        if again && !connection.auth.begin_again(&message) {
            self.respond(c, slot, Status::SEQUENCE_ERROR, 0);
            return;
        }
        let parties = parties!(self, connection.auth.host);
        let next = connection.auth.take(message, &self.config.auth, &parties);
        if again {
            // As long as the first time; meanwhile everything else goes on.
            self.set_auth_deadline(c);
        }
        self.respond(c, slot, Status::SUCCESS, 0);
        match next {
            Ok(Next::Nothing) => {}
            Ok(Next::Compute) => self.push(Event::Authenticate { conn: ConnId(c as u16) }),
            Ok(Next::Opened) => self.auth_is_done(c),
            Ok(Next::Close) => {
                self.counters.auth_failures += 1;
                self.drop_first(c);
                self.leave_after_auth(c);
            }
            Err(refusal) => self.fail_auth(c, refusal),
        }
        self.try_fetch(c);
    }

    /// Gives a host that waits what there is for it to fetch.
    fn try_fetch(&mut self, c: usize) {
        let connection = &mut self.connections[c];
        let Some((slot, room)) = connection.auth_fetch else { return };
        if connection.state != State::Connected || self.now < connection.auth_not_before {
            return;
        }
        let fetched = match connection.auth.fetch(room as usize) {
            Ok(None) => return,
            Ok(Some(fetched)) => fetched,
            Err(refusal) => {
                // Its time has begun: it is told later.
                self.fail_auth(c, refusal);
                return;
            }
        };
        connection.auth_fetch = None;
        if fetched == Fetched::NoRoom {
            // Nothing is written, and nothing is lost: it may ask again (C39).
            self.respond(c, slot, Status::INVALID_FIELD, 0);
            return;
        }
        connection.slots[usize::from(slot)].phase =
            Phase::Reply { page: Page::Auth, at: 0, bytes: room, sent: 0 };
        self.enqueue(c, slot);
        if fetched == Fetched::Failure {
            self.leave_after_auth(c);
        } else if self.connections[c].auth.is_over() {
            self.auth_is_done(c);
        }
    }

    fn auth_is_done(&mut self, c: usize) {
        self.counters.authenticated += 1;
        self.places.settle(c);
        let connection = &mut self.connections[c];
        connection.step_deadline = Nanos::NEVER;
        if let (0, Some(k)) = (connection.qid, connection.controller) {
            self.restart_keep_alive(k.into());
        }
    }

    /// An authentication failed: that is told after a while, to whoever still asks, and then the connection closes.
    fn fail_auth(&mut self, c: usize, refusal: AuthRefusal) {
        let connection = &mut self.connections[c];
        if matches!(connection.auth.step, Step::HasFailure(_) | Step::Ended) {
            return;
        }
        connection.auth.fail(refusal);
        self.counters.auth_failures += 1;
        self.drop_first(c);
        self.delay_failure(c, FAILURE_DELAY);
    }

    /// Nothing more is taken; what is queued still goes.
    fn leave_after_auth(&mut self, c: usize) {
        self.connections[c].leaves = true;
        self.set_leave_deadline(c);
    }

    /// A failure that waited to be told is due.
    pub(super) fn auth_is_due(&mut self, c: usize) {
        self.connections[c].auth_not_before = Nanos::ZERO;
        self.push(Event::Attend { conn: ConnId(c as u16) });
        self.try_fetch(c);
    }
}

/// The length that an authentication command names, if it is one of ours.
fn checked(sqe: &Sqe) -> Result<u32, Status> {
    let command = AuthCommand::parse(sqe);
    if command.is_nvme() && command.bytes > 0 {
        Ok(command.bytes)
    } else {
        Err(Status::INVALID_FIELD)
    }
}
