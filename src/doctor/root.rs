//! The machine as a tree of small files: /proc and /sys, or what a test has put in their place.
//! Reads only, and says why where it can't. What the contents mean is for the other rooms.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A fact, or why it is none.
pub(crate) type Seen<T> = Result<T, Unseen>;

/// Why something was not seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Unseen {
    /// There is no such file: as a rule that says something, too.
    Absent,
    /// It is there, and can't be read.
    Refused {
        /// Which file.
        path: String,
        /// What the system said.
        says: String,
    },
    /// It could be read, and is not what it should be.
    Strange {
        /// Which file.
        path: String,
        /// What stands there, at most the beginning.
        text: String,
    },
}

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("the kernel does not show it"),
            Self::Refused { path, says } => write!(f, "{path}: {says}"),
            Self::Strange { path, text } => write!(f, "{path} holds {text:?}"),
        }
    }
}

/// Where / is.
#[derive(Clone, Debug)]
pub(crate) struct Root(PathBuf);

/// Longest text that is shown of a file that is not understood.
const STRANGE_CHARS_MAX: usize = 40;

impl Root {
    /// The machine's own.
    pub(crate) fn machine() -> Self {
        Self(PathBuf::from("/"))
    }

    /// A made-up one.
    #[cfg(test)]
    pub(crate) fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// A path of the machine, absolute or not, below this root.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file's text, without blanks at its ends.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Seen<String> {
        let path = self.path(path);
        let bytes = fs::read(&path).map_err(|error| refused(&path, &error))?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// A file that holds one number.
    pub(crate) fn number<T: FromStr>(&self, path: impl AsRef<Path>) -> Seen<T> {
        let text = self.text(path.as_ref())?;
        text.parse().map_err(|_| strange(path.as_ref(), &text))
    }

    /// The names in a folder, sorted.
    pub(crate) fn names(&self, path: impl AsRef<Path>) -> Seen<Vec<String>> {
        let path = self.path(path);
        let entries = fs::read_dir(&path).map_err(|error| refused(&path, &error))?;
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().map(ToOwned::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    /// The last part of what a symbolic link points to: how sysfs names drivers, buses and groups.
    pub(crate) fn link(&self, path: impl AsRef<Path>) -> Seen<String> {
        let path = self.path(path);
        let target = fs::read_link(&path).map_err(|error| refused(&path, &error))?;
        let name = target.file_name().and_then(|name| name.to_str());
        name.map(ToOwned::to_owned).ok_or_else(|| strange(&path, &target.to_string_lossy()))
    }

    pub(crate) fn is_there(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }
}

/// What an error of the file system means here.
pub(crate) fn refused(path: &Path, error: &io::Error) -> Unseen {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Unseen::Absent,
        _ => Unseen::Refused { path: path.display().to_string(), says: error.to_string() },
    }
}

fn strange(path: &Path, text: &str) -> Unseen {
    let text = text.chars().take(STRANGE_CHARS_MAX).collect();
    Unseen::Strange { path: path.display().to_string(), text }
}

/// A list as the kernel writes sets of CPUs and nodes: `0-3,8`. `None` where it is none.
pub(crate) fn parse_set(text: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last - first > SET_MAX {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

/// More CPUs than that has no machine.
const SET_MAX: u32 = 1 << 16;

/// The set that a file holds.
pub(crate) fn set(root: &Root, path: &str) -> Seen<Vec<u32>> {
    let text = root.text(path)?;
    parse_set(&text).ok_or_else(|| strange(Path::new(path), &text))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A tree of files for tests.
    pub(crate) struct Tree(tempfile::TempDir);

    impl Tree {
        pub(crate) fn new(files: &[(&str, &str)]) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            for (path, text) in files {
                tree.put(path, text);
            }
            tree
        }

        pub(crate) fn put(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        pub(crate) fn link(&self, path: &str, target: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(target, path).unwrap();
        }

        pub(crate) fn root(&self) -> Root {
            Root::at(self.0.path())
        }
    }

    #[test]
    fn what_is_not_there_differs_from_what_can_not_be_read() {
        let tree = Tree::new(&[("sys/a", " 7\n"), ("sys/b", "seven\n")]);
        let root = tree.root();
        assert_eq!(root.text("/sys/a"), Ok("7".into()));
        assert_eq!(root.number::<u32>("/sys/a"), Ok(7));
        assert_eq!(root.text("/sys/none"), Err(Unseen::Absent));
        assert_eq!(root.names("sys/none"), Err(Unseen::Absent));
        let strange = root.number::<u32>("/sys/b").unwrap_err();
        assert_eq!(strange.to_string(), "/sys/b holds \"seven\"");
        assert!(matches!(root.text("/sys"), Err(Unseen::Refused { .. })));
        assert_eq!(root.names("/sys"), Ok(vec!["a".into(), "b".into()]));
        tree.link("sys/driver", "../../bus/pci/drivers/ice");
        assert_eq!(root.link("/sys/driver"), Ok("ice".into()));
    }

    #[test]
    fn sets_of_cpus_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_set("0-3,8"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse_set(""), Some(vec![]));
        assert_eq!(parse_set("5"), Some(vec![5]));
        for text in ["3-1", "a", "0-", "0-99999999"] {
            assert_eq!(parse_set(text), None, "{text}");
        }
    }
}
