//! What `file.rs` promises, in a folder of its own.

use super::*;

fn new(bytes: u64) -> OpenOptions {
    OpenOptions { create_bytes: Some(bytes), ..OpenOptions::default() }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_new_volume_is_sparse_and_a_new_log_is_not() {
    let folder = folder();
    let (volume, log) = (folder.path().join("volume"), folder.path().join("log"));
    let (file, _) = DiskFile::open(&volume, new(8 << 20)).unwrap();
    assert_eq!(file.bytes(), 8 << 20);
    assert_eq!(fs::metadata(&volume).unwrap().blocks(), 0);

    let options = OpenOptions { written: true, ..new(3 << 20) };
    let (file, _) = DiskFile::open(&log, options).unwrap();
    assert_eq!(file.bytes(), 3 << 20);
    assert!(fs::metadata(&log).unwrap().blocks() * 512 >= 3 << 20);
    assert_eq!(fs::read(&log).unwrap(), vec![0; 3 << 20]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no draft is left");
}

#[test]
fn what_was_written_is_read_again_after_reopening() {
    let folder = folder();
    let path = folder.path().join("file");
    let (file, _) = DiskFile::open(&path, new(4 << 20)).unwrap();
    let bytes: Vec<u8> = (0..(2usize << 20)).map(|n| (n % 251) as u8).collect();
    file.write_at(4096, &bytes).unwrap();
    file.flush().unwrap();
    drop(file);

    let (file, _) = DiskFile::open(&path, new(4 << 20)).unwrap();
    let mut again = vec![0; bytes.len() + 4096];
    file.read_at(0, &mut again).unwrap();
    assert_eq!(again[..4096], [0; 4096]);
    assert_eq!(again[4096..], bytes);
    let mut past = vec![0; 8192];
    assert!(file.read_at((4 << 20) - 4096, &mut past).is_err(), "past the end");
}

#[test]
fn transfers_off_the_block_are_refused() {
    let folder = folder();
    let (file, _) = DiskFile::open(&folder.path().join("file"), new(1 << 20)).unwrap();
    assert!(file.block_bytes().is_power_of_two());
    let einval = |result: io::Result<()>| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    };
    einval(file.read_at(1, &mut [0; 4096]));
    einval(file.write_at(0, &[0; 100]));
}

#[test]
fn two_nodes_can_not_open_one_file() {
    let folder = folder();
    let path = folder.path().join("file");
    let (first, _) = DiskFile::open(&path, new(1 << 20)).unwrap();
    assert_eq!(DiskFile::open(&path, new(1 << 20)).unwrap_err(), OpenError::InUse);
    drop(first);
    let reader = OpenOptions { read_only: true, ..OpenOptions::default() };
    let (one, _) = DiskFile::open(&path, reader).unwrap();
    let (_two, _) = DiskFile::open(&path, reader).unwrap();
    assert!(one.write_at(0, &[0; 4096]).is_err(), "written through a read-only file");
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let folder = folder();
    let path = folder.path().join("file");
    let missing = DiskFile::open(&path, OpenOptions::default()).unwrap_err();
    assert_eq!(missing, OpenError::System { step: "open", errno: libc::ENOENT });
    drop(DiskFile::open(&path, new(1 << 20)).unwrap());
    let small = DiskFile::open(&path, new(2 << 20)).unwrap_err();
    assert_eq!(small, OpenError::TooSmall { bytes: 1 << 20, needed: 2 << 20 });
    let folder_itself = DiskFile::open(folder.path(), OpenOptions::default()).unwrap_err();
    assert_eq!(folder_itself, OpenError::NotStorage);
    let null = DiskFile::open(Path::new("/dev/null"), OpenOptions::default()).unwrap_err();
    assert_eq!(null, OpenError::NotStorage);
}

#[test]
fn what_an_interrupted_start_left_is_thrown_away() {
    let folder = folder();
    let path = folder.path().join("log");
    fs::write(folder.path().join(".log.new"), [7; 5000]).unwrap();
    let (file, _) = DiskFile::open(&path, new(1 << 20)).unwrap();
    let mut bytes = vec![1; 8192];
    file.read_at(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 8192]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
