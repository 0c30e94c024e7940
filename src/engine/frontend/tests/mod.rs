//! The target driven in memory: bytes made by `wire`, a vector as arena, answers by hand or by themselves.
//! Rows of the table of bad input are named in the tests: P (PDUs), C (commands), R (resources).

mod access;
mod auth;
mod bad_auth;
mod bad_commands;
mod bad_connects;
mod bad_pdus;
mod conformance;
mod flow;
mod fused;
mod life;
mod moves;
mod pages;

use super::*;
use alloc::{string::ToString, vec, vec::Vec};
use ibid_wire::nvme_tcp::{
    CAPSULE_BYTES, COMMON_BYTES, Cc, CommonHeader, Connect, ConnectData, Cqe, DIGEST_BYTES,
    DataPdu, FatalError, IC_BYTES, IcReq, IcResp, Io, PduKind, PropertySet, R2t, SHORT_BYTES, Sgl,
    Sqe, TermReq, crc32c, opcode, pdu_flag, property, put_nqn,
};

const NQN: &str = "nqn.2014-08.org.example:disk";
const HOST: &str = "nqn.2014-08.org.example:host";
const TRANSFER: u32 = 64 << 10;
const IN_CAPSULE: u32 = 8192;
const DEPTH: u16 = 16;
const VOLUME_BYTES: u64 = 1 << 20;
const CONNECTIONS: u16 = 6;
const HOME: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(192, 0, 2, 9));

fn config(lba_bytes: u32) -> TargetConfig {
    TargetConfig {
        nqn: NQN.to_string(),
        serial: "0001".to_string(),
        model: "ibid".to_string(),
        firmware: "1.0".to_string(),
        namespaces: vec![NamespaceConfig {
            volume: VolumeId::new(0),
            capacity: VOLUME_BYTES / 512,
            lba_bytes,
            uuid: [1; 16],
            nguid: [2; 16],
        }],
        access: AnaState::Optimized,
        limits: Limits {
            connections_max: CONNECTIONS,
            connections_per_address: CONNECTIONS,
            connections_per_host: CONNECTIONS,
            controllers_max: 2,
            io_queues_max: 2,
            queue_depth_max: DEPTH,
            transfer_bytes_max: TRANSFER,
            in_capsule_bytes: IN_CAPSULE,
        },
        hosts: None,
        auth: AuthConfig::default(),
        traddr: "192.0.2.1".to_string(),
        trsvcid: 4420,
        port_id: 1,
        referrals: Vec::new(),
        controller_ids: (1, 50),
    }
}

/// A PDU as it came from the target.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Pdu {
    common: CommonHeader,
    bytes: Vec<u8>,
}

impl Pdu {
    fn kind(&self) -> PduKind {
        PduKind::new(self.common.kind).unwrap()
    }
    fn cqe(&self) -> Cqe {
        assert_eq!(self.kind(), PduKind::CapsuleResp);
        Cqe::parse(&self.bytes[COMMON_BYTES..]).unwrap()
    }
    fn r2t(&self) -> R2t {
        assert_eq!(self.kind(), PduKind::R2t);
        R2t::parse(&self.bytes).unwrap()
    }
    fn data(&self) -> &[u8] {
        assert_eq!(self.kind(), PduKind::C2hData);
        let len = DataPdu::parse(&self.bytes).unwrap().datal as usize;
        &self.bytes[usize::from(self.common.pdo)..][..len]
    }
}

struct World {
    frontend: Frontend,
    arena: Vec<u8>,
    now: Nanos,
    /// Answers writes, reads, flushes and zeroes at once; otherwise they stand in `events`.
    answers: bool,
    events: Vec<Event>,
    digests: bool,
}

impl World {
    fn new(config: TargetConfig) -> Self {
        let slots = usize::from(CONNECTIONS) * usize::from(DEPTH);
        Self {
            frontend: Frontend::new(config),
            arena: vec![0; VOLUME_BYTES as usize + slots * TRANSFER as usize],
            now: Nanos::from_millis(1),
            answers: true,
            events: Vec::new(),
            digests: false,
        }
    }

