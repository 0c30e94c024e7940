//! Disks of every kind in made-up trees, and the verdicts over them.

use super::super::check::Verdict::{Fail, Ok as Good, Warn};
use super::super::node::tests::config;
use super::super::root::tests::Tree;
use super::*;

/// A disk in sysfs, with its number and its link in /sys/class/block.
fn put_disk(tree: &Tree, name: &str, files: &[(&str, &str)]) {
    let folder = format!("sys/devices/x/block/{name}");
    for (file, text) in [
        ("queue/write_cache", "write back\n"),
        ("queue/fua", "1\n"),
        ("queue/rotational", "0\n"),
        ("ro", "0\n"),
    ] {
        tree.put(&format!("{folder}/{file}"), text);
    }
    for (file, text) in files {
        tree.put(&format!("{folder}/{file}"), text);
    }
    tree.link(&format!("sys/class/block/{name}"), &format!("../../devices/x/block/{name}"));
}

/// A log file of the right size that the tree's mounts put on `source`, a name in /sys/class/block.
fn log_on(tree: &Tree, name: &str) -> Storage {
    let root = tree.root();
    let mut config = config();
    config.log.device = "/data/a.log".into();
    tree.put("data/a.log", "");
    let needed = config.log.size_with(&[1 << 30]).unwrap();
    fs::File::options()
        .write(true)
        .open(root.path("/data/a.log"))
        .unwrap()
        .set_len(needed)
        .unwrap();
    let mut log = Storage::gather(&root, &config.log.device);
    log.disk = Disk::gather(&root, &format!("/sys/class/block/{name}"), 0);
    log
}

fn said(check: &Check) -> String {
    format!("{:?} {}; {}", check.verdict, check.found, check.mend.join("; "))
}

#[test]
fn a_flash_drive_with_a_volatile_cache_is_good_and_nothing_is_proved() {
    let tree = Tree::new(&[]);
    put_disk(&tree, "nvme0n1", &[("device/numa_node", "1\n")]);
    let log = log_on(&tree, "nvme0n1");
    let config = config();
    assert_eq!(log_device(&config, &log).verdict, Good);
    let cache = write_cache(&config, &log);
    assert_eq!(
        (cache.verdict, cache.found.as_str()),
        (Good, "nvme0n1 write back, FUA: volatile, flushed by each group of writes")
    );
    let flushed = flush(&config, &log, None);
    assert_eq!(flushed.verdict, Good);
    assert!(flushed.found.contains("can't be proved from inside"), "{}", said(&flushed));
    assert_eq!(log.disk.unwrap().numa_node(), Some(("nvme0n1".into(), 1)));
}

#[test]
fn a_partition_is_its_disk_and_layers_are_looked_through() {
    let tree = Tree::new(&[]);
    put_disk(&tree, "sda", &[("sda1/partition", "1\n"), ("queue/write_cache", "write through\n")]);
    tree.link("sys/class/block/sda1", "../../devices/x/block/sda/sda1");
    put_disk(&tree, "sdb", &[("queue/rotational", "1\n")]);
    put_disk(&tree, "md0", &[]);
    put_disk(&tree, "dm-0", &[]);
    tree.link("sys/devices/x/block/md0/slaves/sda1", "../../sda/sda1");
    tree.link("sys/devices/x/block/md0/slaves/sdb", "../../sdb");
    tree.link("sys/devices/x/block/dm-0/slaves/md0", "../../md0");
    let log = log_on(&tree, "dm-0");
    let check = log_device(&config(), &log);
    assert_eq!(check.verdict, Warn);
    assert!(check.found.contains("on dm-0 (md0 (sda, sdb)): sdb rotates"), "{}", said(&check));
    let cache = write_cache(&config(), &log);
    assert!(cache.found.contains("sda write through"), "{}", said(&cache));
}

