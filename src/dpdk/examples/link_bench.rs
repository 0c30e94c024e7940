//! Measures a link device between two processes: round trips, and frames one way. Not a test: it prints.
//! `cargo run --release -p ibid-dpdk --example link_bench -- memif` needs nothing, `… -- af_packet` needs root.
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "the processes are those of the tests, whose helpers are included as they are"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::process::Command;
use std::time::Duration;

use common::{Peer, Task, run_peer};

const LONG: Duration = Duration::from_secs(60);
/// A 4 KiB block and the link's header.
const BLOCK_BYTES: usize = 4096 + 86;
const ROUNDS: u64 = 50_000;
const SPAN_MS: u64 = 2000;

fn ip(arguments: &str) {
    let _status = Command::new("ip").args(arguments.split(' ')).status();
}

fn main() {
    if run_peer() {
        return;
    }
    let device = std::env::args().nth(1).unwrap_or_default();
    let id = std::process::id();
    let names = [1, 2].map(|side| format!("ibid-bench-{id}-{side}"));
    let socket = std::env::temp_dir().join(format!("ibid-bench-{id}.sock"));
    let veth = match device.as_str() {
        "memif" => false,
        "af_packet" => true,
        _ => {
            eprintln!("usage: link_bench memif|af_packet");
            std::process::exit(2);
        }
    };
    if veth {
        let [a, b] = &names;
        ip(&format!("netns add {a}"));
        ip(&format!("netns add {b}"));
        ip(&format!(
            "link add link0 mtu 9000 netns {a} type veth peer name link0 mtu 9000 netns {b}"
        ));
        ip(&format!("-n {a} link set link0 up"));
        ip(&format!("-n {b} link set link0 up"));
    }
    let spawn = |side: u8, mode: &'static str, count: u64, bytes: usize| {
        let role = if side == 1 { "server" } else { "client" };
        let text = match veth {
            true => "af_packet:link0".to_owned(),
            false => format!("memif:{}:{role}", socket.display()),
        };
        let task = Task::new(&text, side, mode).count(count).bytes(bytes);
        Peer::spawn(&task, veth.then_some(names[usize::from(side) - 1].as_str()), &[])
    };
    for (name, bytes) in [("64 B", 64), ("block", BLOCK_BYTES), ("full", usize::MAX)] {
        let echo = spawn(1, "echo", 0, bytes);
        let mut ping = spawn(2, "ping", ROUNDS, bytes);
        println!("{device} {name}: {}", ping.expect("rounds=", LONG));
        ping.finish();
        echo.terminate();
        let mut sink = spawn(1, "sink", SPAN_MS, bytes);
        let pour = spawn(2, "pour", 0, bytes);
        println!("{device} {name}: {}", sink.expect("frames_per_s=", LONG));
        sink.finish();
        pour.terminate();
    }
    if veth {
        for name in &names {
            ip(&format!("netns del {name}"));
        }
    }
}
