//! Identify: what the controller and its namespaces say of themselves. Every claim here is kept elsewhere: limits in `io`,
//! atomicity and zeroes by the shard.

use super::Frontend;
use super::access::{ANACAP, TRANSITION_S};
use super::config::{Limits, NamespaceConfig, VERIFY_BYTES_MAX, ZEROES_BYTES_MAX};
use super::connection::Page;
use super::deadline::KAS_100MS;
use super::events::{AER_MAX, NOTICES};
use super::fabrics::VERSION;
use super::features::{ACRE_AT, RETRY_DELAY_100MS};
use ibid_wire::nvme_tcp::{
    CAPSULE_BYTES, COMMON_BYTES, ControllerKind, Cqe, DISCOVERY_NQN, HOST_BEHAVIOR_BYTES,
    IDENTIFY_BYTES, Identify, IdentifyController, IdentifyIndependentNamespace, IdentifyNamespace,
    IdentifyNvmController, NamespaceId, Status, cns, csi, emit_controller_list, emit_descriptors,
    emit_namespace_list, fuses, oncs, put_nqn,
};

/// A subsystem with several ports and controllers, which tells asymmetric access.
const CMIC: u8 = 1 << 0 | 1 << 1 | 1 << 3;
/// A namespace that several controllers may attach.
const NMIC: u8 = 1 << 0;
/// 128-bit host identifiers.
const CTRATT_HOSTID128: u32 = 1 << 0;
/// Log pages: commands and effects, extended offsets, and the pages that say what is supported.
const LPA: u8 = 1 << 1 | 1 << 2 | 1 << 5;
/// Slot 1 only, read-only.
const FRMW: u8 = 1 << 1 | 1;
/// SGLs are supported; an in-capsule SGL's address is an offset.
const SGLS: u32 = 1 << 0 | 1 << 20;
/// Entry sizes of 64 (submission) and 16 (completion), minimum and maximum.
const SQES: u8 = 6 << 4 | 6;
const CQES: u8 = 4 << 4 | 4;
/// No volatile write cache; Flush of all namespaces (FFFFFFFFh) is not supported (Base 5.17.2.1).
const VWC: u8 = 0b10 << 1;
/// Optional commands that there are.
const ONCS: u16 = oncs::COMPARE
    | oncs::DATASET_MANAGEMENT
    | oncs::WRITE_ZEROES
    | oncs::SAVE_AND_SELECT
    | oncs::VERIFY;
/// Atomic write units of its own (NAWUN, NAWUPF, NACWU), and preferred granularities.
const NSFEAT: u8 = 1 << 1 | 1 << 4;
/// Deallocated blocks read as zeroes; Write Zeroes may deallocate.
const DLFEAT: u8 = 1 | 1 << 3;
/// Volumes are kept in blocks of this size: smaller writes cost a read at the consistency point.
const GRANULE_BYTES: u32 = 4096;
/// Minimum page, CAP.MPSMIN: the unit of MDTS and WZSL.
const PAGE_SHIFT: u32 = 12;

fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (place, byte) in field.iter_mut().zip(text.bytes()) {
        *place = if byte.is_ascii_graphic() || byte == b' ' { byte } else { b'?' };
    }
    field
}

impl Frontend {
    /// What an Identify asks for, if we have it (C30).
    pub(super) fn judge_identify(&self, k: usize, request: Identify) -> Result<Page, Status> {
        let Identify { cns, nsid, cntid, .. } = request;
        let page = Page::Identify { cns, nsid, cntid };
        if self.controllers[k].kind == ControllerKind::Discovery {
            return if request.cns == cns::CONTROLLER {
                Ok(page)
            } else {
                Err(Status::INVALID_FIELD)
            };
        }
        match request.cns {
            cns::CONTROLLER | cns::COMMAND_SETS => Ok(page),
            cns::SET_NAMESPACE | cns::SET_CONTROLLER | cns::SET_NAMESPACE_LIST
                if request.csi != csi::NVM =>
            {
                Err(Status::INVALID_FIELD)
            }
            cns::SET_CONTROLLER | cns::CONTROLLER_LIST => Ok(page),
            // "All namespaces" as a question asks for what they have in common, which is nothing without namespace management.
            cns::NAMESPACE
            | cns::DESCRIPTORS
            | cns::SET_NAMESPACE
            | cns::INDEPENDENT_NAMESPACE
            | cns::ALLOCATED_NAMESPACE
            | cns::ATTACHED_CONTROLLERS => {
                if self.namespace(request.nsid).is_some() {
                    Ok(page)
                } else {
                    Err(Status::INVALID_NAMESPACE)
                }
            }
            cns::NAMESPACE_LIST | cns::SET_NAMESPACE_LIST | cns::ALLOCATED_LIST => {
                if request.nsid < 0xffff_fffe { Ok(page) } else { Err(Status::INVALID_NAMESPACE) }
            }
            _ => Err(Status::INVALID_FIELD),
        }
    }

