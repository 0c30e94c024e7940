//! NVMe over TCP, bytes to meaning and back: PDUs, commands, completions, fabrics commands, Identify data, log pages.
//! Takes byte slices and gives plain structs, and the reverse; used by the target and by the initiator. Holds no state and
//! judges nothing but lengths: what a value means for a connection is decided in `engine::frontend` and in the client.
//!
//! Section numbers: "Base" is NVM Express Base Specification 2.0, "TCP" the NVMe/TCP Transport Specification 1.0, "NVM" the
//! NVM Command Set Specification 1.0.

#[macro_use]
mod layout;
mod auth;
#[cfg(test)]
mod auth_tests;
mod command;
mod digest;
mod fabrics;
mod identify;
mod logs;
mod params;
mod pdu;
mod status;

pub use auth::{
    AUTH_BYTES_MAX, AuthCommand, AuthHash, AuthMessage, AuthOffer, AuthRefusal, BadMessage,
    CONNECT_AUTH_REQUIRED, CONNECT_SECURE_CHANNEL_REQUIRED, DH_BYTES_MAX, DhGroup, HASH_BYTES_MAX,
    ID_LIST_MAX, SECP_NVME, SPSP_AUTH,
};
pub use command::{Cqe, Fuse, Sgl, Sqe, opcode, psdt, sgl_kind};
pub use digest::{Crc32c, crc32c};
pub use fabrics::{
    Cap, Cc, Connect, ConnectData, ConnectRefusal, Csts, DISCOVERY_NQN, NQN_BYTES_MAX, PropertyGet,
    PropertySet, fctype, nqn_of, property, put_nqn,
};
pub use identify::{
    ControllerKind, IDENTIFY_BYTES, IdentifyController, IdentifyIndependentNamespace,
    IdentifyNamespace, IdentifyNvmController, NamespaceId, cns, csi, emit_controller_list,
    emit_descriptors, emit_namespace_list, fuses, oncs, parse_descriptors,
};
pub use logs::{
    AnaGroup, AnaHeader, AnaState, AsyncEvent, CHANGED_NAMESPACES_BYTES, DiscoveryHeader,
    DiscoveryRecord, EFFECTS_CAPABILITY, EFFECTS_SUPPORTED, EFFECTS_WRITES, FirmwareLog, HealthLog,
    IS_SUPPORTED, SCOPE_CONTROLLER, SCOPE_NAMESPACE, SUPPORTED_BYTES, entry_flag, event_bit,
    log_page, parse_ana, subtype,
};
pub use params::{
    Deallocate, DsmRange, GetFeatures, GetLogPage, HOST_BEHAVIOR_BYTES, Identify, Io, SetFeatures,
    directive_type, feature, write_zeroes_deallocates,
};
pub use pdu::{
    CAPSULE_BYTES, COMMON_BYTES, CommonHeader, DIGEST_BYTES, DataPdu, FatalError, IC_BYTES, IcReq,
    IcResp, PduKind, R2t, RESPONSE_BYTES, SHORT_BYTES, TERM_DATA_BYTES_MAX, TermReq, dgst,
    pdu_flag,
};
pub use status::Status;

/// Bytes were too few for the structure they should hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("needs {needed} bytes, got {given}")]
pub struct TooShort {
    /// Bytes the structure has.
    pub needed: usize,
    /// Bytes that were there.
    pub given: usize,
}

#[cfg(test)]
mod tests;
