//! Ports of two processes on one link. DPDK starts once in a process, so the tests start this binary again as each of their peers.

#[path = "../common/mod.rs"]
mod common;

mod addresses;
mod af_packet;
mod measured;
mod memif;
mod peer;

/// No test by itself: what the other tests start as their peers, by this name. It fails where it is asked for by hand.
#[test]
#[ignore = "it is the other tests' peer process: they run it"]
fn peer_process() {
    assert!(peer::run_peer(), "started by another test only");
}
