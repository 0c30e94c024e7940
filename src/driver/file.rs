//! A file or block device that a node works on: opened for direct I/O, locked, of fixed size.
//! Takes a path at start; gives [`DiskFile`], which [`crate::UringDisk`] does I/O on, and synchronous access for
//! start-up (superblocks). Knows nothing of what lies in it.
//!
//! FILE-1  A file under its own name has its full size: a new one is made under `.name.new` and renamed when complete.
//! FILE-2  Whoever may write holds the exclusive lock; who only reads, the shared one.
//!
//! The lock is `flock`, which dies with the process. I/O that was in flight when a process was killed keeps its file open
//! (and locked) until the device has answered, so opening tries for a while before it gives up.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a lock is tried, 10 ms apart.
const LOCK_TRIES_MAX: u32 = 200;
/// Bytes moved at once by the synchronous helpers and when a new file is filled.
const STEP_BYTES: usize = 1 << 20;
/// Alignment taken where the kernel doesn't tell (before Linux 6.1); no common disk wants more.
const ALIGN_UNKNOWN: u32 = 4096;

/// How to open a [`DiskFile`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenOptions {
    /// Makes a file of this size where there is none. A file that is there must be at least as large, and is left alone.
    pub create_bytes: Option<u64>,
    /// A file that is made gets all its space and is written once with zeroes, so that later overwrites allocate nothing
    /// and a flush writes no metadata: for logs. Otherwise it is made of holes: for volumes.
    pub written: bool,
    /// Opens for reading only, beside other readers.
    pub read_only: bool,
}

/// Why a file was not opened. Which one it was, the caller knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process (or this one) works on it.
    #[error("it is in use by another process")]
    InUse,
    /// Neither a file nor a block device.
    #[error("it is neither a file nor a block device")]
    NotStorage,
    /// It is there, but smaller than asked for.
    #[error("it holds {bytes} bytes, {needed} are needed")]
    TooSmall {
        /// Its size.
        bytes: u64,
        /// The size asked for.
        needed: u64,
    },
    /// The operating system refused a step.
    #[error("{step}: {}", io::Error::from_raw_os_error(*errno))]
    System {
        /// What was tried.
        step: &'static str,
        /// The operating system's error code.
        errno: i32,
    },
}

/// A file that works, but not as it should. `Display` is one sentence for the operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FileWarning {
    /// The file system can't do O_DIRECT, so every transfer is copied through the page cache.
    #[error("its file system refuses direct I/O; transfers go through the page cache")]
    Buffered,
}

/// An open file. Closing it (the drop) gives up the lock.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    bytes: u64,
    block_bytes: u32,
    memory_align: u32,
    direct: bool,
    block_device: bool,
}

impl DiskFile {
    /// Opens `path`, makes it first if the options say so, and locks it.
    pub fn open(
        path: &Path,
        options: OpenOptions,
    ) -> Result<(DiskFile, Option<FileWarning>), OpenError> {
        if let Some(bytes) = options.create_bytes
            && !path.exists()
        {
            create(path, bytes, options.written)?;
        }
        let meta = fs::metadata(path).map_err(system("open"))?;
        let block_device = meta.file_type().is_block_device();
        if !block_device && !meta.is_file() {
            return Err(OpenError::NotStorage);
        }
        let (mut file, direct) = open_direct(path, options.read_only, block_device)?;
        lock(&file, options.read_only)?;
        let bytes = file.seek(SeekFrom::End(0)).map_err(system("size"))?;
        if let Some(needed) = options.create_bytes.filter(|&needed| bytes < needed) {
            return Err(OpenError::TooSmall { bytes, needed });
        }
        let (block_bytes, memory_align) = alignment(&file, block_device)?;
        let warning = (!direct).then_some(FileWarning::Buffered);
        Ok((DiskFile { file, bytes, block_bytes, memory_align, direct, block_device }, warning))
    }

    /// Its size when it was opened.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The logical block: offsets and lengths of transfers are multiples of it.
    pub fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// What addresses of transfers are multiples of.
    pub fn memory_align(&self) -> u32 {
        self.memory_align
    }

    /// Whether transfers go around the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whether it is a block device and not a file.
    pub fn is_block_device(&self) -> bool {
        self.block_device
    }

