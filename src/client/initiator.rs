//! A host connected to a controller: from the options to the I/O queues, and the way back.

use crate::ClientError;
use crate::connect::{list_namespaces, nvm_limits, open_admin};
use crate::queue::{Queue, Wishes};
use crate::wait::SOCKETS_MAX;
use ibid_chap::Secret;
use ibid_wire::nvme_tcp::{
    AnaGroup, AnaHeader, AnaState, Cc, ControllerKind, Csts, GetLogPage, IDENTIFY_BYTES, Identify,
    IdentifyController, SetFeatures, Sqe, cns, fctype, feature, fuses, log_page, oncs, opcode,
    parse_ana, property,
};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Longest transfer where the target names no limit, and at most.
const TRANSFER_BYTES_MAX: u32 = 1 << 20;

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// I/O queues wanted; the target may grant fewer.
    pub io_queues: u16,
    /// Requests outstanding per queue; the target may grant fewer.
    pub queue_depth: u16,
    /// Ask for header digests.
    pub header_digest: bool,
    /// Ask for data digests.
    pub data_digest: bool,
    /// Offer to do without flow control: reads then end with their data, without a response.
    pub no_flow_control: bool,
    /// Who we are.
    pub host_nqn: String,
    /// Who we are, as a number.
    pub host_id: [u8; 16],
    /// What we prove to know where the target asks for it.
    pub secret: Option<Secret>,
    /// What the target must prove to know. A target that does not is not used.
    pub controller_secret: Option<Secret>,
    /// The target may forget us after so long without a sign.
    pub keep_alive: Duration,
    /// For everything that is waited for.
    pub timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            io_queues: 1,
            queue_depth: 32,
            header_digest: false,
            data_digest: false,
            no_flow_control: true,
            host_nqn: "nqn.2014-08.org.nvmexpress:uuid:69626964-0000-4000-8000-000000000001".into(),
            host_id: *b"ibid-client-host",
            secret: None,
            controller_secret: None,
            keep_alive: Duration::from_secs(15),
            timeout: Duration::from_secs(10),
        }
    }
}

/// A subsystem that a discovery log names: one with namespaces, or a discovery subsystem.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subsystem {
    /// Its NQN.
    pub nqn: String,
    /// Address.
    pub traddr: String,
    /// TCP port.
    pub trsvcid: String,
    /// What it is, see [`ibid_wire::nvme_tcp::subtype`].
    pub kind: u8,
}

/// A namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Namespace {
    /// Its identifier.
    pub nsid: u32,
    /// Size in logical blocks.
    pub blocks: u64,
    /// Bytes of a logical block.
    pub lba_bytes: u32,
    /// Blocks that are written whole or not at all, also across power failure.
    pub atomic_blocks: u32,
    /// Blocks of the largest Compare and Write.
    pub pair_blocks: u32,
    /// Globally unique identifier.
    pub nguid: [u8; 16],
}

/// A host connected to a controller: one admin queue and some I/O queues.
pub struct Initiator {
    pub(crate) admin: Queue,
    pub(crate) queues: Vec<Queue>,
    /// Scratch of the admin queue, lent to commands that get data.
    scratch: Vec<u8>,
    pub(crate) namespace: Namespace,
    namespaces: Vec<Namespace>,
    pub(crate) transfer_bytes_max: u32,
    pub(crate) compare_blocks_max: u64,
    /// Compare and Write is supported.
    pub(crate) has_pairs: bool,
    pub(crate) verify_blocks_max: u64,
    pub(crate) zeroes_blocks_max: u64,
    pub(crate) deallocate_blocks_max: u64,
    pub(crate) keep_alive_every: Duration,
    pub(crate) keep_alive_at: Instant,
    pub(crate) keep_alive_out: bool,
    pub(crate) timeout: Duration,
}

