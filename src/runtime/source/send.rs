//! What the source puts on the link, as items: log batches from a cursor on, what was lost, what a CP needs; and each item as it is now.

use super::Core;
use ibid_driver::{Class, Disk, Port};
use ibid_engine::link::{ITEMS_MAX, Item, ItemKind};
use ibid_engine::log::ClosedBatch;
use ibid_engine::point::PayloadAt;
use ibid_units::{CpId, LogBlock, Lsn, Mutant, Nanos, SECTOR_BYTES, Span};
use ibid_wire::disk::{BATCH_HEADER_BYTES, Batch, ENTRY_BYTES, SEGMENT_HEADER_BYTES};
use ibid_wire::peer::{FrameKind, RECORD_BYTES, Section, SectionKind};

/// Items of one batch, at most, in the smallest pieces: the queue holds one batch at a time.
pub(super) const OUTGOING_MAX: usize = 8 * 1024;

// A batch of one block names at most so many pages, each in at most eight pieces; header and descriptor besides.
const BATCH_PAGES_MAX: usize = (4096 - BATCH_HEADER_BYTES - ENTRY_BYTES) / 4;
const _: () = assert!(OUTGOING_MAX >= BATCH_PAGES_MAX * 8 + 2);

impl<D: Disk> Core<D> {
    /// Tells the peer that nothing will follow.
    pub(super) fn say_goodbye<P: Port>(&mut self, now: Nanos, port: &mut P) {
        if self.peer.is_connected() && self.link.has_room() {
            let goodbye =
                Item { kind: ItemKind::Goodbye, segment: CpId::new(0), place: LogBlock::new(0) };
            self.send_bare(now, port, SectionKind::Goodbye, goodbye);
        }
    }

    /// Composes and sends one frame; false when there is nothing to send or no room to send it. With `blocks`, it may be one of a CP's blocks.
    pub(super) fn send_frame<P: Port>(&mut self, now: Nanos, port: &mut P, blocks: bool) -> bool {
        if self.peer.ping && self.link.has_room() {
            let ping =
                Item { kind: ItemKind::Ping, segment: CpId::new(0), place: LogBlock::new(0) };
            // A probe goes out whatever the window says (RFC 9002 §7.5); where the device is busy, it is due again next turn.
            self.peer.ping = !self.send_bare(now, port, SectionKind::Ping, ping);
            return !self.peer.ping;
        }
        if !self.link.may_send() || self.link.is_held_back() || self.mend.is_busy() {
            return false;
        }
        let Some((first, again)) = self.next_item(blocks) else { return false };
        match first.kind {
            ItemKind::LogStructure | ItemKind::LogPage { .. } | ItemKind::CpBlock { .. } => {
                self.send_spans(now, port, first, again)
            }
            ItemKind::CpOpen | ItemKind::CpList => self.send_list(now, port, first),
            ItemKind::Ping => self.send_bare(now, port, SectionKind::Ping, first),
            ItemKind::Goodbye => self.send_bare(now, port, SectionKind::Goodbye, first),
        }
    }

    /// The next item, and whether it has been on the link before: what was lost, log batches, a CP's list; blocks only where nothing else is left.
    fn next_item(&mut self, blocks: bool) -> Option<(Item, bool)> {
        if let Some(item) = self.next_log_item() {
            return Some(item);
        }
        if self.outgoing.is_empty() {
            self.load_batch();
        }
        let item = self.next_log_item().or_else(|| self.next_list_item().map(|item| (item, false)));
        if item.is_some() || !blocks || !self.link.may_send_blocks() {
            return item;
        }
        self.next_block_item().map(|item| (item, false))
    }

    /// The same, of what was lost and of the batch that is under way.
    fn next_log_item(&mut self) -> Option<(Item, bool)> {
        let again = self.peer.sends_again;
        let lost = self.link.pop_again().map(|item| (item, true));
        lost.or_else(|| self.outgoing.pop_front().map(|item| (item, again)))
    }