#[test]
fn a_kernel_that_was_told_of_no_cache_where_there_is_one_is_found() {
    let tree = Tree::new(&[]);
    put_disk(
        &tree,
        "sda",
        &[
            ("queue/write_cache", "write through\n"),
            ("device/scsi_disk/0:0:0:0/cache_type", "write back\n"),
        ],
    );
    let check = write_cache(&config(), &log_on(&tree, "sda"));
    assert_eq!(check.verdict, Fail);
    assert!(check.mend[0].contains("echo \"write back\" > /sys/block/sda"), "{}", said(&check));
    tree.put("sys/devices/x/block/sda/device/scsi_disk/0:0:0:0/cache_type", "write through\n");
    let check = write_cache(&config(), &log_on(&tree, "sda"));
    assert!(check.verdict == Good && check.found.contains("no flush needed"), "{}", said(&check));
    // What isn't shown is no success.
    fs::remove_file(tree.root().path("/sys/devices/x/block/sda/queue/write_cache")).unwrap();
    assert!(!write_cache(&config(), &log_on(&tree, "sda")).seen);
}

#[test]
fn what_a_power_cut_empties_is_no_log_device() {
    let tree = Tree::new(&[]);
    put_disk(&tree, "zram0", &[]);
    let mut config = config();
    let check = log_device(&config, &log_on(&tree, "zram0"));
    assert!(check.verdict == Fail && check.found.contains("is memory"), "{}", said(&check));
    put_disk(&tree, "sda", &[]);
    for (kind, options, expected, told) in [
        ("ext4", "rw,relatime", Good, "on sda"),
        ("tmpfs", "rw", Fail, "gone with the power"),
        ("ext4", "ro", Fail, "mount -o remount,rw /data"),
        ("nfs4", "rw", Warn, "its server or layers decide"),
        ("overlay", "rw", Warn, "its server or layers decide"),
    ] {
        tree.put(
            "proc/self/mounts",
            &format!("/dev/sdz / ext4 rw 0 0\n/dev/sda /data {kind} {options} 0 0\n"),
        );
        let check = log_device(&config, &log_on(&tree, "sda"));
        assert_eq!(check.verdict, expected, "{kind}: {}", said(&check));
        assert!(said(&check).contains(told), "{kind}: {}", said(&check));
    }
    tree.put("proc/self/mounts", "/dev/sda /data ext4 rw,nobarrier 0 0\n");
    assert_eq!(write_cache(&config, &log_on(&tree, "sda")).verdict, Fail);
    // With the log in memory, that is said elsewhere and relied on by nobody.
    config.log.durability = Durability::Memory;
    tree.put("proc/self/mounts", "none /data tmpfs rw 0 0\n");
    let log = log_on(&tree, "sda");
    for check in [log_device(&config, &log), write_cache(&config, &log), flush(&config, &log, None)]
    {
        assert_eq!(check.verdict, Good, "{}", said(&check));
    }
}

#[test]
fn a_log_that_can_not_be_opened_is_told_before_the_start() {
    let tree = Tree::new(&[("data/short.log", "short"), ("data/folder/x", "")]);
    put_disk(&tree, "sda", &[("ro", "1\n")]);
    let mut config = config();
    let mut of = |path: &str| {
        config.log.device = path.into();
        log_device(&config, &Storage::gather(&tree.root(), &config.log.device))
    };
    let check = of("/data/short.log");
    assert!(check.verdict == Fail && check.found.contains("has 5 bytes"), "{}", said(&check));
    assert_eq!(of("/data/folder").verdict, Fail);
    let check = of("/none/a.log");
    assert!(
        check.verdict == Fail && check.mend[0] == "install -d -m 0700 /none",
        "{}",
        said(&check)
    );
    let check = log_device(&config, &log_on(&tree, "sda"));
    assert!(check.verdict == Fail && check.found.contains("sda is read-only"), "{}", said(&check));
}

