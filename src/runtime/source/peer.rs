//! The source's side of the link: opens sessions, sends what the log has and what a CP needs, hears reports.
//! What is to be sent is found by a cursor over the batches of the log, so that a peer that starts over is served by the same code.

use super::Core;
use crate::frames::Session;
use crate::persist::JOBS_MAX;
use crate::snapshot::{Fault, PeerState, Stage};
use ibid_driver::{Class, Disk, Port};
use ibid_engine::link::{ITEMS_MAX, Item, ItemKind};
use ibid_engine::log::ClosedBatch;
use ibid_units::{CpId, LogBlock, Lsn, Nanos, SECTOR_BYTES, Span};
use ibid_wire::disk::{
    BATCH_HEADER_BYTES, Batch, ENTRY_BYTES, SEGMENT_HEADER_BYTES, VOLUMES_MAX, VolumeIdentity,
};
use ibid_wire::peer::{
    Frame, FrameKind, Hello, HelloAnswer, HelloRefusal, RECORD_BYTES, Report, Section, SectionKind,
};

/// Items of one batch, at most, in the smallest pieces: the queue holds one batch at a time.
pub(super) const OUTGOING_MAX: usize = 8 * 1024;
/// Frames sent in one turn, at most.
const FRAMES_PER_TURN: usize = 64;
const HELLO_EVERY: Nanos = Nanos::from_millis(100);
const REFUSED_EVERY: Nanos = Nanos::from_millis(1000);
const HEARTBEAT_EVERY: Nanos = Nanos::from_millis(500);
/// A peer is away after this long without a frame although it was probed.
const AWAY_AFTER: Nanos = Nanos::from_millis(2000);

// A batch of one block names at most so many pages, each in at most eight pieces; header and descriptor besides.
const BATCH_PAGES_MAX: usize = (4096 - BATCH_HEADER_BYTES - ENTRY_BYTES) / 4;
const _: () = assert!(OUTGOING_MAX >= BATCH_PAGES_MAX * 8 + 2);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stand {
    Seeking,
    Connected,
    Refused(HelloRefusal),
}

/// What is known of the peer.
#[derive(Debug)]
pub(super) struct Peer {
    stand: Stand,
    instance: u64,
    session: u64,
    hello_at: Nanos,
    heard: Nanos,
    ever: bool,
    report: Option<u64>,
    control_number: u64,
    /// The next batch to be sent: (segment, index).
    cursor: (CpId, u32),
    ping: bool,
    pub(super) failed: bool,
    /// Reports that claimed what was never sent.
    pub(super) false_claims: u64,
}

impl Peer {
    pub(super) fn new(seed: u64) -> Self {
        let instance = mix(seed);
        Self {
            stand: Stand::Seeking,
            instance,
            session: mix(instance),
            hello_at: Nanos::ZERO,
            heard: Nanos::ZERO,
            ever: false,
            report: None,
            control_number: 0,
            cursor: (CpId::new(0), 0),
            ping: false,
            failed: false,
            false_claims: 0,
        }
    }

    pub(super) fn state(&self, now: Nanos) -> (PeerState, Nanos) {
        let state = match self.stand {
            Stand::Connected => PeerState::Connected,
            Stand::Refused(refusal) => PeerState::Refused(refusal),
            Stand::Seeking if self.ever => PeerState::Away,
            Stand::Seeking => PeerState::Connecting,
        };
        let silent = if self.ever && self.stand != Stand::Connected {
            now.since(self.heard)
        } else {
            Nanos::ZERO
        };
        (state, silent)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.stand == Stand::Connected
    }
}

