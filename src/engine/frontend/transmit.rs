//! Transmission: responses, R2Ts and read data, staged in the order in which their commands became ready.

use super::connection::{Phase, State, Transfer};
use super::stage::{After, LAST_WORD_ROOM, PieceList};
use super::{ConnId, Event, Frontend};
use ibid_units::{Nanos, Span};
use ibid_wire::nvme_tcp::{
    CAPSULE_BYTES, COMMON_BYTES, CommonHeader, Cqe, DIGEST_BYTES, DataPdu, DiscoveryRecord,
    FatalError, IDENTIFY_BYTES, PduKind, R2t, RESPONSE_BYTES, SHORT_BYTES, Status, TermReq, crc32c,
    pdu_flag,
};

/// Most bytes of a data PDU's header with digest and padding (HPDA ≤ 31).
const DATA_HEAD_MAX: usize = 128;
/// Room that must be free to stage one PDU of any kind but a small structure: a data header, a digest, a response behind it.
const PDU_ROOM: usize = DATA_HEAD_MAX + DIGEST_BYTES + RESPONSE_BYTES + DIGEST_BYTES;
/// Pieces of that.
const PDU_ITEMS: usize = 4;
const _: () = assert!(LAST_WORD_ROOM >= SHORT_BYTES + CAPSULE_BYTES + DIGEST_BYTES);

