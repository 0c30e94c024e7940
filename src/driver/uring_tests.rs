//! What `uring.rs` promises, on real files and on things that behave worse than files.

use super::*;
use crate::file::OpenOptions;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const FILE: FileId = FileId(0);

fn arena() -> Arc<Arena> {
    Arc::new(Arena::new(4 << 20, false).unwrap().0)
}

fn open(path: &Path, bytes: u64) -> DiskFile {
    let options = OpenOptions { create_bytes: Some(bytes), ..OpenOptions::default() };
    DiskFile::open(path, options).unwrap().0
}

fn disk(file: DiskFile, depth: usize) -> (Arc<Arena>, UringDisk) {
    let arena = arena();
    let (disk, _) = UringDisk::new(Arc::clone(&arena), vec![file], depth).unwrap();
    (arena, disk)
}

/// Polls until nothing is in flight, or fails after ten seconds.
fn drain(disk: &mut UringDisk) -> Vec<(u64, Result<(), DiskError>)> {
    let mut done = Vec::new();
    let start = Instant::now();
    while disk.in_flight() > 0 {
        disk.poll(&mut |token, result| done.push((token, result)));
        assert!(start.elapsed() < Duration::from_secs(10), "the disk is stuck");
        std::thread::yield_now();
    }
    done
}

fn run(disk: &mut UringDisk, op: DiskOp) -> Result<(), DiskError> {
    disk.submit(op, 77).unwrap();
    let done = drain(disk);
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].0, 77);
    done[0].1
}

fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn what_the_ring_writes_is_what_others_read_and_the_other_way_round() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    let (arena, mut disk) = disk(open(&path, 8 * MIB), 32);
    assert!(disk.file(FILE).is_direct(), "the test's folder does direct I/O");
    // SAFETY: takes nothing, gives a number.
    let root = unsafe { libc::geteuid() } == 0;
    // Others may have used up their RLIMIT_MEMLOCK, and run this test without registration.
    assert!(disk.uses_registered_buffers() || !root);

    let bytes = pattern(1 << 20, 1);
    arena.copy_in(8192, &bytes);
    let mut model = vec![0; 8 << 20];
    for n in 0..32u64 {
        // 32 KiB each, to places in another order than the bytes'.
        let (at, from) = ((n * 37 % 32) * 256 * 1024 + 4096, 32768 * n);
        let span = Span::new(8192 + from, 32768);
        disk.submit(DiskOp::Write { file: FILE, at, span }, n).unwrap();
        model[at as usize..][..32768].copy_from_slice(&bytes[from as usize..][..32768]);
    }
    let mut done = drain(&mut disk);
    done.sort_by_key(|it| it.0);
    assert_eq!(done, (0..32).map(|n| (n, Ok(()))).collect::<Vec<_>>());
    assert_eq!(run(&mut disk, DiskOp::Flush { file: FILE }), Ok(()));
    assert!(fs::read(&path).unwrap() == model, "the file differs from the model");

    let span = Span::new(2 << 20, 1 << 20);
    assert_eq!(run(&mut disk, DiskOp::Read { file: FILE, at: MIB, span }), Ok(()));
    assert!(*arena.bytes(span) == model[1 << 20..2 << 20], "read back differently");
}

#[test]
fn without_registration_the_same_bytes_move() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    let (arena, mut disk) = disk(open(&path, MIB), 4);
    if !disk.uses_registered_buffers() {
        return println!("skipped: RLIMIT_MEMLOCK forbids to register anything");
    }
    disk.ring.submitter().unregister_buffers().unwrap();
    // With the buffers gone, fixed transfers fail: so it was these that were used until now.
    let span = Span::new(0, 4096);
    let fixed = run(&mut disk, DiskOp::Write { file: FILE, at: 0, span });
    assert_eq!(fixed, Err(DiskError(libc::EFAULT)));

    disk.registered = false;
    let bytes = pattern(4096, 2);
    arena.copy_in(0, &bytes);
    assert_eq!(run(&mut disk, DiskOp::Write { file: FILE, at: 8192, span }), Ok(()));
    assert_eq!(fs::read(&path).unwrap()[8192..12288], bytes);
    let other = Span::new(65536, 4096);
    assert_eq!(run(&mut disk, DiskOp::Read { file: FILE, at: 8192, span: other }), Ok(()));
    assert_eq!(*arena.bytes(other), bytes[..]);
}

