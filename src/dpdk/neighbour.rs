//! ARP (RFC 826) for two stations: answers for our address, asks for the peer's, learns nothing else.
//! Takes the time and ARP packets; gives packets to send and the peer's Ethernet address.
//! Asks at a growing interval that is bounded at both ends, and again when the peer has been silent.

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
};

use ibid_units::Nanos;

use crate::headers::{Dropped, ETHERNET_BYTES, Ends};

/// An ARP frame, padded to Ethernet's least length.
pub(crate) type ArpFrame = [u8; ARP_FRAME_BYTES];

/// What we know of the peer's Ethernet address.
pub(crate) struct Neighbour {
    ends: Ends,
    peer_mac: Option<[u8; 6]>,
    /// Configured by the operator: never asked for, never changed.
    fixed: bool,
    ask_at: Nanos,
    interval: Nanos,
}

/// What an ARP packet led to.
#[derive(Default)]
pub(crate) struct Heard {
    /// The answer to send, if we were asked.
    pub(crate) answer: Option<ArpFrame>,
    /// The peer's address is new, or another than before.
    pub(crate) learnt: Option<[u8; 6]>,
}

impl Neighbour {
    pub(crate) fn new(ends: Ends, peer_mac: Option<[u8; 6]>) -> Neighbour {
        Neighbour {
            ends,
            peer_mac,
            fixed: peer_mac.is_some(),
            ask_at: Nanos::ZERO,
            interval: ASK_FIRST,
        }
    }

    pub(crate) fn peer_mac(&self) -> Option<[u8; 6]> {
        self.peer_mac
    }

    /// The device came up anew: the peer may be another machine by now. True if the address is unknown from here on.
    pub(crate) fn forget(&mut self) -> bool {
        if !self.fixed {
            self.peer_mac = None;
            self.ask_at = Nanos::ZERO;
            self.interval = ASK_FIRST;
        }
        self.peer_mac.is_none()
    }

    /// A question for the peer's address, when it is time for one: while it is unknown, and while the peer is `silent`
    /// (it may have come back with another address).
    pub(crate) fn ask(&mut self, now: Nanos, silent: bool) -> Option<ArpFrame> {
        if self.fixed || (self.peer_mac.is_some() && !silent) {
            self.interval = ASK_FIRST;
            return None;
        }
        if now < self.ask_at {
            return None;
        }
        self.ask_at = now.after(self.interval);
        self.interval = Nanos::new((self.interval.get() * 2).min(ASK_LAST.get()));
        Some(self.frame(ArpOperation::Request, [0; 6], EthernetAddress::BROADCAST.0))
    }

    /// Takes the payload of an ARP frame.
    pub(crate) fn hear(&mut self, payload: &[u8]) -> Result<Heard, Dropped> {
        let packet = ArpPacket::new_checked(payload).map_err(|_| Dropped::Arp)?;
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } = ArpRepr::parse(&packet).map_err(|_| Dropped::Arp)?
        else {
            return Err(Dropped::Arp);
        };
        let from_peer = source_protocol_addr == *self.ends.peer.ip();
        let for_us = target_protocol_addr == *self.ends.local.ip();
        if !from_peer && !for_us {
            return Err(Dropped::Arp);
        }
        let mut heard = Heard::default();
        if from_peer
            && !self.fixed
            && source_hardware_addr.is_unicast()
            && source_hardware_addr.0 != self.ends.local_mac
            && self.peer_mac != Some(source_hardware_addr.0)
        {
            self.peer_mac = Some(source_hardware_addr.0);
            heard.learnt = self.peer_mac;
        }
        if for_us && operation == ArpOperation::Request && source_hardware_addr.is_unicast() {
            let mac = source_hardware_addr.0;
            let mut answer = self.frame(ArpOperation::Reply, mac, mac);
            ArpPacket::new_unchecked(&mut answer[ETHERNET_BYTES..])
                .set_target_protocol_addr(&source_protocol_addr.octets());
            heard.answer = Some(answer);
        }
        Ok(heard)
    }

    fn frame(&self, operation: ArpOperation, target: [u8; 6], to: [u8; 6]) -> ArpFrame {
        let mut bytes = [0; ARP_FRAME_BYTES];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
        frame.set_dst_addr(EthernetAddress(to));
        frame.set_src_addr(EthernetAddress(self.ends.local_mac));
        frame.set_ethertype(EthernetProtocol::Arp);
        ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(self.ends.local_mac),
            source_protocol_addr: *self.ends.local.ip(),
            target_hardware_addr: EthernetAddress(target),
            target_protocol_addr: *self.ends.peer.ip(),
        }
        .emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
        bytes
    }
}

