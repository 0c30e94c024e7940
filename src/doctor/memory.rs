//! Memory: huge pages and where they are mounted, what is available besides, on which NUMA node things lie, what a process may lock and open.
//! Facts out of /proc and /sys; verdicts from those and from what a node needs (`crate::sizing`).

use std::collections::{BTreeMap, BTreeSet};

use ibid_control::config::format_size;

use super::check::{Check, Topic, at_boot, quoted};
use super::node::{Needs, PAGE_BYTES};
use super::root::{Root, Seen, Unseen, set};

/// What the kernel says of the machine's memory.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    /// Pools of huge pages, of the whole machine and of each NUMA node.
    pub(crate) pools: Vec<Pool>,
    /// Bytes to be had without swapping, free huge pages not among them.
    pub(crate) available: Seen<u64>,
    /// Whether the kernel knows hugetlbfs at all.
    pub(crate) hugetlbfs: Seen<bool>,
    pub(crate) mounts: Seen<Vec<HugeMount>>,
    /// NUMA nodes and their CPUs.
    pub(crate) nodes: Seen<BTreeMap<u32, Vec<u32>>>,
}

/// A pool of huge pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pool {
    /// `None`: the machine's.
    pub(crate) node: Option<u32>,
    pub(crate) page_bytes: u64,
    pub(crate) total: u64,
    /// Neither in use nor, for the machine's, promised to somebody.
    pub(crate) free: u64,
}

/// A mounted hugetlbfs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HugeMount {
    pub(crate) path: String,
    /// As the kernel writes it: `2M`, `1024M`.
    pub(crate) page: String,
    /// Files in it.
    pub(crate) files: Seen<Vec<String>>,
}

/// Where the parts of a node lie.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// `link.interface` and its NUMA node.
    pub(crate) nic: Option<(String, u32)>,
    /// `node.cpu`.
    pub(crate) cpu: Option<u32>,
    /// The log's disk and its NUMA node.
    pub(crate) disk: Option<(String, u32)>,
    /// Bytes of the running node's largest mapping, by NUMA node.
    pub(crate) memory: Option<BTreeMap<u32, u64>>,
}

impl Memory {
    pub(crate) fn gather(root: &Root) -> Self {
        let nodes = nodes(root);
        let mut all = pools(root, "/sys/kernel/mm/hugepages", None);
        for node in nodes.iter().flat_map(BTreeMap::keys) {
            let folder = format!("/sys/devices/system/node/node{node}/hugepages");
            all.extend(pools(root, &folder, Some(*node)));
        }
        Self {
            pools: all,
            available: root
                .text("/proc/meminfo")
                .and_then(|text| available(&text).ok_or(Unseen::Absent)),
            hugetlbfs: root
                .text("/proc/filesystems")
                .map(|text| text.lines().any(|line| line.ends_with("\thugetlbfs"))),
            mounts: root.text("/proc/self/mounts").map(|text| mounts(root, &text)),
            nodes,
        }
    }

    /// Every check of this room. `running`: whether a node that runs has huge pages.
    pub(crate) fn checks(
        &self,
        needs: Option<&Needs>,
        running: Option<bool>,
        places: &Places,
        is_root: bool,
    ) -> Vec<Check> {
        let mut checks = vec![self.huge_pages(needs, running, is_root), self.hugetlbfs(needs)];
        checks.extend(needs.map(|needs| self.memory(needs, running)));
        checks.push(self.numa(needs, running, places));
        checks
    }

