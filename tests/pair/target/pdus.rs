//! P1 to P30: PDUs that break the protocol.

use super::field::Field;
use super::raw::{Raw, connect, connect_fields, emit, icreq, write};
use super::table::{Row, sent};
use ibid_wire::nvme_tcp::{
    CAPSULE_BYTES, CommonHeader, FatalError, PduKind, R2t, SHORT_BYTES, Sqe, Status, TermReq,
    crc32c, opcode, pdu_flag,
};

pub(crate) const ROWS: &[Row] = &[
    sent("P1", "a capsule before ICReq", |field| {
        first(field, &with(icreq(0, 0, 0), 0, &[4]), FatalError::Sequence);
    }),
    sent("P2", "a second ICReq", |field| {
        for digests in [false, true] {
            let (mut io, _admin) = field.io(digests);
            io.send(&icreq(0, 0, 3));
            io.assert_fatal("P2", &[FatalError::Sequence]);
        }
    }),
    sent("P3", "ICReq of another version", |field| {
        first(field, &icreq(1, 0, 0), FatalError::Unsupported(8));
    }),
    sent("P4", "HPDA beyond 31", |field| {
        for hpda in [32, 255] {
            first(field, &icreq(0, hpda, 0), FatalError::HeaderField(10));
        }
    }),
    sent("P5", "ICReq of another length", |field| {
        for plen in [127, 129] {
            first(field, &with(icreq(0, 0, 0), 4, &[plen]), FatalError::HeaderField(4));
        }
    }),
    sent("P6", "HLEN that is not its kind's", |field| {
        first(field, &with(icreq(0, 0, 0), 2, &[127]), FatalError::HeaderField(2));
        for hlen in [0, 7, 71, 255] {
            header(field, |probe| with(probe, 2, &[hlen]), |_| FatalError::HeaderField(2));
        }
    }),
    sent("P7", "PLEN below the header, or 0", |field| {
        for plen in [0, 8, 71] {
            header(field, |probe| with(probe, 4, &[plen, 0, 0, 0]), |_| FatalError::HeaderField(4));
        }
    }),
    sent("P8", "PLEN of 4 GiB", |field| {
        header(field, |probe| with(probe, 4, &[0xff; 4]), |_| FatalError::LimitExceeded);
    }),
    sent("P9", "kinds that do not exist", |field| {
        for kind in [0x08, 0x0a, 0x7f, 0xff] {
            header(field, |probe| with(probe, 0, &[kind]), |_| FatalError::HeaderField(0));
        }
    }),
    sent("P10", "kinds that only a controller sends", |field| {
        for kind in [0x01, 0x03, 0x05, 0x07, 0x09] {
            header(field, |probe| with(probe, 0, &[kind]), |_| FatalError::HeaderField(0));
        }
    }),
    sent("P11", "PDO unaligned, in the header, past the end, beyond 128", |field| {
        for pdo in [73, 68, 132] {
            header(field, |probe| with(probe, 3, &[pdo]), |_| FatalError::HeaderField(3));
        }
        let past = |probe| with(with(probe, 3, &[120]), 4, &[100, 0, 0, 0]);
        header(field, past, |_| FatalError::HeaderField(3));
    }),
    sent("P12", "HDGST flag that was not negotiated, or is missing", |field| {
        let flip = |probe: Vec<u8>| {
            let flags = probe[1] ^ pdu_flag::HDGST;
            with(probe, 1, &[flags])
        };
        header(field, flip, |_| FatalError::HeaderField(1));
    }),
    sent("P13", "a wrong header digest", |field| {
        let (mut io, _admin) = field.io(true);
        let bytes = io.capsule(&Sqe::new(opcode::FLUSH, 5, 1), &[]);
        io.send(&with(bytes, CAPSULE_BYTES, &[1, 2, 3, 4]));
        io.assert_fatal("P13", &[FatalError::HeaderDigest(0x0403_0201)]);
    }),
    sent("P14", "DDGST flag that was not negotiated, or is missing", |field| {
        let flip = |probe: Vec<u8>| {
            let flags = probe[1] ^ pdu_flag::DDGST;
            with(probe, 1, &[flags])
        };
        header(field, flip, |_| FatalError::HeaderField(1));
    }),
    sent("P15", "a wrong data digest: the write fails, nothing else", wrong_data_digest),
    sent("P16", "reserved bits", |field| {
        let (mut io, _admin) = field.io(false);
        let mut bytes = io.capsule(&Sqe::new(opcode::FLUSH, 3, 1), &[]);
        bytes[1] |= 0xf0;
        bytes[8 + 20] = 0xff;
        io.send(&bytes);
        assert_eq!(io.pdu().unwrap().cqe().status, Status::SUCCESS, "P16");
    }),
    sent("P17", "tags that no R2T has", |field| {
        let tags: [fn(u16) -> u16; 4] =
            [|_| 0, |_| 0xffff, |tag| tag.wrapping_add(1), |tag| tag ^ 1 << 11];
        for tag in tags {
            data(field, FatalError::Sequence, |io, r2t| {
                io.h2c(R2t { ttag: tag(r2t.ttag), ..r2t }, 0, &[1; 4096], false)
            });
        }
    }),
    sent("P18", "data for commands without an R2T", data_without_r2t),
    sent("P19", "data that names another command", |field| {
        data(field, FatalError::Sequence, |io, r2t| {
            io.h2c(R2t { cccid: r2t.cccid ^ 1, ..r2t }, 0, &[1; 4096], false)
        });
    }),
    sent("P20", "data at another offset", |field| {
        for offset in [512, 4096, 65536] {
            data(field, FatalError::OutOfRange, |io, r2t| io.h2c(r2t, offset, &[1; 512], false));
        }
    }),
    sent("P21", "data past the end of its R2T, also around 2^32", |field| {
        data(field, FatalError::OutOfRange, |io, r2t| io.h2c(r2t, 0, &[1; 65536 + 4], false));
        for at in [12, 16] {
            // DATAO, then DATAL: the latter is beyond MAXH2CDATA, too, which is judged first.
            let fatal = [FatalError::OutOfRange, FatalError::LimitExceeded][usize::from(at == 16)];
            patched(field, fatal, at, [0xfc, 0xff, 0xff, 0xff]);
        }
    }),
    sent("P22", "DATAL beyond MAXH2CDATA", |field| {
        patched(field, FatalError::LimitExceeded, 16, (1_u32 << 20 | 4).to_le_bytes());
    }),
    sent("P23", "DATAL of 0, and one that is not PLEN's", |field| {
        patched(field, FatalError::HeaderField(4), 16, [0; 4]);
        patched(field, FatalError::HeaderField(4), 16, [0, 8, 0, 0]);
    }),
    sent("P24", "LAST too early, and never", |field| {
        data(field, FatalError::Sequence, |io, r2t| io.h2c(r2t, 0, &[1; 4096], true));
        let (mut io, _admin) = field.io(false);
        let r2t = io.ask(&write(7, field.lba(), 16, false));
        let bytes = io.h2c(r2t, 0, &[1; 65536], false);
        io.send(&bytes);
        assert_eq!(io.pdu().unwrap().cqe().status, Status::SUCCESS, "P24: the count is enough");
    }),
    sent("P25", "data twice, overlapping, and of two commands in turn", data_twice),
    sent("P25", "data of many commands in turn, whatever MAXR2T is", many_in_turn),
    sent("P26", "H2CTermReq", |field| {
        for plen in [24, 152] {
            host_gives_up(field, plen, 1);
        }
    }),
    sent("P27", "H2CTermReq of a wrong length or with a reason there is not", |field| {
        for (plen, fes) in
            [(8, 1), (23, 1), (153, 1), (u32::MAX, 1), (24, 0), (24, 7), (24, 0xffff)]
        {
            host_gives_up(field, plen, fes);
        }
    }),
    sent("P28", "split at every byte, joined, cut off", split),
    sent("P29", "HTTP, TLS and garbage", |field| {
        first(field, b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", FatalError::Sequence);
        // A ClientHello of TLS 1.2, as sent by hosts that expect a secure channel (R11).
        let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
        hello.resize(517, 0x5a);
        first(field, &hello, FatalError::Sequence);
        first(field, &[0xff; 4096], FatalError::Sequence);
    }),
    sent("P30", "more PDUs behind a fatal error", |field| {
        let (mut io, _admin) = field.io(false);
        let good = io.capsule(&Sqe::new(opcode::FLUSH, 5, 1), &[]);
        let mut bytes = with(good.clone(), 0, &[0xff]);
        for _ in 0..100 {
            bytes.extend(&good);
            bytes.extend(with(good.clone(), 2, &[7]));
        }
        io.send(&bytes);
        io.assert_fatal("P30", &[FatalError::HeaderField(0)]);
    }),
];

/// Changes bytes of a good PDU.
fn with(mut bytes: Vec<u8>, at: usize, value: &[u8]) -> Vec<u8> {
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

/// Puts the header digest right again, so that the change itself is judged.
fn resealed(mut bytes: Vec<u8>, bare: usize) -> Vec<u8> {
    let crc = crc32c(&bytes[..bare]);
    bytes[bare..bare + 4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// These bytes first on a connection.
fn first(field: &Field, bytes: &[u8], fatal: FatalError) {
    let mut raw = Raw::bare(field.addr);
    raw.send(bytes);
    raw.assert_fatal("first on its connection", &[fatal]);
}

/// A write capsule with a header that was changed, on queues without and with digests.
fn header(field: &Field, change: impl Fn(Vec<u8>) -> Vec<u8>, fatal: impl Fn(bool) -> FatalError) {
    for digests in [false, true] {
        let (mut io, mut admin) = field.io(digests);
        let probe = io.capsule(&write(5, field.lba(), 1, true), &[7; 4096]);
        let changed = change(probe);
        // What is judged behind the header digest needs one that is right.
        let changed = if digests && fatal(digests) == FatalError::LimitExceeded {
            resealed(changed, CAPSULE_BYTES)
        } else {
            changed
        };
        io.send(&changed);
        io.assert_fatal("a changed header", &[fatal(digests)]);
        // It costs its own connection and no other.
        assert_eq!(admin.status(&Sqe::new(opcode::KEEP_ALIVE, 9, 0), &[]), Status::SUCCESS);
    }
}

/// Data that answers an R2T for 64 KiB wrongly.
fn data(field: &Field, fatal: FatalError, forge: impl Fn(&Raw, R2t) -> Vec<u8>) {
    for digests in [false, true] {
        let (mut io, _admin) = field.io(digests);
        let lba = field.lba();
        let before = io.read(6, lba, 16);
        let r2t = io.ask(&write(7, lba, 16, false));
        assert_eq!((r2t.r2to, r2t.r2tl), (0, 65536));
        let bytes = forge(&io, r2t);
        io.send(&bytes);
        io.assert_fatal("forged data", &[fatal]);
        let (mut io, _admin) = field.io(digests);
        assert!(io.read(6, lba, 16) == before, "a write that was not complete took effect");
    }
}

fn patched(field: &Field, fatal: FatalError, at: usize, value: [u8; 4]) {
    data(field, fatal, |io, r2t| {
        let bytes = with(io.h2c(r2t, 0, &[1; 4096], false), at, &value);
        if io.digests { resealed(bytes, SHORT_BYTES) } else { bytes }
    });
}

fn wrong_data_digest(field: &Field) {
    for inline in [true, false] {
        let (mut io, _admin) = field.io(true);
        let lba = field.lba();
        let before = io.read(3, lba, 2);
        let sqe = write(4, lba, 2, inline);
        let mut bytes = if inline {
            io.capsule(&sqe, &[6; 8192])
        } else {
            // Two PDUs: the first one is spoiled, the second is drained.
            let r2t = io.ask(&sqe);
            let mut first = io.h2c(r2t, 0, &[6; 4096], false);
            let last = first.len() - 1;
            first[last] ^= 1;
            first.extend(io.h2c(r2t, 4096, &[6; 4096], true));
            first
        };
        if inline {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        }
        io.send(&bytes);
        let status = io.pdu().unwrap().cqe().status;
        assert_eq!(status, Status::TRANSIENT_TRANSPORT_ERROR, "P15");
        assert!(!status.is_final(), "P15: it may be sent again");
        assert!(io.read(5, lba, 2) == before, "P15: it took effect");
    }
}

fn data_without_r2t(field: &Field) {
    // A queue on which nothing is outstanding, one with an in-capsule write that is complete, and one before Connect.
    let forged = R2t { cccid: 7, ttag: 1, r2to: 0, r2tl: 4096 };
    let (mut io, _admin) = field.io(false);
    let lba = field.lba();
    assert_eq!(io.status(&write(7, lba, 1, true), &[1; 4096]), Status::SUCCESS);
    io.read(7, lba, 1);
    let bytes = io.h2c(forged, 0, &[1; 4096], true);
    io.send(&bytes);
    io.assert_fatal("P18", &[FatalError::Sequence]);
    let mut unconnected = field.ready(false);
    unconnected.send(&bytes);
    unconnected.assert_fatal("P18 before Connect", &[FatalError::Sequence]);
    // While one command's R2T is out, another's data: the other is an event request, which never gets one.
    let (mut admin, _) = field.admin(false);
    admin.submit(&Sqe::new(opcode::ASYNC_EVENT_REQUEST, 7, 0), &[]);
    admin.send(&bytes);
    admin.assert_fatal("P18 an event request", &[FatalError::Sequence]);
}

fn data_twice(field: &Field) {
    data(field, FatalError::OutOfRange, |io, r2t| {
        let part = io.h2c(r2t, 0, &[1; 8192], false);
        [part.clone(), part].concat()
    });
    data(field, FatalError::OutOfRange, |io, r2t| {
        let first = io.h2c(r2t, 0, &[1; 8192], false);
        [first, io.h2c(r2t, 4096, &[1; 8192], false)].concat()
    });
    let (mut io, _admin) = field.io(false);
    let (one, two) = (field.lba(), field.lba());
    let (first, second) = (io.ask(&write(1, one, 4, false)), io.ask(&write(2, two, 4, false)));
    for offset in [0, 8192] {
        for (r2t, byte) in [(first, 11), (second, 22)] {
            let bytes = io.h2c(r2t, offset, &[byte; 8192], false);
            io.send(&bytes);
        }
    }
    for _ in 0..2 {
        assert_eq!(io.pdu().unwrap().cqe().status, Status::SUCCESS, "P25 in turn");
    }
    assert!(io.read(3, one, 4) == [11; 16384], "P25");
    assert!(io.read(3, two, 4) == [22; 16384], "P25");
    // Behind its end, too.
    let again = io.h2c(first, 0, &[1; 8192], false);
    io.send(&again);
    io.assert_fatal("P25 behind the end", &[FatalError::Sequence]);
}

/// As many commands as there are have their R2Ts at once: one each, for all of its data, also where the host would take several for a command
/// (MAXR2T). Their data comes a piece of each in turn, and other commands are answered in between.
fn many_in_turn(field: &Field) {
    const COMMANDS: u16 = 24;
    const PIECE: usize = 1536;
    let blocks = |cid: u16| 1 + u32::from(cid) % 9;
    let byte = |cid: u16, at: usize| (usize::from(cid) * 37 + at / 512) as u8;
    let bytes =
        |cid| -> Vec<u8> { (0..blocks(cid) as usize * 4096).map(|at| byte(cid, at)).collect() };
    for (digests, maxr2t) in [(false, 0), (true, 0), (false, 7), (true, u32::MAX)] {
        let (_admin, cntlid) = field.admin(digests);
        let mut io = Raw::offering(field.addr, digests, maxr2t);
        let data = emit(&connect_fields(&field.nqn, cntlid));
        assert_eq!(io.status(&connect(1).emit(1), &data), Status::SUCCESS);
        let first = field.lba();
        let lba = |cid: u16| first + (0..cid).map(|cid| u64::from(blocks(cid))).sum::<u64>();
        for cid in 0..COMMANDS {
            io.submit(&write(cid, lba(cid), blocks(cid), false), &[]);
        }
        let mut asked: Vec<R2t> = (0..COMMANDS).map(|_| io.pdu().unwrap().r2t()).collect();
        for r2t in &asked {
            assert_eq!((r2t.r2to, r2t.r2tl), (0, blocks(r2t.cccid) * 4096), "P25: one R2T for all");
        }
        for of in [|r2t: &R2t| r2t.cccid, |r2t: &R2t| r2t.ttag] {
            asked.sort_by_key(of);
            asked.dedup_by_key(|r2t| of(r2t));
            assert_eq!(asked.len(), usize::from(COMMANDS), "P25: one R2T for each command");
        }
        let mut offset = 0;
        while asked.iter().any(|r2t| offset < r2t.r2tl as usize) {
            for r2t in asked.iter().rev() {
                let data = bytes(r2t.cccid);
                let Some(rest) = data.get(offset..).filter(|rest| !rest.is_empty()) else {
                    continue;
                };
                let piece = &rest[..rest.len().min(PIECE)];
                let pdu = io.h2c(*r2t, offset as u32, piece, piece.len() == rest.len());
                io.send(&pdu);
            }
            if offset == 0 {
                // None of them is complete.
                assert_eq!(io.read(100, first, 1).len(), 4096, "P25: a read in between");
            }
            offset += PIECE;
        }
        let mut ended: Vec<u16> = Vec::new();
        for _ in 0..COMMANDS {
            let cqe = io.pdu().unwrap().cqe();
            assert_eq!(cqe.status, Status::SUCCESS, "P25 {}", cqe.cid);
            ended.push(cqe.cid);
        }
        ended.sort_unstable();
        assert!(ended.iter().copied().eq(0..COMMANDS), "P25: {ended:?}");
        for cid in 0..COMMANDS {
            assert!(io.read(101, lba(cid), blocks(cid)) == bytes(cid), "P25: data of {cid}");
        }
    }
}

fn host_gives_up(field: &Field, plen: u32, fes: u16) {
    let (mut io, _admin) = field.io(false);
    let mut bytes = vec![0; SHORT_BYTES];
    TermReq { fes, fei: 0 }.emit(&mut bytes);
    CommonHeader { plen, ..CommonHeader::plain(PduKind::H2cTermReq) }.emit(&mut bytes);
    bytes.resize(152, 0xa5);
    io.send(&bytes);
    io.assert_closed("P26, P27");
}

fn split(field: &Field) {
    let lba = field.lba();
    for digests in [false, true] {
        // Byte by byte: two writes and a flush.
        let (mut io, _admin) = field.io(digests);
        let mut bytes = io.capsule(&write(1, lba, 1, true), &[0x31; 4096]);
        let border = bytes.len();
        bytes.extend(io.capsule(&write(2, lba + 1, 1, true), &[0x32; 4096]));
        bytes.extend(io.capsule(&Sqe::new(opcode::FLUSH, 3, 1), &[]));
        let (slow, rest) = bytes.split_at(border + 100);
        // The payload itself in larger steps: its bytes are all alike to the parser.
        let mut at = 0;
        while at < slow.len() {
            let in_header = at < 100 || at + 8 > border;
            let step = if in_header { 1 } else { (border - 8 - at).clamp(1, 509) };
            io.send(&slow[at..at + step]);
            at += step;
        }
        // The rest at once, with a second stream's worth behind it: several PDUs in one segment.
        let mut rest = rest.to_vec();
        rest.extend(io.capsule(&Sqe::new(opcode::FLUSH, 4, 1), &[]));
        rest.extend(io.capsule(&Sqe::new(opcode::FLUSH, 5, 1), &[]));
        io.send(&rest);
        for _ in 0..5 {
            assert_eq!(io.pdu().unwrap().cqe().status, Status::SUCCESS, "P28");
        }
        let both = io.read(6, lba, 2);
        assert!(both[..4096] == [0x31; 4096] && both[4096..] == [0x32; 4096], "P28");
    }
    // Cut off anywhere, by an end or by a reset: never executed.
    let (mut reader, _admin) = field.io(false);
    let before = reader.read(1, lba, 1);
    let probe = reader.capsule(&write(5, lba, 1, true), &[0x77; 4096]);
    for cut in [1, 7, 8, 40, 71, 72, 73, 2000, probe.len() - 1] {
        for resets in [false, true] {
            let (mut io, _admin) = field.io(false);
            io.send(&probe[..cut]);
            if resets {
                io.reset();
            } else {
                io.half_close();
                io.assert_closed("P28 an end within a PDU");
            }
        }
    }
    assert!(reader.read(2, lba, 1) == before, "P28: a part of a PDU was executed");
}
