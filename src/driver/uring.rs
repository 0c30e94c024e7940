//! Disks through io_uring: transfers run between the device and the arena without the CPU touching a byte.
//! Takes [`DiskOp`]s; gives completions by token. The arena is registered with the kernel once, so that no page is
//! looked up per transfer, and so are the files. Doesn't order operations: what must wait for what, the engine knows.
//!
//! URING-1  An operation has at most one entry in the kernel's queues at a time, so with `depth` slots and rings of at
//!          least that size neither ring can overflow.
//! URING-2  The arena's memory is not given back while the kernel may still write to it: the drop waits for that.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use ibid_units::Span;
use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::file::DiskFile;
use crate::memory::{Memory, MemoryWish, PageSize};
use crate::{Arena, Disk, DiskBusy, DiskError, DiskOp, FileId};

/// The kernel registers no single buffer larger than 1 GiB.
const BUFFER_BYTES_MAX: u64 = 1 << 30;
/// How often an operation that was interrupted is put back before that is taken for an error.
const RETRIES_MAX: u8 = 8;
/// Zeroes are written in steps of this, where the kernel can't make them itself.
const ZERO_STEP_BYTES: u64 = 1 << 20;
/// How long the drop waits for the device, in seconds of one wait each.
const DRAIN_WAITS_MAX: u32 = 30;
const ORDINARY: MemoryWish = MemoryWish { pages: PageSize::Base4KiB, node: None };
/// A bound on `depth`, for slot numbers and for sense: devices don't get faster beyond that.
pub const DEPTH_MAX: usize = 4096;

const KEEP_AND_ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

/// Why there is no [`UringDisk`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UringError {
    /// The depth is 0 or above [`DEPTH_MAX`].
    #[error("a depth of {0} is not between 1 and {DEPTH_MAX}")]
    Depth(usize),
    /// More files than ids, or none.
    #[error("{0} files are not between 1 and 65535")]
    Files(usize),
    /// Memory for a page run of zeroes.
    #[error(transparent)]
    Zeroes(crate::ArenaError),
    /// The kernel refused a step; io_uring may be switched off (`sysctl kernel.io_uring_disabled`) or older than 5.6.
    #[error("io_uring: {step}: {}", io::Error::from_raw_os_error(*errno))]
    System {
        /// What was tried.
        step: &'static str,
        /// The operating system's error code.
        errno: i32,
    },
}

/// A disk that works, but not as fast as it could. `Display` is one sentence for the operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UringWarning {
    /// The arena could not be registered, so its pages are looked up for every transfer.
    #[error("payload memory is not registered with io_uring: {} (RLIMIT_MEMLOCK too low?)", io::Error::from_raw_os_error(*.0))]
    NotRegistered(i32),
}

/// The files of a node, on one io_uring.
pub struct UringDisk {
    // The order of the fields is the order of their drop: the ring first, then what it may point to.
    ring: IoUring,
    arena: Arc<Arena>,
    zeroes: Arc<Memory>,
    files: Vec<OpenFile>,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// Operations that were refused before they came to the kernel, to be shown by the next poll.
    refused: Vec<(u64, DiskError)>,
    registered: bool,
}

struct OpenFile {
    file: DiskFile,
    /// What the file system turned out to be able to do; a refusal is not asked for twice.
    can_zero: bool,
    can_punch: bool,
}

/// An operation under way.
#[derive(Clone, Copy)]
struct Slot {
    token: u64,
    file: u16,
    work: Work,
    /// Where the rest begins in the file, and how long it is.
    at: u64,
    left: u64,
    retries: u8,
}

/// What is being asked of the kernel for the rest of an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Into the arena, at this offset.
    Read(u64),
    /// From the arena, from this offset.
    Write(u64),
    Flush,
    /// `fallocate`, first choice of a deallocation.
    Punch,
    /// `fallocate`, first choice of zeroing and second of a deallocation.
    ZeroRange,
    /// Zeroes from memory, the last choice of both.
    WriteZeroes,
}