    /// Pools of one size: the machine's first.
    fn pool(&self, page_bytes: u64, node: Option<u32>) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.page_bytes == page_bytes && pool.node == node)
    }

    fn huge_pages(&self, needs: Option<&Needs>, running: Option<bool>, is_root: bool) -> Check {
        let Some(needs) = needs else {
            let shown: Vec<String> = self
                .pools
                .iter()
                .filter(|pool| pool.node.is_none() && pool.total > 0)
                .map(|pool| {
                    format!(
                        "{} of {} free of {}",
                        pool.free,
                        pool.total,
                        format_size(pool.page_bytes)
                    )
                })
                .collect();
            return if self.pools.is_empty() {
                HUGE_PAGES.unseen(&Unseen::Absent, ["grep -i huge /proc/meminfo"])
            } else if shown.is_empty() {
                HUGE_PAGES.warn(
                    "none is reserved",
                    [
                        "echo 640 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
                        "# how many: --config FILE says it; for every start: hugepages/ibid-hugepages.service",
                    ],
                )
            } else {
                HUGE_PAGES.ok(shown.join(", "))
            };
        };
        if !needs.huge && needs.nic {
            return HUGE_PAGES.fail(
                "node.huge_pages = false, and link.device = pci needs them",
                ["# in the configuration: [node] huge_pages = true"],
            );
        }
        if !needs.huge {
            return HUGE_PAGES.ok("not wanted: node.huge_pages = false");
        }
        let (size, pages) = (format_size(needs.page_bytes), needs.pages());
        match running {
            Some(true) => return HUGE_PAGES.ok(format!("the running node has them ({size})")),
            Some(false) => {
                return HUGE_PAGES.warn(
                    "the running node lies in ordinary memory: `ibid status` says why",
                    self.reserve(needs.page_bytes, None, pages),
                );
            }
            None => {}
        }
        let for_dpdk = self.pool(PAGE_BYTES, None).map_or(0, |pool| pool.free);
        if needs.nic && !is_root && for_dpdk < needs.eal_pages() {
            return HUGE_PAGES.fail(
                format!(
                    "link.device = pci needs {} pages of 2MiB for packet buffers, {for_dpdk} are free",
                    needs.eal_pages()
                ),
                self.reserve(PAGE_BYTES, None, needs.pages().max(needs.eal_pages())),
            );
        }
        let Some(pool) = self.pool(needs.page_bytes, None) else {
            return HUGE_PAGES.warn(
                format!("this kernel or CPU has no pages of {size}"),
                ["# in the configuration: [node] huge_pages = false, to have it said"],
            );
        };
        let found = format!("{pages} pages of {size} are needed, {} are free", pool.free);
        if pool.free >= pages {
            // Beside larger pages DPDK wants some of 2 MiB.
            let free = for_dpdk;
            let wanted = needs.eal_pages();
            if needs.page_bytes != PAGE_BYTES && free < wanted && !is_root {
                return HUGE_PAGES.warn(
                    format!("{found}; DPDK needs {wanted} of 2MiB, {free} are free"),
                    self.reserve(PAGE_BYTES, None, wanted),
                );
            }
            return HUGE_PAGES.ok(found);
        }
        let missing = (pages - pool.free).saturating_mul(needs.page_bytes);
        let can_add = self.available.as_ref().is_ok_and(|it| *it > missing + LEFT_BYTES_MIN);
        if is_root && can_add && needs.page_bytes < GIB {
            return HUGE_PAGES.ok(format!("{found}; as root it adds the others at its start"));
        }
        HUGE_PAGES.warn(found, self.reserve(needs.page_bytes, None, pages))
    }

    /// The command that makes `pages` pages free.
    fn reserve(&self, page_bytes: u64, node: Option<u32>, pages: u64) -> Vec<String> {
        let pool = self.pool(page_bytes, node);
        let total =
            pool.map_or(0, |pool| pool.total) + pages - pool.map_or(0, |pool| pool.free).min(pages);
        let kib = page_bytes / 1024;
        let folder = match node {
            None => "/sys/kernel/mm/hugepages".to_owned(),
            Some(node) => format!("/sys/devices/system/node/node{node}/hugepages"),
        };
        let mut mend = vec![format!("echo {total} > {folder}/hugepages-{kib}kB/nr_hugepages")];
        if page_bytes >= GIB {
            mend.push(format!(
                "# where too few can be gathered: {} && update-grub && reboot",
                at_boot(
                    "hugepagesz=1G hugepages=[^ \"]*",
                    &format!("hugepagesz=1G hugepages={total}")
                )
            ));
        }
        mend.push("# for every start: hugepages/ibid-hugepages.service".to_owned());
        mend
    }

    fn hugetlbfs(&self, needs: Option<&Needs>) -> Check {
        match &self.hugetlbfs {
            Err(unseen) => {
                return HUGETLBFS.unseen(unseen, ["grep hugetlbfs /proc/filesystems"]);
            }
            Ok(false) => {
                let wanted = needs.is_none_or(|needs| needs.huge);
                let found = "this kernel knows no hugetlbfs, so it has no huge pages";
                return if wanted {
                    HUGETLBFS.warn(found, ["apt-get install -y linux-image-amd64 && reboot"])
                } else {
                    HUGETLBFS.ok(found)
                };
            }
            Ok(true) => {}
        }
        let mounts = match &self.mounts {
            Ok(mounts) => mounts,
            Err(unseen) => return HUGETLBFS.unseen(unseen, ["cat /proc/mounts"]),
        };
        for mount in mounts {
            let left: Vec<&String> =
                mount.files.iter().flatten().filter(|name| name.starts_with("rtemap_")).collect();
            if !left.is_empty() {
                let path = quoted(&mount.path);
                return HUGETLBFS.warn(
                    format!(
                        "{} files of a DPDK program in {} hold huge pages",
                        left.len(),
                        mount.path
                    ),
                    [
                        format!("grep -l {path}/rtemap_ /proc/[0-9]*/maps   # who uses them"),
                        format!("rm {path}/rtemap_*   # if nobody does"),
                    ],
                );
            }
        }
        if mounts.is_empty() {
            return HUGETLBFS.ok("none is mounted, and ibid needs none");
        }
        let shown: Vec<String> =
            mounts.iter().map(|mount| format!("{} ({})", mount.path, mount.page)).collect();
        HUGETLBFS.ok(format!("{}; ibid needs none", shown.join(", ")))
    }

    /// Whether what a node takes is there at all, huge or not.
    fn memory(&self, needs: &Needs, running: Option<bool>) -> Check {
        let bytes = needs.bytes();
        let size = format_size(bytes);
        if running.is_some() {
            return MEMORY.ok(format!("the running node has its {size}"));
        }
        let available = match &self.available {
            Ok(available) => *available,
            Err(unseen) => return MEMORY.unseen(unseen, ["free -m"]),
        };
        let huge = match self.pool(needs.page_bytes, None) {
            Some(pool) => needs.huge && pool.free >= needs.pages(),
            None => false,
        };
        let shown = format_mib(available);
        if huge || available >= bytes + LEFT_BYTES_MIN {
            return MEMORY.ok(format!("{size} for the node; {shown} available"));
        }
        MEMORY.fail(
            format!("the node takes {size}; {shown} are available, and 256MiB stay free"),
            ["# in the configuration of both nodes: smaller log.segments or log.segment_size, or stop what takes the memory:"
                .to_owned(),
            "ps -eo rss,pid,comm --sort=-rss | head".to_owned()],
        )
    }

    fn numa(&self, needs: Option<&Needs>, running: Option<bool>, places: &Places) -> Check {
        let nodes = match &self.nodes {
            Ok(nodes) => nodes,
            // A kernel without NUMA has one node and doesn't show it.
            Err(Unseen::Absent) => return NUMA.ok("this kernel knows one NUMA node"),
            Err(unseen) => return NUMA.unseen(unseen, ["lscpu | grep -i numa"]),
        };
        if nodes.len() < 2 {
            return NUMA.ok("one NUMA node: nothing to place");
        }
        let of_cpu = |cpu: u32| nodes.iter().find(|(_, cpus)| cpus.contains(&cpu)).map(|it| *it.0);
        let cpu = places.cpu.and_then(|cpu| Some((cpu, of_cpu(cpu)?)));
        // What the others are compared with: the NIC can't be moved by a line of configuration.
        let home = places.nic.as_ref().map(|nic| nic.1).or(cpu.map(|cpu| cpu.1));
        let mut parts = Vec::new();
        if let Some((name, node)) = &places.nic {
            parts.push((format!("NIC {name}"), *node));
        }
        if let Some((cpu, node)) = cpu {
            parts.push((format!("core {cpu}"), node));
        }
        if let Some((name, node)) = &places.disk {
            parts.push((format!("log disk {name}"), *node));
        }
        for node in places.memory.iter().flatten().filter(|(_, bytes)| **bytes > 0).map(|it| *it.0)
        {
            parts.push(("memory".to_owned(), node));
        }
        let said: Vec<String> =
            parts.iter().map(|(what, node)| format!("{what} on {node}")).collect();
        let Some(home) = home else {
            let mend = "# in the configuration: [node] cpu, or a link device that is a NIC";
            return match needs {
                None => NUMA.ok(format!("{} NUMA nodes", nodes.len())),
                Some(_) => NUMA.warn(
                    format!("{} NUMA nodes, and nothing says which is the node's", nodes.len()),
                    [mend],
                ),
            };
        };
        let spread: BTreeSet<u32> = parts.iter().map(|part| part.1).collect();
        if spread.len() > 1 {
            let cpus = nodes.get(&home).and_then(|cpus| cpus.first()).copied().unwrap_or(0);
            let mut mend = Vec::new();
            if cpu.is_some_and(|cpu| cpu.1 != home) {
                mend.push(format!("# in the configuration: [node] cpu = {cpus}"));
            }
            if places.disk.as_ref().is_some_and(|disk| disk.1 != home) {
                mend.push(format!("# a log device on NUMA node {home}"));
            }
            if let (Some(memory), Some(needs)) = (&places.memory, needs)
                && memory.keys().any(|node| *node != home)
            {
                mend.extend(self.reserve(needs.page_bytes, Some(home), needs.pages()));
                mend.push("# and start the node again".to_owned());
            }
            return NUMA.warn(said.join(", "), mend);
        }
        if let Some(needs) = needs.filter(|needs| needs.huge && running.is_none())
            && let Some(pool) = self.pool(needs.page_bytes, Some(home))
            && pool.free < needs.pages()
            && self.pool(needs.page_bytes, None).is_some_and(|all| all.free >= needs.pages())
        {
            return NUMA.warn(
                format!(
                    "{}; there {} of the {} huge pages needed are free, the others elsewhere",
                    said.join(", "),
                    pool.free,
                    needs.pages()
                ),
                self.reserve(needs.page_bytes, Some(home), needs.pages()),
            );
        }
        NUMA.ok(said.join(", "))
    }
}

