//! Writes whose data is still coming and must leave its place: `move_write`, at every point of a transfer.

use super::*;
use alloc::format;

const BYTES: u32 = 32768;
/// Where the pages lie that a write moves to.
const ASIDE: u64 = VOLUME_BYTES / 2;

impl World {
    /// As a shard does it: what is here already is copied, all that comes later goes to the new pages.
    fn move_aside(&mut self, cmd: CommandId, bytes: u32) -> Span {
        let (old, new) = (Self::pages(cmd, bytes), Span::new(ASIDE, bytes));
        self.arena.copy_within(old.at as usize..old.end() as usize, ASIDE as usize);
        self.frontend.move_write(cmd, new);
        // What is written to the old pages from here on is somebody else's data that was damaged.
        self.arena[old.at as usize..old.end() as usize].fill(0xEE);
        new
    }

    fn bytes(&self, span: Span) -> &[u8] {
        &self.arena[span.at as usize..span.end() as usize]
    }

    /// All data has arrived in `new`, and the old pages are as `move_aside` left them.
    fn assert_moved(&mut self, cmd: CommandId, new: Span, data: &[u8], what: &str) {
        assert!(self.bytes(new) == data, "{what}: the new pages hold the data");
        let old = Self::pages(cmd, new.len);
        assert!(
            self.bytes(old).iter().all(|byte| *byte == 0xEE),
            "{what}: nothing came to the old pages"
        );
    }

    fn written(&mut self) -> CommandId {
        let found = self.events.iter().rev().find_map(|event| match event {
            Event::Write { cmd, .. } => Some(*cmd),
            _ => None,
        });
        found.expect("a write came")
    }
}

/// A world with one write of [`BYTES`] that waits for its data, and the R2T it was sent.
fn asked(digests: u8) -> (World, ConnId, CommandId, R2t) {
    let mut world = World::new(config(4096));
    let (io, _) = world.io(digests);
    let capsule = world.capsule(&write(1, 0, BYTES / 4096, 4096, false), &[]);
    assert!(world.give(io, &capsule, usize::MAX).is_empty());
    let cmd = world.written();
    let r2t = world.answer(io).r2t();
    (world, io, cmd, r2t)
}

#[test]
fn a_write_that_moves_before_its_r2t_is_out_gets_its_data_in_the_new_pages() {
    let mut world = World::new(config(4096));
    let (io, _) = world.io(0);
    let capsule = world.capsule(&write(1, 0, BYTES / 4096, 4096, false), &[]);
    assert!(world.give(io, &capsule, usize::MAX).is_empty());
    let cmd = world.written();
    let new = world.move_aside(cmd, BYTES);
    let r2t = world.answer(io).r2t();
    let data = pattern(BYTES as usize, 3);
    let stream = world.h2c(r2t, 0, &data, true);
    assert!(world.give(io, &stream, 1000).is_empty());
    world.assert_moved(cmd, new, &data, "before the R2T");
    assert_eq!(world.answer(io).cqe().status, Status::SUCCESS);
}

#[test]
fn a_write_that_moves_in_the_middle_of_its_data_is_whole_in_the_new_pages() {
    let data = pattern(BYTES as usize, 5);
    for digests in [0, 3] {
        // In two PDUs: cuts lie in headers, in data, between the PDUs, one byte before the end.
        let (world, _, _, r2t) = asked(digests);
        let mut stream = world.h2c(r2t, 0, &data[..20000], false);
        let border = stream.len();
        stream.extend(world.h2c(r2t, 20000, &data[20000..], true));
        let cuts = (0..stream.len()).step_by(997).chain([
            24,
            25,
            border - 1,
            border,
            border + 3,
            border + 24,
            stream.len() - 1,
        ]);
        for cut in cuts {
            let (mut world, io, cmd, _) = asked(digests);
            let (before, after) = stream.split_at(cut);
            assert!(world.give(io, before, usize::MAX).is_empty());
            world.events.clear();
            let new = world.move_aside(cmd, BYTES);
            assert!(world.give(io, after, usize::MAX).is_empty());
            world.assert_moved(cmd, new, &data, &format!("cut at {cut}"));
            // What arrives after the move is named where it lies, whole PDUs; `World` has compared their digests.
            for event in &world.events {
                if let Event::Arrived { span, .. } = event {
                    assert!(span.at >= new.at && span.end() <= new.end(), "cut at {cut}: {span:?}");
                }
            }
            assert_eq!(world.answer(io).cqe().status, Status::SUCCESS, "cut at {cut}");
        }
    }
}

#[test]
fn data_in_a_capsule_moves_too() {
    let data = pattern(8192, 9);
    for digests in [0, 3] {
        for cut in [0, 1, 100, 4096, 8191] {
            let mut world = World::new(config(4096));
            let (io, _) = world.io(digests);
            let capsule = world.capsule(&write(1, 0, 2, 4096, true), &data);
            let head = CAPSULE_BYTES + if digests == 0 { 0 } else { DIGEST_BYTES };
            let (before, after) = capsule.split_at(head + cut);
            assert!(world.give(io, before, usize::MAX).is_empty());
            let cmd = world.written();
            let new = world.move_aside(cmd, 8192);
            assert!(world.give(io, after, usize::MAX).is_empty());
            world.assert_moved(cmd, new, &data, &format!("cut at {cut}"));
            assert_eq!(world.answer(io).cqe().status, Status::SUCCESS);
        }
    }
}

