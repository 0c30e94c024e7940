//! Ethernet, IPv4 and UDP headers of the link's frames: written from a template, checked field by field.
//! Takes addresses; gives the 42 bytes before a datagram, and of a received frame the datagram or the reason to drop it.
//! ARP's meaning is in `neighbour`.
//!
//! The UDP checksum is sent as 0, "none", which RFC 768 allows over IPv4: the link covers header and payload with its own
//! checksums from end to end, and a second one over the same bytes would make the CPU read payload that it never touches
//! otherwise. A checksum that a frame does carry is verified.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;

use smoltcp::wire::{
    ArpPacket, EthernetAddress, EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet,
    UdpPacket,
};

/// Bytes of the Ethernet header.
pub(crate) const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
/// Bytes before the datagram in every frame: Ethernet 14, IPv4 20, UDP 8.
pub const FRAME_HEADERS_BYTES: usize = ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES;
/// RFC 1122: enough for two hosts on one segment, and visible if somebody routes it by mistake.
const HOP_LIMIT: u8 = 64;

/// Why a frame was not for us, or not well formed below the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Dropped {
    /// Shorter than its headers, or lengths that contradict each other (a truncated frame is one).
    Length,
    /// Neither IPv4 nor ARP.
    EtherType,
    /// Our own frame came back, or the frame is for another station.
    Station,
    /// Not IPv4 version 4, or with options.
    Ipv4Header,
    /// A fragment: the link never fragments.
    Fragment,
    /// The IPv4 header's or a UDP checksum is wrong.
    Checksum,
    /// Not between our address and the peer's.
    Address,
    /// Not UDP, or not between our port and the peer's.
    Port,
    /// A malformed ARP packet, or one of somebody else.
    Arp,
    /// More segments or bytes than a frame can have.
    Oversize,
}

impl Dropped {
    /// How many reasons there are.
    pub const COUNT: usize = Dropped::Oversize as usize + 1;
}

/// The two ends of the link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) local_mac: [u8; 6],
    pub(crate) local: SocketAddrV4,
    pub(crate) peer: SocketAddrV4,
}

/// What a frame turned out to be.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    /// A datagram of the peer, and where in the frame it lies.
    Datagram(Range<usize>),
    /// An ARP packet, unchecked, and where.
    Arp(Range<usize>),
}

/// The headers of every frame to the peer, but for the two lengths and the checksum.
pub(crate) struct Template {
    bytes: [u8; FRAME_HEADERS_BYTES],
    /// Ones' complement sum of the IPv4 header with length and checksum 0.
    sum: u32,
}

impl Template {
    pub(crate) fn new(ends: &Ends, peer_mac: [u8; 6]) -> Template {
        let mut bytes = [0; FRAME_HEADERS_BYTES];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
        frame.set_dst_addr(EthernetAddress(peer_mac));
        frame.set_src_addr(EthernetAddress(ends.local_mac));
        frame.set_ethertype(EthernetProtocol::Ipv4);
        let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
        packet.set_version(4);
        packet.set_header_len(IPV4_BYTES as u8);
        // Never fragmented: the identification may then be any (RFC 6864 section 4.1).
        packet.set_dont_frag(true);
        packet.set_hop_limit(HOP_LIMIT);
        packet.set_next_header(IpProtocol::Udp);
        packet.set_src_addr(*ends.local.ip());
        packet.set_dst_addr(*ends.peer.ip());
        let (udp, ports) = (ETHERNET_BYTES + IPV4_BYTES, [ends.local.port(), ends.peer.port()]);
        let mut datagram = UdpPacket::new_unchecked(&mut bytes[udp..]);
        datagram.set_src_port(ports[0]);
        datagram.set_dst_port(ports[1]);
        let sum = bytes[ETHERNET_BYTES..udp]
            .chunks_exact(2)
            .map(|pair| (u32::from(pair[0]) << 8) | u32::from(pair[1]))
            .sum();
        Template { bytes, sum }
    }

