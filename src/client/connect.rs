//! The way to a working controller: Connect, properties, Identify, and the discovery log. One admin command at a time.

use crate::ClientError;
use crate::initiator::{ConnectOptions, Namespace, Subsystem};
use crate::queue::{Completion, Flow, Queue, Wishes};
use ibid_wire::nvme_tcp::{
    CONNECT_AUTH_REQUIRED, CONNECT_SECURE_CHANNEL_REQUIRED, Cap, Cc, Connect, ConnectData, Csts,
    DISCOVERY_NQN, DiscoveryHeader, DiscoveryRecord, GetLogPage, IDENTIFY_BYTES, Identify,
    IdentifyNamespace, IdentifyNvmController, PropertyGet, PropertySet, Sqe, Status, cns, log_page,
    nqn_of, property, put_nqn,
};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Entries of the admin queue.
const ADMIN_ENTRIES: u16 = 32;
/// Records of a discovery log that are read, at most.
const RECORDS_MAX: u64 = 128;
/// Between two looks at whether the controller is ready.
const READY_STEP: Duration = Duration::from_millis(5);

/// The token of a keep-alive; other admin commands run one at a time with [`RUN`].
pub(crate) const KEEP_ALIVE: u64 = 1;
const RUN: u64 = 0;

fn trimmed(field: &[u8]) -> String {
    let text: String = field
        .iter()
        .take_while(|&&byte| byte != 0)
        .map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { ' ' })
        .collect();
    text.trim().into()
}

