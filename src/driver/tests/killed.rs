//! A node that is killed in the middle of its work leaves nothing that stops the next: the file can be opened at once,
//! also while the kernel still finishes what was in flight, and the address can be listened on.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use ibid_driver::{
    Arena, Disk, DiskFile, DiskOp, FileId, OpenError, OpenOptions, TcpStreams, UringDisk,
};
use ibid_units::Span;

const PATH: &str = "IBID_TEST_FILE_TO_BE_KILLED_OVER";
const BYTES: u64 = 16 << 20;
const OPTIONS: OpenOptions =
    OpenOptions { create_bytes: Some(BYTES), written: true, read_only: false };

/// Opens the file, says where it listens, and keeps 64 writes in flight until it is killed.
fn work(path: &Path) {
    let arena = Arc::new(Arena::new(4 << 20, false).unwrap().0);
    let (file, _) = DiskFile::open(path, OPTIONS).unwrap();
    let (mut disk, _) = UringDisk::new(Arc::clone(&arena), vec![file], 64).unwrap();
    let streams = TcpStreams::listen("127.0.0.1:0", Arc::clone(&arena), 1).unwrap();
    println!("\nlistening {}", streams.addresses().unwrap()[0]);
    // A bound in case nobody kills it.
    for n in 0..1_000_000u64 {
        let op =
            DiskOp::Write { file: FileId(0), at: n * 65536 % BYTES, span: Span::new(0, 65536) };
        while disk.submit(op, n).is_err() {
            disk.poll(&mut |_, result| result.unwrap());
        }
    }
}

#[test]
fn a_killed_node_does_not_stop_the_next() {
    if let Some(path) = std::env::var_os(PATH) {
        return work(Path::new(&path));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_killed_node_does_not_stop_the_next", "--nocapture"])
            .env(PATH, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .find_map(|line| Some(line.unwrap().strip_prefix("listening ")?.to_owned()))
            .expect("the child says where it listens");
        if round == 0 {
            // Takes the two seconds that a start waits for a lock.
            assert_eq!(DiskFile::open(&path, OPTIONS).err(), Some(OpenError::InUse));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let (file, _) = DiskFile::open(&path, OPTIONS).unwrap();
        assert_eq!(file.bytes(), BYTES);
        let arena = Arc::new(Arena::new(1, false).unwrap().0);
        TcpStreams::listen(address, arena, 1).unwrap();
    }
}