/// Bytes of MiB: what is available is no round number.
fn format_mib(bytes: u64) -> String {
    format!("{}MiB", bytes >> 20)
}

/// The NUMA nodes and their CPUs.
pub(crate) fn nodes(root: &Root) -> Seen<BTreeMap<u32, Vec<u32>>> {
    let mut nodes = BTreeMap::new();
    for name in root.names("/sys/devices/system/node")? {
        let Some(node) = name.strip_prefix("node").and_then(|number| number.parse().ok()) else {
            continue;
        };
        nodes.insert(node, set(root, &format!("/sys/devices/system/node/{name}/cpulist"))?);
    }
    Ok(nodes)
}

fn pools(root: &Root, folder: &str, node: Option<u32>) -> Vec<Pool> {
    let pool = |name: &String| {
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let number = |file: &str| root.number::<u64>(format!("{folder}/{name}/{file}"));
        // The kernel counts pages as free until they are touched, also those that a mapping has been promised.
        let reserved = number("resv_hugepages").unwrap_or(0);
        Some(Pool {
            node,
            page_bytes: kib * 1024,
            total: number("nr_hugepages").ok()?,
            free: number("free_hugepages").ok()?.saturating_sub(reserved),
        })
    };
    let mut pools: Vec<Pool> = root.names(folder).iter().flatten().filter_map(pool).collect();
    pools.sort_by_key(|pool| pool.page_bytes);
    pools
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn mounts(root: &Root, text: &str) -> Vec<HugeMount> {
    let mount = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (path, kind, options) = (words.next()?, words.next()?, words.next()?);
        let page = options.split(',').find_map(|option| option.strip_prefix("pagesize="));
        (kind == "hugetlbfs").then(|| HugeMount {
            path: path.to_owned(),
            page: page.unwrap_or("the default size").to_owned(),
            files: root.names(path),
        })
    };
    text.lines().filter_map(mount).collect()
}

