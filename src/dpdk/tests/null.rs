//! Bursts on net_null, which takes every frame and gives frames of zeroes, and on net_ring, which holds on to what it is sent:
//! accounting, bounds, refusals, no allocation.
//! The EAL runs in ordinary memory; it starts once in a process, so all tests here share it.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use common::{Ticks, link_config_on, patterned_arena};
use ibid_dpdk::{
    Dropped, Eal, EalConfig, EalError, EalMemory, LinkDevice, LinkPort, LinkState, PortError,
    UdpChecksum,
};
use ibid_driver::{Class, Port};
use ibid_units::Span;

/// Counts the allocations of a thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: hands every call to the system's allocator unchanged, which meets the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's contract is that of `System`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The shared EAL, one test at a time.
fn eal() -> (Eal, MutexGuard<'static, ()>) {
    static EAL: OnceLock<Eal> = OnceLock::new();
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let eal = EAL.get_or_init(|| {
        let config = EalConfig { memory: EalMemory::Ordinary, ..EalConfig::default() };
        let affinity = affinity();
        let (eal, warning) = Eal::init(config).unwrap();
        assert_eq!(warning, None, "ordinary memory was asked for");
        assert_eq!(self::affinity(), affinity, "the caller is not pinned");
        eal
    });
    (eal.clone(), alone)
}

fn affinity() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    status.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap().to_owned()
}

fn open(eal: &Eal, device: &str) -> LinkPort<Ticks> {
    open_on(eal, "v4", device)
}

fn open_on(eal: &Eal, net: &str, device: &str) -> LinkPort<Ticks> {
    let mut config = link_config_on(net, LinkDevice::Vdev(device.into()), 1, 9000);
    config.peer_mac = Some([2, 0, 0, 0, 0, 2]);
    LinkPort::open(eal, &config, patterned_arena(), Ticks::new()).unwrap()
}

#[test]
fn the_eal_starts_once() {
    let (_eal, _alone) = eal();
    assert_eq!(Eal::init(EalConfig::default()).err(), Some(EalError::AlreadyStarted));
}

#[test]
fn frames_go_with_a_flush_and_are_accounted_by_class() {
    let (eal, _alone) = eal();
    let mut port = open(&eal, "net_ring0");
    assert_eq!(port.state(), LinkState::Up, "the peer's address is configured");
    let spans = [Span::new(0, 4096), Span::new(8192, 1000), Span::new(99, 0)];
    for class in [Class::Log, Class::Log, Class::Cp] {
        port.send(class, b"head", &spans, None).unwrap();
    }
    assert_eq!(port.counters().tx_frames, 0, "nothing goes before a flush");
    port.flush();
    let frame = (port.overhead_bytes() + 4 + 5096) as u64;
    let counters = port.counters();
    assert_eq!(counters.tx_frames, 3);
    assert_eq!(counters.tx_bytes, [2 * frame, frame, 0, 0]);
    assert_eq!(counters.tx_copied_bytes, 3 * 5096);
    // The ring gives our own frames back.
    assert_eq!(port.receive(32, &mut |_| panic!("our own frames are not the peer's")), 0);
    assert_eq!(port.details().dropped[Dropped::Station as usize], 3);
    assert_eq!(port.details().rx_linearised, 0, "one segment");
}

#[test]
fn a_full_device_is_busy_and_nothing_is_lost_or_doubled() {
    let (eal, _alone) = eal();
    let mut port = open(&eal, "net_ring1");
    let mut accepted = 0;
    while port.send(Class::Log, b"head", &[Span::new(0, 512)], None).is_ok() {
        accepted += 1;
        assert!(accepted < 10_000, "the queue has a bound");
    }
    assert_eq!(port.details().tx_busy, 1);
    let mut back = 0;
    while back < accepted {
        let before = port.counters().rx_dropped;
        port.receive(32, &mut |_| {});
        port.flush();
        back += port.counters().rx_dropped - before;
        assert!(port.counters().rx_dropped > before, "{back} of {accepted}");
    }
    assert_eq!(port.counters().tx_frames, accepted);
    assert!(port.send(Class::Log, b"head", &[], None).is_ok(), "room again");
    port.flush();
    port.receive(32, &mut |_| {});
}

#[test]
fn a_sealed_datagram_is_shown_once_and_in_one_piece_and_not_at_all_where_there_is_no_room() {
    let (eal, _alone) = eal();
    let mut port = open(&eal, "net_ring4");
    let arena = patterned_arena();
    let (first, second) = (Span::new(0, 4096), Span::new(9000, 12));
    let mut seen = Vec::new();
    let mut seal = |datagram: &mut [u8]| {
        seen.push(datagram.to_vec());
        datagram.fill(0);
    };
    port.send(Class::Log, b"head", &[first, second], Some(&mut seal)).unwrap();
    let whole = [b"head", &*arena.bytes(first), &*arena.bytes(second)].concat();
    assert_eq!(seen, [whole]);
    port.flush();
    assert_eq!(port.counters().tx_copied_bytes, 4108);
    port.receive(32, &mut |_| {});
    assert_eq!(port.details().rx_linearised, 0, "one segment");

    let mut shown = 0;
    let mut accepted = 0;
    while port.send(Class::Log, b"head", &[first], Some(&mut |_| shown += 1)).is_ok() {
        accepted += 1;
    }
    assert_eq!(shown, accepted);
    assert_eq!(port.counters().tx_copied_bytes, 4108 + 4096 * accepted);
}

