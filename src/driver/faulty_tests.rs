//! What a faulty port promises, over a port that shows to itself what it was given.

use super::*;
use crate::loop_port::Loop;
use std::cell::Cell;
use std::rc::Rc;

/// A clock that is set.
#[derive(Clone, Default)]
struct Set(Rc<Cell<u64>>);

impl Clock for Set {
    fn now(&mut self) -> Nanos {
        Nanos::from_micros(self.0.get())
    }
}

struct Cable {
    port: FaultyPort<Loop, Set>,
    clock: Set,
    room: Rc<Cell<usize>>,
    counts: Arc<LinkFaultCounts>,
}

impl Cable {
    fn new(faults: LinkFaults) -> Cable {
        let clock = Set::default();
        let arena = Arc::new(Arena::new(2 << 20, false).unwrap().0);
        let inner = Loop::new(arena.clone());
        let room = inner.room.clone();
        let counts = Arc::new(LinkFaultCounts::default());
        let port = FaultyPort::new(inner, arena, faults, &counts, clock.clone());
        Cable { port, clock, room, counts }
    }

    fn send(&mut self, number: u32) {
        let datagram: Vec<u8> = number.to_le_bytes().iter().copied().cycle().take(400).collect();
        self.port.send(Class::Log, &datagram, &[], None).unwrap();
    }

    /// What arrives now: numbers of whole datagrams, `None` of those that were changed.
    fn receive(&mut self) -> Vec<Option<u32>> {
        let mut seen = Vec::new();
        self.port.receive(usize::MAX, &mut |datagram| {
            let whole = datagram.len() == 400 && datagram.chunks(4).all(|c| c == &datagram[..4]);
            seen.push(whole.then(|| u32::from_le_bytes(datagram[..4].try_into().unwrap())));
        });
        seen
    }

    /// Sends `count` datagrams, 10 µs apart, and waits for the last.
    fn run(&mut self, count: u32) -> Vec<Option<u32>> {
        let mut seen = Vec::new();
        for number in 0..count {
            self.send(number);
            self.clock.0.set(self.clock.0.get() + 10);
            seen.extend(self.receive());
        }
        for _ in 0..1000 {
            self.clock.0.set(self.clock.0.get() + 10);
            seen.extend(self.receive());
        }
        seen
    }
}

#[test]
fn without_faults_everything_passes_in_order() {
    let seen = Cable::new(LinkFaults::default()).run(1000);
    assert!(seen.into_iter().eq((0..1000).map(Some)));
}

