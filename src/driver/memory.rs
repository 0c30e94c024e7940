//! Where an arena's memory comes from: 1 GiB or 2 MiB pages if they can be had, ordinary pages otherwise; on the NUMA node that is asked for,
//! where that has room. Takes a length; gives a mapping that is present (no page fault on the data path), zeroed, aligned to 2 MiB, not copied
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

use crate::numa;

/// Bytes of an ordinary huge page; also the least alignment of every arena.
pub(crate) const PAGE_BYTES_HUGE: usize = 2 << 20;
const PAGE_BYTES_GIANT: usize = 1 << 30;
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
    /// The kernel's pool of 1 GiB pages, which are mostly to be had only when they were reserved at boot.
    Huge1GiB,
}

impl PageSize {
    /// Bytes in a page.
    pub const fn bytes(self) -> usize {
        match self {
            PageSize::Base4KiB => PAGE_BYTES_BASE,
            PageSize::Huge2MiB => PAGE_BYTES_HUGE,
            PageSize::Huge1GiB => PAGE_BYTES_GIANT,
        }
    }

    /// Where the kernel keeps the pool of such pages, of the whole machine or of one NUMA node.
    fn pool(self, node: Option<u32>) -> PathBuf {
        let folder = match node {
            None => PathBuf::from("/sys/kernel/mm/hugepages"),
            Some(node) => format!("/sys/devices/system/node/node{node}/hugepages").into(),
        };
        folder.join(format!("hugepages-{}kB", self.bytes() / 1024))
    }

    const fn map_flags(self) -> i32 {
        match self {
            PageSize::Base4KiB => 0,
            PageSize::Huge2MiB => libc::MAP_HUGETLB | libc::MAP_HUGE_2MB,
            PageSize::Huge1GiB => libc::MAP_HUGETLB | libc::MAP_HUGE_1GB,
        }
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PageSize::Base4KiB => "4 KiB",
            PageSize::Huge2MiB => "2 MiB",
            PageSize::Huge1GiB => "1 GiB",
        })
    }
}

/// What an arena's memory should be like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryWish {
    /// The pages it is to be made of. Where those are not to be had: 2 MiB pages, then ordinary ones.
    pub pages: PageSize,
    /// The NUMA node it is to lie on; `None`: wherever the kernel likes.
    pub node: Option<u32>,
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
    /// The pages it is made of.
    pub pages: PageSize,
    /// Why there are no larger ones, where they were wanted.
    pub huge: Option<HugeRefused>,
    /// What lies on another NUMA node than was asked for.
    pub misplaced: Option<Misplaced>,
    /// The memory may be swapped out (`mlock` was refused; raise RLIMIT_MEMLOCK).
    pub unlocked: bool,
}

/// Memory on another NUMA node than was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Misplaced {
    /// The node that was asked for.
    pub wanted: u32,
    /// The other one that holds most.
    pub other: u32,
    /// Bytes on all others.
    pub bytes: usize,
}

/// Why huge pages were not to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HugeRefused {
    /// The kernel has no pool of such pages.
    #[error("the kernel offers no {0} pages")]
    NoPool(PageSize),
    /// Too few are free and this process may not add any.
    #[error(
        "{needed} pages of {page} are needed, {free} are free, and only root may add some (hugepages/reserve.sh)"
    )]
    TooFew {
        /// How large they are.
        page: PageSize,
        /// Pages needed.
        needed: usize,
        /// Pages neither in use nor promised to someone.
        free: usize,
    },
    /// The kernel could not gather so many, because memory is fragmented or short.
    #[error(
        "{needed} pages of {page} are needed, the kernel could gather {gathered}; reserve them soon after boot"
    )]
    NotGathered {
        /// How large they are.
        page: PageSize,
        /// Pages needed.
        needed: usize,
        /// Pages free after the attempt.
        gathered: usize,
    },
    /// Another process held the pool's lock all the time.
    #[error("another process holds the lock on nr_hugepages")]
    Locked,
    /// The pool had enough, yet the mapping failed (cgroup or NUMA limits).
    #[error("mapping huge pages: {}", io::Error::from_raw_os_error(*.0))]
    Map(i32),
}

