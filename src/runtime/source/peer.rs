//! The source's side of the link: opens sessions, sends what the log has and what a CP needs, hears reports.
//! What is to be sent is found by a cursor over the batches of the log, so that a peer that starts over is served by the same code.

use super::Core;
use crate::destination::Batches;
use crate::frames::Session;
use crate::persist::JOBS_MAX;
use crate::snapshot::{Fault, PeerState, Stage};
use ibid_driver::{Class, Disk, Port};
use ibid_engine::role::confirm;
use ibid_units::{CpId, Lsn, Mutant, Nanos, PacketNumber};
use ibid_wire::disk::SyncState;
use ibid_wire::peer::{
    Envelope, Frame, FrameKind, HEADER_BYTES, Held, HeldList, Hello, HelloAnswer, HelloRefusal,
    Identity, Outcome, Report, SectionKind, SourceStanding, volumes_digest,
};

/// Frames sent in one turn, at most.
const FRAMES_PER_TURN: usize = 64;
/// … of which so many may carry blocks of a CP.
const BLOCK_FRAMES_PER_TURN: usize = 16;
const HELLO_EVERY: Nanos = Nanos::from_millis(100);
const REFUSED_EVERY: Nanos = Nanos::from_millis(1000);
/// A source that has nothing to send pings so often, …
const HEARTBEAT_EVERY: Nanos = Nanos::from_millis(500);
/// … and so many times before a peer that says nothing counts as away.
const HEARTBEATS_MIN: u64 = 4;
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
    pub(super) cursor: (CpId, u32),
    /// Batches before this one were put on the link already, in this session or an earlier one.
    pub(super) sent: (CpId, u32),
    /// The batch that is under way is one of those.
    pub(super) sends_again: bool,
    /// Entries up to here were durable there when the session began.
    pub(super) resume: Lsn,
    /// The newest CP that it has recorded, as it said in this session.
    pub(super) cp: CpId,
    /// The CP that it had recorded when it was met, and as what.
    pub(super) met: Option<(CpId, SyncState)>,
    /// What the last hello said, which an answer answers.
    said: Option<SourceStanding>,
    /// The peer's log is in memory only; as its answer says.
    pub(super) in_memory: Option<bool>,
    /// Frames with blocks of a CP, since start.
    pub(super) block_frames: u64,
    pub(super) ping: bool,
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
            sent: (CpId::new(0), 0),
            sends_again: false,
            resume: Lsn::new(0),
            cp: CpId::new(0),
            met: None,
            said: None,
            in_memory: None,
            block_frames: 0,
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

    /// Why it does not take this source, where it said so.
    pub(super) fn refusal(&self) -> Option<HelloRefusal> {
        match self.stand {
            Stand::Refused(refusal) => Some(refusal),
            Stand::Seeking | Stand::Connected => None,
        }
    }

    /// When it was last heard; `never` where it never was.
    pub(super) fn heard_since(&self, never: Nanos) -> Nanos {
        if self.ever { self.heard } else { never }
    }

    /// It had not recorded `cp` when it was met, or had as in sync. What it had recorded before then stays so, whatever a source that was
    /// started again makes of the same CP.
    pub(super) fn may_be_in_sync_with(&self, cp: CpId) -> bool {
        self.met.is_none_or(|(met, state)| met != cp || state == SyncState::InSync)
    }

    pub(super) fn hear(&mut self, now: Nanos) {
        self.heard = now;
        self.ever = true;
    }
}

/// Steele and Lea's splitmix64: a good next number from any number.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Whether a decision made on what was said would be made now: all but what a log grows by.
fn is_as_said(said: &SourceStanding, now: &SourceStanding) -> bool {
    let decides = |standing: &SourceStanding| SourceStanding {
        end: Lsn::new(0),
        committed: Lsn::new(0),
        held: HeldList::EMPTY,
        ..*standing
    };
    decides(said) == decides(now)
}

impl<D: Disk> Core<D> {
    pub(super) fn session(&self) -> Session {
        Session { id: self.peer.session, epoch: self.epoch }
    }

