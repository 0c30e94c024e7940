//! The source's side of the link: packet numbers, what each packet carried, loss detection, window, probe timeout (RFC 9002 in shape).
//! Takes reports and the time; says what to send again and when to probe. Knows nothing of bytes, frames or devices.
//! LNK-1  an item is in exactly one place: a queue, or a packet in flight, or delivered.
//! LNK-2  packets in flight ≤ PACKETS_MAX, bytes in flight ≤ window + one frame.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use ibid_units::{CpId, LogBlock, Mutant, Nanos, PacketNumber};
use ibid_wire::peer::PacketRange;

/// Packets in flight, at most. A power of two: packet n lives in place n mod this.
pub const PACKETS_MAX: usize = 1024;
/// Items in one packet, at most (one per section).
pub const ITEMS_MAX: usize = 16;

// RFC 9002 §6.1.1; grows where packets that were given up arrive after all.
const REORDER_PACKETS: u64 = 3;
const REORDER_PACKETS_MAX: u64 = PACKETS_MAX as u64 / 2;
/// Packets that were found lost and may still arrive: so many are remembered.
const GIVEN_UP_MAX: usize = 32;
// RFC 9002 §6.1.2 has 1 ms for granularity; two nodes that share cores are delayed by a scheduling slice now and then.
const GRANULARITY: Nanos = Nanos::from_millis(4);
const PROBE_MIN: Nanos = Nanos::from_millis(10);
const PROBE_MAX: Nanos = Nanos::from_millis(500);
const RTT_INITIAL: Nanos = Nanos::from_millis(5);
const WINDOW_INITIAL: u64 = 512 * 1024;
const WINDOW_MIN: u64 = 64 * 1024;
// Half of what the receive ring of the smallest device holds (512 frames of 9000 bytes).
const WINDOW_MAX: u64 = 2 * 1024 * 1024;
// Of a loss that is no congestion: BBR's threshold (draft-ietf-ccwg-bbr, BBR.LossThresh), over at least so many packets.
const LOSS_TOLERATED: u64 = 50;
const LOSS_COUNTED_MIN: u64 = 256;
// What is left of the window after a loss that is (RFC 9438 §4.6), and its growth in a round trip beyond the threshold.
const WINDOW_LEFT: (u64, u64) = (7, 10);
const WINDOW_GROWTH: u64 = 32;
/// Bytes that may leave at once after a pause, whatever the rate: less than the shallowest switch holds for a port. RFC 9002 §7.7.
const BURST: u64 = 64 * 1024;
/// Bytes of blocks that may be in flight: what a path of no length holds, and for each millisecond of the shortest round trip. A client's write
/// waits behind so much of them at most.
const BLOCKS_IN_FLIGHT: u64 = 256 * 1024;
/// A turn that comes late may send what the time since the last one allows, for so long at most.
const TURN_MAX: Nanos = Nanos::from_micros(100);
/// Less than this is not given yet: of many short turns on a long way each would otherwise be rounded to nothing.
const CREDIT_MIN: u64 = 64;
/// Longer pauses allow no more.
const PAUSE_MAX: Nanos = Nanos::from_millis(1000);

/// What an item names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ItemKind {
    /// A header or descriptor block of the log: as many bytes as it uses.
    LogStructure,
    /// Sectors `first ‥ first + count` of a log page.
    LogPage {
        /// First sector in the page.
        first: u8,
        /// Number of sectors.
        count: u8,
    },
    /// The CP's opening.
    CpOpen,
    /// The stretch of the list that begins with record `place`.
    CpList,
    /// Sectors of the list's page number `place`.
    CpBlock {
        /// First sector in the page.
        first: u8,
        /// Number of sectors.
        count: u8,
    },
    /// Nothing: wants a report.
    Ping,
    /// The source stops in good order.
    Goodbye,
}

/// Something to be sent until it has arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Item {
    /// What.
    pub kind: ItemKind,
    /// The segment, or the CP.
    pub segment: CpId,
    /// The block, record or page; see the kind.
    pub place: LogBlock,
}

impl Item {
    /// A block of a CP, in a class behind all others.
    pub fn is_block(&self) -> bool {
        matches!(self.kind, ItemKind::CpBlock { .. })
    }
}