impl UringDisk {
    /// A disk over `files`, whose [`FileId`]s are their places in the list, for at most `depth` operations at a time.
    /// All memory is taken here.
    pub fn new(
        arena: Arc<Arena>,
        files: Vec<DiskFile>,
        depth: usize,
    ) -> Result<(UringDisk, Option<UringWarning>), UringError> {
        if depth == 0 || depth > DEPTH_MAX {
            return Err(UringError::Depth(depth));
        }
        if files.is_empty() || files.len() > usize::from(u16::MAX) {
            return Err(UringError::Files(files.len()));
        }
        let entries = u32::try_from(depth).expect("at most DEPTH_MAX");
        let ring = build(entries).map_err(system("set up"))?;
        let (zeroes, _) =
            Memory::take(ZERO_STEP_BYTES as usize, ORDINARY).map_err(UringError::Zeroes)?;
        let descriptors: Vec<i32> = files.iter().map(DiskFile::descriptor).collect();
        ring.submitter().register_files(&descriptors).map_err(system("register files"))?;
        let warning = register(&ring, &arena, &zeroes)
            .err()
            .map(|error| UringWarning::NotRegistered(error.raw_os_error().unwrap_or(libc::EIO)));
        let files =
            files.into_iter().map(|file| OpenFile { file, can_zero: true, can_punch: true });
        let empty = Slot { token: 0, file: 0, work: Work::Flush, at: 0, left: 0, retries: 0 };
        let disk = UringDisk {
            ring,
            arena,
            zeroes: Arc::new(zeroes),
            files: files.collect(),
            slots: vec![empty; depth],
            free: (0..u16::try_from(depth).expect("at most DEPTH_MAX")).rev().collect(),
            refused: Vec::with_capacity(depth),
            registered: warning.is_none(),
        };
        Ok((disk, warning))
    }

    /// A file of the disk.
    ///
    /// # Panics
    /// If there is none with that id.
    pub fn file(&self, id: FileId) -> &DiskFile {
        &self.files[usize::from(id.0)].file
    }

    /// Whether the arena is registered with the kernel.
    pub fn uses_registered_buffers(&self) -> bool {
        self.registered
    }

    /// The most operations that can be in flight.
    pub fn depth(&self) -> usize {
        self.slots.len()
    }

    fn take_apart(&self, op: DiskOp, token: u64) -> Result<Slot, DiskError> {
        let (file, work, at, left) = match op {
            DiskOp::Read { file, at, span } => (file, Work::Read(span.at), at, u64::from(span.len)),
            DiskOp::Write { file, at, span } => {
                (file, Work::Write(span.at), at, u64::from(span.len))
            }
            DiskOp::Flush { file } => (file, Work::Flush, 0, 0),
            DiskOp::Zero { file, at, len } => (file, Work::ZeroRange, at, len),
            DiskOp::Deallocate { file, at, len } => (file, Work::Punch, at, len),
        };
        let refused = Err(DiskError(libc::EINVAL));
        let Some(open) = self.files.get(usize::from(file.0)) else {
            return Err(DiskError(libc::EBADF));
        };
        let slot = Slot { token, file: file.0, work, at, left, retries: 0 };
        if work == Work::Flush {
            return Ok(slot);
        }
        let block = u64::from(open.file.block_bytes());
        let inside = at.checked_add(left).is_some_and(|end| end <= open.file.bytes());
        if left == 0 || !inside || !at.is_multiple_of(block) || !left.is_multiple_of(block) {
            return refused;
        }
        if let DiskOp::Read { span, .. } | DiskOp::Write { span, .. } = op {
            let address = self.arena.address(span);
            if !address.addr().is_multiple_of(open.file.memory_align() as usize) {
                return refused;
            }
        }
        Ok(match (work, open.can_punch, open.can_zero) {
            (Work::Punch, false, true) => Slot { work: Work::ZeroRange, ..slot },
            (Work::Punch, false, false) | (Work::ZeroRange, _, false) => {
                Slot { work: Work::WriteZeroes, ..slot }
            }
            _ => slot,
        })
    }