#[test]
fn a_file_that_is_to_be_made_lies_on_its_folders_device() {
    let tree = Tree::new(&[("data/x", "")]);
    let root = tree.root();
    let number = fs::metadata(root.path("/data")).unwrap().dev();
    put_disk(&tree, "sdc", &[]);
    tree.link(&device_folder(number)[1..], "../../devices/x/block/sdc");
    let storage = Storage::gather(&root, Path::new("/data/new.log"));
    assert_eq!(storage.kind, Err(Unseen::Absent));
    assert_eq!(storage.disk.as_ref().map(|disk| disk.name.as_str()), Ok("sdc"));
    let check = log_device(&config(), &storage);
    assert!(check.verdict == Good && check.found.contains("to be made"), "{}", said(&check));
}

#[test]
fn flushes_that_are_too_fast_or_somebody_elses_are_doubted() {
    let tree = Tree::new(&[]);
    put_disk(&tree, "sda", &[("queue/rotational", "1\n")]);
    put_disk(&tree, "vda", &[("queue/rotational", "1\n")]);
    put_disk(&tree, "loop0", &[("loop/backing_file", "/srv/x.img\n")]);
    let probe = |micros| {
        Some(Ok(Probe {
            direct: true,
            median: Duration::from_micros(micros),
            longest: Duration::from_millis(30),
        }))
    };
    for (disk, probe, expected, told) in [
        ("sda", None, Good, "not timed (--probe does)"),
        ("sda", probe(90), Warn, "take 90 µs, at most 30 ms: sda rotates, and can't be so fast"),
        ("sda", probe(8_000), Good, "take 8000 µs"),
        ("vda", probe(90), Warn, "its host decides"),
        ("loop0", None, Warn, "over /srv/x.img"),
        ("sda", Some(Err("no space".to_owned())), Warn, "not timed: no space"),
    ] {
        let check = flush(&config(), &log_on(&tree, disk), probe.as_ref());
        assert_eq!(check.verdict, expected, "{disk}: {}", said(&check));
        assert!(check.found.contains(told), "{disk}: {}", said(&check));
    }
    // A virtual disk's "rotational" says nothing.
    assert_eq!(log_device(&config(), &log_on(&tree, "vda")).verdict, Good);
}

#[test]
fn volumes_are_there_or_can_be_made() {
    let tree = Tree::new(&[("data/small.img", "small")]);
    let mut config = config();
    for (path, size, expected, told) in [
        ("/data/new.img", Some(1 << 30), Good, "1 there, or to be made"),
        ("/data/new.img", None, Fail, "no volume.size"),
        ("/none/new.img", Some(1 << 30), Fail, "install -d"),
        ("/data/small.img", Some(1 << 30), Fail, "has 5 bytes"),
        ("/data/small.img", None, Good, "1 there"),
        ("/data", None, Fail, "neither a file nor a block device"),
    ] {
        (config.volumes[0].device, config.volumes[0].size) = (path.into(), size);
        let found = Storage::gather(&tree.root(), Path::new(path));
        let check = volume_devices(&config, &[found]);
        assert_eq!(check.verdict, expected, "{path}: {}", said(&check));
        assert!(said(&check).contains(told), "{path}: {}", said(&check));
    }
    put_disk(&tree, "sda", &[("queue/logical_block_size", "4096\n")]);
    (config.volumes[0].lba, config.volumes[0].size) = (512, None);
    assert_eq!(volume_devices(&config, &[log_on(&tree, "sda")]).verdict, Fail);
}

#[test]
fn device_numbers_and_mounts_are_read_as_the_kernel_writes_them() {
    assert_eq!(device_folder(65024), "/sys/dev/block/254:0");
    assert_eq!(device_folder(0x0010_3107), "/sys/dev/block/49:263");
    let mounts = "/dev/a / ext4 rw 0 0\n/dev/b /srv\\040x xfs ro 0 0\nnone /srv tmpfs rw 0 0\n";
    let of = |path: &str| mount_of(mounts, Path::new(path)).map(|mount| mount.source);
    assert_eq!(of("/srv x/y"), Some("/dev/b".into()));
    assert_eq!(of("/srv/y"), Some("none".into()));
    assert_eq!(of("/home"), Some("/dev/a".into()));
}
