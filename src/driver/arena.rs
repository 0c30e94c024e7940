//! The one piece of memory that all payload of a node lies in: log pages, read buffers, receive buffers.
//! Takes a length at start; gives bounds-checked access by [`Span`], and one base address for whatever moves bytes
//! without the CPU (io_uring's registered buffers, `readv` into a span).
//! Not an allocator: who owns which span is decided by the engine. Where the memory comes from is in `memory`.
//!
//! ARENA-1  Who hands a span to a device or the kernel (`Disk::submit`) doesn't touch its bytes until the
//!          completion: neither looks at them while they are being read into, nor changes them while they are being
//!          sent. Hardware can't be borrow-checked; the engine keeps this by page ownership.
//! ARENA-2  Within the program, either any number of [`Bytes`] exist, or one writer: a `RefCell` over the whole arena.
//!          Who breaks it gets a panic, not a torn read. So one thread at a time works on an arena.
//! ARENA-3  Every span is checked against the arena's end before its address is formed.

use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use ibid_units::Span;

pub use crate::memory::{ArenaError, ArenaWarning, MemoryWish, PageSize};
use crate::memory::{Memory, PAGE_BYTES_HUGE};

/// Payload memory, shared by the shard and its drivers (usually in an `Arc`). See the contracts at the top of the file.
pub struct Arena {
    memory: Memory,
    /// 0: nobody; [`WRITER`]: one writer; otherwise the number of [`Bytes`] alive.
    borrows: AtomicU32,
}

const WRITER: u32 = u32::MAX;

// `Arena` is `Send` and `Sync` because `Memory` is: it gives only addresses, and what is read and written through them
// here takes `borrows` first, with acquire and release ordering, so that two threads never hold a reader and a writer at
// once (ARENA-2).

impl Arena {
    /// Takes `bytes` (rounded up to 2 MiB) of zeroed memory, every page of it present, the base aligned to 2 MiB.
    /// `want_huge` asks for 2 MiB pages; where there are none, ordinary memory is taken and the warning says why.
    pub fn new(bytes: usize, want_huge: bool) -> Result<(Arena, Option<ArenaWarning>), ArenaError> {
        let pages = if want_huge { PageSize::Huge2MiB } else { PageSize::Base4KiB };
        Arena::with(bytes, MemoryWish { pages, node: None })
    }

    /// As [`Arena::new`], of these pages (`bytes` is rounded up to a whole one) and on this NUMA node, as far as both can be had; the warning
    /// says what could not.
    pub fn with(
        bytes: usize,
        wish: MemoryWish,
    ) -> Result<(Arena, Option<ArenaWarning>), ArenaError> {
        let (memory, warning) = Memory::take(bytes, wish)?;
        Ok((Arena { memory, borrows: AtomicU32::new(0) }, warning))
    }

    /// The first byte, aligned to 2 MiB. For drivers that hand addresses to a device; ARENA-1 binds them.
    pub fn base(&self) -> *mut u8 {
        self.memory.base().as_ptr()
    }

    /// Length in bytes, a multiple of 2 MiB.
    #[expect(clippy::len_without_is_empty, reason = "an arena is never empty: `new` refuses it")]
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// The pages that the arena is made of.
    pub fn page_size(&self) -> PageSize {
        self.memory.page_size()
    }

    /// The address of a span's first byte, for iovecs and descriptors; ARENA-1 binds whoever uses it.
    ///
    /// # Panics
    /// If the span doesn't lie in the arena.
    pub fn address(&self, span: Span) -> *mut u8 {
        let at = self.checked(span.at, u64::from(span.len));
        // SAFETY: `add` wants the result inside the same allocation; `checked` has compared the span with its end.
        unsafe { self.base().add(at) }
    }

