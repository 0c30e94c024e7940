//! A link device measured between two processes: round trips of a datagram that the other side sends back, and frames one way. As a test it is
//! short, and asks for nothing but that they arrive; `IBID_LINK_BENCH=long` makes it long enough for its figures to be worth reading:
//! `IBID_LINK_BENCH=long cargo test --release -p ibid-dpdk --test processes -- --nocapture --test-threads 1 measured`.

use crate::af_packet::Wire;
use crate::memif::Socket;
use crate::peer::{Peer, Task, number};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);
/// A 4 KiB block and the link's header.
const BLOCK_BYTES: usize = 4096 + 86;

fn measure(device: &str, spawn: impl Fn(u8, &'static str, u64, usize) -> Peer) {
    let is_long = std::env::var("IBID_LINK_BENCH").is_ok();
    let (rounds, span_ms) = if is_long { (50_000, 2000) } else { (500, 100) };
    for (name, bytes) in [("64 B", 64), ("block", BLOCK_BYTES), ("full", usize::MAX)] {
        let echo = spawn(1, "echo", 0, bytes);
        let mut ping = spawn(2, "ping", rounds, bytes);
        let line = ping.expect("rounds=", LONG);
        println!("{device} {name}: {line}");
        assert_eq!(number(&line, "rounds"), rounds);
        ping.finish();
        echo.terminate();
        let mut sink = spawn(1, "sink", span_ms, bytes);
        let pour = spawn(2, "pour", 0, bytes);
        let line = sink.expect("frames_per_s=", LONG);
        println!("{device} {name}: {line}");
        assert!(number(&line, "frames_per_s") > 0);
        sink.finish();
        pour.terminate();
    }
}

#[test]
fn memif_is_measured() {
    let socket = Socket::new("measured");
    measure("memif", |side, mode, count, bytes| {
        let role = if side == 1 { "server" } else { "client" };
        let task: Task = socket.task(role, mode).count(count).bytes(bytes);
        Peer::spawn(&task, None)
    });
}

#[test]
fn af_packet_is_measured() {
    let Some(wire) = Wire::new("measured") else { return };
    measure("af_packet", |side, mode, count, bytes| {
        wire.spawn(&wire.task(side, mode).count(count).bytes(bytes))
    });
}
