//! What the tests of whole processes share: folders, child processes that can't outlive a test, nodes and demonstrations,
//! links between them, and a client whose every acknowledged write is remembered.
//! Uses the built `ibid` as an operator would: by its arguments, its files, its control socket, its signals.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest time anything in these tests is waited for.
pub(crate) const WAIT: Duration = Duration::from_secs(30);

/// One pair at a time: each is two pollers, and tests look at how fast they are and at the machine's huge pages.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed has cleaned up in its drops.
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A folder on a real file system: /tmp is often memory, which O_DIRECT means nothing to.
pub(crate) fn folder() -> TempDir {
    tempfile::Builder::new().prefix("ibid-test-").tempdir_in("/var/tmp").unwrap()
}

pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Waits until `it` gives something, or panics with `what`.
pub(crate) fn until<T>(what: &str, mut it: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WAIT;
    loop {
        if let Some(found) = it() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {} s: {what}", WAIT.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Panics where the two files differ, with the first place.
pub(crate) fn assert_files_equal(left: &Path, right: &Path) {
    let mut files = [left, right].map(|path| File::open(path).unwrap());
    let bytes = files[0].metadata().unwrap().len();
    assert_eq!(
        bytes,
        files[1].metadata().unwrap().len(),
        "lengths of {} and its mirror",
        left.display()
    );
    let mut pieces = [vec![0; 1 << 20], vec![0; 1 << 20]];
    let mut at = 0;
    while at < bytes {
        let count = pieces[0].len().min((bytes - at) as usize);
        for (file, piece) in files.iter_mut().zip(&mut pieces) {
            file.read_exact(&mut piece[..count]).unwrap();
        }
        if let Some(place) = (0..count).find(|place| pieces[0][*place] != pieces[1][*place]) {
            panic!("{} and its mirror differ at byte {}", left.display(), at + place as u64);
        }
        at += count as u64;
    }
}

/// Pages of 2 MiB: (in the pool, of those in use); `None` where the kernel has no such pool.
pub(crate) fn huge_pages() -> Option<(u64, u64)> {
    let count = |name: &str| -> Option<u64> {
        let text =
            std::fs::read_to_string(format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{name}"));
        text.ok()?.trim().parse().ok()
    };
    let total = count("nr_hugepages")?;
    Some((total, total - count("free_hugepages")?))
}
