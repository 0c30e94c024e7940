//! One connection: what was negotiated, its command slots, and where its reception stands. Pools only, no decisions.

use super::auth::Auth;
use super::config::{ADMIN_CAPSULE_BYTES, Limits};
use super::stage::Stage;
use super::{READ_PIECES_MAX, ReadPiece};
use alloc::{boxed::Box, collections::VecDeque, vec, vec::Vec};
use ibid_units::{Nanos, Span};
use ibid_wire::nvme_tcp::{
    CAPSULE_BYTES, COMMON_BYTES, DIGEST_BYTES, IC_BYTES, SHORT_BYTES, Sqe, Status,
};

/// Bytes for data that is no client payload: Connect data, range lists, and what is thrown away.
pub(super) const SMALL_BYTES: usize = ADMIN_CAPSULE_BYTES as usize;
/// Most bytes of header: a data digest, then the largest header with padding (PDO ≤ 128) or ICReq.
pub(super) const HEAD_BYTES: usize = DIGEST_BYTES + IC_BYTES + DIGEST_BYTES;
/// Commands that may be outstanding before Connect has told the queue's size; no host sends a second one.
const ENTRIES_BEFORE_CONNECT: u16 = 2;

/// How far a connection is. Named for what it awaits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Free,
    AwaitsIcReq,
    AwaitsConnect,
    Connected,
    Closing,
}

/// How far a command is, in path order.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Phase {
    Free,
    /// A command with small data in its capsule, which is on its way to `small`.
    AwaitsData {
        sqe: Sqe,
    },
    /// A write or compare; the shard was asked for memory.
    AwaitsPages {
        bytes: u32,
        inline: bool,
    },
    /// It has that; its R2T is not staged yet.
    AwaitsR2t {
        span: Span,
    },
    /// Data is due, into that memory.
    Filling,
    /// Data is due but unwanted; then the command ends with this.
    Draining {
        status: Status,
    },
    /// A whole write or compare, a flush or a verify is the shard's.
    AtShard,
    /// So many runs of zeroes are the shard's.
    Ranges {
        left: u16,
        worst: Status,
    },
    /// A read is the shard's.
    Reading {
        bytes: u32,
    },
    /// A read's pieces are on their way out.
    Sending {
        count: u8,
        next: u8,
        offset: u32,
    },
    /// A small structure is on its way out.
    Reply {
        page: Page,
        at: u64,
        bytes: u32,
        sent: u32,
    },
    /// An asynchronous event request.
    Held,
    /// An Authentication Receive whose message is not there yet.
    AwaitsAuth,
    /// A response is queued.
    Responding {
        status: Status,
        result: u64,
    },
    /// The last bytes are staged, or the connection ends before there are any.
    Leaving,
}

impl Phase {
    /// Whether the shard knows of the command and has not answered for good.
    pub(super) const fn is_at_shard(self) -> bool {
        matches!(
            self,
            Self::AwaitsPages { .. }
                | Self::AwaitsR2t { .. }
                | Self::Filling
                | Self::AtShard
                | Self::Ranges { .. }
                | Self::Reading { .. }
        )
    }
}

/// A structure that is rendered when it is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Page {
    Identify {
        cns: u8,
        nsid: u32,
        cntid: u16,
    },
    Log {
        lid: u8,
        specific: u8,
    },
    HostId,
    HostBehavior {
        current: bool,
    },
    /// A message of an authentication.
    Auth,
}

/// The first command of a fused pair: the next command on its queue must be the second (Base 3.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum First {
    /// None is awaited.
    None,
    /// A compare of this range that was taken.
    Taken { slot: u16, generation: u32, nsid: u32, slba: u64, blocks: u32 },
    /// One that has failed already: its second fails with it.
    Failed,
}

/// A command's place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) generation: u32,
    pub(super) cid: u16,
    /// The identifier is this slot's in `cids` (not where it was a duplicate).
    pub(super) owns_cid: bool,
    /// Stands in the transmit queue.
    pub(super) queued: bool,
    /// The shard waits for `Released`.
    pub(super) pinned: bool,
    pub(super) phase: Phase,
    /// The R2T that is out, if one is.
    pub(super) r2t: Option<Transfer>,
}

/// A transfer that an R2T asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Transfer {
    pub(super) span: Span,
    /// Bytes announced by H2CData so far.
    pub(super) received: u32,
}

/// The data of the PDU that is being received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Body {
    pub(super) slot: u16,
    pub(super) to: To,
    /// Bytes of it still to come.
    pub(super) left: u32,
    pub(super) digest: bool,
    /// The command's data is complete with it.
    pub(super) last: bool,
    /// It answers an R2T.
    pub(super) by_r2t: bool,
}

