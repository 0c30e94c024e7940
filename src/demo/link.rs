//! The demonstration's link: a veth pair with its far end in a network namespace of its own, or a memif socket.
//! What is made is named after this process, so that what a killed demonstration left behind is found and removed by the next.

use super::{PREFIX, is_left_over};
use crate::args::DemoLink;
use anyhow::{Context as _, bail};
use std::process::Command;

const MTU: &str = "9000";

/// The device that was asked for, or the best this user can have.
pub(crate) fn choose(asked: Option<DemoLink>) -> DemoLink {
    asked.unwrap_or(if is_root() { DemoLink::AfPacket } else { DemoLink::Memif })
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// A veth pair: `near` in this namespace, `far` in namespace `space`. Removed on drop.
pub(crate) struct Veth {
    pub(crate) space: String,
    pub(crate) near: String,
    pub(crate) far: String,
}

impl Veth {
    pub(crate) fn new() -> anyhow::Result<Veth> {
        sweep();
        let pid = std::process::id();
        let veth = Veth {
            space: format!("{PREFIX}{pid}"),
            near: format!("ib{pid}a"),
            far: format!("ib{pid}b"),
        };
        ip(&["netns", "add", &veth.space])
            .context("a network namespace (needs root; or use --link memif)")?;
        ip(&[
            "link",
            "add",
            &veth.near,
            "type",
            "veth",
            "peer",
            "name",
            &veth.far,
            "netns",
            &veth.space,
        ])?;
        for (space, name) in [(None, &veth.near), (Some(&veth.space), &veth.far)] {
            let inside: Vec<&str> = space.map_or_else(Vec::new, |space| vec!["-n", space]);
            // No address of the kernel's on the link: it would talk into it.
            let with = |rest: &[&str]| ip(&[inside.as_slice(), rest].concat());
            with(&["link", "set", name, "addrgenmode", "none"])?;
            with(&["link", "set", name, "mtu", MTU, "up"])?;
        }
        Ok(veth)
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        // Deleting the namespace takes the far end along, and that the near one.
        for arguments in [["link", "del", &self.near], ["netns", "del", &self.space]] {
            if let Err(error) = ip(&arguments) {
                eprintln!("ibid demo: {error:#}");
            }
        }
    }
}

/// Removes the namespaces of demonstrations that were killed.
fn sweep() {
    let Ok(spaces) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for space in spaces.flatten() {
        let name = space.file_name();
        let Some(name) = name.to_str() else { continue };
        if is_left_over(name)
            && let Err(error) = ip(&["netns", "del", name])
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
