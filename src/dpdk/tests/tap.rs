//! A port over net_tap with the kernel as its peer: a socket that checks what the device has summed, and a kernel that asks for our
//! address and is asked for its own. tap's driver offers checksums in both directions, so these are the offloads as a real device has
//! them. Needs root and /dev/net/tun; skips with a printed reason otherwise.

mod common;

use common::{Ticks, link_config_on, patterned_arena};
use ibid_dpdk::{Eal, EalConfig, EalMemory, LinkDevice, LinkPort, LinkState, UdpChecksum};
use ibid_driver::{Class, Port};
use ibid_units::Span;
use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(20);

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Sends a datagram of head and payload to the kernel until one arrives (the first may wait for its address), and has it sent back.
fn echo(eal: &Eal, net: &str, number: u8) {
    let name = format!("ibidtap{number}");
    let device = LinkDevice::Vdev(format!("net_tap{number},iface={name}"));
    let config = link_config_on(net, device, 1, 1500);
    let v6 = config.peer.is_ipv6();
    let arena = patterned_arena();
    let mut port = LinkPort::open(eal, &config, arena.clone(), Ticks::new()).unwrap();
    println!("{net}: {:?}", port.facts());
    // The driver gives both ends one address: for a bridge behind it that is right, a peer has another.
    ip(&format!("link set {name} address 02:00:00:00:01:0{number}"));
    let bits = if v6 { 64 } else { 24 };
    ip(&format!("addr add {}/{bits} dev {name}", config.peer.ip()));
    let socket = {
        // A new address of IPv6 can't be bound before the kernel has found nobody else to have it.
        let deadline = Instant::now() + WAIT;
        loop {
            match UdpSocket::bind(config.peer) {
                Ok(socket) => break socket,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            port.receive(32, &mut |_| {});
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    socket.set_nonblocking(true).unwrap();
    // Of an even and of an odd length, by turns.
    let heads: [&[u8]; 2] = [&[7; 45], &[7; 46]];
    let span = Span::new(99, 1001);
    let payload = arena.bytes(span).to_vec();
    let whole = heads.map(|head| [head, &payload].concat());
    let mut turn = 0;
    let deadline = Instant::now() + WAIT;
    let (mut there, mut back) = ([0; 2], 0);
    let mut bytes = [0; 2000];
    while back < 20 {
        assert!(
            Instant::now() < deadline,
            "{net}: {there:?} there, {back} back: {:?}",
            port.details()
        );
        if port.state() == LinkState::Up {
            turn += 1;
            port.send(Class::Log, heads[turn % 2], &[span], None).unwrap();
            // Written over before the frame goes, as a freed page may be.
            arena.zero(span);
            port.flush();
            arena.copy_in(span.at, &payload);
        }
        while let Ok((len, from)) = socket.recv_from(&mut bytes) {
            let which = whole.iter().position(|whole| bytes[..len] == *whole);
            assert_eq!(from, config.local);
            there[which.expect("one of the two")] += 1;
            socket.send_to(&bytes[..len], from).unwrap();
        }
        port.receive(32, &mut |datagram| {
            assert!(whole.iter().any(|whole| datagram == whole));
            back += 1;
        });
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(there.iter().all(|count| *count > 0), "{there:?}");
    let facts = port.facts();
    assert_eq!(facts.driver, "net_tap");
    assert_eq!(facts.tx_checksum, if v6 { UdpChecksum::Device } else { UdpChecksum::None });
    assert!(facts.rx_checksum_by_device);
}

#[test]
fn the_kernel_accepts_what_the_device_has_summed() {
    // SAFETY: no precondition.
    let root = unsafe { libc::geteuid() } == 0;
    if !root || !std::path::Path::new("/dev/net/tun").exists() {
        println!("SKIPPED: net_tap needs root and /dev/net/tun");
        return;
    }
    // A network of this thread's own, and of all that it starts: what the machine has of these addresses is out of the way.
    // SAFETY: changes what this thread sees of the network, no memory.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
    let config = EalConfig { memory: EalMemory::Ordinary, ..EalConfig::default() };
    let (eal, _) = Eal::init(config).unwrap();
    echo(&eal, "v4", 0);
    echo(&eal, "v6", 1);
}
