//! C1 to C13: commands before Connect, and Connects that must fail.

use super::field::Field;
use super::raw::{HOST, Raw, connect, connect_fields, emit, set_cc, write};
use super::table::{Row, sent};
use ibid_wire::nvme_tcp::{
    Cc, Connect, ConnectData, ConnectRefusal, DISCOVERY_NQN, Identify, SetFeatures, Sgl, Sqe,
    Status, cns, feature, opcode, put_nqn,
};

pub(crate) const ROWS: &[Row] = &[
    sent("C1", "commands before Connect", |field| {
        let mut raw = field.ready(false);
        let identify = Identify::of(cns::CONTROLLER, 0).emit(1);
        assert_eq!(raw.status(&identify, &[]), Status::SEQUENCE_ERROR, "C1");
        let write = write(1, field.lba(), 1, true);
        assert_eq!(raw.status(&write, &[0; 4096]), Status::SEQUENCE_ERROR, "C1");
        let keep_alive = Sqe::new(opcode::KEEP_ALIVE, 1, 0);
        assert_eq!(raw.status(&keep_alive, &[]), Status::SEQUENCE_ERROR, "C1");
    }),
    sent("C2", "Connect twice, and a queue that is taken", |field| {
        let (mut io, mut admin) = field.io(false);
        let data = emit(&fields(field));
        assert_eq!(admin.status(&connect(0).emit(1), &data), Status::SEQUENCE_ERROR, "C2");
        assert_eq!(io.status(&connect(1).emit(1), &data), Status::SEQUENCE_ERROR, "C2");
        let cntlid = cntlid(&mut admin);
        let mut second = field.ready(false);
        let data = emit(&connect_fields(&field.nqn, cntlid));
        assert_eq!(second.status(&connect(1).emit(1), &data), Status::SEQUENCE_ERROR, "C2");
    }),
    sent("C3", "another record format", |field| {
        let request = Connect { recfmt: 1, ..connect(0) };
        refused(field, request, fields(field), Status::CONNECT_INCOMPATIBLE_FORMAT, None);
    }),
    sent("C4", "Connect data of another length", |field| {
        for bytes in [512, 1023, 1025, 4096] {
            let mut raw = field.ready(false);
            let mut request = connect(0).emit(1);
            request.sgl = Sgl::in_capsule(bytes);
            let status = raw.status(&request, &vec![0; bytes as usize]);
            assert_eq!(status, Status::SGL_LENGTH_INVALID, "C4 {bytes}");
        }
    }),
    sent("C5", "names that are no NQN", |field| {
        let good = fields(field);
        let mut unterminated = good;
        unterminated.hostnqn = [b'a'; 256];
        let mut escape = good;
        escape.subnqn[3] = 0x1b;
        let mut newline = good;
        newline.hostnqn[5] = b'\n';
        let mut format = good;
        format.subnqn = [b'%'; 256];
        for (data, ipo) in [
            (escape, ConnectData::SUBNQN_AT),
            (format, ConnectData::SUBNQN_AT),
            (ConnectData { subnqn: [0; 256], ..good }, ConnectData::SUBNQN_AT),
            (unterminated, ConnectData::HOSTNQN_AT),
            (newline, ConnectData::HOSTNQN_AT),
        ] {
            refused(field, connect(0), data, Status::CONNECT_INVALID_PARAMETERS, in_data(ipo));
        }
        let said = field.nodes[crate::node::SOURCE].said();
        assert!(!said.contains('\u{1b}') && !said.contains("%%%%"), "C5: it was logged as it came");
    }),
    sent("C6", "an unknown subsystem", |field| {
        let data = ConnectData {
            subnqn: put_nqn("nqn.2014-08.org.example:other").unwrap(),
            ..fields(field)
        };
        let ipo = in_data(ConnectData::SUBNQN_AT);
        refused(field, connect(0), data, Status::CONNECT_INVALID_PARAMETERS, ipo);
    }),
    sent("C7", "a host that is not on the list, or gives no name", |field| {
        let thief = put_nqn("nqn.2014-08.org.example:thief").unwrap();
        // The beginning of a name that is on the list is another name.
        let prefix = put_nqn(&HOST[..HOST.len() - 1]).unwrap();
        for hostnqn in [thief, prefix, [0; 256]] {
            let data = ConnectData { hostnqn, ..fields(field) };
            refused(field, connect(0), data, Status::CONNECT_INVALID_HOST, None);
        }
    }),
    sent("C8", "an admin Connect that names a controller", |field| {
        for cntlid in [0, 1, 0xfffe] {
            let data = ConnectData { cntlid, ..fields(field) };
            let ipo = in_data(ConnectData::CNTLID_AT);
            refused(field, connect(0), data, Status::CONNECT_INVALID_PARAMETERS, ipo);
        }
    }),
    sent("C9", "an I/O Connect that is another host's, or nobody's", io_connects),
    sent("C10", "an I/O queue beyond what was granted", |field| {
        let (mut admin, cntlid) = field.admin(false);
        let grant = SetFeatures { fid: feature::QUEUES, save: false, value: 0 }.emit(3);
        assert_eq!(admin.status(&grant, &[]), Status::SUCCESS);
        let data = connect_fields(&field.nqn, cntlid);
        for qid in [2, 0xffff] {
            let ipo = Some(ConnectRefusal { ipo: Connect::QID_AT, in_data: false });
            refused(field, connect(qid), data, Status::CONNECT_INVALID_PARAMETERS, ipo);
        }
    }),
    sent("C11", "SQSIZE of 0, and beyond MQES", |field| {
        for sqsize in [0, 128, 0xffff] {
            let request = Connect { sqsize, ..connect(0) };
            let ipo = Some(ConnectRefusal { ipo: Connect::SQSIZE_AT, in_data: false });
            refused(field, request, fields(field), Status::CONNECT_INVALID_PARAMETERS, ipo);
        }
    }),
    sent("C12", "a keep-alive timeout of 0, and of 49 days", |field| {
        let request = Connect { kato_ms: 0, ..connect(0) };
        refused(field, request, fields(field), Status::KEEP_ALIVE_INVALID, None);
        let mut raw = field.ready(false);
        let request = Connect { kato_ms: u32::MAX, ..connect(0) };
        assert_eq!(raw.status(&request.emit(1), &emit(&fields(field))), Status::SUCCESS, "C12");
        assert_eq!(raw.status(&set_cc(Cc::ENABLED.0), &[]), Status::SUCCESS);
        let zero = SetFeatures { fid: feature::KEEP_ALIVE, save: false, value: 0 }.emit(3);
        assert_eq!(raw.status(&zero, &[]), Status::KEEP_ALIVE_INVALID, "C12");
    }),
    sent("C13", "more controllers than there are", |field| {
        let mut held = Vec::new();
        loop {
            let mut raw = field.ready(false);
            match raw.status(&connect(0).emit(1), &emit(&fields(field))) {
                Status::SUCCESS => held.push(raw),
                status => {
                    assert_eq!(status, Status::CONNECT_BUSY, "C13");
                    assert!(!status.is_final(), "C13: it may try again");
                    break;
                }
            }
            assert!(held.len() <= 64, "C13: there is no end of controllers");
        }
        assert!(held.len() > 4, "C13: {} controllers", held.len());
        // One that goes makes room for another.
        held.pop();
        crate::common::until("C13: a place is free again", || {
            let mut raw = field.ready(false);
            let status = raw.status(&connect(0).emit(1), &emit(&fields(field)));
            status.is_success().then_some(())
        });
    }),
];