    /// Queues the items of the batch the cursor stands at, if the log has closed it.
    fn load_batch(&mut self) {
        let (mut segment, mut index) = self.peer.cursor;
        loop {
            if !self.log.retains(segment) {
                let oldest = self.log.segments().0;
                if segment >= oldest {
                    return;
                }
                (segment, index) = (oldest, 0);
                continue;
            }
            if index < self.log.batches(segment) {
                if !self.peer_holds(segment, index) {
                    break;
                }
                index += 1;
                continue;
            }
            if !self.log.is_closed(segment) {
                self.peer.cursor = (segment, index);
                return;
            }
            (segment, index) = (segment.next(), 0);
            self.peer.cursor = (segment, index);
        }
        self.peer.cursor = (segment, index + 1);
        self.peer.sends_again = self.peer.cursor <= self.peer.sent;
        self.peer.sent = self.peer.sent.max(self.peer.cursor);
        let block = self.geometry.batch_block(index);
        let batch = ClosedBatch { segment, block, with_header: index == 0, last: Lsn::new(0) };
        self.queue_batch(&batch);
    }

    /// A batch that was durable there when the session began is not sent again.
    fn peer_holds(&self, segment: CpId, index: u32) -> bool {
        let block = self.geometry.batch_block(index);
        let bytes = self.arena.bytes(self.geometry.span(segment, block, 1));
        let batch = Batch::parse(&bytes).expect("a batch in the log checks");
        batch.header.first_lsn.get() + u64::from(batch.entry_count) <= self.peer.resume.get()
    }

    fn queue_batch(&mut self, batch: &ClosedBatch) {
        let segment = batch.segment;
        let piece = self.frame.piece_sectors();
        let outgoing = &mut self.outgoing;
        if batch.with_header {
            outgoing.push_back(Item {
                kind: ItemKind::LogStructure,
                segment,
                place: LogBlock::new(0),
            });
        }
        outgoing.push_back(Item { kind: ItemKind::LogStructure, segment, place: batch.block });
        let bytes = self.arena.bytes(self.geometry.span(segment, batch.block, 1));
        let parsed = Batch::parse(&bytes).expect("a batch in the log checks");
        for (entry, _) in parsed.entries() {
            for index in 0..entry.pages {
                let place = LogBlock::new(entry.page.get() + u32::from(index));
                let (mut first, mut left) = entry.page_part(index);
                while left > 0 {
                    let count = left.min(piece);
                    let kind = ItemKind::LogPage { first: first as u8, count: count as u8 };
                    assert!(
                        outgoing.len() < OUTGOING_MAX,
                        "a batch has a bounded number of pieces"
                    );
                    outgoing.push_back(Item { kind, segment, place });
                    first += count;
                    left -= count;
                }
            }
        }
    }

    /// The next item of a CP's opening and list.
    fn next_list_item(&mut self) -> Option<Item> {
        let open = self.open.filter(|_| !self.peer_has_cp && self.peer_is_noted())?;
        let item = |kind, place: usize| Item {
            kind,
            segment: open.cp,
            place: LogBlock::new(place as u32),
        };
        match self.list_sent {
            None => {
                self.list_sent = Some(0);
                Some(item(ItemKind::CpOpen, 0))
            }
            Some(sent) if sent < self.list.len() => {
                self.list_sent = Some(sent + self.records_per_frame());
                Some(item(ItemKind::CpList, sent))
            }
            Some(_) => None,
        }
    }

    /// The next of its blocks: those that were lost first.
    fn next_block_item(&mut self) -> Option<Item> {
        if let Some(item) = self.link.pop_block_again() {
            return Some(item);
        }
        let open = self.open.filter(|_| !self.peer_has_cp && self.peer_is_noted())?;
        if self.list_sent.is_none_or(|sent| sent < self.list.len()) {
            return None;
        }
        let piece = self.frame.piece_sectors();
        self.blocks.next_item(open.cp, &self.list, &self.apply, piece)
    }

    fn records_per_frame(&self) -> usize {
        self.frame.body_bytes_max() / RECORD_BYTES
    }

