//! The demonstration's link: a veth pair, or a memif socket. Both ends are in this network namespace, where hosts reach both nodes.
//! What is made is named after this process, so that what a killed demonstration left behind is found and removed by the next.

use crate::args::DemoLink;
use anyhow::{Context as _, bail};
use std::path::Path;
use std::process::Command;

const MTU: &str = "9000";
/// What names of the interfaces begin and end with; a process's number stands between.
const PREFIX: &str = "ib";
const NEAR: &str = "a";
const FAR: &str = "b";
/// Interface numbers, far above those that the kernel gives, and which bit tells the far end from the near one (16 count in a fanout group's).
const INDEX_BASE: u32 = 1 << 20;
const FAR_INDEX_BIT: u32 = 1 << 15;

/// The device that was asked for, or the best this user can have.
pub(crate) fn choose(asked: Option<DemoLink>) -> DemoLink {
    asked.unwrap_or(if is_root() { DemoLink::AfPacket } else { DemoLink::Memif })
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// A veth pair. Removed on drop.
pub(crate) struct Veth {
    pub(crate) near: String,
    pub(crate) far: String,
}

impl Veth {
    pub(crate) fn new() -> anyhow::Result<Veth> {
        sweep();
        let pid = std::process::id();
        let veth =
            Veth { near: format!("{PREFIX}{pid}{NEAR}"), far: format!("{PREFIX}{pid}{FAR}") };
        // DPDK makes a packet fanout group of each end, whose number is that of the process and that of the interface, exclusive or; two
        // in one namespace must not be the same. Processes that start one behind the other differ in low bits, these in a high one.
        let near_index = INDEX_BASE | pid & (FAR_INDEX_BIT - 1);
        let [near_index, far_index] =
            [near_index, near_index | FAR_INDEX_BIT].map(|index| index.to_string());
        let ends = ["link", "add", &veth.near, "index", &near_index, "type", "veth"];
        let peer = ["peer", "name", &veth.far, "index", &far_index];
        ip(&[ends.as_slice(), &peer].concat())
            .context("a veth pair (needs root; or use --link memif)")?;
        for name in [&veth.near, &veth.far] {
            // No address of the kernel's on the link: it would talk into it. And what the nodes say to each other is theirs: a machine
            // that forwards packets must not forward these.
            do_not_forward(name)?;
            ip(&["link", "set", name, "addrgenmode", "none"])?;
            ip(&["link", "set", name, "mtu", MTU, "up"])?;
        }
        Ok(veth)
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        // The far end goes with the near one.
        if let Err(error) = ip(&["link", "del", &self.near]) {
            eprintln!("ibid demo: {error:#}");
        }
    }
}

fn do_not_forward(interface: &str) -> anyhow::Result<()> {
    let switch = format!("/proc/sys/net/ipv4/conf/{interface}/forwarding");
    let forwards = std::fs::read_to_string(&switch).with_context(|| switch.clone())?;
    if forwards.trim() == "0" { Ok(()) } else { std::fs::write(&switch, "0").context(switch) }
}

/// The process that an interface is named after, if it is the near end of a demonstration's link.
fn maker_of(interface: &str) -> Option<u32> {
    interface.strip_prefix(PREFIX)?.strip_suffix(NEAR)?.parse().ok()
}

/// Removes the links of demonstrations that were killed.
fn sweep() {
    let Ok(interfaces) = std::fs::read_dir("/sys/class/net") else {
        return;
    };
    for interface in interfaces.flatten() {
        let name = interface.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_dead = |pid: u32| !Path::new(&format!("/proc/{pid}")).exists();
        if maker_of(name).is_some_and(is_dead)
            && let Err(error) = ip(&["link", "del", name])
        {
            eprintln!("ibid demo: {error:#}");
        }
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("the command `ip` (package iproute2)")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_near_end_of_a_demonstrations_link_is_taken_for_one() {
        assert_eq!(maker_of("ib4711a"), Some(4711));
        for other in ["ib4711b", "ib4711", "iba", "ib0", "ibp1s0a", "eth0", "it4711a"] {
            assert_eq!(maker_of(other), None, "{other}");
        }
    }
}