    fn pages(cmd: CommandId, bytes: u32) -> Span {
        let place = cmd.conn().index() * usize::from(DEPTH) + cmd.slot();
        Span::new(VOLUME_BYTES + place as u64 * u64::from(TRANSFER), bytes)
    }

    fn place(&mut self, cmd: CommandId, bytes: u32) {
        self.frontend.place_write(cmd, Self::pages(cmd, bytes));
    }

    fn pieces(&self, first: Sector, sectors: Sectors) -> Vec<ReadPiece> {
        let whole = Span::new(first.bytes(), sectors.bytes() as u32);
        let (a, b) = (whole.first(512), whole.skip(512.min(whole.len)));
        let crc = |span: Span| Some(crc32c(&self.arena[span.at as usize..span.end() as usize]));
        [a, b]
            .iter()
            .filter(|span| span.len > 0)
            .map(|&span| ReadPiece { span, crc: crc(span) })
            .collect()
    }

    fn drain(&mut self) {
        while let Some(event) = self.frontend.poll_event() {
            self.events.push(event);
            if !self.answers {
                continue;
            }
            match event {
                Event::Write { cmd, sectors, .. } | Event::Compare { cmd, sectors, .. } => {
                    self.place(cmd, sectors.bytes() as u32)
                }
                Event::Arrived { cmd, span, digest, last } => {
                    let bytes = &self.arena[span.at as usize..span.end() as usize];
                    if digest.is_some_and(|digest| digest != crc32c(bytes)) {
                        self.frontend.digest_is_wrong(cmd);
                    } else if last {
                        self.frontend.complete(cmd, Status::SUCCESS);
                    }
                }
                Event::Read { cmd, first, sectors, .. } => {
                    let pieces = self.pieces(first, sectors);
                    self.frontend.read_ready(cmd, &pieces);
                }
                Event::Flush { cmd, .. }
                | Event::Zeroes { cmd, .. }
                | Event::Verify { cmd, .. } => self.frontend.complete(cmd, Status::SUCCESS),
                Event::Authenticate { conn } => self.compute(conn),
                Event::Released { .. } | Event::Abandoned { .. } | Event::Attend { .. } => {}
            }
        }
    }

