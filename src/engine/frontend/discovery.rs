//! The discovery log (Base 5.16.1.23): what is there to connect to, and who else may be asked. It says the same from start to stop, so
//! there is no event about it: OAES bit 31 is not set.

use super::Frontend;
use super::config::Referral;
use core::fmt::Write;
use ibid_wire::nvme_tcp::{
    ConnectData, DISCOVERY_NQN, DiscoveryHeader, DiscoveryRecord, IDENTIFY_BYTES, entry_flag,
    put_nqn, subtype,
};

/// NVMe/TCP in TRTYPE.
const TRTYPE_TCP: u8 = 3;
const ADRFAM_IPV4: u8 = 1;
const ADRFAM_IPV6: u8 = 2;
/// Flow control may be off. Of a secure channel nothing is said: there is none (SECTYPE), and libnvme before 1.5 takes "not required" for an
/// order to use TLS.
const TREQ: u8 = 1 << 2;
/// Entries of an admin queue, as recommended (Base 5.16.1.23).
const ADMIN_ENTRIES: u16 = 32;
/// Records of this node's own: the subsystem, and the discovery subsystem that is asked.
const OWN_RECORDS: usize = 2;
/// Head and records have the same length, and this many of them are rendered at once.
const UNITS: usize = IDENTIFY_BYTES / DiscoveryRecord::BYTES;
const _: () = assert!(DiscoveryHeader::BYTES == DiscoveryRecord::BYTES);

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
    fn records(&self) -> usize {
        OWN_RECORDS + self.config.referrals.len()
    }

    /// Bytes of the discovery log.
    pub(super) fn discovery_bytes(&self) -> usize {
        DiscoveryHeader::BYTES + self.records() * DiscoveryRecord::BYTES
    }

    /// Renders the part of the discovery log around `from` into `scratch`, which is zero: gives where it begins, and its length.
    pub(super) fn render_discovery(&mut self, from: u64) -> (u64, usize) {
        let units = 1 + self.records();
        let unit_bytes = DiscoveryRecord::BYTES as u64;
        let first = (from / unit_bytes).min(units as u64) as usize;
        let count = (units - first).min(UNITS);
        for place in 0..count {
            let at = place * DiscoveryRecord::BYTES;
            match first + place {
                0 => {
                    let records = self.records() as u64;
                    DiscoveryHeader { generation: 1, records, recfmt: 0 }
                        .emit(&mut self.scratch[at..]);
                }
                unit => {
                    let record = self.record(unit - 1);
                    record.emit(&mut self.scratch[at..]);
                }
            }
        }
        (first as u64 * unit_bytes, count * DiscoveryRecord::BYTES)
    }

    fn record(&self, index: usize) -> DiscoveryRecord {
        let config = &self.config;
        let own = (config.traddr.as_str(), config.trsvcid);
        let (kind, nqn, (traddr, trsvcid), eflags) = match index {
            0 => (subtype::NVM, config.nqn.as_str(), own, 0),
            1 => {
                let eflags = entry_flag::DUPLICATE | entry_flag::PERSISTENT;
                (subtype::CURRENT, DISCOVERY_NQN, own, eflags)
            }
            // Of what another discovery subsystem does, and says, nothing is known here.
            _ => {
                let Referral { traddr, trsvcid } = &config.referrals[index - OWN_RECORDS];
                (subtype::REFERRAL, DISCOVERY_NQN, (traddr.as_str(), *trsvcid), 0)
            }
        };
        let mut record = DiscoveryRecord {
            trtype: TRTYPE_TCP,
            adrfam: if traddr.contains(':') { ADRFAM_IPV6 } else { ADRFAM_IPV4 },
            subtype: kind,
            treq: TREQ,
            // Ports of one subsystem have different numbers, whichever node they are on; one of a discovery subsystem is its only one.
            portid: if kind == subtype::NVM { config.port_id } else { 0 },
            cntlid: ConnectData::CNTLID_ANY,
            asqsz: ADMIN_ENTRIES.min(config.limits.queue_depth_max),
            eflags,
            trsvcid: [b' '; 32],
            subnqn: put_nqn(nqn).expect("the configured NQN was checked"),
            traddr: [b' '; 256],
            sectype: 0,
        };
        // Writing into a field can't fail: it cuts.
        let _ = write!(Field(&mut record.trsvcid), "{trsvcid}");
        let _ = write!(Field(&mut record.traddr), "{traddr}");
        record
    }
}
