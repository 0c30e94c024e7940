//! A session's channel and what is counted of frames that do not pass, the same at both ends.

use crate::snapshot::SecurityCounters;
use ibid_secure::{Channel, Encryption, Limits, NotHeard, NotOpened, Security, SessionKeys, Side};
use ibid_wire::peer::Envelope;

/// Whose queue a channel is: a node has one shard.
const SHARD: u16 = 0;

/// The keys of the session that lives, if there is one.
#[derive(Debug)]
pub(crate) struct Secured {
    side: Side,
    encryption: Encryption,
    limits: Limits,
    channel: Option<Channel>,
    /// A frame of the other end was opened with these keys: it has them.
    confirmed: bool,
    pub(crate) counters: SecurityCounters,
}

impl Secured {
    pub(crate) fn new(security: &Security, side: Side) -> Self {
        let Security { encryption, limits, .. } = *security;
        let encrypted = encryption == Encryption::Full;
        let counters = SecurityCounters { encrypted, ..SecurityCounters::default() };
        Self { side, encryption, limits, channel: None, confirmed: false, counters }
    }

    /// From now on frames are those of a session with these keys.
    pub(crate) fn begin(&mut self, keys: &SessionKeys) {
        self.counters.handshakes += 1;
        self.confirmed = false;
        self.channel = Some(Channel::new(keys, self.side, SHARD, self.encryption, self.limits));
    }

    /// The session is over, and so are its keys.
    pub(crate) fn end(&mut self) {
        self.channel = None;
        self.confirmed = false;
    }

    /// What frames are sealed with; `None` without a session, and where it may have no more of them.
    pub(crate) fn sealer(&mut self) -> Option<&mut Channel> {
        self.channel.as_mut().filter(|channel| channel.may_seal())
    }

    /// Whether the other end has shown that it has this session's keys.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// Whether the session's keys have been used as much as they may be: another session is wanted.
    pub(crate) fn is_used_up(&self) -> bool {
        self.channel.as_ref().is_some_and(|channel| !channel.may_seal() || channel.is_retired())
    }

    pub(crate) fn encrypts(&self) -> bool {
        self.encryption == Encryption::Full
    }

    /// Opens a frame of the session that lives.
    pub(crate) fn open(&mut self, envelope: &Envelope, datagram: &mut [u8]) -> bool {
        let Some(channel) = &mut self.channel else {
            self.counters.strange += 1;
            return false;
        };
        match channel.open(envelope, datagram) {
            Ok(()) => {
                self.confirmed = true;
                return true;
            }
            Err(NotOpened::Replayed | NotOpened::TooOld) => self.counters.replayed += 1,
            Err(NotOpened::Generation | NotOpened::Retired) => self.counters.strange += 1,
            Err(NotOpened::Tag) => self.counters.failed += 1,
        }
        false
    }

    /// Counts a message of a handshake that was not heard.
    pub(crate) fn not_heard(&mut self, why: NotHeard) {
        match why {
            NotHeard::Strange => self.counters.strange += 1,
            NotHeard::Gate | NotHeard::Noise => self.counters.hellos_failed += 1,
            NotHeard::Limited => self.counters.hellos_limited += 1,
        }
    }

    /// The counters, with what the channel knows.
    pub(crate) fn counted(&self) -> SecurityCounters {
        let generations = self.channel.as_ref().map_or([0; 2], Channel::generations);
        SecurityCounters { generations, ..self.counters }
    }
}