/// Items that may wait to be sent again: all that can be in flight, and those of one packet that was being put together.
const AGAIN_MAX: usize = (PACKETS_MAX + 1) * ITEMS_MAX;

const NO_ITEM: Item = Item { kind: ItemKind::Ping, segment: CpId::new(0), place: LogBlock::new(0) };

#[derive(Clone, Copy, Debug)]
struct Packet {
    number: u64,
    sent_at: Nanos,
    bytes: u32,
    in_flight: bool,
    item_count: u8,
    items: [Item; ITEMS_MAX],
}

impl Packet {
    /// It carries blocks of a CP, which give way to everything else.
    fn is_bulk(&self) -> bool {
        self.item_count > 0 && self.items[0].is_block()
    }
}

/// What a sender counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SenderCounters {
    /// Packets sent.
    pub packets: u64,
    /// Packets found lost, whose items were queued again.
    pub lost: u64,
    /// Probe timeouts.
    pub probes: u64,
}

/// The sending side of one session.
#[derive(Debug)]
pub struct Sender {
    packets: Vec<Packet>,
    next: u64,
    /// No packet below is in flight.
    oldest: u64,
    largest_acked: Option<u64>,
    again: VecDeque<Item>,
    /// The same of blocks.
    blocks_again: VecDeque<Item>,
    bytes_in_flight: u64,
    /// Those of packets with blocks.
    block_bytes: u64,
    window: u64,
    threshold: u64,
    /// Packets sent before this one don't shrink the window again (RFC 9002 §7.3.1).
    recovery_until: u64,
    /// Packets that were acknowledged or found lost since the loss is counted, and the lost ones of them.
    judged: (u64, u64),
    /// A packet is lost when one so many newer was acknowledged.
    reorder: u64,
    given_up: VecDeque<u64>,
    /// Bytes that may be sent now (RFC 9002 §7.7); below zero by a frame at most.
    tokens: i64,
    refilled_at: Nanos,
    rtt: Nanos,
    rtt_var: Nanos,
    rtt_known: bool,
    /// The shortest of the session; `NEVER` before the first.
    rtt_least: Nanos,
    probe_backoff: u32,
    last_sent: Nanos,
    counters: SenderCounters,
}

impl Default for Sender {
    fn default() -> Self {
        Self::new()
    }
}

impl Sender {
    /// A sender that has sent nothing.
    pub fn new() -> Self {
        let empty = Packet {
            number: 0,
            sent_at: Nanos::ZERO,
            bytes: 0,
            in_flight: false,
            item_count: 0,
            items: [NO_ITEM; ITEMS_MAX],
        };
        Self {
            packets: vec![empty; PACKETS_MAX],
            next: 0,
            oldest: 0,
            largest_acked: None,
            again: VecDeque::with_capacity(AGAIN_MAX),
            blocks_again: VecDeque::with_capacity(AGAIN_MAX),
            bytes_in_flight: 0,
            block_bytes: 0,
            window: WINDOW_INITIAL,
            threshold: u64::MAX,
            recovery_until: 0,
            judged: (0, 0),
            reorder: REORDER_PACKETS,
            given_up: VecDeque::with_capacity(GIVEN_UP_MAX),
            tokens: BURST as i64,
            refilled_at: Nanos::ZERO,
            rtt: RTT_INITIAL,
            rtt_var: Nanos::new(RTT_INITIAL.get() / 2),
            rtt_known: false,
            rtt_least: Nanos::NEVER,
            probe_backoff: 0,
            last_sent: Nanos::ZERO,
            counters: SenderCounters::default(),
        }
    }

    /// Starts over for a new session: nothing is in flight, nothing queued.
    pub fn reset(&mut self) {
        for packet in &mut self.packets {
            packet.in_flight = false;
        }
        self.next = 0;
        self.oldest = 0;
        self.largest_acked = None;
        self.again.clear();
        self.blocks_again.clear();
        self.bytes_in_flight = 0;
        self.block_bytes = 0;
        self.rtt_least = Nanos::NEVER;
        self.window = WINDOW_INITIAL;
        self.threshold = u64::MAX;
        self.recovery_until = 0;
        self.judged = (0, 0);
        self.reorder = REORDER_PACKETS;
        self.given_up.clear();
        self.probe_backoff = 0;
    }

