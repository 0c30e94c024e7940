//! Ports of two processes on one link. DPDK starts once in a process, so the tests start this binary again as each of their peers.

#[path = "../common/mod.rs"]
mod common;

mod addresses;
mod af_packet;
mod measured;
mod memif;
mod peer;

/// The peers of the other tests, which start this binary again for this one alone. Asked for without a task it starts one whose task is
/// nonsense: that one must end as a failure, or nobody would hear of a peer that fails.
#[test]
fn peer_process() {
    if peer::run_peer() {
        return;
    }
    let mut peer = peer::Peer::spawn(&peer::Task::new("no-such-device", 1, "load"), None);
    assert_eq!(peer.finish().code(), Some(101), "a test that panicked");
}