    /// What an item is on the wire; `None` where it is no longer wanted.
    fn resolve(&self, item: &Item) -> Option<(Section, Span)> {
        let segment = item.segment;
        let low = segment.get() as u32;
        match item.kind {
            ItemKind::LogStructure => {
                if !self.log.retains(segment) {
                    return None;
                }
                let whole = self.geometry.span(segment, item.place, 1);
                let length = if item.place.get() == 0 {
                    SEGMENT_HEADER_BYTES as u32
                } else {
                    Batch::parse(&self.arena.bytes(whole))
                        .expect("a batch in the log checks")
                        .used_bytes()
                };
                let span = whole.first(length);
                let section = Section {
                    kind: SectionKind::Log,
                    length: length as u16,
                    crc: self.arena.crc32c(span),
                    segment: low,
                    place: item.place.get() * 4096,
                    extra: 1,
                };
                Some((section, span))
            }
            ItemKind::LogPage { first, count } => {
                if !self.log.retains(segment) {
                    return None;
                }
                let (span, crc) = self.page_piece(segment, item.place, first, count);
                let place = item.place.get() * 4096 + u32::from(first) * SECTOR_BYTES as u32;
                let section = Section {
                    kind: SectionKind::Log,
                    length: span.len as u16,
                    crc,
                    segment: low,
                    place,
                    extra: 0,
                };
                Some((section, span))
            }
            ItemKind::CpBlock { first, count } => {
                if self.open.is_none_or(|open| open.cp != segment) || self.peer_has_cp {
                    return None;
                }
                let place = item.place.get();
                let (span, crc) = match self.apply.payload_at(&self.list, &self.catch_up, place)? {
                    PayloadAt::Log(block) => self.page_piece(segment, block, first, count),
                    PayloadAt::Staging(page) => {
                        let whole = self.brought_span(page, 1);
                        let sector = SECTOR_BYTES as u32;
                        let at = whole.at + u64::from(u32::from(first) * sector);
                        let span = Span::new(at, u32::from(count) * sector);
                        (span, self.arena.crc32c(span))
                    }
                };
                let section = Section {
                    kind: SectionKind::CpBlock,
                    length: span.len as u16,
                    crc,
                    segment: low,
                    place: item.place.get(),
                    extra: u32::from(first),
                };
                Some((section, span))
            }
            ItemKind::CpOpen | ItemKind::CpList | ItemKind::Ping | ItemKind::Goodbye => None,
        }
    }

    /// A page's piece and its sum: the one known since ingest where the piece is all of the page's payload.
    fn page_piece(&self, segment: CpId, block: LogBlock, first: u8, count: u8) -> (Span, u32) {
        let whole = self.geometry.span(segment, block, 1);
        let sector = SECTOR_BYTES as u32;
        let span =
            Span::new(whole.at + u64::from(u32::from(first) * sector), u32::from(count) * sector);
        let part = self.log.pages.part(segment, block);
        let crc = if part.first == first && part.count == count {
            self.log.pages.crc(segment, block)
        } else {
            self.arena.crc32c(span)
        };
        (span, crc)
    }

    /// A frame of spans that begins with `first` and takes as many of its kind as fit.
    fn send_spans<P: Port>(&mut self, now: Nanos, port: &mut P, first: Item, again: bool) -> bool {
        let is_block = first.is_block();
        let class = match is_block {
            true if self.is_brought(&first) => Class::CatchUp,
            true => Class::Cp,
            false => Class::Log,
        };
        let mut items = [first; ITEMS_MAX];
        let mut count = 0;
        self.frame.clear();
        let mut next = Some((first, again));
        while let Some((item, again)) = next {
            let same = match item.kind {
                ItemKind::CpBlock { .. } => is_block,
                ItemKind::LogStructure | ItemKind::LogPage { .. } => !is_block,
                ItemKind::CpOpen | ItemKind::CpList | ItemKind::Ping | ItemKind::Goodbye => false,
            };
            if same && let Some(page) = self.rotten_page(&item) {
                // Sent with a sum of what memory has become it would be believed.
                self.heal.take_to_send(page);
                self.link.push_again(item);
                if count == 0 {
                    return false;
                }
                break;
            }
            if same && again && self.is_rotten(&item) {
                self.mend(now, item.segment, item.place);
                self.link.push_again(item);
                break;
            }
            if same {
                if let Some((section, span)) = self.resolve(&item) {
                    if !self.frame.push_span(section, span) {
                        self.link.push_again(item);
                        break;
                    }
                    items[count] = item;
                    count += 1;
                }
            } else {
                self.link.push_again(item);
                break;
            }
            // Only one batch's items are mixed in a frame, so that the next batch can still grow.
            next = if is_block {
                self.next_block_item().map(|item| (item, false))
            } else {
                self.next_log_item()
            };
        }
        if count == 0 {
            // Everything looked at was out of date, or is to be mended first.
            return true;
        }
        self.peer.block_frames += u64::from(is_block);
        self.finish(now, port, class, &items[..count])
    }

