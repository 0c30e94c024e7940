//! What the process may do: its limits and capabilities. The running node's own where there is one, else this process' as what a node that
//! is started from here would have.

use ibid_control::config::{Config, LinkDevice, format_size};

use super::check::{Check, Topic};
use super::node::Needs;
use super::root::{Root, Seen, Unseen};

/// A process, by what /proc says of it.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    /// The running node; `None`: this one.
    pub(crate) node: Option<u32>,
    pub(crate) user: Seen<u32>,
    /// Effective capabilities, a bit each.
    pub(crate) capabilities: Seen<u64>,
    /// Soft limits; `u64::MAX`: none.
    pub(crate) locked: Seen<u64>,
    pub(crate) files: Seen<u64>,
}

impl Process {
    pub(crate) fn gather(root: &Root, node: Option<u32>) -> Self {
        let folder = node.map_or("/proc/self".to_owned(), |pid| format!("/proc/{pid}"));
        let status = root.text(format!("{folder}/status"));
        let limits = root.text(format!("{folder}/limits"));
        let field = |name: &str, radix: u32| {
            let status = status.as_ref().map_err(Clone::clone)?;
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let word = line.and_then(|line| line.split_whitespace().next());
            word.and_then(|word| u64::from_str_radix(word, radix).ok()).ok_or(Unseen::Absent)
        };
        let limit = |name: &str| {
            let limits = limits.as_ref().map_err(Clone::clone)?;
            let line = limits.lines().find_map(|line| line.strip_prefix(name));
            let word = line.and_then(|line| line.split_whitespace().next());
            match word {
                Some("unlimited") => Ok(u64::MAX),
                Some(word) => word.parse().map_err(|_| Unseen::Absent),
                None => Err(Unseen::Absent),
            }
        };
        Self {
            node,
            user: field("Uid:", 10)
                .and_then(|user| u32::try_from(user).map_err(|_| Unseen::Absent)),
            capabilities: field("CapEff:", 16),
            locked: limit("Max locked memory"),
            files: limit("Max open files"),
        }
    }

    /// Whether it has one of these capabilities.
    pub(crate) fn may(&self, capability: u32) -> bool {
        self.capabilities.as_ref().is_ok_and(|bits| bits >> capability & 1 == 1)
    }

    pub(crate) fn is_root(&self) -> bool {
        self.user == Ok(0)
    }

    /// Every check of this room.
    pub(crate) fn checks(&self, node: Option<(&Config, &Needs)>) -> Vec<Check> {
        let mut checks = vec![self.limits(node)];
        checks.extend(node.map(|(config, _)| self.privileges(config)));
        checks
    }

    /// Whose limits and privileges these are.
    pub(crate) fn whose(&self) -> String {
        self.node.map_or("this shell".to_owned(), |pid| format!("the running node ({pid})"))
    }

    fn limits(&self, node: Option<(&Config, &Needs)>) -> Check {
        let (locked, files) = match (&self.locked, &self.files) {
            (Ok(locked), Ok(files)) => (*locked, *files),
            (Err(unseen), _) | (_, Err(unseen)) => return LIMITS.unseen(unseen, ["ulimit -a"]),
        };
        let volumes = node.map_or(0, |(config, _)| config.volumes.len() as u64);
        let files_min = FILES_MIN + volumes;
        let locked_min = node.map_or(LOCKED_MIN, |(_, needs)| needs.arena_bytes);
        let mut found = Vec::new();
        if files < files_min {
            found.push(format!("{files} open files, {files_min} are needed"));
        }
        if locked < locked_min && !self.may(CAP_IPC_LOCK) {
            found.push(format!(
                "{} of locked memory, {} are needed",
                format_size(locked),
                format_size(locked_min.next_multiple_of(1 << 20))
            ));
        }
        if found.is_empty() {
            let locked = if locked == u64::MAX || self.may(CAP_IPC_LOCK) {
                "any".to_owned()
            } else {
                format_size(locked)
            };
            return LIMITS.ok(format!("{locked} locked memory, {files} open files"));
        }
        LIMITS.warn(
            format!("{}: {}", self.whose(), found.join("; ")),
            [
                "# in the node's systemd unit: LimitMEMLOCK=infinity and LimitNOFILE=65536; without one, for a shell as root and what it starts:",
                "prlimit --pid $$ --memlock=unlimited --nofile=65536",
            ],
        )
    }

