//! A host of raw bytes: PDUs are made by `ibid_wire`, changed at will, and sent on a plain socket. It checks nothing by itself.

use ibid_wire::nvme_tcp::{
    CAPSULE_BYTES, COMMON_BYTES, Cc, CommonHeader, Connect, ConnectData, Cqe, DIGEST_BYTES,
    DataPdu, FatalError, IC_BYTES, IcReq, IcResp, Io, PduKind, PropertySet, R2t, SHORT_BYTES, Sgl,
    Sqe, Status, TermReq, crc32c, opcode, pdu_flag, property, put_nqn,
};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

/// The hostile host's name; the list of hosts that may connect has it.
pub(crate) const HOST: &str = "nqn.2014-08.org.example:hostile";
/// One that must authenticate.
pub(crate) const GUARDED: &str = "nqn.2014-08.org.example:guarded";
/// Hosts that keep what others need: each by itself, so that its share is its own.
pub(crate) const WITHHOLDING: &str = "nqn.2014-08.org.example:withholding";
pub(crate) const DEAF: &str = "nqn.2014-08.org.example:deaf";
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Entries of a queue, unless a row asks for others.
pub(crate) const ENTRIES: u16 = 32;

/// A PDU as it came.
#[derive(Clone, Debug)]
pub(crate) struct Pdu {
    pub(crate) common: CommonHeader,
    pub(crate) bytes: Vec<u8>,
}

impl Pdu {
    pub(crate) fn kind(&self) -> PduKind {
        PduKind::new(self.common.kind).expect("the target sends kinds there are")
    }
    pub(crate) fn cqe(&self) -> Cqe {
        assert_eq!(self.kind(), PduKind::CapsuleResp, "{self:?}");
        Cqe::parse(&self.bytes[COMMON_BYTES..]).unwrap()
    }
    pub(crate) fn r2t(&self) -> R2t {
        assert_eq!(self.kind(), PduKind::R2t, "{self:?}");
        R2t::parse(&self.bytes).unwrap()
    }
    pub(crate) fn data(&self) -> &[u8] {
        assert_eq!(self.kind(), PduKind::C2hData, "{self:?}");
        let len = DataPdu::parse(&self.bytes).unwrap().datal as usize;
        &self.bytes[usize::from(self.common.pdo)..][..len]
    }
}

/// One connection.
pub(crate) struct Raw {
    pub(crate) socket: TcpStream,
    pub(crate) digests: bool,
}

impl Raw {
    pub(crate) fn bare(addr: SocketAddr) -> Raw {
        let socket = TcpStream::connect(addr).expect("the target accepts a connection");
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(ANSWER)).unwrap();
        socket.set_write_timeout(Some(ANSWER)).unwrap();
        Raw { socket, digests: false }
    }

    /// Behind ICReq and ICResp.
    pub(crate) fn ready(addr: SocketAddr, digests: bool) -> Raw {
        Raw::offering(addr, digests, 0)
    }

    /// The same of a host that takes so many R2Ts for one command, and one.
    pub(crate) fn offering(addr: SocketAddr, digests: bool, maxr2t: u32) -> Raw {
        let mut raw = Raw::bare(addr);
        let mut request = icreq(0, 0, if digests { 3 } else { 0 });
        request[12..16].copy_from_slice(&maxr2t.to_le_bytes());
        raw.send(&request);
        let answer = raw.pdu().expect("an ICResp comes");
        assert_eq!(answer.kind(), PduKind::IcResp);
        assert_eq!(IcResp::parse(&answer.bytes).unwrap().dgst, if digests { 3 } else { 0 });
        raw.digests = digests;
        raw
    }

    /// Sends everything; a target that has closed already is no error.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        match self.socket.write_all(bytes) {
            Ok(()) => {}
            Err(error)
                if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {}
            Err(error) => panic!("sending: {error}"),
        }
    }

    /// The next PDU; `None` where the target has closed.
    pub(crate) fn pdu(&mut self) -> Option<Pdu> {
        let mut bytes = vec![0; COMMON_BYTES];
        if !self.fill(&mut bytes) {
            return None;
        }
        let common = CommonHeader::parse(&bytes).unwrap();
        assert!(common.plen <= 2 << 20, "{common:?}");
        bytes.resize(common.plen as usize, 0);
        assert!(self.fill(&mut bytes[COMMON_BYTES..]), "a PDU of the target ends early");
        Some(Pdu { common, bytes })
    }

    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        match self.socket.read_exact(bytes) {
            Ok(()) => true,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
                ) =>
            {
                false
            }
            Err(error) => panic!("no answer of the target: {error}"),
        }
    }

    /// The connection ends with this reason, said once, and with nothing behind it.
    pub(crate) fn assert_fatal(&mut self, what: &str, allowed: &[FatalError]) {
        let pdu = self.pdu().unwrap_or_else(|| panic!("{what}: closed without a word"));
        assert_eq!(pdu.kind(), PduKind::C2hTermReq, "{what}: {pdu:?}");
        assert!(pdu.common.plen <= 152, "{what}");
        let said = FatalError::from_term(TermReq::parse(&pdu.bytes).unwrap()).unwrap();
        assert!(allowed.contains(&said), "{what}: {said}");
        self.assert_closed(what);
    }

    /// The connection ends without a word.
    pub(crate) fn assert_closed(&mut self, what: &str) {
        if let Some(pdu) = self.pdu() {
            panic!("{what}: goes on with {pdu:?}");
        }
    }

    /// The bytes of a capsule, with the digests that were negotiated.
    pub(crate) fn capsule(&self, sqe: &Sqe, data: &[u8]) -> Vec<u8> {
        let mut head = vec![0; CAPSULE_BYTES];
        sqe.emit(&mut head[COMMON_BYTES..]);
        self.make(PduKind::CapsuleCmd, head, data, 0)
    }

    fn make(&self, kind: PduKind, mut head: Vec<u8>, data: &[u8], flags: u8) -> Vec<u8> {
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

    /// Data that answers an R2T.
    pub(crate) fn h2c(&self, r2t: R2t, datao: u32, data: &[u8], last: bool) -> Vec<u8> {
        let mut head = vec![0; SHORT_BYTES];
        DataPdu { cccid: r2t.cccid, ttag: r2t.ttag, datao, datal: data.len() as u32 }
            .emit(&mut head);
        self.make(PduKind::H2cData, head, data, if last { pdu_flag::LAST } else { 0 })
    }

    /// Sends a command without waiting for anything.
    pub(crate) fn submit(&mut self, sqe: &Sqe, data: &[u8]) {
        let bytes = self.capsule(sqe, data);
        self.send(&bytes);
    }

    /// Sends a command; its completion.
    pub(crate) fn run(&mut self, sqe: &Sqe, data: &[u8]) -> Cqe {
        self.submit(sqe, data);
        self.pdu().expect("a completion comes").cqe()
    }

    pub(crate) fn status(&mut self, sqe: &Sqe, data: &[u8]) -> Status {
        self.run(sqe, data).status
    }

    /// Sends a write whose data an R2T must ask for; the R2T.
    pub(crate) fn ask(&mut self, sqe: &Sqe) -> R2t {
        self.submit(sqe, &[]);
        self.pdu().expect("an R2T comes").r2t()
    }

    /// Reads blocks of 4 KiB.
    pub(crate) fn read(&mut self, cid: u16, slba: u64, blocks: u32) -> Vec<u8> {
        self.submit(&read(cid, slba, blocks), &[]);
        let mut all = Vec::new();
        loop {
            let pdu = self.pdu().expect("data comes");
            if pdu.kind() == PduKind::C2hData {
                all.extend_from_slice(pdu.data());
            } else {
                assert_eq!(pdu.cqe().status, Status::SUCCESS);
                return all;
            }
        }
    }

    /// Ends with a reset instead of a goodbye.
    pub(crate) fn reset(self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // SAFETY: the socket is open, and the kernel reads a structure of the length that is given.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                size_of::<libc::linger>() as libc::socklen_t,
            )
        };
        assert_eq!(result, 0);
    }

    /// Ends sending, and is still there.
    pub(crate) fn half_close(&self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }
}