    /// A datagram of the link.
    pub(super) fn frame_came(&mut self, now: Nanos, datagram: &mut [u8]) {
        let accepted = Envelope::parse(datagram).is_ok_and(|envelope| {
            let header = envelope.header;
            if (header.session, header.epoch) != (self.peer.session, self.epoch) {
                self.secured.counters.strange += 1;
                return false;
            }
            match header.kind {
                FrameKind::HelloAnswer => self.hello_answered(now, &envelope, datagram),
                FrameKind::Cookie => {
                    let heard = self.initiator.hear_cookie(&envelope, datagram);
                    // The hello is said anew at once, with the cookie.
                    self.peer.hello_at = if heard.is_ok() { now } else { self.peer.hello_at };
                    heard.map_err(|why| self.secured.not_heard(why)).is_ok()
                }
                FrameKind::Answer | FrameKind::Reported => {
                    self.session_frame_came(now, &envelope, datagram)
                }
                FrameKind::Hello | FrameKind::Sourced | FrameKind::Ask => false,
            }
        });
        self.rx_refused += u64::from(!accepted);
    }

    fn session_frame_came(&mut self, now: Nanos, envelope: &Envelope, datagram: &mut [u8]) -> bool {
        if !self.secured.open(envelope, datagram) {
            return false;
        }
        let Ok(frame) = Frame::within(envelope, &datagram[HEADER_BYTES..]) else { return false };
        let Some((section, body)) = frame.sections().next() else { return false };
        if ibid_wire::crc32c(body) != section.crc {
            return false;
        }
        match (frame.header.kind, section.kind) {
            (FrameKind::Answer, SectionKind::Answer) => self.answer_came(now, &frame, body),
            (FrameKind::Reported, SectionKind::Report) => {
                let number = frame.header.number.get();
                if self.peer.report.is_some_and(|newest| number <= newest) {
                    return false;
                }
                Report::parse(body).is_ok_and(|report| {
                    self.peer.report = Some(number);
                    self.reported(now, &report);
                    true
                })
            }
            _ => false,
        }
    }

    /// A message that may be the answer to what was said: if it is, the session has its keys.
    fn hello_answered(&mut self, now: Nanos, envelope: &Envelope, datagram: &[u8]) -> bool {
        if !self.superblock.is_idle() {
            // Where this node stands is being changed: the answer comes again, if it still counts then.
            return true;
        }
        let (content, keys) = match self.initiator.hear_answer(envelope, datagram) {
            Ok(heard) => heard,
            Err(why) => {
                self.secured.not_heard(why);
                return false;
            }
        };
        let answer = Frame::within(envelope, content).ok().and_then(|frame| {
            let (section, body) = frame.sections().next()?;
            let whole =
                section.kind == SectionKind::HelloAnswer && ibid_wire::crc32c(body) == section.crc;
            HelloAnswer::parse(body).ok().filter(|_| whole)
        });
        let accepted = answer.is_some_and(|answer| self.answered(now, &answer));
        if self.peer.is_connected() {
            self.secured.begin(&keys);
        }
        accepted
    }