    /// Gives bytes to the target, at most `step` at once; what it does not take comes back.
    fn give<'a>(&mut self, conn: ConnId, mut bytes: &'a [u8], step: usize) -> &'a [u8] {
        while !bytes.is_empty() {
            let ReceivePlan::Receive { payload, head } = self.frontend.receive_plan(conn) else {
                return bytes;
            };
            let payload_len = payload.map_or(0, |span| span.len as usize);
            assert!(!head.is_empty());
            let count = bytes.len().min(step).min(payload_len + head.len());
            let (first, second) = bytes[..count].split_at(count.min(payload_len));
            head[..second.len()].copy_from_slice(second);
            if let Some(span) = payload {
                self.arena[span.at as usize..][..first.len()].copy_from_slice(first);
            }
            bytes = &bytes[count..];
            self.frontend.received(self.now, conn, count);
            self.drain();
        }
        bytes
    }

    /// Everything the target has to send, as bytes.
    fn output(&mut self, conn: ConnId, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let mut list = PieceList::new();
            self.frontend.send_plan(conn, &mut list);
            let mut bytes = Vec::new();
            for piece in list.as_slice() {
                match piece {
                    Piece::Bytes(run) => bytes.extend_from_slice(run),
                    Piece::Span(span) => {
                        bytes.extend_from_slice(&self.arena[span.at as usize..span.end() as usize])
                    }
                }
            }
            if bytes.is_empty() {
                self.frontend.audit();
                return all;
            }
            bytes.truncate(step);
            self.frontend.sent(conn, bytes.len());
            self.drain();
            all.extend_from_slice(&bytes);
        }
    }

    fn pdus(&mut self, conn: ConnId) -> Vec<Pdu> {
        let bytes = self.output(conn, usize::MAX);
        split_pdus(&bytes)
    }

    /// The one PDU the target sends.
    fn answer(&mut self, conn: ConnId) -> Pdu {
        let mut pdus = self.pdus(conn);
        assert_eq!(pdus.len(), 1, "{pdus:?}");
        pdus.remove(0)
    }

    fn open(&mut self) -> ConnId {
        self.open_from(HOME).unwrap()
    }

    fn open_from(&mut self, from: IpAddr) -> Option<ConnId> {
        self.frontend.open(self.now, from)
    }

    /// A connection behind ICReq.
    fn initialised(&mut self, dgst: u8) -> ConnId {
        let conn = self.open();
        self.digests = dgst != 0;
        assert!(self.give(conn, &icreq(0, 0, dgst), usize::MAX).is_empty());
        let answer = self.answer(conn);
        assert_eq!(answer.kind(), PduKind::IcResp);
        let granted = IcResp::parse(&answer.bytes).unwrap();
        assert_eq!((granted.dgst, granted.cpda, granted.maxh2cdata), (dgst, 0, TRANSFER));
        conn
    }

    /// The bytes of a capsule, with the digests that were negotiated.
    fn capsule(&self, sqe: &Sqe, data: &[u8]) -> Vec<u8> {
        let mut head = vec![0; CAPSULE_BYTES];
        sqe.emit(&mut head[COMMON_BYTES..]);
        self.pdu(PduKind::CapsuleCmd, head, data, 0)
    }

    fn pdu(&self, kind: PduKind, mut head: Vec<u8>, data: &[u8], flags: u8) -> Vec<u8> {
        let bare = head.len();
        let digest = if self.digests { DIGEST_BYTES } else { 0 };
        let trailer = if data.is_empty() { 0 } else { digest };
        let mut flags = flags | if self.digests { pdu_flag::HDGST } else { 0 };
        let mut pdo = 0;
        if !data.is_empty() {
            pdo = (bare + digest) as u8;
            flags |= if self.digests { pdu_flag::DDGST } else { 0 };
        }
        let plen = (bare + digest + data.len() + trailer) as u32;
        CommonHeader { kind: kind as u8, flags, hlen: bare as u8, pdo, plen }.emit(&mut head);
        if self.digests {
            let crc = crc32c(&head[..bare]);
            head.extend_from_slice(&crc.to_le_bytes());
        }
        head.extend_from_slice(data);
        if trailer > 0 {
            head.extend_from_slice(&crc32c(data).to_le_bytes());
        }
        head
    }

    fn h2c(&self, r2t: R2t, datao: u32, data: &[u8], last: bool) -> Vec<u8> {
        let mut head = vec![0; SHORT_BYTES];
        DataPdu { cccid: r2t.cccid, ttag: r2t.ttag, datao, datal: data.len() as u32 }
            .emit(&mut head);
        self.pdu(PduKind::H2cData, head, data, if last { pdu_flag::LAST } else { 0 })
    }

    /// Sends a command; its completion.
    fn run(&mut self, conn: ConnId, sqe: &Sqe, data: &[u8]) -> Cqe {
        let bytes = self.capsule(sqe, data);
        assert!(self.give(conn, &bytes, usize::MAX).is_empty());
        self.answer(conn).cqe()
    }

    fn status(&mut self, conn: ConnId, sqe: &Sqe, data: &[u8]) -> Status {
        self.run(conn, sqe, data).status
    }

    /// An enabled controller; its admin connection.
    fn admin(&mut self, dgst: u8) -> (ConnId, u16) {
        let conn = self.initialised(dgst);
        let cqe = self.run(conn, &connect(0).emit(1), &connect_data(ConnectData::CNTLID_ANY));
        assert_eq!(cqe.status, Status::SUCCESS);
        let set =
            PropertySet { wide: Some(false), offset: property::CC, value: Cc::ENABLED.0.into() };
        assert_eq!(self.status(conn, &set.emit(2), &[]), Status::SUCCESS);
        (conn, cqe.result as u16)
    }

    /// An I/O queue of a controller.
    fn io(&mut self, dgst: u8) -> (ConnId, ConnId) {
        let (admin, cntlid) = self.admin(dgst);
        let conn = self.initialised(dgst);
        assert_eq!(self.status(conn, &connect(1).emit(1), &connect_data(cntlid)), Status::SUCCESS);
        self.events.clear();
        (conn, admin)
    }

    fn is_closing(&mut self, conn: ConnId) -> bool {
        self.frontend.receive_plan(conn) == ReceivePlan::Closing
    }

    /// The connection was ended with this reason, and stays ended.
    fn assert_fatal(&mut self, conn: ConnId, fatal: FatalError, what: &str) {
        assert!(self.is_closing(conn), "{what}: goes on");
        let last = self.pdus(conn).pop().unwrap_or_else(|| panic!("{what}: nothing was said"));
        assert_eq!(last.kind(), PduKind::C2hTermReq, "{what}");
        assert_eq!(
            FatalError::from_term(TermReq::parse(&last.bytes).unwrap()),
            Some(fatal),
            "{what}"
        );
        assert!(last.common.plen <= 152, "{what}");
        // P30: nothing more is taken or said.
        self.frontend.received(self.now, conn, 72);
        self.drain();
        assert!(self.pdus(conn).is_empty(), "{what}: said twice");
        self.frontend.closed(self.now, conn);
        self.drain();
    }
}