    /// Writes the headers of a frame with a datagram of `datagram_bytes` to the first bytes of `out`.
    #[inline]
    pub(crate) fn write(&self, datagram_bytes: usize, out: &mut [u8]) {
        let out: &mut [u8; FRAME_HEADERS_BYTES] = (&mut out[..FRAME_HEADERS_BYTES])
            .try_into()
            .expect("a slice of as many bytes as the array has");
        *out = self.bytes;
        let udp_len = (datagram_bytes + UDP_BYTES) as u16; // at most the MTU, which is a u16
        let total = udp_len + IPV4_BYTES as u16;
        // RFC 791 and RFC 1071: the complement of the ones' complement sum, carries folded back.
        let mut sum = self.sum + u32::from(total);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        put(out, ETHERNET_BYTES + 2, total);
        put(out, ETHERNET_BYTES + 10, !(sum as u16));
        put(out, ETHERNET_BYTES + IPV4_BYTES + 4, udp_len);
    }
}

/// Network byte order.
fn put(out: &mut [u8; FRAME_HEADERS_BYTES], at: usize, value: u16) {
    out[at] = (value >> 8) as u8;
    out[at + 1] = value as u8;
}

/// Finds the datagram in a frame, or says why it is none of ours.
#[inline]
pub(crate) fn parse(frame: &[u8], ends: &Ends) -> Result<Seen, Dropped> {
    let ethernet = EthernetFrame::new_checked(frame).map_err(|_| Dropped::Length)?;
    let target = ethernet.dst_addr();
    if ethernet.src_addr().0 == ends.local_mac {
        return Err(Dropped::Station);
    }
    let ours = target.0 == ends.local_mac;
    match ethernet.ethertype() {
        EthernetProtocol::Arp if ours || target.is_broadcast() => {
            let payload = ethernet.payload();
            ArpPacket::new_checked(payload).map_err(|_| Dropped::Arp)?;
            return Ok(Seen::Arp(ETHERNET_BYTES..frame.len()));
        }
        EthernetProtocol::Ipv4 if ours => {}
        EthernetProtocol::Arp | EthernetProtocol::Ipv4 => return Err(Dropped::Station),
        _ => return Err(Dropped::EtherType),
    }
    let packet = Ipv4Packet::new_checked(ethernet.payload()).map_err(|_| Dropped::Length)?;
    if packet.version() != 4 || usize::from(packet.header_len()) != IPV4_BYTES {
        return Err(Dropped::Ipv4Header);
    }
    if !packet.verify_checksum() {
        return Err(Dropped::Checksum);
    }
    if packet.more_frags() || packet.frag_offset() != 0 {
        return Err(Dropped::Fragment);
    }
    let (source, target): (Ipv4Addr, Ipv4Addr) = (packet.src_addr(), packet.dst_addr());
    if source != *ends.peer.ip() || target != *ends.local.ip() {
        return Err(Dropped::Address);
    }
    if packet.next_header() != IpProtocol::Udp {
        return Err(Dropped::Port);
    }
    let payload = packet.payload();
    let datagram = UdpPacket::new_checked(payload).map_err(|_| Dropped::Length)?;
    if usize::from(datagram.len()) != payload.len() {
        return Err(Dropped::Length);
    }
    if datagram.src_port() != ends.peer.port() || datagram.dst_port() != ends.local.port() {
        return Err(Dropped::Port);
    }
    if !datagram.verify_checksum(&IpAddress::Ipv4(source), &IpAddress::Ipv4(target)) {
        return Err(Dropped::Checksum);
    }
    // No options, so the header's length is what it always is.
    Ok(Seen::Datagram(FRAME_HEADERS_BYTES..ETHERNET_BYTES + IPV4_BYTES + payload.len()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn ends() -> Ends {
        Ends {
            local_mac: [2, 0, 0, 0, 0, 1],
            local: SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 4421),
            peer: SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 2), 4422),
        }
    }

    pub(crate) const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

    /// A frame as the peer of [`ends`] sends it.
    fn frame(datagram: &[u8]) -> Vec<u8> {
        let us = ends();
        let them = Ends { local_mac: PEER_MAC, local: us.peer, peer: us.local };
        let mut frame = vec![0; FRAME_HEADERS_BYTES];
        Template::new(&them, us.local_mac).write(datagram.len(), &mut frame);
        frame.extend_from_slice(datagram);
        frame
    }

    /// Mends the IPv4 checksum after a field was changed on purpose.
    fn mend(mut frame: Vec<u8>) -> Vec<u8> {
        Ipv4Packet::new_unchecked(&mut frame[ETHERNET_BYTES..]).fill_checksum();
        frame
    }

    #[test]
    fn what_the_template_writes_is_taken_at_every_length() {
        for len in [0, 1, 2, 17, 1472, 4096, 8972] {
            let datagram: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let frame = frame(&datagram);
            let Ok(Seen::Datagram(place)) = parse(&frame, &ends()) else { panic!("{len} bytes") };
            assert_eq!(frame[place], datagram, "{len}");
        }
    }

    #[test]
    fn padding_behind_the_packet_is_not_datagram() {
        let mut padded = frame(b"abc");
        padded.resize(60, 0);
        assert_eq!(parse(&padded, &ends()), Ok(Seen::Datagram(42..45)));
    }

    #[test]
    fn every_cut_is_refused_and_none_panics() {
        let whole = frame(&[7; 100]);
        for len in 0..whole.len() {
            assert!(parse(&whole[..len], &ends()).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn every_flipped_header_bit_that_matters_is_refused() {
        let whole = frame(b"payload");
        for bit in 0..FRAME_HEADERS_BYTES * 8 {
            let mut bent = whole.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            // The sender's Ethernet address says nothing: ARP is where it is learnt.
            if (6..12).contains(&(bit / 8)) {
                continue;
            }
            assert!(parse(&bent, &ends()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn each_reason_is_named() {
        let with = |at: usize, byte: u8| {
            let mut bent = frame(b"payload");
            bent[at] = byte;
            bent
        };
        let refused = |frame: Vec<u8>| parse(&frame, &ends()).unwrap_err();
        assert_eq!(refused(with(0, 0xff)), Dropped::Station, "another station");
        let mut own = frame(b"x");
        own[6..12].copy_from_slice(&ends().local_mac);
        assert_eq!(refused(own), Dropped::Station, "our own frame");
        let mut broadcast = frame(b"x");
        broadcast[..6].fill(0xff);
        assert_eq!(refused(broadcast), Dropped::Station, "a datagram to everybody");
        assert_eq!(refused(with(12, 0x86)), Dropped::EtherType);
        assert_eq!(refused(with(14, 0x46)), Dropped::Ipv4Header, "options");
        assert_eq!(refused(with(14, 0x65)), Dropped::Ipv4Header, "version 6");
        assert_eq!(refused(with(24, 0)), Dropped::Checksum);
        assert_eq!(refused(mend(with(20, 0x20))), Dropped::Fragment, "more fragments");
        assert_eq!(refused(mend(with(21, 1))), Dropped::Fragment, "an offset");
        assert_eq!(refused(mend(with(29, 9))), Dropped::Address, "a stranger");
        assert_eq!(refused(mend(with(33, 9))), Dropped::Address, "for another");
        assert_eq!(refused(mend(with(23, 6))), Dropped::Port, "TCP");
        assert_eq!(refused(with(35, 0)), Dropped::Port, "a stranger's port");
        assert_eq!(refused(with(39, 9)), Dropped::Length, "shorter than IPv4 says");
        assert_eq!(refused(with(41, 1)), Dropped::Checksum, "a UDP checksum that is wrong");
    }

    #[test]
    fn a_right_udp_checksum_is_accepted() {
        let mut with = frame(b"payload");
        let us = ends();
        UdpPacket::new_unchecked(&mut with[ETHERNET_BYTES + IPV4_BYTES..])
            .fill_checksum(&IpAddress::Ipv4(*us.peer.ip()), &IpAddress::Ipv4(*us.local.ip()));
        assert_eq!(parse(&with, &us), Ok(Seen::Datagram(42..49)));
    }
}
