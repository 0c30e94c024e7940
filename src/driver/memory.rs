//! Where an arena's memory comes from: 2 MiB pages if they can be had, ordinary pages otherwise.
//! Takes a length; gives a mapping that is present (no page fault on the data path), zeroed, aligned to 2 MiB, not copied
//! into children and not written into core dumps (it holds clients' data). Knows nothing of spans: see `arena`.
//!
//! Huge pages come from the kernel's pool. If that has too few free ones, root raises `nr_hugepages` by what is missing
//! and takes it back at the drop. The count is remembered in the process only: after `kill -9` the kernel frees the pages
//! into the pool, whose size stays raised. The next start finds them free and so adds none; nothing accumulates, and
//! `hugepages/reserve.sh --release` returns them to the system. Two nodes that start together take turns by a lock on
//! `/proc/sys/vm/nr_hugepages`, held from reading the counts until the pages are taken.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::time::Duration;

/// Bytes of a huge page; also the alignment of every arena.
pub(crate) const PAGE_BYTES_HUGE: usize = 2 << 20;
const PAGE_BYTES_BASE: usize = 4096;
/// What is left to the rest of the machine when memory is taken; the OOM killer would otherwise choose for us.
const LEFT_BYTES_MIN: usize = 256 << 20;
/// How often the pool's lock is tried, 10 ms apart; another node holds it while the kernel clears its pages.
const LOCK_TRIES_MAX: u32 = 1000;

/// The pages an arena is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageSize {
    /// Ordinary memory (which the kernel may back with transparent huge pages).
    Base4KiB,
    /// The kernel's pool of 2 MiB pages.
    Huge2MiB,
}

impl PageSize {
    /// Bytes in a page.
    pub const fn bytes(self) -> usize {
        match self {
            PageSize::Base4KiB => PAGE_BYTES_BASE,
            PageSize::Huge2MiB => PAGE_BYTES_HUGE,
        }
    }
}

/// Why there is no arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ArenaError {
    /// A length of zero, or one that can't be mapped on any machine.
    #[error(
        "an arena of {bytes} bytes can't be: it must hold at least one byte and fit the address space"
    )]
    Length {
        /// What was asked for.
        bytes: usize,
    },
    /// The machine has less.
    #[error(
        "an arena of {bytes} bytes does not fit: {available} bytes of memory are available, of which {} stay free",
        LEFT_BYTES_MIN
    )]
    TooLarge {
        /// What was asked for.
        bytes: usize,
        /// What the kernel says is available.
        available: usize,
    },
    /// The kernel refused the mapping.
    #[error("mapping {bytes} bytes: {}", io::Error::from_raw_os_error(*errno))]
    Map {
        /// What was asked for.
        bytes: usize,
        /// The operating system's error code.
        errno: i32,
    },
}

/// What an arena lacks, though it works. `Display` is one sentence for the operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArenaWarning {
    /// Why there are no huge pages, where they were wanted.
    pub huge: Option<HugeRefused>,
    /// The memory may be swapped out (`mlock` was refused; raise RLIMIT_MEMLOCK).
    pub unlocked: bool,
}

/// Why huge pages were not to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HugeRefused {
    /// The kernel has no pool of 2 MiB pages.
    #[error("the kernel offers no 2 MiB pages")]
    NoPool,
    /// Too few are free and this process may not add any.
    #[error(
        "{needed} pages of 2 MiB are needed, {free} are free, and only root may add some (hugepages/reserve.sh)"
    )]
    TooFew {
        /// Pages needed.
        needed: usize,
        /// Pages neither in use nor promised to someone.
        free: usize,
    },
    /// The kernel could not gather so many, because memory is fragmented or short.
    #[error(
        "{needed} pages of 2 MiB are needed, the kernel could gather {gathered}; reserve them soon after boot"
    )]
    NotGathered {
        /// Pages needed.
        needed: usize,
        /// Pages free after the attempt.
        gathered: usize,
    },
    /// Another process held the pool's lock all the time.
    #[error("another process holds the lock on nr_hugepages")]
    Locked,
    /// The pool had enough, yet the mapping failed (cgroup or NUMA limits).
    #[error("mapping 2 MiB pages: {}", io::Error::from_raw_os_error(*.0))]
    Map(i32),
}

