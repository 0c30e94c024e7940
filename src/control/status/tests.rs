//! Status says the same as JSON and as text, and the promise never says more than is true.

use super::*;
use crate::config::{Durability, OnPeerLoss};

pub(crate) fn sample() -> Status {
    let uuid: Uuid = "11111111-2222-4333-8444-555555555555".parse().unwrap();
    let standing = Standing {
        role: Role::Source,
        state: PairState::InSync,
        durability: Durability::Disk,
        peer_durability: Some(Durability::Disk),
        on_peer_loss: OnPeerLoss::Stall,
        mirror: MirrorState::Consistent,
        away_s: 0,
        alone_since_s: None,
        out_of_sync_bytes: 0,
        failed: false,
    };
    Status {
        node: NodeStatus {
            name: "a".into(),
            role: Role::Source,
            pair: "6f1c4a52-3d0e-4f0b-9c5e-2f6f0a7b8c9d".parse().unwrap(),
            epoch: 3,
            pid: 4711,
            version: "0.1.0".into(),
            uptime_s: 3_725,
        },
        promise: Promise::new(&standing),
        sync: SyncStatus::new(&standing),
        recovery: Some(RecoveryStatus {
            clean: false,
            end: LogEnd::TornTail,
            entries: 1_200,
            segments: 3,
            bytes: 160 << 20,
            took_ns: 310_000_000,
            lsn: 900,
            lsn_committed: 890,
        }),
        faults: vec![FaultStatus::transient(FaultSubject::Volume, 28, 95, 17)],
        log: LogStatus {
            device: "/var/lib/ibid/a.log".into(),
            segment_bytes: 64 << 20,
            segments_free: 2,
            segments_open: 1,
            segments_sealed: 1,
            lsn: 1_000,
            lsn_durable: 999,
            lsn_peer: 998,
            full_waits: 7,
            full_wait_ns: 12_300_000,
            expired: 2,
            fetched: 5,
            huge_pages: true,
        },
        cp: CpStatus {
            mode: CpMode::Reference,
            cp: 12,
            chain_digest: "ab".repeat(32),
            running: Some(13),
            last_ns: 4_200_000,
            sum: CpRecords {
                references: 900,
                referenced_blocks: 1_800,
                opcodes: 3,
                blocks: 2,
                refused: 1,
            },
        },
        link: LinkStatus {
            device: "af_packet".into(),
            local: "10.9.0.1:4790".parse().unwrap(),
            peer: "10.9.0.2:4790".parse().unwrap(),
            up: true,
            datagram_bytes_max: 8972,
            rtt_ns: Some(34_000),
            tx_frames: 5_000,
            tx_bytes: ClassBytes { log: 44 << 20, cp: 15_000, control: 3_000, catch_up: 0 },
            tx_repeated_frames: 4,
            rx_frames: 2_000,
            rx_bytes: 128_000,
            rx_dropped: 6,
            rx_repeated_frames: 5,
            security: LinkSecurity {
                encryption: Encryption::Full,
                tx_generation: 2,
                rx_generation: 1,
                handshakes: 3,
                rx_unauthentic: 7,
                rx_replayed: 8,
                rx_strange: 9,
                rx_handshakes_unauthentic: 10,
                rx_handshakes_limited: 11,
                tx_cookies: 4,
            },
        },
        target: Some(TargetStatus {
            listen: "10.0.0.1:4420".parse().unwrap(),
            nqn: "nqn.2014-08.com.example:store".into(),
            controllers: 1,
            connections: 5,
            commands: 32,
            access: AccessStatus {
                any_host: false,
                authenticated: vec!["nqn.2014-08.com.example:h1".into()],
                unauthenticated: vec!["nqn.2014-08.com.example:h2".into()],
                succeeded: 5,
                failed: 2,
                under_way: 1,
            },
        }),
        volumes: vec![VolumeStatus {
            name: "v0".into(),
            nsid: 1,
            device: "/var/lib/ibid/v0.img".into(),
            bytes: 1 << 30,
            lba_bytes: 4096,
            uuid,
            path: Some(PathState::Optimized),
            reads: 10,
            read_bytes: 40_960,
            writes: 1_000,
            write_bytes: 4_096_000,
        }],
        copied_bytes: vec![CopiedBytes { place: "source_send".into(), bytes: 0 }],
        latency: vec![StageLatency {
            stage: "write_complete".into(),
            count: 1_000,
            p50_ns: 81_234,
            p99_ns: 410_000,
            p999_ns: 1_900_000,
            max_ns: 2_100_000,
        }],
        warnings: vec!["no huge pages: log memory is ordinary memory".into()],
    }
}

#[test]
fn json_reads_back_the_same_and_tolerates_more() {
    let status = sample();
    let mut json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["promise"]["state"], "in-sync");
    assert_eq!(json["sync"]["line"], "in sync");
    assert_eq!(json["sync"]["mirror"], "consistent");
    assert_eq!(json["sync"]["on_peer_loss"], "stall");
    assert_eq!(json["recovery"]["end"], "torn-tail");
    assert_eq!(json["faults"][0]["is_final"], false);
    assert_eq!(json["node"]["role"], "source");
    assert_eq!(json["volumes"][0]["path"], "optimized");
    assert_eq!(json["cp"]["mode"], "reference");
    assert_eq!(json["link"]["tx_bytes"]["cp"], 15_000);
    json["link"]["a_later_field"] = 1.into();
    assert_eq!(serde_json::from_value::<Status>(json).unwrap(), status);
}