impl Frontend {
    /// What to send next on a connection, as many pieces as the list holds. Clears the list first.
    pub fn send_plan<'a>(&'a self, conn: ConnId, out: &mut PieceList<'a>) {
        out.clear();
        self.connections[conn.index()].stage.plan(out);
    }

    /// The first `count` bytes of the plan have gone.
    pub fn sent(&mut self, conn: ConnId, count: usize) {
        let c = conn.index();
        self.connections[c].send_deadline = Nanos::NEVER;
        let mut left = count;
        while let Some((rest, after)) = self.connections[c].stage.take(left) {
            left = rest;
            match after {
                After::Nothing => {}
                After::Release(slot) => self.release(c, slot),
                After::Free(slot) => self.connections[c].free_slot(slot),
                After::ReleaseAndFree(slot) => {
                    self.release(c, slot);
                    self.connections[c].free_slot(slot);
                }
            }
            if left == 0 {
                break;
            }
        }
        self.fill(c);
    }

    fn release(&mut self, c: usize, slot: u16) {
        let cmd = self.command_id(c, slot);
        self.connections[c].slots[usize::from(slot)].pinned = false;
        self.push(Event::Released { cmd });
    }

    /// Ends a command: queues its response.
    pub(super) fn respond(&mut self, c: usize, slot: u16, status: Status, result: u64) {
        let status = self.with_delay(c, status);
        self.connections[c].slots[usize::from(slot)].phase = Phase::Responding { status, result };
        self.enqueue(c, slot);
    }

    /// Queues what a slot's phase says is to be sent.
    pub(super) fn enqueue(&mut self, c: usize, slot: u16) {
        let connection = &mut self.connections[c];
        let entry = &mut connection.slots[usize::from(slot)];
        if !entry.queued && connection.state != State::Closing {
            entry.queued = true;
            connection.queue.push_back(slot);
            self.fill(c);
        }
    }

    /// Stages as much of the queue as there is room for.
    pub(super) fn fill(&mut self, c: usize) {
        while let Some(&slot) = self.connections[c].queue.front() {
            let phase = self.connections[c].slots[usize::from(slot)].phase;
            let room = if matches!(phase, Phase::Reply { .. }) {
                PDU_ROOM + IDENTIFY_BYTES
            } else {
                PDU_ROOM
            };
            if !self.connections[c].stage.has_room(PDU_ITEMS, room) {
                break;
            }
            let is_done = match phase {
                Phase::AwaitsR2t { span } => self.stage_r2t(c, slot, span),
                Phase::Responding { status, result } => {
                    self.stage_response(c, slot, status, result);
                    true
                }
                Phase::Sending { count, next, offset } => {
                    self.stage_piece(c, slot, count, next, offset)
                }
                Phase::Reply { .. } => self.stage_reply(c, slot),
                Phase::Free
                | Phase::AwaitsData { .. }
                | Phase::AwaitsPages { .. }
                | Phase::Filling
                | Phase::Draining { .. }
                | Phase::AtShard
                | Phase::Ranges { .. }
                | Phase::Reading { .. }
                | Phase::Held
                | Phase::AwaitsAuth
                | Phase::Leaving => unreachable!("{phase:?} stands in a transmit queue"),
            };
            if is_done {
                let connection = &mut self.connections[c];
                connection.queue.pop_front();
                connection.slots[usize::from(slot)].queued = false;
            }
        }
        self.set_send_deadline(c);
    }

    fn stage_r2t(&mut self, c: usize, slot: u16, span: Span) -> bool {
        let connection = &mut self.connections[c];
        let tag = connection.tag(slot);
        let entry = &mut connection.slots[usize::from(slot)];
        entry.phase = Phase::Filling;
        entry.r2t = Some(Transfer { span, received: 0 });
        connection.r2ts += 1;
        let r2t = R2t { cccid: entry.cid, ttag: tag, r2to: 0, r2tl: span.len };
        self.stage_header(c, PduKind::R2t, 0, None, After::Nothing, |out| r2t.emit(out));
        self.set_data_deadline(c, false);
        true
    }

    fn stage_response(&mut self, c: usize, slot: u16, status: Status, result: u64) {
        let connection = &mut self.connections[c];
        let entry = &mut connection.slots[usize::from(slot)];
        entry.phase = Phase::Leaving;
        let mut cqe = Cqe::new(entry.cid, status, result);
        cqe.sqhd = connection.advance_sq_head();
        self.stage_header(c, PduKind::CapsuleResp, 0, None, After::Free(slot), |out| {
            cqe.emit(&mut out[COMMON_BYTES..])
        });
    }

    /// One piece of a read as one C2HData; behind the last one the completion, by flag where the host has given up flow control.
    fn stage_piece(&mut self, c: usize, slot: u16, count: u8, next: u8, offset: u32) -> bool {
        let connection = &mut self.connections[c];
        let piece = connection.pieces[usize::from(slot)][usize::from(next)];
        let is_last = next + 1 == count;
        let ends = is_last && !connection.flow_control;
        let has_digest = connection.data_digest;
        let entry = &mut connection.slots[usize::from(slot)];
        let pdu = DataPdu { cccid: entry.cid, ttag: 0, datao: offset, datal: piece.span.len };
        let flags =
            if is_last { pdu_flag::LAST } else { 0 } | if ends { pdu_flag::SUCCESS } else { 0 };
        if !is_last {
            entry.phase = Phase::Sending { count, next: next + 1, offset: offset + piece.span.len };
        } else if ends {
            entry.phase = Phase::Leaving;
            connection.advance_sq_head();
        }
        self.stage_header(
            c,
            PduKind::C2hData,
            flags,
            Some(piece.span.len),
            After::Nothing,
            |out| pdu.emit(out),
        );
        let stage = &mut self.connections[c].stage;
        let after_payload = match (is_last, ends, has_digest) {
            (true, true, false) => After::ReleaseAndFree(slot),
            (true, _, _) => After::Release(slot),
            (false, _, _) => After::Nothing,
        };
        stage.span(slot, piece.span, after_payload);
        if has_digest {
            let crc = piece.crc.expect("a piece of a connection with data digests has one");
            let after = if ends { After::Free(slot) } else { After::Nothing };
            stage.bytes(DIGEST_BYTES, after).copy_from_slice(&crc.to_le_bytes());
        }
        if is_last && !ends {
            self.stage_response(c, slot, Status::SUCCESS, 0);
        }
        is_last
    }

    /// A part of a small structure as one C2HData, and the completion behind the last part.
    fn stage_reply(&mut self, c: usize, slot: u16) -> bool {
        let Phase::Reply { page, at, bytes, sent } =
            self.connections[c].slots[usize::from(slot)].phase
        else {
            unreachable!("only a reply is staged as one");
        };
        let from = at + u64::from(sent);
        let (begins, rendered) = self.render(c, page, from);
        // A page that is rendered in parts is sent in these parts; behind its end there are zeroes.
        let room = IDENTIFY_BYTES as u64 - (from - begins) % DiscoveryRecord::BYTES as u64;
        let len = (bytes - sent).min(room as u32);
        let from = (from - begins).min(rendered as u64) as usize;
        let held = (rendered - from).min(len as usize);
        let is_last = sent + len == bytes;
        let cid = self.connections[c].slots[usize::from(slot)].cid;
        let pdu = DataPdu { cccid: cid, ttag: 0, datao: sent, datal: len };
        let flags = if is_last { pdu_flag::LAST } else { 0 };
        self.stage_header(c, PduKind::C2hData, flags, Some(len), After::Nothing, |out| {
            pdu.emit(out)
        });
        let has_digest = self.connections[c].data_digest;
        let stage = &mut self.connections[c].stage;
        let out = stage.bytes(len as usize, After::Nothing);
        out.fill(0);
        out[..held].copy_from_slice(&self.scratch[from..from + held]);
        let crc = crc32c(out);
        if has_digest {
            stage.bytes(DIGEST_BYTES, After::Nothing).copy_from_slice(&crc.to_le_bytes());
        }
        if is_last {
            self.stage_response(c, slot, Status::SUCCESS, 0);
        } else {
            self.connections[c].slots[usize::from(slot)].phase =
                Phase::Reply { page, at, bytes, sent: sent + len };
        }
        is_last
    }

    /// Stages a PDU's header with its digest and the padding up to its data; `emit` writes what is behind the common header.
    fn stage_header(
        &mut self,
        c: usize,
        kind: PduKind,
        flags: u8,
        data: Option<u32>,
        after: After,
        emit: impl FnOnce(&mut [u8]),
    ) {
        let connection = &mut self.connections[c];
        let bare = kind.header_bytes();
        let header = bare + if connection.header_digest { DIGEST_BYTES } else { 0 };
        let pdo = if data.is_some() { header.next_multiple_of(connection.alignment) } else { 0 };
        let trailer = if data.is_some() && connection.data_digest { DIGEST_BYTES } else { 0 };
        let bytes = header.max(pdo);
        let flags = flags
            | if connection.header_digest { pdu_flag::HDGST } else { 0 }
            | if trailer > 0 { pdu_flag::DDGST } else { 0 };
        let out = connection.stage.bytes(bytes, after);
        out.fill(0);
        emit(out);
        let plen = bytes as u32 + data.unwrap_or(0) + trailer as u32;
        CommonHeader { kind: kind as u8, flags, hlen: bare as u8, pdo: pdo as u8, plen }.emit(out);
        if connection.header_digest {
            let digest = crc32c(&out[..bare]);
            out[bare..bare + DIGEST_BYTES].copy_from_slice(&digest.to_le_bytes());
        }
    }

    /// Gives a connection up because the host broke the protocol: drops what is queued, says why, closes (TCP 3.5.2).
    pub(super) fn fail(&mut self, c: usize, fatal: FatalError) {
        self.counters.protocol_errors += 1;
        self.begin_close(c);
        let connection = &mut self.connections[c];
        // The offending header, as much of it as has come.
        let offending = connection.have.min(CAPSULE_BYTES + DIGEST_BYTES);
        let out = connection.stage.bytes(SHORT_BYTES + offending, After::Nothing);
        out[..SHORT_BYTES].fill(0);
        TermReq { fes: fatal.fes(), fei: fatal.fei() }.emit(out);
        let plen = (SHORT_BYTES + offending) as u32;
        CommonHeader { plen, ..CommonHeader::plain(PduKind::C2hTermReq) }.emit(out);
        out[SHORT_BYTES..].copy_from_slice(&connection.head[..offending]);
    }

    /// Nothing is received any more; what is staged (whole PDUs) still goes, what is queued does not. For its host the connection is
    /// gone, so the shard's commands end now and not when the last words are out (FE-5).
    pub(super) fn begin_close(&mut self, c: usize) {
        self.abandon(c);
        let connection = &mut self.connections[c];
        connection.state = State::Closing;
        connection.body = None;
        while let Some(slot) = connection.queue.pop_front() {
            connection.slots[usize::from(slot)].queued = false;
        }
        self.set_close_deadline(c);
    }
}

impl Frontend {
    /// Tells the shard that nobody waits for its commands of a connection any more.
    pub(super) fn abandon(&mut self, c: usize) {
        for slot in 0..self.connections[c].slots.len() as u16 {
            let entry = &mut self.connections[c].slots[usize::from(slot)];
            if entry.phase.is_at_shard() {
                entry.phase = Phase::Leaving;
                let cmd = self.command_id(c, slot);
                self.push(Event::Abandoned { cmd });
            }
        }
    }
}

impl super::connection::Connection {
    /// A command leaves its queue's entry: the head that its completion tells. Without flow control that is FFFFh in the Connect
    /// response, which grants it, and reserved in all others (Base 6.3).
    fn advance_sq_head(&mut self) -> u16 {
        if !self.flow_control {
            return core::mem::take(&mut self.sq_head);
        }
        self.sq_head = if self.sq_head + 1 >= self.entries { 0 } else { self.sq_head + 1 };
        self.sq_head
    }
}
