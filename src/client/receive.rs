//! Reception: bytes to PDUs, data into the callers' buffers. Every length is checked against what the command asked for.

use crate::ClientError;
use crate::queue::{Completion, Flow, Queue, crc32c, terminated};
use ibid_wire::nvme_tcp::{
    COMMON_BYTES, CommonHeader, Cqe, DIGEST_BYTES, DataPdu, PduKind, R2t, SHORT_BYTES, Status,
    pdu_flag,
};
use std::io::{ErrorKind, Read};

/// Bytes received in one call when no data is due.
const INPUT_BYTES: usize = 64 << 10;
/// Data of at least so many bytes is received straight into the caller's buffer.
const DIRECT_BYTES: usize = 4096;
/// Receive calls in one poll: a busy target must not keep us from sending.
const CALLS_MAX: usize = 64;

/// Data that is being received.
#[derive(Clone, Copy)]
struct Body {
    slot: u16,
    from: u32,
    len: u32,
    have: u32,
    last: bool,
    success: bool,
}

pub(crate) struct Receiver {
    input: Box<[u8]>,
    start: usize,
    end: usize,
    body: Option<Body>,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self { input: vec![0; INPUT_BYTES].into_boxed_slice(), start: 0, end: 0, body: None }
    }
    fn have(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }
}

impl Queue {
    /// Receives what is there; returns how many commands ended.
    pub(crate) fn receive(
        &mut self,
        sink: &mut dyn FnMut(Completion),
    ) -> Result<usize, ClientError> {
        let mut ended = 0;
        for _ in 0..CALLS_MAX {
            ended += self.parse(sink)?;
            let receiver = &mut self.receiver;
            let direct = receiver.body.filter(|body| {
                (body.len - body.have) as usize >= DIRECT_BYTES && receiver.start == receiver.end
            });
            let space = match direct {
                Some(body) => {
                    &mut self.slots[usize::from(body.slot)].buffer
                        [(body.from + body.have) as usize..(body.from + body.len) as usize]
                }
                None => {
                    receiver.input.copy_within(receiver.start..receiver.end, 0);
                    receiver.end -= receiver.start;
                    receiver.start = 0;
                    &mut receiver.input[receiver.end..]
                }
            };
            let wanted = space.len();
            match self.stream.read(space) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(count) => {
                    match (direct, receiver.body.as_mut()) {
                        (Some(_), Some(body)) => body.have += count as u32,
                        _ => receiver.end += count,
                    }
                    if count < wanted {
                        // The socket is empty, or nearly: what is left shows at the next poll.
                        ended += self.parse(sink)?;
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(ClientError::Socket { doing: "receive", source });
                }
            }
        }
        Ok(ended)
    }