    fn privileges(&self, config: &Config) -> Check {
        if let Err(unseen) = &self.capabilities {
            return PRIVILEGES.unseen(unseen, ["grep Cap /proc/self/status"]);
        }
        let needs: &[(u32, &str)] = match config.link.device {
            LinkDevice::AfPacket { .. } => {
                &[(CAP_NET_RAW, "CAP_NET_RAW"), (CAP_NET_ADMIN, "CAP_NET_ADMIN")]
            }
            LinkDevice::Memif { .. } => &[],
            LinkDevice::Vdev(_) | LinkDevice::Pci(_) if self.is_root() => &[],
            LinkDevice::Vdev(_) | LinkDevice::Pci(_) => {
                let word = config.link.device.word();
                let found = format!(
                    "{} is not root's; link.device = {word} was tried as root only",
                    self.whose()
                );
                return PRIVILEGES.warn(found, ["# start the node as root, or see what the device needs: dpdk-config/README.md"]);
            }
        };
        let missing: Vec<&str> =
            needs.iter().filter(|(bit, _)| !self.may(*bit)).map(|(_, name)| *name).collect();
        let whose = self.whose();
        if !missing.is_empty() {
            let missing = missing.join(" and ");
            return PRIVILEGES.fail(
                format!("{whose} has not {missing}, which link.device = {} needs", config.link.device.word()),
                [
                    "setcap cap_net_raw,cap_net_admin,cap_ipc_lock+ep $(command -v ibid)   # for whoever may execute it; apt-get install -y libcap2-bin",
                    "# or in its systemd unit: AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN CAP_IPC_LOCK",
                ],
            );
        }
        if self.is_root() {
            return PRIVILEGES.ok(format!("{whose} is root's"));
        }
        PRIVILEGES.ok(format!("{whose} has what link.device = {} needs", config.link.device.word()))
    }
}

/// Numbers of capabilities, as linux/capability.h has them.
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_IPC_LOCK: u32 = 14;
pub(crate) const CAP_SYS_ADMIN: u32 = 21;
/// Connections that there may be, newcomers beside them, and what else a node has open.
const FILES_MIN: u64 = crate::node::CONNECTIONS_MAX as u64 + ibid_driver::ACCEPTS_MAX as u64 + 64;
/// A small log.
const LOCKED_MIN: u64 = 256 << 20;

const LIMITS: Topic = Topic {
    name: "limits",
    why: "Memory that can't be locked may be swapped out under a write and is looked up for each transfer; without files, hosts are refused.",
};
const PRIVILEGES: Topic = Topic {
    name: "privileges",
    why: "A packet socket opens only with these capabilities; more than them a node does not need.",
};

#[cfg(test)]
mod tests {
    use super::super::check::Verdict::{Fail, Ok as Good, Warn};
    use super::super::node::tests::config;
    use super::super::root::tests::Tree;
    use super::*;

    const NEEDS: Needs = Needs {
        huge: true,
        nic: false,
        page_bytes: 2 << 20,
        arena_bytes: 300 << 20,
        eal_bytes: 64 << 20,
    };

    fn process(user: u32, capabilities: u64, locked: &str, files: u32) -> Process {
        let tree = Tree::new(&[
            (
                "proc/7/status",
                &format!("Name:\tibid\nUid:\t{user}\t0\t0\t0\nCapEff:\t{capabilities:016x}\n"),
            ),
            (
                "proc/7/limits",
                &format!(
                    "Limit      Soft Limit\nMax open files   {files}  9 files\nMax locked memory   {locked}  9 bytes\n"
                ),
            ),
        ]);
        Process::gather(&tree.root(), Some(7))
    }

    #[test]
    fn limits_are_compared_with_what_the_node_takes() {
        let config = config();
        let lock = 1 << CAP_IPC_LOCK;
        for (process, expected, told) in [
            (process(0, lock, "8388608", 20_000), Good, "any locked memory"),
            (process(1000, 0, "unlimited", 1024), Good, "1024 open files"),
            (process(1000, 0, "8388608", 1024), Warn, "8MiB of locked memory, 300MiB are needed"),
            (process(1000, 0, "unlimited", 64), Warn, "64 open files"),
            (process(1000, 0, "?", 64), Warn, "could not be seen"),
        ] {
            let check = process.limits(Some((&config, &NEEDS)));
            assert_eq!(check.verdict, expected, "{check:?}");
            assert!(check.found.contains(told), "{check:?}");
        }
    }

    #[test]
    fn a_packet_socket_needs_its_capabilities_and_shared_memory_none() {
        let on_memif = config();
        let mut on_interface = config();
        on_interface.link.device = LinkDevice::AfPacket { interface: "eth1".into() };
        let plain = process(1000, 0, "unlimited", 1024);
        assert_eq!(plain.privileges(&on_memif).verdict, Good);
        let refused = plain.privileges(&on_interface);
        assert_eq!(refused.verdict, Fail);
        assert!(refused.found.contains("CAP_NET_RAW and CAP_NET_ADMIN"), "{refused:?}");
        let able = process(1000, 1 << CAP_NET_RAW | 1 << CAP_NET_ADMIN, "unlimited", 1024);
        assert_eq!(able.privileges(&on_interface).verdict, Good);
        let mut on_card = config();
        on_card.link.device = LinkDevice::Pci("0000:3b:00.0".into());
        assert_eq!(able.privileges(&on_card).verdict, Warn, "nobody has tried that");
        assert_eq!(process(0, 0, "unlimited", 1024).privileges(&on_card).verdict, Good);
        let unseen = Process::gather(&Tree::new(&[]).root(), None);
        assert!(!unseen.privileges(&on_interface).seen && !unseen.is_root());
    }
}
