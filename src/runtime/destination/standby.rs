//! Hosts at the destination: they may connect, see its volumes and that they are inaccessible here, and wait for that to change.
//!
//! DST-3  the destination takes data from its source and from no client: a command of a host ends in the target, and nothing of it
//!        reaches the log, a volume, or the arena.

use crate::auth::AuthRoom;
use crate::clients::{Clients, Serve};
use ibid_driver::Streams;
use ibid_engine::frontend::{AnaState, Event, TargetConfig};
use ibid_units::Nanos;
use std::sync::Arc;

/// How often sockets are looked at while nothing comes from them: a look is a system call, and hosts have no hurry here.
const LOOK_EVERY: Nanos = Nanos::from_millis(1);

/// The target of a node that is not the path to its volumes.
pub(super) struct Standby<S> {
    clients: Clients,
    streams: S,
    /// When sockets are looked at next.
    look_at: Nanos,
    /// The time of the last turn.
    now: Nanos,
    stopping: bool,
}

/// What is not the driver's: it calls back.
struct Taker<'a> {
    clients: &'a mut Clients,
    stopping: bool,
}

impl Serve for Taker<'_> {
    fn clients(&mut self) -> &mut Clients {
        self.clients
    }

    fn takes_clients(&self) -> bool {
        !self.stopping
    }

    fn client_event(&mut self, _now: Nanos, event: Event) {
        panic!("DST-3: a host's command has come past the target of a destination: {event:?}");
    }
}

impl<S: Streams> Standby<S> {
    pub(super) fn new(config: TargetConfig, streams: S) -> Self {
        let config = TargetConfig { access: AnaState::Inaccessible, ..config };
        Self {
            clients: Clients::new(config),
            streams,
            look_at: Nanos::ZERO,
            now: Nanos::ZERO,
            stopping: false,
        }
    }

    pub(super) fn clients(&self) -> &Clients {
        &self.clients
    }

    pub(super) fn authenticate_in(&mut self, room: Arc<AuthRoom>) {
        self.clients.auth = Some(room);
    }

    pub(super) fn streams(&self) -> &S {
        &self.streams
    }

    fn split(&mut self) -> (Taker<'_>, &mut S) {
        let Self { clients, streams, stopping, .. } = self;
        (Taker { clients, stopping: *stopping }, streams)
    }

    /// Answers hosts; true if there was anything to do. Without connections it is a comparison of times.
    pub(super) fn turn(&mut self, now: Nanos) -> bool {
        self.now = now;
        let mut busy = false;
        if now >= self.look_at {
            let (mut taker, streams) = self.split();
            busy = taker.poll_clients(now, Nanos::ZERO, streams);
            // What has come may be half of an exchange.
            self.look_at = if busy { now } else { now.after(LOOK_EVERY) };
        }
        if self.clients.is_empty() {
            return busy;
        }
        let (mut taker, streams) = self.split();
        busy |= taker.receive_clients(now, streams);
        taker.tick_clients(now);
        busy |= taker.send_clients(now, streams);
        busy
    }

    /// Waits for hosts, at most `span`.
    pub(super) fn wait(&mut self, span: Nanos) {
        let now = self.now;
        let (mut taker, streams) = self.split();
        taker.poll_clients(now, span, streams);
    }

    /// Takes no new connection from now on.
    pub(super) fn begin_stop(&mut self) {
        self.stopping = true;
    }

    /// Ends all connections.
    pub(super) fn close(&mut self) {
        let now = self.now;
        let (mut taker, streams) = self.split();
        taker.close_clients(now, streams);
    }
}
