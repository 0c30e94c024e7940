//! The allocator of `no_alloc` refuses, and the drivers' data path passes it: disk, sockets and arena allocate nothing
//! after construction. A binary of its own, for it replaces the global allocator.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ibid_driver::no_alloc::{Refusal, RefusingAllocator, arm, counted, disarm};
use ibid_driver::{
    Arena, Capture, CaptureConfig, CaptureForm, Class, Clock, Disk, DiskFile, DiskOp, FaultyPort,
    FileId, LinkFaults, MonotonicClock, OpenOptions, Piece, Port, PortBusy, PortCounters, Seal,
    StreamEvent, Streams, TcpStreams, UringDisk,
};
use ibid_units::{Nanos, Span};

#[global_allocator]
static ALLOCATOR: RefusingAllocator = RefusingAllocator;

#[test]
fn allocations_are_counted_while_armed_and_by_this_thread_only() {
    let before = black_box(vec![1u8; 100]);
    let (grown, allocations) = counted(|| {
        drop(before);
        let mut bytes: Vec<u8> = black_box(Vec::with_capacity(10));
        bytes.resize(1000, 0);
        bytes
    });
    assert_eq!((grown.len(), allocations), (1000, 2));
    arm(Refusal::Count);
    assert_eq!(disarm(), 0, "the count starts afresh");

    // Another thread allocates while this one is armed and waits for it.
    let stage = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while stage.load(Ordering::Acquire) == 0 {
                std::thread::yield_now();
            }
            drop(black_box(vec![1u8; 100]));
            stage.store(2, Ordering::Release);
        });
        let ((), allocations) = counted(|| {
            stage.store(1, Ordering::Release);
            while stage.load(Ordering::Acquire) != 2 {
                std::thread::yield_now();
            }
        });
        assert_eq!(allocations, 0);
    });
}

#[test]
fn an_armed_thread_that_allocates_stops_the_process() {
    const MARK: &str = "IBID_TEST_ALLOCATE_WHILE_ARMED";
    if std::env::var_os(MARK).is_some() {
        arm(Refusal::Abort);
        drop(black_box(vec![1u8; 4321]));
        disarm();
        return;
    }
    let name = "an_armed_thread_that_allocates_stops_the_process";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(MARK, "1")
        .output()
        .unwrap();
    assert_eq!(child.status.signal(), Some(6), "SIGABRT: {child:?}");
    assert!(String::from_utf8_lossy(&child.stderr).contains("4321 bytes"), "{child:?}");
}

#[test]
fn the_data_path_allocates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (arena, _) = Arena::new(4 << 20, false).unwrap();
    let arena = Arc::new(arena);
    let options = OpenOptions { create_bytes: Some(1 << 20), ..OpenOptions::default() };
    let (file, _) = DiskFile::open(&folder.path().join("volume"), options).unwrap();
    let (mut disk, _) = UringDisk::new(Arc::clone(&arena), vec![file], 16).unwrap();
    let mut streams = TcpStreams::listen("127.0.0.1:0", Arc::clone(&arena), 4).unwrap();
    streams.watch(disk.descriptor().unwrap()).unwrap();
    let address = streams.addresses().unwrap()[0];
    let client = std::thread::spawn(move || {
        let mut socket = TcpStream::connect(address).unwrap();
        for n in 0..50u8 {
            socket.write_all(&[n; 8192]).unwrap();
            let mut reply = [0; 8192];
            socket.read_exact(&mut reply).unwrap();
            assert_eq!(reply, [n; 8192]);
        }
    });

    let mut clock = MonotonicClock::new();
    let start = Instant::now();
    let ((), allocations) = counted(|| {
        // One client's blocks: received into the arena, written, flushed, read elsewhere, sent back.
        let (mut opened, mut echoed) = (None, 0);
        let place = |at| Span::new(at, 8192);
        while echoed < 50 {
            assert!(start.elapsed() < Duration::from_secs(20), "stuck after {echoed}");
            clock.now();
            streams.poll(Nanos::from_micros(200), &mut |event| {
                if let StreamEvent::Opened(id, _) = event {
                    opened = Some(id);
                }
            });
            let Some(id) = opened else { continue };
            let mut span = place(0);
            while span.len > 0 && start.elapsed() < Duration::from_secs(20) {
                if let Ok(count) = streams.receive(id, Some(span), &mut []) {
                    span = span.skip(count as u32);
                }
            }
            let file = FileId(0);
            for op in [
                DiskOp::Zero { file, at: 0, len: 8192 },
                DiskOp::Write { file, at: 8192, span: place(0) },
                DiskOp::Flush { file },
                DiskOp::Read { file, at: 8192, span: place(65536) },
                DiskOp::Flush { file: FileId(7) },
            ] {
                disk.submit(op, 1).unwrap();
                while disk.in_flight() > 0 {
                    disk.poll(&mut |_, result| {
                        assert_eq!(result.is_err(), op == DiskOp::Flush { file: FileId(7) });
                    });
                }
            }
            assert_eq!(arena.crc32c(place(65536)), arena.crc32c(place(0)));
            let mut span = place(65536);
            while span.len > 0 && start.elapsed() < Duration::from_secs(20) {
                if let Ok(count) = streams.send(id, &[Piece::Bytes(&[]), Piece::Span(span)]) {
                    span = span.skip(count as u32);
                }
            }
            echoed += 1;
        }
    });
    assert_eq!(allocations, 0);
    client.join().unwrap();
}

