//! Target `auth`: authentication messages, right, near right and of any bytes, on several connections of a host that must authenticate,
//! with answers of whoever computes at any time. The host knows the secret, so that every state is reached. Whatever comes: nobody is
//! authenticated who has not proved to know it, on that connection, by that connection's challenge.

use crate::host::Done;
use crate::input::Input;
use crate::shard::Answers;
use crate::world::{
    AUTH_HOST, CONNECTIONS, CONTROLLER_SECRET, HOSTS, NQN, SECRET, World, connect, connect_data_of,
    secret,
};
use ibid_chap::{Digest, Done as Computed, Exchange, Keys, Role, Work};
use ibid_wire::nvme_tcp::{
    AuthCommand, AuthHash, AuthMessage, AuthOffer, CONNECT_AUTH_REQUIRED, Cc, ConnectData, DhGroup,
    Identify, Io, PropertyGet, PropertySet, Sqe, Status, cns, opcode, property,
};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

/// Steps of a script, at most.
const STEPS_MAX: usize = 80;
/// How often a script may agree on keys of a group: that takes milliseconds.
const GROUPS_MAX: usize = 2;
/// S2 of the host.
const SEQNUM: u32 = 77;

/// What the host heard of a challenge.
struct Challenge {
    hash: AuthHash,
    seqnum: u32,
    transaction: u16,
    bytes: Vec<u8>,
    own_value: Vec<u8>,
    agreed: Option<Digest>,
}

/// A connection as the host knows it.
#[derive(Default)]
struct Talk {
    connected: bool,
    /// Of the first Negotiate, and of the first behind an authentication that has ended well: the host may do it again.
    transaction: Option<u16>,
    /// Of every Negotiate: which of them counts depends on what was not heard yet.
    offered: BTreeSet<u16>,
    challenge: Option<Challenge>,
    /// C2 and S2 of the first Reply, where it asked for an answer.
    asked: Option<(Vec<u8>, u32)>,
    /// A Reply with the right response was sent, to the challenge that was heard last.
    proved: bool,
    /// … or to one before it: the queue has been opened, or may have been.
    opened: bool,
    /// An authentication has ended well, or needs but a Success2.
    heard_success: Option<Ending>,
    /// Any Reply was sent, right or wrong; another one proves nothing.
    replied: bool,
}

/// How an authentication ends well.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Done,
    AwaitsSuccess2,
}

#[derive(Clone, Copy)]
enum Command {
    Connect,
    Send,
    Receive,
    /// What has an effect only behind authentication.
    Probe,
}

#[derive(Default)]
struct Model {
    talks: [Talk; CONNECTIONS],
    commands: BTreeMap<u16, Command>,
    cid: u16,
    cntlid: u16,
    /// Challenges that were heard: none twice (AUTH-2).
    heard: BTreeSet<Vec<u8>>,
    seqnums: BTreeSet<u32>,
    groups: usize,
    proofs: u64,
    /// The last message that was sent on any connection, to be sent again.
    last: Vec<u8>,
}

/// Runs a script.
pub fn script(bytes: &[u8]) {
    parse(bytes);
    let mut input = Input::new(bytes);
    let flags = input.u8();
    play(flags, input).finish(flags & 2 != 0);
}

fn play(flags: u8, mut input: Input<'_>) -> World {
    let answers = if flags & 1 == 0 { Answers::AtEnd } else { Answers::ByScript };
    let mut world = World::new(answers);
    let mut model = Model { cntlid: ConnectData::CNTLID_ANY, ..Model::default() };
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let (step, place) = (input.u8(), input.u8() as usize % 3);
        model.step(&mut world, step & 15, place, &mut input);
        if step & 0x40 == 0 {
            world.read_all();
        }
        model.hear(&mut world);
        world.audit();
    }
    world
}

/// The parser by itself: what it takes means the same when it is written again.
fn parse(bytes: &[u8]) {
    for (transaction, message) in
        [AuthMessage::parse(bytes), AuthMessage::parse_padded(bytes)].into_iter().flatten()
    {
        if matches!(message, AuthMessage::Negotiate { offer: None, .. }) {
            continue;
        }
        let again = emit(transaction, &message);
        assert!(AuthMessage::parse(&again) == Ok((transaction, message)), "{message:?} changes");
    }
}

fn emit(transaction: u16, message: &AuthMessage<'_>) -> Vec<u8> {
    let mut bytes = vec![0; message.bytes()];
    message.emit(transaction, &mut bytes);
    bytes
}