    fn answered(&mut self, now: Nanos, answer: &HelloAnswer) -> bool {
        self.peer.hear(now);
        let Some(said) = self.peer.said else { return false };
        let outcome = match answer.verdict {
            Ok(outcome) => outcome,
            Err(refusal) => {
                self.peer.stand = Stand::Refused(refusal);
                self.peer.hello_at = now.after(REFUSED_EVERY);
                self.sync.want_whole |= refusal == HelloRefusal::Blank;
                return true;
            }
        };
        if self.superblock.durable.cp != said.cp {
            // The log that the answer is about is drained and its slots are given again: there is nothing left to judge it by.
            self.lose_peer(now);
            return true;
        }
        let log = Batches { geometry: self.geometry, memory: &self.memory };
        if confirm(&said, answer, &log).is_err() {
            // It claims what cannot be: not a peer to be believed (LOG-1).
            self.peer.false_claims += 1;
            return false;
        }
        // What was said must still be so: to a log that was opened since then, or a CP taken alone, the peer did not agree.
        let behind = self.superblock.durable.cp > answer.standing.cp;
        let opened = self.superblock.durable.opened != said.opened;
        if self.records_alone() || opened || (behind && outcome != Outcome::Salvage) {
            self.lose_peer(now);
            return true;
        }
        self.peer.stand = Stand::Connected;
        self.peer.report = None;
        self.peer.in_memory = Some(answer.in_memory);
        self.peer.cp = answer.standing.cp;
        self.peer.met = Some((answer.standing.cp, answer.standing.state));
        self.join_peer();
        self.link.reset();
        self.asker.reset(|_| {});
        self.between_unanswered();
        self.outgoing.clear();
        self.batch_times.clear();
        self.peer.cursor = (self.log.segments().0, 0);
        let end = answer.standing.end;
        let common = end.min(self.log.batched());
        self.peer.resume = if Mutant::ResumeAtOwnEnd.is_on() { self.log.batched() } else { common };
        self.log.restart_peer(common);
        self.log.set_segment_limit(answer.segment_limit);
        self.list_sent = None;
        self.blocks.start(self.cp_full, self.catch_up.brought() > 0);
        self.peer_has_cp = false;
        if answer.standing.cp > self.superblock.durable.cp
            && self.log.segments().0 == self.log.segments().1
        {
            // It has a CP of an empty segment, of which nothing is left here.
            self.log.seal_for_cp(now);
        }
        self.notice_cp(now, answer.standing.cp, &answer.standing.chain);
        if end > common && !Mutant::TailNotFetched.is_on() {
            assert!(!self.log.is_open(), "SYNC-2: a log that takes writes is behind nobody's");
            let salvage = outcome == Outcome::Salvage;
            self.begin_fetch(end, answer.standing.cp, &answer.standing.held, salvage);
        }
        true
    }

    fn reported(&mut self, now: Nanos, report: &Report) {
        self.peer.hear(now);
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
        if report.restart {
            self.lose_peer(now);
            return;
        }
        self.peer.cp = report.cp_durable;
        self.notice_cp(now, report.cp_durable, &report.chain);
        let Some(open) = self.open else { return };
        if report.cp_listed == open.cp && !self.peer_has_cp {
            self.peer_has_cp = Mutant::RecordedBeforePeer.is_on();
            self.blocks.set_round(report.cp_round);
            self.blocks.set_credit(report.block_credit);
            for record in report.refused() {
                self.cp_sum.refused += u64::from(self.blocks.refused(*record, &self.list));
            }
        }
    }