impl fmt::Display for ArenaWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut glue = "";
        if let Some(reason) = self.huge {
            match self.pages {
                PageSize::Base4KiB => write!(f, "payload lies in ordinary memory: {reason}")?,
                pages => write!(f, "payload lies in pages of {pages}: {reason}")?,
            }
            glue = "; ";
        }
        if let Some(Misplaced { wanted, other, bytes }) = self.misplaced {
            let mib = bytes >> 20;
            write!(
                f,
                "{glue}{mib} MiB of payload memory lie on other NUMA nodes (most on {other}) than NIC or core, which are on {wanted}: reserve huge pages there (hugepages/reserve.sh --node {wanted})"
            )?;
            glue = "; ";
        }
        if self.unlocked {
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
    /// Pages that were added to a pool for this mapping, and to which.
    pages_added: usize,
    pool: PathBuf,
}

// SAFETY: the mapping is owned by this value alone, is not tied to a thread, and lives until the drop.
unsafe impl Send for Memory {}
// SAFETY: `&Memory` gives numbers and an address; who reads or writes through that address answers for it.
unsafe impl Sync for Memory {}

impl Memory {
    /// Takes at least `bytes`, see [`crate::Arena::with`].
    pub(crate) fn take(
        bytes: usize,
        wish: MemoryWish,
    ) -> Result<(Memory, Option<ArenaWarning>), ArenaError> {
        let length = |page: usize| {
            bytes
                .checked_next_multiple_of(page)
                .filter(|&len| len > 0 && isize::try_from(len + page).is_ok())
        };
        let len = length(PAGE_BYTES_HUGE).ok_or(ArenaError::Length { bytes })?;
        let sizes: &[PageSize] = match wish.pages {
            PageSize::Base4KiB => &[],
            PageSize::Huge2MiB => &[PageSize::Huge2MiB],
            PageSize::Huge1GiB => &[PageSize::Huge1GiB, PageSize::Huge2MiB],
        };
        let mut refused = None;
        for page in sizes {
            let Some(len) = length(page.bytes()) else { continue };
            match Memory::take_huge(len, *page, wish.node) {
                Ok(memory) => return Ok(memory.judged(refused, false, wish.node)),
                // The first reason is the one for what was wished.
                Err(reason) => refused = refused.or(Some(reason)),
            }
        }
        if let Some(available) = memory_available().filter(|&it| it < len + LEFT_BYTES_MIN) {
            return Err(ArenaError::TooLarge { bytes, available });
        }
        let memory = Memory::take_ordinary(len, wish.node)?;
        // SAFETY: `mlock` only changes whether the pages of our own mapping may be swapped.
        let unlocked = unsafe { libc::mlock(memory.base.as_ptr().cast(), len) } != 0;
        Ok(memory.judged(refused, unlocked, wish.node))
    }