    /// Pacing: gives what the time since the last turn allows at 5/4 of window / round trip, at twice that while the window doubles. Asked for
    /// once in a turn, so it needs no timer.
    pub fn refill(&mut self, now: Nanos) {
        let elapsed = now.since(self.refilled_at);
        let most = self.paced(elapsed.min(TURN_MAX)).max(BURST);
        let credit = self.paced(elapsed.min(PAUSE_MAX));
        if credit >= CREDIT_MIN {
            self.refilled_at = now;
            self.tokens += credit.min(most) as i64;
        }
        self.tokens = self.tokens.min(most as i64);
    }

    /// Bytes that the pace allows in a time.
    fn paced(&self, time: Nanos) -> u64 {
        let quarters = if self.window < self.threshold { 8 } else { 5 };
        time.get() * self.window * quarters / 4 / self.rtt.get().max(1)
    }

    /// True while the window allows more than the pace does.
    pub fn is_held_back(&self) -> bool {
        self.tokens <= 0 && self.may_send()
    }

    /// True where another frame may be sent now (LNK-2).
    pub fn may_send(&self) -> bool {
        self.bytes_in_flight < self.window && self.has_room()
    }

    /// True where another frame with blocks may be sent now: they have a part of the window, of the packets and of the burst, so that what a client
    /// writes next finds room in each.
    pub fn may_send_blocks(&self) -> bool {
        let shortest = if self.rtt_least == Nanos::NEVER { 0 } else { self.rtt_least.get() };
        let longer = BLOCKS_IN_FLIGHT * shortest / Nanos::from_millis(1).get();
        let most = (BLOCKS_IN_FLIGHT + longer).min(self.window / 2);
        self.may_send()
            && self.block_bytes < most
            && self.next - self.oldest < PACKETS_MAX as u64 / 4 * 3
            && self.tokens > BURST as i64 / 2
    }

    /// True where a packet more can be remembered: asked before what goes out whatever the window says.
    pub fn has_room(&self) -> bool {
        self.next - self.oldest < PACKETS_MAX as u64
    }

    /// The next item that was lost, to be sent before anything new; never a block.
    pub fn pop_again(&mut self) -> Option<Item> {
        self.again.pop_front()
    }

    /// The next block that was lost, to be sent before new ones.
    pub fn pop_block_again(&mut self) -> Option<Item> {
        self.blocks_again.pop_front()
    }

    /// Puts an item back that did not fit the frame after all.
    pub fn push_again(&mut self, item: Item) {
        let again = self.again_of(&item);
        assert!(again.len() < AGAIN_MAX, "LNK-1: an item is queued once");
        again.push_front(item);
    }

    fn again_of(&mut self, item: &Item) -> &mut VecDeque<Item> {
        if item.is_block() { &mut self.blocks_again } else { &mut self.again }
    }

    /// True while something lost waits to be sent again, blocks apart.
    pub fn has_again(&self) -> bool {
        !self.again.is_empty()
    }

    /// The number the next packet will have.
    pub fn next_number(&self) -> PacketNumber {
        PacketNumber::new(self.next)
    }

    /// A packet with these items went out.
    pub fn sent(&mut self, now: Nanos, bytes: usize, items: &[Item]) -> PacketNumber {
        let number = self.next;
        assert!(
            number - self.oldest < PACKETS_MAX as u64,
            "LNK-2: at most {PACKETS_MAX} packets in flight"
        );
        let packet = &mut self.packets[(number % PACKETS_MAX as u64) as usize];
        assert!(!packet.in_flight, "LNK-2: packet {} is still in flight", packet.number);
        packet.number = number;
        packet.sent_at = now;
        packet.bytes = bytes as u32;
        packet.in_flight = true;
        packet.item_count = items.len() as u8;
        packet.items[..items.len()].copy_from_slice(items);
        self.bytes_in_flight += bytes as u64;
        self.block_bytes += if packet.is_bulk() { bytes as u64 } else { 0 };
        self.tokens -= bytes as i64;
        self.next += 1;
        self.last_sent = now;
        self.counters.packets += 1;
        PacketNumber::new(number)
    }

