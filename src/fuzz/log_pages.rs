//! Target `log_pages`: Get Log Page and Identify with arguments of any value, at a subsystem's controller and at a discovery one. What
//! comes back is as long as was asked for, the same as that part of the whole page, and zero beyond its end.

use crate::host::Done;
use crate::input::Input;
use crate::shard::{Answers, TRANSFER};
use crate::world::{World, connect};
use ibid_wire::nvme_tcp::{
    Cc, ConnectData, DISCOVERY_NQN, GetLogPage, IDENTIFY_BYTES, Identify, Io, PropertySet, Sgl,
    Sqe, Status, log_page, opcode, property, put_nqn, sgl_kind,
};

/// Requests of a script, at most.
const STEPS_MAX: usize = 64;

/// Runs a script.
pub fn script(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (flags, hpda) = (input.u8(), input.u8());
    let mut world = World::new(Answers::AtEnd);
    let place = if flags & 4 == 0 {
        let (io, admin) = world.connected(flags & 3, 0).expect("a good host is let in");
        // Something for the counters to say.
        for cid in 0..u16::from(flags >> 4) {
            let read = Io { slba: 0, blocks: 8, fua: false }.emit(opcode::READ, cid, 1);
            run(&mut world, io, Sqe { sgl: Sgl::transport(4096), ..read });
        }
        admin
    } else {
        discovery(&mut world, hpda, flags & 3)
    };
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        if input.u8() & 1 == 0 {
            log(&mut world, place, &mut input);
        } else {
            identify(&mut world, place, &mut input);
        }
        world.audit();
    }
    world.finish(flags & 8 != 0);
}

/// An enabled discovery controller.
fn discovery(world: &mut World, hpda: u8, digests: u8) -> usize {
    let place = world.initialised(hpda, digests).expect("a good host is let in");
    let mut data = crate::world::connect_data(ConnectData::CNTLID_ANY);
    let name = put_nqn(DISCOVERY_NQN).expect("the standard's name is a name");
    data[usize::from(ConnectData::SUBNQN_AT)..][..name.len()].copy_from_slice(&name);
    world.ask(place, &connect(0, 0).emit(1), &data);
    let set = PropertySet { wide: Some(false), offset: property::CC, value: Cc::ENABLED.0.into() };
    assert_eq!(run(world, place, set.emit(2)).status, Status::SUCCESS, "a good enable");
    place
}

/// The end of a command; every command here comes to one.
fn run(world: &mut World, place: usize, sqe: Sqe) -> Done {
    world.ask(place, &sqe, &[]);
    world.read(place, usize::MAX);
    let host = world.host(place).expect("no question costs a connection");
    std::mem::take(&mut host.done).pop().expect("every question is answered")
}

