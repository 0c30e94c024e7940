//! Pools of packet buffers, and a stash that takes from one in bulk.
//! Takes sizes at construction, memory from the EAL; gives buffers one by one without a foreign call for each.

use std::ffi::CString;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use ibid_dpdk_sys as sys;

use crate::eal::errno;
use crate::error::PortError;
use crate::mbuf::{self, Mbuf};

/// A pool of packet buffers; freed on drop, after the devices that use it are closed.
pub(crate) struct Pool {
    pool: ptr::NonNull<sys::rte_mempool>,
}

// SAFETY: DPDK's pools (multi-producer, multi-consumer, which is what is made here) may be used and freed from any thread.
unsafe impl Send for Pool {}

impl Pool {
    /// `count` buffers with room for `room` bytes behind the headroom.
    pub(crate) fn new(count: u32, room: usize, socket: i32) -> Result<Pool, PortError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = CString::new(format!("ibid_pool_{number}")).expect("made without a NUL");
        let room = u16::try_from(room + sys::RTE_PKTMBUF_HEADROOM as usize)
            .map_err(|_| PortError::Pool(libc::EINVAL))?;
        // SAFETY: wants an initialised EAL (callers hold one) and a C string that it copies.
        let pool = unsafe {
            sys::rte_pktmbuf_pool_create(name.as_ptr(), count, CACHE_BUFFERS, 0, room, socket)
        };
        match ptr::NonNull::new(pool) {
            Some(pool) => Ok(Pool { pool }),
            None => Err(PortError::Pool(errno())),
        }
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.pool.as_ptr()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: wants a pool whose buffers nobody uses: ports close their device and free what they hold before.
        unsafe { sys::rte_mempool_free(self.pool.as_ptr()) };
    }
}

/// Buffers taken from a pool in advance. They go back on drop.
pub(crate) struct Stash {
    mbufs: [Mbuf; STASH_BUFFERS],
    count: usize,
}

// SAFETY: packet buffers are not bound to a thread.
unsafe impl Send for Stash {}

impl Stash {
    pub(crate) fn new() -> Stash {
        Stash { mbufs: [ptr::null_mut(); STASH_BUFFERS], count: 0 }
    }

    /// Makes sure that `need` buffers can be taken; false where the pool is empty for now.
    #[inline]
    pub(crate) fn ensure(&mut self, need: usize, pool: &Pool) -> bool {
        self.count >= need || self.refill(need, pool)
    }

    fn refill(&mut self, need: usize, pool: &Pool) -> bool {
        // First all that fits, then only what is needed: a pool that runs low gives the last ones, too.
        for want in [STASH_BUFFERS - self.count, need.saturating_sub(self.count)] {
            let free = &mut self.mbufs[self.count..];
            if want == 0 || want > free.len() {
                continue;
            }
            // SAFETY: wants a live pool and room for `want` pointers, which was compared above.
            let code = unsafe {
                sys::rte_pktmbuf_alloc_bulk(pool.as_ptr(), free.as_mut_ptr(), want as u32)
            };
            if code == 0 {
                self.count += want;
                return self.count >= need;
            }
        }
        false
    }

    /// Takes one that [`Stash::ensure`] promised.
    #[inline]
    pub(crate) fn take(&mut self) -> Mbuf {
        assert!(self.count > 0, "a buffer is taken that was not ensured");
        self.count -= 1;
        std::mem::replace(&mut self.mbufs[self.count], ptr::null_mut())
    }
}

impl Drop for Stash {
    fn drop(&mut self) {
        mbuf::free(&mut self.mbufs[..self.count]);
    }
}

/// Buffers that a registered thread keeps for itself, in each pool.
const CACHE_BUFFERS: u32 = 128;
/// Buffers taken from a pool at a time.
pub(crate) const STASH_BUFFERS: usize = 64;