fn chance(out: &mut [u8]) -> Result<(), Infallible> {
    out.fill(0x5a);
    Ok(())
}

impl Model {
    fn step(&mut self, world: &mut World, kind: u8, place: usize, input: &mut Input<'_>) {
        match kind {
            0 | 1 => self.connect(world, place, input),
            2 | 3 => {
                let (what, transaction, odd) = (input.u8(), input.u16(), input.u8());
                let hashes = [&[1, 2, 3][..], &[3], &[2], &[0, 9, 1]][usize::from(what & 3)];
                let mut groups = [&[0, 1, 2][..], &[1], &[0], &[9, 4]][usize::from(what >> 2 & 3)];
                if self.groups >= GROUPS_MAX && groups == [1] {
                    groups = &[0];
                }
                let offer = AuthOffer { hashes, groups };
                let secure_channel = if odd == 1 { 1 } else { 0 };
                let offer = (odd != 2).then_some(offer);
                let message = AuthMessage::Negotiate { secure_channel, offer };
                self.send(world, place, &emit(transaction, &message), input);
            }
            4 | 5 => self.reply(world, place, input),
            6 | 7 => {
                let room = input.of(&[4096, 4096, 1024, 300, 64, 20, 16, 8, 1, 0]);
                let sqe = AuthCommand::new(room).emit_receive(0);
                self.ask(world, place, Command::Receive, sqe, &[]);
            }
            8 => {
                let transaction = self.talks[place].transaction.unwrap_or(0);
                self.send(world, place, &emit(transaction, &AuthMessage::Success2), input);
            }
            9 => {
                let explanation = input.u8();
                let transaction = self.talks[place].transaction.unwrap_or(0);
                let message = AuthMessage::Failure2 { explanation };
                self.send(world, place, &emit(transaction, &message), input);
            }
            10 => {
                let count = usize::from(input.u8());
                let bytes = input.take(count).to_vec();
                self.send(world, place, &bytes, input);
            }
            // What was said before, there or elsewhere.
            11 => {
                let last = self.last.clone();
                self.send(world, place, &last, input);
            }
            12 => {
                let read = Io { slba: 0, blocks: 1, fua: false };
                let enable = PropertySet {
                    wide: Some(false),
                    offset: property::CC,
                    value: Cc::ENABLED.0.into(),
                };
                let sqe = input.of(&[
                    enable.emit(0),
                    Identify::of(cns::CONTROLLER, 0).emit(0),
                    PropertyGet { wide: Some(true), offset: property::CAP }.emit(0),
                    Sqe::new(opcode::KEEP_ALIVE, 0, 0),
                    read.emit(opcode::READ, 0, 1),
                    Sqe::new(opcode::FLUSH, 0, 1),
                ]);
                self.ask(world, place, Command::Probe, sqe, &[]);
            }
            13 => world.pass(u64::from(input.u8()) * 50),
            14 => world.answer(input),
            _ => {
                world.close(place);
                self.talks[place] = Talk::default();
            }
        }
    }

    /// A connection in this place, if nobody is there, and its Connect.
    fn connect(&mut self, world: &mut World, place: usize, input: &mut Input<'_>) {
        let (qid, digests) = (u16::from(input.u8() & 1), input.u8());
        if !world.is_open(place) {
            // Places are given in an order of their own: whoever gets one is the one that is meant.
            let Some(place) = world.initialised(0, digests & 3) else { return };
            if let Some(gone) = world.evicted.take() {
                self.talks[gone] = Talk::default();
            }
            let cntlid = if qid == 0 { ConnectData::CNTLID_ANY } else { self.cntlid };
            let data = connect_data_of(AUTH_HOST, cntlid);
            self.ask(world, place, Command::Connect, connect(qid, 120_000).emit(0), &data);
        }
    }

    fn ask(&mut self, world: &mut World, place: usize, command: Command, sqe: Sqe, data: &[u8]) {
        self.cid += 1;
        self.commands.insert(self.cid, command);
        world.ask(place, &Sqe { cid: self.cid, ..sqe }, data);
    }

    /// Sends a message, with a byte of it changed where the script says so.
    fn send(&mut self, world: &mut World, place: usize, message: &[u8], input: &mut Input<'_>) {
        let mut message = message.to_vec();
        let (change, bits) = (input.u8(), input.u8());
        if bits != 0 && !message.is_empty() {
            let at = usize::from(change) % message.len();
            message[at] ^= bits;
        }
        self.note(place, &message);
        let sqe = AuthCommand::new(message.len() as u32).emit_send(0);
        self.ask(world, place, Command::Send, sqe, &message);
        self.last = message;
    }

