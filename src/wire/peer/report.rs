//! A report: everything the destination has to say, in one body that stands by itself. The newest one wins, so a lost
//! report costs nothing but time, and nobody acknowledges it.

use super::{PeerFormatError, sync_state};
use crate::bytes::{array_at, put, u16_at, u32_at, u64_at};
use crate::disk::SyncState;
use ibid_units::{CpId, Lsn, PacketNumber};

/// Ranges of packet numbers in one report, at most.
pub const RANGES_MAX: usize = 32;
/// Refused records named in one report, at most; the others are named when these are settled.
pub const REFUSED_MAX: usize = 64;
const FIXED_BYTES: usize = 96;
/// Bytes of the largest report.
pub const REPORT_BYTES_MAX: usize = FIXED_BYTES + RANGES_MAX * 16 + REFUSED_MAX * 4;

/// A run of packet numbers that arrived, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PacketRange {
    /// The lowest.
    pub first: u64,
    /// The highest.
    pub last: u64,
}

/// What the destination holds and wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// Every entry up to here is durable at the destination.
    pub durable: Lsn,
    /// The destination has room for segments up to this one.
    pub segment_limit: CpId,
    /// The newest CP that is durable in its volumes …
    pub cp_durable: CpId,
    /// … and the chain digest there.
    pub chain: [u8; 32],
    /// The CP whose list is whole here (references of it may be refused below), or an older one.
    pub cp_listed: CpId,
    /// Block payload sections that may have been sent for the CP in progress, in all.
    pub block_credit: u32,
    /// Times that it has begun to apply that CP again, after errors: blocks sent before count no more.
    pub cp_round: u32,
    /// How long the oldest packet that no report has named yet had been here when this was sent.
    pub delay_micros: u32,
    /// True once an I/O error has stopped the destination: nothing more becomes durable.
    pub failed: bool,
    /// How its volumes stand to the source's.
    pub state: SyncState,
    /// A page of the log came with other bytes than its sum says: a new session sends again what is not durable here.
    pub restart: bool,
    range_count: u16,
    refused_count: u16,
    ranges: [PacketRange; RANGES_MAX],
    refused: [u32; REFUSED_MAX],
}

impl Report {
    /// A report without ranges and refusals yet.
    pub const fn new(
        durable: Lsn,
        segment_limit: CpId,
        cp_durable: CpId,
        chain: [u8; 32],
    ) -> Report {
        Report {
            durable,
            segment_limit,
            cp_durable,
            chain,
            cp_listed: CpId::new(0),
            block_credit: 0,
            delay_micros: 0,
            failed: false,
            cp_round: 0,
            state: SyncState::New,
            restart: false,
            range_count: 0,
            refused_count: 0,
            ranges: [PacketRange { first: 0, last: 0 }; RANGES_MAX],
            refused: [0; REFUSED_MAX],
        }
    }

    /// Adds a range of received packets, newest first; false when there is no room.
    pub fn push_range(&mut self, range: PacketRange) -> bool {
        let at = usize::from(self.range_count);
        if at == RANGES_MAX {
            return false;
        }
        self.ranges[at] = range;
        self.range_count += 1;
        true
    }

    /// Adds the index of a record whose reference could not be proved; false when there is no room.
    pub fn push_refused(&mut self, record: u32) -> bool {
        let at = usize::from(self.refused_count);
        if at == REFUSED_MAX {
            return false;
        }
        self.refused[at] = record;
        self.refused_count += 1;
        true
    }

    /// Received packets, newest range first.
    pub fn ranges(&self) -> &[PacketRange] {
        &self.ranges[..usize::from(self.range_count)]
    }

    /// The highest packet number received, if any.
    pub fn largest(&self) -> Option<PacketNumber> {
        self.ranges().first().map(|range| PacketNumber::new(range.last))
    }

    /// Records of CP [`Report::cp_listed`] whose bytes are wanted as blocks.
    pub fn refused(&self) -> &[u32] {
        &self.refused[..usize::from(self.refused_count)]
    }