/// Where the bytes of a process' largest mapping lie, by NUMA node, out of its numa_maps.
pub(crate) fn largest_mapping(numa_maps: &str) -> Option<BTreeMap<u32, u64>> {
    let placed = |line: &str| {
        let number = |prefix: &str| -> Option<u64> {
            line.split(' ').find_map(|word| word.strip_prefix(prefix))?.parse().ok()
        };
        let page = number("kernelpagesize_kB=")? * 1024;
        let mut nodes = BTreeMap::new();
        for word in line.split(' ') {
            let Some((node, pages)) = word.strip_prefix('N').and_then(|word| word.split_once('='))
            else {
                continue;
            };
            if let (Ok(node), Ok(pages)) = (node.parse::<u32>(), pages.parse::<u64>()) {
                nodes.insert(node, pages * page);
            }
        }
        Some(nodes)
    };
    numa_maps.lines().filter_map(placed).max_by_key(|nodes| nodes.values().sum::<u64>())
}

/// What is left to the rest of the machine when a node takes its memory, as `ibid run` has it.
const LEFT_BYTES_MIN: u64 = 256 << 20;
const GIB: u64 = 1 << 30;

const HUGE_PAGES: Topic = Topic {
    name: "huge-pages",
    why: "Log memory in 4 KiB pages costs a table walk for most accesses and may be swapped; a real NIC can't be given it at all.",
};
const HUGETLBFS: Topic = Topic {
    name: "hugetlbfs",
    why: "ibid's DPDK keeps no files there, but what other programs have left in one takes the pages away.",
};
const MEMORY: Topic = Topic {
    name: "memory",
    why: "A node takes all its memory at its start, present and locked, and does not start without.",
};
const NUMA: Topic = Topic {
    name: "numa",
    why: "Each payload byte crosses between NIC, core and memory; between two NUMA nodes that takes longer, and everything else that crosses there shares the way.",
};

