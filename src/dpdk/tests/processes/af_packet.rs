//! Two processes over af_packet on a veth pair in two network namespaces: every byte, death under load, link down and up.
//! Needs root; skips with a printed reason otherwise. Makes the namespaces and removes them, whatever happens.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::peer::{Peer, Task, leftovers, number};

const LONG: Duration = Duration::from_secs(60);

/// Two namespaces with one end of a veth pair each. One at a time: the machine may have only two cores.
pub(crate) struct Wire {
    names: [String; 2],
    router: Option<String>,
    _alone: MutexGuard<'static, ()>,
}

fn ip(arguments: &str) -> bool {
    let words = arguments.split(' ');
    Command::new("ip").args(words).status().is_ok_and(|status| status.success())
}

impl Wire {
    pub(crate) fn new(tag: &str) -> Option<Wire> {
        static ALONE: Mutex<()> = Mutex::new(());
        // SAFETY: no precondition.
        if unsafe { libc::geteuid() } != 0 {
            println!("skipped: network namespaces and packet sockets need root");
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let names = [1, 2].map(|side| format!("ibid-{tag}-{}-{side}", std::process::id()));
        let [a, b] = &names;
        let wire = Wire { names: [a.clone(), b.clone()], router: None, _alone: alone };
        assert!(ip(&format!("netns add {a}")) && ip(&format!("netns add {b}")));
        assert!(ip(&format!(
            "link add link0 mtu 9000 netns {a} type veth peer name link0 mtu 9000 netns {b}"
        )));
        for name in [a, b] {
            assert!(ip(&format!("-n {name} link set link0 up")));
        }
        Some(wire)
    }

    /// The same with a router of the kernel's between them, in a namespace of its own.
    pub(crate) fn routed(tag: &str) -> Option<Wire> {
        let mut wire = Wire::new(tag)?;
        let router = format!("ibid-{tag}-{}-r", std::process::id());
        assert!(ip(&format!("-n {} link del link0", wire.names[0])));
        assert!(ip(&format!("netns add {router}")));
        wire.router = Some(router.clone());
        for (side, name) in [(1, &wire.names[0]), (2, &wire.names[1])] {
            assert!(ip(&format!(
                "link add link0 mtu 9000 netns {name} type veth peer name to{side} mtu 9000 netns {router}"
            )));
            let v4 = if side == 1 { "192.0.2" } else { "198.51.100" };
            assert!(ip(&format!("-n {name} link set link0 up")));
            assert!(ip(&format!("-n {router} link set to{side} up")));
            assert!(ip(&format!("-n {router} addr add {v4}.254/24 dev to{side}")));
            let v6 = format!("2001:db8:{side}::fe/64");
            assert!(ip(&format!("-n {router} addr add {v6} dev to{side} nodad")));
        }
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            let write = format!("echo 1 > /proc/sys/net/{key}");
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &router, "sh", "-c", &write]);
            assert!(command.status().unwrap().success(), "{key}");
        }
        Some(wire)
    }

    /// Whom the router has asked for an address.
    pub(crate) fn neighbours(&self) -> String {
        let router = self.router.as_ref().expect("there is a router");
        let mut command = Command::new("ip");
        let output = command.args(["-n", router, "neigh"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn task(&self, side: u8, mode: &'static str) -> Task {
        Task::new("af_packet:link0", side, mode)
    }

    pub(crate) fn spawn(&self, task: &Task) -> Peer {
        Peer::spawn(task, Some(&self.names[usize::from(task.side) - 1]))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for name in self.names.iter().chain(&self.router) {
            ip(&format!("netns del {name}"));
        }
    }
}

fn transfer(tag: &str, bytes: usize, count: u64, mtu: u16) {
    let Some(wire) = Wire::new(tag) else { return };
    let mut target = wire.spawn(&wire.task(1, "target").count(count).bytes(bytes).mtu(mtu));
    let mut source = wire.spawn(&wire.task(2, "source").count(count).bytes(bytes).mtu(mtu));
    assert_eq!(number(&source.expect("sent=", LONG), "sent"), count);
    assert_eq!(number(&target.expect("got=", LONG), "got"), count);
    assert_eq!(number(&target.expect("end ", LONG), "bad"), 0);
    source.expect("clean", LONG);
    target.expect("clean", LONG);
    assert!(source.finish().success() && target.finish().success());
}

#[test]
fn two_thousand_full_jumbo_frames_arrive_in_every_byte() {
    transfer("jumbo", usize::MAX, 2000, 9000);
}

#[test]
fn frames_of_all_sizes_mixed_arrive_in_every_byte() {
    transfer("mixed", 0, 4000, 9000);
}

#[test]
fn an_mtu_of_1500_works_too() {
    transfer("small", 0, 2000, 1500);
}

#[test]
fn an_interface_whose_mtu_is_too_small_is_refused() {
    let Some(wire) = Wire::new("mtu") else { return };
    assert!(ip(&format!("-n {} link set link0 mtu 1500", wire.names[0])));
    let mut peer = wire.spawn(&wire.task(1, "load"));
    assert!(!peer.finish().success());
}

#[test]
fn the_survivor_goes_on_after_its_peer_was_killed_under_load() {
    let before = leftovers();
    let Some(wire) = Wire::new("kill") else {
        return;
    };
    let mut survivor = wire.spawn(&wire.task(1, "load"));
    for _ in 0..6 {
        let mut victim = wire.spawn(&wire.task(2, "load"));
        victim.expect("state=Up", LONG);
        flowing(&mut victim);
        survivor.drain();
        flowing(&mut survivor);
        victim.kill();
        survivor.drain();
        survivor.expect("good=", LONG);
        assert!(survivor.alive());
    }
    let mut again = wire.spawn(&wire.task(2, "load"));
    again.expect("state=Up", LONG);
    let line = flowing(&mut again);
    assert_eq!(number(&line, "bad"), 0);
    for mut peer in [again, survivor] {
        peer.drain();
        assert!(peer.terminate().success());
    }
    assert_eq!(leftovers(), before, "nothing is left behind");
}

#[test]
fn frames_flow_again_after_the_link_was_down() {
    let Some(wire) = Wire::new("flap") else {
        return;
    };
    let mut peers = [wire.spawn(&wire.task(1, "load")), wire.spawn(&wire.task(2, "load"))];
    for peer in &mut peers {
        peer.expect("state=Up", LONG);
        flowing(peer);
    }
    for _ in 0..3 {
        assert!(ip(&format!("-n {} link set link0 down", wire.names[0])));
        std::thread::sleep(Duration::from_millis(300));
        assert!(ip(&format!("-n {} link set link0 up", wire.names[0])));
        for peer in &mut peers {
            peer.drain();
            flowing(peer);
        }
    }
    for peer in peers {
        assert!(peer.terminate().success());
    }
}

/// Waits until a peer under load takes in good frames, and returns what it says then.
fn flowing(peer: &mut Peer) -> String {
    let first = number(&peer.expect("good=", LONG), "good");
    for _ in 0..100 {
        let line = peer.expect("good=", LONG);
        if number(&line, "good") > first + 100 {
            return line;
        }
    }
    panic!("no frames arrive");
}
