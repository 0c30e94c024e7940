//! A secret in a file: one line, of the user that runs the program and of nobody else. Nothing of what it holds is ever shown.

use anyhow::{Context as _, bail, ensure};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use zeroize::Zeroizing;

/// Permission bits of everybody but the owner.
const OTHERS: u32 = 0o077;
/// Longest secret, and the end of its line.
const BYTES_MAX: usize = 256;

/// Reads the line of at most `text_max` bytes that a secret file holds; `what` ends the sentence "must hold … and nothing else".
pub(crate) fn read(path: &Path, text_max: usize, what: &str) -> anyhow::Result<Zeroizing<String>> {
    let mut file = open(path)?;
    let metadata = file.metadata()?;
    let user = std::fs::metadata("/proc/self").context("/proc/self")?.uid();
    ensure!(
        metadata.uid() == user,
        "must belong to the user that runs ibid (uid {user}), belongs to uid {}",
        metadata.uid()
    );
    ensure!(
        metadata.mode() & OTHERS == 0,
        "must be readable by its owner only (mode 0600 or stricter), has mode {:04o}",
        metadata.mode() & 0o7777
    );
    line(&mut file, text_max, what)
}

/// The same of a file that whoever gave it has protected, as systemd does.
pub(crate) fn read_given(
    path: &Path,
    text_max: usize,
    what: &str,
) -> anyhow::Result<Zeroizing<String>> {
    line(&mut open(path)?, text_max, what)
}

/// Opens a regular file. A FIFO must not keep the start waiting for somebody to write into it.
fn open(path: &Path) -> anyhow::Result<File> {
    ensure!(std::fs::metadata(path)?.is_file(), "must be a regular file");
    let file = File::open(path)?;
    // Of the open file: the name may mean another one by now.
    ensure!(file.metadata()?.is_file(), "must be a regular file");
    Ok(file)
}

fn line(file: &mut File, text_max: usize, what: &str) -> anyhow::Result<Zeroizing<String>> {
    assert!(text_max + 2 < BYTES_MAX, "no secret is longer");
    let mut bytes = Zeroizing::new([0; BYTES_MAX]);
    let mut len = 0;
    while len < text_max + 3 {
        match file.read(&mut bytes[len..text_max + 3])? {
            0 => break,
            count => len += count,
        }
    }
    ensure!(len <= text_max + 2, "must hold {what} and nothing else");
    let Ok(text) = std::str::from_utf8(&bytes[..len]) else {
        bail!("must hold {what} and nothing else")
    };
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    Ok(Zeroizing::new(text.to_owned()))
}
