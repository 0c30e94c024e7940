//! Reception: where the next bytes go, and what they were when they have come. Judges PDUs; commands are judged in `command`.
//! A PDU that breaks the protocol ends the connection with a termination PDU that names the reason (TCP 3.5).

use super::config::ADMIN_CAPSULE_BYTES;
use super::connection::{Body, HEAD_BYTES, Phase, State, To};
use super::{ConnId, Event, Frontend, ReceivePlan};
use ibid_units::{Nanos, Span};
use ibid_wire::nvme_tcp::{
    CAPSULE_BYTES, COMMON_BYTES, CommonHeader, DIGEST_BYTES, DataPdu, FatalError, IC_BYTES, IcReq,
    IcResp, PduKind, SHORT_BYTES, Sqe, Status, crc32c, dgst, pdu_flag,
};

/// The largest offset of data in a PDU: a header with a digest, padded to 128 (TCP 3.6.1, CPDA ≤ 31).
const PDO_MAX: u8 = 128;
/// The largest HPDA.
const HPDA_MAX: u8 = 31;
const _: () = assert!(HEAD_BYTES >= DIGEST_BYTES + PDO_MAX as usize);
const _: () = assert!(HEAD_BYTES >= DIGEST_BYTES + IC_BYTES);

/// Where fields of the common header stand: what a termination PDU names.
const AT_KIND: u8 = 0;
const AT_FLAGS: u8 = 1;
const AT_HLEN: u8 = 2;
const AT_PDO: u8 = 3;
const AT_PLEN: u8 = 4;
const AT_PFV: u8 = 8;
const AT_HPDA: u8 = 10;

/// What a common header promises, once it has been judged.
#[derive(Clone, Copy)]
struct Head {
    kind: PduKind,
    flags: u8,
    /// Bytes up to the data, or of the whole PDU without data.
    bytes: usize,
    data: u32,
}