/// Where a body goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum To {
    /// Nowhere yet.
    Await,
    /// Into the arena.
    Arena { whole: Span },
    /// Into `small`.
    Small { total: u32 },
    /// Over `small`, unread.
    Discard,
}

pub(super) struct Connection {
    pub(super) state: State,
    pub(super) header_digest: bool,
    pub(super) data_digest: bool,
    /// C2HData starts at a multiple of this in its PDU.
    pub(super) alignment: usize,
    pub(super) controller: Option<u16>,
    /// Whose it is, once it is past Connect.
    pub(super) host: u16,
    pub(super) qid: u16,
    /// Submission queue entries.
    pub(super) entries: u16,
    pub(super) sq_head: u16,
    pub(super) flow_control: bool,
    /// Disconnect was taken: closes once everything is sent.
    pub(super) leaves: bool,

    pub(super) head: [u8; HEAD_BYTES],
    /// Bytes in `head`.
    pub(super) have: usize,
    pub(super) body: Option<Body>,
    pub(super) small: Box<[u8]>,

    pub(super) slots: Vec<Slot>,
    pub(super) free: Vec<u16>,
    cids: Box<[u64]>,
    pub(super) pieces: Vec<[ReadPiece; READ_PIECES_MAX]>,
    /// R2Ts that are out.
    pub(super) r2ts: u16,
    /// A fused pair of which the first command has come.
    pub(super) first: First,

    pub(super) queue: VecDeque<u16>,
    pub(super) stage: Stage,

    /// How far its authentication is.
    pub(super) auth: Box<Auth>,
    /// The Authentication Receive that waits, and its room.
    pub(super) auth_fetch: Option<(u16, u32)>,
    /// A failure is not told before this.
    pub(super) auth_not_before: Nanos,

    /// ICReq, Connect, authentication, and the end of a close.
    pub(super) step_deadline: Nanos,
    /// Data that the host owes.
    pub(super) data_deadline: Nanos,
    /// Bytes that the host does not take.
    pub(super) send_deadline: Nanos,
}

impl Connection {
    pub(super) fn new(limits: &Limits) -> Self {
        let depth = usize::from(limits.queue_depth_max);
        let idle = Slot {
            generation: 0,
            cid: 0,
            owns_cid: false,
            queued: false,
            pinned: false,
            phase: Phase::Free,
            r2t: None,
        };
        let mut connection = Self {
            state: State::Free,
            header_digest: false,
            data_digest: false,
            alignment: 4,
            controller: None,
            host: 0,
            qid: 0,
            entries: 0,
            sq_head: 0,
            flow_control: true,
            leaves: false,
            head: [0; HEAD_BYTES],
            have: 0,
            body: None,
            small: vec![0; SMALL_BYTES].into_boxed_slice(),
            slots: vec![idle; depth],
            free: Vec::with_capacity(depth),
            cids: vec![0; (1 << 16) / 64].into_boxed_slice(),
            pieces: vec![[ReadPiece::default(); READ_PIECES_MAX]; depth],
            r2ts: 0,
            first: First::None,
            queue: VecDeque::with_capacity(depth),
            stage: Stage::new(),
            auth: Box::new(Auth::new()),
            auth_fetch: None,
            auth_not_before: Nanos::ZERO,
            step_deadline: Nanos::NEVER,
            data_deadline: Nanos::NEVER,
            send_deadline: Nanos::NEVER,
        };
        connection.reset();
        connection
    }

    /// Back to how it was made; generations go on, so that late answers find nothing.
    pub(super) fn reset(&mut self) {
        self.state = State::Free;
        self.header_digest = false;
        self.data_digest = false;
        self.alignment = 4;
        self.controller = None;
        self.qid = 0;
        self.entries = ENTRIES_BEFORE_CONNECT;
        self.sq_head = 0;
        self.flow_control = true;
        self.leaves = false;
        self.have = 0;
        self.body = None;
        self.free.clear();
        for (index, slot) in self.slots.iter_mut().enumerate().rev() {
            if slot.phase != Phase::Free {
                slot.generation = slot.generation.wrapping_add(1);
            }
            slot.phase = Phase::Free;
            slot.owns_cid = false;
            slot.queued = false;
            slot.pinned = false;
            slot.r2t = None;
            self.free.push(index as u16);
        }
        self.cids.fill(0);
        self.r2ts = 0;
        self.first = First::None;
        self.queue.clear();
        self.stage.clear();
        self.auth.reset();
        self.auth_fetch = None;
        self.auth_not_before = Nanos::ZERO;
        self.step_deadline = Nanos::NEVER;
        self.data_deadline = Nanos::NEVER;
        self.send_deadline = Nanos::NEVER;
    }

