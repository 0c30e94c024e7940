//! Frames of both families, with and without a tag: what is written is taken, and every other is dropped for its reason.

use super::*;
use crate::template::{Template, UdpChecksum};

pub(crate) const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Ours, over IPv4 without a tag.
pub(crate) fn ends() -> Ends {
    ends_of(["192.0.2.1:4421", "192.0.2.2:4422"], None)
}

/// Ours, over IPv6.
pub(crate) fn ends_v6() -> Ends {
    ends_of(["[2001:db8::1]:4421", "[2001:db8::2]:4422"], None)
}

fn ends_of(ends: [&str; 2], vlan: Option<u16>) -> Ends {
    let [local, peer]: [SocketAddr; 2] = ends.map(|end| end.parse().unwrap());
    let (local_mac, next_hop) = ([2, 0, 0, 0, 0, 1], peer.ip());
    Ends { local_mac, local, peer, next_hop, vlan, mtu: 9000 }
}

/// Both families, with and without a tag.
pub(crate) fn all_ends() -> [Ends; 4] {
    let tagged = |ends: Ends| Ends { vlan: Some(77), ..ends };
    [ends(), ends_v6(), tagged(ends()), tagged(ends_v6())]
}

/// As the peer sees it.
pub(crate) fn theirs(us: Ends) -> Ends {
    Ends { local_mac: PEER_MAC, local: us.peer, peer: us.local, next_hop: us.local.ip(), ..us }
}

/// A frame as the peer of `us` sends it, its checksum made by the CPU where there is one.
fn frame(us: Ends, datagram: &[u8]) -> Vec<u8> {
    let checksum = if us.local.is_ipv4() { UdpChecksum::None } else { UdpChecksum::Software };
    let template = Template::new(&theirs(us), us.local_mac, checksum);
    let mut frame = vec![0; template.len()];
    template.write(datagram.len(), &mut frame);
    if checksum == UdpChecksum::Software {
        template.finish(datagram, &mut frame);
    }
    frame.extend_from_slice(datagram);
    frame
}

fn see(frame: &[u8], us: Ends) -> Result<Seen, Dropped> {
    parse(frame, &us, Noted::default())
}

/// Mends the IPv4 checksum after a field was changed on purpose.
fn mend(mut frame: Vec<u8>) -> Vec<u8> {
    Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
    frame
}

#[test]
fn what_the_template_writes_is_taken_at_every_length() {
    for us in all_ends() {
        for len in [0, 1, 2, 17, 1472, 4096, 8900] {
            let datagram: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let frame = frame(us, &datagram);
            assert_eq!(frame.len(), us.header_bytes() + datagram.len());
            let Ok(Seen::Datagram(place)) = see(&frame, us) else { panic!("{us:?}: {len}") };
            assert_eq!(frame[place], datagram, "{us:?}: {len}");
        }
    }
}

#[test]
fn the_checksums_are_those_of_another_implementation() {
    let us = ends_v6();
    for len in [0, 1, 2, 999, 1000, 8191] {
        let ours = frame(us, &vec![0xa5; len]);
        let mut theirs = ours.clone();
        UdpPacket::new_unchecked(&mut theirs[54..])
            .fill_checksum(&us.peer.ip().into(), &us.local.ip().into());
        assert_eq!(ours, theirs, "{len}");
    }
}

#[test]
fn a_checksum_that_comes_to_zero_is_sent_as_all_ones() {
    let us = ends_v6();
    // Two bytes that make the sum of the rest all ones: their complement is 0.
    let plain = frame(us, &[0, 0]);
    let checksum = [plain[60], plain[61]];
    let zero = frame(us, &checksum);
    assert_eq!(zero[60..62], [0xff, 0xff]);
    assert!(see(&zero, us).is_ok());
}

#[test]
fn what_a_device_goes_on_from_is_the_sum_of_the_pseudo_header() {
    for us in [ends(), ends_v6()] {
        let datagram = [9, 8, 7];
        let template = Template::new(&theirs(us), us.local_mac, UdpChecksum::Device);
        let mut frame = vec![0; template.len()];
        template.write(datagram.len(), &mut frame);
        frame.extend_from_slice(&datagram);
        // What a device does: sums the UDP packet with what it finds in the field, and puts the complement there.
        let (ethernet, ip, _) = template.layers();
        let mut sum = Sum::default();
        sum.add(&frame[ethernet + ip..]);
        frame[ethernet + ip + 6..][..2].copy_from_slice(&(!sum.folded()).to_be_bytes());
        assert!(see(&frame, us).is_ok(), "{us:?}");
    }
}

