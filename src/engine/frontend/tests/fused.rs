//! Compare, Verify, and pairs of Compare and Write: what belongs together, and what ends how if it doesn't (C27, C28).

use super::*;
use ibid_wire::nvme_tcp::{SetFeatures, feature, psdt};

const PAGE: [u8; 4096] = [7; 4096];

fn first(sqe: Sqe) -> Sqe {
    sqe.fused(psdt::FUSE_FIRST)
}

fn second(sqe: Sqe) -> Sqe {
    sqe.fused(psdt::FUSE_SECOND)
}

/// A world in which the shard answers by hand, with an I/O and an admin queue.
fn by_hand(lba_bytes: u32, dgst: u8) -> (World, ConnId, ConnId) {
    let mut world = World::new(config(lba_bytes));
    let (io, admin) = world.io(dgst);
    world.answers = false;
    (world, io, admin)
}

impl World {
    fn send(&mut self, conn: ConnId, sqe: &Sqe, data: &[u8]) {
        let bytes = self.capsule(sqe, data);
        assert!(self.give(conn, &bytes, usize::MAX).is_empty());
    }

    /// Sends a capsule whose data waits for memory, gives that, and takes the data.
    fn send_inline(&mut self, conn: ConnId, sqe: &Sqe, data: &[u8]) {
        let bytes = self.capsule(sqe, data);
        let rest = self.give(conn, &bytes, usize::MAX).to_vec();
        let (Some(Event::Compare { cmd, .. }) | Some(Event::Write { cmd, .. })) =
            self.events.last().copied()
        else {
            panic!("no memory was asked for: {:?}", self.events)
        };
        self.place(cmd, data.len() as u32);
        assert!(self.give(conn, &rest, usize::MAX).is_empty());
    }

    /// What was answered: identifiers and statuses, in order.
    fn answers(&mut self, conn: ConnId) -> Vec<(u16, Status)> {
        self.pdus(conn).iter().map(|pdu| (pdu.cqe().cid, pdu.cqe().status)).collect()
    }
}

#[test]
fn a_pair_is_told_as_one_whichever_way_its_data_comes() {
    for (first_inline, second_inline) in
        [(true, true), (true, false), (false, true), (false, false)]
    {
        for digests in [0, 3] {
            let (mut world, io, _) = by_hand(4096, digests);
            let pair = [
                first(compare(1, 3, 1, 4096, first_inline)),
                second(write(2, 3, 1, 4096, second_inline)),
            ];
            for (sqe, inline) in pair.iter().zip([first_inline, second_inline]) {
                if inline {
                    world.send_inline(io, sqe, &PAGE);
                } else {
                    world.send(io, sqe, &[]);
                }
            }
            let compared = world.events.iter().find_map(|event| match *event {
                Event::Compare { cmd, first, sectors, inline, fused, .. } => {
                    assert_eq!((first, sectors), (Sector::new(24), Sectors::new(8)));
                    assert_eq!((inline, fused), (first_inline, true));
                    Some(cmd)
                }
                _ => None,
            });
            let written = world.events.iter().find_map(|event| match *event {
                Event::Write { cmd, fused, .. } => Some((cmd, fused)),
                _ => None,
            });
            let (compared, (written, fused)) = (compared.unwrap(), written.unwrap());
            assert_eq!(fused, Some(compared));
            for (cmd, inline) in [(compared, first_inline), (written, second_inline)] {
                if !inline {
                    world.place(cmd, 4096);
                    let r2t = world.answer(io).r2t();
                    let bytes = world.h2c(r2t, 0, &PAGE, true);
                    assert!(world.give(io, &bytes, usize::MAX).is_empty());
                }
            }
            let arrived =
                world.events.iter().filter(|event| matches!(event, Event::Arrived { .. })).count();
            assert_eq!(arrived, 2);
            world.frontend.complete(compared, Status::COMPARE_FAILURE);
            world.frontend.complete(written, Status::ABORTED_FAILED_FUSED);
            assert_eq!(
                world.answers(io),
                [(1, Status::COMPARE_FAILURE), (2, Status::ABORTED_FAILED_FUSED)]
            );
        }
    }
}

