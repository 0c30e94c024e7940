//! The link's port: datagrams out of the arena onto a DPDK device, and off it into the engine's hands.
//! Takes a [`LinkConfig`], the arena and a clock; implements [`Port`]. Finds the peer by ARP or NDP, follows the device's link, and
//! starts a memif client again when its server is back; all of that without ever waiting.
//!
//! PORT-1  Memory is taken in [`LinkPort::open`]: pools, the queue of pending frames, the stash. Not after.
//! PORT-2  A buffer is in exactly one place: pool, stash, outbox, or the device.
//! PORT-3  Buffers come back before their pools go: the device is closed and the queue freed first.

use std::sync::Arc;

use ibid_driver::{Arena, Class, Clock, Port, PortBusy, PortCounters, Seal};
use ibid_units::{Nanos, Span};

use crate::config::{LinkConfig, LinkDevice, MemifRole};
use crate::device::{Abilities, Device};
use crate::eal::Eal;
use crate::error::PortError;
use crate::ethernet;
use crate::frames::Frames;
use crate::gate::{Gate, Inside};
use crate::headers::{self, Dropped, Ends, Seen};
use crate::mbuf::{self, Mbuf};
use crate::neighbour::{Heard, Neighbour, NeighbourFrame};
use crate::outbox::{BURST_FRAMES, Outbox};
use crate::pool::Pool;
use crate::socket;
use crate::template::{Template, UdpChecksum};

/// How far the port has come towards its peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// The device has no link: its peer, cable or server is not there.
    AwaitingDevice,
    /// The link is up, the peer (or the gateway) has not told its Ethernet address.
    AwaitingPeer,
    /// Frames go out.
    Up,
}

/// What a port counts beside [`PortCounters`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkDetails {
    /// Frames that arrived and were dropped, by [`Dropped`].
    pub dropped: [u64; Dropped::COUNT],
    /// Frames that arrived in several segments and were put together with a copy.
    pub rx_linearised: u64,
    /// Frames that were accepted by `send` and given up because the device's link went away.
    pub tx_abandoned: u64,
    /// `send` calls that were told [`PortBusy`].
    pub tx_busy: u64,
    /// ARP and NDP frames given to the device.
    pub neighbour_sent: u64,
    /// Times that the link came up.
    pub link_ups: u64,
    /// Attempts to start the device.
    pub starts: u64,
}

/// What a port makes use of, decided once at start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkFacts {
    /// Name of DPDK's driver.
    pub driver: String,
    /// Who makes the UDP checksum of what is sent.
    pub tx_checksum: UdpChecksum,
    /// The device looks at the UDP checksum of what is received; what it doesn't call right is summed by the CPU.
    pub rx_checksum_by_device: bool,
}

/// A UDP port to one peer over one DPDK device. Used by one thread at a time.
pub struct LinkPort<C: Clock> {
    clock: C,
    ends: Ends,
    neighbour: Neighbour,
    template: Option<Template>,
    state: LinkState,
    /// memif's client: the one device that must be started again when its peer returns.
    restarts: bool,
    start_at: Nanos,
    tend_at: Nanos,
    heard_at: Nanos,
    heard: bool,
    polls: u32,
    datagram_bytes_max: usize,
    facts: LinkFacts,
    outbox: Outbox,
    scratch: Box<[u8]>,
    counters: PortCounters,
    details: LinkDetails,
    /// The socket file that we serve, to be removed on drop.
    socket: Option<std::path::PathBuf>,

    device: Option<Device>,
    gate: Option<Gate>,
    // Dropped after the device, which `drop` takes first (PORT-3).
    _receive: Pool,
    frames: Frames,
    _eal: Eal,
}

