//! How two nodes meet: the source says who it is and where it stands, the destination says where it stands and what was decided, or why
//! not. What is decided, and why, is `engine::role`'s; here are only the words.

use super::{PeerFormatError, sync_state};
use crate::bytes::{array_at, put, u16_at, u32_at, u64_at};
use crate::disk::{SyncState, VolumeIdentity};
use ibid_units::{CpId, Epoch, Lsn};
use sha2::{Digest, Sha256};

/// Segments of a log after its CP, at most: as many as a log may have (`log.segments`).
pub const HELD_MAX: usize = 64;
const HELD_BYTES: usize = 16;
const HELLO_BYTES: usize = 232;
const ANSWER_BYTES: usize = 128;
/// Bytes of the largest hello.
pub const HELLO_BYTES_MAX: usize = HELLO_BYTES + HELD_MAX * HELD_BYTES;
/// Bytes of the largest answer.
pub const ANSWER_BYTES_MAX: usize = ANSWER_BYTES + HELD_MAX * HELD_BYTES;

mod hello_field {
    pub(super) const PAIR: usize = 0;
    pub(super) const INSTANCE: usize = 16;
    pub(super) const CP: usize = 24;
    pub(super) const LAST_LSN: usize = 32;
    pub(super) const CHAIN: usize = 40;
    pub(super) const SEGMENTS: usize = 72;
    pub(super) const SEGMENT_BLOCKS: usize = 76;
    pub(super) const HELD: usize = 80;
    pub(super) const FLAGS: usize = 82;
    pub(super) const ZERO: usize = 83;
    pub(super) const VOLUMES: usize = 88;
    pub(super) const END: usize = 120;
    pub(super) const COMMITTED: usize = 128;
    pub(super) const AGREED: usize = 136;
    pub(super) const FIRST_END: usize = 144;
    pub(super) const PEER_CP: usize = 152;
    pub(super) const PEER_CHAIN: usize = 160;
    pub(super) const PEER_NEXT_CHAIN: usize = 192;
    pub(super) const OPENED: usize = 224;
}

mod answer_field {
    pub(super) const VERDICT: usize = 0;
    pub(super) const STATE: usize = 1;
    pub(super) const FLAGS: usize = 2;
    pub(super) const ZERO: usize = 3;
    pub(super) const HELD: usize = 4;
    pub(super) const ZERO_TOO: usize = 6;
    pub(super) const CP: usize = 8;
    pub(super) const CHAIN: usize = 16;
    pub(super) const END: usize = 48;
    pub(super) const SEGMENT_LIMIT: usize = 56;
    pub(super) const EPOCH: usize = 64;
    pub(super) const LAST_LSN: usize = 72;
    pub(super) const COMMITTED: usize = 80;
    pub(super) const BASE_CP: usize = 88;
    pub(super) const BASE_CHAIN: usize = 96;
}

const FLAG_IN_SYNC: u8 = 1;
const FLAG_WHOLE: u8 = 2;
const FLAG_ENCRYPTED: u8 = 4;
const FLAG_FRESH: u8 = 1;
const FLAG_MEMORY: u8 = 2;
/// Set in a verdict that is a refusal.
const REFUSED: u8 = 0x80;

/// SHA-256 over the table of volumes: their number, then UUID and capacity of each, by place.
pub fn volumes_digest(volumes: &[VolumeIdentity]) -> [u8; 32] {
    let mut sha = Sha256::new();
    sha.update((volumes.len() as u64).to_le_bytes());
    for volume in volumes {
        sha.update(volume.uuid);
        sha.update(volume.sectors.to_le_bytes());
    }
    sha.finalize().into()
}

/// What both nodes of a pair must have alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The pair a node belongs to.
    pub pair: [u8; 16],
    /// [`volumes_digest`] of its volumes.
    pub volumes: [u8; 32],
    /// Segment slots of its log.
    pub segments: u32,
    /// Blocks of each.
    pub segment_blocks: u32,
}

/// What a log holds of one segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Who wrote the segment.
    pub epoch: Epoch,
    /// How many batches of it are here, from the first on.
    pub batches: u32,
    /// The checksum of the last of them, which continues those before it: 0 without any.
    pub crc: u32,
}