pub(crate) fn icreq(pfv: u16, hpda: u8, dgst: u8) -> Vec<u8> {
    let mut bytes = vec![0; IC_BYTES];
    IcReq { pfv, hpda, dgst, maxr2t: 0 }.emit(&mut bytes);
    CommonHeader::plain(PduKind::IcReq).emit(&mut bytes);
    bytes
}

/// A Connect for a queue of [`ENTRIES`]. The keep-alive is long, so that no row depends on how busy the machine is.
pub(crate) fn connect(qid: u16) -> Connect {
    let kato_ms = if qid == 0 { 60_000 } else { 0 };
    Connect { recfmt: 0, qid, sqsize: ENTRIES - 1, cattr: 0, kato_ms }
}

pub(crate) fn connect_fields(nqn: &str, cntlid: u16) -> ConnectData {
    ConnectData {
        hostid: [9; 16],
        cntlid,
        subnqn: put_nqn(nqn).unwrap(),
        hostnqn: put_nqn(HOST).unwrap(),
    }
}

/// The same of another host.
pub(crate) fn fields_of(host: &str, nqn: &str, cntlid: u16) -> ConnectData {
    ConnectData { hostnqn: put_nqn(host).unwrap(), ..connect_fields(nqn, cntlid) }
}

pub(crate) fn emit(data: &ConnectData) -> Vec<u8> {
    let mut bytes = vec![0; ConnectData::BYTES];
    data.emit(&mut bytes);
    bytes
}

pub(crate) fn set_cc(value: u32) -> Sqe {
    PropertySet { wide: Some(false), offset: property::CC, value: value.into() }.emit(2)
}

/// An admin queue with an enabled controller, and the controller's identifier.
pub(crate) fn admin(addr: SocketAddr, nqn: &str, digests: bool) -> (Raw, u16) {
    let mut raw = Raw::ready(addr, digests);
    let data = emit(&connect_fields(nqn, ConnectData::CNTLID_ANY));
    let cqe = raw.run(&connect(0).emit(1), &data);
    assert_eq!(cqe.status, Status::SUCCESS);
    assert_eq!(raw.status(&set_cc(Cc::ENABLED.0), &[]), Status::SUCCESS);
    (raw, cqe.result as u16)
}

pub(crate) fn read(cid: u16, slba: u64, blocks: u32) -> Sqe {
    let mut sqe = Io { slba, blocks, fua: false }.emit(opcode::READ, cid, 1);
    sqe.sgl = Sgl::transport(blocks * 4096);
    sqe
}

pub(crate) fn write(cid: u16, slba: u64, blocks: u32, inline: bool) -> Sqe {
    let mut sqe = Io { slba, blocks, fua: false }.emit(opcode::WRITE, cid, 1);
    sqe.sgl = if inline { Sgl::in_capsule(blocks * 4096) } else { Sgl::transport(blocks * 4096) };
    sqe
}
