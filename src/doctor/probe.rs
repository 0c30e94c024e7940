//! `--probe`: how long a write and its flush take beside the log, on a file of the doctor's own that is removed afterwards.
//! A log that is a block device has no "beside": it is not touched, and not timed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ibid_driver::{DiskFile, OpenOptions};

use super::storage::{Kind, Probe, Storage};

/// Times writes on the log's file system, or says why not.
pub(crate) fn run(log: &Storage) -> Result<Probe, String> {
    if matches!(log.kind, Ok(Kind::Device { .. })) {
        return Err("the log is a block device, and nothing is written to one".to_owned());
    }
    let folder = log.path.parent().ok_or("the log's path has no folder")?;
    let own = Own::new(folder)?;
    let options = OpenOptions { create_bytes: Some(FILE_BYTES), written: true, read_only: false };
    let (file, _) = DiskFile::open(&own.0, options).map_err(|error| error.to_string())?;
    let mut times = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let block = [round as u8 + 1; BLOCK_BYTES];
        let began = Instant::now();
        let written =
            file.write_at((round * BLOCK_BYTES) as u64, &block).and_then(|()| file.flush());
        written.map_err(|error| error.to_string())?;
        times.push(began.elapsed());
    }
    times.sort();
    Ok(Probe {
        direct: file.is_direct(),
        median: times[ROUNDS / 2],
        longest: times.last().copied().unwrap_or(Duration::ZERO),
    })
}

/// A name that nothing had, removed at the end whatever happens.
struct Own(PathBuf);

impl Own {
    fn new(folder: &Path) -> Result<Self, String> {
        let path = folder.join(format!(".ibid-doctor-{}", std::process::id()));
        if fs::symlink_metadata(&path).is_ok() {
            return Err(format!("{} is there already", path.display()));
        }
        Ok(Self(path))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // Where it was not made there is nothing to remove.
        drop(fs::remove_file(&self.0));
    }
}

/// Writes that are timed.
const ROUNDS: usize = 64;
const BLOCK_BYTES: usize = 4096;
const FILE_BYTES: u64 = (ROUNDS * BLOCK_BYTES) as u64;

#[cfg(test)]
mod tests {
    use super::super::root::Root;
    use super::*;

    #[test]
    fn writes_are_timed_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        fs::write(&path, b"precious").unwrap();
        let log = Storage::gather(&Root::machine(), &path);
        let probe = run(&log).unwrap();
        assert!(probe.median > Duration::ZERO && probe.longest >= probe.median, "{probe:?}");
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");

        // Somebody's file of that name is left alone.
        let own = folder.path().join(format!(".ibid-doctor-{}", std::process::id()));
        fs::write(&own, b"somebody's").unwrap();
        assert!(run(&log).unwrap_err().contains("is there already"));
        assert_eq!(fs::read(&own).unwrap(), b"somebody's");
    }

    #[test]
    fn a_block_device_is_not_written_to() {
        let mut log = Storage::gather(&Root::machine(), Path::new("/nonexistent/a.log"));
        log.kind = Ok(Kind::Device { bytes: None });
        assert!(run(&log).unwrap_err().contains("block device"));
    }
}
