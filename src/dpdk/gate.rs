//! Keeps DPDK's interrupt thread out of a driver while a poller is in it.
//! memif's driver handles its control socket on that thread: when the peer dies it unmaps the rings that the poller may be
//! reading at that very moment, and the process dies of SIGSEGV. So the interrupt thread is parked in a callback of ours nearly
//! all the time. Every few milliseconds it opens the gate, waits until no burst is under way, makes one round over its file
//! descriptors, and parks again; a poller that finds the gate open skips its turn. Neither side ever blocks the other for
//! longer than one burst or one round.
//!
//! GATE-1  Driver code runs on the interrupt thread only while `open` is true and `inside` was seen 0 after that; a poller runs
//!         it only between raising `inside` and lowering it, having seen `open` false in between. Both use sequentially
//!         consistent operations, so at least one of the two sees the other (Dekker).
//! GATE-2  The round ends before the gate closes: one thread does both, one after the other.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ibid_dpdk_sys as sys;

use crate::eal::errno;
use crate::error::PortError;

/// Parked this long while every guarded link is up: the longest time a peer's death goes unnoticed by the driver.
const PARK_UP: Duration = Duration::from_millis(10);
/// Parked this long while one is down: connecting takes a handful of messages, one round each.
const PARK_DOWN: Duration = Duration::from_millis(1);
/// Between looks at whether the last burst is over.
const YIELD: Duration = Duration::from_micros(5);

/// True also while no callback is installed: nobody enters before the interrupt thread has parked once.
static OPEN: AtomicBool = AtomicBool::new(true);
static INSIDE: AtomicU32 = AtomicU32::new(0);
static DOWN: AtomicUsize = AtomicUsize::new(0);
static STOP: AtomicBool = AtomicBool::new(false);
static USERS: Mutex<Users> = Mutex::new(Users { count: 0, handle: 0, descriptor: -1 });

struct Users {
    count: usize,
    /// A `*mut rte_intr_handle`; a number because pointers are not `Send`.
    handle: usize,
    descriptor: i32,
}

/// One port's right to the gate. The callback is installed while at least one exists.
pub(crate) struct Gate {
    down: bool,
}

/// While this lives, the interrupt thread runs no driver's code.
pub(crate) struct Inside(());

impl Gate {
    /// Parks the interrupt thread, if it is not parked yet. Wants a running EAL, which the caller's handle proves.
    pub(crate) fn install(_eal: &crate::Eal) -> Result<Gate, PortError> {
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        if users.count == 0 {
            STOP.store(false, Ordering::SeqCst);
            let (handle, descriptor) = register()?;
            users.handle = handle as usize;
            users.descriptor = descriptor;
        }
        users.count += 1;
        DOWN.fetch_add(1, Ordering::SeqCst);
        Ok(Gate { down: true })
    }

    /// Enters the driver, or `None` where the interrupt thread is in it: skip this turn.
    #[inline]
    pub(crate) fn enter(&self) -> Option<Inside> {
        INSIDE.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(());
        // Dropping `inside` takes the count back.
        if OPEN.load(Ordering::SeqCst) { None } else { Some(inside) }
    }

    /// Enters, waiting for the round to end; for start and stop, not for the data path.
    pub(crate) fn enter_waiting(&self) -> Inside {
        loop {
            if let Some(inside) = self.enter() {
                return inside;
            }
            // Bounded by one round of the interrupt thread over its file descriptors (GATE-2).
            std::thread::sleep(YIELD);
        }
    }

    /// Tells whether the port's link is down, which makes rounds more frequent.
    pub(crate) fn link_down(&mut self, down: bool) {
        if down != self.down {
            self.down = down;
            if down {
                DOWN.fetch_add(1, Ordering::SeqCst);
            } else {
                DOWN.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.link_down(false);
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        users.count -= 1;
        if users.count == 0 {
            STOP.store(true, Ordering::SeqCst);
            unregister(users.handle as *mut sys::rte_intr_handle, users.descriptor);
            OPEN.store(true, Ordering::SeqCst);
        }
    }
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        INSIDE.fetch_sub(1, Ordering::SeqCst);
    }
}

fn register() -> Result<(*mut sys::rte_intr_handle, i32), PortError> {
    // An eventfd that is never read: always readable, so every round of the interrupt thread passes through `park`.
    // SAFETY: no precondition; returns a descriptor or -1.
    let descriptor = unsafe { libc::eventfd(1, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if descriptor < 0 {
        return Err(PortError::Gate(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)));
    }
    // SAFETY: no precondition; returns an instance of our own or null.
    let handle = unsafe { sys::rte_intr_instance_alloc(0) };
    let failed = handle.is_null() || {
        // SAFETY: wants an instance from `rte_intr_instance_alloc`, which is not null here.
        unsafe { sys::rte_intr_fd_set(handle, descriptor) };
        // EXT: DPDK calls back without reading the descriptor.
        // SAFETY: as above.
        unsafe { sys::rte_intr_type_set(handle, sys::RTE_INTR_HANDLE_EXT) };
        // SAFETY: wants an instance with a descriptor and a function that lives as long as the registration; it is static.
        unsafe { sys::rte_intr_callback_register(handle, Some(park), std::ptr::null_mut()) != 0 }
    };
    if failed {
        let code = errno();
        release(handle, descriptor);
        return Err(PortError::Gate(code));
    }
    Ok((handle, descriptor))
}

fn unregister(handle: *mut sys::rte_intr_handle, descriptor: i32) {
    // SAFETY: wants what was registered; returns when the callback is not running. `STOP` is set, so that it ends.
    unsafe {
        sys::rte_intr_callback_unregister_sync(handle, Some(park), std::ptr::null_mut());
    }
    release(handle, descriptor);
}

fn release(handle: *mut sys::rte_intr_handle, descriptor: i32) {
    if !handle.is_null() {
        // SAFETY: wants an instance from `rte_intr_instance_alloc`; the interrupt thread has a copy of its own.
        unsafe { sys::rte_intr_instance_free(handle) };
    }
    // SAFETY: closes a descriptor that `register` opened and nobody else knows.
    unsafe { libc::close(descriptor) };
}

/// Runs on the interrupt thread, once in every round.
unsafe extern "C" fn park(_: *mut c_void) {
    OPEN.store(false, Ordering::SeqCst);
    if !STOP.load(Ordering::SeqCst) {
        let down = DOWN.load(Ordering::SeqCst) != 0;
        std::thread::sleep(if down { PARK_DOWN } else { PARK_UP });
    }
    OPEN.store(true, Ordering::SeqCst);
    while INSIDE.load(Ordering::SeqCst) != 0 {
        // Bounded by the bursts under way: a poller that comes now sees OPEN and turns back.
        std::thread::sleep(YIELD);
    }
}
