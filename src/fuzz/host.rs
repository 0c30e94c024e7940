//! What a host makes of a target's bytes: takes PDUs apart and holds each to the standard and to what the host has asked for. Also
//! makes a host's own PDUs, right or wrong.

use ibid_wire::nvme_tcp::{
    CAPSULE_BYTES, COMMON_BYTES, CommonHeader, Cqe, DIGEST_BYTES, DataPdu, FatalError, IC_BYTES,
    IcReq, IcResp, PduKind, R2t, SHORT_BYTES, Sgl, Sqe, Status, TERM_DATA_BYTES_MAX, TermReq,
    crc32c, dgst, pdu_flag,
};
use std::collections::BTreeMap;

/// A command that came to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Done {
    /// Which one.
    pub cid: u16,
    /// How.
    pub status: Status,
    /// Dwords 0 and 1 of the completion.
    pub result: u64,
    /// Data that came before.
    pub data: Vec<u8>,
}

/// What a target said, without what may differ by the cut of the stream: queue heads, and how much of a refused header comes back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// The connection's parameters.
    IcResp(IcResp),
    /// The end of a command, with its data.
    Done(Done),
    /// Data of a command, a part of it.
    Data(DataPdu, Vec<u8>),
    /// A wish for data.
    R2t(R2t),
    /// The end of the connection.
    Term(TermReq),
}

/// A command whose end is awaited.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    /// How many with this identifier: of two at a time the second is refused, and both end.
    count: u32,
    /// Most bytes that may come back, or that an R2T may ask for.
    room: u32,
    /// Bytes that came back.
    received: u32,
}

/// One connection as its host sees it.
#[derive(Debug, Default)]
pub struct Host {
    /// Header digests are on.
    pub header_digest: bool,
    /// Data digests are on.
    pub data_digest: bool,
    /// C2HData starts at a multiple of this; 0 where the host has sent what is no ICReq.
    alignment: usize,
    initialised: bool,
    terminated: bool,
    /// Every command was noted by [`Host::ask`]: what was not asked for is an error.
    pub strict: bool,
    asked: BTreeMap<u16, Asked>,
    /// Data of commands that are not at their end.
    data: BTreeMap<u16, Vec<u8>>,
    /// R2Ts that nobody has answered in full, and how much of each was answered.
    pub r2ts: Vec<(R2t, u32)>,
    /// Commands that came to their end, until somebody looks.
    pub done: Vec<Done>,
    /// Bytes of a PDU that is not complete.
    partial: Vec<u8>,
}

impl Host {
    /// An ICReq as it is sent: what the answer must keep to.
    pub fn initialise(&mut self, hpda: u8, digests: u8) -> Vec<u8> {
        self.alignment = (usize::from(hpda & 31) + 1) * 4;
        let mut bytes = vec![0; IC_BYTES];
        IcReq { pfv: 0, hpda: hpda & 31, dgst: digests & 3, maxr2t: 0 }.emit(&mut bytes);
        CommonHeader::plain(PduKind::IcReq).emit(&mut bytes);
        bytes
    }

    /// A command capsule, with the digests that were negotiated. From now on the command's end is awaited.
    pub fn ask(&mut self, sqe: &Sqe, data: &[u8]) -> Vec<u8> {
        // What a host expects to send by data PDUs, and to get, is at most what its SGL says.
        let room = if data.is_empty() { sqe.sgl.length } else { 0 };
        let asked = self.asked.entry(sqe.cid).or_default();
        asked.count += 1;
        asked.room = asked.room.max(room);
        let mut head = vec![0; CAPSULE_BYTES];
        sqe.emit(&mut head[COMMON_BYTES..]);
        self.seal(PduKind::CapsuleCmd as u8, head, data, 0)
    }

    /// Whether the end of this command is still awaited.
    pub fn awaits(&self, cid: u16) -> bool {
        self.asked.contains_key(&cid)
    }