#[cfg(test)]
mod tests {
    use super::super::check::Verdict::{Fail, Ok as Good, Warn};
    use super::super::root::tests::Tree;
    use super::*;

    const NEEDS: Needs = Needs {
        huge: true,
        nic: false,
        page_bytes: 2 << 20,
        arena_bytes: (100 << 20) + 1,
        eal_bytes: 64 << 20,
    };

    fn tree(nodes: u32, total: u64, free: u64) -> Tree {
        let tree = Tree::new(&[
            ("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    2097152 kB\n"),
            ("proc/filesystems", "nodev\tsysfs\nnodev\thugetlbfs\n"),
            ("proc/self/mounts", "proc /proc proc rw 0 0\n"),
        ]);
        let pool = |folder: &str, total: u64, free: u64| {
            let folder = format!("{folder}/hugepages/hugepages-2048kB");
            tree.put(&format!("{folder}/nr_hugepages"), &total.to_string());
            tree.put(&format!("{folder}/free_hugepages"), &free.to_string());
        };
        pool("sys/kernel/mm", total, free);
        for node in 0..nodes {
            let folder = format!("sys/devices/system/node/node{node}");
            tree.put(&format!("{folder}/cpulist"), &format!("{}-{}", node * 2, node * 2 + 1));
            pool(&folder, total / u64::from(nodes), free / u64::from(nodes));
        }
        tree
    }

    fn gather(tree: &Tree) -> Memory {
        Memory::gather(&tree.root())
    }

