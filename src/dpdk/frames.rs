//! Builds the frames that are sent: headers and head copied into a packet buffer, spans of the arena attached to it.
//! Takes the arena, registered with DPDK; gives chains that the device may read from for as long as it wants.
//! Copies spans where the datagram is sealed or the device takes no chains, and says how much.

use std::sync::Arc;

use ibid_dpdk_sys as sys;
use ibid_driver::{Arena, Seal};
use ibid_units::Span;

use crate::device::Abilities;
use crate::eal::Eal;
use crate::error::PortError;
use crate::mbuf::{self, Mbuf};
use crate::outbox::{BURST_FRAMES, PENDING_FRAMES};
use crate::pool::{Pool, STASH_BUFFERS, Stash};
use crate::sum::Sum;
use crate::template::{Template, UdpChecksum};

/// The buffers of what is sent, and the arena they refer to.
pub(crate) struct Frames {
    external: bool,
    segments_max: usize,
    // Dropped in this order (PORT-3): buffers, pools, shared count, registration with the arena.
    stash_heads: Stash,
    stash_spans: Stash,
    heads: Pool,
    spans: Pool,
    /// How many segments refer to the arena, plus one.
    shared: Box<sys::rte_mbuf_ext_shared_info>,
    registration: Registration,
}

// SAFETY: what keeps it from being `Send` are the pointers in `shared`: a function and a null.
unsafe impl Send for Frames {}

/// An arena that DPDK knows while this lives.
struct Registration {
    arena: Arc<Arena>,
    eal: Eal,
}

impl Registration {
    fn new(eal: &Eal, arena: Arc<Arena>) -> Result<Registration, PortError> {
        eal.register(&arena)?;
        Ok(Registration { arena, eal: eal.clone() })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.eal.forget(&self.arena);
    }
}

impl Frames {
    /// Takes the memory for frames of at most `frame_bytes` on a device with these abilities.
    pub(crate) fn new(
        eal: &Eal,
        arena: Arc<Arena>,
        abilities: Abilities,
        frame_bytes: usize,
        numa_socket: i32,
    ) -> Result<Frames, PortError> {
        Ok(Frames {
            external: abilities.chains && abilities.foreign,
            segments_max: abilities.segments_max,
            stash_heads: Stash::new(),
            stash_spans: Stash::new(),
            heads: Pool::new(HEAD_BUFFERS, frame_bytes, numa_socket)?,
            spans: Pool::new(SPAN_BUFFERS, 0, numa_socket)?,
            // Count 1 is ours for good, so the callback is never called: a device only takes it down to that.
            shared: Box::new(sys::rte_mbuf_ext_shared_info {
                free_cb: Some(nothing_to_free),
                fcb_opaque: std::ptr::null_mut(),
                refcnt: 1,
            }),
            registration: Registration::new(eal, arena)?,
        })
    }

    /// Whether spans go out without a copy.
    pub(crate) fn external(&self) -> bool {
        self.external
    }

    /// Segments that refer to the arena right now.
    pub(crate) fn spans_held(&self) -> u64 {
        // SAFETY: wants a live shared count: the box is ours. It is only read.
        let holders = unsafe { mbuf::holders((&raw const *self.shared).cast_mut()) };
        u64::from(holders.saturating_sub(1))
    }

    /// A frame of the given bytes; `None` where no buffer is free.
    pub(crate) fn plain(&mut self, frame: &[u8]) -> Option<Mbuf> {
        if !self.stash_heads.ensure(1, &self.heads) {
            return None;
        }
        let mbuf = self.stash_heads.take();
        // SAFETY: fresh from the pool of heads, whose room is a whole frame; ours alone.
        unsafe { mbuf::fill(mbuf, frame.len(), |bytes| bytes.copy_from_slice(frame)) };
        Some(mbuf)
    }