/// Everything that may follow a first command but its second, and what that ends with itself.
#[test]
fn a_first_command_without_its_second_ends_and_the_shard_forgets_it() {
    let missing = Status::ABORTED_MISSING_FUSED;
    let elsewhere = second(write(2, 4, 1, 4096, false));
    let longer = second(write(2, 3, 2, 4096, false));
    let other_opcode = second(read(2, 3, 1, 4096));
    let wrong_length = second(write(2, 3, 1, 4096, false));
    let cases: &[(&str, Sqe, Status, Option<Status>)] = &[
        ("a plain write", write(2, 3, 1, 4096, false), missing, None),
        ("a flush", Sqe::new(opcode::FLUSH, 2, 1), missing, None),
        ("another first", first(compare(2, 3, 1, 4096, false)), missing, None),
        ("another opcode", other_opcode, missing, Some(missing)),
        (
            "reserved bits",
            write(2, 3, 1, 4096, false).fused(3),
            missing,
            Some(Status::INVALID_FIELD),
        ),
        ("a fabrics command", second(connect(1).emit(2)), missing, Some(Status::INVALID_FIELD)),
        ("its own identifier", second(write(1, 3, 1, 4096, false)), missing, Some(missing)),
        ("another range", elsewhere, Status::INVALID_FIELD, Some(Status::INVALID_FIELD)),
        ("a longer range", longer, Status::INVALID_FIELD, Some(Status::INVALID_FIELD)),
        (
            "a second that is refused",
            Sqe { sgl: Sgl::transport(512), ..wrong_length },
            missing,
            Some(Status::SGL_LENGTH_INVALID),
        ),
    ];
    for (what, next, ends, refused) in cases {
        for inline in [true, false] {
            let (mut world, io, _) = by_hand(4096, 0);
            let sqe = first(compare(1, 3, 1, 4096, inline));
            if inline {
                world.send_inline(io, &sqe, &PAGE);
            } else {
                world.send(io, &sqe, &[]);
            }
            let Event::Compare { cmd: compared, .. } = world.events[0] else { panic!("{what}") };
            world.events.clear();
            let data = if next.opcode == opcode::FABRICS { connect_data(1) } else { Vec::new() };
            world.send(io, next, &data);
            assert!(world.events.contains(&Event::Abandoned { cmd: compared }), "C28 {what}");
            let mut answers = world.answers(io);
            answers.sort_by_key(|(cid, status)| (*cid, status.raw()));
            let mut expected = vec![(1, *ends)];
            expected.extend(refused.map(|status| (next.cid, status)));
            assert_eq!(answers, expected, "C28 {what}");
            // Whatever the shard says of it now is said of nobody.
            world.frontend.complete(compared, Status::SUCCESS);
            assert!(world.pdus(io).is_empty(), "C28 {what}");
        }
    }
}

#[test]
fn a_first_command_whose_data_is_under_way_is_drained() {
    let (mut world, io, _) = by_hand(4096, 0);
    world.send(io, &first(compare(1, 3, 2, 4096, false)), &[]);
    let Event::Compare { cmd, .. } = world.events[0] else { panic!("no compare") };
    world.place(cmd, 8192);
    let r2t = world.answer(io).r2t();
    let half = world.h2c(r2t, 0, &PAGE, false);
    world.give(io, &half, usize::MAX);
    world.send(io, &Sqe::new(opcode::FLUSH, 2, 1), &[]);
    assert!(world.pdus(io).is_empty(), "its data is still owed");
    let place = World::pages(cmd, 8192).skip(4096);
    let rest = world.h2c(r2t, 4096, &[9; 4096], true);
    world.give(io, &rest, usize::MAX);
    assert_eq!(world.answers(io), [(1, Status::ABORTED_MISSING_FUSED)]);
    let bytes = &world.arena[place.at as usize..place.end() as usize];
    assert!(bytes.iter().all(|byte| *byte == 0), "FE-3: it is written to no more");
}