/// What a log holds after its node's CP: segment cp + 1, cp + 2 … in order, none left out.
#[derive(Clone, Copy, Debug)]
pub struct HeldList {
    count: u16,
    held: [Held; HELD_MAX],
}

impl HeldList {
    /// Nothing.
    pub const EMPTY: HeldList =
        HeldList { count: 0, held: [Held { epoch: Epoch::new(0), batches: 0, crc: 0 }; HELD_MAX] };

    /// Adds the next segment.
    ///
    /// # Panics
    /// If there are [`HELD_MAX`] already: no log has more.
    pub fn push(&mut self, held: Held) {
        assert!(usize::from(self.count) < HELD_MAX, "a log has at most {HELD_MAX} segments");
        self.held[usize::from(self.count)] = held;
        self.count += 1;
    }

    /// The segments, in order.
    pub fn as_slice(&self) -> &[Held] {
        &self.held[..usize::from(self.count)]
    }

    fn bytes(&self) -> usize {
        usize::from(self.count) * HELD_BYTES
    }

    fn emit(&self, out: &mut [u8]) {
        for (held, out) in self.as_slice().iter().zip(out.chunks_exact_mut(HELD_BYTES)) {
            put(out, 0, &held.epoch.get().to_le_bytes());
            put(out, 8, &held.batches.to_le_bytes());
            put(out, 12, &held.crc.to_le_bytes());
        }
    }

    /// Reads `count` segments from what must be their bytes and nothing else.
    fn parse(count: u16, bytes: &[u8]) -> Result<HeldList, PeerFormatError> {
        let fits = usize::from(count) <= HELD_MAX;
        if !fits || bytes.len() != usize::from(count) * HELD_BYTES {
            return Err(PeerFormatError::Length);
        }
        let mut list = HeldList::EMPTY;
        for bytes in bytes.chunks_exact(HELD_BYTES) {
            list.push(Held {
                epoch: Epoch::new(u64_at(bytes, 0)),
                batches: u32_at(bytes, 8),
                crc: u32_at(bytes, 12),
            });
        }
        Ok(list)
    }
}

impl PartialEq for HeldList {
    fn eq(&self, other: &HeldList) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for HeldList {}

/// Where a source stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SourceStanding {
    /// Who it is.
    pub epoch: Epoch,
    /// What it has alike with its peer.
    pub identity: Identity,
    /// Its volumes differ from the peer's by nothing but what is in the log; otherwise its map counts, and it may have completed
    /// writes alone.
    pub in_sync: bool,
    /// Its map names every block.
    pub whole: bool,
    /// The newest CP durable in its volumes …
    pub cp: CpId,
    /// … the newest entry in it …
    pub last_lsn: Lsn,
    /// … and the chain digest there.
    pub chain: [u8; 32],
    /// The newest entry in a batch of its log, `last_lsn` where there is none.
    pub end: Lsn,
    /// The newest entry that it has proof of having been acknowledged.
    pub committed: Lsn,
    /// The epoch in which its log was last opened for new writes …
    pub opened: Epoch,
    /// … and where it ended then: entries of epochs before `opened` count up to here. Those above were never acknowledged, or were
    /// abandoned knowingly; reads have been answered without them.
    pub agreed: Lsn,
    /// The newest entry of the first segment after its CP, if that is closed; else 0.
    pub first_end: Lsn,
    /// Out of sync: the newest CP that it knows to be durable at the peer, or [`crate::disk::Superblock::PEER_NONE`] …
    pub peer_cp: CpId,
    /// … its chain digest …
    pub peer_chain: [u8; 32],
    /// … and that of the CP after it, where it has been made.
    pub peer_next_chain: [u8; 32],
    /// What its log holds after its CP.
    pub held: HeldList,
}

impl SourceStanding {
    /// It has opened its log since it started: it holds what it had to fetch, and writes.
    pub fn is_settled(&self) -> bool {
        self.opened == self.epoch
    }

    /// The end of what its log is known to have held: what was acknowledged, and what was there when it was last opened. A log that ends
    /// before that is damaged; one that ends after it is whole but for a torn tail.
    pub fn known(&self) -> Lsn {
        self.committed.max(self.agreed)
    }
}

