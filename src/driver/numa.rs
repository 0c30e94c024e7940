//! On which NUMA node pages lie: asked for before they are there, and looked up afterwards. The kernel gives pages of another node where
//! the one that was asked for has none left, and says nothing; so who cares looks.

use std::ptr::NonNull;

/// Nodes that a mask has bits for; what Linux has at most.
const NODES_MAX: u32 = 1024;
const WORD_BITS: u32 = u64::BITS;
const WORDS: usize = (NODES_MAX / WORD_BITS) as usize;
/// From include/uapi/linux/mempolicy.h: this node if it has room, another one else.
const MPOL_PREFERRED: libc::c_long = 1;
/// Pages that are looked up at a time.
const STEP_PAGES: usize = 512;

/// Asks for pages on `node` in a mapping of ours none of whose pages is there yet. False where the kernel has no NUMA, or no such node.
pub(crate) fn prefer(base: NonNull<u8>, len: usize, node: u32) -> bool {
    if node >= NODES_MAX {
        return false;
    }
    let mut mask = [0u64; WORDS];
    mask[(node / WORD_BITS) as usize] = 1 << (node % WORD_BITS);
    // SAFETY: `mbind` reads as many bits of the mask as it is told, less one (it counts so), and changes only where pages of our
    // mapping will come from.
    unsafe {
        libc::syscall(
            libc::SYS_mbind,
            base.as_ptr(),
            len,
            MPOL_PREFERRED,
            mask.as_ptr(),
            libc::c_ulong::from(NODES_MAX) + 1,
            0,
        ) == 0
    }
}

/// How many of the steps of `step_bytes` begin on which node. `None` where the kernel doesn't tell. Allocates: for the start.
pub(crate) fn steps_by_node(
    base: NonNull<u8>,
    len: usize,
    step_bytes: usize,
) -> Option<Vec<(u32, usize)>> {
    let mut found: Vec<(u32, usize)> = Vec::new();
    let steps = len / step_bytes;
    for first in (0..steps).step_by(STEP_PAGES) {
        let count = STEP_PAGES.min(steps - first);
        let addresses: Vec<*mut u8> = (first..first + count)
            // The address is formed only to be looked up; nothing is read there.
            .map(|step| base.as_ptr().wrapping_add(step * step_bytes))
            .collect();
        let mut nodes = vec![0 as libc::c_int; count];
        // SAFETY: `move_pages` of our own process (0) reads `count` addresses and, without a list of nodes to move them to, writes `count`
        // numbers; both slices have that length.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                0,
                count,
                addresses.as_ptr(),
                std::ptr::null::<libc::c_int>(),
                nodes.as_mut_ptr(),
                0,
            )
        };
        if result != 0 {
            return None;
        }
        for node in nodes {
            // A negative one is an error code: a page that isn't there.
            let node = u32::try_from(node).ok()?;
            match found.iter_mut().find(|it| it.0 == node) {
                Some(it) => it.1 += 1,
                None => found.push((node, 1)),
            }
        }
    }
    Some(found)
}