    #[test]
    fn pages_are_counted_as_a_node_takes_them() {
        // 100 MiB and a byte are 51 pages, DPDK's 64 MiB are 32.
        assert_eq!(NEEDS.pages(), 83);
        let check = |total, free, is_root| {
            gather(&tree(1, total, free)).huge_pages(Some(&NEEDS), None, is_root)
        };
        assert_eq!(check(100, 83, false).verdict, Good);
        let short = check(100, 80, false);
        assert_eq!(short.verdict, Warn);
        assert_eq!(short.found, "83 pages of 2MiB are needed, 80 are free");
        assert_eq!(
            short.mend[0],
            "echo 103 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
        );
        assert_eq!(check(100, 80, true).verdict, Good);
        // Nobody can add what the machine has not got.
        let poor = tree(1, 0, 0);
        poor.put("proc/meminfo", "MemAvailable: 300000 kB\n");
        assert_eq!(gather(&poor).huge_pages(Some(&NEEDS), None, true).verdict, Warn);
    }

    #[test]
    fn a_nic_does_not_start_without() {
        let nic = Needs { nic: true, ..NEEDS };
        let check = |needs, free| gather(&tree(1, 100, free)).huge_pages(Some(&needs), None, false);
        assert_eq!(check(nic, 83).verdict, Good);
        assert_eq!(check(nic, 40).verdict, Warn);
        assert_eq!(check(nic, 31).verdict, Fail);
        assert_eq!(check(Needs { huge: false, ..nic }, 83).verdict, Fail);
    }