/// Where a destination stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DestinationStanding {
    /// The newest epoch it has seen.
    pub epoch: Epoch,
    /// How its volumes stand.
    pub state: SyncState,
    /// Its volumes held nothing when its log device was made, and nothing has been written to them since.
    pub fresh: bool,
    /// The CP after which its log begins …
    pub cp: CpId,
    /// … the newest entry in it …
    pub last_lsn: Lsn,
    /// … and the chain digest there.
    pub chain: [u8; 32],
    /// The newest entry durable in its log, `last_lsn` where there is none.
    pub end: Lsn,
    /// The newest entry that it has proof of having been acknowledged.
    pub committed: Lsn,
    /// The CP that its volumes come from: `cp`, except between the adoption of a source's CP and the next CP, when it is what
    /// `cp` was before, [`crate::disk::Superblock::PEER_NONE`] after [`SyncState::New`] …
    pub base_cp: CpId,
    /// … and the chain digest there.
    pub base_chain: [u8; 32],
    /// What its log holds after its CP.
    pub held: HeldList,
}

/// The source opens a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Chosen at random when the source process started: tells a new start from a new session.
    pub instance: u64,
    /// Frames of the session are encrypted, not only authenticated (`link.encryption`).
    pub encrypted: bool,
    /// Where it stands.
    pub standing: SourceStanding,
}

impl Hello {
    /// Writes the body; gives its length. The epoch is in the frame's header.
    pub fn emit(&self, out: &mut [u8]) -> usize {
        let standing = &self.standing;
        let length = HELLO_BYTES + standing.held.bytes();
        let out = &mut out[..length];
        out.fill(0);
        put(out, hello_field::PAIR, &standing.identity.pair);
        put(out, hello_field::INSTANCE, &self.instance.to_le_bytes());
        put(out, hello_field::CP, &standing.cp.get().to_le_bytes());
        put(out, hello_field::LAST_LSN, &standing.last_lsn.get().to_le_bytes());
        put(out, hello_field::CHAIN, &standing.chain);
        put(out, hello_field::SEGMENTS, &standing.identity.segments.to_le_bytes());
        put(out, hello_field::SEGMENT_BLOCKS, &standing.identity.segment_blocks.to_le_bytes());
        put(out, hello_field::HELD, &standing.held.count.to_le_bytes());
        let flags = flag(standing.in_sync, FLAG_IN_SYNC)
            | flag(standing.whole, FLAG_WHOLE)
            | flag(self.encrypted, FLAG_ENCRYPTED);
        put(out, hello_field::FLAGS, &[flags]);
        put(out, hello_field::VOLUMES, &standing.identity.volumes);
        put(out, hello_field::END, &standing.end.get().to_le_bytes());
        put(out, hello_field::COMMITTED, &standing.committed.get().to_le_bytes());
        put(out, hello_field::AGREED, &standing.agreed.get().to_le_bytes());
        put(out, hello_field::FIRST_END, &standing.first_end.get().to_le_bytes());
        put(out, hello_field::PEER_CP, &standing.peer_cp.get().to_le_bytes());
        put(out, hello_field::PEER_CHAIN, &standing.peer_chain);
        put(out, hello_field::PEER_NEXT_CHAIN, &standing.peer_next_chain);
        put(out, hello_field::OPENED, &standing.opened.get().to_le_bytes());
        standing.held.emit(&mut out[HELLO_BYTES..]);
        length
    }