    /// Writes the body; gives its length.
    pub fn emit(&self, out: &mut [u8]) -> usize {
        let ranges_at = FIXED_BYTES;
        let refused_at = ranges_at + self.ranges().len() * 16;
        let length = refused_at + self.refused().len() * 4;
        let out = &mut out[..length];
        out.fill(0);
        put(out, 0, &self.durable.get().to_le_bytes());
        put(out, 8, &self.segment_limit.get().to_le_bytes());
        put(out, 16, &self.cp_durable.get().to_le_bytes());
        put(out, 24, &self.chain);
        put(out, 56, &self.cp_listed.get().to_le_bytes());
        put(out, 64, &self.block_credit.to_le_bytes());
        put(out, 68, &self.delay_micros.to_le_bytes());
        put(out, 72, &self.range_count.to_le_bytes());
        put(out, 74, &self.refused_count.to_le_bytes());
        put(out, 80, &self.cp_round.to_le_bytes());
        put(out, 76, &[u8::from(self.failed), self.state as u8, u8::from(self.restart)]);
        for (n, range) in self.ranges().iter().enumerate() {
            put(out, ranges_at + n * 16, &range.first.to_le_bytes());
            put(out, ranges_at + n * 16 + 8, &range.last.to_le_bytes());
        }
        for (n, record) in self.refused().iter().enumerate() {
            put(out, refused_at + n * 4, &record.to_le_bytes());
        }
        length
    }

    /// Reads a body. Ranges must be in falling order without touching, as [`Report::emit`] is given them.
    pub fn parse(bytes: &[u8]) -> Result<Report, PeerFormatError> {
        if bytes.len() < FIXED_BYTES {
            return Err(PeerFormatError::Length);
        }
        let ranges = usize::from(u16_at(bytes, 72));
        let refused = usize::from(u16_at(bytes, 74));
        if ranges > RANGES_MAX
            || refused > REFUSED_MAX
            || bytes.len() != FIXED_BYTES + ranges * 16 + refused * 4
        {
            return Err(PeerFormatError::Length);
        }
        let mut report = Report::new(
            Lsn::new(u64_at(bytes, 0)),
            CpId::new(u64_at(bytes, 8)),
            CpId::new(u64_at(bytes, 16)),
            array_at(bytes, 24),
        );
        report.cp_listed = CpId::new(u64_at(bytes, 56));
        report.block_credit = u32_at(bytes, 64);
        report.delay_micros = u32_at(bytes, 68);
        report.cp_round = u32_at(bytes, 80);
        report.failed = bytes[76] != 0;
        report.state = sync_state(bytes[77])?;
        report.restart = bytes[78] == 1;
        let mut below = u64::MAX;
        for n in 0..ranges {
            let at = FIXED_BYTES + n * 16;
            let range = PacketRange { first: u64_at(bytes, at), last: u64_at(bytes, at + 8) };
            if range.first > range.last || range.last >= below {
                return Err(PeerFormatError::Value);
            }
            below = range.first;
            report.push_range(range);
        }
        for n in 0..refused {
            report.push_refused(u32_at(bytes, FIXED_BYTES + ranges * 16 + n * 4));
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_emitted_parses_to_the_same() {
        let mut report = Report::new(Lsn::new(9), CpId::new(7), CpId::new(3), [6; 32]);
        report.cp_listed = CpId::new(4);
        report.block_credit = 256;
        report.state = SyncState::OutOfSync;
        report.restart = true;
        report.cp_round = 3;
        report.push_range(PacketRange { first: 10, last: 20 });
        report.push_range(PacketRange { first: 1, last: 5 });
        report.push_refused(77);
        let mut out = [0xFF; REPORT_BYTES_MAX];
        let length = report.emit(&mut out);
        assert_eq!(Report::parse(&out[..length]), Ok(report));
        assert_eq!(report.largest(), Some(PacketNumber::new(20)));
        for other in 0..length {
            assert!(Report::parse(&out[..other]).is_err());
        }
        out[77] = 3;
        assert_eq!(Report::parse(&out[..length]), Err(PeerFormatError::Value));
    }

    #[test]
    fn ranges_out_of_order_are_refused() {
        let mut report = Report::new(Lsn::new(9), CpId::new(7), CpId::new(3), [6; 32]);
        report.push_range(PacketRange { first: 1, last: 5 });
        report.push_range(PacketRange { first: 5, last: 9 });
        let mut out = [0; REPORT_BYTES_MAX];
        let length = report.emit(&mut out);
        assert_eq!(Report::parse(&out[..length]), Err(PeerFormatError::Value));
    }

    #[test]
    fn a_full_report_takes_no_more() {
        let mut report = Report::new(Lsn::new(0), CpId::new(0), CpId::new(0), [0; 32]);
        for n in 0..RANGES_MAX as u64 {
            assert!(report.push_range(PacketRange { first: 1000 - 10 * n, last: 1000 - 10 * n }));
        }
        assert!(!report.push_range(PacketRange { first: 0, last: 0 }));
    }
}
