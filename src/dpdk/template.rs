//! The headers of what is sent to the peer: made once when its Ethernet address is known, and but for lengths and checksums the same in
//! every frame. Takes the ends of the link and who sums; writes the bytes before a datagram.
//!
//! The UDP checksum. Over IPv4 it is sent as 0, "none", which RFC 768 allows: the link covers header and payload with its own from end to
//! end, and a second one over the same bytes would find nothing more. Over IPv6 it is sent (RFC 8200 section 8.1), by the device where
//! that can, else by the CPU (docs/decisions/0017).

use std::net::IpAddr;

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, UdpPacket};

use crate::ethernet::{self, EtherType};
use crate::headers::{
    Ends, FRAME_HEADERS_BYTES_MAX, HOP_LIMIT, IPV4_BYTES, IPV6_BYTES, UDP, UDP_BYTES,
};
use crate::sum::Sum;

/// Who makes the UDP checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UdpChecksum {
    /// Nobody: the field is 0. IPv4 only.
    None,
    /// The device, while it sends.
    Device,
    /// The CPU.
    Software,
}

/// The headers of every frame to the peer, but for lengths and checksums.
pub(crate) struct Template {
    bytes: [u8; FRAME_HEADERS_BYTES_MAX],
    len: usize,
    /// Where the IP header begins, and the UDP header.
    ip: usize,
    udp: usize,
    v4: bool,
    checksum: UdpChecksum,
    /// IPv4: of the header with length and checksum 0.
    header: Sum,
    /// Of the pseudo header without the length.
    pseudo: Sum,
}

impl Template {
    pub(crate) fn new(ends: &Ends, next_hop_mac: [u8; 6], checksum: UdpChecksum) -> Template {
        let mut bytes = [0; FRAME_HEADERS_BYTES_MAX];
        let v4 = ends.local.is_ipv4();
        let kind = if v4 { EtherType::Ipv4 } else { EtherType::Ipv6 };
        let ip = ethernet::write(ends, next_hop_mac, kind, &mut bytes);
        let udp = ip + if v4 { IPV4_BYTES } else { IPV6_BYTES };
        let mut pseudo = Sum::default();
        match (ends.local.ip(), ends.peer.ip()) {
            (IpAddr::V4(local), IpAddr::V4(peer)) => {
                let mut packet = Ipv4Packet::new_unchecked(&mut bytes[ip..]);
                packet.set_version(4);
                packet.set_header_len(IPV4_BYTES as u8);
                // Never fragmented: the identification may then be any (RFC 6864 section 4.1).
                packet.set_dont_frag(true);
                packet.set_hop_limit(HOP_LIMIT);
                packet.set_next_header(IpProtocol::Udp);
                packet.set_src_addr(local);
                packet.set_dst_addr(peer);
                pseudo.add(&local.octets());
                pseudo.add(&peer.octets());
            }
            (IpAddr::V6(local), IpAddr::V6(peer)) => {
                let mut packet = Ipv6Packet::new_unchecked(&mut bytes[ip..]);
                packet.set_version(6);
                packet.set_hop_limit(HOP_LIMIT);
                packet.set_next_header(IpProtocol::Udp);
                packet.set_src_addr(local);
                packet.set_dst_addr(peer);
                pseudo.add(&local.octets());
                pseudo.add(&peer.octets());
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                unreachable!("the configuration was checked: both ends are of one family")
            }
        }
        pseudo.word(u16::from(UDP));
        let mut datagram = UdpPacket::new_unchecked(&mut bytes[udp..]);
        datagram.set_src_port(ends.local.port());
        datagram.set_dst_port(ends.peer.port());
        let mut header = Sum::default();
        header.add(&bytes[ip..udp]);
        Template { bytes, len: udp + UDP_BYTES, ip, udp, v4, checksum, header, pseudo }
    }

    /// Bytes of the headers.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Who makes the UDP checksum.
    #[inline]
    pub(crate) fn checksum(&self) -> UdpChecksum {
        self.checksum
    }

    /// Bytes of the Ethernet and of the IP header, and whether that is IPv4: what a device wants to know to sum.
    pub(crate) fn layers(&self) -> (usize, usize, bool) {
        (self.ip, self.udp - self.ip, self.v4)
    }

    /// Writes the headers of a frame with a datagram of `datagram_bytes` to the first bytes of `out`. Where the CPU sums, the checksum
    /// is still missing: see [`Template::finish`].
    #[inline]
    pub(crate) fn write(&self, datagram_bytes: usize, out: &mut [u8]) {
        out[..self.len].copy_from_slice(&self.bytes[..self.len]);
        let udp_len = (datagram_bytes + UDP_BYTES) as u16; // at most the MTU, which is a u16
        if self.v4 {
            let total = udp_len + IPV4_BYTES as u16;
            let mut header = self.header;
            header.word(total);
            put(out, self.ip + 2, total);
            put(out, self.ip + 10, !header.folded());
        } else {
            put(out, self.ip + 4, udp_len);
        }
        put(out, self.udp + 4, udp_len);
        if self.checksum == UdpChecksum::Device {
            // What a device expects in the field: the pseudo header's sum, which it goes on from.
            let mut pseudo = self.pseudo;
            pseudo.word(udp_len);
            put(out, self.udp + 6, pseudo.folded());
        }
    }

    /// Writes the UDP checksum of a datagram into headers that [`Template::write`] has written.
    #[inline]
    pub(crate) fn finish(&self, datagram: &[u8], out: &mut [u8]) {
        let mut sum = self.pseudo;
        let udp = &out[self.udp..][..UDP_BYTES];
        // The length stands in the pseudo header and in the packet.
        sum.word(u16::from_be_bytes([udp[4], udp[5]]));
        sum.add(&udp[..6]);
        sum.add(datagram);
        let checksum = !sum.folded();
        // 0 would say that there is none (RFC 768); all ones is the same number.
        put(out, self.udp + 6, if checksum == 0 { 0xffff } else { checksum });
    }
}

/// Network byte order.
fn put(out: &mut [u8], at: usize, value: u16) {
    out[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