    /// Reads the body of a hello whose frame names `epoch`.
    pub fn parse(epoch: Epoch, bytes: &[u8]) -> Result<Hello, PeerFormatError> {
        if bytes.len() < HELLO_BYTES {
            return Err(PeerFormatError::Length);
        }
        let flags = bytes[hello_field::FLAGS];
        let known = FLAG_IN_SYNC | FLAG_WHOLE | FLAG_ENCRYPTED;
        if flags & !known != 0
            || bytes[hello_field::ZERO..hello_field::VOLUMES].iter().any(|&byte| byte != 0)
        {
            return Err(PeerFormatError::Value);
        }
        let held = HeldList::parse(u16_at(bytes, hello_field::HELD), &bytes[HELLO_BYTES..])?;
        let standing = SourceStanding {
            epoch,
            identity: Identity {
                pair: array_at(bytes, hello_field::PAIR),
                volumes: array_at(bytes, hello_field::VOLUMES),
                segments: u32_at(bytes, hello_field::SEGMENTS),
                segment_blocks: u32_at(bytes, hello_field::SEGMENT_BLOCKS),
            },
            in_sync: flags & FLAG_IN_SYNC != 0,
            whole: flags & FLAG_WHOLE != 0,
            cp: CpId::new(u64_at(bytes, hello_field::CP)),
            last_lsn: Lsn::new(u64_at(bytes, hello_field::LAST_LSN)),
            chain: array_at(bytes, hello_field::CHAIN),
            end: Lsn::new(u64_at(bytes, hello_field::END)),
            committed: Lsn::new(u64_at(bytes, hello_field::COMMITTED)),
            opened: Epoch::new(u64_at(bytes, hello_field::OPENED)),
            agreed: Lsn::new(u64_at(bytes, hello_field::AGREED)),
            first_end: Lsn::new(u64_at(bytes, hello_field::FIRST_END)),
            peer_cp: CpId::new(u64_at(bytes, hello_field::PEER_CP)),
            peer_chain: array_at(bytes, hello_field::PEER_CHAIN),
            peer_next_chain: array_at(bytes, hello_field::PEER_NEXT_CHAIN),
            held,
        };
        Ok(Hello {
            instance: u64_at(bytes, hello_field::INSTANCE),
            encrypted: flags & FLAG_ENCRYPTED != 0,
            standing,
        })
    }
}

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

/// Why a destination does not take a source.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
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
    /// What the destination holds does not belong to the source's history, or the other way round.
    #[error(
        "the histories differ: what the peer holds is not an earlier state of this node, or a later one"
    )]
    History,
    /// The destination stopped after an I/O error.
    #[error("the peer has failed")]
    Failed,
    /// The destination never met a source, and this source's map does not name all that it lacks.
    #[error("the peer holds nothing yet and needs a whole copy")]
    Blank,
    /// The source's log has lost acknowledged entries, and the destination's log cannot give them.
    #[error(
        "acknowledged writes are missing from this node's log, and the peer's log does not have them"
    )]
    Lost,
    /// One encrypts the link, the other only authenticates it.
    #[error("link.encryption differs from the peer's")]
    Encryption,
}

impl HelloRefusal {
    /// All of them, in the order of their codes.
    pub const ALL: [HelloRefusal; 9] = [
        HelloRefusal::Pair,
        HelloRefusal::Epoch,
        HelloRefusal::Geometry,
        HelloRefusal::Volumes,
        HelloRefusal::History,
        HelloRefusal::Failed,
        HelloRefusal::Blank,
        HelloRefusal::Lost,
        HelloRefusal::Encryption,
    ];
}

/// What a destination that takes a source has done about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outcome {
    /// Its log is a beginning of the source's: the source sends what follows.
    Continue,
    /// Its log goes on where the source's ends: the source takes that over first.
    Fetch,
    /// As fetch, though its volumes are of an earlier CP, so that nothing but this can be done yet: then the source says hello again.
    Salvage,
    /// It has dropped what it held beyond the source's log: the source sends what follows.
    Rollback,
    /// It has dropped its log and begun one after the source's CP: the source sends that, and with CPs the blocks of its map.
    CatchUp,
}

impl Outcome {
    const ALL: [Outcome; 5] =
        [Outcome::Continue, Outcome::Fetch, Outcome::Salvage, Outcome::Rollback, Outcome::CatchUp];
}

/// The destination's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HelloAnswer {
    /// What was done, or why nothing.
    pub verdict: Result<Outcome, HelloRefusal>,
    /// Where the destination stands now that it is done. A refusal leaves out what the log holds.
    pub standing: DestinationStanding,
    /// It has room for segments up to this one.
    pub segment_limit: CpId,
    /// Its log is durable in memory only (`log.durability`).
    pub in_memory: bool,
}

impl HelloAnswer {
    /// The answer to a source that is not taken: as short as can be.
    pub fn refused(
        refusal: HelloRefusal,
        standing: &DestinationStanding,
        segment_limit: CpId,
        in_memory: bool,
    ) -> HelloAnswer {
        let standing = DestinationStanding { held: HeldList::EMPTY, ..*standing };
        HelloAnswer { verdict: Err(refusal), standing, segment_limit, in_memory }
    }