impl<C: Clock> LinkPort<C> {
    /// Opens the device and takes all memory the port will ever use. A peer that is not there yet is no error.
    pub fn open(
        eal: &Eal,
        config: &LinkConfig,
        arena: Arc<Arena>,
        clock: C,
    ) -> Result<LinkPort<C>, PortError> {
        config.check()?;
        let arguments = config.arguments()?;
        let mut served = None;
        let mut restarts = false;
        let mut gate = None;
        match &config.device {
            LinkDevice::AfPacket { interface } => socket::check_interface(interface, config.mtu)?,
            LinkDevice::Memif { socket, role } => {
                match role {
                    MemifRole::Server => {
                        socket::remove_stale(socket)?;
                        served = Some(socket.clone());
                    }
                    MemifRole::Client => restarts = true,
                }
                gate = Some(Gate::install(eal)?);
            }
            LinkDevice::Vdev(_) | LinkDevice::Pci(_) => {}
        }
        let inside = gate.as_ref().map(Gate::enter_waiting);
        // Declared before the device, hence dropped after it where something below fails (PORT-3).
        let (receive, frames);
        let mut device = Device::probe(eal, &arguments)?;
        let v6 = config.local.is_ipv6();
        let found = device.abilities();
        // Over IPv4 none is sent.
        let abilities = Abilities { tx_udp: found.tx_udp && v6, ..found };
        device.use_only(abilities);
        let numa = device.numa_socket();
        let frame = config.frame_bytes_max();
        receive = Pool::new(config.receive_buffers(), config.room_bytes(), numa)?;
        frames = Frames::new(arena, frame, numa)?;
        device.configure(&receive, config.mtu)?;
        let ends = Ends {
            local_mac: device.mac()?,
            local: config.local,
            peer: config.peer,
            next_hop: config.gateway.unwrap_or(config.peer.ip()),
            vlan: config.vlan,
            mtu: config.mtu,
        };
        let facts = LinkFacts {
            driver: device.driver().to_owned(),
            tx_checksum: match (v6, abilities.tx_udp) {
                (false, _) => UdpChecksum::None,
                (true, true) => UdpChecksum::Device,
                (true, false) => UdpChecksum::Software,
            },
            rx_checksum_by_device: abilities.rx_udp,
        };
        match device.start() {
            Err(_) if restarts => {}
            started => started?,
        }
        if v6 {
            // Who filters nothing need not be able to.
            device.listen_to_groups();
        }
        drop(inside);

        let mut port = LinkPort {
            clock,
            ends,
            neighbour: Neighbour::new(ends, config.peer_mac),
            template: None,
            state: LinkState::AwaitingDevice,
            restarts,
            start_at: Nanos::ZERO,
            tend_at: Nanos::ZERO,
            heard_at: Nanos::ZERO,
            heard: false,
            polls: 0,
            datagram_bytes_max: frame - ends.header_bytes(),
            facts,
            outbox: Outbox::new(),
            scratch: vec![0; frame].into(),
            counters: PortCounters::default(),
            details: LinkDetails::default(),
            socket: served,
            device: Some(device),
            gate,
            _receive: receive,
            frames,
            _eal: eal.clone(),
        };
        let now = port.clock.now();
        let started = port.device.as_ref().is_some_and(Device::started);
        port.start_at = now.after(if started { CONNECT_WAIT } else { START_RETRY });
        port.heard_at = now;
        if let Some(inside) = port.enter() {
            port.tend(now, &inside);
        }
        Ok(port)
    }

    /// How far the port has come towards its peer.
    pub fn state(&self) -> LinkState {
        self.state
    }

    /// Our Ethernet address.
    pub fn mac(&self) -> [u8; 6] {
        self.ends.local_mac
    }

    /// The Ethernet address that frames to the peer have, as configured or learnt: the peer's, or the gateway's.
    pub fn peer_mac(&self) -> Option<[u8; 6]> {
        self.neighbour.mac()
    }

    /// What the port makes use of.
    pub fn facts(&self) -> &LinkFacts {
        &self.facts
    }

    /// What was counted beside the [`PortCounters`].
    pub fn details(&self) -> LinkDetails {
        self.details
    }

    /// Keeps DPDK's interrupt thread out of the driver, or `None` where it is in it now. Devices without a gate have no driver
    /// code on that thread.
    #[inline]
    fn enter(&self) -> Option<Option<Inside>> {
        match &self.gate {
            Some(gate) => gate.enter().map(Some),
            None => Some(None),
        }
    }

