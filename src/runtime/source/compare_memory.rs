//! Memory for compares: the host's data, and beside it what the volume has. Who gets it, in which order, who has to give it back.
//! CMP-2  memory that other compares wait for is not kept for long by hosts that owe data: by a pair that only waits for its write, or,
//!        where it is another host that waits, by any compare. The write is sent back, or the compare.
//! CMP-3  of this memory a host has a share. What is left is as long as the longest compare, and whoever waits for its own share keeps
//!        nobody else waiting.
//!
//! Data in a capsule and data that is asked for have memory apart: the former stands next in its stream, so that it comes as soon as there is
//! memory for it, and that memory never waits for the latter, which may stand behind it. Only a pair can make it wait so, whose write's
//! data is asked for; it may be its own host's share that it makes wait.

use super::Core;
use super::clients::NONE;
use super::compare::{Compare, Progress};
use super::reads::{Purpose, ReadSlot, SCATTER_WORDS};
use super::writes::{HELD_MAX, OWED_MAX, WriteSlot, WriteState};
use crate::layout::Span64;
use crate::pool::RunPool;
use crate::slots::Slots;
use ibid_driver::Disk;
use ibid_engine::frontend::ReceivePlan;
use ibid_units::{BLOCK_BYTES, Nanos, Span};
use ibid_wire::disk::ENTRY_PAGES_MAX;
use ibid_wire::nvme_tcp::Status;

/// The longest compare whose data is asked for: its data and the volume's beside it.
const LONGEST: u32 = 2 * ENTRY_PAGES_MAX as u32;
/// Blocks of [`crate::LayoutConfig::compare_blocks`] that are for data which is asked for: two of the longest, of two hosts. The rest is for
/// data in capsules.
pub const COMPARE_ASKED_BLOCKS: u32 = 2 * LONGEST;
/// Compares that may read from the volume at one time.
const MARKS_MAX: usize = 64;
/// How often is looked for hosts that keep memory others wait for.
const RECLAIM_EVERY: Nanos = Nanos::from_millis(10);

/// Memory of all compares.
#[derive(Debug)]
pub(super) struct CompareMemory {
    /// For data that is asked for, for data in capsules.
    kinds: [Kind; 2],
    /// What stands behind a compare that waits, by its place.
    links: Vec<Link>,
    ticket: u64,
    reclaim_at: Nanos,
    /// A bit for each sector of a compare that the volume is read for.
    pub(super) marks: Slots<[u64; SCATTER_WORDS]>,
}

/// Memory for data that comes in one way.
#[derive(Debug)]
struct Kind {
    pool: RunPool,
    /// Pages of one host, at most.
    share: u32,
    of: Vec<u32>,
    /// Compares of each host that wait, in the order in which they came.
    queues: Vec<Queue>,
    waiting: u32,
}

#[derive(Clone, Copy, Debug)]
struct Queue {
    first: u32,
    last: u32,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    pages: u32,
    /// Whoever came first has the smaller one.
    ticket: u64,
}

impl Queue {
    const EMPTY: Queue = Queue { first: NONE, last: NONE };
}

impl Kind {
    fn new(region: Span64, longest: u32, hosts: usize) -> Self {
        assert!(region.blocks >= longest, "the longest compare has memory");
        let left = longest.max(region.blocks / 4);
        Self {
            pool: RunPool::new(region),
            share: region.blocks.saturating_sub(left).max(longest),
            of: vec![0; hosts],
            queues: vec![Queue::EMPTY; hosts],
            waiting: 0,
        }
    }

    fn has_share(&self, host: usize, pages: u32) -> bool {
        self.of[host] + pages <= self.share
    }
}