    /// Puts the rest of an operation into the submission ring.
    fn push(&mut self, index: u16) {
        let slot = self.slots[usize::from(index)];
        let file = types::Fixed(u32::from(slot.file));
        let entry = match slot.work {
            Work::Read(from) => {
                let (address, len, buffer) = self.step(from, slot.left);
                if self.registered {
                    opcode::ReadFixed::new(file, address, len, buffer).offset(slot.at).build()
                } else {
                    opcode::Read::new(file, address, len).offset(slot.at).build()
                }
            }
            Work::Write(from) => {
                let (address, len, buffer) = self.step(from, slot.left);
                self.write(file, address, len, buffer, slot.at)
            }
            Work::WriteZeroes => {
                let len = slot.left.min(ZERO_STEP_BYTES);
                let len = u32::try_from(len).expect("at most ZERO_STEP_BYTES");
                let buffer = buffer_number(buffer_count(&self.arena));
                self.write(file, self.zeroes.base().as_ptr(), len, buffer, slot.at)
            }
            Work::Flush => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
            Work::ZeroRange => {
                opcode::Fallocate::new(file, slot.left).offset(slot.at).mode(KEEP_AND_ZERO).build()
            }
            Work::Punch => {
                opcode::Fallocate::new(file, slot.left).offset(slot.at).mode(PUNCH).build()
            }
        };
        let entry = entry.user_data(u64::from(index));
        // SAFETY: the entry's buffer lies in `arena` or `zeroes`, both kept alive until the completion (URING-2), in bounds
        // by `take_apart`; its file is registered with the ring.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        assert!(pushed.is_ok(), "URING-1: one entry per slot, and the ring has as many");
    }

    fn write(
        &self,
        file: types::Fixed,
        address: *mut u8,
        len: u32,
        buffer: u16,
        at: u64,
    ) -> squeue::Entry {
        if self.registered {
            opcode::WriteFixed::new(file, address, len, buffer).offset(at).build()
        } else {
            opcode::Write::new(file, address, len).offset(at).build()
        }
    }

    /// The next piece of a transfer: up to the end of the registered buffer that it begins in.
    fn step(&self, from: u64, left: u64) -> (*mut u8, u32, u16) {
        let len = left.min(BUFFER_BYTES_MAX - from % BUFFER_BYTES_MAX);
        let len = u32::try_from(len).expect("at most BUFFER_BYTES_MAX");
        let buffer = buffer_number(from / BUFFER_BYTES_MAX);
        (self.arena.address(Span::new(from, len)), len, buffer)
    }

    /// Takes in what the kernel says of an operation. `None`: it goes on, its rest is in the ring again.
    fn complete(&mut self, index: u16, result: i32) -> Option<Result<(), DiskError>> {
        let slot = &mut self.slots[usize::from(index)];
        let open = &mut self.files[usize::from(slot.file)];
        match u64::try_from(result) {
            Err(_) => {
                let errno = -result;
                match (slot.work, errno) {
                    (Work::Punch, libc::EOPNOTSUPP) => {
                        open.can_punch = false;
                        slot.work = if open.can_zero { Work::ZeroRange } else { Work::WriteZeroes };
                    }
                    (Work::ZeroRange, libc::EOPNOTSUPP) => {
                        open.can_zero = false;
                        slot.work = Work::WriteZeroes;
                    }
                    (_, libc::EINTR | libc::EAGAIN) if slot.retries < RETRIES_MAX => {
                        slot.retries += 1;
                    }
                    _ => return Some(Err(DiskError(errno))),
                }
            }
            Ok(done) => {
                let moved = match &mut slot.work {
                    Work::Flush | Work::Punch | Work::ZeroRange => return Some(Ok(())),
                    // The file ends before its size when opened: someone cut it, or the device failed.
                    Work::Read(_) | Work::Write(_) | Work::WriteZeroes if done == 0 => {
                        return Some(Err(DiskError(libc::EIO)));
                    }
                    Work::Read(from) | Work::Write(from) => {
                        *from += done;
                        done
                    }
                    Work::WriteZeroes => done,
                };
                slot.at += moved;
                slot.left = slot.left.checked_sub(moved).expect("no more than was asked for");
                if slot.left == 0 {
                    return Some(Ok(()));
                }
                slot.retries = 0;
            }
        }
        self.push(index);
        None
    }

    /// Hands what was pushed to the kernel and lets it finish what is finished.
    fn enter(&mut self) {
        let submission = self.ring.submission();
        let needed = !submission.is_empty() || submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if !needed {
            return;
        }
        if let Err(error) = self.ring.submit() {
            // Short of memory, or interrupted: nothing is lost, the next poll tries again.
            let passing = matches!(
                error.raw_os_error(),
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM)
            );
            assert!(passing, "io_uring_enter refuses entries that it can't refuse: {error}");
        }
    }
}

impl Disk for UringDisk {
    fn submit(&mut self, op: DiskOp, token: u64) -> Result<(), DiskBusy> {
        if self.in_flight() >= self.depth() {
            return Err(DiskBusy);
        }
        match self.take_apart(op, token) {
            Err(error) => self.refused.push((token, error)),
            Ok(slot) => {
                let index = self.free.pop().expect("fewer in flight than slots");
                self.slots[usize::from(index)] = slot;
                self.push(index);
            }
        }
        Ok(())
    }