#[test]
fn a_transfer_across_registered_buffers_is_taken_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    let arena = Arc::new(match Arena::new((1 << 30) + (2 << 20), false) {
        Ok((arena, _)) => arena,
        Err(error) => return println!("skipped: {error}"),
    });
    let (mut disk, _) = UringDisk::new(Arc::clone(&arena), vec![open(&path, 4 * MIB)], 4).unwrap();
    let span = Span::new((1 << 30) - 65536, 131_072);
    let bytes = pattern(131_072, 3);
    arena.copy_in(span.at, &bytes);
    assert_eq!(run(&mut disk, DiskOp::Write { file: FILE, at: MIB, span }), Ok(()));
    assert!(fs::read(&path).unwrap()[1 << 20..][..131_072] == bytes);
    arena.zero(span);
    assert_eq!(run(&mut disk, DiskOp::Read { file: FILE, at: MIB, span }), Ok(()));
    assert!(*arena.bytes(span) == bytes[..]);
}

/// Fills a file, zeroes and deallocates parts of it, and compares with a model.
fn zeroes_read_back(path: &Path, mut disk: UringDisk) -> UringDisk {
    let mut model = pattern(4 << 20, 4);
    disk.file(FILE).write_at(0, &model).unwrap();
    for (op, at, len) in [
        (DiskOp::Zero { file: FILE, at: 4096, len: 3 * MIB - 8192 }, 4096, 3 * MIB - 8192),
        (DiskOp::Deallocate { file: FILE, at: 3 * MIB, len: 65536 }, 3 * MIB, 65536),
    ] {
        assert_eq!(run(&mut disk, op), Ok(()));
        model[at as usize..][..len as usize].fill(0);
    }
    let mut bytes = vec![1; 4 << 20];
    disk.file(FILE).read_at(0, &mut bytes).unwrap();
    assert!(bytes == model, "{} differs from the model", path.display());
    disk
}

#[test]
fn zeroed_and_deallocated_runs_read_as_zeroes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    let (_, disk) = disk(open(&path, 4 * MIB), 4);
    let disk = zeroes_read_back(&path, disk);
    let space = fs::metadata(&path).unwrap().blocks() * 512;
    if disk.files[0].can_punch {
        // The file system's own bookkeeping of the pieces may take a block or two.
        assert!(space <= 4 * MIB - 65536 + 16384, "the run still has its space: {space}");
    }
}

#[test]
fn where_the_file_system_can_not_zero_zeroes_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    let (_, mut disk) = disk(open(&path, 4 * MIB), 4);
    disk.files[0].can_zero = false;
    disk.files[0].can_punch = false;
    let disk = zeroes_read_back(&path, disk);
    let space = fs::metadata(&path).unwrap().blocks() * 512;
    assert!(space >= 4 * MIB, "zeroes were not written");
    drop(disk);
}

#[test]
fn a_refused_fallocate_is_found_out_and_remembered() {
    // tmpfs knows PUNCH_HOLE but not ZERO_RANGE.
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
        return println!("skipped: no /dev/shm");
    };
    let path = folder.path().join("volume");
    let (_, disk) = disk(open(&path, 4 * MIB), 4);
    let disk = zeroes_read_back(&path, disk);
    assert!(!disk.files[0].can_zero, "tmpfs has learnt ZERO_RANGE; find another refuser");
    assert!(disk.files[0].can_punch);
}

