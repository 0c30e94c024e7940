//! Builds the frames that are sent: headers, head and spans of the arena, copied into one packet buffer.
//! Takes the arena; gives frames that refer to nothing else.

use std::sync::Arc;

use ibid_driver::{Arena, Seal};
use ibid_units::Span;

use crate::error::PortError;
use crate::mbuf::{self, Mbuf};
use crate::outbox::{BURST_FRAMES, PENDING_FRAMES};
use crate::pool::{Pool, STASH_BUFFERS, Stash};
use crate::template::{Template, UdpChecksum};

/// The buffers of what is sent.
pub(crate) struct Frames {
    // Goes back to the pool, hence dropped before it.
    stash: Stash,
    pool: Pool,
    arena: Arc<Arena>,
}

impl Frames {
    /// Takes the memory for frames of at most `frame_bytes`. Spans lie in `arena`.
    pub(crate) fn new(
        arena: Arc<Arena>,
        frame_bytes: usize,
        numa_socket: i32,
    ) -> Result<Frames, PortError> {
        let pool = Pool::new(FRAME_BUFFERS, frame_bytes, numa_socket)?;
        Ok(Frames { stash: Stash::new(), pool, arena })
    }

    /// A frame of the given bytes; `None` where no buffer is free.
    pub(crate) fn plain(&mut self, frame: &[u8]) -> Option<Mbuf> {
        if !self.stash.ensure(1, &self.pool) {
            return None;
        }
        let mbuf = self.stash.take();
        // SAFETY: fresh from the pool, whose room is a whole frame; ours alone.
        unsafe { mbuf::fill(mbuf, frame.len(), |bytes| bytes.copy_from_slice(frame)) };
        Some(mbuf)
    }

    /// A frame with a datagram of `head` and the spans, which are `payload` bytes long together; `None` where no buffer is free. A
    /// `seal` is shown the datagram in the frame.
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
    ) -> Option<Mbuf> {
        // Before a buffer is taken: a panic must not lose one.
        for span in spans {
            self.arena.address(*span);
        }
        if !self.stash.ensure(1, &self.pool) {
            return None;
        }
        let datagram = head.len() + payload;
        let write = |bytes: &mut [u8]| {
            let (front, rest) = bytes.split_at_mut(template.len());
            template.write(datagram, front);
            let (to, mut body) = rest.split_at_mut(head.len());
            to.copy_from_slice(head);
            for span in spans {
                let (to, after) = body.split_at_mut(span.len as usize);
                self.arena.copy_out(span.at, to);
                body = after;
            }
            if let Some(seal) = seal {
                seal(rest);
            }
            if template.checksum() == UdpChecksum::Software {
                template.finish(rest, front);
            }
        };
        let mbuf = self.stash.take();
        // SAFETY: fresh from the pool, whose room is a whole frame; ours alone.
        unsafe { mbuf::fill(mbuf, template.len() + datagram, write) };
        ask_device(mbuf, template);
        Some(mbuf)
    }
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

/// Waiting, in the stash, and as many again in a device that holds them for a while.
const FRAME_BUFFERS: u32 = 1023;

const _: () = assert!(PENDING_FRAMES + STASH_BUFFERS + BURST_FRAMES < FRAME_BUFFERS as usize);
