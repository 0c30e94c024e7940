//! Where log and volumes lie: the file or device, its file system, the disks under it, their write caches, and what can be known of flushes.
//! Facts out of /proc, /sys and the names of files; no device and no file of a node's is opened for writing, or read.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ibid_control::config::{Config, Durability, format_size};

use super::check::{Check, Topic, quoted};
use super::network::numa_node;
use super::root::{Root, Seen, Unseen, refused};

/// One path of a configuration.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    pub(crate) path: PathBuf,
    pub(crate) kind: Seen<Kind>,
    /// Whether the folder that it is in, or is to be made in, is there.
    pub(crate) folder: bool,
    /// The file system that the path is on; of a device's name it says nothing.
    pub(crate) mount: Option<Mount>,
    pub(crate) disk: Seen<Disk>,
}

/// What a path names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    File { bytes: u64 },
    Device { bytes: Option<u64> },
    Other,
}

/// A mounted file system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mount {
    pub(crate) source: String,
    pub(crate) point: String,
    pub(crate) kind: String,
    pub(crate) options: String,
}

/// A block device, and those it is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Disk {
    pub(crate) name: String,
    /// `write back` (it has a volatile cache, and the kernel flushes it) or `write through`.
    pub(crate) write_cache: Seen<String>,
    pub(crate) fua: bool,
    /// What the drive itself says of its cache, where it is asked (SCSI, virtio).
    pub(crate) drive_cache: Option<String>,
    pub(crate) rotational: bool,
    pub(crate) read_only: bool,
    pub(crate) block_bytes: u32,
    pub(crate) node: Option<u32>,
    /// The file under a loop device.
    pub(crate) file: Option<String>,
    pub(crate) below: Vec<Disk>,
}

/// What the timed writes took (`--probe`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Probe {
    /// Whether they went around the page cache.
    pub(crate) direct: bool,
    /// Half of write and flush took no longer than …
    pub(crate) median: Duration,
    /// … and the longest …
    pub(crate) longest: Duration,
}

