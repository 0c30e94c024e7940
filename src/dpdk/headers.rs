//! Ethernet, IP and UDP headers of the link's frames: checked field by field, and how many bytes they have.
//! Takes addresses and a received frame; gives where its datagram lies, or the reason to drop it. What is sent is `template`'s, ARP and
//! NDP are `neighbour`'s, tags are `ethernet`'s.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, UdpPacket};

use crate::ethernet::{self, Arrived, EtherType};
use crate::mbuf::Noted;
use crate::ndp;
use crate::sum::Sum;

pub(crate) const IPV4_BYTES: usize = 20;
pub(crate) const IPV6_BYTES: usize = 40;
pub(crate) const UDP_BYTES: usize = 8;
/// Bytes before the datagram in a frame at most: Ethernet 14, a tag 4, IPv6 40, UDP 8.
pub const FRAME_HEADERS_BYTES_MAX: usize =
    ethernet::ETHERNET_BYTES + ethernet::VLAN_BYTES + IPV6_BYTES + UDP_BYTES;
/// RFC 1122: enough for two hosts, and visible if somebody routes it by mistake.
pub(crate) const HOP_LIMIT: u8 = 64;

/// Why a frame was not for us, or not well formed below the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Dropped {
    /// Shorter than its headers, or lengths that contradict each other (a truncated frame is one).
    Length,
    /// Neither the link's IP version nor what finds addresses for it (ARP for IPv4; NDP is IPv6 itself).
    EtherType,
    /// Without the link's VLAN tag, with another, with one where the link has none, or with two.
    Vlan,
    /// Our own frame came back, or the frame is for another station.
    Station,
    /// Another version than the EtherType says, or IPv4 options.
    IpHeader,
    /// An IPv6 extension header: the link never sends one.
    Extension,
    /// A fragment: the link never fragments.
    Fragment,
    /// An NDP message that may have come through a router: its hop limit is not 255 (RFC 4861 section 7.1).
    HopLimit,
    /// The IPv4 header's or a UDP or ICMPv6 checksum is wrong, or UDP over IPv6 has none (RFC 8200 section 8.1).
    Checksum,
    /// From a link-local address (IPv6) that is not the peer's.
    LinkLocal,
    /// Not between our address and the peer's.
    Address,
    /// Not UDP, or not between our port and the peer's.
    Port,
    /// A malformed ARP or NDP message, or one of somebody else.
    Neighbour,
    /// More segments or bytes than a frame of the link can have, though the device may carry larger ones.
    Oversize,
}

impl Dropped {
    /// How many reasons there are.
    pub const COUNT: usize = Dropped::Oversize as usize + 1;
}

/// The two ends of the link. Both addresses are of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) local_mac: [u8; 6],
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    /// Whose Ethernet address frames to the peer have: the peer's own, or a router's.
    pub(crate) next_hop: IpAddr,
    pub(crate) vlan: Option<u16>,
    /// Largest IP packet.
    pub(crate) mtu: u16,
}

impl Ends {
    /// Bytes before the datagram in every frame.
    pub(crate) fn header_bytes(&self) -> usize {
        ethernet::header_bytes(self.vlan) + self.ip_bytes() + UDP_BYTES
    }

    fn ip_bytes(&self) -> usize {
        if self.local.is_ipv4() { IPV4_BYTES } else { IPV6_BYTES }
    }
}

/// What a frame turned out to be, and where in it that lies.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    /// A datagram of the peer.
    Datagram(Range<usize>),
    /// An ARP packet, unchecked.
    Arp(Range<usize>),
    /// An IPv6 packet with a neighbour solicitation or advertisement, unchecked beyond its lengths.
    Ndp(Range<usize>),
}

/// Finds the datagram in a frame, or says why it is none of ours. `noted` is what the device has found out already.
#[inline]
pub(crate) fn parse(frame: &[u8], ends: &Ends, noted: Noted) -> Result<Seen, Dropped> {
    let arrived = ethernet::read(frame, ends, noted)?;
    match (arrived.carries, ends.local.ip()) {
        (EtherType::Ipv4, IpAddr::V4(_)) => ipv4(frame, &arrived, ends, noted),
        (EtherType::Ipv6, IpAddr::V6(local)) => ipv6(frame, &arrived, (ends, local), noted),
        (EtherType::Arp, IpAddr::V4(_)) => {
            if arrived.to == ends.local_mac || arrived.to == [0xff; 6] {
                Ok(Seen::Arp(arrived.at..frame.len()))
            } else {
                Err(Dropped::Station)
            }
        }
        (EtherType::Ipv4 | EtherType::Arp | EtherType::Ipv6, _) => Err(Dropped::EtherType),
    }
}