#[test]
fn what_is_not_for_us_is_dropped_and_bounded_by_the_caller() {
    let (eal, _alone) = eal();
    let mut port = open(&eal, "net_null2,size=64");
    // net_null always has another frame.
    for most in [1, 31, 32, 33, 100] {
        let before = port.counters().rx_dropped;
        assert_eq!(port.receive(most, &mut |_| panic!("zeroes are no datagram")), 0);
        assert_eq!(port.counters().rx_dropped, before + most as u64);
    }
    let dropped = port.details().dropped;
    assert_eq!(dropped.iter().sum::<u64>(), port.counters().rx_dropped);
    assert!(dropped[Dropped::EtherType as usize] > 0);
}

#[test]
fn neither_sending_nor_receiving_allocates() {
    let (eal, _alone) = eal();
    for (net, device) in
        [("v4", "net_null3,size=64"), ("v4", "net_ring3"), ("v6-vlan", "net_ring5")]
    {
        let mut port = open_on(&eal, net, device);
        let before = ALLOCATIONS.with(Cell::get);
        for round in 0..2000u64 {
            for i in 0..40 {
                let spans = [Span::new(round * 512, 4096), Span::new(i, 512)];
                port.send(Class::Log, &[0; 64], &spans, None).unwrap();
            }
            port.flush();
            port.receive(64, &mut |_| {});
        }
        assert_eq!(ALLOCATIONS.with(Cell::get), before, "{device}");
        assert_eq!(port.counters().tx_frames, 80_000, "{device}");
    }
}

#[test]
fn what_a_device_can_do_is_asked_and_nothing_else_is_used() {
    let (eal, _alone) = eal();
    for (net, tx_checksum) in [("v4", UdpChecksum::None), ("v6", UdpChecksum::Software)] {
        let ring = open_on(&eal, net, "net_ring6").facts().clone();
        println!("{ring:?}");
        assert_eq!(ring.driver, "net_ring");
        assert!(!ring.rx_checksum_by_device);
        assert_eq!(ring.tx_checksum, tx_checksum);
        let null = open_on(&eal, net, "net_null6").facts().clone();
        println!("{null:?}");
        assert_eq!(null.driver, "net_null");
        assert_eq!(null.tx_checksum, tx_checksum);
    }
}

#[test]
fn what_breaks_the_contract_panics_before_the_device_sees_it() {
    let (eal, _alone) = eal();
    let mut port = open(&eal, "net_null4");
    let most = port.datagram_bytes_max();
    assert_eq!(most, 9000 - 28);
    let end = patterned_arena().len() as u64;
    let mut panics = |head: &[u8], span: Span| {
        catch_unwind(AssertUnwindSafe(|| port.send(Class::Log, head, &[span], None))).is_err()
    };
    assert!(!panics(&[0; 100], Span::new(0, (most - 100) as u32)), "exactly full");
    assert!(panics(&[0; 101], Span::new(0, (most - 100) as u32)), "one byte too many");
    assert!(!panics(&[], Span::new(end - 10, 10)), "the last bytes");
    assert!(panics(&[], Span::new(end - 10, 11)), "past the arena");
    assert!(panics(&[], Span::new(u64::MAX, 1)), "a sum that overflows");
}

#[test]
fn devices_that_do_not_exist_are_refused_and_names_are_free_again_after_a_drop() {
    let (eal, _alone) = eal();
    let refused = |device: LinkDevice| {
        let config = link_config_on("v4", device, 1, 1500);
        LinkPort::open(&eal, &config, patterned_arena(), Ticks::new()).err()
    };
    let none = refused(LinkDevice::Vdev("net_nosuchdriver0".into()));
    assert!(matches!(none, Some(PortError::Probe(_) | PortError::NotFound)), "{none:?}");
    let interface = "no-such-if".to_owned();
    assert_eq!(refused(LinkDevice::AfPacket { interface }), Some(PortError::NoInterface));
    for _ in 0..5 {
        drop(open(&eal, "net_null5"));
    }
    let _first = open(&eal, "net_null5");
    assert!(refused(LinkDevice::Vdev("net_null5".into())).is_some(), "the name is taken");
}

#[test]
fn a_thread_becomes_an_lcore_and_stops_being_one() {
    let (eal, _alone) = eal();
    for _ in 0..3 {
        let lcore = eal.register_thread().unwrap();
        drop(lcore);
    }
}
