//! A target in memory, with its hosts, its shard and its clock: what every script drives. Holds the target to what must be true
//! whatever hosts send, and at the end to three things: time ends everything, nothing is left, and a well-behaved host is served.

use crate::host::{Host, Said, by_transport, in_capsule, pattern};
use crate::input::Input;
use crate::shard::{Answers, Shard, TRANSFER, VOLUME_BYTES, VOLUMES};
use ibid_chap::Secret;
use ibid_engine::frontend::{
    AnaState, AuthConfig, ConnId, Event, Frontend, HostAuth, Limits, NamespaceConfig, Piece,
    PieceList, ReceivePlan, TargetConfig,
};
use ibid_units::{Nanos, VolumeId};
use ibid_wire::nvme_tcp::{
    AuthHash, Cc, Connect, ConnectData, DataPdu, DhGroup, Io, PropertySet, Sqe, Status, opcode,
    property, put_nqn,
};
use std::net::{IpAddr, Ipv4Addr};

/// The subsystem.
pub const NQN: &str = "nqn.2014-08.org.example:disk";
/// Hosts that may connect.
pub const HOSTS: [&str; 3] =
    ["nqn.2014-08.org.example:a", "nqn.2014-08.org.example:b", "nqn.2014-08.org.example:c"];
/// The one of them that must authenticate.
pub const AUTH_HOST: usize = 2;
/// What it proves to know.
pub const SECRET: &str = "DHHC-1:01:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+KfiaR:";
/// What it can ask the target to prove.
pub const CONTROLLER_SECRET: &str =
    "DHHC-1:02:ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1+f4CBgoOEhYaHiImKi4yNjo+QkZKTvGwQfg==:";
/// Connections, at most.
pub const CONNECTIONS: usize = 6;
/// Controllers, at most.
pub const CONTROLLERS: u16 = 3;
/// I/O queues of a controller, at most.
pub const IO_QUEUES: u16 = 2;
/// Entries of a queue, at most.
pub const DEPTH: u16 = 8;
/// Data in the capsule of an I/O command, at most.
pub const IN_CAPSULE: u32 = 4096;
/// Logical blocks of the two namespaces.
pub const LBA_BYTES: [u32; VOLUMES as usize] = [512, 4096];
/// Most bytes of header a plan may ask for besides payload: a digest and the longest header with padding and digest.
const HEAD_MAX: usize = 4 + 128 + 4;
/// Most bytes of small data.
const SMALL_MAX: usize = 8192;
/// Steps in which all deadlines must have passed, in ms: the longest keep-alive is 600 s, a close takes 2 s.
const PATIENCE_MS: [u64; 5] = [11_000, 31_000, 602_000, 3_000, 3_000];

/// A secret of this file.
pub fn secret(text: &str) -> Secret {
    Secret::parse(text).expect("the secrets in this file are secrets")
}

fn config() -> TargetConfig {
    let namespace = |volume: u16| NamespaceConfig {
        volume: VolumeId::new(volume),
        capacity: VOLUME_BYTES / 512,
        lba_bytes: LBA_BYTES[usize::from(volume)],
        uuid: [volume as u8 + 1; 16],
        nguid: [volume as u8 + 9; 16],
    };
    TargetConfig {
        nqn: NQN.to_owned(),
        serial: "0001".to_owned(),
        model: "ibid".to_owned(),
        firmware: "1.0".to_owned(),
        namespaces: (0..VOLUMES).map(namespace).collect(),
        access: AnaState::Optimized,
        limits: Limits {
            connections_max: CONNECTIONS as u16,
            connections_per_address: CONNECTIONS as u16 - 1,
            connections_per_host: CONNECTIONS as u16 - 1,
            controllers_max: CONTROLLERS,
            io_queues_max: IO_QUEUES,
            queue_depth_max: DEPTH,
            transfer_bytes_max: TRANSFER,
            in_capsule_bytes: IN_CAPSULE,
        },
        hosts: Some(HOSTS.iter().map(|&host| host.to_owned()).collect()),
        auth: AuthConfig {
            hosts: vec![HostAuth {
                nqn: HOSTS[AUTH_HOST].to_owned(),
                secret: secret(SECRET),
                controller_secret: Some(secret(CONTROLLER_SECRET)),
            }],
            hashes: vec![AuthHash::Sha256, AuthHash::Sha512],
            groups: vec![DhGroup::Null, DhGroup::Ffdhe2048],
        },
        traddr: "192.0.2.1".to_owned(),
        trsvcid: 4420,
        port_id: 1,
        referrals: Vec::new(),
        controller_ids: (1, 50),
    }
}