    /// What a message means: the first Reply behind a challenge proves the secret, or does not.
    fn note(&mut self, place: usize, message: &[u8]) {
        let talk = &mut self.talks[place];
        match AuthMessage::parse(message) {
            Ok((transaction, AuthMessage::Negotiate { offer, .. })) => {
                if talk.heard_success == Some(Ending::Done) {
                    talk.heard_success = None;
                    talk.transaction = None;
                }
                talk.transaction.get_or_insert(transaction);
                talk.offered.insert(transaction);
                self.groups += usize::from(offer.is_some_and(|offer| !offer.groups.contains(&0)));
            }
            Ok((transaction, AuthMessage::Reply { response, challenge, seqnum, .. })) => {
                let Some(heard) = &talk.challenge else { return };
                let right = heard.exchange(Role::Host, transaction, &heard.bytes, heard.seqnum);
                let right = right.response(&secret(SECRET).key(HOSTS[AUTH_HOST]));
                if !std::mem::replace(&mut talk.replied, true) {
                    talk.asked = challenge.map(|challenge| (challenge.to_vec(), seqnum));
                    talk.proved = heard.transaction == transaction && right.bytes() == response;
                    talk.opened |= talk.proved;
                    self.proofs += u64::from(talk.proved);
                }
            }
            Ok((_, AuthMessage::Success2))
                if talk.heard_success == Some(Ending::AwaitsSuccess2) =>
            {
                talk.heard_success = Some(Ending::Done);
            }
            _ => {}
        }
    }

    fn reply(&mut self, world: &mut World, place: usize, input: &mut Input<'_>) {
        let (how, mutual) = (input.u8() & 15, input.u8() & 1 != 0);
        let Some(heard) = &self.talks[place].challenge else { return };
        let transaction = self.talks[place].transaction.unwrap_or(0) ^ u16::from(how == 1);
        let known = if how == 2 { CONTROLLER_SECRET } else { SECRET };
        let role = if how == 3 { Role::Controller } else { Role::Host };
        let seqnum = heard.seqnum ^ u32::from(how == 4);
        let exchange = heard.exchange(role, transaction, &heard.bytes, seqnum);
        let digest = exchange.response(&secret(known).key(HOSTS[AUTH_HOST]));
        let mut response = digest.bytes().to_vec();
        let mut own = vec![0x33; heard.bytes.len()];
        let mut value = heard.own_value.clone();
        match how {
            // Its own challenge given back, and a response of a length that fits no hash.
            5 => own.clone_from(&heard.bytes),
            6 => response.truncate(16),
            7 => value.push(1),
            8 => value.clear(),
            9 => value.fill(0),
            _ => {}
        }
        own.truncate(response.len());
        let seqnum = if how == 10 || !mutual { 0 } else { SEQNUM };
        let challenge = mutual.then_some(own.as_slice());
        let message = AuthMessage::Reply { response: &response, challenge, seqnum, value: &value };
        let message = emit(transaction, &message);
        self.send(world, place, &message, input);
    }

    fn hear(&mut self, world: &mut World) {
        for place in 0..CONNECTIONS {
            let done = world.host(place).map(|host| std::mem::take(&mut host.done));
            for done in done.unwrap_or_default() {
                let command = self.commands.remove(&done.cid);
                self.ended(place, command.expect("every command was noted"), &done);
            }
            if !world.is_open(place) {
                self.talks[place] = Talk::default();
            }
        }
        let authenticated = world.frontend.counters().authenticated;
        assert!(
            authenticated <= self.proofs,
            "{authenticated} connections are authenticated, and {} have proved to know the secret",
            self.proofs
        );
    }

    fn ended(&mut self, place: usize, command: Command, done: &Done) {
        let talk = &mut self.talks[place];
        let is_success = done.status == Status::SUCCESS;
        match command {
            Command::Connect if is_success => {
                assert!(done.result & CONNECT_AUTH_REQUIRED != 0, "nothing is asked of the host");
                talk.connected = true;
                self.cntlid = done.result as u16;
            }
            Command::Probe => {
                let refusal = if talk.connected {
                    Status::AUTHENTICATION_REQUIRED
                } else {
                    Status::SEQUENCE_ERROR
                };
                let is_refused = done.status == refusal;
                assert!(is_refused || talk.opened, "AUTH-1: {} before the proof", done.status);
            }
            Command::Receive if is_success => self.message(place, &done.data),
            Command::Connect | Command::Send | Command::Receive => {}
        }
    }

