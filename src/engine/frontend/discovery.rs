//! Log pages, the discovery log first: what is there to connect to.

use super::Frontend;
use super::connection::Page;
use core::fmt::Write;
use ibid_wire::nvme_tcp::{
    ConnectData, ControllerKind, DiscoveryHeader, DiscoveryRecord, EFFECTS_SUPPORTED,
    EFFECTS_WRITES, FirmwareLog, GetLogPage, HealthLog, IDENTIFY_BYTES, Status, log_page, opcode,
    put_nqn,
};

/// NVMe/TCP in TRTYPE.
const TRTYPE_TCP: u8 = 3;
const ADRFAM_IPV4: u8 = 1;
const ADRFAM_IPV6: u8 = 2;
/// A subsystem with namespaces.
const SUBTYPE_NVM: u8 = 2;
/// Flow control may be off.
const TREQ_NO_FLOW_CONTROL: u8 = 1 << 2;
/// Entries of an admin queue, as recommended (Base 5.16.1.23).
const ADMIN_ENTRIES: u16 = 32;
/// One error log entry, never written: ELPE is 0.
const ERROR_ENTRY_BYTES: usize = 64;
/// 27 °C in kelvin; there is no sensor, and 0 K would trip host thresholds the other way.
const TEMPERATURE_K: u16 = 300;
/// Where the I/O commands' entries start in the effects log.
const EFFECTS_IO_AT: usize = 1024;

/// A fixed field that text is written into; what does not fit is cut.
struct Field<'a>(&'a mut [u8]);

impl Write for Field<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let count = text.len().min(self.0.len());
        let (head, rest) = core::mem::take(&mut self.0).split_at_mut(count);
        head.copy_from_slice(&text.as_bytes()[..count]);
        self.0 = rest;
        Ok(())
    }
}

impl Frontend {
    /// The page a Get Log Page asks for, if we have it and the part of it makes sense (C29).
    pub(super) fn judge_log(&self, k: usize, request: &GetLogPage) -> Result<Page, Status> {
        let bytes = match (self.controllers[k].kind, request.lid) {
            (ControllerKind::Discovery, log_page::DISCOVERY) => {
                DiscoveryHeader::BYTES + DiscoveryRecord::BYTES
            }
            (ControllerKind::Io, log_page::ERRORS) => ERROR_ENTRY_BYTES,
            (ControllerKind::Io, log_page::HEALTH) => HealthLog::BYTES,
            (ControllerKind::Io, log_page::FIRMWARE) => FirmwareLog::BYTES,
            (ControllerKind::Io, log_page::EFFECTS) => IDENTIFY_BYTES,
            _ => return Err(Status::INVALID_LOG_PAGE),
        };
        let is_inside = request.offset.is_multiple_of(4) && request.offset <= bytes as u64;
        if request.by_index
            || !is_inside
            || request.bytes > u64::from(self.config.limits.transfer_bytes_max)
        {
            return Err(Status::INVALID_FIELD);
        }
        Ok(Page::Log { lid: request.lid })
    }

    /// Renders a log page into `scratch`; gives its length.
    pub(super) fn render_log(&mut self, k: usize, lid: u8) -> usize {
        let counters = self.counters;
        let is_discovery = self.controllers[k].kind == ControllerKind::Discovery;
        let out = &mut self.scratch;
        out.fill(0);
        match lid {
            log_page::DISCOVERY if is_discovery => {
                DiscoveryHeader { generation: 1, records: 1, recfmt: 0 }.emit(&mut out[..]);
                let mut record = DiscoveryRecord {
                    trtype: TRTYPE_TCP,
                    adrfam: if self.config.traddr.contains(':') {
                        ADRFAM_IPV6
                    } else {
                        ADRFAM_IPV4
                    },
                    subtype: SUBTYPE_NVM,
                    treq: TREQ_NO_FLOW_CONTROL,
                    portid: 1,
                    cntlid: ConnectData::CNTLID_ANY,
                    asqsz: ADMIN_ENTRIES.min(self.config.limits.queue_depth_max),
                    trsvcid: [b' '; 32],
                    subnqn: put_nqn(&self.config.nqn).expect("the configured NQN was checked"),
                    traddr: [b' '; 256],
                    sectype: 0,
                };
                // Writing into a field can't fail: it cuts.
                let _ = write!(Field(&mut record.trsvcid), "{}", self.config.trsvcid);
                let _ = write!(Field(&mut record.traddr), "{}", self.config.traddr);
                record.emit(&mut out[DiscoveryHeader::BYTES..]);
                DiscoveryHeader::BYTES + DiscoveryRecord::BYTES
            }
            log_page::ERRORS => ERROR_ENTRY_BYTES,
            log_page::HEALTH => {
                HealthLog {
                    temperature: TEMPERATURE_K,
                    spare: 100,
                    spare_threshold: 0,
                    // Thousands of sectors, rounded up (Base 5.16.1.3).
                    units_read: counters.read_sectors.div_ceil(1000).into(),
                    units_written: counters.written_sectors.div_ceil(1000).into(),
                    host_reads: counters.reads.into(),
                    host_writes: counters.writes.into(),
                }
                .emit(&mut out[..]);
                HealthLog::BYTES
            }
            log_page::FIRMWARE => {
                let mut slot1 = [b' '; 8];
                for (place, byte) in slot1.iter_mut().zip(self.config.firmware.bytes()) {
                    *place = byte;
                }
                FirmwareLog { active: 1, slot1 }.emit(&mut out[..]);
                FirmwareLog::BYTES
            }
            _ => {
                const ADMIN: [u8; 7] = [
                    opcode::GET_LOG_PAGE,
                    opcode::IDENTIFY,
                    opcode::ABORT,
                    opcode::SET_FEATURES,
                    opcode::GET_FEATURES,
                    opcode::ASYNC_EVENT_REQUEST,
                    opcode::KEEP_ALIVE,
                ];
                let mut set = |base: usize, code: u8, effects: u32| {
                    let at = base + usize::from(code) * 4;
                    out[at..at + 4].copy_from_slice(&effects.to_le_bytes());
                };
                for code in ADMIN {
                    set(0, code, EFFECTS_SUPPORTED);
                }
                for code in [opcode::FLUSH, opcode::READ, opcode::COMPARE, opcode::VERIFY] {
                    set(EFFECTS_IO_AT, code, EFFECTS_SUPPORTED);
                }
                for code in [opcode::WRITE, opcode::WRITE_ZEROES, opcode::DATASET_MANAGEMENT] {
                    set(EFFECTS_IO_AT, code, EFFECTS_SUPPORTED | EFFECTS_WRITES);
                }
                IDENTIFY_BYTES
            }
        }
    }
}
