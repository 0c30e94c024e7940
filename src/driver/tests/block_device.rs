//! A volume on a block device: size, logical block, exclusive use, zeroing and deallocation, on a loop device over a file.
//! Needs root and `losetup`; says so and passes where there are none.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ibid_driver::{
    Arena, Disk, DiskError, DiskFile, DiskOp, FileId, OpenError, OpenOptions, UringDisk,
};
use ibid_units::Span;

const BYTES: u64 = 8 << 20;
const FILE: FileId = FileId(0);

/// A loop device, detached at the drop.
struct Loop(PathBuf);

impl Loop {
    fn attach(file: &Path, block_bytes: u32) -> Option<Loop> {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show", "--sector-size", &block_bytes.to_string()]).arg(file);
        let output = command.output().ok().filter(|it| it.status.success())?;
        Some(Loop(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim())))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        Command::new("losetup").arg("--detach").arg(&self.0).status().expect("losetup ran before");
    }
}

fn run(disk: &mut UringDisk, op: DiskOp) -> Result<(), DiskError> {
    disk.submit(op, 5).unwrap();
    let mut result = None;
    let start = Instant::now();
    while disk.in_flight() > 0 {
        disk.poll(&mut |_, it| result = Some(it));
        assert!(start.elapsed() < Duration::from_secs(10), "the disk is stuck");
    }
    result.unwrap()
}

fn on_a_device_of(block_bytes: u32) {
    let folder = tempfile::tempdir().unwrap();
    let backing = folder.path().join("backing");
    std::fs::File::create(&backing).unwrap().set_len(BYTES).unwrap();
    let Some(device) = Loop::attach(&backing, block_bytes) else {
        return println!("skipped: no loop device (needs root and losetup)");
    };
    let (file, warning) = DiskFile::open(&device.0, OpenOptions::default()).unwrap();
    assert_eq!(warning, None);
    assert!(file.is_block_device() && file.is_direct());
    assert_eq!((file.bytes(), file.block_bytes()), (BYTES, block_bytes));
    let second = DiskFile::open(&device.0, OpenOptions::default()).err();
    assert_eq!(second, Some(OpenError::InUse));

    let arena = Arc::new(Arena::new(8 << 20, false).unwrap().0);
    let (mut disk, _) = UringDisk::new(Arc::clone(&arena), vec![file], 4).unwrap();
    let whole = Span::new(0, BYTES as u32);
    let mut model: Vec<u8> = (0..BYTES).map(|n| (n % 239) as u8 + 1).collect();
    arena.copy_in(0, &model);
    assert_eq!(run(&mut disk, DiskOp::Write { file: FILE, at: 0, span: whole }), Ok(()));
    let block = u64::from(block_bytes);
    let (zero, gone) = ((block, 3 << 20), (5 << 20, 1 << 20));
    let op = DiskOp::Zero { file: FILE, at: zero.0, len: zero.1 };
    assert_eq!(run(&mut disk, op), Ok(()));
    let op = DiskOp::Deallocate { file: FILE, at: gone.0, len: gone.1 };
    assert_eq!(run(&mut disk, op), Ok(()));
    assert_eq!(run(&mut disk, DiskOp::Flush { file: FILE }), Ok(()));
    for (at, len) in [zero, gone] {
        model[at as usize..(at + len) as usize].fill(0);
    }
    assert_eq!(run(&mut disk, DiskOp::Read { file: FILE, at: 0, span: whole }), Ok(()));
    assert!(*arena.bytes(whole) == model[..], "the device differs from the model");
    let off = DiskOp::Write { file: FILE, at: block / 2, span: Span::new(0, block_bytes) };
    assert_eq!(run(&mut disk, off), Err(DiskError(22)), "EINVAL");
    drop(disk);
    assert!(std::fs::read(&backing).unwrap() == model, "the file under it differs");
}

#[test]
fn a_device_of_512_byte_blocks_serves_as_a_volume() {
    on_a_device_of(512);
}

#[test]
fn a_device_of_4096_byte_blocks_serves_as_a_volume() {
    on_a_device_of(4096);
}