fn log(world: &mut World, place: usize, input: &mut Input<'_>) {
    let lid = input.of(&[
        log_page::ERRORS,
        log_page::HEALTH,
        log_page::FIRMWARE,
        log_page::EFFECTS,
        log_page::DISCOVERY,
        0x0c,
        0x04,
        input.clone().u8(),
    ]);
    // The specific field (bits 14:8), and whether events are retained (bit 15), go along unchanged.
    let field = u32::from(input.u8()) << 8;
    let (dwords, offset) = (input.u32(), input.u64());
    let (form, odd, bits) = (input.u8(), input.u8(), input.u8());
    let numd = match form & 3 {
        0 => dwords & 0xff,
        1 => dwords & 0x7ff,
        2 => dwords & 0xffff,
        _ => dwords,
    };
    let offset = match form >> 2 & 3 {
        0 => 0,
        1 => (offset & 0x7ff) << 2,
        2 => offset & 0xffff,
        _ => offset,
    };
    let mut sqe = Sqe::new(opcode::GET_LOG_PAGE, 3, u32::MAX);
    sqe.cdw10 = u32::from(lid) | field | numd << 16;
    sqe.cdw11 = numd >> 16 | if odd & 0x80 != 0 { u32::from(bits) << 16 } else { 0 };
    sqe.cdw12 = offset as u32;
    sqe.cdw13 = (offset >> 32) as u32;
    sqe.cdw14 = if odd & 0x40 != 0 { 1 << 23 } else { 0 } | u32::from(bits & 0x7f);
    let wanted = (u64::from(numd) + 1) * 4;
    sqe.sgl = Sgl::transport(wanted as u32);
    match odd & 0xf {
        1 => sqe.sgl.length = sqe.sgl.length.wrapping_sub(u32::from(bits)),
        2 => sqe.sgl.length = sqe.sgl.length.wrapping_add(u32::from(bits)),
        3 => sqe.sgl.kind = bits,
        4 => sqe.nsid = bits.into(),
        _ => {}
    }
    let request = GetLogPage::parse(&sqe);
    assert!(request.bytes == wanted && request.offset == offset, "the request is read otherwise");
    let done = run(world, place, sqe);
    if done.status != Status::SUCCESS {
        assert!(done.data.is_empty(), "data came, and then an error");
        return;
    }
    assert!(done.data.len() as u64 == wanted, "{} bytes of {wanted}", done.data.len());
    assert!(wanted <= TRANSFER.into(), "more than the longest transfer");
    assert!(sqe.sgl.kind == sgl_kind::TRANSPORT, "data went to an SGL of another kind");
    assert!(offset.is_multiple_of(4), "an offset within a dword");
    // The same page from its start, as much as can be had.
    let mut whole = sqe;
    let numd = TRANSFER / 4 - 1;
    whole.cdw10 = whole.cdw10 & 0xffff | numd << 16;
    whole.cdw11 = whole.cdw11 & 0xffff_0000 | numd >> 16;
    (whole.cdw12, whole.cdw13) = (0, 0);
    whole.sgl.length = TRANSFER;
    let page = run(world, place, whole);
    assert_eq!(
        page.status,
        Status::SUCCESS,
        "a part of page {lid:#x} can be had, and not the whole"
    );
    assert!(page.data.len() == TRANSFER as usize, "the whole is {} bytes", page.data.len());
    for (at, byte) in done.data.iter().enumerate() {
        let expected = page.data.get(offset as usize + at).copied().unwrap_or(0);
        assert!(*byte == expected, "page {lid:#x}, offset {offset}: byte {at} is another's");
    }
    // What is beyond the end of every page there is.
    assert!(page.data[TRANSFER as usize / 2..].iter().all(|&byte| byte == 0), "a page has no end");
}

fn identify(world: &mut World, place: usize, input: &mut Input<'_>) {
    let (what, set) = (input.u8(), input.of(&[0, 0, 0, 1, 2, 3, 0xff]));
    let what = if what < 128 { what & 0x1f } else { what };
    let nsid = input.of(&[0, 1, 2, 3, u32::MAX, u32::MAX - 1, 1 << 16]);
    let (odd, bits) = (input.u8(), input.u16());
    let question = Identify { csi: set, cntid: bits, ..Identify::of(what, nsid) };
    let mut sqe = question.emit(3);
    match odd {
        1..=15 => sqe.sgl.length = bits.into(),
        16..=31 => sqe.sgl.kind = bits as u8,
        32..=47 => sqe.sgl.length = u32::from(bits) << 16,
        _ => {}
    }
    let done = run(world, place, sqe);
    if done.status != Status::SUCCESS {
        assert!(done.data.is_empty(), "data came, and then an error");
        return;
    }
    assert!(done.data.len() == IDENTIFY_BYTES, "Identify gives {} bytes", done.data.len());
    assert!(sqe.sgl.length as usize >= IDENTIFY_BYTES, "more than there is room for");
    let again = run(world, place, question.emit(4));
    assert!(again.data == done.data, "the same question has two answers");
}