    /// Whether a block is one that a CP brings from the map.
    fn is_brought(&self, item: &Item) -> bool {
        let wanted = self.open.is_some_and(|open| open.cp == item.segment) && !self.peer_has_cp;
        let payload = || self.apply.payload_at(&self.list, &self.catch_up, item.place.get());
        wanted && matches!(payload(), Some(PayloadAt::Staging(_)))
    }

    /// Whether memory no longer holds what came of a page of the log (MEND-1).
    fn is_rotten(&self, item: &Item) -> bool {
        matches!(item.kind, ItemKind::LogPage { .. })
            && self.log.retains(item.segment)
            && !Mutant::RottenResent.is_on()
            && self.log.pages.sound(item.segment, item.place, 1, &self.memory) == 0
    }

    /// The page of the log that a CP's block comes from, where memory no longer holds what came (HEAL-1).
    fn rotten_page(&self, item: &Item) -> Option<LogBlock> {
        let ItemKind::CpBlock { .. } = item.kind else { return None };
        let wanted = self.open.is_some_and(|open| open.cp == item.segment) && !self.peer_has_cp;
        let place = item.place.get();
        match self.apply.payload_at(&self.list, &self.catch_up, place).filter(|_| wanted)? {
            PayloadAt::Log(page) => {
                let sound = self.log.pages.sound(item.segment, page, 1, &self.memory);
                (sound == 0).then_some(page)
            }
            PayloadAt::Staging(_) => None,
        }
    }

    fn send_list<P: Port>(&mut self, now: Nanos, port: &mut P, item: Item) -> bool {
        let Some(open) = self.open.filter(|open| open.cp == item.segment && !self.peer_has_cp)
        else {
            return true;
        };
        let low = open.cp.get() as u32;
        self.frame.clear();
        if item.kind == ItemKind::CpOpen {
            self.frame.set_body(SectionKind::CpOpen, low, 0, |out| open.emit(out));
        } else {
            let from = item.place.get() as usize;
            let to = (from + self.records_per_frame()).min(self.list.len());
            let bytes = &self.list.bytes()[from * RECORD_BYTES..to * RECORD_BYTES];
            self.frame.set_body(SectionKind::CpList, low, from as u32, |out| {
                out[..bytes.len()].copy_from_slice(bytes);
                bytes.len()
            });
        }
        self.finish(now, port, Class::Cp, &[item])
    }

    fn send_bare<P: Port>(
        &mut self,
        now: Nanos,
        port: &mut P,
        kind: SectionKind,
        item: Item,
    ) -> bool {
        self.frame.clear();
        self.frame.set_body(kind, 0, 0, |_| 0);
        self.finish(now, port, Class::Control, &[item])
    }

    fn finish<P: Port>(&mut self, now: Nanos, port: &mut P, class: Class, items: &[Item]) -> bool {
        let number = self.link.next_number();
        let bytes = self.frame.bytes();
        let session = self.session();
        let Self { frame, secured, .. } = self;
        let (head, spans) = frame.compose(FrameKind::Sourced, session, number);
        let sent = secured.sealer().is_some_and(|channel| {
            let mut seal = |datagram: &mut [u8]| channel.seal(datagram);
            port.send(class, head, spans, Some(&mut seal)).is_ok()
        });
        if !sent {
            // Probe and goodbye are made anew by whoever wants them: queued, each turn of a device that stays busy would add one.
            for item in items
                .iter()
                .rev()
                .filter(|item| !matches!(item.kind, ItemKind::Ping | ItemKind::Goodbye))
            {
                self.link.push_again(*item);
            }
            return false;
        }
        self.link.sent(now, bytes + port.overhead_bytes(), items);
        true
    }
}
