//! Two processes over memif: every byte of every frame, restarts of either side, and death under load.

use std::path::PathBuf;
use std::time::Duration;

use crate::peer::{Peer, Task, leftovers, number};

const LONG: Duration = Duration::from_secs(30);

pub(crate) struct Socket(PathBuf);

impl Socket {
    pub(crate) fn new(name: &str) -> Socket {
        let file = format!("ibid-dpdk-{name}-{}.sock", std::process::id());
        Socket(std::env::temp_dir().join(file))
    }
    pub(crate) fn task(&self, role: &str, mode: &'static str) -> Task {
        let side = if role == "server" { 1 } else { 2 };
        Task::new(&format!("memif:{}:{role}", self.0.display()), side, mode)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn transfer(name: &str, bytes: usize, count: u64, memory: &'static str) {
    let socket = Socket::new(name);
    let mut target = Peer::spawn(
        &socket.task("server", "target").count(count).bytes(bytes).memory(memory),
        None,
    );
    let mut source = Peer::spawn(
        &socket.task("client", "source").count(count).bytes(bytes).memory(memory),
        None,
    );
    assert_eq!(number(&source.expect("sent=", LONG), "sent"), count);
    let end = source.expect("end ", LONG);
    assert!(number(&end, "tx") >= count);
    assert_eq!(number(&target.expect("got=", LONG), "got"), count);
    let end = target.expect("end ", LONG);
    assert_eq!(number(&end, "bad"), 0);
    assert_eq!(number(&end, "dropped"), 0);
    source.expect("clean", LONG);
    target.expect("clean", LONG);
    assert!(source.finish().success() && target.finish().success());
    assert!(!socket.0.exists(), "the server removes its socket");
}

#[test]
fn two_thousand_jumbo_frames_arrive_in_every_byte() {
    transfer("jumbo", usize::MAX, 2000, "ordinary");
}

#[test]
fn frames_of_all_sizes_mixed_arrive_in_every_byte() {
    transfer("mixed", 0, 4000, "ordinary");
}

#[test]
fn it_works_the_same_in_huge_pages() {
    if ibid_free_huge_mib() < 160 {
        println!("skipped: fewer than 160 MiB of huge pages are free (hugepages/reserve.sh)");
        return;
    }
    transfer("huge", 0, 2000, "huge");
}

fn ibid_free_huge_mib() -> u64 {
    let text = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    text.ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0) * 2
}

#[test]
fn a_second_server_on_a_served_socket_is_refused() {
    let socket = Socket::new("second");
    let mut first = Peer::spawn(&socket.task("server", "load"), None);
    first.expect("open", LONG);
    let mut second = Peer::spawn(&socket.task("server", "load"), None);
    assert!(!second.finish().success());
    assert!(first.alive() && socket.0.exists());
    assert!(first.terminate().success());
}

/// Each side in turn dies under load; the other one goes on and talks to its successor. Ten deaths can't prove the gate
/// (the stock driver crashes in one of ten to twenty; longer trials are in docs/decisions/0001), but they do show that both roles reconnect.
#[test]
fn the_survivor_goes_on_after_its_peer_was_killed_under_load() {
    let before = leftovers();
    let socket = Socket::new("kill");
    // The client may come first: it waits for a server without failing.
    let mut client = Peer::spawn(&socket.task("client", "load"), None);
    client.expect("open", LONG);
    let mut server = Peer::spawn(&socket.task("server", "load"), None);
    for round in 0..10 {
        client.expect("state=Up", LONG);
        server.expect("state=Up", LONG);
        client.expect("good=", LONG);
        client.expect("good=", LONG);
        client.drain();
        server.drain();
        let (victim, survivor) =
            if round % 2 == 0 { (&mut server, &mut client) } else { (&mut client, &mut server) };
        let role = if round % 2 == 0 { "server" } else { "client" };
        let task = socket.task(role, "load");
        let fresh = || Peer::spawn(&task, None);
        // Replaced only after the survivor has noticed; a killed server's socket file stays for its successor to remove.
        victim.kill();
        survivor.expect("state=AwaitingDevice", LONG);
        assert!(survivor.alive());
        *victim = fresh();
    }
    client.expect("state=Up", LONG);
    server.expect("state=Up", LONG);
    let line = client.expect("good=", LONG);
    assert_eq!(number(&line, "bad"), 0);
    for mut peer in [client, server] {
        peer.drain();
        assert!(peer.terminate().success());
    }
    assert!(!socket.0.exists());
    assert_eq!(leftovers(), before, "nothing is left behind");
}
