//! One queue: a connection, its outstanding commands, and what is on its way to the target. Reception is in `receive`.

use crate::ClientError;
use crate::receive::Receiver;
use crate::wait::wait;
use crc_fast::{CrcAlgorithm, checksum};
use ibid_wire::nvme_tcp::{
    AUTH_BYTES_MAX, CAPSULE_BYTES, COMMON_BYTES, CommonHeader, DIGEST_BYTES, DataPdu, FatalError,
    IC_BYTES, IcReq, IcResp, PduKind, R2t, SHORT_BYTES, Sqe, Status, TermReq, dgst, pdu_flag,
};
use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Slices in one gathering write.
const SLICES_MAX: usize = 48;
/// Data that travels with its header: a range list, Connect data, or a message of an authentication.
const SMALL_BYTES: usize = AUTH_BYTES_MAX;
/// Header, digest, small data, digest.
const HEAD_BYTES: usize = CAPSULE_BYTES + DIGEST_BYTES + SMALL_BYTES + DIGEST_BYTES;
/// MAXH2CDATA is at least this (TCP 3.6.2.3).
const MAXH2CDATA_MIN: u32 = 4096;

pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// A request that has ended.
#[derive(Debug)]
pub struct Completion {
    /// What the caller named it.
    pub token: u64,
    /// How it ended.
    pub status: Status,
    /// Command-specific result.
    pub result: u64,
    /// The caller's buffer.
    pub buffer: Vec<u8>,
}

/// Where the data of a command goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flow {
    Free,
    /// No data, or all of it in the capsule.
    Settled,
    /// Data comes; so much has.
    In {
        done: u32,
    },
    /// R2Ts ask for data; so much was asked for, so much is on its way.
    Out {
        asked: u32,
        staged: u32,
    },
}

pub(crate) struct Slot {
    pub(crate) flow: Flow,
    pub(crate) token: u64,
    pub(crate) buffer: Vec<u8>,
    /// Bytes of the transfer.
    pub(crate) len: u32,
    /// A data digest was wrong.
    pub(crate) spoiled: bool,
}

/// A PDU on its way out: a head, then maybe bytes of a slot's buffer, then maybe their digest.
struct Out {
    head: Box<[u8]>,
    head_len: usize,
    slot: u16,
    from: usize,
    len: usize,
    digest: [u8; DIGEST_BYTES],
    digest_len: usize,
}

impl Out {
    fn bytes(&self) -> usize {
        self.head_len + self.len + self.digest_len
    }
}

/// What a connection is opened with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wishes {
    pub(crate) depth: u16,
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
    pub(crate) timeout: Duration,
}

pub(crate) struct Queue {
    pub(crate) stream: TcpStream,
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
    maxh2cdata: u32,
    /// Data that fits a capsule.
    pub(crate) in_capsule: u32,
    pub(crate) slots: Vec<Slot>,
    free: Vec<u16>,
    out: VecDeque<Out>,
    /// Heads to be used again.
    spare: Vec<Box<[u8]>>,
    /// Bytes of the first `out` that have gone.
    gone: usize,
    pub(crate) receiver: Receiver,
    timeout: Duration,
}

