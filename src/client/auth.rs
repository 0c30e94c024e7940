//! The host's side of DH-HMAC-CHAP (Base 8.13.5): one queue authenticates, as far as the target asks for it and the options say.

use crate::ClientError;
use crate::initiator::ConnectOptions;
use crate::queue::Queue;
use ibid_chap::{Digest, Done, Exchange, Keys, Role, Secret, Work};
use ibid_wire::nvme_tcp::{
    AUTH_BYTES_MAX, AuthCommand, AuthHash, AuthMessage, AuthOffer, AuthRefusal, DhGroup,
};
use std::fs::File;
use std::io::Read;

/// Room for any message; as much as Linux gives.
const ROOM: u32 = 4096;
/// All that this host can do. What is good enough is the target's to say.
const HASHES: [u8; 3] = [1, 2, 3];
const GROUPS: [u8; 6] = [0, 1, 2, 3, 4, 5];

/// Why an authentication ended, and whether the target has to be told.
enum Stop {
    Client(ClientError),
    Refused(AuthRefusal),
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

fn chance(out: &mut [u8]) -> Result<(), ClientError> {
    let socket = |source| ClientError::Socket { doing: "read /dev/urandom", source };
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(out)).map_err(socket)
}

impl Queue {
    /// Authenticates, and has the target authenticate where there is a secret for that.
    pub(crate) fn authenticate(
        &mut self,
        transaction: u16,
        nqn: &str,
        options: &ConnectOptions,
    ) -> Result<(), ClientError> {
        let secret = options.secret.as_ref().ok_or(ClientError::SecretNeeded)?;
        match self.exchange(transaction, nqn, secret, options) {
            Ok(()) => Ok(()),
            Err(Stop::Client(error)) => Err(error),
            Err(Stop::Refused(refusal)) => {
                let failure = AuthMessage::Failure2 { explanation: refusal as u8 };
                // It may be gone already; what counts is why.
                drop(self.send_message(transaction, &failure));
                Err(ClientError::Authentication(refusal))
            }
        }
    }

    fn exchange(
        &mut self,
        transaction: u16,
        nqn: &str,
        secret: &Secret,
        options: &ConnectOptions,
    ) -> Result<(), Stop> {
        let offer = Some(AuthOffer { hashes: &HASHES, groups: &GROUPS });
        self.send_message(transaction, &AuthMessage::Negotiate { secure_channel: 0, offer })?;
        let buffer = self.receive_message()?;
        let AuthMessage::Challenge { hash, group, seqnum, challenge, value } =
            message(&buffer, transaction)?
        else {
            return Err(Stop::Refused(AuthRefusal::IncorrectMessage));
        };
        let hash = AuthHash::new(hash).ok_or(Stop::Refused(AuthRefusal::HashUnusable))?;
        let group = DhGroup::new(group).ok_or(Stop::Refused(AuthRefusal::GroupUnusable))?;
        if challenge.len() != hash.bytes() || value.is_empty() != (group == DhGroup::Null) {
            return Err(Stop::Refused(AuthRefusal::IncorrectPayload));
        }
        // Also without a group: the challenge and its number are ours.
        let Done::Keys(keys) = Work::Keys { group }.run(chance)? else {
            unreachable!("keys were asked for")
        };
        let Keys { challenge: own, seqnum: own_seqnum, private, public } = keys;
        let agreed = match group {
            DhGroup::Null => None,
            group => match Work::agree(group, hash, private, value).run(chance)? {
                Done::Agreed(Some(agreed)) => Some(agreed),
                Done::Agreed(None) | Done::Keys(_) => {
                    return Err(Stop::Refused(AuthRefusal::IncorrectPayload));
                }
            },
        };
        let host = Exchange {
            hash,
            role: Role::Host,
            challenge,
            agreed: agreed.as_ref(),
            seqnum,
            transaction,
            own_nqn: &options.host_nqn,
            other_nqn: nqn,
        };
        let controller = Exchange {
            role: Role::Controller,
            challenge: &own[..hash.bytes()],
            seqnum: own_seqnum.max(1),
            own_nqn: nqn,
            other_nqn: &options.host_nqn,
            ..host
        };
        let expected: Option<Digest> =
            options.controller_secret.as_ref().map(|secret| controller.response(&secret.key(nqn)));
        let response = host.response(&secret.key(&options.host_nqn));
        let asks = expected.is_some();
        self.send_message(
            transaction,
            &AuthMessage::Reply {
                response: response.bytes(),
                challenge: asks.then_some(controller.challenge),
                seqnum: if asks { controller.seqnum } else { 0 },
                value: public.bytes(),
            },
        )?;
        let buffer = self.receive_message()?;
        let AuthMessage::Success1 { response, .. } = message(&buffer, transaction)? else {
            return Err(Stop::Refused(AuthRefusal::IncorrectMessage));
        };
        let Some(expected) = expected else { return Ok(()) };
        if !response.is_some_and(|response| expected.matches(response)) {
            return Err(Stop::Refused(AuthRefusal::Failed));
        }
        self.send_message(transaction, &AuthMessage::Success2)?;
        Ok(())
    }

    fn send_message(
        &mut self,
        transaction: u16,
        message: &AuthMessage<'_>,
    ) -> Result<(), ClientError> {
        let mut bytes = [0; AUTH_BYTES_MAX];
        let len = message.emit(transaction, &mut bytes);
        let command = AuthCommand::new(len as u32);
        let build = |cid| command.emit_send(cid);
        self.command("authenticate", build, &bytes[..len], 0, &mut Vec::new()).map(drop)
    }

    fn receive_message(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut buffer = vec![0; ROOM as usize];
        let build = |cid| AuthCommand::new(ROOM).emit_receive(cid);
        self.command("authenticate", build, &[], ROOM, &mut buffer)?;
        Ok(buffer)
    }
}

/// The message in a buffer, if it is one of this transaction and no failure.
fn message(buffer: &[u8], transaction: u16) -> Result<AuthMessage<'_>, Stop> {
    let (of, message) =
        AuthMessage::parse_padded(buffer).map_err(|bad| Stop::Refused(bad.refusal))?;
    match message {
        AuthMessage::Failure1 { explanation } => {
            let refusal = AuthRefusal::new(explanation).unwrap_or(AuthRefusal::Failed);
            Err(Stop::Client(ClientError::Authentication(refusal)))
        }
        message if of == transaction => Ok(message),
        _ => Err(Stop::Refused(AuthRefusal::IncorrectMessage)),
    }
}
