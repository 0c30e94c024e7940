//! On which NUMA node a node's memory is to lie: that of its NIC, which no line of configuration can move, else that of its core.
//! Takes a configuration and what sysfs says; gives the node, and a warning where NIC and core are not together.

use ibid_control::config::Config;
use ibid_driver::PageSize;

use crate::doctor::Root;
use crate::doctor::memory::nodes;
use crate::doctor::network;

/// Where memory belongs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Home {
    /// `None`: there is one node only, or nothing says which.
    pub(crate) node: Option<u32>,
    /// A sentence for the operator.
    pub(crate) warning: Option<String>,
}

/// Where a node's memory belongs.
pub(crate) fn home(root: &Root, config: &Config) -> Home {
    // What can't be read is a kernel without NUMA.
    let nodes = nodes(root).unwrap_or_default();
    if nodes.len() < 2 {
        return Home::default();
    }
    let nic = network::nic(root, config);
    let core = config.node.cpu.and_then(|cpu| {
        let on = nodes.iter().find(|(_, cpus)| cpus.iter().any(|it| *it as usize == cpu))?;
        Some((cpu, *on.0))
    });
    let warning = match (&nic, core) {
        (Some((name, nic)), Some((cpu, core))) if *nic != core => {
            let better = nodes.get(nic).and_then(|cpus| cpus.first());
            let better = better.map_or(String::new(), |cpu| format!("; CPU {cpu} is there, too"));
            Some(format!(
                "{name} of the link is on NUMA node {nic}, node.cpu = {cpu} on {core}: each payload byte crosses between them{better}"
            ))
        }
        _ => None,
    };
    Home { node: nic.map(|nic| nic.1).or(core.map(|core| core.1)), warning }
}

/// The pages that log memory is to be made of.
pub(crate) fn pages(config: &Config) -> PageSize {
    match (config.node.huge_pages, config.node.huge_page_size) {
        (false, _) => PageSize::Base4KiB,
        (true, bytes) if bytes == PageSize::Huge1GiB.bytes() as u64 => PageSize::Huge1GiB,
        (true, _) => PageSize::Huge2MiB,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::node::tests::config;
    use crate::doctor::root::tests::Tree;
    use ibid_control::config::LinkDevice;

    fn tree(nodes: u32) -> Tree {
        let tree = Tree::new(&[("sys/devices/pci0/0000:3b:00.0/numa_node", "1\n")]);
        for node in 0..nodes {
            let cpus = format!("{}-{}", node * 4, node * 4 + 3);
            tree.put(&format!("sys/devices/system/node/node{node}/cpulist"), &cpus);
        }
        tree.link("sys/class/net/eth1/device", "../../../devices/pci0/0000:3b:00.0");
        tree.put("sys/class/net/veth0/mtu", "9000");
        tree
    }

    fn of(tree: &Tree, interface: &str, cpu: Option<usize>) -> Home {
        let mut config = config();
        config.link.device = LinkDevice::AfPacket { interface: interface.into() };
        config.node.cpu = cpu;
        home(&tree.root(), &config)
    }

    #[test]
    fn memory_belongs_to_the_nic_else_to_the_core() {
        let two = tree(2);
        for (interface, cpu, node) in [
            ("eth1", None, Some(1)),
            ("eth1", Some(5), Some(1)),
            ("veth0", Some(5), Some(1)),
            ("veth0", Some(2), Some(0)),
            ("veth0", None, None),
            ("veth0", Some(99), None),
        ] {
            let home = of(&two, interface, cpu);
            assert_eq!(home, Home { node, warning: None }, "{interface} {cpu:?}");
        }
        // With one node, or a kernel that knows of none, nothing is asked for.
        assert_eq!(of(&tree(1), "eth1", Some(0)), Home::default());
        assert_eq!(of(&tree(0), "eth1", Some(0)), Home::default());
    }

    #[test]
    fn a_core_that_is_not_with_its_nic_is_told_with_one_that_is() {
        let home = of(&tree(2), "eth1", Some(2));
        assert_eq!(home.node, Some(1));
        let warning = home.warning.unwrap();
        assert!(
            warning.contains("eth1 of the link is on NUMA node 1, node.cpu = 2 on 0"),
            "{warning}"
        );
        assert!(warning.ends_with("CPU 4 is there, too"), "{warning}");
    }

    #[test]
    fn pages_are_those_of_the_configuration() {
        let mut config = config();
        assert_eq!(pages(&config), PageSize::Huge2MiB);
        config.node.huge_page_size = 1 << 30;
        assert_eq!(pages(&config), PageSize::Huge1GiB);
        config.node.huge_pages = false;
        assert_eq!(pages(&config), PageSize::Base4KiB);
    }
}