impl Queue {
    /// Connects and exchanges ICReq and ICResp.
    pub(crate) fn open(addr: SocketAddr, wishes: Wishes) -> Result<Self, ClientError> {
        let socket = |doing| move |source| ClientError::Socket { doing, source };
        let mut stream =
            TcpStream::connect_timeout(&addr, wishes.timeout).map_err(socket("connect"))?;
        stream.set_nodelay(true).map_err(socket("set TCP_NODELAY"))?;
        stream.set_read_timeout(Some(wishes.timeout)).map_err(socket("set a timeout"))?;
        let mut bytes = [0; IC_BYTES];
        let asked = if wishes.header_digest { dgst::HEADER } else { 0 }
            | if wishes.data_digest { dgst::DATA } else { 0 };
        IcReq { pfv: 0, hpda: 0, dgst: asked, maxr2t: 0 }.emit(&mut bytes);
        CommonHeader::plain(PduKind::IcReq).emit(&mut bytes);
        stream.write_all(&bytes).map_err(socket("send ICReq"))?;
        stream.read_exact(&mut bytes[..COMMON_BYTES]).map_err(socket("receive ICResp"))?;
        let common =
            CommonHeader::parse(&bytes).map_err(|_| ClientError::Protocol("short header"))?;
        match PduKind::new(common.kind) {
            Some(PduKind::IcResp) if common == CommonHeader::plain(PduKind::IcResp) => {}
            Some(PduKind::C2hTermReq) => {
                stream
                    .read_exact(&mut bytes[COMMON_BYTES..SHORT_BYTES])
                    .map_err(socket("receive ICResp"))?;
                return Err(terminated(&bytes));
            }
            _ => return Err(ClientError::Protocol("the answer to ICReq is no ICResp")),
        }
        stream.read_exact(&mut bytes[COMMON_BYTES..]).map_err(socket("receive ICResp"))?;
        let granted = IcResp::parse(&bytes).map_err(|_| ClientError::Protocol("short ICResp"))?;
        if granted.pfv != 0 || granted.dgst & !asked != 0 {
            return Err(ClientError::Protocol("ICResp grants what was not asked for"));
        }
        if granted.cpda != 0 {
            return Err(ClientError::Unsupported("data without alignment (CPDA is not 0)"));
        }
        if granted.maxh2cdata < MAXH2CDATA_MIN || !granted.maxh2cdata.is_multiple_of(4) {
            return Err(ClientError::Protocol("MAXH2CDATA is out of range"));
        }
        stream.set_nonblocking(true).map_err(socket("set non-blocking"))?;
        let depth = usize::from(wishes.depth);
        let idle =
            || Slot { flow: Flow::Free, token: 0, buffer: Vec::new(), len: 0, spoiled: false };
        // A command has at most its capsule and one data PDU under way: one R2T is outstanding per command, and its next
        // data PDU is made when the one before has gone.
        let outs = depth * 2;
        Ok(Self {
            stream,
            header_digest: granted.dgst & dgst::HEADER != 0,
            data_digest: granted.dgst & dgst::DATA != 0,
            maxh2cdata: granted.maxh2cdata,
            in_capsule: 0,
            slots: (0..depth).map(|_| idle()).collect(),
            free: (0..wishes.depth).rev().collect(),
            out: VecDeque::with_capacity(outs),
            spare: (0..outs).map(|_| vec![0; HEAD_BYTES].into_boxed_slice()).collect(),
            gone: 0,
            receiver: Receiver::new(),
            timeout: wishes.timeout,
        })
    }

    /// Commands that can still be submitted.
    pub(crate) fn room(&self) -> usize {
        self.free.len()
    }

    /// Whether there is something to send.
    pub(crate) fn wants_to_write(&self) -> bool {
        !self.out.is_empty()
    }

    /// The slot that the next command gets; its number is the command's CID. `None`: the queue is full.
    pub(crate) fn next_slot(&self) -> Option<u16> {
        self.free.last().copied()
    }

    /// Sends a command in the slot that [`Queue::next_slot`] named. `small` goes into the capsule; `flow` says what becomes of `buffer`, which
    /// goes into the capsule too where the SGL says so.
    pub(crate) fn submit(
        &mut self,
        sqe: &Sqe,
        small: &[u8],
        flow: Flow,
        len: u32,
        token: u64,
        buffer: Vec<u8>,
    ) {
        let index = self.free.pop().expect("a slot was named");
        assert!(index == sqe.cid, "a command has the identifier of another slot");
        let inline = if flow == Flow::Settled { len } else { 0 };
        let data = small.len() as u32 + inline;
        let mut head = self.spare.pop().expect("there are heads for every command");
        let header = CAPSULE_BYTES + self.header_digest_bytes();
        sqe.emit(&mut head[COMMON_BYTES..]);
        self.put_common(&mut head[..], PduKind::CapsuleCmd, header, data, 0);
        head[header..header + small.len()].copy_from_slice(small);
        let mut head_len = header + small.len();
        let mut out = Out {
            head,
            head_len,
            slot: index,
            from: 0,
            len: inline as usize,
            digest: [0; 4],
            digest_len: 0,
        };
        if self.data_digest && data > 0 {
            let digest =
                crc32c(if inline > 0 { &buffer[..inline as usize] } else { small }).to_le_bytes();
            if inline > 0 {
                out.digest = digest;
                out.digest_len = DIGEST_BYTES;
            } else {
                out.head[head_len..head_len + DIGEST_BYTES].copy_from_slice(&digest);
                head_len += DIGEST_BYTES;
            }
        }
        out.head_len = head_len;
        self.out.push_back(out);
        self.slots[usize::from(index)] = Slot { flow, token, buffer, len, spoiled: false };
    }