/// Ethernet's least frame, without FCS.
pub(crate) const ARP_FRAME_BYTES: usize = 60;
/// Between the first two questions.
const ASK_FIRST: Nanos = Nanos::from_millis(5);
/// Between two questions at most.
const ASK_LAST: Nanos = Nanos::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::tests::{PEER_MAC, ends};
    use crate::headers::{Seen, parse};

    fn pair() -> (Neighbour, Neighbour) {
        let us = ends();
        let them = Ends { local_mac: PEER_MAC, local: us.peer, peer: us.local };
        (Neighbour::new(us, None), Neighbour::new(them, None))
    }

    /// What `to` makes of a frame on the wire.
    fn deliver(frame: &ArpFrame, to: &mut Neighbour) -> Result<Heard, Dropped> {
        match parse(frame, &to.ends)? {
            Seen::Arp(place) => to.hear(&frame[place]),
            Seen::Datagram(_) => panic!("an ARP frame is no datagram"),
        }
    }

    #[test]
    fn a_question_teaches_both_sides() {
        let (mut us, mut them) = pair();
        let question = us.ask(Nanos::ZERO, false).unwrap();
        let heard = deliver(&question, &mut them).unwrap();
        assert_eq!(them.peer_mac(), Some(us.ends.local_mac));
        let heard = deliver(&heard.answer.unwrap(), &mut us).unwrap();
        assert_eq!(heard.learnt, Some(PEER_MAC));
        assert!(heard.answer.is_none(), "an answer is not answered");
        assert_eq!(us.peer_mac(), Some(PEER_MAC));
        assert!(us.ask(Nanos::from_millis(1000), false).is_none(), "known, and not silent");
    }

    #[test]
    fn questions_are_spaced_and_bounded() {
        let (mut us, _) = pair();
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
        let (mut us, mut them) = pair();
        let question = them.ask(Nanos::ZERO, false).unwrap();
        deliver(&question, &mut us).unwrap();
        assert!(us.ask(Nanos::ZERO, true).is_some());
        them.ends.local_mac = [2, 0, 0, 0, 0, 9];
        let question = them.ask(Nanos::from_millis(600), false).unwrap();
        let heard = deliver(&question, &mut us).unwrap();
        assert_eq!(heard.learnt, Some([2, 0, 0, 0, 0, 9]));
    }

    #[test]
    fn nothing_is_learnt_from_strangers_or_against_the_configuration() {
        let (mut us, mut them) = pair();
        them.ends.local = std::net::SocketAddrV4::new([192, 0, 2, 77].into(), 1);
        let question = them.ask(Nanos::ZERO, false).unwrap();
        let heard = deliver(&question, &mut us).unwrap();
        assert!(heard.answer.is_some(), "who asks for us is answered");
        let answer = heard.answer.unwrap();
        assert_eq!(answer[38..42], [192, 0, 2, 77], "to the one who asked");
        assert_eq!(us.peer_mac(), None);

        let (_, mut them) = pair();
        let fixed = [2, 0, 0, 0, 0, 5];
        let mut us = Neighbour::new(ends(), Some(fixed));
        let heard = deliver(&them.ask(Nanos::ZERO, false).unwrap(), &mut us).unwrap();
        assert!(heard.learnt.is_none() && heard.answer.is_some());
        assert_eq!(us.peer_mac(), Some(fixed));
        assert!(us.ask(Nanos::ZERO, true).is_none());
        assert!(!us.forget());
    }

    #[test]
    fn a_group_address_is_never_learnt() {
        let (mut us, mut them) = pair();
        them.ends.local_mac = [3, 0, 0, 0, 0, 2];
        let mut question = them.ask(Nanos::ZERO, false).unwrap();
        question[6..12].copy_from_slice(&PEER_MAC);
        let heard = deliver(&question, &mut us).unwrap();
        assert!(heard.learnt.is_none() && heard.answer.is_none());
    }

    #[test]
    fn talk_between_others_is_dropped() {
        let (mut us, mut them) = pair();
        them.ends.local = std::net::SocketAddrV4::new([192, 0, 2, 77].into(), 1);
        them.ends.peer = std::net::SocketAddrV4::new([192, 0, 2, 78].into(), 1);
        let question = them.ask(Nanos::ZERO, false).unwrap();
        assert_eq!(deliver(&question, &mut us).err(), Some(Dropped::Arp));
    }
}