impl fmt::Display for ArenaWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = self.huge {
            write!(f, "payload lies in ordinary memory: {reason}")?;
        }
        if self.unlocked {
            let glue = if self.huge.is_some() { "; " } else { "" };
            write!(f, "{glue}payload may be swapped out: mlock refused (RLIMIT_MEMLOCK)")?;
        }
        Ok(())
    }
}

/// A mapping that is given back at the drop.
pub(crate) struct Memory {
    base: NonNull<u8>,
    len: usize,
    page_size: PageSize,
    /// Pages that were added to the pool for this mapping.
    pages_added: usize,
}

// SAFETY: the mapping is owned by this value alone, is not tied to a thread, and lives until the drop.
unsafe impl Send for Memory {}
// SAFETY: `&Memory` gives numbers and an address; who reads or writes through that address answers for it.
unsafe impl Sync for Memory {}

impl Memory {
    /// Takes at least `bytes`, see [`crate::Arena::new`].
    pub(crate) fn take(
        bytes: usize,
        want_huge: bool,
    ) -> Result<(Memory, Option<ArenaWarning>), ArenaError> {
        let len = bytes
            .checked_next_multiple_of(PAGE_BYTES_HUGE)
            .filter(|&len| len > 0 && isize::try_from(len + PAGE_BYTES_HUGE).is_ok())
            .ok_or(ArenaError::Length { bytes })?;
        let mut warning = ArenaWarning { huge: None, unlocked: false };
        if want_huge {
            match Memory::take_huge(len) {
                Ok(memory) => return Ok((memory, None)),
                Err(reason) => warning.huge = Some(reason),
            }
        }
        if let Some(available) = memory_available().filter(|&it| it < len + LEFT_BYTES_MIN) {
            return Err(ArenaError::TooLarge { bytes, available });
        }
        let memory = Memory::take_ordinary(len)?;
        // SAFETY: `mlock` only changes whether the pages of our own mapping may be swapped.
        warning.unlocked = unsafe { libc::mlock(memory.base.as_ptr().cast(), len) } != 0;
        let lacks = warning.unlocked || warning.huge.is_some();
        Ok((memory, lacks.then_some(warning)))
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn page_size(&self) -> PageSize {
        self.page_size
    }

    fn take_huge(len: usize) -> Result<Memory, HugeRefused> {
        let pool = HugePool::lock(Path::new(POOL), Path::new(POOL_LOCK))?;
        let needed = len / PAGE_BYTES_HUGE;
        let pages_added = pool.grow(needed)?;
        let flags = libc::MAP_HUGETLB | libc::MAP_HUGE_2MB | libc::MAP_POPULATE;
        match map(len, flags) {
            Ok(base) => {
                keep_private(base, len);
                Ok(Memory { base, len, page_size: PageSize::Huge2MiB, pages_added })
            }
            Err(errno) => {
                pool.give_back(pages_added);
                Err(HugeRefused::Map(errno))
            }
        }
    }

    fn take_ordinary(len: usize) -> Result<Memory, ArenaError> {
        let refused = |errno| ArenaError::Map { bytes: len, errno };
        // One huge page more than needed, so that an aligned run lies in it; what is over is unmapped.
        let loose = map(len + PAGE_BYTES_HUGE, 0).map_err(refused)?;
        let before = loose.as_ptr().align_offset(PAGE_BYTES_HUGE);
        // SAFETY: `before` is less than a huge page, by which the mapping is longer than `len`.
        let base = unsafe { loose.add(before) };
        if before > 0 {
            unmap(loose, before);
        }
        // SAFETY: the run ends at or before the end of the loose mapping, by the same arithmetic.
        let behind = unsafe { base.add(len) };
        if before < PAGE_BYTES_HUGE {
            unmap(behind, PAGE_BYTES_HUGE - before);
        }
        let memory = Memory { base, len, page_size: PageSize::Base4KiB, pages_added: 0 };
        keep_private(base, len);
        // Transparent huge pages are a favour: without them the arena works as well, with more TLB misses.
        advise(base, len, libc::MADV_HUGEPAGE);
        if !advise(base, len, libc::MADV_POPULATE_WRITE) {
            // Linux before 5.14: touch every page instead.
            for page in (0..len).step_by(PAGE_BYTES_BASE) {
                // SAFETY: in bounds; volatile, so that the write of the zero that is there anyway is not left out.
                unsafe { base.add(page).write_volatile(0) };
            }
        }
        Ok(memory)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        unmap(self.base, self.len);
        if self.pages_added > 0
            && let Ok(pool) = HugePool::lock(Path::new(POOL), Path::new(POOL_LOCK))
        {
            pool.give_back(self.pages_added);
        }
    }
}

fn map(len: usize, more_flags: i32) -> Result<NonNull<u8>, i32> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | more_flags;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory that exists.
    let base = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(errno());
    }
    Ok(NonNull::new(base.cast()).expect("mmap gives no null unless asked to"))
}