    /// Reads at byte `at`, waiting for it. For start-up: it allocates. `at` and the length are multiples of the block.
    pub fn read_at(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.check(at, bytes.len())?;
        let mut bounce = Bounce::new(bytes.len());
        let mut at = at;
        for piece in bytes.chunks_mut(STEP_BYTES) {
            let aligned = bounce.first(piece.len());
            self.file.read_exact_at(aligned, at)?;
            piece.copy_from_slice(aligned);
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Writes at byte `at`, waiting for it; durable after [`DiskFile::flush`]. As [`DiskFile::read_at`] otherwise.
    pub fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.check(at, bytes.len())?;
        let mut bounce = Bounce::new(bytes.len());
        let mut at = at;
        for piece in bytes.chunks(STEP_BYTES) {
            let aligned = bounce.first(piece.len());
            aligned.copy_from_slice(piece);
            self.file.write_all_at(aligned, at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Makes everything written survive a power cut, waiting for it.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn check(&self, at: u64, len: usize) -> io::Result<()> {
        let block = u64::from(self.block_bytes);
        let aligned = at.is_multiple_of(block) && (len as u64).is_multiple_of(block);
        if aligned { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) }
    }

    /// Something that isn't storage, to provoke what storage seldom does: short transfers and refusals.
    #[cfg(test)]
    pub(crate) fn pretend(file: File, bytes: u64, block_bytes: u32) -> DiskFile {
        DiskFile { file, bytes, block_bytes, memory_align: 1, direct: false, block_device: false }
    }
}

/// Memory whose address suits direct I/O, for the callers' slices that don't.
struct Bounce {
    memory: Vec<u8>,
    at: usize,
}

impl Bounce {
    fn new(bytes: usize) -> Self {
        let align = ALIGN_UNKNOWN as usize;
        let memory = vec![0; bytes.min(STEP_BYTES) + align];
        let at = memory.as_ptr().align_offset(align);
        Self { memory, at }
    }

    fn first(&mut self, bytes: usize) -> &mut [u8] {
        &mut self.memory[self.at..self.at + bytes]
    }
}

fn system(step: &'static str) -> impl Fn(io::Error) -> OpenError {
    move |error| OpenError::System { step, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

fn open_direct(path: &Path, read_only: bool, device: bool) -> Result<(File, bool), OpenError> {
    // On a block device O_EXCL (without O_CREAT) keeps off mounts and other exclusive users; on a file it means nothing.
    let exclusive = if device && !read_only { libc::O_EXCL } else { 0 };
    let open = |flags: i32| {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(!read_only).custom_flags(flags | exclusive);
        options.open(path)
    };
    let refused = |error: io::Error| match error.raw_os_error() {
        Some(libc::EBUSY) => OpenError::InUse,
        _ => system("open")(error),
    };
    match open(libc::O_DIRECT) {
        Ok(file) => Ok((file, true)),
        // EINVAL is what open(2) says for "the file system does not support O_DIRECT".
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            open(0).map(|file| (file, false)).map_err(refused)
        }
        Err(error) => Err(refused(error)),
    }
}

fn lock(file: &File, shared: bool) -> Result<(), OpenError> {
    let kind = if shared { libc::LOCK_SH } else { libc::LOCK_EX };
    for _ in 0..LOCK_TRIES_MAX {
        // SAFETY: `flock` takes a descriptor that is open, as `file` is.
        if unsafe { libc::flock(file.as_raw_fd(), kind | libc::LOCK_NB) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EWOULDBLOCK) {
            return Err(system("lock")(error));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(OpenError::InUse)
}

/// What transfers must be multiples of: (offset and length, address).
fn alignment(file: &File, device: bool) -> Result<(u32, u32), OpenError> {
    let told = direct_alignment(file);
    if device {
        let mut block: libc::c_int = 0;
        // SAFETY: BLKSSZGET writes one int to the address of ours.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::BLKSSZGET, &raw mut block) };
        if result != 0 {
            return Err(system("logical block size")(io::Error::last_os_error()));
        }
        let block = u32::try_from(block).unwrap_or(ALIGN_UNKNOWN);
        return Ok((block, told.map_or(block, |(_, memory)| memory)));
    }
    Ok(told.unwrap_or((ALIGN_UNKNOWN, ALIGN_UNKNOWN)))
}

/// `statx` with STATX_DIOALIGN, by its number and layout (Linux 6.1, include/uapi/linux/stat.h): the C library's
/// structure may be older. `None` where the kernel or the file system doesn't tell.
fn direct_alignment(file: &File) -> Option<(u32, u32)> {
    const STATX_DIOALIGN: u32 = 0x2000;
    const WORD_MASK: usize = 0;
    const WORD_MEMORY_ALIGN: usize = 0x98 / 4;
    const WORD_OFFSET_ALIGN: usize = 0x9C / 4;
    let mut words = [0u32; 64];
    // SAFETY: the kernel writes its structure of 256 bytes, the length of `words`; the path is a terminated empty
    // string, which with AT_EMPTY_PATH means the descriptor itself, and that is open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_statx,
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            STATX_DIOALIGN,
            words.as_mut_ptr(),
        )
    };
    let (offset, memory) = (words[WORD_OFFSET_ALIGN], words[WORD_MEMORY_ALIGN]);
    let told = result == 0
        && words[WORD_MASK] & STATX_DIOALIGN != 0
        && offset.is_power_of_two()
        && memory.is_power_of_two();
    told.then_some((offset, memory))
}

/// Makes the file under another name, complete and durable, then gives it its own (FILE-1).
fn create(path: &Path, bytes: u64, written: bool) -> Result<(), OpenError> {
    let name = path.file_name().ok_or(OpenError::NotStorage)?;
    let mut draft_name = std::ffi::OsString::from(".");
    draft_name.push(name);
    draft_name.push(".new");
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let draft = folder.join(draft_name);

    let mut options = fs::OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&draft)
        .map_err(system("create"))?;
    lock(&file, false)?;
    // Whoever had the lock before may have finished and renamed what we hold: then it is no draft any more.
    let ours = file.metadata().map_err(system("create"))?;
    let there = fs::metadata(&draft).ok();
    if there.is_none_or(|it| (it.ino(), it.dev()) != (ours.ino(), ours.dev())) {
        return Err(OpenError::InUse);
    }
    // What an interrupted start left is thrown away.
    file.set_len(0).map_err(system("create"))?;
    file.set_len(bytes).map_err(system("create"))?;
    if written {
        let len = libc::off_t::try_from(bytes)
            .map_err(|_| OpenError::System { step: "reserve space", errno: libc::EFBIG })?;
        // SAFETY: `fallocate` takes a descriptor that is open for writing, as `file` is.
        let result = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) };
        let error = io::Error::last_os_error();
        // Where there is no `fallocate`, writing the zeroes takes the space as well.
        if result != 0 && error.raw_os_error() != Some(libc::EOPNOTSUPP) {
            // The next try must not find its space taken by this one.
            fs::remove_file(&draft).map_err(system("remove the draft"))?;
            return Err(system("reserve space")(error));
        }
        fill(&file, bytes).map_err(system("fill with zeroes"))?;
    }
    file.sync_all().map_err(system("flush"))?;
    rename_new(&draft, path)?;
    let folder = File::open(&folder).map_err(system("open the folder"))?;
    folder.sync_all().map_err(system("flush the folder"))
}

fn fill(file: &File, bytes: u64) -> io::Result<()> {
    let zeroes = vec![0; STEP_BYTES];
    let mut at = 0;
    while at < bytes {
        let count = (bytes - at).min(STEP_BYTES as u64);
        file.write_all_at(&zeroes[..usize::try_from(count).expect("at most STEP_BYTES")], at)?;
        at += count;
    }
    Ok(())
}

/// Renames, but never over a file that has appeared meanwhile.
fn rename_new(from: &Path, to: &Path) -> Result<(), OpenError> {
    let terminated = |path: &Path| {
        CString::new(path.as_os_str().as_bytes())
            .map_err(|_| OpenError::System { step: "rename", errno: libc::EINVAL })
    };
    let (from, to) = (terminated(from)?, terminated(to)?);
    let here = libc::AT_FDCWD;
    // SAFETY: both paths are terminated strings that live through the call.
    let result =
        unsafe { libc::renameat2(here, from.as_ptr(), here, to.as_ptr(), libc::RENAME_NOREPLACE) };
    if result == 0 { Ok(()) } else { Err(system("rename")(io::Error::last_os_error())) }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