    fn poll(&mut self, sink: &mut dyn FnMut(u64, Result<(), DiskError>)) -> usize {
        if self.in_flight() == 0 {
            return 0;
        }
        let mut count = self.refused.len();
        for (token, error) in self.refused.drain(..) {
            sink(token, Err(error));
        }
        self.enter();
        // What arrives while this loop runs may wait for the next poll: a turn must end.
        for _ in 0..self.depth() {
            let Some(entry) = self.ring.completion().next() else {
                break;
            };
            let index = slot_of(&entry);
            if let Some(result) = self.complete(index, entry.result()) {
                let token = self.slots[usize::from(index)].token;
                self.free.push(index);
                sink(token, result);
                count += 1;
            }
        }
        if !self.ring.submission().is_empty() {
            self.enter();
        }
        count
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len() + self.refused.len()
    }

    fn descriptor(&self) -> Option<i32> {
        Some(self.ring.as_raw_fd())
    }
}

impl Drop for UringDisk {
    /// Waits for what is in flight (URING-2). If the device doesn't answer, the memory stays mapped for good.
    fn drop(&mut self) {
        let mut waits = 0;
        loop {
            self.poll(&mut |_, _| ());
            if self.in_flight() == 0 {
                // The kernel takes a closed ring apart later; until then it would keep the arena's pages from whoever gives
                // them back to the pool next. There is nothing to unregister where registering was refused.
                drop(self.ring.submitter().unregister_buffers());
                return;
            }
            if waits == DRAIN_WAITS_MAX {
                break;
            }
            let second = types::Timespec::new().sec(1);
            let args = types::SubmitArgs::new().timespec(&second);
            // An error is the second's end (ETIME) or a signal. Without one, something has completed.
            if self.ring.submitter().submit_with_args(1, &args).is_err() {
                waits += 1;
            }
        }
        // One count too many: nobody is ever the last to let go of the memory.
        let _kept_for_good =
            (Arc::into_raw(Arc::clone(&self.arena)), Arc::into_raw(Arc::clone(&self.zeroes)));
    }
}

fn slot_of(entry: &cqueue::Entry) -> u16 {
    u16::try_from(entry.user_data()).expect("user data is the slot's number")
}

fn system(step: &'static str) -> impl Fn(io::Error) -> UringError {
    move |error| UringError::System { step, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

/// COOP_TASKRUN (Linux 5.19): the kernel doesn't interrupt the shard to finish an operation but sets a flag, at which the
/// next poll enters the kernel. Not SINGLE_ISSUER: a disk may be made on one thread and used on another.
fn build(entries: u32) -> io::Result<IoUring> {
    let cooperative =
        IoUring::builder().setup_clamp().setup_coop_taskrun().setup_taskrun_flag().build(entries);
    match cooperative {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            IoUring::builder().setup_clamp().build(entries)
        }
        other => other,
    }
}

fn buffer_count(arena: &Arena) -> u64 {
    (arena.len() as u64).div_ceil(BUFFER_BYTES_MAX)
}

/// As the entry's field has it. Only an arena that `register` refuses has more, and there the field isn't used.
fn buffer_number(index: u64) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

/// Registers the arena as buffers 0 … n-1 of 1 GiB each (the last may be shorter), and the zeroes as buffer n.
fn register(ring: &IoUring, arena: &Arena, zeroes: &Memory) -> io::Result<()> {
    let len = arena.len() as u64;
    let count = buffer_count(arena);
    if u16::try_from(count).is_err() {
        // 64 TiB. Their number doesn't fit the entry's field.
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    let mut buffers = Vec::new();
    for index in 0..count {
        let at = index * BUFFER_BYTES_MAX;
        let bytes = u32::try_from((len - at).min(BUFFER_BYTES_MAX)).expect("at most 1 GiB");
        let base = arena.address(Span::new(at, bytes));
        buffers.push(libc::iovec { iov_base: base.cast(), iov_len: bytes as usize });
    }
    buffers.push(libc::iovec { iov_base: zeroes.base().as_ptr().cast(), iov_len: zeroes.len() });
    // SAFETY: the buffers are mapped and stay so until the ring is gone: `UringDisk` owns both and drops the ring first.
    unsafe { ring.submitter().register_buffers(&buffers) }
}

#[cfg(test)]
#[path = "uring_tests.rs"]
mod tests;