    /// A report says what has arrived. Numbers never sent are ignored; returns false if there were any.
    pub fn reported(&mut self, now: Nanos, ranges: &[PacketRange], delay: Nanos) -> bool {
        let mut honest = true;
        let mut newest_acked_at = None;
        for range in ranges {
            if range.last >= self.next {
                honest = false;
                continue;
            }
            for number in range.first.max(self.oldest)..=range.last {
                if number < self.oldest {
                    break;
                }
                let at = (number % PACKETS_MAX as u64) as usize;
                let packet = &mut self.packets[at];
                if packet.number != number || !packet.in_flight {
                    continue;
                }
                packet.in_flight = false;
                self.bytes_in_flight -= u64::from(packet.bytes);
                self.block_bytes -= if packet.is_bulk() { u64::from(packet.bytes) } else { 0 };
                self.judged.0 += 1;
                if newest_acked_at.is_none()
                    && self.largest_acked.is_none_or(|largest| number > largest)
                {
                    newest_acked_at = Some((
                        range.last,
                        self.packets[(range.last % PACKETS_MAX as u64) as usize].sent_at,
                    ));
                }
                if number >= self.recovery_until {
                    self.grow(self.packets[at].bytes);
                }
            }
            if self.largest_acked.is_none_or(|largest| range.last > largest) {
                self.largest_acked = Some(range.last);
                self.probe_backoff = 0;
            }
        }
        if let Some((_, sent_at)) = newest_acked_at {
            self.measure(now.since(sent_at).since(delay));
        }
        self.notice_late(ranges);
        self.find_lost(now);
        self.forget();
        honest
    }

    /// What was given up and has arrived was only late: from now on packets are waited for that long (RFC 9002 §6.1.1, RFC 8985).
    fn notice_late(&mut self, ranges: &[PacketRange]) {
        let Some(largest) = self.largest_acked else { return };
        let Self { given_up, reorder, judged, .. } = self;
        given_up.retain(|&number| {
            let arrived = ranges.iter().any(|range| (range.first..=range.last).contains(&number));
            if arrived {
                *reorder = (*reorder).max(largest - number + 1).min(REORDER_PACKETS_MAX);
                judged.1 = judged.1.saturating_sub(1);
            }
            !arrived
        });
    }

    fn grow(&mut self, bytes: u32) {
        let step = if self.window < self.threshold {
            u64::from(bytes)
        } else {
            // A part of the window in a round trip, so that what a loss took is there again after as many, however large it is.
            (u64::from(bytes) / WINDOW_GROWTH).max(1)
        };
        self.window = (self.window + step).min(WINDOW_MAX);
    }

    // RFC 9002 §5.3.
    fn measure(&mut self, sample: Nanos) {
        self.rtt_least = self.rtt_least.min(sample);
        let (sample, rtt, var) = (sample.get(), self.rtt.get(), self.rtt_var.get());
        if self.rtt_known {
            self.rtt_var = Nanos::new((3 * var + rtt.abs_diff(sample)) / 4);
            self.rtt = Nanos::new((7 * rtt + sample) / 8);
        } else {
            self.rtt = Nanos::new(sample);
            self.rtt_var = Nanos::new(sample / 2);
            self.rtt_known = true;
        }
    }

    fn loss_delay(&self) -> Nanos {
        Nanos::new((self.rtt.get() * 9 / 8).max(GRANULARITY.get()))
    }

    /// Queues the items of packets that newer ones have overtaken for good (RFC 9002 §6.1).
    fn find_lost(&mut self, now: Nanos) {
        let Some(largest) = self.largest_acked else { return };
        let delay = self.loss_delay();
        for number in self.oldest..largest {
            let packet = &self.packets[(number % PACKETS_MAX as u64) as usize];
            if !packet.in_flight {
                continue;
            }
            let overtaken = largest - number >= self.reorder || now.since(packet.sent_at) >= delay;
            if overtaken {
                self.judged.0 += 1;
                self.judged.1 += u64::from(number >= self.recovery_until);
                self.lose(number);
                if self.given_up.len() == GIVEN_UP_MAX {
                    self.given_up.pop_front();
                }
                self.given_up.push_back(number);
            }
        }
        self.judge();
    }

