//! The fields of DPDK's packet buffers, read and written from Rust: one foreign call per burst, none per packet.
//! Takes pointers that a pool or a burst gave; gives slices. Owns nothing: who frees what is `pool`'s and `port`'s.

use std::ptr;

use ibid_dpdk_sys as sys;

use crate::headers::UDP_BYTES;

/// A packet buffer, possibly the first of a chain.
pub(crate) type Mbuf = *mut sys::rte_mbuf;

/// What a device has found out about a received frame, or taken off it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Noted {
    /// The tag that it took off.
    pub(crate) vlan: Option<u16>,
    /// It vouches for the UDP packet: it has summed it and found the checksum right, or it knows that the packet is whole although the
    /// checksum in it is not (virtio between guests of one host, which never left memory).
    pub(crate) udp_good: bool,
}

/// What the device noted about a received frame.
///
/// # Safety
/// `mbuf` comes from a receive burst and is not freed yet.
#[inline]
pub(crate) unsafe fn noted(mbuf: Mbuf) -> Noted {
    // SAFETY: the contract.
    let fields = unsafe { &*mbuf };
    let flags = |mask: u32| fields.ol_flags & u64::from(mask);
    let sum = flags(sys::RTE_MBUF_F_RX_L4_CKSUM_MASK);
    Noted {
        vlan: (flags(sys::RTE_MBUF_F_RX_VLAN_STRIPPED) != 0).then_some(fields.vlan_tci),
        udp_good: [sys::RTE_MBUF_F_RX_L4_CKSUM_GOOD, sys::RTE_MBUF_F_RX_L4_CKSUM_NONE]
            .map(u64::from)
            .contains(&sum),
    }
}

/// Has the device sum a frame's UDP packet while it sends it. The field must hold the pseudo header's sum.
///
/// # Safety
/// `mbuf` is the first of a chain of ours whose headers are this long.
#[inline]
pub(crate) unsafe fn ask_for_udp_checksum(
    mbuf: Mbuf,
    ethernet_bytes: usize,
    ip_bytes: usize,
    v4: bool,
) {
    // SAFETY: the contract.
    let fields = unsafe { &mut *mbuf };
    let version = if v4 { sys::RTE_MBUF_F_TX_IPV4 } else { sys::RTE_MBUF_F_TX_IPV6 };
    fields.ol_flags |= version | sys::RTE_MBUF_F_TX_UDP_CKSUM;
    // `l2_len` is the first 7 bits, `l3_len` the next 9, `l4_len` the 8 behind those (rte_mbuf_core.h), which not every driver wants.
    fields.__bindgen_anon_3.tx_offload =
        ethernet_bytes as u64 | (ip_bytes as u64) << 7 | (UDP_BYTES as u64) << 16;
}

/// Fills the only segment of a fresh buffer through `fill` and sets its lengths.
///
/// # Safety
/// `mbuf` comes fresh from a pool (`rte_pktmbuf_alloc_bulk`) whose data room behind the headroom is at least `len`, and nobody
/// else holds it.
#[inline]
pub(crate) unsafe fn fill(mbuf: Mbuf, len: usize, fill: impl FnOnce(&mut [u8])) {
    // SAFETY: the caller's contract: alive and exclusive.
    let buffer = unsafe { &mut *mbuf };
    assert!(
        usize::from(buffer.buf_len) >= usize::from(buffer.data_off) + len,
        "a frame is larger than the pool's buffers"
    );
    // SAFETY: `data_off` lies within the buffer, by the assertion above.
    let start = unsafe { buffer.buf_addr.cast::<u8>().add(usize::from(buffer.data_off)) };
    // SAFETY: `len` bytes lie in the buffer by the assertion, in memory that pools get zeroed or written before; exclusive by
    // the contract.
    fill(unsafe { std::slice::from_raw_parts_mut(start, len) });
    buffer.data_len = len as u16; // below buf_len, which is a u16
    buffer.pkt_len = len as u32;
}

/// The bytes of a received frame: as they lie where it is in one segment, put together in `scratch` where not.
/// `None` for a frame larger than `scratch`, or one whose chain contradicts itself. The flag tells whether `scratch` was used.
///
/// # Safety
/// `mbuf` comes from a receive burst, nobody else has it, and it is not freed while the slice lives.
#[inline]
pub(crate) unsafe fn bytes(mbuf: Mbuf, scratch: &mut [u8]) -> Option<(&mut [u8], bool)> {
    // SAFETY: the caller's contract.
    let first = unsafe { &*mbuf };
    if first.next.is_null() {
        // SAFETY: as this function's contract.
        return Some((unsafe { segment(mbuf) }, false));
    }
    let mut at = 0;
    let mut next = mbuf;
    while !next.is_null() {
        // SAFETY: segments of a received chain are alive as long as the chain is.
        let piece = unsafe { segment(next) };
        scratch.get_mut(at..at + piece.len())?.copy_from_slice(piece);
        at += piece.len();
        // SAFETY: as above.
        next = unsafe { (*next).next };
    }
    (at == first.pkt_len as usize).then_some((&mut scratch[..at], true))
}