impl CompareMemory {
    /// Divides the region. All memory is taken here.
    pub(super) fn new(
        region: Span64,
        commands_max: usize,
        hosts: usize,
        in_capsule_bytes: u32,
    ) -> Self {
        let asked = Span64 { at: region.at, blocks: COMPARE_ASKED_BLOCKS.min(region.blocks) };
        let at = region.at + u64::from(asked.blocks) * BLOCK_BYTES;
        let inline = Span64 { at, blocks: region.blocks - asked.blocks };
        // The run need not begin with a page.
        let longest_inline = 2 * (in_capsule_bytes / BLOCK_BYTES as u32 + 1);
        Self {
            kinds: [Kind::new(asked, LONGEST, hosts), Kind::new(inline, longest_inline, hosts)],
            links: vec![Link { next: NONE, pages: 0, ticket: 0 }; commands_max],
            ticket: 0,
            reclaim_at: Nanos::ZERO,
            marks: Slots::new(MARKS_MAX, [0; SCATTER_WORDS]),
        }
    }

    /// Memory for a compare, within its host's share.
    fn take(&mut self, inline: bool, host: usize, pages: u32) -> Option<Span> {
        let kind = &mut self.kinds[usize::from(inline)];
        let run = if kind.has_share(host, pages) { kind.pool.take(pages)? } else { return None };
        kind.of[host] += pages;
        Some(run)
    }

    pub(super) fn give(&mut self, inline: bool, host: usize, run: Span) {
        let kind = &mut self.kinds[usize::from(inline)];
        kind.of[host] -= run.len / BLOCK_BYTES as u32;
        kind.pool.give(run);
    }

    /// Whether a compare that has just come may have memory at once: nobody who could have it came before.
    fn is_first(&self, inline: bool, host: usize) -> bool {
        let kind = &self.kinds[usize::from(inline)];
        kind.queues[host].first == NONE && self.next(inline).is_none()
    }

    /// A compare waits for memory.
    fn wait(&mut self, inline: bool, host: usize, place: u32, pages: u32) {
        self.ticket += 1;
        self.links[place as usize] = Link { next: NONE, pages, ticket: self.ticket };
        let kind = &mut self.kinds[usize::from(inline)];
        let queue = &mut kind.queues[host];
        match queue.last {
            NONE => queue.first = place,
            last => self.links[last as usize].next = place,
        }
        queue.last = place;
        kind.waiting += 1;
    }

    /// The first of a host's that wait waits no longer.
    fn pop(&mut self, inline: bool, host: usize) {
        let kind = &mut self.kinds[usize::from(inline)];
        let queue = &mut kind.queues[host];
        queue.first = self.links[queue.first as usize].next;
        if queue.first == NONE {
            queue.last = NONE;
        }
        kind.waiting -= 1;
    }

    /// The first that waits of a host's.
    fn front(&self, inline: bool, host: usize) -> Option<u32> {
        let first = self.kinds[usize::from(inline)].queues[host].first;
        (first != NONE).then_some(first)
    }

    /// Whether the first that waits of a host's waits for more than its own host's share.
    fn may_be_next(&self, inline: bool, host: usize) -> bool {
        let has_share = |place: u32| {
            let pages = self.links[place as usize].pages;
            self.kinds[usize::from(inline)].has_share(host, pages)
        };
        self.front(inline, host).is_some_and(has_share)
    }

    /// Whose turn it is: of the hosts that have their share left, the one that has waited for longest.
    fn next(&self, inline: bool) -> Option<(usize, u32)> {
        let kind = &self.kinds[usize::from(inline)];
        if kind.waiting == 0 {
            return None;
        }
        let hosts = (0..kind.queues.len()).filter(|host| self.may_be_next(inline, *host));
        let host = hosts.min_by_key(|host| self.links[kind.queues[*host].first as usize].ticket)?;
        Some((host, kind.queues[host].first))
    }

    /// Takes a compare off those that wait.
    pub(super) fn pop_waiting(&mut self) -> Option<u32> {
        for inline in [false, true] {
            for host in 0..self.kinds[0].queues.len() {
                if let Some(place) = self.front(inline, host) {
                    self.pop(inline, host);
                    return Some(place);
                }
            }
        }
        None
    }
}