fn fields(field: &Field) -> ConnectData {
    connect_fields(&field.nqn, ConnectData::CNTLID_ANY)
}

const fn in_data(ipo: u16) -> Option<ConnectRefusal> {
    Some(ConnectRefusal { ipo, in_data: true })
}

/// A Connect that must fail, after which the connection may try again.
fn refused(
    field: &Field,
    request: Connect,
    data: ConnectData,
    status: Status,
    refusal: Option<ConnectRefusal>,
) {
    let mut raw = field.ready(false);
    let cqe = raw.run(&request.emit(1), &emit(&data));
    assert_eq!(cqe.status, status, "{request:?}");
    if let Some(refusal) = refusal {
        assert_eq!(ConnectRefusal::parse(cqe.result), refusal, "{request:?}");
    }
    let again = raw.status(&connect(0).emit(1), &emit(&fields(field)));
    assert_eq!(again, Status::SUCCESS, "{request:?}");
}

/// The identifier of a controller, as Identify tells it.
fn cntlid(admin: &mut Raw) -> u16 {
    let identify = Identify::of(cns::CONTROLLER, 0).emit(9);
    admin.submit(&identify, &[]);
    let pdu = admin.pdu().unwrap();
    assert_eq!(admin.pdu().unwrap().cqe().status, Status::SUCCESS);
    u16::from_le_bytes([pdu.data()[78], pdu.data()[79]])
}

fn io_connects(field: &Field) {
    let (_admin, cntlid) = field.admin(false);
    let good = connect_fields(&field.nqn, cntlid);
    let live = put_nqn(super::live::LIVE).unwrap();
    let cases = [
        ("host", ConnectData { hostnqn: live, ..good }),
        ("host id", ConnectData { hostid: [8; 16], ..good }),
        ("subsystem", ConnectData { subnqn: put_nqn(DISCOVERY_NQN).unwrap(), ..good }),
        ("no controller", ConnectData { cntlid: cntlid.wrapping_add(1000), ..good }),
        ("any controller", ConnectData { cntlid: ConnectData::CNTLID_ANY, ..good }),
    ];
    for (what, data) in cases {
        let mut raw = field.ready(false);
        let status = raw.status(&connect(1).emit(1), &emit(&data));
        assert_eq!(status, Status::CONNECT_INVALID_PARAMETERS, "C9 {what}");
    }
    // A controller that is not enabled.
    let mut admin = field.ready(false);
    let cqe = admin.run(&connect(0).emit(1), &emit(&fields(field)));
    let mut raw = field.ready(false);
    let data = connect_fields(&field.nqn, cqe.result as u16);
    assert_eq!(raw.status(&connect(1).emit(1), &emit(&data)), Status::SEQUENCE_ERROR, "C9");
}
