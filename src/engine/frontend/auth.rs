//! In-band authentication of one connection: DH-HMAC-CHAP as the controller speaks it (Base 8.13.5). What a message does in which state,
//! and nothing else: commands, deadlines and the way to whoever computes are in `auth_commands`.
//!
//! AUTH-1  until a connection has authenticated, and from a failure on, no command but Authentication Send and Receive has an effect.
//! AUTH-2  every challenge is fresh, is answered at most once, and never stands for another transaction, connection or role.

use super::config::{AuthConfig, HostAuth};
use core::mem;
use ibid_chap::{Digest, Done, Exchange, Key, Keys, Private, Public, Role, Work};
use ibid_wire::nvme_tcp::{
    AUTH_BYTES_MAX, AuthHash, AuthMessage, AuthOffer, AuthRefusal, BadMessage, DhGroup,
    HASH_BYTES_MAX,
};

/// How far an authentication is. Named for what it awaits, but for those that have something to be fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Nothing: it is done, or was never asked for.
    Open,
    AwaitsNegotiate,
    /// The challenge, from whoever computes.
    AwaitsKeys,
    /// The challenge is there to be fetched.
    HasChallenge,
    AwaitsReply,
    /// What was agreed, from whoever computes.
    AwaitsAgreed,
    /// Success is there to be fetched.
    HasSuccess,
    AwaitsSuccess2,
    /// A failure is there to be fetched.
    HasFailure(AuthRefusal),
    /// The failure is told, or the host has failed us.
    Ended,
}

/// What follows from a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Nothing, until the host asks.
    Nothing,
    /// There is something to compute.
    Compute,
    /// The host is authenticated, and so are we.
    Opened,
    /// The host does not believe us.
    Close,
}

/// The keys of a host that must authenticate, made once at start.
pub(super) struct HostKeys {
    host: Key,
    controller: Option<Key>,
}

impl HostKeys {
    pub(super) fn new(auth: &HostAuth, subsystem: &str) -> Self {
        Self {
            host: auth.secret.key(&auth.nqn),
            controller: auth.controller_secret.as_ref().map(|secret| secret.key(subsystem)),
        }
    }
}

/// Who talks to whom, by which keys.
pub(super) struct Parties<'a> {
    pub(super) keys: &'a HostKeys,
    pub(super) host: &'a str,
    pub(super) subsystem: &'a str,
}

/// The state of one connection.
pub(super) struct Auth {
    pub(super) step: Step,
    /// Nothing was asked for, or it has authenticated and may do so again, which takes nothing away while it lasts.
    serves: bool,
    /// It had to authenticate.
    must: bool,
    /// The place of its host among those that must authenticate.
    pub(super) host: usize,
    /// Which authentication of this place it is, so that a late answer finds nothing.
    pub(super) generation: u32,
    /// What is to be computed, until it is taken.
    work: Option<Work>,
    transaction: u16,
    hash: AuthHash,
    group: DhGroup,
    /// S1.
    seqnum: u32,
    /// C1, of which the hash function's length counts.
    challenge: [u8; HASH_BYTES_MAX],
    private: Option<Private>,
    public: Option<Public>,
    /// R1, until what was agreed is there to check it by.
    response: [u8; HASH_BYTES_MAX],
    /// C2 and S2, where the host asks us to authenticate.
    asked: Option<([u8; HASH_BYTES_MAX], u32)>,
    /// R2.
    answer: Option<Digest>,
    /// The message that is on its way out.
    message: [u8; AUTH_BYTES_MAX],
    message_bytes: usize,
}

impl Auth {
    pub(super) fn new() -> Self {
        Self {
            step: Step::Open,
            serves: true,
            must: false,
            host: 0,
            generation: 0,
            work: None,
            transaction: 0,
            hash: AuthHash::Sha256,
            group: DhGroup::Null,
            seqnum: 0,
            challenge: [0; HASH_BYTES_MAX],
            private: None,
            public: None,
            response: [0; HASH_BYTES_MAX],
            asked: None,
            answer: None,
            message: [0; AUTH_BYTES_MAX],
            message_bytes: 0,
        }
    }

    /// Nothing is asked for. Forgets everything that was, and what is still being computed.
    pub(super) fn reset(&mut self) {
        self.finish();
        self.must = false;
        self.message_bytes = 0;
    }

    /// It is done: the host is who it says.
    fn finish(&mut self) {
        self.forget();
        self.step = Step::Open;
        self.serves = true;
    }

    /// The connection must authenticate as this host.
    pub(super) fn begin(&mut self, host: usize) {
        self.reset();
        self.host = host;
        self.must = true;
        self.serves = false;
        self.transaction = 0;
        self.step = Step::AwaitsNegotiate;
    }

