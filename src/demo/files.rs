//! Real files in a real file system: an ext4 image filled from this machine's own files, and the proof that they are all still there.

use anyhow::{Context as _, bail, ensure};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where a Debian machine has many files of every size.
const ORIGINS: [&str; 4] =
    ["/usr/share/doc", "/usr/share/perl", "/usr/lib/x86_64-linux-gnu", "/usr/bin"];
const FILE_BYTES_MAX: u64 = 8 << 20;
const FILES_MAX: usize = 4000;
const DEPTH_MAX: usize = 6;

/// The files that were put into an image.
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
    pub(crate) files: usize,
    pub(crate) bytes: u64,
}

/// Copies files of this machine into `root`, about `bytes` in all.
pub(crate) fn gather(root: &Path, bytes: u64) -> anyhow::Result<Tree> {
    fs::create_dir_all(root)?;
    let mut tree = Tree { root: root.to_owned(), files: 0, bytes: 0 };
    for (index, origin) in ORIGINS.iter().enumerate() {
        let share = bytes * (index as u64 + 1) / ORIGINS.len() as u64;
        take(&mut tree, Path::new(origin), share, 0);
    }
    ensure!(tree.files > 0, "no readable files under {}", ORIGINS.join(", "));
    Ok(tree)
}

fn take(tree: &mut Tree, folder: &Path, until: u64, depth: usize) {
    // What can't be read is passed over: any files will do.
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if tree.bytes >= until || tree.files >= FILES_MAX {
            return;
        }
        let Ok(meta) = path.symlink_metadata() else {
            continue;
        };
        if meta.is_dir() && depth < DEPTH_MAX {
            take(tree, &path, until, depth + 1);
        } else if meta.is_file() && meta.len() <= FILE_BYTES_MAX && tree.bytes + meta.len() <= until
        {
            let Ok(relative) = path.strip_prefix("/") else {
                continue;
            };
            let target = tree.root.join(relative);
            let copied = target
                .parent()
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| fs::copy(&path, &target));
            if copied.is_ok() {
                tree.files += 1;
                tree.bytes += meta.len();
            }
        }
    }
}

/// Makes an ext4 file system of `bytes` bytes that holds the tree.
pub(crate) fn make_image(tree: &Tree, image: &Path, bytes: u64) -> anyhow::Result<()> {
    File::create(image)?.set_len(bytes)?;
    let mut mkfs = tool("mkfs.ext4");
    mkfs.args(["-q", "-F", "-b", "4096", "-d"]).arg(&tree.root).arg(image);
    expect(&mut mkfs).map(drop)
}

/// Checks the file system in `image` without changing it.
pub(crate) fn check_image(image: &Path) -> anyhow::Result<()> {
    let mut fsck = tool("e2fsck");
    fsck.arg("-fn").arg(image);
    expect(&mut fsck).map(drop)
}

/// Takes every file out of the file system in `image` and compares it with the tree; gives how many were equal.
pub(crate) fn compare(tree: &Tree, image: &Path, scratch: &Path) -> anyhow::Result<usize> {
    fs::create_dir_all(scratch)?;
    let mut debugfs = tool("debugfs");
    debugfs.arg("-R").arg(format!("rdump / {}", scratch.display())).arg(image);
    expect(&mut debugfs)?;
    let mut equal = 0;
    compare_folder(&tree.root, scratch, &mut equal)?;
    ensure!(equal == tree.files, "{equal} files were compared, {} were written", tree.files);
    Ok(equal)
}

fn compare_folder(mine: &Path, theirs: &Path, equal: &mut usize) -> anyhow::Result<()> {
    for entry in fs::read_dir(mine)? {
        let entry = entry?;
        let other = theirs.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            compare_folder(&entry.path(), &other, equal)?;
        } else {
            let (mut left, mut right) = (Vec::new(), Vec::new());
            File::open(entry.path())?.read_to_end(&mut left)?;
            File::open(&other)
                .and_then(|mut file| file.read_to_end(&mut right))
                .with_context(|| format!("{} is not in the mirror", entry.path().display()))?;
            ensure!(left == right, "{} differs in the mirror", entry.path().display());
            *equal += 1;
        }
    }
    Ok(())
}

/// A program of e2fsprogs, which Debian keeps in a folder that not everybody has in PATH.
fn tool(name: &str) -> Command {
    let place = ["/usr/sbin", "/sbin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists());
    Command::new(place.unwrap_or_else(|| PathBuf::from(name)))
}

fn expect(command: &mut Command) -> anyhow::Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("{name} (package e2fsprogs)"))?;
    if !output.status.success() {
        let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        bail!("{name} failed ({}): {}", output.status, String::from_utf8_lossy(&said).trim());
    }
    Ok(output)
}