    /// Follows the device's link and the peer's address. Takes proof that the driver may be called.
    fn tend(&mut self, now: Nanos, _inside: &Option<Inside>) {
        if now < self.tend_at {
            return;
        }
        let Some(device) = &mut self.device else {
            return;
        };
        let up = device.started() && device.link_up();
        self.tend_at = now.after(if up { TEND_UP } else { TEND_DOWN });
        if let Some(gate) = &mut self.gate {
            gate.link_down(!up);
        }
        if !up {
            if self.state != LinkState::AwaitingDevice {
                self.state = LinkState::AwaitingDevice;
                self.template = None;
                self.abandon();
                // A dying server may still listen while its connections are closed already.
                self.start_at = now.after(START_RETRY);
            }
            let Some(device) = &mut self.device else {
                return;
            };
            if self.restarts && now >= self.start_at {
                device.stop();
                self.details.starts += 1;
                let wait = if device.start().is_ok() { CONNECT_WAIT } else { START_RETRY };
                self.start_at = now.after(wait);
            }
            return;
        }
        if self.state == LinkState::AwaitingDevice {
            self.details.link_ups += 1;
            self.state = LinkState::AwaitingPeer;
            self.heard_at = now;
            self.neighbour.forget();
        }
        if std::mem::take(&mut self.heard) {
            self.heard_at = now;
        }
        if self.state == LinkState::AwaitingPeer {
            self.address_peer();
        }
        let silent = now.since(self.heard_at) >= SILENCE;
        if let Some(question) = self.neighbour.ask(now, silent) {
            self.send_neighbour(&question);
        }
    }

    /// Makes the template for the peer's address, if it is known.
    fn address_peer(&mut self) {
        if let Some(mac) = self.neighbour.mac() {
            self.template = Some(Template::new(&self.ends, mac, self.facts.tx_checksum));
            if self.state == LinkState::AwaitingPeer {
                self.state = LinkState::Up;
            }
        }
    }

    /// Gives up what is pending: the link is gone, and the link layer above will send anew what still matters.
    fn abandon(&mut self) {
        self.details.tx_abandoned += self.outbox.abandon();
    }

    fn send_neighbour(&mut self, frame: &NeighbourFrame) {
        // Lost where there is no room: who asks, asks again.
        if self.outbox.room()
            && let Some(mbuf) = self.frames.plain(frame.bytes())
        {
            self.details.neighbour_sent += 1;
            self.outbox.push(mbuf, Class::Control);
            self.flush_inside();
        }
    }

    /// Gives pending frames to the device, as many as it takes. The caller is inside the gate.
    fn flush_inside(&mut self) {
        if let Some(device) = &mut self.device {
            self.outbox.flush(device, &mut self.counters);
        }
    }

    /// Looks at one received frame. True if it was a datagram.
    #[inline]
    fn take(&mut self, mbuf: Mbuf, sink: &mut dyn FnMut(&mut [u8])) -> bool {
        // The scratch buffer is lent out for this frame.
        let mut scratch = std::mem::take(&mut self.scratch);
        // SAFETY: the frame comes from the burst that the caller took and frees afterwards.
        let found = unsafe { mbuf::bytes(mbuf, &mut scratch) };
        // SAFETY: as above.
        let noted = unsafe { mbuf::noted(mbuf) };
        let mut datagram = false;
        let outcome = match found {
            None => Err(Dropped::Oversize),
            Some((frame, put_together)) => {
                self.details.rx_linearised += u64::from(put_together);
                match headers::parse(frame, &self.ends, noted) {
                    Ok(Seen::Datagram(place)) => {
                        datagram = true;
                        self.counters.rx_frames += 1;
                        self.counters.rx_bytes += frame.len() as u64;
                        sink(&mut frame[place]);
                        Ok(())
                    }
                    Ok(Seen::Arp(place)) => {
                        let heard = self.neighbour.hear_arp(&frame[place]);
                        heard.map(|heard| self.heard(heard))
                    }
                    Ok(Seen::Ndp(place)) => {
                        let from = ethernet::source(frame);
                        let heard = self.neighbour.hear_ndp(&frame[place], from);
                        heard.map(|heard| self.heard(heard))
                    }
                    Err(reason) => Err(reason),
                }
            }
        };
        self.scratch = scratch;
        if let Err(reason) = outcome {
            self.counters.rx_dropped += 1;
            self.details.dropped[reason as usize] += 1;
        }
        datagram
    }

    fn heard(&mut self, heard: Heard) {
        if heard.learnt.is_some() {
            self.address_peer();
        }
        if let Some(answer) = heard.answer {
            self.send_neighbour(&answer);
        }
    }

