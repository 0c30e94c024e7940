//! Two stations that ask one another, over ARP and NDP, with and without a tag, and strangers beside them.

use super::*;
use crate::headers::tests::{PEER_MAC, all_ends, ends, ends_v6, theirs};
use crate::headers::{Seen, parse};
use crate::mbuf::Noted;
use std::net::SocketAddr;

fn pair(us: Ends) -> (Neighbour, Neighbour) {
    (Neighbour::new(us, None), Neighbour::new(theirs(us), None))
}

/// What `to` makes of bytes on the wire.
fn hear(frame: &[u8], to: &mut Neighbour) -> Result<Heard, Dropped> {
    match parse(frame, &to.ends, Noted::default())? {
        Seen::Arp(place) => to.hear_arp(&frame[place]),
        Seen::Ndp(place) => to.hear_ndp(&frame[place], crate::ethernet::source(frame)),
        Seen::Datagram(_) => panic!("no datagram"),
    }
}

fn deliver(frame: &NeighbourFrame, to: &mut Neighbour) -> Result<Heard, Dropped> {
    hear(frame.bytes(), to)
}

/// The same station with another IP address.
fn renamed(ends: Ends, ip: &str) -> Ends {
    Ends { local: SocketAddr::new(ip.parse().unwrap(), 1), ..ends }
}

#[test]
fn a_question_teaches_both_sides() {
    for ends in all_ends() {
        let (mut us, mut them) = pair(ends);
        let question = us.ask(Nanos::ZERO, false).unwrap();
        let heard = deliver(&question, &mut them).unwrap();
        assert_eq!(them.mac(), Some(ends.local_mac), "{ends:?}");
        let heard = deliver(&heard.answer.unwrap(), &mut us).unwrap();
        assert_eq!(heard.learnt, Some(PEER_MAC));
        assert!(heard.answer.is_none(), "an answer is not answered");
        assert_eq!(us.mac(), Some(PEER_MAC));
        assert!(us.ask(Nanos::from_millis(1000), false).is_none(), "known, and not silent");
    }
}

#[test]
fn questions_are_spaced_and_bounded() {
    let (mut us, _) = pair(ends());
    let (mut now, mut asked) = (Nanos::ZERO, 0);
    while now < Nanos::from_millis(10_000) {
        asked += usize::from(us.ask(now, false).is_some());
        now = now.after(Nanos::from_millis(1));
    }
    // 5 + 10 + … + 320 ms are seven, then one every 500 ms.
    assert!((20..=30).contains(&asked), "{asked} questions in 10 s");
}

#[test]
fn a_silent_peer_that_comes_back_with_another_address_is_learnt_anew() {
    for ends in all_ends() {
        let (mut us, mut them) = pair(ends);
        let question = them.ask(Nanos::ZERO, false).unwrap();
        deliver(&question, &mut us).unwrap();
        assert!(us.ask(Nanos::ZERO, true).is_some());
        them.ends.local_mac = [2, 0, 0, 0, 0, 9];
        let question = them.ask(Nanos::from_millis(600), false).unwrap();
        let heard = deliver(&question, &mut us).unwrap();
        assert_eq!(heard.learnt, Some([2, 0, 0, 0, 0, 9]));
    }
}

#[test]
fn nothing_is_learnt_from_strangers_or_against_the_configuration() {
    for (ends, stranger) in [(ends(), "192.0.2.77"), (ends_v6(), "2001:db8::77")] {
        let (mut us, mut them) = pair(ends);
        them.ends = renamed(them.ends, stranger);
        let question = them.ask(Nanos::ZERO, false).unwrap();
        let heard = deliver(&question, &mut us).unwrap();
        let answer = heard.answer.expect("who asks for us is answered");
        // To the one who asked: ARP's target address, IPv6's destination.
        let octets = stranger.parse::<IpAddr>().unwrap();
        match octets {
            IpAddr::V4(ip) => assert_eq!(answer.bytes()[38..42], ip.octets()),
            IpAddr::V6(ip) => assert_eq!(answer.bytes()[38..54], ip.octets()),
        }
        assert_eq!(us.mac(), None);

        let (_, mut them) = pair(ends);
        let fixed = [2, 0, 0, 0, 0, 5];
        let mut us = Neighbour::new(ends, Some(fixed));
        let heard = deliver(&them.ask(Nanos::ZERO, false).unwrap(), &mut us).unwrap();
        assert!(heard.learnt.is_none() && heard.answer.is_some());
        assert_eq!(us.mac(), Some(fixed));
        assert!(us.ask(Nanos::ZERO, true).is_none());
        assert!(!us.forget());
    }
}

#[test]
fn a_group_address_is_never_learnt() {
    for ends in [ends(), ends_v6()] {
        let (mut us, mut them) = pair(ends);
        them.ends.local_mac = [3, 0, 0, 0, 0, 2];
        let question = them.ask(Nanos::ZERO, false).unwrap();
        let mut frame = question.bytes().to_vec();
        frame[6..12].copy_from_slice(&PEER_MAC);
        let heard = hear(&frame, &mut us).unwrap();
        assert!(heard.learnt.is_none() && heard.answer.is_none());
    }
}