#[test]
fn the_same_seed_gives_the_same_faults_and_another_gives_others() {
    let faults = |seed| LinkFaults {
        drop: 50_000,
        duplicate: 100_000,
        reorder: 100_000,
        corrupt: 20_000,
        delay: Nanos::from_micros(70),
        seed,
        ..LinkFaults::default()
    };
    let run = |seed| Cable::new(faults(seed)).run(2000);
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn chances_are_kept_and_counted() {
    let count = 20_000;
    // Both ways: a datagram of the loop suffers twice.
    let mut cable = Cable::new(LinkFaults { drop: 100_000, ..LinkFaults::default() });
    let arrived = cable.run(count).len() as u64;
    assert_eq!(arrived + cable.counts.dropped(), u64::from(count));
    let expected = u64::from(count) * 81 / 100;
    assert!(arrived.abs_diff(expected) < 400, "{arrived} of {count}");

    let mut cable = Cable::new(LinkFaults { duplicate: 100_000, ..LinkFaults::default() });
    let seen = cable.run(count);
    assert_eq!(seen.len() as u64, u64::from(count) + cable.counts.duplicated());
    assert!(cable.counts.duplicated().abs_diff(4200) < 400, "{}", cable.counts.duplicated());
    let mut numbers: Vec<u32> = seen.into_iter().map(Option::unwrap).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert!(numbers.into_iter().eq(0..count), "none is lost");

    let mut cable = Cable::new(LinkFaults { corrupt: 100_000, ..LinkFaults::default() });
    let seen = cable.run(count);
    assert_eq!(seen.len(), count as usize);
    let changed = seen.iter().filter(|seen| seen.is_none()).count() as u64;
    // What is cut to nothing is cut no further; what is changed may be changed twice.
    assert!(changed <= cable.counts.corrupted() && changed.abs_diff(3800) < 400, "{changed}");

    let mut cable = Cable::new(LinkFaults { reorder: 100_000, ..LinkFaults::default() });
    let seen: Vec<u32> = cable.run(count).into_iter().map(Option::unwrap).collect();
    assert!(!seen.is_sorted());
    let mut sorted = seen.clone();
    sorted.sort_unstable();
    assert!(sorted.into_iter().eq(0..count), "none is lost, none comes twice");
    // A millisecond each way is a hundred datagrams each way.
    assert!(seen.iter().enumerate().all(|(at, number)| at as i64 - i64::from(*number) <= 220));
}

#[test]
fn a_delay_is_kept_to_the_microsecond_in_both_directions() {
    let mut cable =
        Cable::new(LinkFaults { delay: Nanos::from_millis(1), ..LinkFaults::default() });
    cable.send(1);
    cable.clock.0.set(999);
    assert_eq!(cable.receive(), []);
    cable.clock.0.set(1000);
    assert_eq!(cable.receive(), [], "on its way back");
    cable.clock.0.set(1999);
    assert_eq!(cable.receive(), []);
    cable.clock.0.set(2000);
    assert_eq!(cable.receive(), [Some(1)]);
}

#[test]
fn nothing_passes_in_a_blackout_and_everything_before_and_after() {
    let blackout = Blackout { from: Nanos::from_millis(10), length: Nanos::from_millis(5) };
    let mut cable = Cable::new(LinkFaults { blackout: Some(blackout), ..LinkFaults::default() });
    let seen: Vec<u32> = cable.run(3000).into_iter().map(Option::unwrap).collect();
    // Number n is sent at 10 n µs and received 10 µs later.
    assert!(seen.into_iter().eq((0..999).chain(1500..3000)));
    assert_eq!(cable.counts.blacked_out(), 501);
}

#[test]
fn what_was_under_way_when_it_went_dark_is_lost() {
    let blackout = Blackout { from: Nanos::from_millis(10), length: Nanos::from_millis(5) };
    let faults = LinkFaults {
        blackout: Some(blackout),
        delay: Nanos::from_millis(2),
        ..LinkFaults::default()
    };
    let mut cable = Cable::new(faults);
    cable.clock.0.set(9_000);
    cable.send(1);
    cable.clock.0.set(11_500);
    assert_eq!(cable.receive(), []);
    cable.clock.0.set(20_000);
    assert_eq!(cable.receive(), []);
    assert_eq!(cable.counts.blacked_out(), 1);
}

#[test]
fn a_bottleneck_lets_its_rate_pass_and_loses_what_its_queue_does_not_hold() {
    // 442 bytes each 10 µs are 44.2 MB/s; a fifth of that passes.
    let bottleneck = Bottleneck { rate: 8_840_000, queue: 20 * 442 };
    let mut cable =
        Cable::new(LinkFaults { bottleneck: Some(bottleneck), ..LinkFaults::default() });
    let seen = cable.run(10_000).len() as u64;
    assert!(seen.abs_diff(2020) <= 5, "{seen}");
    assert_eq!(seen + cable.counts.overflowed(), 10_000);
}

#[test]
fn places_are_bounded_and_a_busy_port_is_waited_for() {
    let mut cable =
        Cable::new(LinkFaults { delay: Nanos::from_micros(1), ..LinkFaults::default() });
    cable.room.set(0);
    for number in 0..HELD_MAX as u32 + 10 {
        cable.send(number);
    }
    assert_eq!(cable.counts.overflowed(), 10);
    cable.clock.0.set(100);
    assert_eq!(cable.receive(), [], "the port is busy");
    cable.room.set(3);
    cable.port.flush();
    cable.clock.0.set(200);
    cable.port.flush();
    cable.receive();
    cable.clock.0.set(300);
    assert_eq!(cable.receive(), [Some(0), Some(1), Some(2)]);
    cable.room.set(usize::MAX);
    cable.receive();
    cable.clock.0.set(400);
    assert_eq!(cable.receive().len(), HELD_MAX - 3);
    assert_eq!(cable.counts.overflowed(), 10, "nothing more was lost");
}

#[test]
fn payload_of_the_arena_is_copied_in_its_place() {
    let mut cable =
        Cable::new(LinkFaults { delay: Nanos::from_micros(1), ..LinkFaults::default() });
    cable.port.arena.copy_in(4096, b"payload");
    let spans = [Span { at: 4099, len: 4 }, Span { at: 4096, len: 3 }];
    cable.port.send(Class::Log, b"head ", &spans, None).unwrap();
    // Written over after the send, as a freed page may be.
    cable.port.arena.copy_in(4096, b"another");
    let mut seen = Vec::new();
    for at in 1..4 {
        cable.clock.0.set(at);
        cable.port.receive(8, &mut |datagram| seen.extend_from_slice(datagram));
    }
    assert_eq!(seen, b"head loadpay");
}

#[test]
fn a_seal_is_shown_each_datagram_that_goes_on_once() {
    let faults =
        LinkFaults { drop: 100_000, duplicate: 200_000, reorder: 100_000, ..LinkFaults::default() };
    let mut cable = Cable::new(faults);
    let (mut shown, mut seen) = (0u32, Vec::new());
    for at in 0..1000 {
        let mut seal = |datagram: &mut [u8]| {
            shown += 1;
            datagram[..4].copy_from_slice(&shown.to_le_bytes());
        };
        cable.port.send(Class::Log, &[0; 8], &[], Some(&mut seal)).unwrap();
        cable.clock.0.set(at * 10);
        cable.port.receive(64, &mut |datagram| {
            seen.push(u32::from_le_bytes(datagram[..4].try_into().unwrap()));
        });
    }
    cable.clock.0.set(100_000);
    cable.port.receive(64, &mut |datagram| {
        seen.push(u32::from_le_bytes(datagram[..4].try_into().unwrap()));
    });
    assert!((850..950).contains(&shown), "{shown}");
    assert!(seen.iter().all(|number| (1..=shown).contains(number)));
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.len() > 750, "what was sealed arrived as it was sealed: {}", seen.len());
}