/// One connection: its host, and what is in its socket.
#[derive(Debug)]
struct Link {
    id: ConnId,
    host: Host,
    socket: Vec<u8>,
}

/// Something that can be seen from outside, for comparisons.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// The shard was told.
    Event(Event),
    /// A host was told, on this connection.
    Said(usize, Said),
    /// The target ended this connection.
    Ended(usize),
}

/// The target and everything around it.
pub struct World {
    /// The target.
    pub frontend: Frontend,
    /// Its shard.
    pub shard: Shard,
    links: [Option<Link>; CONNECTIONS],
    /// Who went last for a newcomer.
    pub evicted: Option<usize>,
    /// Bytes per receive, at most.
    pub step: usize,
    /// What was seen, if it is kept.
    pub seen: Option<Vec<Seen>>,
}

impl World {
    /// Nobody is connected.
    pub fn new(answers: Answers) -> Self {
        let mut shard = Shard::new(answers);
        shard.now = Nanos::from_millis(1);
        Self {
            frontend: Frontend::new(config()),
            shard,
            links: Default::default(),
            evicted: None,
            step: usize::MAX,
            seen: None,
        }
    }

    /// Opens a connection from this address, as drivers do: what is in its way is closed first. Its place, if there is one.
    pub fn open(&mut self, address: u8) -> Option<usize> {
        let from = IpAddr::V4(Ipv4Addr::new(192, 0, 2, address));
        if let Some(victim) = self.frontend.in_the_way(from) {
            let place = victim.index();
            assert!(self.links[place].is_some(), "who is in the way is not there");
            self.close(place);
            self.evicted = Some(place);
        }
        let id = self.frontend.open(self.shard.now, from);
        self.drain();
        let id = id?;
        let place = id.index();
        assert!(self.links[place].is_none(), "a connection was given away twice");
        self.links[place] = Some(Link { id, host: Host::default(), socket: Vec::new() });
        Some(place)
    }

    /// Whether there is a connection in this place.
    pub fn is_open(&self, place: usize) -> bool {
        self.links[place].is_some()
    }

    /// Whether the target receives nothing any more from the connection in this place.
    pub fn is_closing(&mut self, place: usize) -> bool {
        let link = self.links[place].as_ref();
        link.is_some_and(|link| self.frontend.receive_plan(link.id) == ReceivePlan::Closing)
    }

    /// The host of a connection.
    pub fn host(&mut self, place: usize) -> Option<&mut Host> {
        self.links[place].as_mut().map(|link| &mut link.host)
    }

    /// The connection breaks.
    pub fn close(&mut self, place: usize) {
        if let Some(link) = self.links[place].take() {
            self.frontend.closed(self.shard.now, link.id);
            self.drain();
        }
    }

    /// Gives bytes to a connection.
    pub fn give(&mut self, place: usize, bytes: &[u8]) {
        if let Some(link) = &mut self.links[place] {
            link.socket.extend_from_slice(bytes);
        }
        self.settle();
    }

    /// Lets time pass.
    pub fn pass(&mut self, ms: u64) {
        let now = self.shard.now.after(Nanos::from_millis(ms));
        self.shard.now = now;
        self.frontend.tick(self.shard.now);
        assert!(
            self.frontend.next_deadline() > self.shard.now,
            "a deadline passed and nothing came of it"
        );
        self.drain();
        self.settle();
    }

    /// Volumes become reachable here in another way, or not at all.
    pub fn set_access(&mut self, input: &mut Input<'_>) {
        let (volume, state) = (u16::from(input.u8()) % VOLUMES, input.of(&AnaState::ALL));
        self.frontend.set_access(self.shard.now, VolumeId::new(volume), state);
        self.drain();
        self.settle();
    }

    /// Answers one of the commands the shard has.
    pub fn answer(&mut self, input: &mut Input<'_>) {
        self.shard.answer(&mut self.frontend, input);
        self.drain();
        self.settle();
    }

    fn drain(&mut self) {
        self.shard.begin();
        while let Some(event) = self.frontend.poll_event() {
            if let Some(seen) = &mut self.seen {
                seen.push(Seen::Event(event));
            }
            self.shard.event(&mut self.frontend, event);
        }
    }

    /// Checks what must hold between any two steps.
    pub fn audit(&mut self) {
        self.frontend.audit();
        for place in 0..CONNECTIONS {
            if let Some(id) = self.links[place].as_ref().map(|link| link.id)
                && self.frontend.receive_plan(id) == ReceivePlan::Closing
            {
                self.shard.assert_abandoned(id);
            }
        }
    }