/// One write moves; its neighbour on the same connection, whose data comes between, stays where it is.
#[test]
fn only_the_write_that_is_named_moves() {
    let (mut world, io, first, r2t) = asked(0);
    let capsule = world.capsule(&write(2, 16, BYTES / 4096, 4096, false), &[]);
    assert!(world.give(io, &capsule, usize::MAX).is_empty());
    let second = world.written();
    let other = world.answer(io).r2t();
    let (one, two) = (pattern(BYTES as usize, 1), pattern(BYTES as usize, 2));
    // The move comes while the second's data is under way.
    let stream = world.h2c(other, 0, &two, true);
    let (before, after) = stream.split_at(5000);
    assert!(world.give(io, before, usize::MAX).is_empty());
    let new = world.move_aside(first, BYTES);
    assert!(world.give(io, after, usize::MAX).is_empty());
    let stream = world.h2c(r2t, 0, &one, true);
    assert!(world.give(io, &stream, usize::MAX).is_empty());
    world.assert_moved(first, new, &one, "the first");
    assert!(world.bytes(World::pages(second, BYTES)) == two);
    assert_eq!(world.pdus(io).iter().map(|pdu| pdu.cqe().cid).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn a_write_that_is_over_or_has_all_its_data_does_not_move() {
    let (mut world, io, cmd, r2t) = asked(0);
    let data = pattern(BYTES as usize, 4);
    world.answers = false;
    let stream = world.h2c(r2t, 0, &data, true);
    assert!(world.give(io, &stream, usize::MAX).is_empty());
    world.frontend.move_write(cmd, Span::new(ASIDE, BYTES));
    world.frontend.complete(cmd, Status::SUCCESS);
    assert_eq!(world.answer(io).cqe().status, Status::SUCCESS);
    // Its slot may be another command's by now: a name that is over means nothing.
    world.frontend.move_write(cmd, Span::new(ASIDE, BYTES));
    assert!(world.bytes(World::pages(cmd, BYTES)) == data);
    assert!(world.bytes(Span::new(ASIDE, BYTES)).iter().all(|byte| *byte == 0));
}

#[test]
#[should_panic(expected = "pages of its length")]
fn a_write_does_not_move_to_pages_of_another_length() {
    let (mut world, _, cmd, _) = asked(0);
    world.frontend.move_write(cmd, Span::new(ASIDE, BYTES - 4096));
}

#[test]
fn a_read_that_moves_while_its_bytes_leave_shows_the_same_and_others_stay() {
    for step in [1, 100, 700, 5000] {
        let mut world = World::new(config(4096));
        let (io, _) = world.io(0);
        let bytes = pattern(16384, 3);
        world.arena[..16384].copy_from_slice(&bytes);
        // Two reads of the same place, so of the same spans; more of them than fit the stage at once.
        for cid in [1, 2] {
            let capsule = world.capsule(&read(cid, 0, 4, 4096), &[]);
            world.give(io, &capsule, usize::MAX);
        }
        let [Event::Read { cmd, first, sectors, .. }, Event::Read { .. }] = world.events[..] else {
            panic!("two reads: {:?}", world.events)
        };
        world.events.clear();
        let mut list = PieceList::new();
        world.frontend.send_plan(io, &mut list);
        let mut begun = Vec::new();
        for piece in list.as_slice() {
            match piece {
                Piece::Bytes(run) => begun.extend_from_slice(run),
                Piece::Span(span) => {
                    begun.extend_from_slice(&world.arena[span.at as usize..span.end() as usize])
                }
            }
        }
        begun.truncate(step);
        world.frontend.sent(io, begun.len());
        world.drain();
        let aside = World::pages(cmd, 16384).at;
        let pieces: Vec<ReadPiece> = world
            .pieces(first, sectors)
            .iter()
            .map(|piece| ReadPiece {
                span: Span::new(aside + piece.span.at, piece.span.len),
                crc: piece.crc,
            })
            .collect();
        world.arena.copy_within(..16384, aside as usize);
        world.frontend.move_read(cmd, &pieces);
        // The second read still shows the old place, so its bytes must be there, and only its.
        let other = pattern(16384, 9);
        world.arena[..16384].copy_from_slice(&other);
        let rest = world.output(io, usize::MAX);
        let pdus = split_pdus(&[begun, rest].concat());
        let data = |cid: u16| -> Vec<u8> {
            let of = |pdu: &&Pdu| {
                pdu.kind() == PduKind::C2hData && DataPdu::parse(&pdu.bytes).unwrap().cccid == cid
            };
            pdus.iter().filter(of).flat_map(|pdu| pdu.data().to_vec()).collect()
        };
        assert_eq!(data(1), bytes, "{step}");
        assert_eq!(data(2), other, "{step}");
        let released = |event: &&Event| matches!(event, Event::Released { .. });
        assert_eq!(world.events.iter().filter(released).count(), 2, "FE-4");
        // It is over: nothing moves any more.
        world.frontend.move_read(cmd, &pieces);
    }
}
