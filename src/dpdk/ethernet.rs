//! Ethernet II and one 802.1Q tag: the bytes before a packet, written and taken apart.
//! Takes addresses and the configured VLAN; gives a frame's packet, or why it is none of ours. What the packet means is `headers`'.

use crate::headers::{Dropped, Ends};
use crate::mbuf::Noted;

/// Bytes of the Ethernet header without a tag.
pub(crate) const ETHERNET_BYTES: usize = 14;
/// Bytes of an 802.1Q tag.
pub(crate) const VLAN_BYTES: usize = 4;

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EtherType {
    Ipv4,
    Arp,
    Ipv6,
}

impl EtherType {
    const fn number(self) -> u16 {
        match self {
            Self::Ipv4 => 0x0800,
            Self::Arp => 0x0806,
            Self::Ipv6 => 0x86dd,
        }
    }
}

/// 802.1Q, and what an outer one of two tags has (802.1ad, and the number in use before it).
const VLAN_TAG: u16 = 0x8100;
const OUTER_TAGS: [u16; 2] = [0x88a8, 0x9100];
/// The part of a tag that is the VLAN's number; the rest is priority.
const VLAN_MASK: u16 = 0x0fff;

/// Bytes before the packet on a link with this VLAN.
pub(crate) const fn header_bytes(vlan: Option<u16>) -> usize {
    ETHERNET_BYTES + if vlan.is_some() { VLAN_BYTES } else { 0 }
}

/// Writes the header of a frame from us to the front of `out`; how many bytes it has.
pub(crate) fn write(ends: &Ends, to: [u8; 6], carries: EtherType, out: &mut [u8]) -> usize {
    out[..6].copy_from_slice(&to);
    out[6..12].copy_from_slice(&ends.local_mac);
    let mut at = 12;
    if let Some(vlan) = ends.vlan {
        out[at..at + 2].copy_from_slice(&VLAN_TAG.to_be_bytes());
        out[at + 2..at + 4].copy_from_slice(&vlan.to_be_bytes());
        at += VLAN_BYTES;
    }
    out[at..at + 2].copy_from_slice(&carries.number().to_be_bytes());
    at + 2
}

/// A received frame, its Ethernet header taken apart.
pub(crate) struct Arrived {
    pub(crate) to: [u8; 6],
    pub(crate) carries: EtherType,
    /// Where in the frame the packet begins. Behind it there may be the padding of a short frame.
    pub(crate) at: usize,
}

/// Takes the header apart. `noted` is what the device has taken off or looked at before.
#[inline]
pub(crate) fn read(frame: &[u8], ends: &Ends, noted: Noted) -> Result<Arrived, Dropped> {
    let (Some(to), Some(from)) = (array(frame, 0), array(frame, 6)) else {
        return Err(Dropped::Length);
    };
    let mut kind = number(frame, 12)?;
    let mut at = ETHERNET_BYTES;
    let mut vlan = noted.vlan;
    if kind == VLAN_TAG {
        // A second tag, below one that the device has taken off, is as foreign as one that is there in full.
        if vlan.is_some() {
            return Err(Dropped::Vlan);
        }
        vlan = Some(number(frame, at)?);
        kind = number(frame, at + 2)?;
        at += VLAN_BYTES;
    }
    if kind == VLAN_TAG || OUTER_TAGS.contains(&kind) {
        return Err(Dropped::Vlan);
    }
    // Number 0 is a tag with a priority and no VLAN: nobody on this link has cause to send one.
    if vlan.map(|tag| tag & VLAN_MASK) != ends.vlan {
        return Err(Dropped::Vlan);
    }
    let kinds = [EtherType::Ipv4, EtherType::Arp, EtherType::Ipv6];
    let Some(carries) = kinds.into_iter().find(|one| one.number() == kind) else {
        return Err(Dropped::EtherType);
    };
    if from == ends.local_mac {
        return Err(Dropped::Station);
    }
    Ok(Arrived { to, carries, at })
}

/// Whom a frame says that it comes from.
pub(crate) fn source(frame: &[u8]) -> [u8; 6] {
    array(frame, 6).unwrap_or_default()
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn number(bytes: &[u8], at: usize) -> Result<u16, Dropped> {
    array(bytes, at).map(u16::from_be_bytes).ok_or(Dropped::Length)
}

/// Whether an address is one station's, and not nobody's.
pub(crate) fn is_station(mac: [u8; 6]) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}