    /// The namespace with this identifier.
    pub(super) fn namespace(&self, nsid: u32) -> Option<&NamespaceConfig> {
        self.config.namespaces.iter().find(|namespace| namespace.id() == nsid)
    }

    /// Renders a structure into `scratch`, or of a longer one the part around `from`; gives where that begins, and its length.
    pub(super) fn render(&mut self, c: usize, page: Page, from: u64) -> (u64, usize) {
        let Some(k) = self.connections[c].controller.map(usize::from) else {
            return (0, 0);
        };
        match page {
            Page::Identify { cns, nsid, cntid } => {
                self.render_identify(k, cns, nsid, cntid);
                (0, IDENTIFY_BYTES)
            }
            Page::Log { lid, specific } => self.render_log(k, lid, specific, from),
            Page::HostBehavior { current } => {
                self.scratch[..HOST_BEHAVIOR_BYTES].fill(0);
                self.scratch[ACRE_AT] = (current && self.controllers[k].retries_later).into();
                (0, HOST_BEHAVIOR_BYTES)
            }
            Page::HostId => {
                let hostid = self.controllers[k].hostid;
                self.scratch[..hostid.len()].copy_from_slice(&hostid);
                (0, hostid.len())
            }
            Page::Auth => {
                let message = self.connections[c].auth.message();
                self.scratch[..message.len()].copy_from_slice(message);
                (0, message.len())
            }
        }
    }

    /// This node's I/O controllers from an identifier on. Those of the peer node are not known here.
    fn render_controllers(&mut self, from: u16) {
        let controllers = &self.controllers;
        let above = |floor: u32| {
            controllers
                .iter()
                .filter(|controller| controller.id != 0 && controller.kind == ControllerKind::Io)
                .map(|controller| controller.id)
                .filter(|&id| u32::from(id) >= floor)
                .min()
        };
        let ids = core::iter::successors(above(from.into()), |&id| above(u32::from(id) + 1));
        emit_controller_list(ids, &mut self.scratch);
    }

    fn render_identify(&mut self, k: usize, what: u8, nsid: u32, cntid: u16) {
        match what {
            cns::CONTROLLER => {
                self.identify_controller(k).emit(&mut self.scratch[..]);
                return;
            }
            // Every namespace is attached to every controller.
            cns::CONTROLLER_LIST | cns::ATTACHED_CONTROLLERS => {
                self.render_controllers(cntid);
                return;
            }
            _ => {}
        }
        let limits = self.config.limits;
        let namespace = self.namespace(nsid).copied();
        let out = &mut self.scratch;
        out.fill(0);
        match (what, namespace) {
            // What is allocated is attached.
            (cns::NAMESPACE | cns::ALLOCATED_NAMESPACE, Some(namespace)) => {
                identify_namespace(&namespace, &limits).emit(&mut out[..])
            }
            (cns::DESCRIPTORS, Some(namespace)) => {
                let NamespaceConfig { nguid, uuid, .. } = namespace;
                emit_descriptors(&NamespaceId { eui64: namespace.eui64(), nguid, uuid }, out);
            }
            (cns::INDEPENDENT_NAMESPACE, Some(namespace)) => {
                let anagrpid = namespace.id();
                IdentifyIndependentNamespace { nsfeat: NSFEAT, nmic: NMIC, anagrpid, nstat: 1 }
                    .emit(&mut out[..]);
            }
            (cns::SET_CONTROLLER, _) => {
                let shift = |bytes: u64| (bytes.ilog2() - PAGE_SHIFT) as u8;
                let (vsl, wzsl) = (shift(VERIFY_BYTES_MAX), shift(ZEROES_BYTES_MAX));
                // One figure for all namespaces: that of the largest blocks.
                let largest = self
                    .config
                    .namespaces
                    .iter()
                    .map(|namespace| namespace.lba_bytes)
                    .max()
                    .unwrap_or(512);
                let dmrsl = (ZEROES_BYTES_MAX / u64::from(largest)) as u32;
                // Of ranges and blocks in one Dataset Management there may be as many as its fields can say.
                IdentifyNvmController { vsl, wzsl, dmrl: 0, dmrsl, dmsl: 0 }.emit(&mut out[..]);
            }
            (cns::NAMESPACE_LIST | cns::SET_NAMESPACE_LIST | cns::ALLOCATED_LIST, _) => {
                // In ascending order, whatever order they are configured in: each time the smallest above the one before.
                let namespaces = &self.config.namespaces;
                let above = |floor: u32| {
                    namespaces.iter().map(NamespaceConfig::id).filter(|&id| id > floor).min()
                };
                emit_namespace_list(core::iter::successors(above(nsid), |&id| above(id)), out);
            }
            // Vector 0: the NVM command set (bit 0).
            (cns::COMMAND_SETS, _) => out[0] = 1,
            // SET_NAMESPACE of the NVM command set: all zero, there is no metadata to speak of.
            _ => {}
        }
    }