impl Storage {
    pub(crate) fn gather(root: &Root, path: &Path) -> Self {
        let real = root.path(path);
        let meta = fs::metadata(&real);
        // What is to be made will lie on the device of its folder.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let folder = parent.is_some_and(|parent| root.path(parent).is_dir());
        let kind = match &meta {
            Ok(meta) if meta.is_file() => Ok(Kind::File { bytes: meta.len() }),
            Ok(meta) if meta.file_type().is_block_device() => {
                let sectors = root.number::<u64>(format!("{}/size", device_folder(meta.rdev())));
                Ok(Kind::Device { bytes: sectors.ok().map(|sectors| sectors * 512) })
            }
            Ok(_) => Ok(Kind::Other),
            Err(error) => Err(refused(&real, error)),
        };
        let mounts = root.text("/proc/self/mounts").unwrap_or_default();
        let on = mount_of(&mounts, path);
        let number = match (&meta, &kind) {
            (Ok(meta), Ok(Kind::Device { .. })) => Some(meta.rdev()),
            (Ok(meta), _) => Some(meta.dev()),
            (Err(_), _) => parent
                .and_then(|parent| fs::metadata(root.path(parent)).ok())
                .map(|meta| meta.dev()),
        };
        let disk = match (number, &on) {
            // Numbers without a major one are of file systems that manage their devices themselves, as btrfs; the mount names one.
            (Some(number), Some(on)) if number >> 8 & 0xfff == 0 => {
                match on.source.strip_prefix("/dev/") {
                    Some(name) => Disk::gather(root, &format!("/sys/class/block/{name}"), 0),
                    None => Err(Unseen::Absent),
                }
            }
            (Some(number), _) => Disk::gather(root, &device_folder(number), 0),
            (None, _) => Err(Unseen::Absent),
        };
        let mount = on.filter(|_| !matches!(kind, Ok(Kind::Device { .. })));
        Self { path: path.to_owned(), kind, folder, mount, disk }
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

impl Disk {
    fn gather(root: &Root, folder: &str, depth: usize) -> Seen<Self> {
        let there = root.path(folder);
        let mut there = fs::canonicalize(&there).map_err(|error| refused(&there, &error))?;
        // A partition lies in its disk, and has no queue of its own.
        if there.join("partition").exists() {
            there.pop();
        }
        let text = |file: &str| {
            let path = there.join(file);
            fs::read_to_string(&path)
                .map(|text| text.trim().to_owned())
                .map_err(|error| refused(&path, &error))
        };
        let is_set = |file: &str| text(file).is_ok_and(|text| text == "1");
        let name = there.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let scsi = fs::read_dir(there.join("device/scsi_disk"))
            .ok()
            .and_then(|mut entries| entries.next()?.ok())
            .and_then(|entry| fs::read_to_string(entry.path().join("cache_type")).ok())
            .map(|text| text.trim().to_owned());
        let mut below = Vec::new();
        if depth < DEPTH_MAX
            && let Ok(entries) = fs::read_dir(there.join("slaves"))
        {
            let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
            names.sort();
            for name in names {
                let folder = format!("/sys/class/block/{}", name.to_string_lossy());
                below.extend(Disk::gather(root, &folder, depth + 1));
            }
        }
        Ok(Self {
            write_cache: text("queue/write_cache"),
            fua: is_set("queue/fua"),
            drive_cache: text("cache_type").ok().or(scsi),
            rotational: is_set("queue/rotational"),
            read_only: is_set("ro"),
            block_bytes: text("queue/logical_block_size")
                .ok()
                .and_then(|text| text.parse().ok())
                .unwrap_or(512),
            node: numa_node(&there.join("device")),
            file: text("loop/backing_file").ok(),
            below,
            name,
        })
    }

    /// This one and all below it.
    fn all(&self) -> Vec<&Disk> {
        let mut all = vec![self];
        for disk in &self.below {
            all.extend(disk.all());
        }
        all
    }

    /// The ones at the bottom, which are drives or pretend to be.
    fn drives(&self) -> Vec<&Disk> {
        self.all().into_iter().filter(|disk| disk.below.is_empty()).collect()
    }

    /// The NUMA node of its drives, where there is one.
    pub(crate) fn numa_node(&self) -> Option<(String, u32)> {
        self.drives().into_iter().find_map(|disk| Some((disk.name.clone(), disk.node?)))
    }

    fn is_virtual(&self) -> bool {
        ["vd", "xvd"].iter().any(|prefix| self.name.starts_with(prefix))
    }

    fn is_memory(&self) -> bool {
        ["ram", "zram"].iter().any(|prefix| self.name.starts_with(prefix))
    }
}

/// Every check of this room.
pub(crate) fn checks(
    config: &Config,
    log: &Storage,
    volumes: &[Storage],
    probe: Option<&Result<Probe, String>>,
) -> Vec<Check> {
    vec![
        log_device(config, log),
        write_cache(config, log),
        flush(config, log, probe),
        volume_devices(config, volumes),
    ]
}

fn log_device(config: &Config, log: &Storage) -> Check {
    let name = log.name();
    let word = quoted(&name);
    let to_disk = config.log.durability == Durability::Disk;
    let sizes: Option<Vec<u64>> = config.volumes.iter().map(|volume| volume.size).collect();
    let needed = config.log.size_with(&sizes.unwrap_or_default()).unwrap_or(0);
    let bytes = match &log.kind {
        Ok(Kind::Other) => {
            return LOG.fail(
                format!("{name} is neither a file nor a block device"),
                ["# in the configuration: log.device"],
            );
        }
        Ok(Kind::File { bytes }) => Some(*bytes),
        Ok(Kind::Device { bytes }) => *bytes,
        Err(Unseen::Absent) if log.folder => None,
        Err(Unseen::Absent) => {
            let parent = quoted(log.path.parent().unwrap_or(Path::new("/")).display());
            return LOG.fail(
                format!("{name}: its folder is not there"),
                [format!("install -d -m 0700 {parent}")],
            );
        }
        Err(unseen) => return LOG.unseen(unseen, [format!("ls -l {word}")]),
    };
    if let Some(bytes) = bytes.filter(|bytes| *bytes < needed) {
        return LOG.fail(
            format!("{name} has {bytes} bytes, the configuration needs {needed}"),
            ["# in the configuration: log.size, log.segments, log.segment_size as they were when it was made; or a larger device, blank, with the pair stopped in good order"],
        );
    }
    if let Some(mount) = &log.mount {
        let (kind, point) = (mount.kind.as_str(), &mount.point);
        if to_disk && IN_MEMORY.contains(&kind) {
            return LOG.fail(
                format!("{name} is on {kind}: gone with the power"),
                ["# in the configuration: log.device on a disk, or log.durability = \"memory\", which says so"],
            );
        }
        if mount.options.split(',').any(|option| option == "ro") {
            return LOG.fail(
                format!("{point} is mounted read-only"),
                [
                    format!("mount -o remount,rw {}", quoted(point)),
                    "dmesg | grep -i -e error -e remount".to_owned(),
                ],
            );
        }
        if REMOTE.iter().any(|remote| kind.starts_with(remote)) {
            return LOG.warn(
                format!(
                    "{name} is on {kind}: what a flush means there, its server or layers decide"
                ),
                ["# in the configuration: log.device on a local disk"],
            );
        }
    }
    let disk = match &log.disk {
        Ok(disk) => disk,
        Err(unseen) => return LOG.unseen(unseen, [format!("df {word}"), "lsblk".to_owned()]),
    };
    let made = if bytes.is_some() { "" } else { ", to be made" };
    let shown = format!("{name}{made} on {}", disk_names(disk));
    if let Some(memory) = disk.all().into_iter().find(|disk| disk.is_memory()).filter(|_| to_disk) {
        return LOG.fail(
            format!("{shown}: {} is memory, gone with the power", memory.name),
            ["# in the configuration: log.device on a disk, or log.durability = \"memory\", which says so"],
        );
    }
    if let Some(disk) = disk.all().into_iter().find(|disk| disk.read_only) {
        return LOG.fail(
            format!("{shown}: {} is read-only", disk.name),
            [format!("blockdev --setrw /dev/{}", disk.name)],
        );
    }
    if let Some(disk) = disk.drives().into_iter().find(|disk| disk.rotational && to_disk) {
        // A virtual disk says "rotational" unless its host knows better.
        if !disk.is_virtual() {
            return LOG.warn(
                format!(
                    "{shown}: {} rotates, so each group of writes takes milliseconds",
                    disk.name
                ),
                ["# a log device of flash, best one with protection against power loss"],
            );
        }
    }
    LOG.ok(shown)
}

fn write_cache(config: &Config, log: &Storage) -> Check {
    if config.log.durability == Durability::Memory {
        return CACHE.ok("log.durability = memory: nothing relies on it");
    }
    let disk = match &log.disk {
        Ok(disk) => disk,
        Err(unseen) => return CACHE.unseen(unseen, ["cat /sys/block/*/queue/write_cache"]),
    };
    if let Some(mount) = &log.mount
        && mount.options.split(',').any(|option| ["nobarrier", "barrier=0"].contains(&option))
    {
        return CACHE.fail(
            format!(
                "{} is mounted with nobarrier: no flush goes further than its file system",
                mount.point
            ),
            [format!("mount -o remount,barrier=1 {}   # and in /etc/fstab", quoted(&mount.point))],
        );
    }
    let mut shown = Vec::new();
    for disk in disk.all() {
        let cache = match &disk.write_cache {
            Ok(cache) => cache,
            Err(unseen) => {
                return CACHE
                    .unseen(unseen, [format!("cat /sys/block/{}/queue/write_cache", disk.name)]);
            }
        };
        // Somebody has told the kernel that there is no cache: then it sends no flush.
        if cache == "write through"
            && let Some(drive) = disk.drive_cache.as_deref()
            && drive.starts_with("write back")
        {
            return CACHE.fail(
                format!("{}: the kernel sends no flush (write through), the drive has a volatile cache ({drive})", disk.name),
                [format!("echo \"write back\" > /sys/block/{}/queue/write_cache", disk.name)],
            );
        }
        let fua = if disk.fua { ", FUA" } else { "" };
        shown.push(format!("{} {cache}{fua}", disk.name));
    }
    let volatile = disk.all().iter().any(|disk| disk.write_cache.as_deref() == Ok("write back"));
    let note =
        if volatile { "volatile, flushed by each group of writes" } else { "no flush needed" };
    CACHE.ok(format!("{}: {note}", shown.join(", ")))
}

fn flush(config: &Config, log: &Storage, probe: Option<&Result<Probe, String>>) -> Check {
    if config.log.durability == Durability::Memory {
        return FLUSH.ok("log.durability = memory: nothing relies on it");
    }
    let (disk, took) = match (&log.disk, probe) {
        (Err(unseen), _) => return FLUSH.unseen(unseen, ["lsblk -D"]),
        (Ok(disk), None) => (disk, "not timed (--probe does)".to_owned()),
        (Ok(disk), Some(Ok(probe))) => (
            disk,
            format!(
                "write and flush of 4 KiB{} take {}, at most {}",
                if probe.direct { "" } else { " through the page cache" },
                span(probe.median),
                span(probe.longest)
            ),
        ),
        (Ok(_), Some(Err(error))) => {
            let mend = ["# as the user that runs the node, where its log's folder may be written"];
            return Check { seen: false, ..FLUSH.warn(format!("not timed: {error}"), mend) };
        }
    };
    let drives = disk.drives();
    if let Some(Ok(probe)) = probe
        && let Some(drive) = drives.iter().find(|disk| disk.rotational && !disk.is_virtual())
        && probe.median < ROTATION
    {
        return FLUSH.warn(
            format!("{took}: {} rotates, and can't be so fast without a cache", drive.name),
            [
                format!("apt-get install -y hdparm && hdparm -W 0 /dev/{}   # turns the drive's cache off", drive.name),
                "# or see that the cache is protected (battery, flash): its controller's own tool tells".to_owned(),
            ],
        );
    }
    if let Some(drive) = drives.iter().find(|disk| disk.is_virtual()) {
        return Check {
            seen: false,
            ..FLUSH.warn(
                format!("{took}; {} is a virtual disk: its host decides what a flush does", drive.name),
                [
                    "# on the host: a cache mode that keeps flushes (QEMU: cache=none, writeback or directsync, never unsafe)",
                    "# then cut its power under load, and compare: from inside nobody can prove it",
                ],
            )
        };
    }
    if let Some(drive) = drives.iter().find(|disk| disk.file.is_some()) {
        let file = drive.file.as_deref().unwrap_or_default();
        return FLUSH.warn(
            format!(
                "{took}; {} is a loop device over {file}: as honest as what that lies on",
                drive.name
            ),
            ["# in the configuration: log.device = the file itself, which says more"],
        );
    }
    FLUSH.ok(format!("{took}; that the drive keeps its word can't be proved from inside"))
}

fn volume_devices(config: &Config, volumes: &[Storage]) -> Check {
    let mut wrong = Vec::new();
    let mut mend = Vec::new();
    for (volume, found) in config.volumes.iter().zip(volumes) {
        let name = found.name();
        let word = quoted(&name);
        match &found.kind {
            Ok(Kind::Other) => {
                wrong.push(format!("{name} is neither a file nor a block device"));
                mend.push("# in the configuration: volume.device".to_owned());
            }
            Ok(Kind::File { bytes } | Kind::Device { bytes: Some(bytes) }) => {
                if let Some(size) = volume.size.filter(|size| size > bytes) {
                    wrong.push(format!(
                        "{name} has {bytes} bytes, volume.size is {}",
                        format_size(size)
                    ));
                    mend.push(format!("truncate -s {size} {word}   # if it is a file, and this its size at the peer"));
                }
            }
            Ok(Kind::Device { bytes: None }) => {}
            Err(Unseen::Absent) if !found.folder => {
                wrong.push(format!("{name}: its folder is not there"));
                let parent = quoted(found.path.parent().unwrap_or(Path::new("/")).display());
                mend.push(format!("install -d -m 0700 {parent}"));
            }
            Err(Unseen::Absent) if volume.size.is_none() => {
                wrong.push(format!(
                    "{name} is not there, and no volume.size says how large it is to be"
                ));
                mend.push(
                    "# in the configuration: volume.size, or the right volume.device".to_owned(),
                );
            }
            Err(Unseen::Absent) => {}
            Err(unseen) => return VOLUMES.unseen(unseen, [format!("ls -l {word}")]),
        }
        if let Ok(disk) = &found.disk
            && disk.block_bytes > volume.lba
        {
            wrong.push(format!(
                "{name}: blocks of {} bytes, volume.lba = {}",
                disk.block_bytes, volume.lba
            ));
            mend.push(
                "# in the configuration of both nodes, before there is data: volume.lba = 4096"
                    .to_owned(),
            );
        }
    }
    if wrong.is_empty() {
        return VOLUMES.ok(format!("{} there, or to be made", volumes.len()));
    }
    VOLUMES.fail(wrong.join("; "), mend)
}

fn disk_names(disk: &Disk) -> String {
    let mut name = disk.name.clone();
    if !disk.below.is_empty() {
        let below: Vec<String> = disk.below.iter().map(disk_names).collect();
        name = format!("{name} ({})", below.join(", "));
    }
    name
}

fn device_folder(number: u64) -> String {
    // As glibc's gnu_dev_major and gnu_dev_minor have it.
    let major = number >> 8 & 0xfff | number >> 32 & !0xfff;
    let minor = number & 0xff | number >> 12 & !0xff;
    format!("/sys/dev/block/{major}:{minor}")
}

/// The mount that a path is below: the longest, of equal ones the last.
fn mount_of(mounts: &str, path: &Path) -> Option<Mount> {
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let mut word = || words.next().map(|word| word.replace("\\040", " "));
        Some(Mount { source: word()?, point: word()?, kind: word()?, options: word()? })
    };
    mounts
        .lines()
        .filter_map(parse)
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.len())
}