    /// Writes the body; gives its length.
    pub fn emit(&self, out: &mut [u8]) -> usize {
        let standing = &self.standing;
        let length = ANSWER_BYTES + standing.held.bytes();
        let out = &mut out[..length];
        out.fill(0);
        let code = match self.verdict {
            Ok(outcome) => outcome as u8,
            Err(refusal) => REFUSED | refusal as u8,
        };
        put(out, answer_field::VERDICT, &[code]);
        put(out, answer_field::STATE, &[standing.state as u8]);
        let flags = flag(standing.fresh, FLAG_FRESH) | flag(self.in_memory, FLAG_MEMORY);
        put(out, answer_field::FLAGS, &[flags]);
        put(out, answer_field::HELD, &standing.held.count.to_le_bytes());
        put(out, answer_field::CP, &standing.cp.get().to_le_bytes());
        put(out, answer_field::CHAIN, &standing.chain);
        put(out, answer_field::END, &standing.end.get().to_le_bytes());
        put(out, answer_field::SEGMENT_LIMIT, &self.segment_limit.get().to_le_bytes());
        put(out, answer_field::EPOCH, &standing.epoch.get().to_le_bytes());
        put(out, answer_field::LAST_LSN, &standing.last_lsn.get().to_le_bytes());
        put(out, answer_field::COMMITTED, &standing.committed.get().to_le_bytes());
        put(out, answer_field::BASE_CP, &standing.base_cp.get().to_le_bytes());
        put(out, answer_field::BASE_CHAIN, &standing.base_chain);
        standing.held.emit(&mut out[ANSWER_BYTES..]);
        length
    }

