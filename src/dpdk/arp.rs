//! ARP (RFC 826), packet by packet: reads questions and answers, writes them.
//! Takes frames' payloads; gives what they say. What is learnt from it, and when something is asked, is `neighbour`'s.

use std::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use crate::ethernet::{self, EtherType};
use crate::headers::{Dropped, Ends};
use crate::neighbour::{Asker, Message, NeighbourFrame};

/// Reads an ARP packet.
pub(crate) fn read(payload: &[u8], local: Ipv4Addr) -> Result<Message, Dropped> {
    let packet = ArpPacket::new_checked(payload).map_err(|_| Dropped::Neighbour)?;
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&packet).map_err(|_| Dropped::Neighbour)?
    else {
        return Err(Dropped::Neighbour);
    };
    let (ip, mac) = (IpAddr::V4(source_protocol_addr), source_hardware_addr.0);
    let for_us = target_protocol_addr == local;
    let asks = operation == ArpOperation::Request;
    Ok(Message {
        tells: Some((ip, mac)),
        for_us,
        asker: (for_us && asks).then_some(Asker { ip, mac }),
    })
}

/// Asks everybody for the Ethernet address of `of`.
pub(crate) fn question(ends: &Ends, local: Ipv4Addr, of: Ipv4Addr) -> NeighbourFrame {
    let all = EthernetAddress::BROADCAST.0;
    frame(ends, (ArpOperation::Request, local), ([0; 6], of), all)
}

/// Tells one who asked ours.
pub(crate) fn answer(
    ends: &Ends,
    local: Ipv4Addr,
    asker: [u8; 6],
    asker_ip: Ipv4Addr,
) -> NeighbourFrame {
    frame(ends, (ArpOperation::Reply, local), (asker, asker_ip), asker)
}

fn frame(
    ends: &Ends,
    (operation, local): (ArpOperation, Ipv4Addr),
    (target_mac, target): ([u8; 6], Ipv4Addr),
    to: [u8; 6],
) -> NeighbourFrame {
    let said = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(ends.local_mac),
        source_protocol_addr: local,
        target_hardware_addr: EthernetAddress(target_mac),
        target_protocol_addr: target,
    };
    NeighbourFrame::new(|bytes| {
        let at = ethernet::write(ends, to, EtherType::Arp, bytes);
        said.emit(&mut ArpPacket::new_unchecked(&mut bytes[at..]));
        at + said.buffer_len()
    })
}