#[test]
fn what_can_not_be_fused_is_refused() {
    let (mut world, io, admin) = by_hand(4096, 0);
    let too_long = first(compare(1, 0, IN_CAPSULE / 4096 + 1, 4096, false));
    let end = VOLUME_BYTES / 4096;
    let cases: &[(&str, ConnId, Sqe, Status)] = &[
        ("second alone", io, second(write(1, 3, 1, 4096, false)), Status::ABORTED_MISSING_FUSED),
        (
            "compare second",
            io,
            second(compare(1, 3, 1, 4096, false)),
            Status::ABORTED_MISSING_FUSED,
        ),
        ("write first", io, first(write(1, 3, 1, 4096, false)), Status::ABORTED_MISSING_FUSED),
        ("reserved bits", io, read(1, 3, 1, 4096).fused(3), Status::INVALID_FIELD),
        ("fabrics", io, first(connect(1).emit(1)), Status::INVALID_FIELD),
        ("longer than ACWU", io, too_long, Status::INVALID_FIELD),
        ("past the end", io, first(compare(1, end, 1, 4096, false)), Status::LBA_OUT_OF_RANGE),
        ("admin", admin, first(Sqe::new(opcode::KEEP_ALIVE, 1, 0)), Status::INVALID_FIELD),
        ("admin second", admin, second(Sqe::new(opcode::KEEP_ALIVE, 1, 0)), Status::INVALID_FIELD),
    ];
    for (what, conn, sqe, status) in cases {
        let data = if sqe.opcode == opcode::FABRICS { connect_data(1) } else { Vec::new() };
        assert_eq!(world.status(*conn, sqe, &data), *status, "C28 {what}");
        assert!(world.events.is_empty(), "C28 {what}: the shard was told");
        // Nothing is left of it: a flush is a flush.
        world.send(io, &Sqe::new(opcode::FLUSH, 9, 1), &[]);
        let Some(Event::Flush { cmd, .. }) = world.events.pop() else { panic!("C28 {what}") };
        world.frontend.complete(cmd, Status::SUCCESS);
        assert_eq!(world.answers(io), [(9, Status::SUCCESS)], "C28 {what}");
    }
}

#[test]
fn the_second_command_fails_with_the_first() {
    let end = VOLUME_BYTES / 4096;
    // At once, where the first is refused; its data is drained.
    let (mut world, io, _) = by_hand(4096, 0);
    let status = world.status(io, &first(compare(1, end, 1, 4096, true)), &PAGE);
    assert_eq!(status, Status::LBA_OUT_OF_RANGE);
    let status = world.status(io, &second(write(2, end, 1, 4096, true)), &PAGE);
    assert_eq!(status, Status::ABORTED_FAILED_FUSED);
    assert!(world.events.is_empty());
    // And where the shard has ended it before its second came.
    world.send_inline(io, &first(compare(1, 3, 1, 4096, true)), &PAGE);
    let Event::Compare { cmd, .. } = world.events[0] else { panic!("no compare") };
    world.frontend.digest_is_wrong(cmd);
    assert_eq!(world.answers(io), [(1, Status::TRANSIENT_TRANSPORT_ERROR)]);
    world.events.clear();
    let status = world.status(io, &second(write(2, 3, 1, 4096, true)), &PAGE);
    assert_eq!(status, Status::ABORTED_FAILED_FUSED);
    assert!(world.events.is_empty());
}

#[test]
fn the_two_commands_of_a_pair_are_on_one_queue() {
    let mut world = World::new(config(4096));
    let (one, cntlid) = world.admin(0);
    let _ = one;
    let queues: Vec<ConnId> = [1, 2]
        .iter()
        .map(|&qid| {
            let conn = world.initialised(0);
            let status = world.status(conn, &connect(qid).emit(1), &connect_data(cntlid));
            assert_eq!(status, Status::SUCCESS);
            conn
        })
        .collect();
    world.answers = false;
    world.events.clear();
    world.send(queues[0], &first(compare(1, 3, 1, 4096, false)), &[]);
    let status = world.status(queues[1], &second(write(2, 3, 1, 4096, false)), &[]);
    assert_eq!(status, Status::ABORTED_MISSING_FUSED, "C28 other queue");
    assert!(world.pdus(queues[0]).is_empty(), "the first one still awaits its second");
    world.send(queues[0], &second(write(2, 3, 1, 4096, false)), &[]);
    assert!(matches!(world.events.last(), Some(Event::Write { fused: Some(_), .. })));
}

/// Time passes, of which no keep-alive timeout takes note.
fn pass(world: &mut World, ms: u64) {
    world.now = world.now.after(Nanos::from_millis(ms));
    world.frontend.tick(world.now);
    world.drain();
}

fn by_hand_for_long() -> (World, ConnId) {
    let (mut world, io, admin) = by_hand(4096, 0);
    let set = SetFeatures { fid: feature::KEEP_ALIVE, save: false, value: 600_000 };
    assert_eq!(world.status(admin, &set.emit(7), &[]), Status::SUCCESS);
    (world, io)
}