#[test]
fn text_is_aligned_and_says_what_matters_first() {
    let expected = "\
promise   every acknowledged write is on both nodes
FAULT     a volume fails, and the log keeps what it lacks (No space left on device (os error 28)), 17 times in 1 min 35 s: trying again
sync      in sync; mirror consistent; without the peer: stall
node      a, source, epoch 3, up 1 h 2 min, pid 4711, ibid 0.1.0
pair      in-sync (6f1c4a52-3d0e-4f0b-9c5e-2f6f0a7b8c9d)
recovery  1200 entries in 3 segments, 160 MiB read in 310 ms; the log ended in a write that was never acknowledged
durable   here disk, at the peer disk
log       lsn 1000 (durable here 999, at the peer 998); segments of 64MiB: 2 free, 1 open, 1 sealed; huge pages
log full  7 writes waited, 12.3 ms in all; device /var/lib/ibid/a.log
log kept  2 writes ended because they waited too long; 5 batches came back from the peer
cp        12, 13 running, reference mode, last took 4.2 ms
cp sent   900 references for 1800 blocks, 3 opcodes, 2 blocks, 1 refused
chain     abababababababababababababababababababababababababababababababab
link      af_packet 10.9.0.1:4790 -> 10.9.0.2:4790, up, datagrams to 8972 bytes, round trip 34.0 us
link tx   log 44.0 MiB, cp 14.6 KiB, catch-up 0 B, control 2.9 KiB; 5000 frames, 4 again
link rx   125 KiB; 2000 frames, 5 seen before, 6 dropped
link keys encrypted, 3 handshakes, generation 2 out 1 in; dropped: 7 not authentic, 8 replayed, 9 of no session, 10 handshakes not authentic, 11 too many
target    10.0.0.1:4420, 1 hosts, 5 connections, 32 commands; nqn.2014-08.com.example:store
access    must authenticate: nqn.2014-08.com.example:h1; WITHOUT authentication: nqn.2014-08.com.example:h2; 5 authenticated, 2 failed, 1 under way
copied    source_send 0 B

volume    nsid  size   lba  path       reads      read  writes  written  device
v0           1  1GiB  4096  optimized     10  40.0 KiB    1000  3.9 MiB  /var/lib/ibid/v0.img

stage           count      p50     p99   p99.9     max
write_complete   1000  81.2 us  410 us  1.9 ms  2.1 ms
WARNING   no huge pages: log memory is ordinary memory
";
    assert_eq!(sample().to_string(), expected);
    let mut destination = sample();
    destination.volumes[0].path = Some(PathState::Inaccessible);
    let text = destination.to_string();
    assert!(text.contains("example:store; inaccessible here\n"), "{text}");
    assert!(text.contains("4096  inaccessible"), "{text}");
    destination.volumes[0].path = None;
    assert!(destination.to_string().contains("4096  - "), "a node without a target is no path");
}

#[test]
fn who_may_connect_without_authentication_is_said_plainly() {
    let said = |any_host, authenticated: &[&str], unauthenticated: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut status = sample();
        status.target.as_mut().unwrap().access = AccessStatus {
            any_host,
            authenticated: list(authenticated),
            unauthenticated: list(unauthenticated),
            ..AccessStatus::default()
        };
        let text = status.to_string();
        let line = text.lines().find_map(|line| line.strip_prefix("access    "));
        line.unwrap().to_owned()
    };
    assert_eq!(said(true, &[], &[]), "ANY host may connect, WITHOUT authentication");
    assert_eq!(
        said(true, &["a"], &[]),
        "ANY host may connect, WITHOUT authentication; only these names must authenticate: a; 0 authenticated, 0 failed, 0 under way"
    );
    assert_eq!(
        said(false, &["a"], &[]),
        "must authenticate: a; 0 authenticated, 0 failed, 0 under way"
    );
    assert_eq!(said(false, &[], &["a", "b"]), "WITHOUT authentication: a, b");
    assert_eq!(
        said(false, &[], &["a", "b", "c", "d", "e", "f"]),
        "WITHOUT authentication: a, b, c, d and 2 more"
    );
    assert_eq!(said(false, &[], &[]), "nobody may connect");
}

#[test]
fn a_cp_report_says_when_there_was_nothing_to_do() {
    let mut report = CpReport {
        cp: 5,
        taken: true,
        chain_digest: "00".into(),
        records: CpRecords { references: 10, referenced_blocks: 20, ..CpRecords::default() },
        link_bytes: 300,
        duration_ns: 1_500_000,
    };
    let text = report.to_string();
    assert!(
        text.contains("5 in 1.5 ms")
            && text.contains("10 references for 20 blocks")
            && text.contains("300 B")
    );
    report.taken = false;
    assert!(report.to_string().contains("nothing was written since"));
}
