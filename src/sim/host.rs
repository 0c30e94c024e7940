//! A small NVMe/TCP host over `ibid_wire::nvme_tcp`, one queue at a time: connect, enable, write in the capsule or by R2T, read, flush,
//! zeroes, deallocate. May keep a controller waiting for data it asked for, or die in the middle of it.

use crate::random::Random;
use crate::stream::Sockets;
use ibid_driver::checksum::crc32c;
use ibid_units::Nanos;
use ibid_wire::nvme_tcp::{
    COMMON_BYTES, Cc, CommonHeader, Connect, ConnectData, Cqe, DataPdu, Deallocate, DsmRange,
    FatalError, IcReq, IcResp, Io, PduKind, PropertySet, R2t, Sgl, Sqe, Status, TermReq, dgst,
    opcode, pdu_flag, property, psdt, put_nqn,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

pub const NQN: &str = "nqn.2014-08.org.example:pair";
const HOSTS: [&str; 2] = ["nqn.2014-08.org.example:host", "nqn.2014-08.org.example:other-host"];

/// What a command is to do.
#[derive(Clone, Debug)]
pub enum Op {
    Write { data: Vec<u8>, in_capsule: bool },
    Read,
    Compare { data: Vec<u8>, in_capsule: bool },
    Verify,
    Zeroes { deallocate: bool },
    Deallocate(Vec<(u64, u32)>),
    Flush,
}

/// A command of the host; blocks are logical ones.
#[derive(Clone, Debug)]
pub struct Request {
    pub nsid: u32,
    pub slba: u64,
    pub blocks: u32,
    pub lba_bytes: u32,
    pub op: Op,
}

impl Request {
    /// Of a run of sectors, which is whole blocks, of a volume with blocks of so many bytes.
    pub fn of((volume, lba_bytes): (usize, u32), first: u64, sectors: u64, op: Op) -> Request {
        let unit = u64::from(lba_bytes) / 512;
        let (slba, blocks) = (first / unit, (sectors / unit) as u32);
        Request { nsid: volume as u32 + 1, slba, blocks, lba_bytes, op }
    }
}

/// A command's end.
#[derive(Debug)]
pub struct Done {
    pub tag: u64,
    pub status: Status,
    pub data: Vec<u8>,
}

struct Outstanding {
    tag: u64,
    /// What is sent when it is asked for.
    out: Vec<u8>,
    /// What has come.
    data: Vec<u8>,
    got: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    AwaitsIcResp,
    AwaitsConnect,
    AwaitsEnable,
    Ready,
    Dead,
}

/// How a queue behaves.
#[derive(Clone, Copy, Debug)]
pub struct QueueConfig {
    /// Which of two hosts it is of.
    pub host: usize,
    pub qid: u16,
    pub cntlid: u16,
    /// Commands at once.
    pub depth: u16,
    pub header_digest: bool,
    pub data_digest: bool,
    pub flow_control: bool,
    /// Chance of a thousand that data which was asked for is withheld …
    pub withhold: u32,
    /// … for so many nanoseconds.
    pub withheld: u64,
    /// A connection that the target refuses or gives up ends; otherwise that is a mistake of the target's.
    pub patient: bool,
}

/// One connection of a host.
pub struct Queue {
    sockets: Rc<RefCell<Sockets>>,
    at: usize,
    config: QueueConfig,
    random: Random,
    state: State,
    cntlid: u16,
    maxh2cdata: u32,
    rx: Vec<u8>,
    outstanding: BTreeMap<u16, Outstanding>,
    next_cid: u16,
    withheld: Vec<(u64, Vec<u8>)>,
    /// It does not look at what has come until then.
    pub deaf_until: u64,
    /// Times that it has withheld data since somebody asked.
    held_back: u64,
    /// The target will have no more of it.
    given_up: bool,
}

impl Queue {
    pub fn open(sockets: &Rc<RefCell<Sockets>>, config: QueueConfig, random: Random) -> Queue {
        let at = sockets.borrow_mut().connect();
        let queue = Queue {
            sockets: sockets.clone(),
            at,
            config,
            random,
            state: State::AwaitsIcResp,
            cntlid: config.cntlid,
            maxh2cdata: 0,
            rx: Vec::new(),
            outstanding: BTreeMap::new(),
            next_cid: 0,
            withheld: Vec::new(),
            deaf_until: 0,
            held_back: 0,
            given_up: false,
        };
        let digest = if config.header_digest { dgst::HEADER } else { 0 }
            | if config.data_digest { dgst::DATA } else { 0 };
        let asked = IcReq { pfv: 0, hpda: 0, dgst: digest, maxr2t: 0 };
        queue.send(PduKind::IcReq, 0, |out| asked.emit(out), &[]);
        queue
    }

    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }
    pub fn is_dead(&self) -> bool {
        self.state == State::Dead
    }
    /// It is dead, and the target knows.
    pub fn is_gone(&self) -> bool {
        self.is_dead() && !self.sockets.borrow().is_open_at_target(self.at)
    }
    pub fn cntlid(&self) -> u16 {
        self.cntlid
    }
    /// How often it has withheld data since the last call.
    pub fn take_held_back(&mut self) -> u64 {
        std::mem::take(&mut self.held_back)
    }
    /// Commands that nobody answers any more, of a queue that is dead.
    pub fn take_unanswered(&mut self) -> Vec<u64> {
        assert!(self.is_dead(), "commands of a live queue are answered");
        std::mem::take(&mut self.outstanding).into_values().map(|command| command.tag).collect()
    }
    /// Commands under way.
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }
    pub fn has_room(&self) -> bool {
        self.has_room_for(1)
    }
    pub fn has_room_for(&self, commands: usize) -> bool {
        self.is_ready() && self.outstanding.len() + commands <= usize::from(self.config.depth)
    }
    /// When withheld data goes out.
    pub fn next_release(&self) -> Option<u64> {
        self.withheld.iter().map(|held| held.0).min()
    }

    fn pdu(&self, kind: PduKind, flags: u8, fill: impl FnOnce(&mut [u8]), data: &[u8]) -> Vec<u8> {
        let bare = kind.header_bytes();
        let digests = kind != PduKind::IcReq;
        let header_digest = digests && self.config.header_digest;
        let data_digest = digests && self.config.data_digest && !data.is_empty();
        let header = bare + if header_digest { 4 } else { 0 };
        let plen = header + data.len() + if data_digest { 4 } else { 0 };
        let mut out = vec![0; header];
        fill(&mut out);
        let flags = flags
            | if header_digest { pdu_flag::HDGST } else { 0 }
            | if data_digest { pdu_flag::DDGST } else { 0 };
        let pdo = if data.is_empty() { 0 } else { header as u8 };
        CommonHeader { kind: kind as u8, flags, hlen: bare as u8, pdo, plen: plen as u32 }
            .emit(&mut out);
        if header_digest {
            let sum = crc32c(&out[..bare]);
            out[bare..].copy_from_slice(&sum.to_le_bytes());
        }
        out.extend_from_slice(data);
        if data_digest {
            out.extend_from_slice(&crc32c(data).to_le_bytes());
        }
        out
    }

    fn send(&self, kind: PduKind, flags: u8, fill: impl FnOnce(&mut [u8]), data: &[u8]) {
        let bytes = self.pdu(kind, flags, fill, data);
        self.sockets.borrow_mut().write(self.at, &bytes);
    }

    fn capsule(&mut self, sqe: &Sqe, data: &[u8], outstanding: Outstanding) {
        self.outstanding.insert(sqe.cid, outstanding);
        self.send(PduKind::CapsuleCmd, 0, |out| sqe.emit(&mut out[COMMON_BYTES..]), data);
    }

    fn cid(&mut self) -> u16 {
        while self.outstanding.contains_key(&self.next_cid) {
            self.next_cid = self.next_cid.wrapping_add(1);
        }
        let cid = self.next_cid;
        self.next_cid = self.next_cid.wrapping_add(1);
        cid
    }

    /// Sends a command.
    pub fn submit(&mut self, tag: u64, request: Request) {
        self.submit_as(tag, request, 0);
    }

    /// Sends a compare and a write as one.
    pub fn submit_pair(&mut self, [one, other]: [(u64, Request); 2]) {
        assert!(self.has_room_for(2), "more commands than the queue takes");
        self.submit_as(one.0, one.1, psdt::FUSE_FIRST);
        self.submit_as(other.0, other.1, psdt::FUSE_SECOND);
    }

    /// Sends a compare as the first of two that are one. The second may be late, or never come.
    pub fn submit_first(&mut self, tag: u64, request: Request) {
        self.submit_as(tag, request, psdt::FUSE_FIRST);
    }

    fn submit_as(&mut self, tag: u64, request: Request, fuse: u8) {
        assert!(self.has_room(), "more commands than the queue takes");
        let cid = self.cid();
        let Request { nsid, slba, blocks, lba_bytes, op } = request;
        let io = Io { slba, blocks, fua: tag.is_multiple_of(7) };
        let bytes = blocks * lba_bytes;
        let mut outstanding = Outstanding { tag, out: Vec::new(), data: Vec::new(), got: 0 };
        match op {
            Op::Write { ref data, in_capsule } | Op::Compare { ref data, in_capsule } => {
                let code = match op {
                    Op::Write { .. } => opcode::WRITE,
                    _ => opcode::COMPARE,
                };
                let mut sqe = io.emit(code, cid, nsid).fused(fuse);
                if in_capsule {
                    sqe.sgl = Sgl::in_capsule(bytes);
                    self.capsule(&sqe, data, outstanding);
                } else {
                    sqe.sgl = Sgl::transport(bytes);
                    outstanding.out = data.clone();
                    self.capsule(&sqe, &[], outstanding);
                }
            }
            Op::Read => {
                let mut sqe = io.emit(opcode::READ, cid, nsid);
                sqe.sgl = Sgl::transport(bytes);
                outstanding.data = vec![0xEE; bytes as usize];
                self.capsule(&sqe, &[], outstanding);
            }
            Op::Verify => self.capsule(&io.emit(opcode::VERIFY, cid, nsid), &[], outstanding),
            Op::Zeroes { deallocate } => {
                self.capsule(&io.emit_zeroes(cid, nsid, deallocate), &[], outstanding)
            }
            Op::Deallocate(ranges) => {
                let count = ranges.len() as u16;
                let sqe = Deallocate { ranges: count, deallocate: true }.emit(cid, nsid);
                let mut list = vec![0; ranges.len() * DsmRange::BYTES];
                for (line, (slba, blocks)) in list.chunks_mut(DsmRange::BYTES).zip(ranges) {
                    DsmRange { attributes: 0, blocks, slba }.emit(line);
                }
                self.capsule(&sqe, &list, outstanding);
            }
            Op::Flush => self.capsule(&Sqe::new(opcode::FLUSH, cid, nsid), &[], outstanding),
        }
    }

    /// Ends without a word; whatever was on its way is cut at some byte. Gives the commands that nobody answers any more.
    pub fn die(&mut self) -> Vec<u64> {
        self.state = State::Dead;
        let mut sockets = self.sockets.borrow_mut();
        // At most one that is cut: what follows it would not be at the start of a PDU.
        if let Some((_, bytes)) = self.withheld.pop() {
            let part = self.random.below(bytes.len() as u64) as usize;
            sockets.write(self.at, &bytes[..part]);
        }
        self.withheld.clear();
        sockets.close(self.at);
        std::mem::take(&mut self.outstanding).into_values().map(|command| command.tag).collect()
    }

    /// Takes what has come; gives what has ended. True if anything moved.
    pub fn poll(&mut self, now: Nanos, done: &mut Vec<Done>) -> bool {
        if self.state == State::Dead || now.get() < self.deaf_until {
            return false;
        }
        let mut any = false;
        let open = self.sockets.borrow_mut().read(self.at, &mut self.rx);
        while self.rx.len() >= COMMON_BYTES {
            let common = CommonHeader::parse(&self.rx).expect("eight bytes");
            let plen = common.plen as usize;
            assert!(plen >= usize::from(common.hlen), "a PDU shorter than its header");
            if self.rx.len() < plen {
                break;
            }
            let pdu: Vec<u8> = self.rx.drain(..plen).collect();
            self.take(now, &common, &pdu, done);
            any = true;
        }
        let now = now.get();
        for at in (0..self.withheld.len()).rev() {
            if self.withheld[at].0 <= now {
                let (_, bytes) = self.withheld.swap_remove(at);
                self.sockets.borrow_mut().write(self.at, &bytes);
                any = true;
            }
        }
        let cut_off = !open && (self.rx.is_empty() || self.config.patient);
        if cut_off || self.given_up {
            self.sockets.borrow_mut().close(self.at);
            self.state = State::Dead;
        }
        any
    }

    fn take(&mut self, now: Nanos, common: &CommonHeader, pdu: &[u8], done: &mut Vec<Done>) {
        let digests = if common.flags & pdu_flag::HDGST != 0 {
            let bare = usize::from(common.hlen);
            assert_eq!(pdu[bare..bare + 4], crc32c(&pdu[..bare]).to_le_bytes(), "header digest");
            4
        } else {
            0
        };
        match PduKind::new(common.kind).expect("a kind of PDU") {
            PduKind::IcResp => {
                let granted = IcResp::parse(pdu).expect("ICResp");
                self.maxh2cdata = granted.maxh2cdata;
                self.connect();
            }
            PduKind::CapsuleResp => {
                let cqe = Cqe::parse(&pdu[COMMON_BYTES..]).expect("a completion");
                self.ended(&cqe, done);
            }
            PduKind::C2hData => {
                let part = DataPdu::parse(pdu).expect("a data PDU");
                let at = usize::from(common.pdo);
                assert_eq!(at, usize::from(common.hlen) + digests);
                let bytes = &pdu[at..at + part.datal as usize];
                if common.flags & pdu_flag::DDGST != 0 {
                    assert_eq!(pdu[at + bytes.len()..], crc32c(bytes).to_le_bytes(), "data digest");
                }
                let command =
                    self.outstanding.get_mut(&part.cccid).expect("data of a command under way");
                assert_eq!(command.got, part.datao as usize, "data comes in order");
                command.data[part.datao as usize..][..bytes.len()].copy_from_slice(bytes);
                command.got += bytes.len();
                if common.flags & pdu_flag::SUCCESS != 0 {
                    self.ended(&Cqe::new(part.cccid, Status::SUCCESS, 0), done);
                }
            }
            PduKind::R2t => self.asked(now, &R2t::parse(pdu).expect("an R2T")),
            PduKind::C2hTermReq => {
                let term = TermReq::parse(pdu).expect("a termination");
                assert!(
                    self.config.patient,
                    "the target gives up: {:?}",
                    FatalError::from_term(term)
                );
                self.given_up = true;
            }
            kind => panic!("the target sent {kind:?}"),
        }
    }

    fn connect(&mut self) {
        let config = self.config;
        let request = Connect {
            recfmt: 0,
            qid: config.qid,
            sqsize: config.depth,
            cattr: if config.flow_control { 0 } else { Connect::NO_FLOW_CONTROL },
            kato_ms: if config.qid == 0 { 600_000 } else { 0 },
        };
        let data = ConnectData {
            hostid: [7; 16],
            cntlid: if config.qid == 0 { ConnectData::CNTLID_ANY } else { config.cntlid },
            subnqn: put_nqn(NQN).expect("a name"),
            hostnqn: put_nqn(HOSTS[self.config.host]).expect("a name"),
        };
        let mut bytes = vec![0; ConnectData::BYTES];
        data.emit(&mut bytes);
        let cid = self.cid();
        self.state = State::AwaitsConnect;
        self.capsule(
            &request.emit(cid),
            &bytes,
            Outstanding { tag: 0, out: Vec::new(), data: Vec::new(), got: 0 },
        );
    }

    fn ended(&mut self, cqe: &Cqe, done: &mut Vec<Done>) {
        let command =
            self.outstanding.remove(&cqe.cid).expect("a completion of a command under way");
        match self.state {
            State::AwaitsConnect | State::AwaitsEnable
                if self.config.patient && !cqe.status.is_success() =>
            {
                self.given_up = true;
            }
            State::AwaitsConnect => {
                assert!(cqe.status.is_success(), "connect: {}", cqe.status);
                self.cntlid = cqe.result as u16;
                if self.config.qid == 0 {
                    let cid = self.cid();
                    let enable = PropertySet {
                        wide: Some(false),
                        offset: property::CC,
                        value: Cc::ENABLED.0.into(),
                    };
                    self.state = State::AwaitsEnable;
                    self.capsule(
                        &enable.emit(cid),
                        &[],
                        Outstanding { tag: 0, out: Vec::new(), data: Vec::new(), got: 0 },
                    );
                } else {
                    self.state = State::Ready;
                }
            }
            State::AwaitsEnable => {
                assert!(cqe.status.is_success(), "enable: {}", cqe.status);
                self.state = State::Ready;
            }
            State::Ready => {
                if cqe.status.is_success() {
                    assert_eq!(command.got, command.data.len(), "a read ended before its data");
                }
                done.push(Done { tag: command.tag, status: cqe.status, data: command.data });
            }
            State::AwaitsIcResp | State::Dead => panic!("a completion before any command"),
        }
    }

    fn asked(&mut self, now: Nanos, r2t: &R2t) {
        let command = &self.outstanding[&r2t.cccid];
        let (from, to) = (r2t.r2to as usize, (r2t.r2to + r2t.r2tl) as usize);
        assert!(to <= command.out.len(), "an R2T asks for more than there is");
        let data = command.out[from..to].to_vec();
        let mut bytes = Vec::new();
        let mut at = 0;
        while at < data.len() {
            let left = (data.len() - at).min(self.maxh2cdata as usize);
            // Pieces that are not the largest, at times not even whole sectors (multiples of four bytes: TCP 3.3.2.1).
            let count = if self.random.chance(300) {
                left.min(4 + 4 * self.random.below(4000) as usize)
            } else {
                left
            };
            let last = at + count == data.len();
            let part = DataPdu {
                cccid: r2t.cccid,
                ttag: r2t.ttag,
                datao: (from + at) as u32,
                datal: count as u32,
            };
            let flags = if last { pdu_flag::LAST } else { 0 };
            bytes.extend(self.pdu(
                PduKind::H2cData,
                flags,
                |out| part.emit(out),
                &data[at..at + count],
            ));
            at += count;
        }
        if self.random.chance(self.config.withhold) {
            self.held_back += 1;
            // It may send a part before it stops; the rest is sent as a whole, so that PDUs stay whole.
            self.withheld.push((now.get() + self.config.withheld, bytes));
        } else {
            self.sockets.borrow_mut().write(self.at, &bytes);
        }
    }
}