    /// Shrinks the window where more was lost than a cable loses that is merely bad.
    fn judge(&mut self) {
        let (all, lost) = self.judged;
        if lost * LOSS_TOLERATED > all.max(LOSS_COUNTED_MIN) {
            let (left, of) = WINDOW_LEFT;
            self.threshold = (self.window * left / of).max(WINDOW_MIN);
            self.window = self.threshold;
            self.recovery_until = self.next;
            self.judged = (0, 0);
        } else if all >= LOSS_COUNTED_MIN {
            self.judged = (all / 2, lost / 2);
        }
    }

    fn lose(&mut self, number: u64) {
        let at = (number % PACKETS_MAX as u64) as usize;
        let packet = &mut self.packets[at];
        packet.in_flight = false;
        self.bytes_in_flight -= u64::from(packet.bytes);
        self.block_bytes -= if packet.is_bulk() { u64::from(packet.bytes) } else { 0 };
        let (items, count) = (packet.items, usize::from(packet.item_count));
        self.counters.lost += 1;
        for item in &items[..count] {
            if item.kind != ItemKind::Ping && !Mutant::LossIgnored.is_on() {
                let again = self.again_of(item);
                assert!(again.len() < AGAIN_MAX, "LNK-1: an item is queued once");
                again.push_back(*item);
            }
        }
    }

    fn forget(&mut self) {
        while self.oldest < self.next
            && !self.packets[(self.oldest % PACKETS_MAX as u64) as usize].in_flight
        {
            self.oldest += 1;
        }
    }

    /// When something must be done if nothing is heard: a loss to be noticed, or a probe. `awaiting` is true where the caller
    /// waits for a report although every packet may have arrived.
    pub fn deadline(&self, awaiting: bool) -> Nanos {
        let mut deadline = Nanos::NEVER;
        if let Some(largest) = self.largest_acked
            && self.oldest < largest
        {
            let sent_at = self.packets[(self.oldest % PACKETS_MAX as u64) as usize].sent_at;
            deadline = sent_at.after(self.loss_delay());
        }
        if self.oldest < self.next || awaiting {
            deadline = deadline.min(self.last_sent.after(self.probe_after()));
        }
        deadline
    }

    fn probe_after(&self) -> Nanos {
        let variation = Nanos::new(4 * self.rtt_var.get()).max(GRANULARITY);
        let base = self.rtt.after(variation).max(PROBE_MIN);
        Nanos::new(base.get() << self.probe_backoff.min(16)).min(PROBE_MAX)
    }

    /// The deadline has passed: true where a probe is to be sent now (the oldest packet's items go with it, as they may be lost).
    pub fn timed_out(&mut self, now: Nanos, awaiting: bool) -> bool {
        self.find_lost(now);
        self.forget();
        if !(self.oldest < self.next || awaiting) || now < self.last_sent.after(self.probe_after())
        {
            return false;
        }
        self.probe_backoff += 1;
        self.counters.probes += 1;
        if self.oldest < self.next {
            self.lose(self.oldest);
            self.forget();
        }
        true
    }

    /// Everything sent has arrived.
    pub fn is_quiet(&self) -> bool {
        self.oldest == self.next && self.again.is_empty() && self.blocks_again.is_empty()
    }
    /// When the last packet was sent.
    pub fn last_sent(&self) -> Nanos {
        self.last_sent
    }
    /// Smoothed round trip time.
    pub fn rtt(&self) -> Nanos {
        self.rtt
    }
    /// Bytes that may be in flight.
    pub fn window(&self) -> u64 {
        self.window
    }
    /// What was counted.
    pub fn counters(&self) -> SenderCounters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(n: u32) -> Item {
        Item {
            kind: ItemKind::LogPage { first: 0, count: 8 },
            segment: CpId::new(1),
            place: LogBlock::new(n),
        }
    }

    fn range(first: u64, last: u64) -> PacketRange {
        PacketRange { first, last }
    }

    fn ms(n: u64) -> Nanos {
        Nanos::from_millis(n)
    }