#[test]
fn padding_behind_the_packet_is_not_datagram() {
    for us in all_ends() {
        let mut padded = frame(us, b"abc");
        padded.resize(100, 0);
        let at = us.header_bytes();
        assert_eq!(see(&padded, us), Ok(Seen::Datagram(at..at + 3)));
    }
}

#[test]
fn what_is_larger_than_the_link_carries_is_dropped_whatever_the_device_carries() {
    for us in all_ends() {
        let us = Ends { mtu: 1500, ..us };
        let most = 1500 + ethernet::header_bytes(us.vlan) - us.header_bytes();
        assert!(see(&frame(us, &vec![7; most]), us).is_ok());
        assert_eq!(see(&frame(us, &vec![7; most + 1]), us), Err(Dropped::Oversize), "{us:?}");
    }
}

#[test]
fn every_cut_is_refused_and_none_panics() {
    for us in all_ends() {
        let whole = frame(us, &[7; 100]);
        for len in 0..whole.len() {
            assert!(see(&whole[..len], us).is_err(), "{us:?}: {len} bytes");
        }
    }
}

#[test]
fn every_flipped_header_bit_that_matters_is_refused() {
    for us in all_ends() {
        let whole = frame(us, b"payload");
        let ip = if us.vlan.is_some() { 18 } else { 14 };
        for bit in 0..us.header_bytes() * 8 {
            let mut bent = whole.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            let byte = bit / 8;
            // What says nothing: the sender's Ethernet address (ARP and NDP are where it is learnt), a tag's priority, IPv6's traffic
            // class, flow label and hop limit, which no checksum covers.
            let free = (6..12).contains(&byte)
                || us.vlan.is_some() && byte == 14 && bit % 8 >= 4
                || us.local.is_ipv6()
                    && (byte == ip && bit % 8 < 4
                        || (ip + 1..ip + 4).contains(&byte)
                        || byte == ip + 7);
            assert_eq!(see(&bent, us).is_ok(), free, "{us:?}: byte {byte}, bit {}", bit % 8);
        }
    }
}