    /// A host that has authenticated does so again (Base 8.13.5). False where the message is none to begin that with.
    pub(super) fn begin_again(
        &mut self,
        message: &Result<(u16, AuthMessage<'_>), BadMessage>,
    ) -> bool {
        let begins = matches!(message, Ok((_, AuthMessage::Negotiate { .. })));
        if !self.must || !begins {
            return false;
        }
        self.step = Step::AwaitsNegotiate;
        true
    }

    /// Whether commands are taken.
    pub(super) const fn is_open(&self) -> bool {
        self.serves
    }

    /// Whether none is under way.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.step, Step::Open)
    }

    /// Whether it may authenticate, or has to.
    pub(super) const fn authenticates(&self) -> bool {
        self.must
    }

    /// What is to be computed, once.
    pub(super) fn take_work(&mut self) -> Option<Work> {
        self.work.take()
    }

    /// It failed, and whatever was agreed on is forgotten. The first reason counts.
    pub(super) fn fail(&mut self, refusal: AuthRefusal) {
        self.forget();
        self.serves = false;
        if !matches!(self.step, Step::HasFailure(_) | Step::Ended) {
            self.step = Step::HasFailure(refusal);
        }
    }

    fn forget(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.work = None;
        self.private = None;
        self.public = None;
        self.asked = None;
        self.answer = None;
    }