    /// The peer's volumes hold CP `cp`. Its chain digest must be ours, or the histories differ and nothing may go on.
    fn notice_cp(&mut self, now: Nanos, cp: CpId, chain: &[u8; 32]) {
        let Some(open) = self.open else { return };
        if cp == open.cp && !self.peer_has_cp {
            if *chain == open.chain_after {
                self.peer_has_cp = true;
            } else {
                self.set_fault(now, Fault::Chain);
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
        let silent = now.since(self.peer.heard) >= self.sync.peer_timeout;
        if silent || self.peer.failed || self.secured.is_used_up() {
            self.lose_peer(now);
            return true;
        }
        self.send_asks(now, port);
        let awaiting = self.log.durable_there_lsn() < self.log.batched()
            || (self.open.is_some() && !self.peer_has_cp);
        if now >= self.link.deadline(awaiting) && self.link.timed_out(now, awaiting) {
            self.peer.ping = true;
        }
        let heartbeat =
            HEARTBEAT_EVERY.min(Nanos::new(self.sync.peer_timeout.get() / HEARTBEATS_MIN));
        self.peer.ping |= now.since(self.link.last_sent()) >= heartbeat;
        self.link.refill(now);
        let mut any = false;
        let before = self.peer.block_frames;
        for _ in 0..FRAMES_PER_TURN {
            let blocks = self.peer.block_frames - before < BLOCK_FRAMES_PER_TURN as u64;
            if !self.send_frame(now, port, blocks) {
                break;
            }
            any = true;
        }
        // What only the pace holds back goes out in one of the next turns: nobody sleeps meanwhile.
        let waits = self.link.has_again() || !self.outgoing.is_empty();
        any | (waits && self.link.is_held_back())
    }

    fn seek<P: Port>(&mut self, now: Nanos, port: &mut P) -> bool {
        // No session before the epoch is durable: what the peer has seen must never be used again.
        if now < self.peer.hello_at
            || !(self.has_epoch() || Mutant::EpochUnrecorded.is_on())
            || self.fault.is_some()
            || self.sync.want_whole
            || self.records_alone()
        {
            return false;
        }
        self.peer.hello_at = now.after(match self.peer.stand {
            Stand::Refused(_) => REFUSED_EVERY,
            Stand::Seeking | Stand::Connected => HELLO_EVERY,
        });
        // A session's hello says the same each time: what it is answered may have been decided by the first that came. Where this node
        // stands elsewhere by now, it takes another session.
        let now_so = self.standing();
        let standing = match self.peer.said {
            Some(said) if is_as_said(&said, &now_so) => said,
            said => {
                if said.is_some() {
                    self.peer.session = mix(self.peer.session);
                    self.initiator.forget();
                }
                now_so
            }
        };
        self.peer.said = Some(standing);
        // A busy port is tried again with the next hello.
        if let Some(said) = self.initiator.said() {
            return port.send(Class::Control, said, &[], None).is_ok();
        }
        let encrypted = self.secured.encrypts();
        let hello = Hello { instance: self.peer.instance, encrypted, standing };
        let session = self.session();
        let number = PacketNumber::new(self.peer.control_number);
        let Self { frame, initiator, .. } = self;
        frame.clear();
        frame.set_body(SectionKind::Hello, 0, 0, |out| hello.emit(out));
        let (head, spans) = frame.compose(FrameKind::Hello, session, number);
        let mut seal = |datagram: &mut [u8]| initiator.seal(datagram);
        let sent = port.send(Class::Control, head, spans, Some(&mut seal)).is_ok();
        self.peer.control_number += u64::from(sent);
        sent
    }

    /// Where this node stands, for its hello.
    fn standing(&self) -> SourceStanding {
        let durable = &self.superblock.durable;
        let (oldest, next) = self.log.segments();
        let mut held = HeldList::EMPTY;
        for segment in (oldest.get()..next.get()).map(CpId::new) {
            let one = self.log.held(segment).expect("a retained segment");
            held.push(Held { epoch: one.epoch, batches: one.batches, crc: one.crc });
        }
        let first_closed = next > oldest && self.log.is_closed(oldest);
        SourceStanding {
            epoch: self.epoch,
            identity: Identity {
                pair: durable.pair,
                volumes: volumes_digest(&durable.volumes[..usize::from(durable.volume_count)]),
                segments: durable.segments,
                segment_blocks: durable.segment_blocks,
            },
            in_sync: durable.state == SyncState::InSync,
            whole: durable.whole,
            cp: durable.cp,
            last_lsn: durable.last_lsn,
            chain: durable.chain,
            end: self.log.batched(),
            committed: self.log.committed().max(self.sync.proved),
            opened: durable.opened,
            agreed: durable.agreed,
            // Where nothing is left of a first segment it was sealed empty, if at all.
            first_end: match (next > oldest, first_closed) {
                (true, true) => self.log.closed_segment(oldest).0,
                (true, false) => Lsn::new(0),
                (false, _) => durable.last_lsn,
            },
            peer_cp: durable.peer_cp,
            peer_chain: durable.peer_chain,
            peer_next_chain: durable.peer_next_chain,
            held,
        }
    }

    pub(super) fn lose_peer(&mut self, now: Nanos) {
        self.peer.stand = Stand::Seeking;
        self.peer.session = mix(self.peer.session);
        self.peer.hello_at = now;
        self.peer.ping = false;
        self.peer.failed = false;
        self.peer.said = None;
        self.initiator.forget();
        self.secured.end();
        self.fetch = None;
        self.fetch_pieces.clear();
        self.asker.reset(|_| {});
        self.between_unanswered();
        self.heal_unanswered(now);
        self.link.reset();
        self.outgoing.clear();
        self.batch_times.clear();
    }
}