#[test]
fn each_reason_of_ipv4_is_named() {
    let us = ends();
    let with = |at: usize, byte: u8| {
        let mut bent = frame(us, b"payload");
        bent[at] = byte;
        bent
    };
    let refused = |frame: Vec<u8>| see(&frame, us).unwrap_err();
    assert_eq!(refused(with(0, 0xff)), Dropped::Station, "another station");
    let mut own = frame(us, b"x");
    own[6..12].copy_from_slice(&us.local_mac);
    assert_eq!(refused(own), Dropped::Station, "our own frame");
    let mut broadcast = frame(us, b"x");
    broadcast[..6].fill(0xff);
    assert_eq!(refused(broadcast), Dropped::Station, "a datagram to everybody");
    assert_eq!(refused(with(12, 0x86)), Dropped::EtherType);
    assert_eq!(refused(frame(ends_v6(), b"x")), Dropped::EtherType, "IPv6");
    assert_eq!(refused(with(14, 0x46)), Dropped::IpHeader, "options");
    assert_eq!(refused(with(14, 0x65)), Dropped::IpHeader, "version 6");
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
fn each_reason_of_ipv6_is_named() {
    let us = ends_v6();
    let with = |at: usize, byte: u8| {
        let mut bent = frame(us, b"payload");
        bent[at] = byte;
        bent
    };
    let refused = |frame: Vec<u8>| see(&frame, us).unwrap_err();
    assert_eq!(refused(with(0, 0xff)), Dropped::Station, "another station");
    let mut group = frame(us, b"x");
    group[..6].copy_from_slice(&ndp::groups("2001:db8::1".parse().unwrap())[0]);
    assert_eq!(refused(group), Dropped::Station, "a datagram to a group we listen to");
    assert_eq!(refused(frame(ends(), b"x")), Dropped::EtherType, "IPv4");
    let mut arp = frame(us, b"x");
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(refused(arp), Dropped::EtherType, "ARP");
    assert_eq!(refused(with(14, 0x45)), Dropped::IpHeader, "version 4");
    for next in EXTENSIONS {
        assert_eq!(refused(with(20, next)), Dropped::Extension, "{next}");
    }
    assert_eq!(refused(with(20, 44)), Dropped::Fragment);
    assert_eq!(refused(with(20, 6)), Dropped::Port, "TCP");
    assert_eq!(refused(with(20, 59)), Dropped::Port, "nothing follows");
    assert_eq!(refused(with(20, 58)), Dropped::Port, "ICMPv6 that is no NDP");
    assert_eq!(refused(with(37, 9)), Dropped::Address, "a stranger");
    assert_eq!(refused(with(53, 9)), Dropped::Address, "for another");
    let mut stray = frame(us, b"x");
    stray[22..38].copy_from_slice(&"fe80::2".parse::<Ipv6Addr>().unwrap().octets());
    assert_eq!(refused(stray), Dropped::LinkLocal);
    assert_eq!(refused(with(55, 9)), Dropped::Port, "a stranger's port");
    assert_eq!(refused(with(59, 9)), Dropped::Length, "shorter than IPv6 says");
    assert_eq!(refused(with(60, 0xff)), Dropped::Checksum);
    let mut none = frame(us, b"x");
    none[60..62].fill(0);
    assert_eq!(refused(none), Dropped::Checksum, "UDP over IPv6 without one");
}

#[test]
fn a_link_local_peer_is_no_stray() {
    let us = ends_of(["[fe80::1]:4421", "[fe80::2]:4422"], None);
    assert!(see(&frame(us, b"x"), us).is_ok());
    let mut other = frame(us, b"x");
    other[37] = 9;
    assert_eq!(see(&other, us), Err(Dropped::LinkLocal));
}

#[test]
fn only_the_links_own_tag_is_taken() {
    for plain in [ends(), ends_v6()] {
        let tagged = Ends { vlan: Some(77), ..plain };
        let [without, with] = [plain, tagged].map(|us| frame(us, b"payload"));
        assert_eq!(see(&without, tagged), Err(Dropped::Vlan), "no tag");
        assert_eq!(see(&with, plain), Err(Dropped::Vlan), "a tag on a link without");
        assert_eq!(see(&with, Ends { vlan: Some(78), ..plain }), Err(Dropped::Vlan), "another");
        let mut priority = with.clone();
        priority[14] |= 0xe0;
        assert!(see(&priority, tagged).is_ok(), "a priority says nothing");
        let mut only_priority = with.clone();
        only_priority[14..16].copy_from_slice(&[0xe0, 0]);
        assert_eq!(see(&only_priority, plain), Err(Dropped::Vlan));
        for outer in [0x8100_u16, 0x88a8, 0x9100] {
            let mut twice = with.clone();
            let tag = [outer.to_be_bytes(), 77_u16.to_be_bytes()].concat();
            twice.splice(12..12, tag);
            assert_eq!(see(&twice, tagged), Err(Dropped::Vlan), "{outer:#x}");
            assert_eq!(see(&twice, plain), Err(Dropped::Vlan), "{outer:#x}");
        }
        for len in 0..18 {
            assert!(see(&with[..len], tagged).is_err());
        }
    }
}

#[test]
fn a_tag_that_the_device_took_off_counts_like_one_that_is_there() {
    let us = ends();
    let tagged = Ends { vlan: Some(77), ..us };
    let off = Noted { vlan: Some(0xe000 | 77), ..Noted::default() };
    assert!(parse(&frame(us, b"x"), &tagged, off).is_ok());
    assert_eq!(parse(&frame(us, b"x"), &us, off), Err(Dropped::Vlan));
    assert_eq!(parse(&frame(tagged, b"x"), &tagged, off), Err(Dropped::Vlan), "two");
}

#[test]
fn what_the_device_calls_right_is_believed_and_nothing_else() {
    for us in [ends(), ends_v6()] {
        let mut wrong = frame(us, b"payload");
        let at = us.header_bytes() - 2;
        wrong[at..at + 2].copy_from_slice(&[1, 2]);
        assert_eq!(see(&wrong, us), Err(Dropped::Checksum));
        let good = Noted { udp_good: true, ..Noted::default() };
        assert!(parse(&wrong, &us, good).is_ok());
        // None is none, whatever a device calls it.
        wrong[at..at + 2].fill(0);
        assert_eq!(parse(&wrong, &us, good).is_ok(), us.local.is_ipv4());
    }
}

#[test]
fn a_right_udp_checksum_is_accepted_over_ipv4() {
    let us = ends();
    let mut with = frame(us, b"payload");
    UdpPacket::new_unchecked(&mut with[34..])
        .fill_checksum(&us.peer.ip().into(), &us.local.ip().into());
    assert_eq!(see(&with, us), Ok(Seen::Datagram(42..49)));
}
