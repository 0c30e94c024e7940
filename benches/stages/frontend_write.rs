//! A 4 KiB write with its data in the capsule, through the target: header parsed, pages given, data arrived, response sent.
//! The engine's share only: no socket, and the payload's bytes are never touched.

use criterion::Criterion;
use ibid_engine::frontend::{
    AnaState, AuthConfig, ConnId, Event, Frontend, Limits, NamespaceConfig, Piece, PieceList,
    ReceivePlan, TargetConfig,
};
use ibid_units::{Nanos, Span, VolumeId};
use ibid_wire::nvme_tcp::{
    CAPSULE_BYTES, COMMON_BYTES, Cc, CommonHeader, Connect, ConnectData, Cqe, IC_BYTES, IcReq, Io,
    PduKind, PropertySet, Sgl, Sqe, Status, opcode, property, put_nqn,
};

const NQN: &str = "nqn.2014-08.org.example:disk";
const HOST: &str = "nqn.2014-08.org.example:host";
const PAYLOAD_BYTES: usize = 4096;
const NOW: Nanos = Nanos::from_millis(1);

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut target = Target::new();
    let conn = target.connect();
    let capsule = capsule(&write(), PAYLOAD_BYTES);
    let mut group = criterion.benchmark_group("frontend_write");
    group.bench_function("in_capsule_4096_bytes", |bencher| {
        bencher.iter(|| {
            target.give(conn, &capsule, PAYLOAD_BYTES);
            assert!(target.take(conn) > 0, "a response");
        });
    });
    group.finish();
    assert!(target.arrived > 0, "every write arrived");
}

struct Target {
    frontend: Frontend,
    arrived: u64,
    /// The last response's result and status.
    answer: Option<Cqe>,
}

impl Target {
    fn new() -> Target {
        let namespace = NamespaceConfig {
            volume: VolumeId::new(0),
            capacity: 1 << 20,
            lba_bytes: 4096,
            uuid: [1; 16],
            nguid: [2; 16],
        };
        let frontend = Frontend::new(TargetConfig {
            nqn: NQN.to_owned(),
            serial: "0001".to_owned(),
            model: "ibid".to_owned(),
            firmware: "1".to_owned(),
            namespaces: vec![namespace],
            access: AnaState::Optimized,
            limits: Limits::default(),
            hosts: None,
            auth: AuthConfig::default(),
            traddr: "192.0.2.1".to_owned(),
            trsvcid: 4420,
            port_id: 1,
            referrals: Vec::new(),
            controller_ids: (1, 50),
        });
        Target { frontend, arrived: 0, answer: None }
    }

    /// Admin queue, controller enabled, one I/O queue.
    fn connect(&mut self) -> ConnId {
        let admin = self.open();
        let result =
            self.run(admin, &connect(0).emit(1), &connect_data(ConnectData::CNTLID_ANY)).result;
        let enable =
            PropertySet { wide: Some(false), offset: property::CC, value: Cc::ENABLED.0.into() };
        self.run(admin, &enable.emit(2), &[]);
        let io = self.open();
        let controller = u16::try_from(result & 0xFFFF).expect("16 bits");
        self.run(io, &connect(1).emit(1), &connect_data(controller));
        io
    }

    fn open(&mut self) -> ConnId {
        let conn = self
            .frontend
            .open(NOW, std::net::Ipv4Addr::LOCALHOST.into())
            .expect("room for a connection");
        let mut bytes = vec![0; IC_BYTES];
        IcReq { pfv: 0, hpda: 0, dgst: 0, maxr2t: 0 }.emit(&mut bytes);
        CommonHeader::plain(PduKind::IcReq).emit(&mut bytes);
        self.give(conn, &bytes, 0);
        assert!(self.take(conn) > 0, "an answer to ICReq");
        conn
    }