    #[test]
    fn three_newer_acknowledgements_tell_a_loss() {
        let mut sender = Sender::new();
        for n in 0..6 {
            sender.sent(ms(1), 9000, &[item(n)]);
        }
        assert!(sender.reported(ms(2), &[range(3, 3)], Nanos::ZERO));
        assert_eq!(sender.pop_again(), Some(item(0)));
        assert_eq!(sender.pop_again(), None, "1 and 2 are overtaken by fewer than three");
        assert!(sender.reported(ms(2), &[range(3, 5)], Nanos::ZERO));
        assert_eq!(sender.pop_again(), Some(item(1)));
    }

    /// Sends 256 packets of which `lost` come to nothing; the window before and after.
    fn after_a_loss_of(lost: u64) -> (Sender, u64, u64) {
        let mut sender = Sender::new();
        for n in 0..256 {
            sender.sent(ms(1), 1000, &[item(n)]);
        }
        let before = sender.window();
        assert!(sender.reported(ms(2), &[range(lost, 255)], Nanos::ZERO));
        assert_eq!(sender.counters().lost, lost);
        let after = sender.window();
        (sender, before, after)
    }

    #[test]
    fn a_rare_loss_leaves_the_window_and_more_shrinks_it_once() {
        let (_, before, after) = after_a_loss_of(5);
        assert_eq!(after, before + 251 * 1000, "one in fifty is borne");
        let (mut sender, before, after) = after_a_loss_of(6);
        assert_eq!(after, (before + 250 * 1000) * 7 / 10);
        // What was in flight then shrinks it no further.
        for n in 256..512 {
            sender.sent(ms(3), 1000, &[item(n)]);
        }
        assert!(sender.reported(ms(4), &[range(262, 511)], Nanos::ZERO));
        let again = sender.window();
        assert!(again < after, "the next six do: {again} of {after}");
        assert!(sender.reported(ms(5), &[range(262, 511)], Nanos::ZERO));
        assert_eq!(sender.window(), again);
    }

    #[test]
    fn what_was_given_up_and_arrives_is_waited_for_the_next_time() {
        let mut sender = Sender::new();
        for n in 0..40 {
            sender.sent(ms(1), 1000, &[item(n)]);
        }
        assert!(sender.reported(ms(2), &[range(1, 10)], Nanos::ZERO));
        assert_eq!(sender.pop_again(), Some(item(0)));
        // It was ten packets late.
        assert!(sender.reported(ms(2), &[range(0, 10)], Nanos::ZERO));
        assert!(sender.reported(ms(2), &[range(12, 21), range(0, 10)], Nanos::ZERO));
        assert_eq!(sender.pop_again(), None, "ten newer ones don't make it lost");
        assert!(sender.reported(ms(2), &[range(12, 22), range(0, 10)], Nanos::ZERO));
        assert_eq!(sender.pop_again(), Some(item(11)));
        sender.reset();
        for n in 0..5 {
            sender.sent(ms(3), 1000, &[item(n)]);
        }
        assert!(sender.reported(ms(4), &[range(3, 3)], Nanos::ZERO));
        assert_eq!(sender.pop_again(), Some(item(0)), "a new session may go another way");
    }

    #[test]
    fn a_burst_passes_at_once_and_what_follows_at_the_pace_of_the_window() {
        let mut sender = Sender::new();
        sender.sent(ms(1), 9000, &[item(0)]);
        assert!(sender.reported(ms(2), &[range(0, 0)], Nanos::ZERO));
        assert_eq!(sender.rtt(), ms(1));
        // A turn that comes late may send more; the next one may not.
        sender.refill(ms(3));
        sender.refill(ms(3));
        let mut burst = 0;
        while !sender.is_held_back() {
            assert!(sender.may_send());
            sender.sent(ms(3), 9000, &[item(1)]);
            burst += 9000;
        }
        assert!((BURST..BURST + 9000).contains(&burst), "{burst} bytes");
        // 50 microseconds of a millisecond, at twice the window while that still doubles.
        let mut paced = 0u64;
        for turn in 1..=50 {
            sender.refill(ms(3).after(Nanos::from_micros(turn)));
            while !sender.is_held_back() {
                sender.sent(ms(3), 9000, &[item(1)]);
                paced += 9000;
            }
        }
        let want = sender.window() / 10;
        assert!(paced.abs_diff(want) <= 9000, "{paced} bytes of {want}");
        // However late a turn comes, it makes up for no more than a tenth of a round trip here.
        sender.refill(ms(1000));
        assert!(sender.tokens as u64 <= sender.window() / 5, "{}", sender.tokens);
    }