    /// Whether anything that comes is still of interest.
    pub(super) const fn receives(&self) -> bool {
        match self.state {
            State::AwaitsIcReq | State::AwaitsConnect => true,
            State::Connected => !self.leaves,
            State::Free | State::Closing => false,
        }
    }

    /// What is staged will never be sent.
    pub(super) fn stage_is_lost(&mut self) {
        self.stage.clear();
    }

    /// Commands that have not been answered in full.
    pub(super) fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether this command identifier is in use.
    pub(super) fn has_cid(&self, cid: u16) -> bool {
        self.cids[usize::from(cid / 64)] & 1 << (cid % 64) != 0
    }

    /// Whether any is.
    pub(super) fn has_cids(&self) -> bool {
        self.cids.iter().any(|&word| word != 0)
    }

    /// Whether as many commands are outstanding as the queue has entries.
    pub(super) fn is_full(&self) -> bool {
        self.outstanding() >= usize::from(self.entries)
    }

    /// Drops the asynchronous event request with this identifier, if one is held. A host that uses the identifier for another command
    /// has given the request up: SPDK does so without a word before it shuts a controller down.
    pub(super) fn drop_held(&mut self, cid: u16) {
        if !self.has_cid(cid) {
            return;
        }
        let held = |slot: &Slot| slot.phase == Phase::Held && slot.cid == cid;
        if let Some(index) = self.slots.iter().position(held) {
            self.free_slot(index as u16);
        }
    }

    /// Takes a slot for a command; the flag says whether its identifier is new. Only while not [`Connection::is_full`].
    pub(super) fn take_slot(&mut self, cid: u16) -> (u16, bool) {
        assert!(!self.is_full(), "a command was taken into a full queue");
        let index = self.free.pop().expect("a queue has no more entries than slots");
        let (word, bit) = (usize::from(cid / 64), 1 << (cid % 64));
        let is_new = self.cids[word] & bit == 0;
        self.cids[word] |= bit;
        let slot = &mut self.slots[usize::from(index)];
        slot.cid = cid;
        slot.owns_cid = is_new;
        (index, is_new)
    }

    /// Gives a slot back once its response is out.
    pub(super) fn free_slot(&mut self, index: u16) {
        let slot = &mut self.slots[usize::from(index)];
        assert!(slot.phase != Phase::Free, "a slot is freed twice");
        assert!(!slot.queued, "FE-2: a queued slot is freed");
        assert!(!slot.pinned, "FE-4: a pinned slot is freed");
        if slot.owns_cid {
            self.cids[usize::from(slot.cid / 64)] &= !(1 << (slot.cid % 64));
        }
        slot.phase = Phase::Free;
        slot.owns_cid = false;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
    }

    /// Bytes of header that may be asked for before anything of the next PDU is known (FE-1): the smallest header that can
    /// come next. `r2ts` is how many R2Ts will be out when it comes.
    pub(super) fn first_header_bytes(&self, r2ts: u16) -> usize {
        let digest = if self.header_digest { DIGEST_BYTES } else { 0 };
        match self.state {
            State::AwaitsIcReq => IC_BYTES,
            State::AwaitsConnect | State::Connected if r2ts == 0 => CAPSULE_BYTES + digest,
            State::AwaitsConnect | State::Connected => SHORT_BYTES + digest,
            State::Free | State::Closing => COMMON_BYTES,
        }
    }

    /// The in-capsule data that waited flows into these pages.
    pub(super) fn place_body(&mut self, span: Span) {
        let body =
            self.body.as_mut().expect("a write that waits for pages is the body being received");
        assert!(body.to == To::Await, "pages are given twice");
        assert!(body.left == span.len, "pages are not the body's length");
        body.to = To::Arena { whole: span };
    }

    /// If the body being received is this command's, the rest of it is thrown away.
    pub(super) fn discard_body(&mut self, slot: u16) {
        if let Some(body) = self.body.as_mut()
            && body.slot == slot
        {
            body.to = To::Discard;
        }
    }

    /// Tag of the R2T of a slot: never 0, and with 5 bits of generation so that a stale one is noticed.
    pub(super) fn tag(&self, slot: u16) -> u16 {
        let generation = (self.slots[usize::from(slot)].generation & 0x1f) as u16;
        (slot + 1) | generation << 11
    }

    /// The slot a tag names, if it is one that was given and is still asked for.
    pub(super) fn slot_of_tag(&self, tag: u16) -> Option<u16> {
        let slot = (tag & 0x7ff).checked_sub(1)?;
        self.slots.get(usize::from(slot))?.r2t?;
        (self.tag(slot) == tag).then_some(slot)
    }
}
