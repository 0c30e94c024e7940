//! Who is let in: places for connections, how many one address or one host may have, and who goes for a newcomer when all are taken.
//! Everything is bounded by [`super::Limits::connections_max`] and costs the same in a storm as in a calm.
//!
//! ADM-1  a connection that is past Connect, and past its authentication where that was asked for, is never closed to make room for another.
//! ADM-2  one address can keep no other from a place: beyond its share it only replaces its own newcomers.

use super::{ConnId, Frontend};
use alloc::{vec, vec::Vec};
use core::net::{IpAddr, Ipv6Addr};

/// No connection.
const NONE: u16 = u16::MAX;
/// A network that one host can choose addresses from: what counts as one address of IPv6.
const V6_PREFIX: u128 = !0 << 64;

/// The places of connections.
pub(super) struct Places {
    free: Vec<u16>,
    /// Who is at the other end of each that is taken.
    from: Vec<Option<u128>>,
    /// Neighbours of each newcomer (TCP is open, Connect or the authentication behind it is not done) in the order in which they came.
    older: Vec<u16>,
    younger: Vec<u16>,
    oldest: u16,
    youngest: u16,
}

/// What stands for an address when connections are counted.
fn key(from: IpAddr) -> u128 {
    match from.to_canonical() {
        IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) if v6 == Ipv6Addr::LOCALHOST => u128::from(v6),
        IpAddr::V6(v6) => u128::from(v6) & V6_PREFIX,
    }
}

impl Places {
    pub(super) fn new(count: u16) -> Self {
        Self {
            free: (0..count).rev().collect(),
            from: vec![None; usize::from(count)],
            older: vec![NONE; usize::from(count)],
            younger: vec![NONE; usize::from(count)],
            oldest: NONE,
            youngest: NONE,
        }
    }

    fn take(&mut self, from: IpAddr) -> Option<u16> {
        let c = self.free.pop()?;
        let at = usize::from(c);
        self.from[at] = Some(key(from));
        self.older[at] = self.youngest;
        match self.youngest {
            NONE => self.oldest = c,
            last => self.younger[usize::from(last)] = c,
        }
        self.youngest = c;
        Some(c)
    }

    /// A newcomer is one no more.
    pub(super) fn settle(&mut self, c: usize) {
        let (older, younger) = (self.older[c], self.younger[c]);
        match older {
            NONE if self.oldest == c as u16 => self.oldest = younger,
            // It has been settled before.
            NONE => return,
            older => self.younger[usize::from(older)] = younger,
        }
        match younger {
            NONE => self.youngest = older,
            younger => self.older[usize::from(younger)] = older,
        }
        (self.older[c], self.younger[c]) = (NONE, NONE);
    }

    pub(super) fn give(&mut self, c: usize) {
        self.settle(c);
        self.from[c] = None;
        self.free.push(c as u16);
    }

    /// The oldest newcomer, of all or from one address.
    fn oldest_newcomer(&self, from: Option<u128>) -> Option<u16> {
        let mut c = self.oldest;
        while c != NONE {
            if from.is_none() || self.from[usize::from(c)] == from {
                return Some(c);
            }
            c = self.younger[usize::from(c)];
        }
        None
    }

    fn count(&self, from: u128) -> usize {
        self.from.iter().filter(|other| **other == Some(from)).count()
    }
}

impl Frontend {
    /// Who has to go before one more connection from this address is opened: the oldest that has not done its Connect and authenticated, its own where
    /// the address has its share, else anybody's. `None` where there is room, or where nobody may go (ADM-1).
    pub fn in_the_way(&self, from: IpAddr) -> Option<ConnId> {
        let from = key(from);
        let victim = if self.has_its_share(from) {
            self.places.oldest_newcomer(Some(from))
        } else if self.places.free.is_empty() {
            self.places.oldest_newcomer(None)
        } else {
            None
        };
        victim.map(ConnId)
    }

    fn has_its_share(&self, from: u128) -> bool {
        self.places.count(from) >= usize::from(self.config.limits.connections_per_address)
    }

    /// A place for a connection from this address; `None` where there is none, or the address has its share.
    pub(super) fn take_place(&mut self, from: IpAddr) -> Option<usize> {
        if self.has_its_share(key(from)) {
            return None;
        }
        self.places.take(from).map(usize::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn newcomers_stand_in_the_order_in_which_they_came_whoever_leaves() {
        let mut places = Places::new(4);
        let all: Vec<u16> = (0..4).map(|_| places.take(A).unwrap()).collect();
        assert_eq!(places.take(A), None);
        assert_eq!(places.oldest_newcomer(None), Some(all[0]));
        places.settle(all[1].into());
        places.settle(all[1].into());
        places.settle(all[0].into());
        assert_eq!(places.oldest_newcomer(None), Some(all[2]));
        places.give(all[3].into());
        places.give(all[2].into());
        assert_eq!(places.oldest_newcomer(None), None);
        // What was settled leaves without a trace, and places come back as newcomers.
        places.give(all[0].into());
        let again = places.take(A).unwrap();
        assert_eq!(places.oldest_newcomer(None), Some(again));
        places.give(again.into());
        assert_eq!((places.oldest, places.youngest), (NONE, NONE));
        assert_eq!(places.count(key(A)), 1);
    }

    #[test]
    fn one_network_counts_as_one_address() {
        let v6 = |text: &str| key(text.parse().unwrap());
        assert_eq!(v6("2001:db8:1:2::1"), v6("2001:db8:1:2:ffff::9"));
        assert_ne!(v6("2001:db8:1:2::1"), v6("2001:db8:1:3::1"));
        assert_eq!(v6("::ffff:192.0.2.1"), key(A));
        assert_ne!(v6("192.0.2.2"), key(A));
    }
}