    /// A shard that is held back turns as fast as it can.
    #[test]
    fn turns_of_a_microsecond_on_a_long_way_add_up() {
        let mut sender = Sender::new();
        sender.sent(ms(1), 9000, &[item(0)]);
        assert!(sender.reported(ms(101), &[range(0, 0)], Nanos::ZERO));
        assert_eq!(sender.rtt(), ms(100));
        (sender.window, sender.threshold) = (WINDOW_MIN, WINDOW_MIN);
        let mut now = ms(101);
        sender.refill(now);
        sender.tokens = 0;
        let mut paced = 0u64;
        for _ in 0..50_000 {
            now = now.after(Nanos::from_micros(1));
            sender.refill(now);
            while sender.may_send() && !sender.is_held_back() {
                sender.sent(now, 1000, &[item(1)]);
                paced += 1000;
            }
        }
        assert!(paced.abs_diff(WINDOW_MIN * 5 / 8) <= 2000, "{paced} bytes");
    }

    #[test]
    fn a_probe_comes_when_nothing_is_heard_and_waits_longer_each_time() {
        let mut sender = Sender::new();
        assert_eq!(sender.deadline(false), Nanos::NEVER);
        sender.sent(ms(1), 9000, &[item(7)]);
        let first = sender.deadline(false);
        assert!(!sender.timed_out(Nanos::new(first.get() - 1), false));
        assert!(sender.timed_out(first, false));
        assert_eq!(sender.pop_again(), Some(item(7)));
        sender.sent(first, 9000, &[item(7)]);
        let second = sender.deadline(false);
        assert!(second - first > first - ms(1));
    }

    #[test]
    fn a_caller_that_awaits_a_report_probes_although_nothing_is_in_flight() {
        let mut sender = Sender::new();
        sender.sent(ms(1), 100, &[item(1)]);
        assert!(sender.reported(ms(2), &[range(0, 0)], Nanos::ZERO));
        assert!(sender.is_quiet());
        assert_eq!(sender.deadline(false), Nanos::NEVER);
        let deadline = sender.deadline(true);
        assert!(deadline < Nanos::NEVER && sender.timed_out(deadline, true));
    }

    fn block(n: u32) -> Item {
        Item { kind: ItemKind::CpBlock { first: 0, count: 8 }, ..item(n) }
    }

    #[test]
    fn blocks_leave_a_part_of_the_window_and_of_the_burst_to_what_is_written_next() {
        let mut sender = Sender::new();
        sender.sent(ms(1), 9000, &[item(0)]);
        assert!(sender.reported(ms(2), &[range(0, 0)], Nanos::ZERO));
        let mut now = ms(2);
        let mut sent = 0;
        for _ in 0..1000 {
            now = now.after(Nanos::from_micros(20));
            sender.refill(now);
            if sender.may_send_blocks() {
                sender.sent(now, 9000, &[block(sent)]);
                sent += 1;
            }
            assert!(sender.may_send() && !sender.is_held_back(), "{sent} sent");
        }
        // A round trip of a millisecond adds as much as the path of no length has; and half of the window is the most.
        assert_eq!(u64::from(sent), (sender.window() / 2).min(2 * BLOCKS_IN_FLIGHT).div_ceil(9000));
        // Lost, they wait in a queue of their own.
        sender.sent(now, 9000, &[item(1)]);
        let newest = u64::from(sent) + 1;
        assert!(sender.reported(now.after(ms(1)), &[range(newest, newest)], Nanos::ZERO));
        assert!(!sender.has_again() && sender.pop_again().is_none());
        assert_eq!(sender.pop_block_again(), Some(block(0)));
        assert!(!sender.is_quiet());
        sender.push_again(block(0));
        assert_eq!(sender.pop_block_again(), Some(block(0)));
        assert!(sender.may_send_blocks(), "what is lost is not in flight");
    }

