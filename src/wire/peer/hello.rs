//! How two nodes meet: the source says who it is and what it retains, the destination says what it holds or why not.

use super::PeerFormatError;
use crate::bytes::{array_at, put, u16_at, u32_at, u64_at};
use crate::disk::{VOLUMES_MAX, VolumeIdentity};
use ibid_units::{CpId, Lsn};

const FIXED_BYTES: usize = 96;
const ANSWER_BYTES: usize = 80;
/// Bytes of the largest hello.
pub const HELLO_BYTES_MAX: usize = FIXED_BYTES + VOLUMES_MAX * 24;

// A hello is one frame, also on a 1500-byte network: IP and UDP headers, frame header, one section line.
const _: () = assert!(HELLO_BYTES_MAX + 28 + super::HEADER_BYTES + super::SECTION_BYTES <= 1500);

/// The source opens a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The pair both belong to.
    pub pair: [u8; 16],
    /// Chosen at random when the source process started: tells a new start from a new session.
    pub instance: u64,
    /// The newest CP durable in the source's volumes …
    pub cp: CpId,
    /// … the newest entry in it …
    pub last_lsn: Lsn,
    /// … and the chain digest there.
    pub chain: [u8; 32],
    /// Segment slots of the source's log.
    pub segments: u32,
    /// Blocks of each.
    pub segment_blocks: u32,
    /// How many of `volumes` are in use.
    pub volume_count: u16,
    /// The volumes, by place.
    pub volumes: [VolumeIdentity; VOLUMES_MAX],
}

impl Hello {
    /// Writes the body; gives its length.
    pub fn emit(&self, out: &mut [u8]) -> usize {
        let count = usize::from(self.volume_count);
        let length = FIXED_BYTES + count * 24;
        let out = &mut out[..length];
        out.fill(0);
        put(out, 0, &self.pair);
        put(out, 16, &self.instance.to_le_bytes());
        put(out, 24, &self.cp.get().to_le_bytes());
        put(out, 32, &self.last_lsn.get().to_le_bytes());
        put(out, 40, &self.chain);
        put(out, 72, &self.segments.to_le_bytes());
        put(out, 76, &self.segment_blocks.to_le_bytes());
        put(out, 80, &self.volume_count.to_le_bytes());
        for (n, volume) in self.volumes[..count].iter().enumerate() {
            put(out, FIXED_BYTES + n * 24, &volume.uuid);
            put(out, FIXED_BYTES + n * 24 + 16, &volume.sectors.to_le_bytes());
        }
        length
    }

    /// Reads the body.
    pub fn parse(bytes: &[u8]) -> Result<Hello, PeerFormatError> {
        if bytes.len() < FIXED_BYTES {
            return Err(PeerFormatError::Length);
        }
        let volume_count = u16_at(bytes, 80);
        let count = usize::from(volume_count);
        if count > VOLUMES_MAX || bytes.len() != FIXED_BYTES + count * 24 {
            return Err(PeerFormatError::Length);
        }
        let mut volumes = [VolumeIdentity::default(); VOLUMES_MAX];
        for (n, volume) in volumes[..count].iter_mut().enumerate() {
            let at = FIXED_BYTES + n * 24;
            *volume = VolumeIdentity { uuid: array_at(bytes, at), sectors: u64_at(bytes, at + 16) };
        }
        Ok(Hello {
            pair: array_at(bytes, 0),
            instance: u64_at(bytes, 16),
            cp: CpId::new(u64_at(bytes, 24)),
            last_lsn: Lsn::new(u64_at(bytes, 32)),
            chain: array_at(bytes, 40),
            segments: u32_at(bytes, 72),
            segment_blocks: u32_at(bytes, 76),
            volume_count,
            volumes,
        })
    }
}