    #[inline]
    fn busy(&mut self) -> Result<(), PortBusy> {
        self.details.tx_busy += 1;
        Err(PortBusy)
    }
}

impl<C: Clock> Port for LinkPort<C> {
    fn datagram_bytes_max(&self) -> usize {
        self.datagram_bytes_max
    }

    fn overhead_bytes(&self) -> usize {
        self.ends.header_bytes()
    }

    /// # Panics
    /// If the datagram is larger than [`Port::datagram_bytes_max`], or a span doesn't lie in the arena.
    fn send(
        &mut self,
        class: Class,
        head: &[u8],
        spans: &[Span],
        seal: Option<Seal<'_>>,
    ) -> Result<(), PortBusy> {
        let payload: usize = spans.iter().map(|span| span.len as usize).sum();
        assert!(
            head.len() + payload <= self.datagram_bytes_max,
            "a datagram is larger than a frame"
        );
        if self.state != LinkState::Up {
            return self.busy();
        }
        if !self.outbox.room() {
            self.flush();
            if !self.outbox.room() {
                return self.busy();
            }
        }
        let Some(template) = &self.template else {
            return self.busy();
        };
        let Some(mbuf) = self.frames.build(template, head, spans, payload, seal) else {
            return self.busy();
        };
        self.counters.tx_copied_bytes += payload as u64;
        self.outbox.push(mbuf, class);
        if self.outbox.len() >= BURST_FRAMES {
            self.flush();
        }
        Ok(())
    }

    fn flush(&mut self) {
        if self.outbox.len() > 0
            && let Some(_inside) = self.enter()
        {
            self.flush_inside();
        }
    }

    fn receive(&mut self, frames_max: usize, sink: &mut dyn FnMut(&mut [u8])) -> usize {
        let Some(inside) = self.enter() else { return 0 };
        self.polls = self.polls.wrapping_add(1);
        if self.state != LinkState::Up || self.polls.is_multiple_of(POLLS_PER_LOOK) {
            let now = self.clock.now();
            self.tend(now, &inside);
        }
        // What an earlier flush could not hand over, because the device was full or the gate open.
        if self.outbox.len() > 0 {
            self.flush_inside();
        }
        let mut frames: [Mbuf; BURST_FRAMES] = [std::ptr::null_mut(); BURST_FRAMES];
        let (mut taken, mut datagrams) = (0, 0);
        while taken < frames_max {
            let want = BURST_FRAMES.min(frames_max - taken);
            let Some(device) = &mut self.device else {
                break;
            };
            let count = device.receive(&mut frames[..want]);
            for frame in &frames[..count] {
                datagrams += usize::from(self.take(*frame, sink));
            }
            mbuf::free(&mut frames[..count]);
            taken += count;
            if count < want {
                break;
            }
        }
        self.heard |= datagrams > 0;
        datagrams
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }
}

impl<C: Clock> Drop for LinkPort<C> {
    fn drop(&mut self) {
        let inside = self.gate.as_ref().map(Gate::enter_waiting);
        self.flush_inside();
        self.abandon();
        self.device = None;
        drop(inside);
        if let Some(path) = &self.socket {
            // The driver removes it as well; whoever is second finds nothing.
            let _gone = std::fs::remove_file(path);
        }
    }
}

/// Between two looks at the device's link, while it is up and while it is not.
const TEND_UP: Nanos = Nanos::from_millis(2);
const TEND_DOWN: Nanos = Nanos::from_millis(1);
/// Polls of a port that is up between two looks at the clock.
const POLLS_PER_LOOK: u32 = 16;
/// A memif client that found no server tries again after this.
const START_RETRY: Nanos = Nanos::from_millis(50);
/// A memif client that found one gets this long for the handshake, which takes some 20 ms. Long, because a server that was only
/// paused is brought down by a connection that was given up meanwhile.
const CONNECT_WAIT: Nanos = Nanos::from_millis(3000);
/// A peer not heard for so long is asked for its address again.
const SILENCE: Nanos = Nanos::from_millis(1000);

const _: () = {
    const fn moves_between_threads<T: Send>() {}
    moves_between_threads::<LinkPort<ibid_driver::MonotonicClock>>();
};