impl<D: Disk> Core<D> {
    /// Gives a compare that has just come memory, if it is its turn; otherwise it waits.
    pub(super) fn place_new_compare(&mut self, now: Nanos, place: u32) {
        let ReadSlot { host, first, sectors, compare, .. } = *self.reads.get(place);
        let Compare { inline, .. } = compare;
        if !self.compares.is_first(inline, host) || !self.place_compare(now, place) {
            let pages = 2 * sectors.blocks_from(first);
            self.compares.wait(inline, host, place, pages);
        }
    }

    /// Gives a compare memory; false where it must wait.
    fn place_compare(&mut self, now: Nanos, place: u32) -> bool {
        let ReadSlot { host, first, sectors, compare, .. } = *self.reads.get(place);
        let pages = 2 * sectors.blocks_from(first);
        let Some(run) = self.compares.take(compare.inline, host, pages) else { return false };
        self.compare_placed(now, place, run);
        true
    }

    /// Compares that wait for memory, each host's in the order they came.
    pub(super) fn retry_compares(&mut self, now: Nanos) -> bool {
        let mut any = false;
        for inline in [false, true] {
            if self.compares.kinds[usize::from(inline)].waiting == 0 {
                continue;
            }
            loop {
                // Before each that gets memory: behind it may stand one whose host is gone, and a place given to that is never given back.
                any |= self.drop_compares(now, inline);
                let Some((host, place)) = self.compares.next(inline) else { break };
                if !self.place_compare(now, place) {
                    break;
                }
                self.compares.pop(inline, host);
                any = true;
            }
        }
        self.reclaim_compares(now);
        any
    }

    /// Ends those next in turn that nobody waits for any more, or for too long.
    fn drop_compares(&mut self, now: Nanos, inline: bool) -> bool {
        let mut any = false;
        for host in 0..self.compares.kinds[0].queues.len() {
            while let Some(place) = self.compares.front(inline, host) {
                let is_gone = self.reads.get(place).abandoned;
                if !is_gone && !self.has_expired(now, place) {
                    break;
                }
                self.compares.pop(inline, host);
                if is_gone {
                    self.finish_read(now, place);
                } else {
                    self.end_compare(now, place, Status::COMMAND_INTERRUPTED);
                }
                any = true;
            }
        }
        any
    }

    /// Where compares have waited for memory, what keeps it and only waits for its host is sent back (CMP-2): of a pair the write, so that its
    /// compare is decided by itself; where another host waits, a compare whose data does not come.
    fn reclaim_compares(&mut self, now: Nanos) {
        let nobody = self.compares.kinds.iter().all(|kind| kind.waiting == 0);
        if nobody || now < self.compares.reclaim_at {
            return;
        }
        self.compares.reclaim_at = now.after(RECLAIM_EVERY);
        let hosts = 0..self.compares.kinds[0].queues.len();
        let wait = [false, true].map(|inline| {
            hosts.clone().filter(|host| self.waits_for_others(now, inline, *host)).count()
        });
        for place in 0..self.reads.count() as u32 {
            let ReadSlot { purpose, host, compare, .. } = *self.reads.get(place);
            let Compare { progress, inline, write, placed, .. } = compare;
            if purpose != Purpose::Compare || !matches!(progress, Progress::Data | Progress::Held) {
                continue;
            }
            let wait = wait[usize::from(inline)];
            if progress == Progress::Held && write != NONE {
                let is_wanted = wait > 0 || self.waits(now, inline, host);
                if is_wanted && self.owes_too_long(now, write) {
                    self.end_fused(now, write, Status::COMMAND_INTERRUPTED);
                }
                continue;
            }
            // Its data, or the command that it is fused with.
            let others_wait = wait > usize::from(self.waits_for_others(now, inline, host));
            if others_wait && now.since(placed) >= OWED_MAX {
                self.end_compare(now, place, Status::COMMAND_INTERRUPTED);
            }
        }
    }

