//! hugepages/reserve.sh on made-up trees of sysfs: which pool it sets, and what it refuses.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// A machine with two NUMA nodes, and a NIC on the second.
fn tree() -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    let put = |path: String, text: &str| {
        let path = tree.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let mut folders = vec!["kernel/mm/hugepages".to_owned()];
    folders.extend([0, 1].map(|node| format!("devices/system/node/node{node}/hugepages")));
    for folder in folders {
        for size in ["2048kB", "1048576kB"] {
            put(format!("{folder}/hugepages-{size}/nr_hugepages"), "0\n");
            put(format!("{folder}/hugepages-{size}/free_hugepages"), "0\n");
        }
    }
    put("devices/pci0/0000:3b:00.0/numa_node".to_owned(), "1\n");
    put("devices/pci0/0000:3b:00.0/virtio2/x".to_owned(), "");
    put("class/net/veth0/mtu".to_owned(), "1500\n");
    let link = |name: &str, target: &str| {
        fs::create_dir_all(tree.path().join("class/net").join(name)).unwrap();
        let at = tree.path().join("class/net").join(name).join("device");
        std::os::unix::fs::symlink(target, at).unwrap();
    };
    link("eth1", "../../../devices/pci0/0000:3b:00.0");
    link("eth2", "../../../devices/pci0/0000:3b:00.0/virtio2");
    tree
}

fn reserve(tree: &Path, arguments: &str) -> Output {
    Command::new("sh")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/hugepages/reserve.sh"))
        .args(arguments.split_whitespace())
        .env("IBID_SYSFS", tree)
        .output()
        .unwrap()
}

fn pool(tree: &Path, folder: &str) -> String {
    fs::read_to_string(tree.join(folder).join("nr_hugepages")).unwrap().trim().to_owned()
}

#[test]
fn pages_are_reserved_where_they_are_asked_for() {
    for (arguments, folder) in [
        ("7", "kernel/mm/hugepages/hugepages-2048kB"),
        ("--size 1G 7", "kernel/mm/hugepages/hugepages-1048576kB"),
        ("--node 0 7", "devices/system/node/node0/hugepages/hugepages-2048kB"),
        ("--near eth1 7", "devices/system/node/node1/hugepages/hugepages-2048kB"),
        ("--near eth2 --size 1G 7", "devices/system/node/node1/hugepages/hugepages-1048576kB"),
    ] {
        let tree = tree();
        let output = reserve(tree.path(), arguments);
        assert!(output.status.success(), "{arguments}: {output:?}");
        assert_eq!(pool(tree.path(), folder), "7", "{arguments}");
        let released = reserve(tree.path(), &format!("--release {arguments}"));
        assert!(released.status.success(), "{arguments}: {released:?}");
        assert_eq!(pool(tree.path(), folder), "0", "{arguments}");
    }
}

#[test]
fn what_can_not_be_is_refused_with_a_reason() {
    for (arguments, code, told) in [
        ("", 2, "usage: reserve.sh"),
        ("many", 2, "usage: reserve.sh"),
        ("--node 0 --near eth1 7", 2, "usage: reserve.sh"),
        ("--size 4M 7", 1, "page size 4M: 2M or 1G"),
        ("--node 5 7", 1, "no pages of 2M"),
        ("--near veth0 7", 1, "veth0 is no device of a bus"),
        ("--near eth9 7", 1, "there is no interface eth9"),
    ] {
        let output = reserve(tree().path(), arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments}: {said}");
        assert!(said.contains(told), "{arguments}: {said}");
    }
}