/// Why a destination does not take a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HelloRefusal {
    /// Another pair.
    #[error("the peer belongs to another pair (node.pair differs)")]
    Pair,
    /// The source's epoch is older than the destination's.
    #[error("the peer has seen a newer epoch")]
    Epoch,
    /// Another log geometry.
    #[error("log.segments or log.segment_size differ from the peer's")]
    Geometry,
    /// Other volumes, or in another order.
    #[error("the volumes (uuid, size, order) differ from the peer's")]
    Volumes,
    /// The chain digests differ at the same CP, or one side is ahead in a way that its log does not cover.
    #[error("the histories differ: the volumes are not at the same consistency point")]
    History,
    /// The destination stopped after an I/O error.
    #[error("the peer has failed")]
    Failed,
}

impl HelloRefusal {
    const ALL: [HelloRefusal; 6] = [
        HelloRefusal::Pair,
        HelloRefusal::Epoch,
        HelloRefusal::Geometry,
        HelloRefusal::Volumes,
        HelloRefusal::History,
        HelloRefusal::Failed,
    ];
}

/// The destination's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HelloAnswer {
    /// Why not, or nothing.
    pub refusal: Option<HelloRefusal>,
    /// The newest CP durable in the destination's volumes …
    pub cp: CpId,
    /// … and the chain digest there.
    pub chain: [u8; 32],
    /// Entries up to here are durable in its log, of this instance of the source; below `cp`'s last where it holds none.
    pub durable: Lsn,
    /// It has room for segments up to this one.
    pub segment_limit: CpId,
}

impl HelloAnswer {
    /// Writes the body; gives its length.
    pub fn emit(&self, out: &mut [u8]) -> usize {
        let out = &mut out[..ANSWER_BYTES];
        out.fill(0);
        let code = self.refusal.map_or(0, |refusal| refusal as u8 + 1);
        put(out, 0, &[code]);
        put(out, 8, &self.cp.get().to_le_bytes());
        put(out, 16, &self.chain);
        put(out, 48, &self.durable.get().to_le_bytes());
        put(out, 56, &self.segment_limit.get().to_le_bytes());
        ANSWER_BYTES
    }

    /// Reads the body.
    pub fn parse(bytes: &[u8]) -> Result<HelloAnswer, PeerFormatError> {
        if bytes.len() != ANSWER_BYTES {
            return Err(PeerFormatError::Length);
        }
        let refusal = match usize::from(bytes[0]).checked_sub(1) {
            None => None,
            Some(index) => Some(*HelloRefusal::ALL.get(index).ok_or(PeerFormatError::Value)?),
        };
        Ok(HelloAnswer {
            refusal,
            cp: CpId::new(u64_at(bytes, 8)),
            chain: array_at(bytes, 16),
            durable: Lsn::new(u64_at(bytes, 48)),
            segment_limit: CpId::new(u64_at(bytes, 56)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_round_trips_and_refuses_other_lengths() {
        let mut volumes = [VolumeIdentity::default(); VOLUMES_MAX];
        volumes[0] = VolumeIdentity { uuid: [1; 16], sectors: 99 };
        let hello = Hello {
            pair: [2; 16],
            instance: 8,
            cp: CpId::new(1),
            last_lsn: Lsn::new(5),
            chain: [3; 32],
            segments: 4,
            segment_blocks: 1024,
            volume_count: 1,
            volumes,
        };
        let mut out = [0xFF; HELLO_BYTES_MAX];
        let length = hello.emit(&mut out);
        assert_eq!(Hello::parse(&out[..length]), Ok(hello));
        assert!(Hello::parse(&out[..length - 1]).is_err());
        out[80] = 200;
        assert_eq!(Hello::parse(&out[..length]), Err(PeerFormatError::Length));
    }

    #[test]
    fn every_answer_round_trips() {
        for refusal in HelloRefusal::ALL.map(Some).into_iter().chain([None]) {
            let answer = HelloAnswer {
                refusal,
                cp: CpId::new(3),
                chain: [4; 32],
                durable: Lsn::new(70),
                segment_limit: CpId::new(6),
            };
            let mut out = [0; 128];
            let length = answer.emit(&mut out);
            assert_eq!(HelloAnswer::parse(&out[..length]), Ok(answer));
        }
    }
}