/// Steele and Lea's splitmix64: a good next number from any number.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl<D: Disk> Core<D> {
    fn session(&self) -> Session {
        Session { id: self.peer.session, epoch: self.epoch }
    }

    /// A datagram of the link.
    pub(super) fn frame_came(&mut self, now: Nanos, datagram: &[u8]) {
        let accepted = Frame::parse(datagram).is_ok_and(|frame| {
            let header = frame.header;
            let Some((section, body)) = frame.sections().next() else { return false };
            if header.session != self.peer.session || ibid_wire::crc32c(body) != section.crc {
                return false;
            }
            match (header.kind, section.kind) {
                (FrameKind::HelloAnswer, SectionKind::HelloAnswer) => {
                    HelloAnswer::parse(body).is_ok_and(|answer| self.answered(now, &answer))
                }
                (FrameKind::Reported, SectionKind::Report) => {
                    let newer = self.peer.report.is_none_or(|number| header.number.get() > number);
                    if !self.peer.is_connected() || !newer {
                        return false;
                    }
                    Report::parse(body).is_ok_and(|report| {
                        self.peer.report = Some(header.number.get());
                        self.reported(now, &report);
                        true
                    })
                }
                _ => false,
            }
        });
        self.rx_refused += u64::from(!accepted);
    }

    fn answered(&mut self, now: Nanos, answer: &HelloAnswer) -> bool {
        if self.peer.is_connected() {
            return true;
        }
        self.peer.heard = now;
        self.peer.ever = true;
        if answer.refusal.is_none() && answer.durable > self.log.batched() {
            // It claims what was never sent: not a peer to be believed (LOG-1).
            self.peer.false_claims += 1;
            return false;
        }
        if let Some(refusal) = answer.refusal {
            self.peer.stand = Stand::Refused(refusal);
            self.peer.hello_at = now.after(REFUSED_EVERY);
            return true;
        }
        self.peer.stand = Stand::Connected;
        self.peer.report = None;
        self.link.reset();
        self.outgoing.clear();
        self.batch_times.clear();
        self.peer.cursor = (self.log.segments().0, 0);
        self.log.restart_peer(answer.durable);
        self.log.set_segment_limit(answer.segment_limit);
        self.list_sent = None;
        self.blocks.start();
        self.notice_cp(answer.cp, &answer.chain);
        true
    }

    fn reported(&mut self, now: Nanos, report: &Report) {
        self.peer.heard = now;
        let honest = self.link.reported(
            now,
            report.ranges(),
            Nanos::from_micros(u64::from(report.delay_micros)),
        );
        let believed = self.log.durable_there(report.durable);
        self.peer.false_claims += u64::from(!honest || !believed);
        while let Some(&(last, closed)) = self.batch_times.front() {
            if last > self.log.durable_there_lsn() {
                break;
            }
            self.times.record(Stage::Peer, now.since(closed));
            self.batch_times.pop_front();
        }
        self.log.set_segment_limit(report.segment_limit);
        self.peer.failed = report.failed;
        self.notice_cp(report.cp_durable, &report.chain);
        let Some(open) = self.open else { return };
        if report.cp_listed == open.cp && !self.peer_has_cp {
            self.blocks.set_credit(report.block_credit);
            if open.full {
                self.blocks.want_all();
            }
            for record in report.refused() {
                self.cp_sum.refused += u64::from(self.blocks.refused(*record, &self.list));
            }
        }
    }

    /// The peer's volumes hold CP `cp`. Its chain digest must be ours, or the histories differ and nothing may go on.
    fn notice_cp(&mut self, cp: CpId, chain: &[u8; 32]) {
        let Some(open) = self.open else { return };
        if cp == open.cp && !self.peer_has_cp {
            if *chain == open.chain_after {
                self.peer_has_cp = true;
            } else {
                self.fault.get_or_insert(Fault::Chain);
            }
        }
    }

    /// Closes batches: when those before are on their way, with everything that has come meanwhile.
    pub(super) fn close_batches(&mut self, now: Nanos) -> bool {
        let mut any = false;
        while self.log.has_unbatched()
            && self.persist.has_room()
            && self.fault.is_none()
            && self.may_close()
        {
            let Some(batch) = self.log.close_batch(&mut self.memory) else { break };
            any = true;
            if self.peer.is_connected() && self.batch_times.len() < JOBS_MAX {
                self.batch_times.push_back((batch.last, now));
            }
            self.persist.begin(now, &self.arena, &mut self.disks, batch);
        }
        any
    }

    fn may_close(&self) -> bool {
        !self.peer.is_connected()
            || (self.outgoing.is_empty() && !self.link.has_again() && self.link.may_send())
    }

    /// Sends what can be sent.
    pub(super) fn pump_link<P: Port>(&mut self, now: Nanos, port: &mut P) -> bool {
        if !self.peer.is_connected() {
            return self.seek(now, port);
        }
        if now.since(self.peer.heard) >= AWAY_AFTER {
            self.lose_peer(now);
            return true;
        }
        let awaiting = self.log.durable_there_lsn() < self.log.batched()
            || (self.open.is_some() && !self.peer_has_cp);
        if now >= self.link.deadline(awaiting) && self.link.timed_out(now, awaiting) {
            self.peer.ping = true;
        }
        self.peer.ping |= now.since(self.link.last_sent()) >= HEARTBEAT_EVERY;
        let mut any = false;
        for _ in 0..FRAMES_PER_TURN {
            if !self.send_frame(now, port) {
                break;
            }
            any = true;
        }
        any
    }

    fn seek<P: Port>(&mut self, now: Nanos, port: &mut P) -> bool {
        // No session before the epoch is durable: what the peer has seen must never be used again.
        if now < self.peer.hello_at
            || self.superblock.durable.epoch != self.epoch
            || self.fault.is_some()
        {
            return false;
        }
        self.peer.hello_at = now.after(HELLO_EVERY);
        let durable = self.superblock.durable;
        let mut volumes = [VolumeIdentity::default(); VOLUMES_MAX];
        volumes.copy_from_slice(&durable.volumes);
        let hello = Hello {
            pair: durable.pair,
            instance: self.peer.instance,
            cp: durable.cp,
            last_lsn: durable.last_lsn,
            chain: durable.chain,
            segments: durable.segments,
            segment_blocks: durable.segment_blocks,
            volume_count: durable.volume_count,
            volumes,
        };
        self.frame.clear();
        self.frame.set_body(SectionKind::Hello, 0, 0, |out| hello.emit(out));
        let session = self.session();
        let (head, spans) = self.frame.seal(
            FrameKind::Hello,
            session,
            ibid_units::PacketNumber::new(self.peer.control_number),
        );
        self.peer.control_number += 1;
        // A busy port is tried again with the next hello.
        port.send(Class::Control, head, spans).is_ok()
    }

    fn lose_peer(&mut self, now: Nanos) {
        self.peer.stand = Stand::Seeking;
        self.peer.session = mix(self.peer.session);
        self.peer.hello_at = now;
        self.peer.ping = false;
        self.link.reset();
        self.outgoing.clear();
        self.batch_times.clear();
    }

    /// Tells the peer that nothing will follow.
    pub(super) fn say_goodbye<P: Port>(&mut self, now: Nanos, port: &mut P) {
        if self.peer.is_connected() && self.link.has_room() {
            let goodbye =
                Item { kind: ItemKind::Goodbye, segment: CpId::new(0), place: LogBlock::new(0) };
            self.send_bare(now, port, SectionKind::Goodbye, goodbye);
        }
    }

    /// Composes and sends one frame; false when there is nothing to send or no room to send it.
    fn send_frame<P: Port>(&mut self, now: Nanos, port: &mut P) -> bool {
        if self.peer.ping && self.link.has_room() {
            let ping =
                Item { kind: ItemKind::Ping, segment: CpId::new(0), place: LogBlock::new(0) };
            // A probe goes out whatever the window says (RFC 9002 §7.5); where the device is busy, it is due again next turn.
            self.peer.ping = !self.send_bare(now, port, SectionKind::Ping, ping);
            return !self.peer.ping;
        }
        if !self.link.may_send() {
            return false;
        }
        let Some(first) = self.next_item() else { return false };
        match first.kind {
            ItemKind::LogStructure | ItemKind::LogPage { .. } | ItemKind::CpBlock { .. } => {
                self.send_spans(now, port, first)
            }
            ItemKind::CpOpen | ItemKind::CpList => self.send_list(now, port, first),
            ItemKind::Ping => self.send_bare(now, port, SectionKind::Ping, first),
            ItemKind::Goodbye => self.send_bare(now, port, SectionKind::Goodbye, first),
        }
    }

    fn next_item(&mut self) -> Option<Item> {
        if let Some(item) = self.link.pop_again() {
            return Some(item);
        }
        if self.outgoing.is_empty() {
            self.load_batch();
        }
        if let Some(item) = self.outgoing.pop_front() {
            return Some(item);
        }
        self.next_cp_item()
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
                break;
            }
            if !self.log.is_closed(segment) {
                self.peer.cursor = (segment, index);
                return;
            }
            (segment, index) = (segment.next(), 0);
            self.peer.cursor = (segment, index);
        }
        self.peer.cursor = (segment, index + 1);
        let block = self.geometry.batch_block(index);
        let batch = ClosedBatch { segment, block, with_header: index == 0, last: Lsn::new(0) };
        self.queue_batch(&batch);
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

    fn next_cp_item(&mut self) -> Option<Item> {
        let open = self.open?;
        if self.peer_has_cp {
            return None;
        }
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
            Some(_) => {
                let piece = self.frame.piece_sectors();
                self.blocks.next_item(open.cp, &self.list, &self.apply, piece)
            }
        }
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
                let (record, page) = self.apply.record_of(&self.list, item.place.get())?;
                let ibid_wire::peer::RecordKind::Reference(start) = record.kind else {
                    return None;
                };
                let block = LogBlock::new(start.get() + page);
                let (span, crc) = self.page_piece(segment, block, first, count);
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
    fn send_spans<P: Port>(&mut self, now: Nanos, port: &mut P, first: Item) -> bool {
        let is_block = matches!(first.kind, ItemKind::CpBlock { .. });
        let class = if is_block { Class::Cp } else { Class::Log };
        let mut items = [first; ITEMS_MAX];
        let mut count = 0;
        self.frame.clear();
        let mut next = Some(first);
        while let Some(item) = next {
            let same = match item.kind {
                ItemKind::CpBlock { .. } => is_block,
                ItemKind::LogStructure | ItemKind::LogPage { .. } => !is_block,
                ItemKind::CpOpen | ItemKind::CpList | ItemKind::Ping | ItemKind::Goodbye => false,
            };
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
            next = self
                .link
                .pop_again()
                .or_else(|| self.outgoing.pop_front())
                .or_else(|| if is_block { self.next_cp_item() } else { None });
        }
        if count == 0 {
            // Everything looked at was out of date.
            return true;
        }
        self.finish(now, port, class, &items[..count])
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
        let (head, spans) = self.frame.seal(FrameKind::Sourced, session, number);
        if port.send(class, head, spans).is_err() {
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