    /// A message came, good or not.
    pub(super) fn take(
        &mut self,
        message: Result<(u16, AuthMessage<'_>), BadMessage>,
        policy: &AuthConfig,
        parties: &Parties<'_>,
    ) -> Result<Next, AuthRefusal> {
        let (transaction, message) = message.map_err(|bad| {
            // A failure names the transaction that failed, also one that never came to be.
            if self.step == Step::AwaitsNegotiate {
                self.transaction = bad.transaction.unwrap_or(0);
            }
            bad.refusal
        })?;
        match (self.step, message) {
            (Step::AwaitsNegotiate, message) => {
                self.transaction = transaction;
                let AuthMessage::Negotiate { secure_channel, offer } = message else {
                    return Err(AuthRefusal::IncorrectMessage);
                };
                self.choose(secure_channel, offer, policy)?;
                self.work = Some(Work::Keys { group: self.group });
                self.step = Step::AwaitsKeys;
                Ok(Next::Compute)
            }
            _ if transaction != self.transaction => Err(AuthRefusal::IncorrectMessage),
            (Step::AwaitsReply, AuthMessage::Reply { response, challenge, seqnum, value }) => {
                self.reply(response, challenge.map(|challenge| (challenge, seqnum)), value)?;
                match self.group {
                    DhGroup::Null => self.verify(None, parties).map(|()| Next::Nothing),
                    group => {
                        let private =
                            self.private.take().expect("a challenge of a group has an exponent");
                        self.work = Some(Work::agree(group, self.hash, private, value));
                        self.step = Step::AwaitsAgreed;
                        Ok(Next::Compute)
                    }
                }
            }
            (Step::AwaitsSuccess2, AuthMessage::Success2) => {
                self.finish();
                Ok(Next::Opened)
            }
            (Step::AwaitsReply | Step::AwaitsSuccess2, AuthMessage::Failure2 { .. }) => {
                self.forget();
                self.serves = false;
                self.step = Step::Ended;
                Ok(Next::Close)
            }
            _ => Err(AuthRefusal::IncorrectMessage),
        }
    }

    /// Chooses from what is offered, in our order: a host that could choose could be made to choose badly.
    fn choose(
        &mut self,
        secure_channel: u8,
        offer: Option<AuthOffer<'_>>,
        policy: &AuthConfig,
    ) -> Result<(), AuthRefusal> {
        if secure_channel != 0 {
            return Err(AuthRefusal::SecureChannel);
        }
        let offer = offer.ok_or(AuthRefusal::ProtocolUnusable)?;
        self.hash = *policy
            .hashes
            .iter()
            .find(|hash| offer.hashes.contains(&(**hash as u8)))
            .ok_or(AuthRefusal::HashUnusable)?;
        self.group = *policy
            .groups
            .iter()
            .find(|group| offer.groups.contains(&(**group as u8)))
            .ok_or(AuthRefusal::GroupUnusable)?;
        Ok(())
    }

    /// Takes what stands in a Reply, if it can be one to our challenge.
    fn reply(
        &mut self,
        response: &[u8],
        asked: Option<(&[u8], u32)>,
        value: &[u8],
    ) -> Result<(), AuthRefusal> {
        let bytes = self.hash.bytes();
        let fits = match self.group {
            DhGroup::Null => value.is_empty(),
            // It may come without its leading zeroes.
            group => (1..=group.bytes()).contains(&value.len()),
        };
        if response.len() != bytes || !fits {
            return Err(AuthRefusal::IncorrectPayload);
        }
        self.response[..bytes].copy_from_slice(response);
        if let Some((challenge, seqnum)) = asked {
            if seqnum == 0 {
                return Err(AuthRefusal::IncorrectPayload);
            }
            // Our own challenge given back: whoever does that wants us to answer it in another's place.
            if challenge == &self.challenge[..bytes] {
                return Err(AuthRefusal::Failed);
            }
            let mut own = [0; HASH_BYTES_MAX];
            own[..bytes].copy_from_slice(challenge);
            self.asked = Some((own, seqnum));
        }
        Ok(())
    }

    /// Something was computed; `None`: it could not be.
    pub(super) fn computed(
        &mut self,
        done: Option<Done>,
        seqnum_next: &mut u32,
        parties: &Parties<'_>,
    ) -> Result<(), AuthRefusal> {
        match (self.step, done) {
            (Step::AwaitsKeys, Some(Done::Keys(keys))) => {
                let Keys { challenge, seqnum, private, public } = keys;
                // 0 stands for none (Base 8.13.5.4), before the first as after the last.
                if *seqnum_next == 0 {
                    *seqnum_next = seqnum.max(1);
                }
                self.seqnum = *seqnum_next;
                *seqnum_next = seqnum_next.checked_add(1).unwrap_or(1);
                self.challenge = challenge;
                self.private = Some(private);
                self.public = Some(public);
                self.step = Step::HasChallenge;
                Ok(())
            }
            (Step::AwaitsAgreed, Some(Done::Agreed(Some(agreed)))) => {
                self.verify(Some(&agreed), parties)
            }
            // The host's value was none.
            (Step::AwaitsAgreed, Some(Done::Agreed(None))) => Err(AuthRefusal::IncorrectPayload),
            _ => Err(AuthRefusal::Failed),
        }
    }

    /// Checks R1, and makes R2 if that is asked for.
    fn verify(
        &mut self,
        agreed: Option<&Digest>,
        parties: &Parties<'_>,
    ) -> Result<(), AuthRefusal> {
        let bytes = self.hash.bytes();
        let exchange = Exchange {
            hash: self.hash,
            role: Role::Host,
            challenge: &self.challenge[..bytes],
            agreed,
            seqnum: self.seqnum,
            transaction: self.transaction,
            own_nqn: parties.host,
            other_nqn: parties.subsystem,
        };
        if !exchange.response(&parties.keys.host).matches(&self.response[..bytes]) {
            return Err(AuthRefusal::Failed);
        }
        if let Some((challenge, seqnum)) = &self.asked {
            let key = parties.keys.controller.as_ref().ok_or(AuthRefusal::Failed)?;
            let exchange = Exchange {
                role: Role::Controller,
                challenge: &challenge[..bytes],
                seqnum: *seqnum,
                own_nqn: parties.subsystem,
                other_nqn: parties.host,
                ..exchange
            };
            self.answer = Some(exchange.response(key));
        }
        self.step = Step::HasSuccess;
        Ok(())
    }

    /// The host fetches what there is for it, into `room` bytes. `Ok(None)`: not yet. `Err`: there is nothing that it may fetch.
    pub(super) fn fetch(&mut self, room: usize) -> Result<Option<Fetched>, AuthRefusal> {
        let bytes = self.hash.bytes();
        let message = match self.step {
            Step::AwaitsKeys | Step::AwaitsAgreed => return Ok(None),
            Step::HasChallenge => AuthMessage::Challenge {
                hash: self.hash as u8,
                group: self.group as u8,
                seqnum: self.seqnum,
                challenge: &self.challenge[..bytes],
                value: self.public.as_ref().map_or(&[], Public::bytes),
            },
            Step::HasSuccess => AuthMessage::Success1 {
                // Linux wants it also where there is no response.
                hash_bytes: bytes as u8,
                response: self.answer.as_ref().map(Digest::bytes),
            },
            Step::HasFailure(refusal) => AuthMessage::Failure1 { explanation: refusal as u8 },
            Step::Open
            | Step::AwaitsNegotiate
            | Step::AwaitsReply
            | Step::AwaitsSuccess2
            | Step::Ended => return Err(AuthRefusal::IncorrectMessage),
        };
        if message.bytes() > room {
            return Ok(Some(Fetched::NoRoom));
        }
        self.message_bytes = message.emit(self.transaction, &mut self.message);
        let is_mutual = self.answer.is_some();
        match mem::replace(&mut self.step, Step::Ended) {
            Step::HasChallenge => self.step = Step::AwaitsReply,
            Step::HasSuccess if is_mutual => self.step = Step::AwaitsSuccess2,
            Step::HasSuccess => self.finish(),
            _ => return Ok(Some(Fetched::Failure)),
        }
        Ok(Some(Fetched::Message))
    }

    /// The message that was fetched last.
    pub(super) fn message(&self) -> &[u8] {
        &self.message[..self.message_bytes]
    }
}

/// What became of a fetch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fetched {
    /// The message does not fit, and stays.
    NoRoom,
    /// The message is on its way.
    Message,
    /// The last message is on its way.
    Failure,
}