    /// Takes what is complete off the input.
    fn parse(&mut self, sink: &mut dyn FnMut(Completion)) -> Result<usize, ClientError> {
        let mut ended = 0;
        loop {
            if let Some(mut body) = self.receiver.body {
                let receiver = &mut self.receiver;
                let count = ((body.len - body.have) as usize).min(receiver.end - receiver.start);
                let at = (body.from + body.have) as usize;
                self.slots[usize::from(body.slot)].buffer[at..at + count]
                    .copy_from_slice(&receiver.input[receiver.start..receiver.start + count]);
                receiver.start += count;
                body.have += count as u32;
                receiver.body = Some(body);
                let trailer = if self.data_digest { DIGEST_BYTES } else { 0 };
                if body.have < body.len || receiver.have().len() < trailer {
                    return Ok(ended);
                }
                receiver.body = None;
                if trailer > 0 {
                    let received = u32::from_le_bytes([
                        receiver.have()[0],
                        receiver.have()[1],
                        receiver.have()[2],
                        receiver.have()[3],
                    ]);
                    receiver.start += trailer;
                    let slot = &mut self.slots[usize::from(body.slot)];
                    slot.spoiled |=
                        crc32c(&slot.buffer[body.from as usize..(body.from + body.len) as usize])
                            != received;
                }
                if body.success {
                    if !body.last {
                        return Err(ClientError::Protocol("success is told before the last data"));
                    }
                    self.end(body.slot, Status::SUCCESS, 0, sink)?;
                    ended += 1;
                }
                continue;
            }
            let have = self.receiver.have();
            let Ok(common) = CommonHeader::parse(have) else {
                return Ok(ended);
            };
            let kind = PduKind::new(common.kind).ok_or(ClientError::Protocol("an unknown PDU"))?;
            let bare = kind.header_bytes();
            if usize::from(common.hlen) != bare {
                return Err(ClientError::Protocol("a header of the wrong length"));
            }
            if kind == PduKind::C2hTermReq {
                if have.len() < SHORT_BYTES {
                    return Ok(ended);
                }
                return Err(terminated(have));
            }
            if self.header_digest != (common.flags & pdu_flag::HDGST != 0) {
                return Err(ClientError::Protocol("a header digest is missing or unasked for"));
            }
            let header = bare + if self.header_digest { DIGEST_BYTES } else { 0 };
            // Only data may be padded; it starts within what PDO's 8 bits can say.
            let total = if kind == PduKind::C2hData { usize::from(common.pdo) } else { header };
            if total < header || total > common.plen as usize {
                return Err(ClientError::Protocol("data starts outside of its PDU"));
            }
            if have.len() < total {
                return Ok(ended);
            }
            if self.header_digest {
                let received = u32::from_le_bytes([
                    have[bare],
                    have[bare + 1],
                    have[bare + 2],
                    have[bare + 3],
                ]);
                if crc32c(&have[..bare]) != received {
                    return Err(ClientError::Protocol("a header digest is wrong"));
                }
            }
            match kind {
                PduKind::CapsuleResp => {
                    let cqe = Cqe::parse(&have[COMMON_BYTES..])
                        .map_err(|_| ClientError::Protocol("a short completion"))?;
                    self.receiver.start += total;
                    if usize::from(cqe.cid) >= self.slots.len() {
                        return Err(ClientError::Protocol("a completion for no command"));
                    }
                    self.end(cqe.cid, cqe.status, cqe.result, sink)?;
                    ended += 1;
                }
                PduKind::R2t => {
                    let r2t = R2t::parse(have).map_err(|_| ClientError::Protocol("a short R2T"))?;
                    self.receiver.start += total;
                    self.asked(r2t)?;
                }
                PduKind::C2hData => {
                    let pdu = DataPdu::parse(have)
                        .map_err(|_| ClientError::Protocol("a short data header"))?;
                    self.receiver.start += total;
                    self.data(&common, total, pdu)?;
                }
                PduKind::IcReq
                | PduKind::IcResp
                | PduKind::H2cTermReq
                | PduKind::C2hTermReq
                | PduKind::CapsuleCmd
                | PduKind::H2cData => {
                    return Err(ClientError::Protocol("a PDU that targets don't send"));
                }
            }
        }
    }

    /// Read data is announced.
    fn data(
        &mut self,
        common: &CommonHeader,
        header: usize,
        pdu: DataPdu,
    ) -> Result<(), ClientError> {
        let slot = self
            .slots
            .get_mut(usize::from(pdu.cccid))
            .ok_or(ClientError::Protocol("data for no command"))?;
        let Flow::In { done } = slot.flow else {
            return Err(ClientError::Protocol("data for a command that takes none"));
        };
        let end = pdu.datao.checked_add(pdu.datal).filter(|&end| end <= slot.len);
        let end = end.ok_or(ClientError::Protocol("more data than was asked for"))?;
        if pdu.datao != done || pdu.datal == 0 {
            return Err(ClientError::Protocol("data out of order"));
        }
        let trailer = if self.data_digest { DIGEST_BYTES } else { 0 };
        let has_digest = common.flags & pdu_flag::DDGST != 0;
        if has_digest != self.data_digest
            || common.plen as usize != header + pdu.datal as usize + trailer
        {
            return Err(ClientError::Protocol("a data PDU of the wrong length"));
        }
        slot.flow = Flow::In { done: end };
        self.receiver.body = Some(Body {
            slot: pdu.cccid,
            from: pdu.datao,
            len: pdu.datal,
            have: 0,
            last: common.flags & pdu_flag::LAST != 0,
            success: common.flags & pdu_flag::SUCCESS != 0,
        });
        Ok(())
    }
}