    /// Shows the bytes of a span. No writer works until what is returned is dropped.
    ///
    /// # Panics
    /// If the span doesn't lie in the arena, or a writer is at work.
    pub fn bytes(&self, span: Span) -> Bytes<'_> {
        let address = NonNull::new(self.address(span)).expect("the base of a mapping is not null");
        let borrow = Borrow::read(self);
        Bytes { bytes: NonNull::slice_from_raw_parts(address, span.len as usize), _borrow: borrow }
    }

    /// Copies a span's bytes out.
    ///
    /// # Panics
    /// As [`Arena::bytes`].
    pub fn copy_out(&self, at: u64, bytes: &mut [u8]) {
        let from = self.checked(at, bytes.len() as u64);
        let _borrow = Borrow::read(self);
        // SAFETY: source in bounds by `checked`, destination by its slice. They don't overlap: `bytes` is exclusive,
        // and nobody can hold a slice of the arena that is (writers exclude `Borrow::read`, ARENA-2).
        unsafe { self.base().add(from).copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
    }

    /// Copies bytes into the arena, the first one to offset `at`.
    ///
    /// # Panics
    /// If they don't fit the arena, or a [`Bytes`] is alive or a writer at work.
    pub fn copy_in(&self, at: u64, bytes: &[u8]) {
        let to = self.checked(at, bytes.len() as u64);
        let _borrow = Borrow::write(self);
        // SAFETY: destination in bounds by `checked`, source by its slice. They don't overlap: `bytes` can't be of the
        // arena, for a `Bytes` excludes `Borrow::write` (ARENA-2).
        unsafe { self.base().add(to).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    /// Copies bytes into the arena and returns their CRC32C.
    ///
    /// # Panics
    /// As [`Arena::copy_in`].
    pub fn copy_in_crc32c(&self, at: u64, bytes: &[u8]) -> u32 {
        let len = u32::try_from(bytes.len()).expect("a piece of payload is shorter than 4 GiB");
        self.with_mut(Span::new(at, len), |to| crate::checksum::crc32c_copy(to, bytes))
    }

    /// Copies a span to offset `to`; the two may overlap.
    ///
    /// # Panics
    /// As [`Arena::copy_in`], for both places.
    pub fn copy_within(&self, from: Span, to: u64) {
        let source = self.address(from);
        let target = self.address(Span::new(to, from.len));
        let _borrow = Borrow::write(self);
        // SAFETY: both runs are in bounds by `address`, and `copy_to` allows overlap.
        unsafe { source.copy_to(target, from.len as usize) };
    }

    /// Fills a span with zeroes.
    ///
    /// # Panics
    /// As [`Arena::copy_in`].
    pub fn zero(&self, span: Span) {
        self.with_mut(span, |bytes| bytes.fill(0));
    }

    /// Lets `work` change a span in place.
    ///
    /// # Panics
    /// If the span doesn't lie in the arena, or a [`Bytes`] is alive or a writer at work.
    pub fn with_mut<R>(&self, span: Span, work: impl FnOnce(&mut [u8]) -> R) -> R {
        let address = self.address(span);
        let _borrow = Borrow::write(self);
        // SAFETY: in bounds by `address`, initialised (the kernel gives zeroed pages), and exclusive while `_borrow`
        // lives (ARENA-2); the closure can't keep the slice past it, for it is handed an anonymous lifetime.
        work(unsafe { std::slice::from_raw_parts_mut(address, span.len as usize) })
    }

    /// CRC32C of a span.
    ///
    /// # Panics
    /// As [`Arena::bytes`].
    pub fn crc32c(&self, span: Span) -> u32 {
        crate::checksum::crc32c(&self.bytes(span))
    }

    /// Keeps everyone in the program off the bytes while a system call fills some of them.
    pub(crate) fn hold_for_write(&self) -> Borrow<'_> {
        Borrow::write(self)
    }

    /// Keeps writers off the bytes while a system call reads some of them.
    pub(crate) fn hold_for_read(&self) -> Borrow<'_> {
        Borrow::read(self)
    }

    fn checked(&self, at: u64, len: u64) -> usize {
        let end = at.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.len() as u64),
            "ARENA-3: {len} bytes at {at} lie outside an arena of {} bytes",
            self.len()
        );
        usize::try_from(at).expect("it is below the length, which is a usize")
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("bytes", &self.len())
            .field("page_size", &self.page_size())
            .finish_non_exhaustive()
    }
}

/// The bytes of a span, to be looked at. Drop it before anything is written into the arena.
pub struct Bytes<'a> {
    // A pointer and not a slice: a reference must not outlive the borrow, and this value does while it is dropped.
    bytes: NonNull<[u8]>,
    _borrow: Borrow<'a>,
}

impl Deref for Bytes<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: in bounds and initialised, as checked by `Arena::bytes`; the borrow keeps writers out (ARENA-2).
        unsafe { self.bytes.as_ref() }
    }
}

/// One entry in `Arena::borrows`, taken out again at the drop.
pub(crate) struct Borrow<'a> {
    arena: &'a Arena,
    writes: bool,
}