    /// A message of the target.
    fn message(&mut self, place: usize, bytes: &[u8]) {
        let talk = &mut self.talks[place];
        match AuthMessage::parse_padded(bytes).expect("a target's messages are right") {
            (transaction, AuthMessage::Challenge { hash, group, seqnum, challenge, value }) => {
                assert!(talk.offered.contains(&transaction), "a challenge of another transaction");
                assert!(seqnum != 0 && self.seqnums.insert(seqnum), "AUTH-2: S1 {seqnum} again");
                assert!(self.heard.insert(challenge.to_vec()), "AUTH-2: a challenge comes again");
                let hash = AuthHash::new(hash).expect("a hash function that there is");
                let group = DhGroup::new(group).expect("a group that there is");
                let (own_value, agreed) = agree(hash, group, value);
                let bytes = challenge.to_vec();
                talk.challenge =
                    Some(Challenge { hash, seqnum, transaction, bytes, own_value, agreed });
                talk.replied = false;
                talk.proved = false;
            }
            (transaction, AuthMessage::Success1 { response, .. }) => {
                assert!(talk.proved, "AUTH-2: a success without a proof");
                let Some(heard) = &talk.challenge else { panic!("a success without a challenge") };
                let asked = talk.asked.take();
                let ending = if asked.is_some() { Ending::AwaitsSuccess2 } else { Ending::Done };
                talk.heard_success = Some(ending);
                assert!(response.is_some() == asked.is_some(), "an answer that nobody asked for");
                if let (Some(response), Some((asked, seqnum))) = (response, asked) {
                    let key = secret(CONTROLLER_SECRET).key(NQN);
                    let right = heard.exchange(Role::Controller, transaction, &asked, seqnum);
                    assert!(right.response(&key).matches(response), "the target's proof is wrong");
                }
            }
            (_, AuthMessage::Failure1 { .. }) => {}
            (_, other) => panic!("a target says {other:?}"),
        }
    }
}

impl Challenge {
    fn exchange<'a>(
        &'a self,
        role: Role,
        transaction: u16,
        challenge: &'a [u8],
        seqnum: u32,
    ) -> Exchange<'a> {
        let names = [HOSTS[AUTH_HOST], NQN];
        let (own_nqn, other_nqn) = match role {
            Role::Host => (names[0], names[1]),
            Role::Controller => (names[1], names[0]),
        };
        let agreed = self.agreed.as_ref();
        Exchange {
            hash: self.hash,
            role,
            challenge,
            agreed,
            seqnum,
            transaction,
            own_nqn,
            other_nqn,
        }
    }
}

/// The host's value for a group, and what is agreed.
fn agree(hash: AuthHash, group: DhGroup, value: &[u8]) -> (Vec<u8>, Option<Digest>) {
    if group == DhGroup::Null {
        return (Vec::new(), None);
    }
    let keys = (Work::Keys { group }).run(chance);
    let Ok(Computed::Keys(Keys { private, public, .. })) = keys else {
        panic!("there is chance to be had");
    };
    let Ok(Computed::Agreed(agreed)) = Work::agree(group, hash, private, value).run(chance) else {
        panic!("a target's value is one");
    };
    (public.bytes().to_vec(), agreed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_reach_the_end_of_an_authentication_and_its_failures() {
        let came = |name: &str| {
            let seeds = crate::seeds::seeds("auth");
            let (_, bytes) = seeds.iter().find(|(seed, _)| *seed == name).unwrap();
            let mut input = Input::new(bytes);
            let counters = play(input.u8(), input).frontend.counters();
            (counters.authenticated, counters.auth_failures)
        };
        for seed in ["seed-once", "seed-mutual", "seed-group", "seed-late"] {
            assert_eq!(came(seed), (1, 0), "{seed}");
        }
        assert_eq!(came("seed-io-queue"), (2, 0));
        assert_eq!(came("seed-again"), (3, 0));
        assert_eq!(came("seed-again-wrong"), (1, 1));
        for seed in ["seed-wrong", "seed-reflected", "seed-other", "seed-order", "seed-give-up"] {
            assert_eq!(came(seed), (0, 1), "{seed}");
        }
        assert_eq!(came("seed-replay"), (1, 1));
    }
}
