//! Two processes over IPv6, in a VLAN, and through a router: the kernel's own, which asks for addresses and is asked as any other.

use std::time::Duration;

use crate::af_packet::Wire;
use crate::memif::Socket;
use crate::peer::{Peer, Task, number};

const LONG: Duration = Duration::from_secs(60);

/// Sends `count` datagrams of all sizes and looks at every byte.
fn transfer(net: &'static str, tasks: [Task; 2], spawn: impl Fn(&Task) -> Peer) {
    const COUNT: u64 = 1000;
    let [target, source] = tasks.map(|task| task.count(COUNT).net(net));
    let (mut target, mut source) = (spawn(&target), spawn(&source));
    assert_eq!(number(&source.expect("sent=", LONG), "sent"), COUNT, "{net}");
    assert_eq!(number(&target.expect("got=", LONG), "got"), COUNT, "{net}");
    assert_eq!(number(&target.expect("end ", LONG), "bad"), 0, "{net}");
    source.expect("clean", LONG);
    target.expect("clean", LONG);
    assert!(source.finish().success() && target.finish().success(), "{net}");
}

#[test]
fn over_memif_with_ipv6_and_in_a_vlan() {
    for net in ["v6", "v6-vlan", "v4-vlan"] {
        let socket = Socket::new(&format!("addresses-{net}"));
        let tasks = [socket.task("server", "target"), socket.task("client", "source")];
        transfer(net, tasks, |task| Peer::spawn(task, None));
    }
}

#[test]
fn over_a_kernel_interface_with_ipv6_and_in_a_vlan() {
    for (net, mtu) in [("v6", 9000), ("v6-vlan", 9000), ("v4-vlan", 9000), ("v6-vlan", 1500)] {
        let Some(wire) = Wire::new("addr") else { return };
        let tasks = [wire.task(1, "target").mtu(mtu), wire.task(2, "source").mtu(mtu)];
        transfer(net, tasks, |task| wire.spawn(task));
    }
}

#[test]
fn through_a_router_of_either_family() {
    for net in ["v4-routed", "v6-routed"] {
        let Some(wire) = Wire::routed("route") else { return };
        let tasks = [wire.task(1, "target"), wire.task(2, "source")];
        transfer(net, tasks, |task| wire.spawn(task));
        // It went the long way: the router knows both ends, and has learnt them by asking.
        let known = wire.neighbours();
        let ends = if net == "v4-routed" {
            ["192.0.2.1", "198.51.100.2"]
        } else {
            ["2001:db8:1::1", "2001:db8:2::2"]
        };
        for end in ends {
            let line = known.lines().find(|line| line.starts_with(&format!("{end} ")));
            assert!(line.is_some_and(|line| line.contains("lladdr")), "{end} in:\n{known}");
        }
    }
}