    /// A PDU of any kind around a header and data, with the digests that were negotiated.
    pub fn seal(&self, kind: u8, mut head: Vec<u8>, data: &[u8], flags: u8) -> Vec<u8> {
        let bare = head.len();
        let header_digest = if self.header_digest { DIGEST_BYTES } else { 0 };
        let trailer = if self.data_digest && !data.is_empty() { DIGEST_BYTES } else { 0 };
        let mut flags = flags | if self.header_digest { pdu_flag::HDGST } else { 0 };
        let mut pdo = 0;
        if !data.is_empty() {
            pdo = (bare + header_digest) as u8;
            flags |= if self.data_digest { pdu_flag::DDGST } else { 0 };
        }
        let plen = (bare + header_digest + data.len() + trailer) as u32;
        CommonHeader { kind, flags, hlen: bare as u8, pdo, plen }.emit(&mut head);
        if self.header_digest {
            let crc = crc32c(&head[..bare]);
            head.extend_from_slice(&crc.to_le_bytes());
        }
        head.extend_from_slice(data);
        if trailer > 0 {
            head.extend_from_slice(&crc32c(data).to_le_bytes());
        }
        head
    }

    /// Data for an R2T.
    pub fn h2c(&self, pdu: DataPdu, data: &[u8], last: bool) -> Vec<u8> {
        let mut head = vec![0; SHORT_BYTES];
        pdu.emit(&mut head);
        self.seal(PduKind::H2cData as u8, head, data, if last { pdu_flag::LAST } else { 0 })
    }

    /// Takes what the target sent.
    pub fn hear(&mut self, bytes: &[u8], said: &mut Vec<Said>) {
        self.partial.extend_from_slice(bytes);
        let mut from = 0;
        while let Ok(common) = CommonHeader::parse(&self.partial[from..]) {
            let Some(pdu) = self.partial.get(from..from + common.plen as usize) else {
                break;
            };
            let pdu = pdu.to_vec();
            from += pdu.len();
            said.push(self.pdu(common, &pdu));
        }
        self.partial.drain(..from);
    }

    fn pdu(&mut self, common: CommonHeader, pdu: &[u8]) -> Said {
        assert!(!self.terminated, "a target goes on behind its last word");
        let kind = PduKind::new(common.kind).expect("a target sends PDUs that exist");
        let bare = kind.header_bytes();
        assert!(usize::from(common.hlen) == bare, "{kind:?} has HLEN {}", common.hlen);
        if kind == PduKind::C2hTermReq {
            let text = pdu.len() - SHORT_BYTES;
            assert!(text <= TERM_DATA_BYTES_MAX, "a last word of {} bytes", pdu.len());
            assert!(common.flags == 0, "a last word has flags {:#x}", common.flags);
            self.terminated = true;
            let term = TermReq::parse(pdu).expect("a PDU is as long as its header");
            FatalError::from_term(term).expect("a last word has a reason that exists");
            return Said::Term(term);
        }
        if kind == PduKind::IcResp {
            assert!(!self.initialised, "a connection is initialised twice");
            assert!(pdu.len() == IC_BYTES && common.flags == 0, "a wrong ICResp");
            self.initialised = true;
            let granted = IcResp::parse(pdu).expect("a PDU is as long as its header");
            self.header_digest = granted.dgst & dgst::HEADER != 0;
            self.data_digest = granted.dgst & dgst::DATA != 0;
            return Said::IcResp(granted);
        }
        assert!(self.initialised, "{kind:?} before ICResp");
        let header_digest = if self.header_digest { DIGEST_BYTES } else { 0 };
        assert!(
            (common.flags & pdu_flag::HDGST != 0) == self.header_digest,
            "{kind:?} without the digest that was negotiated, or with one that was not"
        );
        if self.header_digest {
            let digest = &pdu[bare..bare + DIGEST_BYTES];
            assert!(digest == crc32c(&pdu[..bare]).to_le_bytes(), "{kind:?} has a wrong digest");
        }
        match kind {
            PduKind::CapsuleResp => {
                assert!(pdu.len() == bare + header_digest, "a response of {} bytes", pdu.len());
                let cqe = Cqe::parse(&pdu[COMMON_BYTES..]).expect("a response holds a completion");
                Said::Done(self.end(cqe.cid, cqe.status, cqe.result))
            }
            PduKind::R2t => {
                assert!(pdu.len() == bare + header_digest, "an R2T of {} bytes", pdu.len());
                let r2t = R2t::parse(pdu).expect("a PDU is as long as its header");
                assert!(r2t.r2tl > 0 && r2t.r2to == 0, "a strange R2T: {r2t:?}");
                if self.strict {
                    let asked = self.asked.get(&r2t.cccid).expect("an R2T for no command");
                    assert!(r2t.r2tl <= asked.room, "an R2T for more than was offered");
                }
                self.r2ts.push((r2t, 0));
                Said::R2t(r2t)
            }
            PduKind::C2hData => self.data_pdu(common, pdu),
            PduKind::IcReq
            | PduKind::IcResp
            | PduKind::H2cTermReq
            | PduKind::C2hTermReq
            | PduKind::CapsuleCmd
            | PduKind::H2cData => panic!("a target says {kind:?}"),
        }
    }

