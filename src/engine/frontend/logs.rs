//! Log pages: which there are, how long they are, and what stands in those that are about the controller. The discovery log has a file
//! of its own, and so has the ANA log (`access`).

use super::Frontend;
use super::connection::Page;
use super::features::TEMPERATURE_K;
use ibid_wire::nvme_tcp::{
    AnaHeader, CHANGED_NAMESPACES_BYTES, ControllerKind, EFFECTS_CAPABILITY, EFFECTS_SUPPORTED,
    EFFECTS_WRITES, FirmwareLog, GetLogPage, HealthLog, IDENTIFY_BYTES, IS_SUPPORTED,
    SCOPE_CONTROLLER, SCOPE_NAMESPACE, SUPPORTED_BYTES, Status, csi, log_page, opcode,
};

/// One error log entry, never written: ELPE is 0, and no completion says "more".
const ERROR_ENTRY_BYTES: usize = 64;
/// Where the I/O commands' entries start in the effects log.
const EFFECTS_IO_AT: usize = 1024;

impl Frontend {
    /// A page's length, if this kind of controller has it.
    fn log_bytes(&self, kind: ControllerKind, lid: u8, specific: u8) -> Option<usize> {
        Some(match (kind, lid) {
            (_, log_page::SUPPORTED) => SUPPORTED_BYTES,
            (ControllerKind::Discovery, log_page::DISCOVERY) => self.discovery_bytes(),
            (ControllerKind::Discovery, _) => return None,
            (ControllerKind::Io, log_page::ERRORS) => ERROR_ENTRY_BYTES,
            (ControllerKind::Io, log_page::HEALTH) => HealthLog::BYTES,
            (ControllerKind::Io, log_page::FIRMWARE) => FirmwareLog::BYTES,
            (ControllerKind::Io, log_page::CHANGED_NAMESPACES) => CHANGED_NAMESPACES_BYTES,
            (ControllerKind::Io, log_page::EFFECTS) => IDENTIFY_BYTES,
            (ControllerKind::Io, log_page::ANA) => self.access_log_bytes(specific),
            (ControllerKind::Io, log_page::FEATURES) => SUPPORTED_BYTES,
            (ControllerKind::Io, log_page::MANAGEMENT) => IDENTIFY_BYTES,
            (ControllerKind::Io, _) => return None,
        })
    }

    /// The page a Get Log Page asks for, if we have it and the part of it makes sense (C29).
    pub(super) fn judge_log(&self, k: usize, request: &GetLogPage) -> Result<Page, Status> {
        let GetLogPage { lid, specific, .. } = *request;
        let kind = self.controllers[k].kind;
        let bytes = self.log_bytes(kind, lid, specific).ok_or(Status::INVALID_LOG_PAGE)?;
        let is_inside = request.offset.is_multiple_of(4) && request.offset <= bytes as u64;
        // Health is told for the controller alone (LPA bit 0); effects differ by command set.
        let is_ours = match lid {
            log_page::HEALTH => matches!(request.nsid, 0 | u32::MAX),
            log_page::EFFECTS => request.csi == csi::NVM,
            _ => true,
        };
        if request.by_index
            || !is_inside
            || !is_ours
            || request.bytes > u64::from(self.config.limits.transfer_bytes_max)
        {
            return Err(Status::INVALID_FIELD);
        }
        Ok(Page::Log { lid, specific })
    }

    /// Renders a part of a log page into `scratch`: from `from` on, as much as fits. Gives where what it rendered begins in the page, and
    /// its length.
    pub(super) fn render_log(
        &mut self,
        k: usize,
        lid: u8,
        specific: u8,
        from: u64,
    ) -> (u64, usize) {
        self.scratch.fill(0);
        let bytes = match lid {
            log_page::DISCOVERY => return self.render_discovery(from),
            log_page::SUPPORTED => self.render_supported(k),
            log_page::ERRORS => ERROR_ENTRY_BYTES,
            log_page::HEALTH => self.render_health(k),
            log_page::FIRMWARE => self.render_firmware(),
            // Namespaces come, go and change with the configuration, that is with a start.
            log_page::CHANGED_NAMESPACES => CHANGED_NAMESPACES_BYTES,
            log_page::ANA => self.render_access(specific),
            log_page::FEATURES => self.render_features(k),
            // There is no command of NVMe-MI.
            log_page::MANAGEMENT => IDENTIFY_BYTES,
            _ => self.render_effects(),
        };
        (0, bytes)
    }

    fn render_supported(&mut self, k: usize) -> usize {
        let kind = self.controllers[k].kind;
        for lid in 0..=u8::MAX {
            if self.log_bytes(kind, lid, 0).is_none() {
                continue;
            }
            // The upper half is the page's own: for ANA, that groups alone can be asked for.
            let own =
                if lid == log_page::ANA { u32::from(AnaHeader::GROUPS_ONLY) << 16 } else { 0 };
            let at = usize::from(lid) * size_of::<u32>();
            self.scratch[at..at + size_of::<u32>()]
                .copy_from_slice(&(IS_SUPPORTED | own).to_le_bytes());
        }
        SUPPORTED_BYTES
    }

    fn render_health(&mut self, k: usize) -> usize {
        let counters = self.counters;
        HealthLog {
            critical: self.controllers[k].critical(),
            temperature: TEMPERATURE_K,
            spare: 100,
            spare_threshold: 0,
            // Thousands of sectors, rounded up (Base 5.16.1.3).
            units_read: counters.read_sectors.div_ceil(1000).into(),
            units_written: counters.written_sectors.div_ceil(1000).into(),
            host_reads: counters.reads.into(),
            host_writes: counters.writes.into(),
        }
        .emit(&mut self.scratch[..]);
        HealthLog::BYTES
    }

    fn render_firmware(&mut self) -> usize {
        let mut slot1 = [b' '; 8];
        for (place, byte) in slot1.iter_mut().zip(self.config.firmware.bytes()) {
            *place = byte;
        }
        FirmwareLog { active: 1, slot1 }.emit(&mut self.scratch[..]);
        FirmwareLog::BYTES
    }

    fn render_effects(&mut self) -> usize {
        const ADMIN: [(u8, u32); 7] = [
            (opcode::GET_LOG_PAGE, 0),
            (opcode::IDENTIFY, 0),
            (opcode::ABORT, 0),
            (opcode::SET_FEATURES, EFFECTS_CAPABILITY),
            (opcode::GET_FEATURES, 0),
            (opcode::ASYNC_EVENT_REQUEST, 0),
            (opcode::KEEP_ALIVE, 0),
        ];
        const IO: [(u8, u32); 7] = [
            (opcode::FLUSH, 0),
            (opcode::READ, 0),
            (opcode::COMPARE, 0),
            (opcode::VERIFY, 0),
            (opcode::WRITE, EFFECTS_WRITES),
            (opcode::WRITE_ZEROES, EFFECTS_WRITES),
            (opcode::DATASET_MANAGEMENT, EFFECTS_WRITES),
        ];
        let out = &mut self.scratch;
        let mut set = |base: usize, code: u8, effects: u32| {
            let at = base + usize::from(code) * size_of::<u32>();
            out[at..at + size_of::<u32>()].copy_from_slice(&effects.to_le_bytes());
        };
        for (code, effects) in ADMIN {
            set(0, code, EFFECTS_SUPPORTED | SCOPE_CONTROLLER | effects);
        }
        for (code, effects) in IO {
            set(EFFECTS_IO_AT, code, EFFECTS_SUPPORTED | SCOPE_NAMESPACE | effects);
        }
        IDENTIFY_BYTES
    }
}