    /// Reads the body.
    pub fn parse(bytes: &[u8]) -> Result<HelloAnswer, PeerFormatError> {
        if bytes.len() < ANSWER_BYTES {
            return Err(PeerFormatError::Length);
        }
        let code = bytes[answer_field::VERDICT];
        let index = usize::from(code & !REFUSED);
        let verdict = if code & REFUSED == 0 {
            Ok(*Outcome::ALL.get(index).ok_or(PeerFormatError::Value)?)
        } else {
            Err(*HelloRefusal::ALL.get(index).ok_or(PeerFormatError::Value)?)
        };
        let flags = bytes[answer_field::FLAGS];
        let zero = bytes[answer_field::ZERO] == 0 && u16_at(bytes, answer_field::ZERO_TOO) == 0;
        if flags & !(FLAG_FRESH | FLAG_MEMORY) != 0 || !zero {
            return Err(PeerFormatError::Value);
        }
        let held = HeldList::parse(u16_at(bytes, answer_field::HELD), &bytes[ANSWER_BYTES..])?;
        let standing = DestinationStanding {
            epoch: Epoch::new(u64_at(bytes, answer_field::EPOCH)),
            state: sync_state(bytes[answer_field::STATE])?,
            fresh: flags & FLAG_FRESH != 0,
            cp: CpId::new(u64_at(bytes, answer_field::CP)),
            last_lsn: Lsn::new(u64_at(bytes, answer_field::LAST_LSN)),
            chain: array_at(bytes, answer_field::CHAIN),
            end: Lsn::new(u64_at(bytes, answer_field::END)),
            committed: Lsn::new(u64_at(bytes, answer_field::COMMITTED)),
            base_cp: CpId::new(u64_at(bytes, answer_field::BASE_CP)),
            base_chain: array_at(bytes, answer_field::BASE_CHAIN),
            held,
        };
        Ok(HelloAnswer {
            verdict,
            standing,
            segment_limit: CpId::new(u64_at(bytes, answer_field::SEGMENT_LIMIT)),
            in_memory: flags & FLAG_MEMORY != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(count: usize) -> HeldList {
        let mut list = HeldList::EMPTY;
        for n in 0..count as u32 {
            list.push(Held { epoch: Epoch::new(3), batches: n + 1, crc: 0xC0DE + n });
        }
        list
    }

    fn hello(count: usize) -> Hello {
        Hello {
            instance: 8,
            encrypted: true,
            standing: SourceStanding {
                epoch: Epoch::new(4),
                identity: Identity {
                    pair: [2; 16],
                    volumes: [7; 32],
                    segments: 64,
                    segment_blocks: 1024,
                },
                in_sync: false,
                whole: true,
                cp: CpId::new(1),
                last_lsn: Lsn::new(5),
                chain: [3; 32],
                end: Lsn::new(50),
                committed: Lsn::new(49),
                opened: Epoch::new(3),
                agreed: Lsn::new(48),
                first_end: Lsn::new(12),
                peer_cp: CpId::new(9),
                peer_chain: [4; 32],
                peer_next_chain: [5; 32],
                held: held(count),
            },
        }
    }

    fn answer(verdict: Result<Outcome, HelloRefusal>, count: usize) -> HelloAnswer {
        HelloAnswer {
            verdict,
            standing: DestinationStanding {
                epoch: Epoch::new(6),
                state: SyncState::OutOfSync,
                fresh: true,
                cp: CpId::new(3),
                last_lsn: Lsn::new(60),
                chain: [4; 32],
                end: Lsn::new(70),
                committed: Lsn::new(69),
                base_cp: CpId::new(2),
                base_chain: [1; 32],
                held: held(count),
            },
            segment_limit: CpId::new(6),
            in_memory: true,
        }
    }

    #[test]
    fn a_hello_round_trips_and_refuses_other_lengths() {
        for count in [0, 1, HELD_MAX] {
            let mut out = [0xFF; HELLO_BYTES_MAX + 1];
            let length = hello(count).emit(&mut out);
            let epoch = Epoch::new(4);
            assert_eq!(Hello::parse(epoch, &out[..length]), Ok(hello(count)));
            for other in (0..length).chain([length + 1]) {
                assert_eq!(Hello::parse(epoch, &out[..other]), Err(PeerFormatError::Length));
            }
        }
    }

    #[test]
    fn a_hello_with_what_no_version_writes_is_refused() {
        let mut out = [0; HELLO_BYTES_MAX];
        let length = hello(2).emit(&mut out);
        for at in hello_field::FLAGS..hello_field::VOLUMES {
            out[at] ^= 0x80;
            assert_eq!(Hello::parse(Epoch::new(4), &out[..length]), Err(PeerFormatError::Value));
            out[at] ^= 0x80;
        }
    }

    #[test]
    fn every_answer_round_trips_and_refuses_other_lengths() {
        let refusals = HelloRefusal::ALL.into_iter().map(Err);
        for verdict in Outcome::ALL.into_iter().map(Ok).chain(refusals) {
            let answer = answer(verdict, HELD_MAX);
            let mut out = [0; ANSWER_BYTES_MAX];
            let length = answer.emit(&mut out);
            assert_eq!(HelloAnswer::parse(&out[..length]), Ok(answer));
            for other in 0..length {
                assert_eq!(HelloAnswer::parse(&out[..other]), Err(PeerFormatError::Length));
            }
        }
    }

    #[test]
    fn an_answer_with_what_no_version_writes_is_refused() {
        let mut out = [0; ANSWER_BYTES_MAX];
        let length = answer(Ok(Outcome::Fetch), 0).emit(&mut out);
        for (at, value) in [(0, 5), (0, 0x89), (1, 3), (2, 4), (3, 1), (6, 1), (7, 1)] {
            let before = core::mem::replace(&mut out[at], value);
            let found = HelloAnswer::parse(&out[..length]);
            assert_eq!(found, Err(PeerFormatError::Value), "byte {at}");
            out[at] = before;
        }
    }

    #[test]
    fn a_refusal_is_shorter_than_any_hello() {
        let full = answer(Ok(Outcome::Continue), HELD_MAX);
        let refused = HelloAnswer::refused(HelloRefusal::Pair, &full.standing, CpId::new(6), true);
        let mut out = [0; HELLO_BYTES_MAX];
        assert!(refused.emit(&mut out) < hello(0).emit(&mut out));
    }

    #[test]
    fn number_place_and_capacity_of_volumes_all_count() {
        let one = VolumeIdentity { uuid: [1; 16], sectors: 9 };
        let two = VolumeIdentity { uuid: [2; 16], sectors: 9 };
        let of = volumes_digest;
        assert_eq!(of(&[one, two]), of(&[one, two]));
        let small = VolumeIdentity { sectors: 8, ..one };
        for other in [&[two, one][..], &[one], &[], &[small, two], &[one, two, two]] {
            assert_ne!(of(&[one, two]), of(other));
        }
    }
}
