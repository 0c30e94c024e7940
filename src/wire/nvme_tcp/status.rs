//! Completion status: status code type, status code, and whether a retry can help. The one table of the statuses ibid names.

use super::layout::Field;
use core::fmt;

/// The status field of a completion as it lies in CQE bytes 14 and 15: phase bit 0, SC, SCT, CRD, More, DNR (Base 3.3.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(u16);

/// Do Not Retry.
const DNR: u16 = 1 << 15;
/// Command Retry Delay: which of the times that Identify tells, 1 to 3; 0 is none.
const CRD_AT: u16 = 12;

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $sct:literal / $sc:literal, $retry:ident, $text:literal;)*) => {
        impl Status {
            $( $(#[$doc])* #[doc = $text] pub const $name: Status = statuses!(@ $sct, $sc, $retry); )*
            /// The status in words; "unknown" where ibid has no name for it.
            pub const fn text(self) -> &'static str {
                match (self.sct(), self.sc()) { $( ($sct, $sc) => $text, )* _ => "unknown" }
            }
        }
    };
    (@ $sct:literal, $sc:literal, never) => { Status::new($sct, $sc).never_retry() };
    (@ $sct:literal, $sc:literal, retry) => { Status::new($sct, $sc) };
}

statuses! {
    SUCCESS = 0/0x00, retry, "success";
    INVALID_OPCODE = 0/0x01, never, "invalid command opcode";
    INVALID_FIELD = 0/0x02, never, "invalid field in command";
    CID_CONFLICT = 0/0x03, never, "command identifier conflict";
    DATA_TRANSFER_ERROR = 0/0x04, retry, "data transfer error";
    INTERNAL_ERROR = 0/0x06, never, "internal error";
    ABORTED_BY_REQUEST = 0/0x07, never, "command abort requested";
    ABORTED_FAILED_FUSED = 0/0x09, never, "command aborted: the other command of its fused pair failed";
    ABORTED_MISSING_FUSED = 0/0x0a, never, "command aborted: the other command of its fused pair is missing";
    INVALID_NAMESPACE = 0/0x0b, never, "invalid namespace or format";
    SEQUENCE_ERROR = 0/0x0c, never, "command sequence error";
    SGL_LENGTH_INVALID = 0/0x0f, never, "data SGL length invalid";
    SGL_TYPE_INVALID = 0/0x11, never, "SGL descriptor type invalid";
    SGL_OFFSET_INVALID = 0/0x16, never, "SGL offset invalid";
    KEEP_ALIVE_INVALID = 0/0x1a, never, "keep alive timeout invalid";
    COMMAND_INTERRUPTED = 0/0x21, retry, "command interrupted";
    TRANSIENT_TRANSPORT_ERROR = 0/0x22, retry, "transient transport error";
    LBA_OUT_OF_RANGE = 0/0x80, never, "LBA out of range";
    CAPACITY_EXCEEDED = 0/0x81, never, "capacity exceeded";
    NAMESPACE_NOT_READY = 0/0x82, retry, "namespace not ready";
    AER_LIMIT_EXCEEDED = 1/0x05, never, "asynchronous event request limit exceeded";
    INVALID_LOG_PAGE = 1/0x09, never, "invalid log page";
    FEATURE_NOT_SAVEABLE = 1/0x0d, never, "feature identifier not saveable";
    FEATURE_NOT_CHANGEABLE = 1/0x0e, never, "feature not changeable";
    FEATURE_NOT_PER_NAMESPACE = 1/0x0f, never, "feature not namespace specific";
    CONNECT_INCOMPATIBLE_FORMAT = 1/0x80, never, "connect: incompatible format";
    CONNECT_BUSY = 1/0x81, retry, "connect: controller busy";
    CONNECT_INVALID_PARAMETERS = 1/0x82, never, "connect: invalid parameters";
    /// (A command-specific code: with Dataset Management, 83h is the size limit.)
    COMMAND_SIZE_LIMIT = 1/0x83, never, "command size limit exceeded";
    CONNECT_INVALID_HOST = 1/0x84, never, "connect: invalid host";
    AUTHENTICATION_REQUIRED = 1/0x91, never, "authentication required";
    WRITE_FAULT = 2/0x80, retry, "write fault";
    UNRECOVERED_READ_ERROR = 2/0x81, never, "unrecovered read error";
    COMPARE_FAILURE = 2/0x85, never, "compare failure";
    ANA_PERSISTENT_LOSS = 3/0x01, retry, "asymmetric access persistent loss";
    ANA_INACCESSIBLE = 3/0x02, retry, "asymmetric access inaccessible";
    ANA_TRANSITION = 3/0x03, retry, "asymmetric access transition";
}

impl Status {
    /// A status of this type and code that may be retried.
    pub const fn new(sct: u8, sc: u8) -> Self {
        Self(((sct as u16 & 7) << 9) | ((sc as u16) << 1))
    }
    /// The status field as it came; the phase bit is not used over fabrics and dropped.
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw & !1)
    }
    /// The status field as it goes out.
    pub const fn raw(self) -> u16 {
        self.0
    }
    /// The same with Do Not Retry.
    #[must_use]
    pub const fn never_retry(self) -> Self {
        Self(self.0 | DNR)
    }
    /// The same with a command retry delay: 1 to 3 name a time that Identify Controller tells (CRDT1 to CRDT3).
    #[must_use]
    pub const fn with_delay(self, which: u8) -> Self {
        Self(self.0 & !(3 << CRD_AT) | (which as u16 & 3) << CRD_AT)
    }
    /// The command retry delay; 0 is none.
    pub const fn delay(self) -> u8 {
        (self.0 >> CRD_AT & 3) as u8
    }
    /// Status code type.
    pub const fn sct(self) -> u8 {
        (self.0 >> 9 & 7) as u8
    }
    /// Status code.
    pub const fn sc(self) -> u8 {
        (self.0 >> 1) as u8
    }
    /// Whether the command succeeded.
    pub const fn is_success(self) -> bool {
        self.sct() == 0 && self.sc() == 0
    }
    /// Whether a retry is pointless.
    pub const fn is_final(self) -> bool {
        self.0 & DNR != 0
    }
}

impl Field for Status {
    const LEN: usize = 2;
    fn get(bytes: &[u8]) -> Self {
        Self::from_raw(u16::get(bytes))
    }
    fn put(self, bytes: &mut [u8]) {
        self.0.put(bytes);
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:02X}h {}", self.sct(), self.sc(), self.text())
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({self}{})", if self.is_final() { ", final" } else { "" })
    }
}
