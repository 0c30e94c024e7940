//! IPv6 neighbour discovery (RFC 4861), packet by packet: reads solicitations and advertisements, writes them.
//! Takes IPv6 packets; gives what they say. What is learnt from it, and when something is asked, is `neighbour`'s. Routers are configured,
//! so what they advertise is not listened to; addresses are configured, so none is made here and none is probed for duplicates.

use std::net::{IpAddr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, NdiscNeighborFlags,
    NdiscRepr, RawHardwareAddress,
};

use crate::ethernet::{self, EtherType};
use crate::headers::{Dropped, Ends, IPV6_BYTES};
use crate::neighbour::{Asker, Message, NeighbourFrame};

/// ICMPv6 types of the two messages: neighbour solicitation, neighbour advertisement.
pub(crate) const TYPES: [u8; 2] = [135, 136];
/// Every message has this hop limit, so that none that came through a router is believed (section 7.1).
const HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The group in which `of` is asked for (RFC 4291 section 2.7.1).
fn solicited_node(of: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = of.octets();
    let [low, high] = [u16::from_be_bytes([b, c]), 0xff00 | u16::from(a)];
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, high, low)
}

/// The Ethernet address of a group (RFC 2464 section 7).
fn group_mac(group: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// The Ethernet addresses of groups that one with the address `local` listens to.
pub(crate) fn groups(local: Ipv6Addr) -> [[u8; 6]; 2] {
    [group_mac(solicited_node(local)), group_mac(ALL_NODES)]
}

/// Reads an IPv6 packet that carries one of [`TYPES`], checked as sections 7.1.1 and 7.1.2 say; `from` is whom the frame came from.
pub(crate) fn read(packet: &[u8], from: [u8; 6], local: Ipv6Addr) -> Result<Message, Dropped> {
    let packet = Ipv6Packet::new_checked(packet).map_err(|_| Dropped::Length)?;
    let (source, target) = (packet.src_addr(), packet.dst_addr());
    if packet.hop_limit() != HOP_LIMIT {
        return Err(Dropped::HopLimit);
    }
    let icmp = Icmpv6Packet::new_checked(packet.payload()).map_err(|_| Dropped::Neighbour)?;
    if !icmp.verify_checksum(&source, &target) {
        return Err(Dropped::Checksum);
    }
    if icmp.msg_code() != 0 || source.is_multicast() {
        return Err(Dropped::Neighbour);
    }
    match NdiscRepr::parse(&icmp).map_err(|_| Dropped::Neighbour)? {
        NdiscRepr::NeighborSolicit { target_addr: of, lladdr } => {
            // Somebody who has no address yet asks whether one is taken: he has none to be told, and asks the group.
            let nobody = source.is_unspecified();
            if of.is_multicast() || nobody && (lladdr.is_some() || target != solicited_node(of)) {
                return Err(Dropped::Neighbour);
            }
            let for_us = of == local;
            let mac = lladdr.and_then(mac);
            // One that is sent to us alone need not name its sender's address (section 4.3).
            let back = if nobody { group_mac(ALL_NODES) } else { mac.unwrap_or(from) };
            let asker = Asker { ip: IpAddr::V6(source), mac: back };
            Ok(Message {
                tells: mac.map(|mac| (IpAddr::V6(source), mac)),
                for_us,
                asker: for_us.then_some(asker),
            })
        }
        NdiscRepr::NeighborAdvert { flags, target_addr: of, lladdr } => {
            let solicited = flags.contains(NdiscNeighborFlags::SOLICITED);
            if of.is_multicast() || target.is_multicast() && solicited {
                return Err(Dropped::Neighbour);
            }
            let tells = lladdr.and_then(mac).map(|mac| (IpAddr::V6(of), mac));
            Ok(Message { tells, for_us: target == local, asker: None })
        }
        NdiscRepr::RouterSolicit { .. }
        | NdiscRepr::RouterAdvert { .. }
        | NdiscRepr::Redirect { .. } => Err(Dropped::Neighbour),
    }
}

fn mac(address: RawHardwareAddress) -> Option<[u8; 6]> {
    address.as_bytes().try_into().ok()
}

/// Asks the group of `of` for its Ethernet address.
pub(crate) fn question(ends: &Ends, local: Ipv6Addr, of: Ipv6Addr) -> NeighbourFrame {
    let lladdr = Some(EthernetAddress(ends.local_mac).into());
    let said = NdiscRepr::NeighborSolicit { target_addr: of, lladdr };
    let group = solicited_node(of);
    frame(ends, said, (local, group), group_mac(group))
}

/// Tells one who asked ours; everybody, where he has no address yet.
pub(crate) fn answer(
    ends: &Ends,
    local: Ipv6Addr,
    asker: [u8; 6],
    asker_ip: Ipv6Addr,
) -> NeighbourFrame {
    let nobody = asker_ip.is_unspecified();
    let solicited =
        if nobody { NdiscNeighborFlags::empty() } else { NdiscNeighborFlags::SOLICITED };
    let said = NdiscRepr::NeighborAdvert {
        flags: solicited | NdiscNeighborFlags::OVERRIDE,
        target_addr: local,
        lladdr: Some(EthernetAddress(ends.local_mac).into()),
    };
    frame(ends, said, (local, if nobody { ALL_NODES } else { asker_ip }), asker)
}

fn frame(
    ends: &Ends,
    said: NdiscRepr<'_>,
    (source, target): (Ipv6Addr, Ipv6Addr),
    to: [u8; 6],
) -> NeighbourFrame {
    NeighbourFrame::new(|bytes| {
        let at = ethernet::write(ends, to, EtherType::Ipv6, bytes);
        let len = said.buffer_len();
        let mut packet = Ipv6Packet::new_unchecked(&mut bytes[at..]);
        packet.set_version(6);
        packet.set_payload_len(len as u16); // 32: a header, an address and an option
        packet.set_next_header(IpProtocol::Icmpv6);
        packet.set_hop_limit(HOP_LIMIT);
        packet.set_src_addr(source);
        packet.set_dst_addr(target);
        let mut icmp = Icmpv6Packet::new_unchecked(&mut bytes[at + IPV6_BYTES..][..len]);
        let sums = ChecksumCapabilities::default();
        Icmpv6Repr::Ndisc(said).emit(&source, &target, &mut icmp, &sums);
        at + IPV6_BYTES + len
    })
}