fn span(span: Duration) -> String {
    match span.as_micros() {
        micros @ 0..10_000 => format!("{micros} µs"),
        micros => format!("{} ms", micros / 1000),
    }
}

/// Layers of devices that are looked through.
const DEPTH_MAX: usize = 8;
/// File systems that a power cut empties.
const IN_MEMORY: &[&str] = &["tmpfs", "ramfs", "devtmpfs"];
/// File systems that are somebody else's.
const REMOTE: &[&str] = &["nfs", "cifs", "fuse", "9p", "ceph", "overlay", "virtiofs"];
/// Half a turn at 15,000 a minute, which is what a write waits for on average.
const ROTATION: Duration = Duration::from_millis(2);

const LOG: Topic = Topic {
    name: "log-device",
    why: "An acknowledged write is in the volumes only after the next consistency point; until then the log device is what survives a power cut.",
};
const CACHE: Topic = Topic {
    name: "write-cache",
    why: "What lies in a drive's volatile cache is gone with the power, unless the kernel knows of the cache and flushes it.",
};
const FLUSH: Topic = Topic {
    name: "flush",
    why: "ibid acknowledges a write when the flush has come back; a drive that answers before it has written makes that a lie.",
};
const VOLUMES: Topic = Topic {
    name: "volumes",
    why: "A node whose volumes can't be opened as configured does not start.",
};

#[cfg(test)]
#[path = "storage_tests.rs"]
mod tests;