/// # Safety
/// `mbuf` is alive, written by a driver, ours alone, and stays so while the slice lives; no other slice of it does.
unsafe fn segment<'a>(mbuf: Mbuf) -> &'a mut [u8] {
    // SAFETY: the contract.
    let fields = unsafe { &*mbuf };
    // SAFETY: a driver puts `data_len` bytes at `data_off` of the buffer.
    unsafe {
        std::slice::from_raw_parts_mut(
            fields.buf_addr.cast::<u8>().add(usize::from(fields.data_off)),
            usize::from(fields.data_len),
        )
    }
}

/// Length of a frame over all its segments.
///
/// # Safety
/// `mbuf` is alive.
pub(crate) unsafe fn frame_bytes(mbuf: Mbuf) -> u32 {
    // SAFETY: the contract.
    unsafe { (*mbuf).pkt_len }
}

/// Gives frames, with all their segments, back to their pools.
pub(crate) fn free(mbufs: &mut [Mbuf]) {
    if let Ok(count) = u32::try_from(mbufs.len()) {
        // SAFETY: wants `count` buffers (or nulls) that we own; callers pass what a burst or a pool gave them, once.
        unsafe { sys::rte_pktmbuf_free_bulk(mbufs.as_mut_ptr(), count) };
    }
    mbufs.fill(ptr::null_mut());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain over `pieces`, as a driver hands it out; the first segment's length is `total`.
    #[expect(clippy::vec_box, reason = "segments point at one another, so they must not move")]
    fn chain(pieces: &mut [Vec<u8>], total: u32) -> Vec<Box<sys::rte_mbuf>> {
        let mut chain: Vec<Box<sys::rte_mbuf>> = Vec::new();
        for piece in pieces.iter_mut().rev() {
            let mut segment = Box::<sys::rte_mbuf>::default();
            // Two bytes of headroom, which are not part of the frame.
            segment.buf_addr = piece.as_mut_ptr().cast();
            segment.data_off = 2;
            segment.data_len = (piece.len() - 2) as u16;
            segment.next = chain.last_mut().map_or(ptr::null_mut(), |next| &raw mut **next);
            chain.push(segment);
        }
        chain.reverse();
        chain[0].pkt_len = total;
        chain
    }

    fn show(pieces: &[&[u8]], total: u32, room: usize) -> Option<(Vec<u8>, bool)> {
        let mut pieces: Vec<Vec<u8>> =
            pieces.iter().map(|piece| [&[0xee, 0xee], *piece].concat()).collect();
        let mut chain = chain(&mut pieces, total);
        let mut scratch = vec![0; room];
        // SAFETY: the chain is whole and lives to the end of this function.
        let found = unsafe { bytes(&raw mut *chain[0], &mut scratch) };
        found.map(|(bytes, copied)| (bytes.to_vec(), copied))
    }

    #[test]
    fn a_device_vouches_in_two_ways_and_no_other() {
        let of = |flags: u32| {
            let mut mbuf = sys::rte_mbuf { vlan_tci: 77, ..Default::default() };
            mbuf.ol_flags = u64::from(flags);
            // SAFETY: lives to the end of the closure; its flags are all that is looked at.
            unsafe { noted(&raw mut mbuf) }
        };
        // rte_mbuf_core.h: good is bit 8, bad bit 3, "whole, without a checksum" both, unknown neither.
        for (flags, good) in [(0, false), (1 << 3, false), (1 << 8, true), (1 << 3 | 1 << 8, true)]
        {
            assert_eq!(of(flags), Noted { vlan: None, udp_good: good }, "{flags:#x}");
        }
        assert_eq!(of(sys::RTE_MBUF_F_RX_VLAN_STRIPPED).vlan, Some(77));
    }

    #[test]
    fn one_segment_is_shown_where_it_lies() {
        assert_eq!(show(&[b"frame"], 5, 0), Some((b"frame".to_vec(), false)));
    }

    #[test]
    fn several_segments_are_put_together_in_order() {
        assert_eq!(show(&[b"one ", b"", b"two"], 7, 7), Some((b"one two".to_vec(), true)));
    }

    #[test]
    fn a_chain_that_does_not_fit_or_contradicts_itself_is_refused() {
        assert_eq!(show(&[b"one ", b"two"], 7, 6), None, "no room");
        assert_eq!(show(&[b"one ", b"two"], 8, 20), None, "shorter than it says");
    }
}