    /// Whether a host has waited for memory.
    fn waits(&self, now: Nanos, inline: bool, host: usize) -> bool {
        let front = self.compares.front(inline, host);
        front.is_some_and(|place| now.since(self.reads.get(place).parsed) >= HELD_MAX)
    }

    /// Whether it has, for more than what it has itself.
    fn waits_for_others(&self, now: Nanos, inline: bool, host: usize) -> bool {
        self.waits(now, inline, host) && self.compares.may_be_next(inline, host)
    }

    /// Whether the data of a pair's write has been owed for longer than others wait for what the pair keeps. (The write is none of the
    /// large ones: it waits for nothing but room in the log, before that.)
    fn owes_too_long(&mut self, now: Nanos, write: u32) -> bool {
        let WriteSlot { state, cmd, parsed, .. } = *self.writes.get(write);
        let Some(cmd) = cmd.filter(|_| state == WriteState::Receiving) else { return false };
        let plan = self.clients.frontend.receive_plan(cmd.conn());
        // It may stand behind a command that waits for this memory.
        let stands_behind = matches!(plan, ReceivePlan::Blocked);
        now.since(parsed) >= if stands_behind { HELD_MAX } else { OWED_MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many blocks for data in capsules, of which the longest takes ten.
    fn memory(inline: u32) -> CompareMemory {
        let region = Span64 { at: 0, blocks: COMPARE_ASKED_BLOCKS + inline };
        CompareMemory::new(region, 64, 3, 16 << 10)
    }

    #[test]
    fn a_host_has_its_share_and_leaves_room_for_the_longest_of_another() {
        let mut memory = memory(40);
        for (inline, longest, count) in [(false, LONGEST, 1), (true, 10, 3)] {
            for _ in 0..count {
                assert!(memory.take(inline, 0, longest).is_some());
            }
            assert!(memory.take(inline, 0, 2).is_none(), "it has its share");
            let other = memory.take(inline, 1, longest).expect("another host has memory");
            assert!(memory.take(inline, 2, 2).is_none(), "that was all");
            memory.give(inline, 1, other);
            assert!(memory.take(inline, 2, longest).is_some());
        }
    }

    #[test]
    fn where_there_is_memory_for_one_a_host_may_have_it_all() {
        let mut memory = memory(10);
        let run = memory.take(true, 0, 10).expect("the longest has memory");
        assert!(memory.take(true, 1, 2).is_none());
        memory.give(true, 0, run);
        assert!(memory.take(true, 1, 10).is_some());
    }

    #[test]
    fn hosts_have_their_turn_in_the_order_they_came_but_for_those_that_have_their_share() {
        let mut memory = memory(40);
        let runs = [(); 3].map(|()| memory.take(true, 0, 10).expect("it has its share"));
        assert!(memory.is_first(true, 1));
        memory.wait(true, 0, 7, 10);
        memory.wait(true, 0, 8, 2);
        assert!(!memory.is_first(true, 0), "its own come first");
        assert!(memory.is_first(true, 1), "who waits for its own share keeps nobody waiting");
        assert_eq!(memory.next(true), None);
        memory.wait(true, 2, 9, 10);
        memory.wait(true, 1, 3, 10);
        assert!(!memory.is_first(true, 1));
        assert_eq!(memory.next(true), Some((2, 9)));
        memory.pop(true, 2);
        assert_eq!(memory.next(true), Some((1, 3)));
        memory.give(true, 0, runs[0]);
        assert_eq!(memory.next(true), Some((0, 7)), "it came before");
        memory.pop(true, 0);
        assert_eq!(memory.next(true), Some((0, 8)), "two pages are left of its share");
        assert_eq!(memory.next(false), None);
        assert_eq!([(); 4].map(|()| memory.pop_waiting()), [Some(8), Some(3), None, None]);
    }
}