impl Initiator {
    /// Connects to a subsystem and takes its first namespace.
    pub fn connect(
        addr: SocketAddr,
        nqn: &str,
        options: &ConnectOptions,
    ) -> Result<Self, ClientError> {
        let (mut admin, cntlid, cap) = open_admin(addr, nqn, options)?;
        let mut buffer = vec![0; IDENTIFY_BYTES];
        let controller_query = Identify::of(cns::CONTROLLER, 0);
        admin.identify("identify the controller", controller_query, &mut buffer)?;
        let controller = IdentifyController::parse(&buffer)
            .map_err(|_| ClientError::Protocol("short Identify data"))?;
        if controller.kind != ControllerKind::Io as u8 {
            return Err(ClientError::Unsupported("I/O"));
        }
        if controller.cntlid != cntlid {
            return Err(ClientError::Protocol("the controller has two identifiers"));
        }
        let transfer_bytes_max = match controller.mdts {
            0 => TRANSFER_BYTES_MAX,
            shift => TRANSFER_BYTES_MAX.min(4096_u32.checked_shl(shift.into()).unwrap_or(u32::MAX)),
        };
        let namespaces = list_namespaces(&mut admin, &mut buffer)?;
        let namespace =
            *namespaces.first().ok_or(ClientError::Unsupported("a namespace: it has none"))?;
        let limits = nvm_limits(&mut admin, &mut buffer)?;
        let lba_shift = namespace.lba_bytes.ilog2();
        let transfer_blocks_max = u64::from(transfer_bytes_max) >> lba_shift;
        // What no MDTS bounds has a limit of its own, a power of two of 4 KiB, or is taken not to exceed a transfer.
        let limit = |bit: u16, shift: u8| match shift {
            _ if controller.oncs & bit == 0 => 0,
            0 => transfer_blocks_max,
            shift => 4096_u64.checked_shl(shift.into()).unwrap_or(u64::MAX) >> lba_shift,
        };
        let zeroes_blocks_max = limit(oncs::WRITE_ZEROES, limits.wzsl);
        let verify_blocks_max = limit(oncs::VERIFY, limits.vsl);
        let compare_blocks_max =
            if controller.oncs & oncs::COMPARE == 0 { 0 } else { transfer_blocks_max };
        let has_pairs = controller.fuses & fuses::COMPARE_AND_WRITE != 0;
        let deallocate_blocks_max = match limits.dmrsl {
            _ if controller.oncs & oncs::DATASET_MANAGEMENT == 0 => 0,
            0 => u32::MAX.into(),
            blocks => blocks.into(),
        };
        let wanted = options.io_queues.clamp(1, SOCKETS_MAX as u16 - 1);
        let set = SetFeatures {
            fid: feature::QUEUES,
            save: false,
            value: u32::from(wanted - 1) * 0x1_0001,
        };
        let granted =
            admin.command("ask for I/O queues", |cid| set.emit(cid), &[], 0, &mut Vec::new())?;
        let granted = wanted
            .min((granted as u16).saturating_add(1))
            .min(((granted >> 16) as u16).saturating_add(1));
        // One entry of a queue always stays empty, as in a ring.
        let depth = options.queue_depth.clamp(1, cap.mqes.max(1));
        let in_capsule = (controller.ioccsz.saturating_mul(16)).saturating_sub(Sqe::BYTES as u32);
        let mut queues = Vec::with_capacity(granted.into());
        for qid in 1..=granted {
            let wishes = Wishes {
                depth,
                header_digest: options.header_digest,
                data_digest: options.data_digest,
                timeout: options.timeout,
            };
            let mut queue = Queue::open(addr, wishes)?;
            queue.connect(qid, depth + 1, cntlid, nqn, options)?;
            queue.in_capsule = in_capsule;
            queues.push(queue);
        }
        let keep_alive_every = options.keep_alive / 2;
        Ok(Self {
            admin,
            queues,
            scratch: buffer,
            namespace,
            namespaces,
            transfer_bytes_max,
            compare_blocks_max,
            has_pairs,
            verify_blocks_max,
            zeroes_blocks_max,
            deallocate_blocks_max,
            keep_alive_every,
            keep_alive_at: Instant::now() + keep_alive_every,
            keep_alive_out: false,
            timeout: options.timeout,
        })
    }

    /// The namespace that requests go to.
    pub fn namespace(&self) -> Namespace {
        self.namespace
    }

    /// All namespaces.
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }

    /// Sends requests to another namespace from now on; `false` if there is no such.
    pub fn use_namespace(&mut self, nsid: u32) -> bool {
        match self.namespaces.iter().find(|namespace| namespace.nsid == nsid) {
            Some(&namespace) => {
                self.namespace = namespace;
                true
            }
            None => false,
        }
    }

    /// I/O queues.
    pub fn queues(&self) -> usize {
        self.queues.len()
    }

    /// The longest read or write in bytes.
    pub fn transfer_bytes_max(&self) -> u32 {
        self.transfer_bytes_max
    }

    /// The first bytes of a log page, for those who want to look.
    pub fn log_page(&mut self, lid: u8, bytes: u32) -> Result<Vec<u8>, ClientError> {
        let mut buffer = vec![0; bytes as usize];
        let page = GetLogPage::of(lid, bytes);
        self.admin.command("read a log page", |cid| page.emit(cid), &[], bytes, &mut buffer)?;
        self.heard();
        Ok(buffer)
    }

    /// An admin command has run. If a keep-alive was out its answer may have passed by unseen; either way the target has just heard us.
    fn heard(&mut self) {
        self.keep_alive_out = false;
        self.keep_alive_at = Instant::now() + self.keep_alive_every;
    }

    /// How the target says each namespace may be reached through this controller, and its change count. Events about it may come anew.
    pub fn access(&mut self) -> Result<(u64, Vec<(u32, AnaState)>), ClientError> {
        let groups = self.namespaces.len() as u32;
        let bytes = AnaHeader::BYTES as u32 + groups * (AnaGroup::BYTES as u32 + 4);
        let page = self.log_page(log_page::ANA, bytes)?;
        let mut states = Vec::new();
        let mut known = true;
        let changes = parse_ana(&page, |nsid, state| {
            known &= state.is_some();
            states.extend(state.map(|state| (nsid, state)));
        })
        .map_err(|_| ClientError::Protocol("a short ANA log"))?;
        if known {
            Ok((changes, states))
        } else {
            Err(ClientError::Protocol("an ANA state that there is not"))
        }
    }

    /// Identify data as it came.
    pub fn identify(&mut self, which: u8, nsid: u32) -> Result<&[u8], ClientError> {
        self.admin.identify("identify", Identify::of(which, nsid), &mut self.scratch)?;
        self.heard();
        Ok(&self.scratch)
    }

    /// Leaves in good order: I/O queues disconnect, the controller shuts down.
    pub fn disconnect(mut self) -> Result<(), ClientError> {
        for queue in &mut self.queues {
            let bye = |cid| Sqe::new(opcode::FABRICS, cid, fctype::DISCONNECT.into());
            queue.command("disconnect", bye, &[], 0, &mut Vec::new())?;
        }
        self.admin.set_cc("shut down", Cc::ENABLED.with_shutdown())?;
        let csts = Csts::parse(self.admin.property("read CSTS", property::CSTS, false)? as u32);
        if csts.shut_down { Ok(()) } else { Err(ClientError::Timeout("shut down")) }
    }
}