#[test]
fn an_operation_off_the_blocks_or_the_file_is_refused_and_counted_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let (_, mut disk) = disk(open(&folder.path().join("volume"), MIB), 2);
    let block = disk.file(FILE).block_bytes();
    let align = disk.file(FILE).memory_align();
    let einval = Err(DiskError(libc::EINVAL));
    let span = Span::new(0, 4096);
    let mut refused = |op| assert_eq!(run(&mut disk, op), einval, "{op:?}");
    refused(DiskOp::Write { file: FILE, at: 1, span });
    refused(DiskOp::Write { file: FILE, at: 0, span: Span::new(0, block - 1) });
    refused(DiskOp::Read { file: FILE, at: 0, span: Span::new(0, 0) });
    refused(DiskOp::Read { file: FILE, at: MIB, span });
    refused(DiskOp::Read { file: FILE, at: u64::MAX - 4095, span });
    refused(DiskOp::Zero { file: FILE, at: 0, len: MIB + 4096 });
    refused(DiskOp::Deallocate { file: FILE, at: 5, len: 4096 });
    if align > 1 {
        refused(DiskOp::Read { file: FILE, at: 0, span: Span::new(1, 4096) });
    }
    let elsewhere = DiskOp::Flush { file: FileId(9) };
    assert_eq!(run(&mut disk, elsewhere), Err(DiskError(libc::EBADF)));

    // The refusals hold a place until they are shown.
    disk.submit(elsewhere, 1).unwrap();
    disk.submit(elsewhere, 2).unwrap();
    assert_eq!(disk.submit(elsewhere, 3), Err(DiskBusy));
    assert_eq!(drain(&mut disk).len(), 2);
}

#[test]
fn what_the_kernel_says_of_alignment_is_reported_too() {
    // A file that claims to need no alignment, so that the refusal is the kernel's own. Of a misaligned address it depends on
    // the kernel and the file system whether it is refused or bounced; of a misaligned offset it doesn't.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    drop(open(&path, MIB));
    let mut options = fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_DIRECT);
    let direct = options.read(true).write(true).open(&path).unwrap();
    let file = DiskFile::pretend(direct, MIB, 1);
    // SAFETY: all zeroes is a valid `statfs`, plain numbers.
    let mut system: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and the kernel writes one `statfs` to the address of ours.
    let told = unsafe { libc::fstatfs(file.descriptor(), &raw mut system) };
    assert_eq!(told, 0);
    if system.f_type == libc::TMPFS_MAGIC {
        return println!("skipped: tmpfs takes any offset");
    }
    let (_, mut disk) = disk(file, 2);
    let op = DiskOp::Write { file: FILE, at: 100, span: Span::new(0, 4096) };
    assert_eq!(run(&mut disk, op), Err(DiskError(libc::EINVAL)));
}

#[test]
fn the_depth_is_a_bound_that_completions_lift() {
    let folder = tempfile::tempdir().unwrap();
    let (_, mut disk) = disk(open(&folder.path().join("volume"), MIB), 3);
    let op = DiskOp::Read { file: FILE, at: 0, span: Span::new(0, 4096) };
    for token in 0..3 {
        disk.submit(op, token).unwrap();
    }
    assert_eq!(disk.submit(op, 3), Err(DiskBusy));
    assert_eq!(disk.in_flight(), 3);
    let mut tokens: Vec<u64> = drain(&mut disk).iter().map(|it| it.0).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, [0, 1, 2]);
    assert_eq!(disk.submit(op, 4), Ok(()));
    assert_eq!(drain(&mut disk), [(4, Ok(()))]);

    let arena = arena();
    for depth in [0, DEPTH_MAX + 1] {
        let refused = UringDisk::new(Arc::clone(&arena), Vec::new(), depth).err();
        assert_eq!(refused, Some(UringError::Depth(depth)));
    }
    assert_eq!(UringDisk::new(arena, Vec::new(), 1).err(), Some(UringError::Files(0)));
}

fn pipe() -> (File, File) {
    let (reader, writer) = std::io::pipe().unwrap();
    (File::from(OwnedFd::from(reader)), File::from(OwnedFd::from(writer)))
}