#[test]
fn a_second_command_is_owed_like_data_and_no_longer_than_that() {
    let (mut world, io) = by_hand_for_long();
    world.send_inline(io, &first(compare(1, 3, 1, 4096, true)), &PAGE);
    pass(&mut world, 29_000);
    assert!(!world.is_closing(io));
    pass(&mut world, 2_000);
    assert!(world.is_closing(io), "R4");
    // Whatever comes next, the second one is not waited for any more: neither with its data there, nor where it waits for memory.
    for inline in [true, false] {
        for next in [Sqe::new(opcode::FLUSH, 2, 1), second(write(2, 3, 1, 4096, false))] {
            let (mut world, io) = by_hand_for_long();
            let sqe = first(compare(1, 3, 1, 4096, inline));
            if inline {
                world.send_inline(io, &sqe, &PAGE);
            } else {
                world.send(io, &sqe, &[]);
            }
            world.send(io, &next, &[]);
            drop(world.pdus(io));
            pass(&mut world, 31_000);
            assert!(!world.is_closing(io), "{next:?}, inline: {inline}");
        }
    }
}

#[test]
fn compare_and_verify_are_checked_like_reads_and_writes() {
    for digests in [0, 3] {
        let mut world = World::new(config(4096));
        let (io, _) = world.io(digests);
        let end = VOLUME_BYTES / 4096;
        let verify = |slba, blocks| Io { slba, blocks, fua: false }.emit(opcode::VERIFY, 1, 1);
        let change = |mut sqe: Sqe, f: fn(&mut Sqe)| {
            f(&mut sqe);
            sqe
        };
        let cases: &[(&str, Sqe, &[u8], Status)] = &[
            ("compare end", compare(1, end, 1, 4096, true), &PAGE, Status::LBA_OUT_OF_RANGE),
            ("compare wrap", compare(1, u64::MAX, 1, 4096, true), &PAGE, Status::LBA_OUT_OF_RANGE),
            ("compare limit", compare(1, 0, 17, 4096, false), &[], Status::INVALID_FIELD),
            (
                "compare length",
                change(compare(1, 0, 2, 4096, false), |s| s.sgl.length = 4096),
                &[],
                Status::SGL_LENGTH_INVALID,
            ),
            ("compare without", compare(1, 0, 1, 4096, true), &[], Status::SGL_LENGTH_INVALID),
            (
                "compare namespace",
                change(compare(1, 0, 1, 4096, true), |s| s.nsid = 2),
                &PAGE,
                Status::INVALID_NAMESPACE,
            ),
            ("verify end", verify(end - 1, 2), &[], Status::LBA_OUT_OF_RANGE),
            ("verify limit", verify(0, 257), &[], Status::INVALID_FIELD),
            ("verify with data", verify(0, 1), &PAGE, Status::INVALID_FIELD),
            (
                "directive",
                change(write(1, 0, 1, 4096, true), |s| s.cdw12 |= 1 << 20),
                &PAGE,
                Status::INVALID_FIELD,
            ),
        ];
        for (what, sqe, data, status) in cases {
            assert_eq!(world.status(io, sqe, data), *status, "C27 {what}");
            assert!(world.events.is_empty(), "C27 {what}: the shard was told");
        }
        assert_eq!(world.status(io, &compare(1, 0, 1, 4096, true), &PAGE), Status::SUCCESS);
        assert_eq!(world.status(io, &verify(0, 256), &[]), Status::SUCCESS);
        // Without protection information its bits mean nothing, and there is no limit of retries to be cut.
        let hints = change(compare(1, 0, 1, 4096, true), |s| s.cdw12 |= 1 << 31 | 0xf << 26);
        assert_eq!(world.status(io, &hints, &PAGE), Status::SUCCESS);
    }
}

#[test]
fn a_wrong_digest_of_a_compare_costs_that_command() {
    let mut world = World::new(config(4096));
    let (io, _) = world.io(3);
    let mut bytes = world.capsule(&compare(1, 0, 1, 4096, true), &PAGE);
    *bytes.last_mut().unwrap() ^= 1;
    world.give(io, &bytes, usize::MAX);
    assert_eq!(world.answers(io), [(1, Status::TRANSIENT_TRANSPORT_ERROR)]);
    assert_eq!(world.status(io, &compare(1, 0, 1, 4096, true), &PAGE), Status::SUCCESS);
}