    #[test]
    fn a_number_never_sent_is_not_believed() {
        let mut sender = Sender::new();
        sender.sent(ms(1), 100, &[item(1)]);
        assert!(!sender.reported(ms(2), &[range(0, 9)], Nanos::ZERO));
        assert!(!sender.is_quiet());
    }

    /// LNK-2. Frames this small are stopped by the table of packets, long before the window.
    #[test]
    fn no_more_packets_fly_than_have_a_place_and_a_probe_frees_one() {
        let mut sender = Sender::new();
        for n in 0..PACKETS_MAX as u32 {
            assert!(sender.may_send() && sender.has_room(), "{n} packets are in flight");
            sender.sent(ms(1), 100, &[item(n)]);
        }
        assert!(sender.window() > 100 * PACKETS_MAX as u64, "the window is not what stops them");
        assert!(!sender.may_send() && !sender.has_room());
        // An acknowledgement near the end tells that all but the last few are lost; that frees their places.
        let newest = PACKETS_MAX as u64 - 1;
        assert!(sender.reported(ms(2), &[range(newest - 1, newest - 1)], Nanos::ZERO));
        let lost = (0..newest - 3).map(|n| Some(item(n as u32)));
        assert!(lost.eq((0..newest - 3).map(|_| sender.pop_again())));
        assert!(sender.has_room() && sender.may_send());

        let mut sender = Sender::new();
        for n in 0..PACKETS_MAX as u32 {
            sender.sent(ms(1), 100, &[item(n)]);
        }
        let due = sender.deadline(false);
        assert!(sender.timed_out(due, false));
        assert!(sender.has_room() && sender.may_send(), "the probe has a place of its own");
        assert_eq!((sender.pop_again(), sender.pop_again()), (Some(item(0)), None));
        sender.sent(due, 100, &[item(0)]);
        assert!(!sender.may_send() && !sender.has_room());
    }

    #[test]
    #[should_panic(expected = "LNK-2")]
    fn a_packet_without_a_place_is_a_bug_of_ours() {
        let mut sender = Sender::new();
        for n in 0..=PACKETS_MAX as u32 {
            sender.sent(ms(1), 100, &[item(n)]);
        }
    }

    #[test]
    fn every_item_arrives_over_a_link_that_loses_doubles_and_reorders() {
        for seed in 1..40u64 {
            let mut random = seed;
            let mut chance = move |percent: u64| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % 100 < percent
            };
            let mut sender = Sender::new();
            let mut received = crate::link::Received::default();
            let mut arrived = [false; 3000];
            let mut next_new = 0u32;
            let mut wire: VecDeque<(u64, Item)> = VecDeque::new();
            let mut now = ms(1);
            let mut turns = 0;
            while arrived.contains(&false) {
                turns += 1;
                assert!(turns < 100_000, "seed {seed} does not end");
                now = now.after(Nanos::from_micros(50));
                while sender.may_send() && wire.len() < 300 {
                    let Some(next) = sender.pop_again().or_else(|| {
                        (next_new < 3000).then(|| {
                            next_new += 1;
                            item(next_new - 1)
                        })
                    }) else {
                        break;
                    };
                    let number = sender.sent(now, 4200, &[next]).get();
                    if !chance(20) {
                        wire.push_back((number, next));
                    }
                    if chance(10) {
                        wire.push_front((number, next));
                    }
                }
                for _ in 0..8 {
                    let taken = if chance(30) { wire.pop_back() } else { wire.pop_front() };
                    if let Some((number, item)) = taken {
                        received.insert(number);
                        arrived[item.place.get() as usize] = true;
                    }
                }
                if !chance(50) {
                    let mut report = ibid_wire::peer::Report::new(
                        Default::default(),
                        Default::default(),
                        Default::default(),
                        [0; 32],
                    );
                    received.report(&mut report);
                    assert!(sender.reported(now, report.ranges(), Nanos::ZERO));
                }
                if now >= sender.deadline(false) {
                    sender.timed_out(now, false);
                }
            }
        }
    }
}