#[test]
fn a_short_read_is_continued_until_all_bytes_are_there() {
    let (reader, mut writer) = pipe();
    let (arena, mut disk) = disk(DiskFile::pretend(reader, MIB, 512), 2);
    let bytes = pattern(8192, 5);
    writer.write_all(&bytes[..512]).unwrap();
    let op = DiskOp::Read { file: FILE, at: 0, span: Span::new(4096, 8192) };
    disk.submit(op, 1).unwrap();
    for _ in 0..50 {
        assert_eq!(disk.poll(&mut |_, _| panic!("complete with bytes missing")), 0);
        std::thread::sleep(Duration::from_millis(1));
    }
    writer.write_all(&bytes[512..5000]).unwrap();
    for _ in 0..50 {
        assert_eq!(disk.poll(&mut |_, _| panic!("complete with bytes missing")), 0);
        std::thread::sleep(Duration::from_millis(1));
    }
    writer.write_all(&bytes[5000..]).unwrap();
    assert_eq!(drain(&mut disk), [(1, Ok(()))]);
    assert_eq!(*arena.bytes(Span::new(4096, 8192)), bytes[..]);

    // And a file that ends too early is an error, not a read of less.
    writer.write_all(&bytes[..512]).unwrap();
    drop(writer);
    assert_eq!(run(&mut disk, op), Err(DiskError(libc::EIO)));
}

#[test]
fn errors_of_writes_and_flushes_surface() {
    let full = fs::OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
    let (_, mut disk) = disk(DiskFile::pretend(full, MIB, 512), 2);
    let op = DiskOp::Write { file: FILE, at: 0, span: Span::new(0, 4096) };
    assert_eq!(run(&mut disk, op), Err(DiskError(libc::ENOSPC)));
    // /dev/full can't be flushed; what matters is that the kernel's answer comes back as the operation's.
    assert_eq!(run(&mut disk, DiskOp::Flush { file: FILE }), Err(DiskError(libc::EINVAL)));
    let text = DiskError(libc::ENOSPC).to_string();
    assert!(text.contains("No space left"), "{text}");
}

#[test]
fn a_file_opened_for_reading_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    drop(open(&path, MIB));
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    let (_, mut disk) = disk(DiskFile::open(&path, options).unwrap().0, 2);
    let span = Span::new(0, 4096);
    let write = DiskOp::Write { file: FILE, at: 0, span };
    assert_eq!(run(&mut disk, write), Err(DiskError(libc::EBADF)));
    assert_eq!(run(&mut disk, DiskOp::Read { file: FILE, at: 0, span }), Ok(()));
}

#[test]
fn an_idle_shard_is_woken_by_the_descriptor() {
    let (reader, mut writer) = pipe();
    let (_, mut disk) = disk(DiskFile::pretend(reader, MIB, 512), 2);
    let op = DiskOp::Read { file: FILE, at: 0, span: Span::new(0, 512) };
    disk.submit(op, 1).unwrap();
    assert_eq!(disk.poll(&mut |_, _| ()), 0);
    let mut wait =
        libc::pollfd { fd: disk.descriptor().unwrap(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives through the call.
    let readable = unsafe { libc::poll(&raw mut wait, 1, 0) };
    assert_eq!(readable, 0, "readable with nothing complete");
    let feeder = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        writer.write_all(&[1; 512]).unwrap();
    });
    let start = Instant::now();
    let mut done = 0;
    while done == 0 {
        // SAFETY: as above. An interrupted wait (the kernel's own notice) is as good as a readable descriptor.
        let _interrupted_or_ready = unsafe { libc::poll(&raw mut wait, 1, 5000) };
        assert!(start.elapsed() < Duration::from_secs(3), "slept through the completion");
        done = disk.poll(&mut |_, _| ());
    }
    assert!(start.elapsed() >= Duration::from_millis(40));
    feeder.join().unwrap();
}

#[test]
fn dropping_a_busy_disk_waits_for_the_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    let (arena, mut disk) = disk(open(&path, 4 * MIB), 8);
    arena.with_mut(Span::new(0, 4 << 20), |bytes| bytes.fill(9));
    for n in 0..4 {
        let span = Span::new(n * MIB, 1 << 20);
        disk.submit(DiskOp::Write { file: FILE, at: n * MIB, span }, n).unwrap();
    }
    drop(disk);
    assert_eq!(Arc::strong_count(&arena), 1, "the disk has let go of the arena");
    assert!(fs::read(&path).unwrap().iter().all(|&byte| byte == 9), "a write was lost");
}