    fn run(&mut self, conn: ConnId, sqe: &Sqe, data: &[u8]) -> Cqe {
        let mut bytes = capsule(sqe, data.len());
        bytes.extend_from_slice(data);
        self.give(conn, &bytes, 0);
        assert!(self.take(conn) > 0, "an answer");
        let answer = self.answer.take().expect("a response");
        assert_eq!(answer.status, Status::SUCCESS);
        answer
    }

    /// Gives bytes, then says that `payload` bytes have come straight into their pages.
    fn give(&mut self, conn: ConnId, mut bytes: &[u8], mut payload: usize) {
        while !bytes.is_empty() || payload > 0 {
            let ReceivePlan::Receive { payload: span, head } = self.frontend.receive_plan(conn)
            else {
                panic!("the target takes what it asked for");
            };
            let count = match span {
                Some(span) => span.len as usize,
                None => {
                    let count = bytes.len().min(head.len());
                    let (now, rest) = bytes.split_at(count);
                    head[..count].copy_from_slice(now);
                    bytes = rest;
                    count
                }
            };
            if span.is_some() {
                payload -= count;
            }
            self.frontend.received(NOW, conn, count);
            while let Some(event) = self.frontend.poll_event() {
                match event {
                    Event::Write { cmd, sectors, .. } => {
                        let bytes = u32::try_from(sectors.bytes()).expect("a write is short");
                        self.frontend.place_write(cmd, Span::new(0, bytes));
                    }
                    Event::Arrived { cmd, last, .. } => {
                        assert!(last, "4 KiB come at once");
                        self.arrived += 1;
                        self.frontend.complete(cmd, Status::SUCCESS);
                    }
                    other => panic!("nobody asked for {other:?}"),
                }
            }
        }
    }

    /// Takes what is to be sent; gives its length.
    fn take(&mut self, conn: ConnId) -> usize {
        let mut list = PieceList::new();
        self.frontend.send_plan(conn, &mut list);
        let mut count = 0;
        let mut answer = None;
        for piece in list.as_slice() {
            let Piece::Bytes(bytes) = piece else { panic!("no payload is sent back") };
            count += bytes.len();
            if CommonHeader::parse(bytes)
                .is_ok_and(|common| common.kind == PduKind::CapsuleResp as u8)
            {
                answer = Cqe::parse(&bytes[COMMON_BYTES..]).ok();
            }
        }
        self.answer = answer;
        self.frontend.sent(conn, count);
        count
    }
}

/// A command capsule of which `payload` bytes of data will follow.
fn capsule(sqe: &Sqe, payload: usize) -> Vec<u8> {
    let mut bytes = vec![0; CAPSULE_BYTES];
    sqe.emit(&mut bytes[COMMON_BYTES..]);
    let mut common = CommonHeader::plain(PduKind::CapsuleCmd);
    common.hlen = u8::try_from(CAPSULE_BYTES).expect("72");
    common.pdo = if payload > 0 { common.hlen } else { 0 };
    common.plen = u32::try_from(CAPSULE_BYTES + payload).expect("a short PDU");
    common.emit(&mut bytes);
    bytes
}

fn write() -> Sqe {
    let mut sqe = Io { slba: 5, blocks: 1, fua: false }.emit(opcode::WRITE, 9, 1);
    sqe.sgl = Sgl::in_capsule(PAYLOAD_BYTES as u32);
    sqe
}

fn connect(qid: u16) -> Connect {
    Connect { recfmt: 0, qid, sqsize: 31, cattr: 0, kato_ms: if qid == 0 { 5000 } else { 0 } }
}

fn connect_data(cntlid: u16) -> Vec<u8> {
    let mut bytes = vec![0; ConnectData::BYTES];
    let name = |nqn| put_nqn(nqn).expect("a name that fits");
    ConnectData { hostid: [9; 16], cntlid, subnqn: name(NQN), hostnqn: name(HOST) }
        .emit(&mut bytes);
    bytes
}