    fn identify_controller(&self, k: usize) -> IdentifyController {
        let config = &self.config;
        let controller = &self.controllers[k];
        let is_io = controller.kind == ControllerKind::Io;
        let nqn = if is_io { config.nqn.as_str() } else { DISCOVERY_NQN };
        let transfer = config.limits.transfer_bytes_max;
        // One figure for all namespaces: that of the largest blocks.
        let smallest = |bytes: u32| {
            let fields = config.namespaces.iter().map(|namespace| namespace.blocks_field(bytes));
            fields.min().unwrap_or(0)
        };
        let (atomic, pair) = (smallest(transfer), smallest(config.limits.in_capsule_bytes));
        let highest = config.namespaces.iter().map(NamespaceConfig::id).max().unwrap_or(0);
        let in_capsule =
            CAPSULE_BYTES as u32 - COMMON_BYTES as u32 + config.limits.in_capsule_bytes;
        let for_io = |value: u32| if is_io { value } else { 0 };
        IdentifyController {
            serial: padded(&config.serial),
            model: padded(&config.model),
            firmware: padded(&config.firmware),
            cmic: for_io(CMIC.into()) as u8,
            mdts: (transfer.ilog2() - PAGE_SHIFT) as u8,
            cntlid: controller.id,
            version: VERSION,
            oaes: for_io(NOTICES),
            ctratt: CTRATT_HOSTID128,
            kind: controller.kind as u8,
            crdt1: for_io(RETRY_DELAY_100MS.into()) as u16,
            oacs: 0,
            acl: 3,
            aerl: AER_MAX as u8 - 1,
            frmw: FRMW,
            lpa: for_io(LPA.into()) as u8 | 1 << 2,
            elpe: 0,
            kas: KAS_100MS,
            anatt: for_io(TRANSITION_S.into()) as u8,
            anacap: for_io(ANACAP.into()) as u8,
            anagrpmax: for_io(highest),
            nanagrpid: for_io(config.namespaces.len() as u32),
            sqes: for_io(SQES.into()) as u8,
            cqes: for_io(CQES.into()) as u8,
            maxcmd: config.limits.queue_depth_max,
            nn: for_io(highest),
            oncs: for_io(ONCS.into()) as u16,
            fuses: for_io(fuses::COMPARE_AND_WRITE.into()) as u16,
            vwc: for_io(VWC.into()) as u8,
            awun: for_io(atomic.into()) as u16,
            awupf: for_io(atomic.into()) as u16,
            acwu: for_io(pair.into()) as u16,
            sgls: SGLS,
            mnan: for_io(highest),
            subnqn: put_nqn(nqn).expect("the configured NQN was checked"),
            ioccsz: for_io(in_capsule / 16),
            iorcsz: for_io(Cqe::BYTES as u32 / 16),
            msdbd: 1,
            ofcs: for_io(1) as u16,
        }
    }
}

fn identify_namespace(namespace: &NamespaceConfig, limits: &Limits) -> IdentifyNamespace {
    let blocks = namespace.blocks();
    let atomic = namespace.blocks_field(limits.transfer_bytes_max);
    let granule = namespace.blocks_field(GRANULE_BYTES);
    IdentifyNamespace {
        nsze: blocks,
        ncap: blocks,
        nuse: blocks,
        nsfeat: NSFEAT,
        nlbaf: 0,
        flbas: 0,
        nmic: NMIC,
        dlfeat: DLFEAT,
        nawun: atomic,
        nawupf: atomic,
        nacwu: namespace.blocks_field(limits.in_capsule_bytes),
        nabsn: 0,
        nabo: 0,
        nabspf: 0,
        npwg: granule,
        npwa: granule,
        npdg: granule,
        npda: granule,
        nows: atomic,
        anagrpid: namespace.id(),
        nguid: namespace.nguid,
        eui64: namespace.eui64(),
        lbaf0_metadata: 0,
        lbaf0_shift: namespace.lba_bytes.ilog2() as u8,
    }
}