/// Takes every datagram and gives a hundred of its own.
struct Endless;

impl Port for Endless {
    fn datagram_bytes_max(&self) -> usize {
        1500
    }
    fn overhead_bytes(&self) -> usize {
        42
    }
    fn send(
        &mut self,
        _: Class,
        _: &[u8],
        _: &[Span],
        _: Option<Seal<'_>>,
    ) -> Result<(), PortBusy> {
        Ok(())
    }
    fn flush(&mut self) {}
    fn receive(&mut self, frames_max: usize, sink: &mut dyn FnMut(&mut [u8])) -> usize {
        (0..frames_max.min(100)).for_each(|_| sink(&mut [7; 1000]));
        frames_max.min(100)
    }
    fn counters(&self) -> PortCounters {
        PortCounters::default()
    }
}

#[test]
fn a_captured_link_allocates_nothing_also_where_the_file_does_not_keep_up() {
    let arena = Arc::new(Arena::new(2 << 20, false).unwrap().0);
    for form in [CaptureForm::Wire, CaptureForm::Opened] {
        let [local, peer] = ["10.9.0.1:1", "10.9.0.2:1"].map(|end| end.parse().unwrap());
        let config = CaptureConfig { local, peer, datagram_bytes_max: 1500, form };
        let capture = Capture::start(std::io::sink(), config).unwrap();
        let counts = capture.counts();
        let mut port = capture.around(Endless, arena.clone());
        let ((), allocations) = counted(|| {
            for _ in 0..1000 {
                port.send(Class::Log, &[1; 200], &[Span { at: 4096, len: 1000 }], None).unwrap();
                let mut seal = |datagram: &mut [u8]| datagram.fill(3);
                port.send(Class::Log, &[1; 200], &[], Some(&mut seal)).unwrap();
                black_box(port.receive(64, &mut |datagram| {
                    black_box(datagram);
                }));
            }
        });
        assert_eq!(allocations, 0);
        drop(capture);
        assert!(counts.written() > 0 && counts.dropped() > 0, "both ways were gone");
    }
}

#[test]
fn a_bad_cable_holds_thousands_of_frames_without_allocating() {
    let arena = Arc::new(Arena::new(2 << 20, false).unwrap().0);
    let faults = LinkFaults {
        drop: 10_000,
        duplicate: 200_000,
        reorder: 200_000,
        corrupt: 100_000,
        delay: Nanos::from_millis(2),
        ..LinkFaults::default()
    };
    let counts = Arc::default();
    let mut port = FaultyPort::new(Endless, arena, faults, &counts, MonotonicClock::new());
    let ((), allocations) = counted(|| {
        for _ in 0..200 {
            port.send(Class::Log, &[1; 200], &[Span { at: 4096, len: 1000 }], None).unwrap();
            port.flush();
            black_box(port.receive(64, &mut |datagram| {
                black_box(datagram);
            }));
        }
    });
    assert_eq!(allocations, 0);
    assert!(counts.overflowed() > 0, "every place was in use");
}