impl Frontend {
    /// Where the next bytes of a connection go. Ask afresh before each receive.
    pub fn receive_plan(&mut self, conn: ConnId) -> ReceivePlan<'_> {
        let c = conn.index();
        if !self.connections[c].receives() {
            return ReceivePlan::Closing;
        }
        let Some(body) = self.connections[c].body else {
            let need = self.head_need(c).expect("a bad header was refused when it came");
            let connection = &mut self.connections[c];
            return ReceivePlan::Receive {
                payload: None,
                head: &mut connection.head[connection.have..need],
            };
        };
        let connection = &mut self.connections[c];
        let r2ts = connection.r2ts - u16::from(body.by_r2t && body.last);
        let trailer = if body.digest { DIGEST_BYTES } else { 0 };
        let behind = trailer + connection.first_header_bytes(r2ts);
        if body.left == 0 {
            // Only the digest is missing; `received` would have taken it otherwise.
            return ReceivePlan::Receive {
                payload: None,
                head: &mut connection.head[connection.have..behind],
            };
        }
        match body.to {
            To::Await => ReceivePlan::Blocked,
            To::Arena { whole } => ReceivePlan::Receive {
                payload: Some(whole.skip(whole.len - body.left)),
                head: &mut connection.head[..behind],
            },
            To::Small { total } => {
                let (from, to) = ((total - body.left) as usize, total as usize);
                ReceivePlan::Receive { payload: None, head: &mut connection.small[from..to] }
            }
            To::Discard => {
                let count = connection.small.len().min(body.left as usize);
                ReceivePlan::Receive { payload: None, head: &mut connection.small[..count] }
            }
        }
    }

    /// `count` bytes came by the last [`Frontend::receive_plan`], payload first.
    ///
    /// # Panics
    /// If that is more than the plan asked for.
    pub fn received(&mut self, now: Nanos, conn: ConnId, count: usize) {
        self.now = now;
        let c = conn.index();
        let connection = &mut self.connections[c];
        if !connection.receives() {
            return;
        }
        let mut rest = count;
        if let Some(body) = connection.body.as_mut()
            && body.left > 0
        {
            let taken = rest.min(body.left as usize);
            body.left -= taken as u32;
            rest -= taken;
            assert!(
                rest == 0 || matches!(body.to, To::Arena { .. }),
                "more arrived than was planned"
            );
        }
        connection.have += rest;
        assert!(connection.have <= HEAD_BYTES, "more arrived than was planned");
        if let Err(fatal) = self.advance(c) {
            self.fail(c, fatal);
        }
    }

    /// Takes everything that is complete off what has come.
    fn advance(&mut self, c: usize) -> Result<(), FatalError> {
        while self.connections[c].receives() {
            let connection = &mut self.connections[c];
            if let Some(body) = connection.body {
                if body.left > 0 || (body.digest && connection.have < DIGEST_BYTES) {
                    break;
                }
                let mut digest = None;
                if body.digest {
                    let [a, b, d, e, ..] = connection.head;
                    digest = Some(u32::from_le_bytes([a, b, d, e]));
                    self.consume(c, DIGEST_BYTES);
                }
                self.connections[c].body = None;
                self.end_body(c, body, digest);
                continue;
            }
            let have = connection.have;
            if have < COMMON_BYTES || have < self.head_need(c)? {
                break;
            }
            let head = self.head(c)?;
            match head.kind {
                PduKind::IcReq => self.initialise(c)?,
                PduKind::CapsuleCmd => self.capsule(c, head)?,
                PduKind::H2cData => self.data(c, head)?,
                // The host gives up: no answer, whatever its reason (P26, P27).
                PduKind::H2cTermReq => self.begin_close(c),
                PduKind::IcResp
                | PduKind::C2hTermReq
                | PduKind::CapsuleResp
                | PduKind::C2hData
                | PduKind::R2t => {
                    return Err(FatalError::HeaderField(AT_KIND));
                }
            }
        }
        Ok(())
    }

    /// Drops consumed bytes off the front of `head`; what is behind them is at most part of one header.
    fn consume(&mut self, c: usize, count: usize) {
        let connection = &mut self.connections[c];
        connection.head.copy_within(count..connection.have, 0);
        connection.have -= count;
    }

    /// Bytes of header to be had before the PDU can be taken.
    fn head_need(&self, c: usize) -> Result<usize, FatalError> {
        let connection = &self.connections[c];
        if connection.have < COMMON_BYTES {
            return Ok(connection.first_header_bytes(connection.r2ts));
        }
        self.head(c).map(|head| head.bytes)
    }

    /// Judges the common header at the front of `head` in the connection's state (P1 to P12, P14).
    fn head(&self, c: usize) -> Result<Head, FatalError> {
        let connection = &self.connections[c];
        let common = CommonHeader::parse(&connection.head).expect("a head holds a common header");
        let kind = PduKind::new(common.kind);
        match (connection.state, kind) {
            (State::AwaitsIcReq, Some(PduKind::IcReq)) => {}
            (State::AwaitsIcReq, _) | (_, Some(PduKind::IcReq)) => {
                return Err(FatalError::Sequence);
            }
            _ => {}
        }
        let kind = match kind {
            Some(
                kind @ (PduKind::IcReq
                | PduKind::CapsuleCmd
                | PduKind::H2cData
                | PduKind::H2cTermReq),
            ) => kind,
            Some(
                PduKind::IcResp
                | PduKind::C2hTermReq
                | PduKind::CapsuleResp
                | PduKind::C2hData
                | PduKind::R2t,
            )
            | None => {
                return Err(FatalError::HeaderField(AT_KIND));
            }
        };
        let header = kind.header_bytes();
        if usize::from(common.hlen) != header {
            return Err(FatalError::HeaderField(AT_HLEN));
        }
        let flags = common.flags;
        match kind {
            PduKind::IcReq => {
                return if common.plen as usize == IC_BYTES {
                    Ok(Head { kind, flags, bytes: IC_BYTES, data: 0 })
                } else {
                    Err(FatalError::HeaderField(AT_PLEN))
                };
            }
            PduKind::H2cTermReq => {
                return Ok(Head { kind, flags, bytes: COMMON_BYTES, data: 0 });
            }
            _ => {}
        }
        if connection.header_digest != (flags & pdu_flag::HDGST != 0) {
            return Err(FatalError::HeaderField(AT_FLAGS));
        }
        let bytes = header + if connection.header_digest { DIGEST_BYTES } else { 0 };
        if (common.plen as usize) < bytes {
            return Err(FatalError::HeaderField(AT_PLEN));
        }
        if common.plen as usize == bytes {
            // A capsule without data; data PDUs have some.
            return if kind == PduKind::CapsuleCmd {
                Ok(Head { kind, flags, bytes, data: 0 })
            } else {
                Err(FatalError::HeaderField(AT_PLEN))
            };
        }
        // CPDA is 0: data starts at a multiple of 4.
        let pdo = common.pdo;
        if !pdo.is_multiple_of(4)
            || usize::from(pdo) < bytes
            || u32::from(pdo) > common.plen
            || pdo > PDO_MAX
        {
            return Err(FatalError::HeaderField(AT_PDO));
        }
        if connection.data_digest != (flags & pdu_flag::DDGST != 0) {
            return Err(FatalError::HeaderField(AT_FLAGS));
        }
        let trailer = if connection.data_digest { DIGEST_BYTES as u32 } else { 0 };
        let data = (common.plen - u32::from(pdo)).checked_sub(trailer).filter(|&data| data > 0);
        let data = data.ok_or(FatalError::HeaderField(AT_PLEN))?;
        Ok(Head { kind, flags, bytes: pdo.into(), data })
    }

    /// Checks the header digest behind a header of `bytes` (P13).
    fn check_header_digest(&self, c: usize, bytes: usize) -> Result<(), FatalError> {
        let connection = &self.connections[c];
        if !connection.header_digest {
            return Ok(());
        }
        let mut raw = [0; DIGEST_BYTES];
        raw.copy_from_slice(&connection.head[bytes..bytes + DIGEST_BYTES]);
        let received = u32::from_le_bytes(raw);
        if crc32c(&connection.head[..bytes]) == received {
            Ok(())
        } else {
            Err(FatalError::HeaderDigest(received))
        }
    }

    /// ICReq (TCP 3.3): grants digests, answers.
    fn initialise(&mut self, c: usize) -> Result<(), FatalError> {
        let now = self.now;
        let maxh2cdata = self.config.limits.transfer_bytes_max;
        let connection = &mut self.connections[c];
        let request = IcReq::parse(&connection.head).expect("an ICReq is complete");
        if request.pfv != 0 {
            return Err(FatalError::Unsupported(AT_PFV));
        }
        if request.hpda > HPDA_MAX {
            return Err(FatalError::HeaderField(AT_HPDA));
        }
        let granted = request.dgst & (dgst::HEADER | dgst::DATA);
        let answer = connection.stage.bytes(IC_BYTES, super::stage::After::Nothing);
        IcResp { pfv: 0, cpda: 0, dgst: granted, maxh2cdata }.emit(answer);
        CommonHeader::plain(PduKind::IcResp).emit(answer);
        connection.alignment = (usize::from(request.hpda) + 1) * 4;
        connection.header_digest = granted & dgst::HEADER != 0;
        connection.data_digest = granted & dgst::DATA != 0;
        connection.state = State::AwaitsConnect;
        self.consume(c, IC_BYTES);
        self.set_connect_deadline(c, now);
        Ok(())
    }

    fn capsule(&mut self, c: usize, head: Head) -> Result<(), FatalError> {
        self.check_header_digest(c, CAPSULE_BYTES)?;
        let connection = &self.connections[c];
        let room = if connection.qid == 0 {
            ADMIN_CAPSULE_BYTES
        } else {
            self.config.limits.in_capsule_bytes
        };
        if head.data > room {
            return Err(FatalError::LimitExceeded);
        }
        // More commands than the queue has entries (R3).
        if connection.is_full() {
            return Err(FatalError::Sequence);
        }
        let digest = head.data > 0 && head.flags & pdu_flag::DDGST != 0;
        let sqe =
            Sqe::parse(&connection.head[COMMON_BYTES..]).expect("a capsule's header is complete");
        self.consume(c, head.bytes);
        self.command(c, &sqe, head.data, digest);
        Ok(())
    }

    /// H2CData (TCP 3.6.2.6): must be what an R2T asked for, and next in order (P17 to P25).
    fn data(&mut self, c: usize, head: Head) -> Result<(), FatalError> {
        self.check_header_digest(c, SHORT_BYTES)?;
        let limit = self.config.limits.transfer_bytes_max;
        let connection = &mut self.connections[c];
        let pdu = DataPdu::parse(&connection.head).expect("a data PDU's header is complete");
        let slot = connection.slot_of_tag(pdu.ttag).ok_or(FatalError::Sequence)?;
        let entry = &mut connection.slots[usize::from(slot)];
        let phase = entry.phase;
        let transfer = entry.r2t.as_mut().ok_or(FatalError::Sequence)?;
        if entry.cid != pdu.cccid {
            return Err(FatalError::Sequence);
        }
        if pdu.datal > limit {
            return Err(FatalError::LimitExceeded);
        }
        if pdu.datao != transfer.received {
            return Err(FatalError::OutOfRange);
        }
        let end = u64::from(pdu.datao) + u64::from(pdu.datal);
        if end > u64::from(transfer.span.len) {
            return Err(FatalError::OutOfRange);
        }
        if pdu.datal != head.data {
            return Err(FatalError::HeaderField(AT_PLEN));
        }
        let last = end == u64::from(transfer.span.len);
        if !last && head.flags & pdu_flag::LAST != 0 {
            return Err(FatalError::Sequence);
        }
        let whole = Span::new(transfer.span.at + u64::from(pdu.datao), pdu.datal);
        transfer.received += pdu.datal;
        let to = if phase == Phase::Filling { To::Arena { whole } } else { To::Discard };
        connection.body = Some(Body {
            slot,
            to,
            left: pdu.datal,
            digest: head.flags & pdu_flag::DDGST != 0,
            last,
            by_r2t: true,
        });
        self.consume(c, head.bytes);
        self.set_data_deadline(c, false);
        Ok(())
    }

    /// A PDU's data is in.
    fn end_body(&mut self, c: usize, body: Body, digest: Option<u32>) {
        let connection = &mut self.connections[c];
        let entry = &mut connection.slots[usize::from(body.slot)];
        if body.by_r2t && body.last {
            entry.r2t = None;
            connection.r2ts -= 1;
        }
        match (entry.phase, body.to) {
            (Phase::Filling, To::Arena { whole }) => {
                if body.last {
                    entry.phase = Phase::AtShard;
                }
                let cmd = self.command_id(c, body.slot);
                self.push(Event::Arrived { cmd, span: whole, digest, last: body.last });
            }
            (Phase::Draining { status }, _) => {
                if body.last {
                    self.respond(c, body.slot, status, 0);
                }
            }
            (Phase::AwaitsData { sqe }, To::Small { total }) => {
                if digest
                    .is_some_and(|digest| digest != crc32c(&connection.small[..total as usize]))
                {
                    self.counters.digest_errors += 1;
                    self.respond(c, body.slot, Status::TRANSIENT_TRANSPORT_ERROR, 0);
                } else {
                    self.command_data(c, body.slot, &sqe, total as usize);
                }
            }
            (phase, to) => unreachable!("data of a command in {phase:?} went to {to:?}"),
        }
        self.set_data_deadline(c, true);
    }
}