    /// This memory with all that it lacks.
    fn judged(
        self,
        huge: Option<HugeRefused>,
        unlocked: bool,
        node: Option<u32>,
    ) -> (Memory, Option<ArenaWarning>) {
        let misplaced = node.and_then(|wanted| {
            let step = self.page_size.bytes().max(PAGE_BYTES_HUGE);
            misplaced(wanted, step, &numa::steps_by_node(self.base, self.len, step)?)
        });
        let lacks = huge.is_some() || unlocked || misplaced.is_some();
        let warning = ArenaWarning { pages: self.page_size, huge, misplaced, unlocked };
        (self, lacks.then_some(warning))
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

    fn take_huge(len: usize, page: PageSize, node: Option<u32>) -> Result<Memory, HugeRefused> {
        let mut pool = HugePool::lock(page, Path::new(POOL_LOCK))?;
        let needed = len / page.bytes();
        let mut refused = HugeRefused::NoPool(page);
        // The node's own pool where there is one with enough; else the machine's, and who asked is told where the pages lie.
        for node_pool in node.map(Some).into_iter().chain([None]) {
            pool.folder = page.pool(node_pool);
            let pages_added = match pool.grow(needed) {
                Ok(added) => added,
                Err(reason) => {
                    refused = reason;
                    continue;
                }
            };
            match map_present(len, page, node) {
                Ok(base) => {
                    keep_private(base, len);
                    let pool = pool.folder;
                    return Ok(Memory { base, len, page_size: page, pages_added, pool });
                }
                Err(errno) => {
                    pool.give_back(pages_added);
                    refused = HugeRefused::Map(errno);
                }
            }
        }
        Err(refused)
    }

    fn take_ordinary(len: usize, node: Option<u32>) -> Result<Memory, ArenaError> {
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
        let page_size = PageSize::Base4KiB;
        let memory = Memory { base, len, page_size, pages_added: 0, pool: PathBuf::new() };
        if let Some(node) = node {
            // A refusal is seen by where the pages lie afterwards.
            numa::prefer(base, len, node);
        }
        keep_private(base, len);
        // Transparent huge pages are a favour: without them the arena works as well, with more TLB misses.
        advise(base, len, libc::MADV_HUGEPAGE);
        if !advise(base, len, libc::MADV_POPULATE_WRITE) {
            touch(base, len, PAGE_BYTES_BASE);
        }
        Ok(memory)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        unmap(self.base, self.len);
        if self.pages_added > 0
            && let Ok(mut pool) = HugePool::lock(self.page_size, Path::new(POOL_LOCK))
        {
            pool.folder = std::mem::take(&mut self.pool);
            pool.give_back(self.pages_added);
        }
    }
}

/// Huge pages, all of them there: on `node`, if it has them.
fn map_present(len: usize, page: PageSize, node: Option<u32>) -> Result<NonNull<u8>, i32> {
    let Some(node) = node else { return map(len, page.map_flags() | libc::MAP_POPULATE) };
    // Where pages come from is decided when they come, so it is said before.
    let base = map(len, page.map_flags())?;
    numa::prefer(base, len, node);
    if advise(base, len, libc::MADV_POPULATE_WRITE) {
        return Ok(base);
    }
    let errno = errno();
    if errno != libc::EINVAL {
        unmap(base, len);
        return Err(errno);
    }
    touch(base, len, page.bytes());
    Ok(base)
}

/// What Linux before 5.14 can't be asked for: each page is made present by writing to it.
fn touch(base: NonNull<u8>, len: usize, page_bytes: usize) {
    for page in (0..len).step_by(page_bytes) {
        // SAFETY: in bounds of a mapping that nobody else has yet; volatile, so that the write of the zero that is there anyway is not
        // left out.
        unsafe { base.add(page).write_volatile(0) };
    }
}

/// What of the memory lies elsewhere, by how many steps begin on which node.
fn misplaced(wanted: u32, step_bytes: usize, steps: &[(u32, usize)]) -> Option<Misplaced> {
    let others = || steps.iter().filter(|(node, _)| *node != wanted);
    let (other, _) = others().max_by_key(|(_, count)| *count)?;
    let count: usize = others().map(|(_, count)| count).sum();
    Some(Misplaced { wanted, other: *other, bytes: count * step_bytes })
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
    folder: PathBuf,
    added: usize,
}

impl HugeReserve {
    /// Makes sure that `bytes` of 2 MiB pages are free, on this NUMA node if it has them.
    pub fn new(bytes: usize, node: Option<u32>) -> Result<HugeReserve, HugeRefused> {
        let page = PageSize::Huge2MiB;
        let mut pool = HugePool::lock(page, Path::new(POOL_LOCK))?;
        let needed = bytes.div_ceil(page.bytes());
        if let Some(node) = node {
            pool.folder = page.pool(Some(node));
            if let Ok(added) = pool.grow(needed) {
                return Ok(HugeReserve { folder: pool.folder.clone(), pool: Some(pool), added });
            }
            pool.folder = page.pool(None);
        }
        let added = pool.grow(needed)?;
        Ok(HugeReserve { folder: pool.folder.clone(), pool: Some(pool), added })
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
            && let Ok(mut pool) = HugePool::lock(PageSize::Huge2MiB, Path::new(POOL_LOCK))
        {
            pool.folder = std::mem::take(&mut self.folder);
            pool.give_back(self.added);
        }
    }
}

/// What is locked while the pool is looked at and changed. Not the file in sysfs: every network namespace has a sysfs of its own,
/// and a lock taken in one is not seen in the other.
const POOL_LOCK: &str = "/proc/sys/vm/nr_hugepages";

/// One of the kernel's pools of huge pages, while nobody else of ours changes any.
struct HugePool {
    page: PageSize,
    /// The machine's, or a NUMA node's.
    folder: PathBuf,
    // The lock lives as long as the file is open.
    _lock: File,
}

impl HugePool {
    /// The machine's.
    fn lock(page: PageSize, lock: &Path) -> Result<HugePool, HugeRefused> {
        let file = File::open(lock).map_err(|_| HugeRefused::NoPool(page))?;
        for _ in 0..LOCK_TRIES_MAX {
            // SAFETY: `flock` takes a descriptor that is open, as `file` is.
            if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
                return Ok(HugePool { page, folder: page.pool(None), _lock: file });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(HugeRefused::Locked)
    }

    /// Makes sure that `needed` pages are free; returns how many were added for that.
    fn grow(&self, needed: usize) -> Result<usize, HugeRefused> {
        let page = self.page;
        let free = self.free_count().ok_or(HugeRefused::NoPool(page))?;
        if free >= needed {
            return Ok(0);
        }
        let total = self.count("nr_hugepages").ok_or(HugeRefused::NoPool(page))?;
        let before = self.persistent().unwrap_or(total);
        let missing = needed - free;
        if memory_available().is_some_and(|it| it < missing * page.bytes() + LEFT_BYTES_MIN) {
            return Err(HugeRefused::NotGathered { page, needed, gathered: free });
        }
        if !self.set_total(total + missing) {
            return Err(HugeRefused::TooFew { page, needed, free });
        }
        // The kernel adds as many as it can find and reports success; so count again.
        let added = self.persistent().unwrap_or(before).saturating_sub(before);
        let gathered = self.free_count().unwrap_or(free);
        if gathered < needed {
            self.give_back(added);
            return Err(HugeRefused::NotGathered { page, needed, gathered });
        }
        Ok(added)
    }

    /// Takes `pages` out of the pool again. Those still in use, by a ring that the kernel takes apart later, by DPDK until the
    /// process ends, or by somebody who found them free, become surplus pages: they go when they are let go of.
    fn give_back(&self, pages: usize) {
        // A refusal leaves the pool larger than it was, which hurts nobody and is found by the next start. So does a count that can't be
        // read: a guess would take away what others have reserved.
        if let Some(persistent) = self.persistent() {
            self.set_total(persistent.saturating_sub(pages));
        }
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
        // What is promised is counted for the machine only.
        Some(free.saturating_sub(self.count("resv_hugepages").unwrap_or(0)))
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

    const HUGE: MemoryWish = MemoryWish { pages: PageSize::Huge2MiB, node: None };
    const ORDINARY: MemoryWish = MemoryWish { pages: PageSize::Base4KiB, node: None };

    #[test]
    fn impossible_lengths_are_refused() {
        assert_eq!(Memory::take(0, HUGE).err(), Some(ArenaError::Length { bytes: 0 }));
        let bytes = usize::MAX;
        assert_eq!(Memory::take(bytes, ORDINARY).err(), Some(ArenaError::Length { bytes }));
        let bytes = 1 << 46;
        let refused = Memory::take(bytes, HUGE).err();
        assert!(matches!(refused, Some(ArenaError::TooLarge { .. })), "{refused:?}");
    }

    #[test]
    fn huge_pages_are_taken_or_their_absence_is_explained() {
        let (memory, warning) = Memory::take(4 << 20, HUGE).unwrap();
        match memory.page_size() {
            PageSize::Huge2MiB => {
                assert_eq!(warning, None);
                // SAFETY: the last byte of the mapping; nothing else points there.
                unsafe { memory.base().add(memory.len() - 1).write(1) };
            }
            PageSize::Huge1GiB => panic!("nobody asked for these"),
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
        let lock = folder.path().join("nr_hugepages");
        let mut pool = HugePool::lock(PageSize::Huge2MiB, &lock).unwrap();
        pool.folder = folder.path().to_owned();
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
        let page = PageSize::Huge2MiB;
        assert_eq!(pool.grow(10), Err(HugeRefused::NotGathered { page, needed: 10, gathered: 2 }));
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
    fn a_pool_that_can_not_be_read_is_left_to_its_owner() {
        let (folder, pool) = pool(100, 0, 0);
        let total = folder.path().join("nr_hugepages");
        fs::write(&total, "unreadable\n").unwrap();
        pool.give_back(30);
        assert_eq!(fs::read_to_string(&total).unwrap(), "unreadable\n");
    }

    #[test]
    fn a_nodes_pool_knows_of_no_promises() {
        let (folder, pool) = pool(12, 9, 0);
        fs::remove_file(folder.path().join("resv_hugepages")).unwrap();
        assert_eq!(pool.free_count(), Some(9));
        let node = PageSize::Huge1GiB.pool(Some(3));
        assert_eq!(node, Path::new("/sys/devices/system/node/node3/hugepages/hugepages-1048576kB"));
    }

    #[test]
    fn memory_lies_on_the_node_that_is_asked_for_or_that_is_told() {
        for pages in [PageSize::Base4KiB, PageSize::Huge2MiB] {
            let (memory, warning) =
                Memory::take(8 << 20, MemoryWish { pages, node: Some(0) }).unwrap();
            let steps = numa::steps_by_node(memory.base(), memory.len(), PAGE_BYTES_HUGE);
            let Some(steps) = steps else {
                println!("SKIPPED: this kernel does not tell on which NUMA node pages lie");
                return;
            };
            assert_eq!(steps.iter().map(|step| step.1).sum::<usize>(), 4);
            let elsewhere = steps.iter().any(|(node, _)| *node != 0);
            assert_eq!(warning.and_then(|it| it.misplaced).is_some(), elsewhere, "{steps:?}");
        }
        // Nothing lies on a node that there is not, and the memory can be used all the same.
        let (memory, warning) =
            Memory::take(4 << 20, MemoryWish { pages: PageSize::Huge2MiB, node: Some(999) })
                .unwrap();
        let misplaced = warning.expect("a warning").misplaced.expect("all of it");
        assert_eq!((misplaced.wanted, misplaced.bytes), (999, memory.len()));
    }

    #[test]
    fn what_lies_elsewhere_is_counted_and_the_warning_says_how_to_mend_it() {
        let step = PAGE_BYTES_HUGE;
        assert_eq!(misplaced(1, step, &[(1, 100)]), None);
        let found = misplaced(1, step, &[(1, 90), (0, 3), (2, 7)]).unwrap();
        assert_eq!(found, Misplaced { wanted: 1, other: 2, bytes: 20 << 20 });
        let pages = PageSize::Huge2MiB;
        let warning =
            ArenaWarning { pages, huge: None, misplaced: Some(found), unlocked: false }.to_string();
        assert!(warning.contains("20 MiB") && warning.contains("reserve.sh --node 1"), "{warning}");
    }

    #[test]
    fn pages_of_1_gib_are_taken_or_2_mib_with_the_reason() {
        let wish = MemoryWish { pages: PageSize::Huge1GiB, node: None };
        let free = fs::read_to_string(PageSize::Huge1GiB.pool(None).join("free_hugepages"));
        let some_are_free = free.is_ok_and(|text| text.trim() != "0");
        if !some_are_free {
            // Gathering one may take the machine a gigabyte it needs for other things.
            println!("SKIPPED: no page of 1 GiB is free here");
            return;
        }
        let (memory, warning) = Memory::take(3 << 20, wish).unwrap();
        assert_eq!((memory.page_size(), memory.len()), (PageSize::Huge1GiB, 1 << 30));
        assert_eq!(warning, None);
        // SAFETY: the last byte of the mapping; nothing else points there.
        unsafe { memory.base().add(memory.len() - 1).write(1) };
    }

    #[test]
    fn the_warning_names_everything_that_lacks() {
        let warning = ArenaWarning {
            pages: PageSize::Base4KiB,
            huge: Some(HugeRefused::NoPool(PageSize::Huge2MiB)),
            misplaced: None,
            unlocked: true,
        };
        let text = warning.to_string();
        assert!(text.contains("2 MiB") && text.contains("mlock"), "{text}");
    }
}