    fn header_digest_bytes(&self) -> usize {
        if self.header_digest { DIGEST_BYTES } else { 0 }
    }

    /// Writes the common header and the digest behind a header of `header` bytes with digest.
    fn put_common(&self, head: &mut [u8], kind: PduKind, header: usize, data: u32, flags: u8) {
        let trailer = if self.data_digest && data > 0 { DIGEST_BYTES as u32 } else { 0 };
        let flags = flags
            | if self.header_digest { pdu_flag::HDGST } else { 0 }
            | if trailer > 0 { pdu_flag::DDGST } else { 0 };
        let bare = kind.header_bytes();
        let pdo = if data > 0 { header as u8 } else { 0 };
        let plen = header as u32 + data + trailer;
        CommonHeader { kind: kind as u8, flags, hlen: bare as u8, pdo, plen }.emit(head);
        if self.header_digest {
            let digest = crc32c(&head[..bare]);
            head[bare..bare + DIGEST_BYTES].copy_from_slice(&digest.to_le_bytes());
        }
    }

    /// The target asks for data.
    pub(crate) fn asked(&mut self, r2t: R2t) -> Result<(), ClientError> {
        let slot = self
            .slots
            .get_mut(usize::from(r2t.cccid))
            .ok_or(ClientError::Protocol("R2T for an unknown command"))?;
        let Flow::Out { asked, staged } = slot.flow else {
            return Err(ClientError::Protocol("R2T for a command that sends nothing"));
        };
        if asked != staged {
            return Err(ClientError::Protocol("a second R2T for a command"));
        }
        let end = r2t.r2to.checked_add(r2t.r2tl).filter(|&end| end <= slot.len);
        let end = end.ok_or(ClientError::Protocol("R2T asks for more than there is"))?;
        if r2t.r2to != asked || r2t.r2tl == 0 {
            return Err(ClientError::Protocol("R2T out of order"));
        }
        slot.flow = Flow::Out { asked: end, staged };
        self.stage_data(r2t.cccid, r2t.ttag);
        Ok(())
    }

    /// Stages the next H2CData of what was asked for.
    fn stage_data(&mut self, index: u16, ttag: u16) {
        let slot = &mut self.slots[usize::from(index)];
        let Flow::Out { asked, staged } = slot.flow else {
            return;
        };
        let len = (asked - staged).min(self.maxh2cdata);
        if len == 0 {
            return;
        }
        slot.flow = Flow::Out { asked, staged: staged + len };
        let last = staged + len == asked;
        let mut out = Out {
            head: self.spare.pop().expect("there are heads for every command's data"),
            head_len: SHORT_BYTES + self.header_digest_bytes(),
            slot: index,
            from: staged as usize,
            len: len as usize,
            digest: [0; DIGEST_BYTES],
            digest_len: 0,
        };
        DataPdu { cccid: index, ttag, datao: staged, datal: len }.emit(&mut out.head[..]);
        let flags = if last { pdu_flag::LAST } else { 0 };
        self.put_common(&mut out.head[..], PduKind::H2cData, out.head_len, len, flags);
        if self.data_digest {
            let bytes = &self.slots[usize::from(index)].buffer[out.from..out.from + out.len];
            out.digest = crc32c(bytes).to_le_bytes();
            out.digest_len = DIGEST_BYTES;
        }
        self.out.push_back(out);
    }