fn split_pdus(mut bytes: &[u8]) -> Vec<Pdu> {
    let mut pdus = Vec::new();
    while !bytes.is_empty() {
        let common = CommonHeader::parse(bytes).unwrap();
        let (pdu, rest) = bytes.split_at(common.plen as usize);
        pdus.push(Pdu { common, bytes: pdu.to_vec() });
        bytes = rest;
    }
    pdus
}

fn icreq(pfv: u16, hpda: u8, dgst: u8) -> Vec<u8> {
    let mut bytes = vec![0; IC_BYTES];
    IcReq { pfv, hpda, dgst, maxr2t: 0 }.emit(&mut bytes);
    CommonHeader::plain(PduKind::IcReq).emit(&mut bytes);
    bytes
}

fn connect(qid: u16) -> Connect {
    Connect {
        recfmt: 0,
        qid,
        sqsize: DEPTH - 1,
        cattr: 0,
        kato_ms: if qid == 0 { 5000 } else { 0 },
    }
}

fn connect_fields(cntlid: u16) -> ConnectData {
    ConnectData {
        hostid: [9; 16],
        cntlid,
        subnqn: put_nqn(NQN).unwrap(),
        hostnqn: put_nqn(HOST).unwrap(),
    }
}

fn emit(data: &ConnectData) -> Vec<u8> {
    let mut bytes = vec![0; ConnectData::BYTES];
    data.emit(&mut bytes);
    bytes
}

fn connect_data(cntlid: u16) -> Vec<u8> {
    emit(&connect_fields(cntlid))
}

fn read(cid: u16, slba: u64, blocks: u32, lba: u32) -> Sqe {
    let mut sqe = Io { slba, blocks, fua: false }.emit(opcode::READ, cid, 1);
    sqe.sgl = Sgl::transport(blocks * lba);
    sqe
}

fn write(cid: u16, slba: u64, blocks: u32, lba: u32, inline: bool) -> Sqe {
    let mut sqe = Io { slba, blocks, fua: false }.emit(opcode::WRITE, cid, 1);
    sqe.sgl = if inline { Sgl::in_capsule(blocks * lba) } else { Sgl::transport(blocks * lba) };
    sqe
}

fn compare(cid: u16, slba: u64, blocks: u32, lba: u32, inline: bool) -> Sqe {
    let mut sqe = write(cid, slba, blocks, lba, inline);
    sqe.opcode = opcode::COMPARE;
    sqe
}

/// Bytes that differ by place.
fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ seed).collect()
}