    #[test]
    fn what_is_promised_is_not_free() {
        let tree = tree(1, 100, 90);
        tree.put("sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "20\n");
        assert_eq!(gather(&tree).huge_pages(Some(&NEEDS), None, false).verdict, Warn);
    }

    #[test]
    fn a_machine_without_a_node_is_asked_for_any() {
        assert_eq!(gather(&tree(1, 4, 0)).huge_pages(None, None, false).verdict, Good);
        assert_eq!(gather(&tree(1, 0, 0)).huge_pages(None, None, false).verdict, Warn);
        let check = gather(&Tree::new(&[])).huge_pages(None, None, false);
        assert_eq!((check.verdict, check.seen), (Warn, false));
    }

    #[test]
    fn a_running_node_says_itself_what_it_has() {
        let memory = gather(&tree(1, 0, 0));
        assert_eq!(memory.huge_pages(Some(&NEEDS), Some(true), false).verdict, Good);
        assert_eq!(memory.huge_pages(Some(&NEEDS), Some(false), false).verdict, Warn);
        let unwanted = Needs { huge: false, ..NEEDS };
        assert_eq!(memory.huge_pages(Some(&unwanted), Some(false), false).verdict, Good);
        assert_eq!(memory.memory(&NEEDS, Some(true)).verdict, Good);
    }

    #[test]
    fn large_pages_are_asked_for_by_their_own_name() {
        let needs = Needs { page_bytes: 1 << 30, ..NEEDS };
        let tree = tree(1, 100, 100);
        let none = gather(&tree).huge_pages(Some(&needs), None, true);
        assert!(none.found.contains("no pages of 1GiB"), "{none:?}");
        tree.put("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "0");
        tree.put("sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "0");
        let short = gather(&tree).huge_pages(Some(&needs), None, true);
        assert_eq!(short.verdict, Warn);
        assert!(short.mend[1].contains("hugepagesz=1G hugepages=1 "), "{short:?}");
        tree.put("sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "1");
        assert_eq!(gather(&tree).huge_pages(Some(&needs), None, false).verdict, Good);
        // DPDK's pages are others.
        tree.put("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "31");
        let short = gather(&tree).huge_pages(Some(&needs), None, false);
        assert!(
            short.verdict == Warn && short.found.contains("DPDK needs 32 of 2MiB, 31 are free")
        );
    }

    #[test]
    fn files_that_a_dead_program_left_are_shown() {
        let tree = tree(1, 100, 100);
        tree.put("proc/self/mounts", "none /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0\n");
        tree.put("dev/hugepages/ours", "");
        let check = gather(&tree).hugetlbfs(None);
        assert_eq!(
            (check.verdict, check.found.as_str()),
            (Good, "/dev/hugepages (2M); ibid needs none")
        );
        tree.put("dev/hugepages/rtemap_0", "");
        let check = gather(&tree).hugetlbfs(None);
        assert_eq!(check.verdict, Warn);
        assert_eq!(check.mend[1], "rm /dev/hugepages/rtemap_*   # if nobody does");
        tree.put("proc/filesystems", "nodev\tsysfs\n");
        assert_eq!(gather(&tree).hugetlbfs(Some(&NEEDS)).verdict, Warn);
        let unwanted = Needs { huge: false, ..NEEDS };
        assert_eq!(gather(&tree).hugetlbfs(Some(&unwanted)).verdict, Good);
    }

    #[test]
    fn a_node_that_does_not_fit_does_not_start() {
        let tree = tree(1, 0, 0);
        assert_eq!(gather(&tree).memory(&NEEDS, None).verdict, Good);
        let large = Needs { arena_bytes: 3 << 30, ..NEEDS };
        let check = gather(&tree).memory(&large, None);
        assert_eq!(check.verdict, Fail);
        assert!(check.found.contains("2048MiB are available"), "{check:?}");
        // With its huge pages reserved it takes nothing of what is available.
        let reserved = super::tests::tree(1, 2000, 2000);
        assert_eq!(gather(&reserved).memory(&large, None).verdict, Good);
        assert!(!gather(&Tree::new(&[])).memory(&NEEDS, None).seen);
    }

    #[test]
    fn parts_on_two_numa_nodes_are_named() {
        let nic = |node| Some(("eth1".to_owned(), node));
        let places = |nic, cpu, memory: &[(u32, u64)]| Places {
            nic,
            cpu,
            disk: None,
            memory: (!memory.is_empty()).then(|| memory.iter().copied().collect()),
        };
        let memory = gather(&tree(2, 400, 400));
        for (places, expected, told) in [
            (places(nic(1), Some(2), &[]), Good, "NIC eth1 on 1, core 2 on 1"),
            (places(nic(1), Some(0), &[]), Warn, "[node] cpu = 2"),
            (places(None, Some(3), &[(1, 9)]), Good, "memory on 1"),
            (places(None, Some(3), &[(0, 9)]), Warn, "node1/hugepages/hugepages-2048kB"),
            (places(nic(0), Some(0), &[(0, 5), (1, 5)]), Warn, "memory on 0, memory on 1"),
            (places(None, None, &[]), Warn, "nothing says which"),
        ] {
            let check = memory.numa(Some(&NEEDS), None, &places);
            let said = format!("{}; {}", check.found, check.mend.join("; "));
            assert_eq!(check.verdict, expected, "{said}");
            assert!(said.contains(told), "{said}");
        }
        let disk = Places { disk: Some(("nvme0n1".into(), 0)), ..places(nic(1), None, &[]) };
        assert!(
            memory.numa(Some(&NEEDS), None, &disk).mend[0].contains("a log device on NUMA node 1")
        );
        // Enough pages, on the wrong node.
        let few = tree(2, 400, 400);
        few.put("sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "5");
        let check = gather(&few).numa(Some(&NEEDS), None, &places(nic(1), Some(2), &[]));
        assert_eq!(check.verdict, Warn);
        assert!(
            check.mend[0].starts_with("echo 278 > /sys/devices/system/node/node1"),
            "{check:?}"
        );

        let one =
            gather(&tree(1, 400, 400)).numa(Some(&NEEDS), None, &places(nic(0), Some(0), &[]));
        assert_eq!(one.verdict, Good);
        assert_eq!(gather(&Tree::new(&[])).numa(None, None, &Places::default()).verdict, Good);
    }

    #[test]
    fn the_largest_mapping_is_the_arena() {
        let maps = "\
55d0 default file=/usr/bin/ibid mapped=3 N0=3 kernelpagesize_kB=4
7f00 bind:1 anon=83 dirty=83 N0=3 N1=80 kernelpagesize_kB=2048
7f99 default heap anon=900 N0=900 kernelpagesize_kB=4
";
        let expected = BTreeMap::from([(0, 6 << 20), (1, 160 << 20)]);
        assert_eq!(largest_mapping(maps), Some(expected));
        assert_eq!(largest_mapping(""), None);
    }
}