    /// Sends what can be sent now.
    pub(crate) fn flush(&mut self) -> Result<(), ClientError> {
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            let mut skip = self.gone;
            for out in &self.out {
                if count + 3 > SLICES_MAX {
                    break;
                }
                let body = &self.slots[usize::from(out.slot)].buffer[out.from..out.from + out.len];
                for part in [&out.head[..out.head_len], body, &out.digest[..out.digest_len]] {
                    let dropped = skip.min(part.len());
                    skip -= dropped;
                    if part.len() > dropped {
                        slices[count] = IoSlice::new(&part[dropped..]);
                        count += 1;
                    }
                }
            }
            match self.stream.write_vectored(&slices[..count]) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(written) => self.wrote(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(ClientError::Socket { doing: "send", source });
                }
            }
        }
        Ok(())
    }

    fn wrote(&mut self, written: usize) {
        self.gone += written;
        while let Some(out) = self.out.front()
            && self.gone >= out.bytes()
        {
            self.gone -= out.bytes();
            let out = self.out.pop_front().expect("it is there");
            let is_data = out.head[0] == PduKind::H2cData as u8;
            let ttag = u16::from_le_bytes([out.head[10], out.head[11]]);
            self.spare.push(out.head);
            if is_data {
                self.stage_data(out.slot, ttag);
            }
        }
    }

    /// Ends the command of a slot.
    pub(crate) fn end(
        &mut self,
        index: u16,
        status: Status,
        result: u64,
        sink: &mut dyn FnMut(Completion),
    ) -> Result<(), ClientError> {
        let slot = &mut self.slots[usize::from(index)];
        match slot.flow {
            Flow::Free => return Err(ClientError::Protocol("a completion for no command")),
            Flow::In { done } if status.is_success() && done < slot.len => {
                return Err(ClientError::Protocol("a read succeeded without all its data"));
            }
            Flow::Out { staged, .. } if status.is_success() && staged < slot.len => {
                return Err(ClientError::Protocol("a write succeeded without all its data"));
            }
            Flow::Settled | Flow::In { .. } | Flow::Out { .. } => {}
        }
        if self.out.iter().any(|out| out.slot == index) {
            return Err(ClientError::Protocol("a completion before the command was sent"));
        }
        let status = if status.is_success() && slot.spoiled {
            Status::TRANSIENT_TRANSPORT_ERROR
        } else {
            status
        };
        slot.flow = Flow::Free;
        let buffer = std::mem::take(&mut slot.buffer);
        self.free.push(index);
        sink(Completion { token: slot.token, status, result, buffer });
        Ok(())
    }

    /// Sends and receives what can be now, without waiting; returns how many commands ended.
    pub(crate) fn poll(&mut self, sink: &mut dyn FnMut(Completion)) -> Result<usize, ClientError> {
        self.flush()?;
        let ended = self.receive(sink)?;
        self.flush()?;
        Ok(ended)
    }

    /// Sends one command and waits for its end: admin commands and blocking convenience.
    pub(crate) fn run(
        &mut self,
        doing: &'static str,
        mut until: impl FnMut(Completion) -> bool,
    ) -> Result<(), ClientError> {
        let deadline = Instant::now() + self.timeout;
        let mut found = false;
        loop {
            self.poll(&mut |completion| found |= until(completion))?;
            if found {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ClientError::Timeout(doing));
            }
            wait([(&self.stream, self.wants_to_write())].into_iter(), left)
                .map_err(|source| ClientError::Socket { doing, source })?;
        }
    }
}

/// The reason in a C2HTermReq.
pub(crate) fn terminated(bytes: &[u8]) -> ClientError {
    match TermReq::parse(bytes).ok().and_then(FatalError::from_term) {
        Some(fatal) => ClientError::Terminated(fatal),
        None => ClientError::Protocol("a termination without a known reason"),
    }
}