    fn data_pdu(&mut self, common: CommonHeader, pdu: &[u8]) -> Said {
        let header_digest = if self.header_digest { DIGEST_BYTES } else { 0 };
        let trailer = if self.data_digest { DIGEST_BYTES } else { 0 };
        let head = DataPdu::parse(pdu).expect("a PDU is as long as its header");
        let pdo = usize::from(common.pdo);
        assert!(pdo >= SHORT_BYTES + header_digest, "data in the header: PDO {pdo}");
        assert!(
            self.alignment == 0 || pdo.is_multiple_of(self.alignment),
            "data at {pdo}, the host asked for multiples of {}",
            self.alignment
        );
        assert!(head.datal > 0, "data of no bytes");
        assert!(pdu.len() == pdo + head.datal as usize + trailer, "data is not as long as it says");
        assert!((common.flags & pdu_flag::DDGST != 0) == self.data_digest, "wrong digest flags");
        let data = &pdu[pdo..pdo + head.datal as usize];
        if self.data_digest {
            let digest = &pdu[pdo + data.len()..];
            assert!(digest == crc32c(data).to_le_bytes(), "data has a wrong digest");
        }
        if self.strict {
            let asked = self.asked.get_mut(&head.cccid).expect("data for no command");
            assert!(head.datao == asked.received, "data out of order");
            asked.received += head.datal;
            assert!(asked.received <= asked.room, "more data than there is room for");
            self.data.entry(head.cccid).or_default().extend_from_slice(data);
        }
        if common.flags & pdu_flag::SUCCESS != 0 {
            assert!(common.flags & pdu_flag::LAST != 0, "a success before the end of the data");
            self.end(head.cccid, Status::SUCCESS, 0);
        }
        Said::Data(head, data.to_vec())
    }

    fn end(&mut self, cid: u16, status: Status, result: u64) -> Done {
        if let Some(asked) = self.asked.get_mut(&cid) {
            asked.count -= 1;
            asked.received = 0;
            if asked.count == 0 {
                self.asked.remove(&cid);
            }
        } else {
            assert!(!self.strict, "command {cid} ends, and nobody gave it");
        }
        self.r2ts.retain(|(r2t, _)| r2t.cccid != cid);
        let done = Done { cid, status, result, data: self.data.remove(&cid).unwrap_or_default() };
        self.done.push(done.clone());
        done
    }
}

/// A command with data that stands in its capsule.
pub const fn in_capsule(mut sqe: Sqe, bytes: usize) -> Sqe {
    sqe.sgl = Sgl::in_capsule(bytes as u32);
    sqe
}

/// A command with data that goes by data PDUs, in whichever direction.
pub const fn by_transport(mut sqe: Sqe, bytes: usize) -> Sqe {
    sqe.sgl = Sgl::transport(bytes as u32);
    sqe
}

/// Bytes that differ by place.
pub fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ seed).collect()
}