#[test]
fn talk_between_others_is_dropped() {
    let (mut us, mut them) = pair(ends());
    them.ends = renamed(them.ends, "192.0.2.77");
    them.ends.next_hop = "192.0.2.78".parse().unwrap();
    let question = them.ask(Nanos::ZERO, false).unwrap();
    assert_eq!(deliver(&question, &mut us).err(), Some(Dropped::Neighbour));

    let (mut us, mut them) = pair(ends_v6());
    them.ends = renamed(them.ends, "2001:db8::77");
    // Another address of the same group.
    them.ends.next_hop = "2001:db8:1::1".parse().unwrap();
    let question = them.ask(Nanos::ZERO, false).unwrap();
    assert_eq!(deliver(&question, &mut us).err(), Some(Dropped::Neighbour));
    // A group we are not in is no station of ours.
    them.ends.next_hop = "2001:db8::78".parse().unwrap();
    let question = them.ask(Nanos::from_millis(600), false).unwrap();
    assert_eq!(deliver(&question, &mut us).err(), Some(Dropped::Station));
}

#[test]
fn a_gateway_is_asked_for_and_learnt_instead_of_the_peer() {
    for (ends, gateway) in [(ends(), "192.0.2.254"), (ends_v6(), "fe80::ff")] {
        let us = Ends { next_hop: gateway.parse().unwrap(), ..ends };
        let mut us = Neighbour::new(us, None);
        let router = Ends {
            local_mac: [2, 0, 0, 0, 0, 0xfe],
            next_hop: ends.local.ip(),
            ..renamed(theirs(ends), gateway)
        };
        let mut router = Neighbour::new(router, None);
        let question = us.ask(Nanos::ZERO, false).unwrap();
        let heard = deliver(&question, &mut router).unwrap();
        deliver(&heard.answer.unwrap(), &mut us).unwrap();
        assert_eq!(us.mac(), Some([2, 0, 0, 0, 0, 0xfe]));
        // The peer's own word for its address is not what leads to it.
        let (_, mut peer) = pair(ends);
        let heard = deliver(&peer.ask(Nanos::ZERO, false).unwrap(), &mut us).unwrap();
        assert!(heard.learnt.is_none() && heard.answer.is_some());
        // The router asks for us, as it does before it sends us anything.
        let question = router.ask(Nanos::from_millis(600), true).unwrap();
        assert!(deliver(&question, &mut us).unwrap().answer.is_some());
    }
}

/// A solicitation of the peer's, changed by `bend` and summed again.
fn bent(bend: impl FnOnce(&mut [u8])) -> Vec<u8> {
    use smoltcp::wire::{Icmpv6Packet, Ipv6Packet};
    let (_, mut them) = pair(ends_v6());
    let mut frame = them.ask(Nanos::ZERO, false).unwrap().bytes().to_vec();
    bend(&mut frame);
    let packet = Ipv6Packet::new_unchecked(&frame[14..]);
    let (source, target) = (packet.src_addr(), packet.dst_addr());
    Icmpv6Packet::new_unchecked(&mut frame[54..]).fill_checksum(&source, &target);
    frame
}

#[test]
fn a_solicitation_is_checked_as_rfc_4861_says() {
    let heard = |frame: Vec<u8>| hear(&frame, &mut pair(ends_v6()).0);
    assert!(heard(bent(|_| ())).unwrap().learnt.is_some());
    let refused = |frame: Vec<u8>| heard(frame).err();
    assert_eq!(refused(bent(|f| f[21] = 254)), Some(Dropped::HopLimit));
    assert_eq!(refused(bent(|f| f[55] = 1)), Some(Dropped::Neighbour), "a code");
    assert_eq!(refused(bent(|f| f[62] = 0xff)), Some(Dropped::Neighbour), "a group as target");
    assert_eq!(refused(bent(|f| f[79] = 0)), Some(Dropped::Neighbour), "an option of no length");
    assert_eq!(refused(bent(|f| f[22] = 0xff)), Some(Dropped::Neighbour), "a group as source");
    assert_eq!(refused(bent(|f| f[22..38].fill(0))), Some(Dropped::Neighbour), "nobody's address");
    let mut wrong = bent(|_| ());
    wrong[56] ^= 1;
    assert_eq!(refused(wrong), Some(Dropped::Checksum));
    let whole = bent(|_| ());
    for len in 0..whole.len() {
        assert!(heard(whole[..len].to_vec()).is_err(), "{len} bytes");
    }
}

#[test]
fn who_names_no_address_is_answered_where_he_is() {
    // Sent to us alone, without the option.
    let mut frame = bent(|frame| {
        frame[..6].copy_from_slice(&ends_v6().local_mac);
        frame[19] = 24;
    });
    frame.truncate(14 + 40 + 24);
    let mut again = frame.clone();
    use smoltcp::wire::{Icmpv6Packet, Ipv6Packet};
    let packet = Ipv6Packet::new_unchecked(&frame[14..]);
    let (source, target) = (packet.src_addr(), packet.dst_addr());
    Icmpv6Packet::new_unchecked(&mut again[54..]).fill_checksum(&source, &target);
    let heard = hear(&again, &mut pair(ends_v6()).0).unwrap();
    assert!(heard.learnt.is_none());
    assert_eq!(heard.answer.unwrap().bytes()[..6], PEER_MAC);

    // Somebody who tries out our address hears that it is taken, and everybody with him.
    let mut probe = again;
    probe[22..38].fill(0);
    let groups = crate::ndp::groups("2001:db8::1".parse().unwrap());
    probe[..6].copy_from_slice(&groups[0]);
    let packet = Ipv6Packet::new_unchecked(&probe[14..]);
    let (source, target) = (packet.src_addr(), packet.dst_addr());
    Icmpv6Packet::new_unchecked(&mut probe[54..]).fill_checksum(&source, &target);
    let heard = hear(&probe, &mut pair(ends_v6()).0).unwrap();
    let answer = heard.answer.unwrap();
    assert_eq!(answer.bytes()[..6], groups[1]);
    assert_eq!(answer.bytes()[38..54], "ff02::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
}