    /// A frame with a datagram of `head` and the spans, which are `payload` bytes long together; `None` where no buffers are
    /// free. Adds to `copied` what was copied of the spans. With a `seal` the datagram lies in one piece, and is shown to it.
    ///
    /// # Panics
    /// If a span doesn't lie in the arena.
    #[inline]
    pub(crate) fn build(
        &mut self,
        template: &Template,
        head: &[u8],
        spans: &[Span],
        payload: usize,
        seal: Option<Seal<'_>>,
        copied: &mut u64,
    ) -> Option<Mbuf> {
        // Before a buffer is taken: a panic must not lose one.
        for span in spans {
            self.registration.arena.address(*span);
        }
        let pieces_fit = self.external && spans.len() < self.segments_max;
        if seal.is_some() || !pieces_fit || is_beyond_device(template, head, spans) {
            let mbuf = self.build_copied(template, head, spans, payload, seal)?;
            *copied += payload as u64;
            return Some(mbuf);
        }
        if !self.stash_heads.ensure(1, &self.heads)
            || !self.stash_spans.ensure(spans.len(), &self.spans)
        {
            return None;
        }
        let arena = &self.registration.arena;
        let first = self.stash_heads.take();
        let write = |bytes: &mut [u8]| {
            let (front, rest) = bytes.split_at_mut(template.len());
            template.write(head.len() + payload, front);
            rest.copy_from_slice(head);
            if template.checksum() == UdpChecksum::Software {
                let mut sum = Sum::default();
                sum.add(head);
                for span in spans {
                    sum.add(&arena.bytes(*span));
                }
                template.finish(sum, front);
            }
        };
        // SAFETY: fresh from the pool of heads, whose room is a whole frame; ours alone.
        unsafe { mbuf::fill(first, template.len() + head.len(), write) };
        ask_device(first, template);
        let mut last = first;
        for span in spans.iter().filter(|span| span.len > 0) {
            let segment = self.stash_spans.take();
            let address = self.registration.arena.address(*span);
            let len = u16::try_from(span.len).expect("the sender has compared with the MTU");
            let shared = &raw mut *self.shared;
            // SAFETY: `segment` is fresh, `last` the end of our own chain; `address` has checked the span, and the arena stays
            // mapped until the device has given everything back (PORT-3).
            unsafe { mbuf::chain_external(first, last, segment, address, len, shared) };
            last = segment;
        }
        Some(first)
    }

    fn build_copied(
        &mut self,
        template: &Template,
        head: &[u8],
        spans: &[Span],
        payload: usize,
        seal: Option<Seal<'_>>,
    ) -> Option<Mbuf> {
        if !self.stash_heads.ensure(1, &self.heads) {
            return None;
        }
        let arena = &self.registration.arena;
        let datagram = head.len() + payload;
        let write = |bytes: &mut [u8]| {
            let (front, rest) = bytes.split_at_mut(template.len());
            template.write(datagram, front);
            let (to, mut body) = rest.split_at_mut(head.len());
            to.copy_from_slice(head);
            for span in spans {
                let (to, after) = body.split_at_mut(span.len as usize);
                let from = arena.address(*span);
                // SAFETY: `address` has checked the span against the arena's end; ARENA-1 keeps others from writing it; the
                // target is a packet buffer, so the two don't overlap.
                unsafe { from.copy_to_nonoverlapping(to.as_mut_ptr(), to.len()) };
                body = after;
            }
            if let Some(seal) = seal {
                seal(rest);
            }
            if template.checksum() == UdpChecksum::Software {
                let mut sum = Sum::default();
                sum.add(rest);
                template.finish(sum, front);
            }
        };
        let mbuf = self.stash_heads.take();
        // SAFETY: fresh from the pool of heads, whose room is a whole frame; ours alone.
        unsafe { mbuf::fill(mbuf, template.len() + datagram, write) };
        ask_device(mbuf, template);
        Some(mbuf)
    }
}

/// Whether a device that sums would have to go on within a word at the end of a piece. tap's driver (DPDK 22.11) loses its place there. The
/// link's own datagrams are even in every piece but the last.
#[inline]
fn is_beyond_device(template: &Template, head: &[u8], spans: &[Span]) -> bool {
    let Some((_, but_last)) = spans.split_last() else { return false };
    let odd = |len: usize| len % 2 == 1;
    template.checksum() == UdpChecksum::Device
        && (odd(head.len()) || but_last.iter().any(|span| odd(span.len as usize)))
}

/// Has the device make the checksum of a frame with these headers, where it shall.
#[inline]
fn ask_device(frame: Mbuf, template: &Template) {
    if template.checksum() == UdpChecksum::Device {
        let (ethernet, ip, v4) = template.layers();
        // SAFETY: callers have just written the template's headers to this fresh buffer.
        unsafe { mbuf::ask_for_udp_checksum(frame, ethernet, ip, v4) };
    }
}

unsafe extern "C" fn nothing_to_free(_: *mut std::ffi::c_void, _: *mut std::ffi::c_void) {}

/// Spans of one frame at most: 9000 bytes in 512-byte sectors are 18.
pub(crate) const SPANS_MAX: usize = STASH_BUFFERS;
/// Whole frames: waiting, in the stash, and as many again in a device that holds them for a while.
const HEAD_BUFFERS: u32 = 1023;
/// Descriptors of spans: no memory of their own behind them, so plenty.
const SPAN_BUFFERS: u32 = 4095;

const _: () = assert!(SPAN_BUFFERS < u16::MAX as u32, "the shared count is a u16");
const _: () = assert!(PENDING_FRAMES + STASH_BUFFERS + BURST_FRAMES < HEAD_BUFFERS as usize);