impl Queue {
    /// Runs one command to its end; `buffer` comes back with the data. An error status is an error.
    pub(crate) fn command(
        &mut self,
        doing: &'static str,
        build: impl FnOnce(u16) -> Sqe,
        small: &[u8],
        data_bytes: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<u64, ClientError> {
        let cid = self.next_slot().ok_or(ClientError::Timeout("a place in the admin queue"))?;
        let flow = if data_bytes > 0 { Flow::In { done: 0 } } else { Flow::Settled };
        self.submit(&build(cid), small, flow, data_bytes, RUN, std::mem::take(buffer));
        let mut ended = None;
        self.run(doing, |completion| {
            let is_ours = completion.token == RUN;
            if is_ours {
                ended = Some(completion);
            }
            is_ours
        })?;
        let Completion { status, result, buffer: back, .. } = ended.expect("the command ended");
        *buffer = back;
        if status.is_success() { Ok(result) } else { Err(ClientError::Failed { doing, status }) }
    }

    pub(crate) fn connect(
        &mut self,
        qid: u16,
        entries: u16,
        cntlid: u16,
        nqn: &str,
        options: &ConnectOptions,
    ) -> Result<u16, ClientError> {
        let data = ConnectData {
            hostid: options.host_id,
            cntlid,
            subnqn: put_nqn(nqn).ok_or(ClientError::BadName)?,
            hostnqn: put_nqn(&options.host_nqn).ok_or(ClientError::BadName)?,
        };
        let mut bytes = [0; ConnectData::BYTES];
        data.emit(&mut bytes);
        let kato_ms = if qid == 0 { options.keep_alive.as_millis() as u32 } else { 0 };
        let cattr = if options.no_flow_control && qid != 0 { Connect::NO_FLOW_CONTROL } else { 0 };
        let request = Connect { recfmt: 0, qid, sqsize: entries - 1, cattr, kato_ms };
        let result =
            self.command("connect", |cid| request.emit(cid), &bytes, 0, &mut Vec::new())?;
        if result & CONNECT_SECURE_CHANNEL_REQUIRED != 0 {
            return Err(ClientError::Unsupported("a connection without a secure channel"));
        }
        if result & CONNECT_AUTH_REQUIRED != 0 {
            self.authenticate(qid + 1, nqn, options)?;
        } else if options.controller_secret.is_some() && nqn != DISCOVERY_NQN {
            return Err(ClientError::NotAuthenticated);
        }
        Ok(result as u16)
    }

    pub(crate) fn property(
        &mut self,
        doing: &'static str,
        offset: u32,
        wide: bool,
    ) -> Result<u64, ClientError> {
        self.command(
            doing,
            |cid| PropertyGet { wide: Some(wide), offset }.emit(cid),
            &[],
            0,
            &mut Vec::new(),
        )
    }

    pub(crate) fn set_cc(&mut self, doing: &'static str, cc: Cc) -> Result<(), ClientError> {
        let set = PropertySet { wide: Some(false), offset: property::CC, value: cc.0.into() };
        self.command(doing, |cid| set.emit(cid), &[], 0, &mut Vec::new()).map(drop)
    }

    pub(crate) fn identify(
        &mut self,
        doing: &'static str,
        request: Identify,
        buffer: &mut Vec<u8>,
    ) -> Result<(), ClientError> {
        self.command(doing, |cid| request.emit(cid), &[], IDENTIFY_BYTES as u32, buffer).map(drop)
    }
}

/// Opens an admin queue and brings its controller up.
pub(crate) fn open_admin(
    addr: SocketAddr,
    nqn: &str,
    options: &ConnectOptions,
) -> Result<(Queue, u16, Cap), ClientError> {
    let wishes = Wishes {
        depth: ADMIN_ENTRIES - 1,
        header_digest: options.header_digest,
        data_digest: options.data_digest,
        timeout: options.timeout,
    };
    let mut admin = Queue::open(addr, wishes)?;
    let cntlid = admin.connect(0, ADMIN_ENTRIES, ConnectData::CNTLID_ANY, nqn, options)?;
    let cap = Cap::parse(admin.property("read CAP", property::CAP, true)?);
    admin.set_cc("enable the controller", Cc::ENABLED)?;
    let deadline = Instant::now() + options.timeout;
    loop {
        let csts = Csts::parse(admin.property("read CSTS", property::CSTS, false)? as u32);
        if csts.failed {
            return Err(ClientError::Protocol("the controller reports a fatal state"));
        }
        if csts.ready {
            return Ok((admin, cntlid, cap));
        }
        if Instant::now() >= deadline {
            return Err(ClientError::Timeout("enable the controller"));
        }
        std::thread::sleep(READY_STEP);
    }
}

/// Asks a discovery subsystem what there is.
pub fn discover(addr: SocketAddr, options: &ConnectOptions) -> Result<Vec<Subsystem>, ClientError> {
    let options = ConnectOptions { keep_alive: Duration::ZERO, ..options.clone() };
    let (mut admin, _, _) = open_admin(addr, DISCOVERY_NQN, &options)?;
    let mut buffer = vec![0; DiscoveryHeader::BYTES];
    let page = |bytes: usize, offset: u64| GetLogPage {
        offset,
        ..GetLogPage::of(log_page::DISCOVERY, bytes as u32)
    };
    let doing = "read the discovery log";
    admin.command(
        doing,
        |cid| page(DiscoveryHeader::BYTES, 0).emit(cid),
        &[],
        DiscoveryHeader::BYTES as u32,
        &mut buffer,
    )?;
    let header = DiscoveryHeader::parse(&buffer)
        .map_err(|_| ClientError::Protocol("a short discovery log"))?;
    let mut found = Vec::new();
    for index in 0..header.records.min(RECORDS_MAX) {
        let offset = DiscoveryHeader::BYTES as u64 + index * DiscoveryRecord::BYTES as u64;
        admin.command(
            doing,
            |cid| page(DiscoveryRecord::BYTES, offset).emit(cid),
            &[],
            DiscoveryRecord::BYTES as u32,
            &mut buffer,
        )?;
        let record = DiscoveryRecord::parse(&buffer)
            .map_err(|_| ClientError::Protocol("a short discovery record"))?;
        let nqn = nqn_of(&record.subnqn)
            .ok_or(ClientError::Protocol("a discovery record without NQN"))?;
        found.push(Subsystem {
            nqn: nqn.into(),
            traddr: trimmed(&record.traddr),
            trsvcid: trimmed(&record.trsvcid),
            kind: record.subtype,
        });
    }
    admin.set_cc("shut down", Cc::ENABLED.with_shutdown())?;
    Ok(found)
}

pub(crate) fn list_namespaces(
    admin: &mut Queue,
    buffer: &mut Vec<u8>,
) -> Result<Vec<Namespace>, ClientError> {
    let list = Identify::of(cns::NAMESPACE_LIST, 0);
    admin.identify("list the namespaces", list, buffer)?;
    let ids: Vec<u32> = buffer
        .chunks_exact(4)
        .map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]))
        .take_while(|&id| id != 0)
        .collect();
    let mut namespaces = Vec::with_capacity(ids.len());
    for nsid in ids {
        let query = Identify::of(cns::NAMESPACE, nsid);
        admin.identify("identify a namespace", query, buffer)?;
        let data = IdentifyNamespace::parse(buffer)
            .map_err(|_| ClientError::Protocol("short Identify data"))?;
        // Formats beyond the first stand behind it, four bytes each.
        let format = usize::from(data.flbas & 15);
        let (metadata, shift) = (
            u16::from_le_bytes([buffer[128 + format * 4], buffer[129 + format * 4]]),
            buffer[130 + format * 4],
        );
        if !(9..=16).contains(&shift) || metadata != 0 {
            return Err(ClientError::Unsupported("a plain LBA format of 512 bytes to 64 KiB"));
        }
        namespaces.push(Namespace {
            nsid,
            blocks: data.nsze,
            lba_bytes: 1 << shift,
            atomic_blocks: u32::from(data.nawupf) + 1,
            pair_blocks: u32::from(data.nacwu) + 1,
            nguid: data.nguid,
        });
    }
    Ok(namespaces)
}

/// The limits of Verify, Write Zeroes and Dataset Management; a target without that page has none to tell.
pub(crate) fn nvm_limits(
    admin: &mut Queue,
    buffer: &mut Vec<u8>,
) -> Result<IdentifyNvmController, ClientError> {
    let query = Identify::of(cns::SET_CONTROLLER, 0);
    match admin.identify("identify the command set", query, buffer) {
        Ok(()) => IdentifyNvmController::parse(buffer)
            .map_err(|_| ClientError::Protocol("short Identify data")),
        Err(ClientError::Failed { status, .. }) if status.sct() == Status::INVALID_FIELD.sct() => {
            Ok(IdentifyNvmController { vsl: 0, wzsl: 0, dmrl: 0, dmrsl: 0, dmsl: 0 })
        }
        Err(other) => Err(other),
    }
}