    /// Takes what can be taken from every socket, answers as it is meant, until nothing moves.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for place in 0..CONNECTIONS {
                moved |= self.receive(place);
            }
            if self.shard.answers == Answers::AtEnd {
                self.shard.answer_all(&mut self.frontend);
                self.drain();
            }
            if !moved {
                break;
            }
        }
    }

    fn receive(&mut self, place: usize) -> bool {
        let mut moved = false;
        while let Some(link) = &mut self.links[place]
            && !link.socket.is_empty()
        {
            let (payload, head) = match self.frontend.receive_plan(link.id) {
                ReceivePlan::Receive { payload, head } => (payload, head),
                ReceivePlan::Blocked => break,
                ReceivePlan::Closing => {
                    link.socket.clear();
                    break;
                }
            };
            let room = payload.map_or(0, |span| span.len as usize);
            assert!(!head.is_empty(), "a plan that receives asks for nothing");
            assert!(
                head.len() <= if payload.is_some() { HEAD_MAX } else { SMALL_MAX },
                "a plan asks for {} bytes besides payload",
                head.len()
            );
            let count = link.socket.len().min(self.step).min(room + head.len());
            let (body, rest) = link.socket[..count].split_at(count.min(room));
            head[..rest.len()].copy_from_slice(rest);
            if let Some(span) = payload {
                self.shard.receive_into(link.id, span, body);
            }
            link.socket.drain(..count);
            self.frontend.received(self.shard.now, link.id, count);
            moved = true;
            self.drain();
        }
        moved
    }

    /// The host of a connection reads up to so many bytes. A connection the target is done with then ends.
    pub fn read(&mut self, place: usize, mut most: usize) {
        while let Some(link) = &mut self.links[place] {
            let mut list = PieceList::new();
            self.frontend.send_plan(link.id, &mut list);
            let mut bytes = Vec::new();
            for piece in list.as_slice() {
                match piece {
                    Piece::Bytes(run) => bytes.extend_from_slice(run),
                    Piece::Span(span) => {
                        bytes.extend_from_slice(self.shard.send_from(link.id, *span));
                    }
                }
            }
            assert!(list.is_empty() == bytes.is_empty(), "a plan to send nothing");
            if bytes.is_empty() {
                if self.frontend.receive_plan(link.id) == ReceivePlan::Closing {
                    if let Some(seen) = &mut self.seen {
                        seen.push(Seen::Ended(place));
                    }
                    self.close(place);
                }
                break;
            }
            bytes.truncate(most);
            most -= bytes.len();
            if bytes.is_empty() {
                break;
            }
            let mut said = Vec::new();
            link.host.hear(&bytes, &mut said);
            if let Some(seen) = &mut self.seen {
                seen.extend(said.into_iter().map(|said| Seen::Said(place, said)));
            }
            self.frontend.sent(link.id, bytes.len());
            self.drain();
            self.settle();
        }
    }

    /// All hosts read everything.
    pub fn read_all(&mut self) {
        for place in 0..CONNECTIONS {
            self.read(place, usize::MAX);
        }
    }

    /// The end of every script. `patient`: the hosts fall silent and read nothing, and time alone must end every connection. Otherwise
    /// they break. Then nothing may be left, and a host that behaves must be served as if nothing had been.
    pub fn finish(mut self, patient: bool) {
        self.seen = None;
        if patient {
            for ms in PATIENCE_MS {
                self.pass(ms);
                for place in 0..CONNECTIONS {
                    self.read(place, 0);
                }
            }
            let silent = self.links.iter().flatten().map(|link| link.id).collect::<Vec<_>>();
            assert!(silent.is_empty(), "silent hosts stay connected: {silent:?}");
        }
        for place in 0..CONNECTIONS {
            self.close(place);
        }
        self.shard.answer_all(&mut self.frontend);
        self.drain();
        self.shard.assert_empty();
        self.frontend.audit();
        assert!(self.frontend.is_idle(), "everybody is gone, and the target keeps something");
        self.shard.answers = Answers::AtOnce;
        self.step = usize::MAX;
        let probed = VolumeId::new(0);
        self.frontend.set_access(self.shard.now, probed, AnaState::Optimized);
        self.drain();
        self.probe();
    }

    /// A host that behaves: connects, writes in both ways, reads back what it wrote.
    fn probe(&mut self) {
        let (io, _) = self.connected(3, 0).expect("a host that behaves is let in");
        for (cid, inline) in [(2, true), (3, false)] {
            let data = pattern(1024, cid as u8);
            let range = Io { slba: u64::from(cid) * 2, blocks: 2, fua: false };
            let write = range.emit(opcode::WRITE, cid, 1);
            if inline {
                self.ask(io, &in_capsule(write, data.len()), &data);
            } else {
                self.ask(io, &by_transport(write, data.len()), &[]);
                self.read(io, usize::MAX);
                self.pay(io, &data);
            }
            assert_eq!(self.ended(io, cid).status, Status::SUCCESS, "a good write");
            let read = range.emit(opcode::READ, cid, 1);
            self.ask(io, &by_transport(read, data.len()), &[]);
            let read = self.ended(io, cid);
            assert_eq!(read.status, Status::SUCCESS, "a good read");
            assert!(read.data == data, "a good read gives other bytes than were written");
        }
        for place in 0..CONNECTIONS {
            self.close(place);
        }
        self.shard.assert_empty();
    }

    /// Gives a command on a connection.
    pub fn ask(&mut self, place: usize, sqe: &Sqe, data: &[u8]) {
        if let Some(host) = self.host(place) {
            let bytes = host.ask(sqe, data);
            self.give(place, &bytes);
        }
    }

    /// Answers the oldest R2T of a connection in full.
    pub fn pay(&mut self, place: usize, data: &[u8]) {
        let Some(host) = self.host(place) else { return };
        if host.r2ts.is_empty() {
            return;
        }
        let (r2t, _) = host.r2ts.remove(0);
        let pdu = DataPdu { cccid: r2t.cccid, ttag: r2t.ttag, datao: 0, datal: data.len() as u32 };
        let bytes = host.h2c(pdu, data, true);
        self.give(place, &bytes);
    }

    /// The end of a command that must have come to its end.
    fn ended(&mut self, place: usize, cid: u16) -> crate::host::Done {
        self.read(place, usize::MAX);
        let host = self.host(place).expect("a connection of a host that behaves stays");
        let done = host.done.drain(..).find(|done| done.cid == cid);
        done.expect("a good command comes to its end")
    }

    /// A connection behind ICReq.
    pub fn initialised(&mut self, hpda: u8, digests: u8) -> Option<usize> {
        let place = self.open(1)?;
        let bytes = self.host(place)?.initialise(hpda, digests);
        self.host(place)?.strict = true;
        self.give(place, &bytes);
        self.read(place, usize::MAX);
        Some(place)
    }

    /// An enabled controller of the first host; its admin connection and its identifier.
    pub fn admin(&mut self, hpda: u8, digests: u8) -> Option<(usize, u16)> {
        let place = self.initialised(hpda, digests)?;
        self.ask(place, &connect(0, 5000).emit(1), &connect_data(ConnectData::CNTLID_ANY));
        let done = self.ended(place, 1);
        assert_eq!(done.status, Status::SUCCESS, "a good connect");
        let set =
            PropertySet { wide: Some(false), offset: property::CC, value: Cc::ENABLED.0.into() };
        self.ask(place, &set.emit(2), &[]);
        assert_eq!(self.ended(place, 2).status, Status::SUCCESS, "a good enable");
        Some((place, done.result as u16))
    }

    /// An I/O queue and the admin queue of a controller of the first host.
    pub fn connected(&mut self, digests: u8, cattr: u8) -> Option<(usize, usize)> {
        let (admin, cntlid) = self.admin(0, digests)?;
        let io = self.initialised(0, digests)?;
        let request = Connect { cattr, ..connect(1, 0) };
        self.ask(io, &request.emit(1), &connect_data(cntlid));
        assert_eq!(self.ended(io, 1).status, Status::SUCCESS, "a good connect of an I/O queue");
        Some((io, admin))
    }
}

/// A good Connect command.
pub const fn connect(qid: u16, kato_ms: u32) -> Connect {
    Connect { recfmt: 0, qid, sqsize: DEPTH - 1, cattr: 0, kato_ms }
}

/// Good Connect data of the first host.
pub fn connect_data(cntlid: u16) -> Vec<u8> {
    connect_data_of(0, cntlid)
}

/// Good Connect data of any of the hosts.
pub fn connect_data_of(host: usize, cntlid: u16) -> Vec<u8> {
    let name = |nqn: &str| put_nqn(nqn).expect("the names in this file are names");
    let mut bytes = vec![0; ConnectData::BYTES];
    ConnectData { hostid: [9; 16], cntlid, subnqn: name(NQN), hostnqn: name(HOSTS[host]) }
        .emit(&mut bytes);
    bytes
}
