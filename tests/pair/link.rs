//! The two links the tests run on: memif, and af_packet on a veth pair whose far end has a network namespace of its own.

use crate::common::is_root;
use std::process::Command;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    Memif,
    AfPacket,
}

impl Link {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Link::Memif => "memif",
            Link::AfPacket => "af_packet",
        }
    }
}

/// The links that can be had here. Says so where one can't.
pub(crate) fn links() -> Vec<Link> {
    if is_root() {
        return vec![Link::Memif, Link::AfPacket];
    }
    println!("SKIPPED: af_packet needs root");
    vec![Link::Memif]
}

/// A veth pair, removed at the end. `near` is here, `far` in the namespace `space`.
pub(crate) struct Veth {
    pub(crate) space: String,
    pub(crate) near: String,
    pub(crate) far: String,
}

impl Veth {
    pub(crate) fn new() -> Veth {
        let pid = std::process::id();
        let veth = Veth {
            space: format!("ibid-test-{pid}"),
            near: format!("it{pid}a"),
            far: format!("it{pid}b"),
        };
        let Veth { space, near, far } = &veth;
        ip(&format!("netns add {space}"));
        ip(&format!("link add {near} type veth peer name {far} netns {space}"));
        for place in [format!("link set {near}"), format!("-n {space} link set {far}")] {
            ip(&format!("{place} addrgenmode none"));
            ip(&format!("{place} mtu 9000 up"));
        }
        veth
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        // The far end goes with its namespace, and the near one with it.
        ip(&format!("link del {}", self.near));
        ip(&format!("netns del {}", self.space));
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The processes that the links of demonstrations are named after.
pub(crate) fn demo_links() -> Vec<u32> {
    let Ok(interfaces) = std::fs::read_dir("/sys/class/net") else {
        return Vec::new();
    };
    let names = interfaces.flatten().filter_map(|one| one.file_name().into_string().ok());
    names.filter_map(|name| name.strip_prefix("ib")?.strip_suffix('a')?.parse().ok()).collect()
}