#[inline]
fn ipv4(frame: &[u8], arrived: &Arrived, ends: &Ends, noted: Noted) -> Result<Seen, Dropped> {
    if arrived.to != ends.local_mac {
        return Err(Dropped::Station);
    }
    let packet = Ipv4Packet::new_checked(&frame[arrived.at..]).map_err(|_| Dropped::Length)?;
    if packet.version() != 4 || usize::from(packet.header_len()) != IPV4_BYTES {
        return Err(Dropped::IpHeader);
    }
    if !packet.verify_checksum() {
        return Err(Dropped::Checksum);
    }
    if packet.more_frags() || packet.frag_offset() != 0 {
        return Err(Dropped::Fragment);
    }
    let (source, target) = (packet.src_addr(), packet.dst_addr());
    if IpAddr::V4(source) != ends.peer.ip() || IpAddr::V4(target) != ends.local.ip() {
        return Err(Dropped::Address);
    }
    if packet.next_header() != IpProtocol::Udp {
        return Err(Dropped::Port);
    }
    let mut addresses = Sum::default();
    addresses.add(&source.octets());
    addresses.add(&target.octets());
    // RFC 768: none is allowed here, and what we send ourselves.
    let at = arrived.at + IPV4_BYTES;
    udp(packet.payload(), at, ends, addresses, (noted, true)).map(Seen::Datagram)
}

#[inline]
fn ipv6(
    frame: &[u8],
    arrived: &Arrived,
    (ends, local): (&Ends, Ipv6Addr),
    noted: Noted,
) -> Result<Seen, Dropped> {
    let ours = arrived.to == ends.local_mac;
    if !ours && !ndp::groups(local).contains(&arrived.to) {
        return Err(Dropped::Station);
    }
    let packet = Ipv6Packet::new_checked(&frame[arrived.at..]).map_err(|_| Dropped::Length)?;
    if packet.version() != 6 {
        return Err(Dropped::IpHeader);
    }
    let (source, target) = (packet.src_addr(), packet.dst_addr());
    let payload = packet.payload();
    match u8::from(packet.next_header()) {
        UDP if ours => {}
        // A datagram to a group is for nobody in particular.
        UDP => return Err(Dropped::Station),
        ICMPV6 if payload.first().is_some_and(|kind| ndp::TYPES.contains(kind)) => {
            return Ok(Seen::Ndp(arrived.at..arrived.at + IPV6_BYTES + payload.len()));
        }
        FRAGMENT => return Err(Dropped::Fragment),
        next if EXTENSIONS.contains(&next) => return Err(Dropped::Extension),
        _ => return Err(Dropped::Port),
    }
    if IpAddr::V6(source) != ends.peer.ip() || target != local {
        let stray = source.is_unicast_link_local() && IpAddr::V6(source) != ends.peer.ip();
        return Err(if stray { Dropped::LinkLocal } else { Dropped::Address });
    }
    let mut addresses = Sum::default();
    addresses.add(&source.octets());
    addresses.add(&target.octets());
    udp(payload, arrived.at + IPV6_BYTES, ends, addresses, (noted, false)).map(Seen::Datagram)
}

/// Finds the datagram in a UDP packet that begins at byte `at` of its frame; `addresses` is the sum of both IP addresses.
#[inline]
fn udp(
    packet: &[u8],
    at: usize,
    ends: &Ends,
    addresses: Sum,
    (noted, may_lack): (Noted, bool),
) -> Result<Range<usize>, Dropped> {
    let fields = UdpPacket::new_checked(packet).map_err(|_| Dropped::Length)?;
    if usize::from(fields.len()) != packet.len() {
        return Err(Dropped::Length);
    }
    if fields.src_port() != ends.peer.port() || fields.dst_port() != ends.local.port() {
        return Err(Dropped::Port);
    }
    if ends.ip_bytes() + packet.len() > usize::from(ends.mtu) {
        return Err(Dropped::Oversize);
    }
    let right = match fields.checksum() {
        0 => may_lack,
        // What a device calls wrong is summed all the same: there are NICs that call packets without a checksum wrong.
        _ => noted.udp_good || is_right(packet, addresses),
    };
    if !right {
        return Err(Dropped::Checksum);
    }
    Ok(at + UDP_BYTES..at + packet.len())
}

/// RFC 768 and RFC 8200 section 8.1: the sum over pseudo header and packet, its own checksum in it, is all ones.
fn is_right(packet: &[u8], addresses: Sum) -> bool {
    let mut sum = addresses;
    sum.word(u16::from(UDP));
    sum.word(packet.len() as u16); // the packet's own field says so many
    sum.add(packet);
    sum.folded() == 0xffff
}

pub(crate) const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;
/// The headers that RFC 8200 and the registry of IANA have between IPv6 and what it carries, but for the fragment's: hop-by-hop options,
/// routing, ESP, AH, destination options, mobility, HIP, shim6, and two for experiments. 59 says that nothing follows.
const EXTENSIONS: [u8; 10] = [0, 43, 50, 51, 60, 135, 139, 140, 253, 254];

#[cfg(test)]
#[path = "headers_tests.rs"]
pub(crate) mod tests;