fn unmap(base: NonNull<u8>, len: usize) {
    // SAFETY: the run was mapped by `map`, is given back once, and nobody holds a pointer into it any more.
    unsafe { libc::munmap(base.as_ptr().cast(), len) };
}

/// A child must not turn our pages copy-on-write under a running DMA, and a core dump is no place for clients' bytes.
fn keep_private(base: NonNull<u8>, len: usize) {
    advise(base, len, libc::MADV_DONTFORK);
    advise(base, len, libc::MADV_DONTDUMP);
}

fn advise(base: NonNull<u8>, len: usize, advice: i32) -> bool {
    // SAFETY: the run is our own mapping, and none of the advices used here changes what its bytes are.
    unsafe { libc::madvise(base.as_ptr().cast(), len, advice) == 0 }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Bytes the kernel says can be had without swapping; `None` where it doesn't say.
fn memory_available() -> Option<usize> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Huge pages kept free for somebody else in this process who takes them by himself, such as DPDK. Other nodes that start now
/// wait until [`HugeReserve::taken`]; what was added to the pool for this is given back at the drop.
pub struct HugeReserve {
    pool: Option<HugePool>,
    added: usize,
}

impl HugeReserve {
    /// Makes sure that `bytes` of 2 MiB pages are free.
    pub fn new(bytes: usize) -> Result<HugeReserve, HugeRefused> {
        let pool = HugePool::lock(Path::new(POOL), Path::new(POOL_LOCK))?;
        let added = pool.grow(bytes.div_ceil(PAGE_BYTES_HUGE))?;
        Ok(HugeReserve { pool: Some(pool), added })
    }

    /// They have been taken: others may look at the pool again.
    pub fn taken(&mut self) {
        self.pool = None;
    }
}

impl Drop for HugeReserve {
    fn drop(&mut self) {
        self.pool = None;
        if self.added > 0
            && let Ok(pool) = HugePool::lock(Path::new(POOL), Path::new(POOL_LOCK))
        {
            pool.give_back(self.added);
        }
    }
}

/// What is locked while the pool is looked at and changed. Not the file in sysfs: every network namespace has a sysfs of its own,
/// and a lock taken in one is not seen in the other.
const POOL_LOCK: &str = "/proc/sys/vm/nr_hugepages";
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// The kernel's pool of 2 MiB pages, while nobody else of ours changes it.
struct HugePool {
    folder: PathBuf,
    // The lock lives as long as the file is open.
    _lock: File,
}

impl HugePool {
    fn lock(folder: &Path, lock: &Path) -> Result<HugePool, HugeRefused> {
        let file = File::open(lock).map_err(|_| HugeRefused::NoPool)?;
        for _ in 0..LOCK_TRIES_MAX {
            // SAFETY: `flock` takes a descriptor that is open, as `file` is.
            if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
                return Ok(HugePool { folder: folder.to_owned(), _lock: file });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(HugeRefused::Locked)
    }

    /// Makes sure that `needed` pages are free; returns how many were added for that.
    fn grow(&self, needed: usize) -> Result<usize, HugeRefused> {
        let free = self.free_count().ok_or(HugeRefused::NoPool)?;
        if free >= needed {
            return Ok(0);
        }
        let total = self.count("nr_hugepages").ok_or(HugeRefused::NoPool)?;
        let before = self.persistent().unwrap_or(total);
        let missing = needed - free;
        if memory_available().is_some_and(|it| it < missing * PAGE_BYTES_HUGE + LEFT_BYTES_MIN) {
            return Err(HugeRefused::NotGathered { needed, gathered: free });
        }
        if !self.set_total(total + missing) {
            return Err(HugeRefused::TooFew { needed, free });
        }
        // The kernel adds as many as it can find and reports success; so count again.
        let added = self.persistent().unwrap_or(before).saturating_sub(before);
        let gathered = self.free_count().unwrap_or(free);
        if gathered < needed {
            self.give_back(added);
            return Err(HugeRefused::NotGathered { needed, gathered });
        }
        Ok(added)
    }

    /// Takes `pages` out of the pool again. Those still in use, by a ring that the kernel takes apart later, by DPDK until the
    /// process ends, or by somebody who found them free, become surplus pages: they go when they are let go of.
    fn give_back(&self, pages: usize) {
        // A refusal leaves the pool larger than it was, which hurts nobody and is found by the next start.
        self.set_total(self.persistent().unwrap_or(0).saturating_sub(pages));
    }

    /// What the pool is set to: its pages without those that it only waits to give back (surplus pages). What was added and what
    /// is taken away is counted in these, so that pages on their way back come out right in the end.
    fn persistent(&self) -> Option<usize> {
        let surplus = self.count("surplus_hugepages").unwrap_or(0);
        Some(self.count("nr_hugepages")?.saturating_sub(surplus))
    }

    /// Pages that are neither in use nor promised to a mapping.
    fn free_count(&self) -> Option<usize> {
        let free = self.count("free_hugepages")?;
        Some(free.saturating_sub(self.count("resv_hugepages")?))
    }

    fn count(&self, name: &str) -> Option<usize> {
        fs::read_to_string(self.folder.join(name)).ok()?.trim().parse().ok()
    }

    fn set_total(&self, pages: usize) -> bool {
        let path = self.folder.join("nr_hugepages");
        let file = OpenOptions::new().write(true).open(path);
        file.and_then(|mut file| io::Write::write_all(&mut file, format!("{pages}\n").as_bytes()))
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_lengths_are_refused() {
        assert_eq!(Memory::take(0, true).err(), Some(ArenaError::Length { bytes: 0 }));
        let bytes = usize::MAX;
        assert_eq!(Memory::take(bytes, false).err(), Some(ArenaError::Length { bytes }));
        let bytes = 1 << 46;
        let refused = Memory::take(bytes, true).err();
        assert!(matches!(refused, Some(ArenaError::TooLarge { .. })), "{refused:?}");
    }

    #[test]
    fn huge_pages_are_taken_or_their_absence_is_explained() {
        let (memory, warning) = Memory::take(4 << 20, true).unwrap();
        match memory.page_size() {
            PageSize::Huge2MiB => {
                assert_eq!(warning, None);
                // SAFETY: the last byte of the mapping; nothing else points there.
                unsafe { memory.base().add(memory.len() - 1).write(1) };
            }
            PageSize::Base4KiB => {
                let reason = warning.expect("a warning").huge.expect("a reason");
                assert!(!reason.to_string().is_empty());
                println!("ran without huge pages: {reason}");
            }
        }
    }

    fn pool(total: usize, free: usize, reserved: usize) -> (tempfile::TempDir, HugePool) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("nr_hugepages"), total.to_string()).unwrap();
        fs::write(folder.path().join("free_hugepages"), free.to_string()).unwrap();
        fs::write(folder.path().join("resv_hugepages"), reserved.to_string()).unwrap();
        let pool = HugePool::lock(folder.path(), &folder.path().join("nr_hugepages")).unwrap();
        (folder, pool)
    }

    #[test]
    fn pages_that_are_free_already_are_not_added_again() {
        // As after kill -9: the pool is large and its pages are free.
        let (_folder, pool) = pool(12, 12, 2);
        assert_eq!(pool.grow(10), Ok(0));
        assert_eq!(pool.count("nr_hugepages"), Some(12));
    }

    #[test]
    fn a_pool_that_can_not_grow_is_left_as_it_was() {
        // A file's count of free pages doesn't follow its total: as if the kernel had gathered nothing.
        let (_folder, pool) = pool(12, 3, 1);
        assert_eq!(pool.grow(10), Err(HugeRefused::NotGathered { needed: 10, gathered: 2 }));
        assert_eq!(pool.count("nr_hugepages"), Some(12));
    }

    #[test]
    fn what_was_added_is_given_back_beside_what_others_are_giving_back() {
        let (folder, pool) = pool(100, 0, 0);
        fs::write(folder.path().join("surplus_hugepages"), "10\n").unwrap();
        pool.give_back(30);
        assert_eq!(pool.count("nr_hugepages"), Some(60));
    }

    #[test]
    fn the_warning_names_everything_that_lacks() {
        let warning = ArenaWarning { huge: Some(HugeRefused::NoPool), unlocked: true };
        let text = warning.to_string();
        assert!(text.contains("2 MiB") && text.contains("mlock"), "{text}");
    }
}
