//! Who has which Ethernet address, by ARP (IPv4) or NDP (IPv6): answers for our address, asks for that of the next hop, learns nothing
//! else. The next hop is the peer, or the router that leads to it. Takes the time and what `arp` and `ndp` have read; gives frames to
//! send and the address. Asks at a growing interval that is bounded at both ends, and again when the peer has been silent.

use std::net::IpAddr;

use ibid_units::Nanos;

use crate::ethernet::{ETHERNET_BYTES, VLAN_BYTES, is_station};
use crate::headers::{Dropped, Ends, IPV6_BYTES};
use crate::{arp, ndp};

/// A frame with a question or an answer, padded to Ethernet's least length.
pub(crate) struct NeighbourFrame {
    bytes: [u8; FRAME_BYTES_MAX],
    len: usize,
}

impl NeighbourFrame {
    /// `write` fills the front and says how many bytes.
    pub(crate) fn new(write: impl FnOnce(&mut [u8]) -> usize) -> NeighbourFrame {
        let mut bytes = [0; FRAME_BYTES_MAX];
        let len = write(&mut bytes).max(FRAME_BYTES_MIN);
        NeighbourFrame { bytes, len }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What somebody has said.
pub(crate) struct Message {
    /// An address and the station that has it, he says.
    pub(crate) tells: Option<(IpAddr, [u8; 6])>,
    /// It is meant for our address, or asks for it.
    pub(crate) for_us: bool,
    /// Who asks for our address.
    pub(crate) asker: Option<Asker>,
}

/// Who is to be answered, and where.
#[derive(Clone, Copy)]
pub(crate) struct Asker {
    pub(crate) ip: IpAddr,
    pub(crate) mac: [u8; 6],
}

/// What we know of the next hop's Ethernet address.
pub(crate) struct Neighbour {
    ends: Ends,
    mac: Option<[u8; 6]>,
    /// Configured by the operator: never asked for, never changed.
    fixed: bool,
    ask_at: Nanos,
    interval: Nanos,
}

/// What a message led to.
#[derive(Default)]
pub(crate) struct Heard {
    /// The answer to send, if we were asked.
    pub(crate) answer: Option<NeighbourFrame>,
    /// The next hop's address is new, or another than before.
    pub(crate) learnt: Option<[u8; 6]>,
}

impl Neighbour {
    pub(crate) fn new(ends: Ends, mac: Option<[u8; 6]>) -> Neighbour {
        Neighbour { ends, mac, fixed: mac.is_some(), ask_at: Nanos::ZERO, interval: ASK_FIRST }
    }

    pub(crate) fn mac(&self) -> Option<[u8; 6]> {
        self.mac
    }

    /// The device came up anew: the next hop may be another machine by now. True if the address is unknown from here on.
    pub(crate) fn forget(&mut self) -> bool {
        if !self.fixed {
            self.mac = None;
            self.ask_at = Nanos::ZERO;
            self.interval = ASK_FIRST;
        }
        self.mac.is_none()
    }

    /// A question for the next hop's address, when it is time for one: while it is unknown, and while the peer is `silent`
    /// (it, or the router, may have come back with another address).
    pub(crate) fn ask(&mut self, now: Nanos, silent: bool) -> Option<NeighbourFrame> {
        if self.fixed || (self.mac.is_some() && !silent) {
            self.interval = ASK_FIRST;
            return None;
        }
        if now < self.ask_at {
            return None;
        }
        self.ask_at = now.after(self.interval);
        self.interval = Nanos::new((self.interval.get() * 2).min(ASK_LAST.get()));
        match (self.ends.local.ip(), self.ends.next_hop) {
            (IpAddr::V4(local), IpAddr::V4(of)) => Some(arp::question(&self.ends, local, of)),
            (IpAddr::V6(local), IpAddr::V6(of)) => Some(ndp::question(&self.ends, local, of)),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }

    /// Takes the payload of an ARP frame.
    pub(crate) fn hear_arp(&mut self, payload: &[u8]) -> Result<Heard, Dropped> {
        match self.ends.local.ip() {
            IpAddr::V4(local) => self.hear(&arp::read(payload, local)?),
            IpAddr::V6(_) => Err(Dropped::EtherType),
        }
    }

    /// Takes an IPv6 packet with an NDP message, from a frame of the station `from`.
    pub(crate) fn hear_ndp(&mut self, packet: &[u8], from: [u8; 6]) -> Result<Heard, Dropped> {
        match self.ends.local.ip() {
            IpAddr::V6(local) => self.hear(&ndp::read(packet, from, local)?),
            IpAddr::V4(_) => Err(Dropped::EtherType),
        }
    }

    fn hear(&mut self, said: &Message) -> Result<Heard, Dropped> {
        let next_hop = said.tells.filter(|(ip, _)| *ip == self.ends.next_hop);
        if next_hop.is_none() && !said.for_us {
            return Err(Dropped::Neighbour);
        }
        let mut heard = Heard::default();
        if let Some((_, mac)) = next_hop
            && !self.fixed
            && is_station(mac)
            && mac != self.ends.local_mac
            && self.mac != Some(mac)
        {
            self.mac = Some(mac);
            heard.learnt = self.mac;
        }
        if let Some(Asker { ip, mac }) = said.asker {
            // Only one without an address yet is answered through a group.
            let reachable = is_station(mac) || ip.is_unspecified();
            heard.answer = match (self.ends.local.ip(), ip) {
                (IpAddr::V4(local), IpAddr::V4(ip)) if is_station(mac) => {
                    Some(arp::answer(&self.ends, local, mac, ip))
                }
                (IpAddr::V6(local), IpAddr::V6(ip)) if reachable => {
                    Some(ndp::answer(&self.ends, local, mac, ip))
                }
                _ => None,
            };
        }
        Ok(heard)
    }
}

/// Ethernet's least frame, without FCS.
const FRAME_BYTES_MIN: usize = 60;
/// An NDP message in a tagged frame: ICMPv6 header, address, option.
const FRAME_BYTES_MAX: usize = ETHERNET_BYTES + VLAN_BYTES + IPV6_BYTES + 32;
/// Between the first two questions.
const ASK_FIRST: Nanos = Nanos::from_millis(5);
/// Between two questions at most.
const ASK_LAST: Nanos = Nanos::from_millis(500);

#[cfg(test)]
#[path = "neighbour_tests.rs"]
mod tests;