impl<'a> Borrow<'a> {
    fn read(arena: &'a Arena) -> Self {
        // WRITER - 1 readers can't exist, each is a live value; so the addition never reaches WRITER.
        let taken = arena.borrows.fetch_update(Ordering::Acquire, Ordering::Relaxed, |readers| {
            (readers < WRITER - 1).then(|| readers + 1)
        });
        assert!(taken.is_ok(), "ARENA-2: bytes are looked at while a writer is at work");
        Self { arena, writes: false }
    }

    fn write(arena: &'a Arena) -> Self {
        let taken = arena.borrows.compare_exchange(0, WRITER, Ordering::Acquire, Ordering::Relaxed);
        assert!(taken.is_ok(), "ARENA-2: bytes are written while someone looks at them");
        Self { arena, writes: true }
    }
}

impl Drop for Borrow<'_> {
    fn drop(&mut self) {
        if self.writes {
            self.arena.borrows.store(0, Ordering::Release);
        } else {
            self.arena.borrows.fetch_sub(1, Ordering::Release);
        }
    }
}

const _: () = assert!(PAGE_BYTES_HUGE.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn arena() -> Arena {
        Arena::new(3 << 20, false).unwrap().0
    }

    fn panics(work: impl FnOnce()) -> bool {
        catch_unwind(AssertUnwindSafe(work)).is_err()
    }

    #[test]
    fn memory_is_zeroed_aligned_and_rounded_up() {
        let arena = arena();
        assert_eq!(arena.len(), 4 << 20);
        assert_eq!(arena.base().addr() % PAGE_BYTES_HUGE, 0);
        assert_eq!(arena.page_size(), PageSize::Base4KiB);
        assert!(arena.bytes(Span::new(0, 4 << 20)).iter().all(|&byte| byte == 0));
    }

    #[test]
    fn what_is_copied_in_is_read_back_at_its_place() {
        let arena = arena();
        arena.copy_in(4090, b"123456789");
        assert_eq!(&*arena.bytes(Span::new(4090, 9)), b"123456789");
        assert_eq!(arena.bytes(Span::new(4089, 11))[0], 0);
        assert_eq!(arena.bytes(Span::new(4089, 11))[10], 0);
        assert_eq!(arena.crc32c(Span::new(4090, 9)), 0xE306_9283);
        assert_eq!(arena.copy_in_crc32c(8192, b"123456789"), 0xE306_9283);

        arena.copy_within(Span::new(4090, 9), 4093);
        let mut out = [0; 12];
        arena.copy_out(4090, &mut out);
        assert_eq!(&out, b"123123456789");

        arena.zero(Span::new(4091, 2));
        assert_eq!(&arena.bytes(Span::new(4090, 4))[..], b"1\0\x001");
    }

    #[test]
    fn spans_past_the_end_are_refused() {
        let arena = arena();
        let len = arena.len() as u64;
        assert!(!panics(|| drop(arena.bytes(Span::new(len - 1, 1)))));
        assert!(!panics(|| drop(arena.bytes(Span::new(len, 0)))));
        assert!(panics(|| drop(arena.bytes(Span::new(len - 1, 2)))));
        assert!(panics(|| drop(arena.bytes(Span::new(u64::MAX, 2)))));
        assert!(panics(|| arena.copy_in(len - 1, b"ab")));
        assert!(panics(|| arena.copy_out(len - 1, &mut [0; 2])));
        assert!(panics(|| arena.copy_within(Span::new(0, 2), len - 1)));
        assert!(panics(|| arena.with_mut(Span::new(len, 1), |_| ())));
        assert!(panics(|| assert!(!arena.address(Span::new(len + 1, 0)).is_null())));
    }

    #[test]
    fn a_reader_and_a_writer_exclude_each_other() {
        let arena = arena();
        let span = Span::new(0, 8);
        let one = arena.bytes(span);
        let two = arena.bytes(span);
        assert!(panics(|| arena.copy_in(1024, b"far away, refused all the same")));
        drop(one);
        assert!(panics(|| arena.zero(span)));
        drop(two);
        arena.copy_in(0, b"now");
        assert!(panics(|| arena.with_mut(span, |_| drop(arena.bytes(span)))));
        // The panic inside the closure has given the writer's place back.
        assert_eq!(&arena.bytes(span)[..3], b"now");
    }

    #[test]
    fn threads_may_take_turns() {
        let arena = std::sync::Arc::new(arena());
        let other = std::sync::Arc::clone(&arena);
        std::thread::spawn(move || other.copy_in(7, b"from the thread")).join().unwrap();
        assert_eq!(&*arena.bytes(Span::new(7, 15)), b"from the thread");
    }
}
