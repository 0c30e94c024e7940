//! `--probe`: how long a write and its flush take beside the log, on a file of the doctor's own that is removed afterwards.
//! A log that is a block device has no "beside": it is not touched, and not timed.

use std::io::Write as _;
use std::time::{Duration, Instant};

use ibid_driver::{DiskFile, OpenOptions};

use super::storage::{Kind, Probe, Storage};

/// Times writes on the log's file system, or says why not.
pub(crate) fn run(log: &Storage) -> Result<Probe, String> {
    if matches!(log.kind, Ok(Kind::Device { .. })) {
        return Err("the log is a block device, and nothing is written to one".to_owned());
    }
    let folder = log.path.parent().ok_or("the log's path has no folder")?;
    // A name that nothing had, not even a link to elsewhere, and that goes at the end.
    let own = tempfile::Builder::new()
        .prefix(NAME)
        .tempfile_in(folder)
        .and_then(|mut own| {
            own.write_all(&[0; FILE_BYTES])?;
            own.as_file().sync_all()?;
            Ok(own)
        })
        .map_err(|error| error.to_string())?;
    let (file, _) =
        DiskFile::open(own.path(), OpenOptions::default()).map_err(|error| error.to_string())?;
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

/// Writes that are timed.
const ROUNDS: usize = 64;
const BLOCK_BYTES: usize = 4096;
const FILE_BYTES: usize = ROUNDS * BLOCK_BYTES;
/// How its file's name begins.
const NAME: &str = ".ibid-doctor-";

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

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
    }

    #[test]
    fn a_block_device_is_not_written_to() {
        let mut log = Storage::gather(&Root::machine(), Path::new("/nonexistent/a.log"));
        log.kind = Ok(Kind::Device { bytes: None });
        assert!(run(&log).unwrap_err().contains("block device"));
    }
}
