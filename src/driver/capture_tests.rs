//! What a capture promises, over a port that shows to itself what it was given, and over files that are slow or full.

use super::*;
use crate::loop_port::{BYTES_MAX, Loop};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

/// A file that the test reads.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<Vec<u8>>>);

impl Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn config(form: CaptureForm) -> CaptureConfig {
    let [local, peer] = ["10.9.0.1:4790", "10.9.0.2:4790"].map(|end| end.parse().unwrap());
    CaptureConfig { local, peer, datagram_bytes_max: BYTES_MAX, form }
}

fn arena() -> Arc<Arena> {
    Arc::new(Arena::new(2 << 20, false).unwrap().0)
}

/// Way (1 in, 2 out) and datagram of each packet in the file.
fn frames(file: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let (mut at, mut all) = (0, Vec::new());
    while at < file.len() {
        if word(at) == 6 {
            let length = word(at + 20);
            let options = at + 28 + length.next_multiple_of(4);
            all.push((file[options + 4], file[at + 28 + 28..at + 28 + length].to_vec()));
        }
        at += word(at + 4);
    }
    all
}

/// Frames that the packets in the file say are missing before them.
fn missing(file: &[u8]) -> u64 {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let (mut at, mut sum) = (0, 0);
    while at < file.len() {
        if word(at) == 6 {
            // Behind the direction.
            let option = at + 28 + word(at + 20).next_multiple_of(4) + 8;
            if file[option..option + 4] == [4, 0, 8, 0] {
                sum += u64::from_le_bytes(file[option + 4..option + 12].try_into().unwrap());
            }
        }
        at += word(at + 4);
    }
    sum
}

#[test]
fn both_forms_of_both_ways_are_captured_and_pass_unchanged() {
    for form in [CaptureForm::Wire, CaptureForm::Opened] {
        let (file, arena) = (Shown::default(), arena());
        arena.copy_in(4096, b"from the arena");
        let capture = Capture::start(file.clone(), config(form)).unwrap();
        let mut port = capture.around(Loop::new(arena.clone()), arena);
        let spans = [Span::new(4096, 5), Span::new(4101, 9)];
        // Unsealed, then sealed by turning all bits; whoever receives turns them back.
        port.send(Class::Log, b"head, ", &spans, None).unwrap();
        let seal = |bytes: &mut [u8]| bytes.iter_mut().for_each(|byte| *byte ^= 0xff);
        port.send(Class::Log, b"head, ", &spans, Some(&mut { seal })).unwrap();
        let mut got = Vec::new();
        assert_eq!(port.receive(1, &mut |datagram| got.push(datagram.to_vec())), 1);
        port.receive(8, &mut |datagram| {
            seal(datagram);
            got.push(datagram.to_vec());
        });
        let plain = b"head, from the arena".to_vec();
        assert_eq!(got, [plain.clone(), plain.clone()]);

        port.inner.room.set(0);
        assert_eq!(port.send(Class::Log, b"not taken", &[], None), Err(PortBusy));
        assert_eq!(port.send(Class::Log, b"not taken", &[], Some(&mut { seal })), Err(PortBusy));
        assert_eq!((port.datagram_bytes_max(), port.overhead_bytes()), (BYTES_MAX, 42));
        assert_eq!(port.counters().tx_frames, 2);

        let counts = capture.counts();
        drop((port, capture));
        assert_eq!((counts.written(), counts.dropped(), counts.failed()), (4, 0, None));
        let mut second = plain.clone();
        if form == CaptureForm::Wire {
            seal(&mut second);
        }
        let expected = [(2, plain.clone()), (2, second.clone()), (1, plain), (1, second)];
        assert_eq!(frames(&file.0.lock().unwrap()), expected, "{form:?}");
    }
}

/// A file that takes nothing until it is told.
struct Stuck(Receiver<()>, Shown);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Whoever could tell is gone: go on.
        let _told = self.0.recv().is_ok();
        self.1.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_slow_disk_costs_frames_of_the_capture_and_nothing_else() {
    let (go, stuck) = channel();
    // The head of the file.
    go.send(()).unwrap();
    let (file, arena) = (Shown::default(), arena());
    let capture = Capture::start(Stuck(stuck, file.clone()), config(CaptureForm::Wire)).unwrap();
    let mut port = capture.around(Loop::new(arena.clone()), arena);
    // More than the queue and the writer's own buffer hold.
    let count = CAPTURE_FRAMES_MAX * 3;
    for _ in 0..count {
        port.send(Class::Log, &[7; BYTES_MAX], &[], None).unwrap();
    }
    assert_eq!(port.inner.waiting.len(), count);
    let counts = capture.counts();
    let dropped = counts.dropped();
    assert!(dropped > 0 && dropped < count as u64, "{dropped}");
    drop(go);
    // There is room again, and the first that is written says how many are not.
    while counts.written() < 1000 {
        std::thread::yield_now();
    }
    port.send(Class::Log, b"the last", &[], None).unwrap();
    drop((port, capture));
    assert_eq!(counts.written() + counts.dropped(), count as u64 + 1);
    let bytes = file.0.lock().unwrap();
    let frames = frames(&bytes);
    assert_eq!(frames.len() as u64, counts.written());
    assert_eq!(frames.last().unwrap().1, b"the last");
    // Each frame that was written says how many before it are not.
    assert_eq!(missing(&bytes), dropped);
}

/// A full disk.
struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(libc::ENOSPC))
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_ends_the_capture_and_not_the_link() {
    assert!(Capture::start(Full, config(CaptureForm::Wire)).is_err(), "not even the head fits");
    let (arena, first) = (arena(), Shown::default());
    /// Takes the head, then nothing.
    struct HeadOnly(Shown, bool);
    impl Write for HeadOnly {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if std::mem::replace(&mut self.1, true) {
                Full.write(bytes)
            } else {
                self.0.write(bytes)
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let capture = Capture::start(HeadOnly(first, false), config(CaptureForm::Wire)).unwrap();
    let mut port = capture.around(Loop::new(arena.clone()), arena);
    let counts = capture.counts();
    while counts.failed().is_none() {
        port.send(Class::Log, b"frame", &[], None).unwrap();
        std::thread::sleep(LOOK_EVERY);
    }
    port.send(Class::Log, b"frame", &[], None).unwrap();
    drop((port, capture));
    assert_eq!(counts.failed(), Some(libc::ENOSPC));
    assert!(counts.dropped() > 0);
}
