//! Target `fabrics`: well-formed capsules with fields of any value, from several hosts on several connections, with time passing. A
//! model keeps what each controller was last told, and what comes back is held to it.

use crate::host::Done;
use crate::input::Input;
use crate::shard::Answers;
use crate::world::{AUTH_HOST, CONNECTIONS, CONTROLLERS, DEPTH, HOSTS, NQN, World, connect};
use ibid_wire::nvme_tcp::{
    Cc, Connect, ConnectData, DISCOVERY_NQN, GetFeatures, GetLogPage, Identify, PropertyGet,
    PropertySet, SetFeatures, Sgl, Sqe, Status, event_bit, fctype, feature, log_page, opcode,
    property, put_nqn,
};
use std::collections::BTreeMap;

/// Steps of a script, at most.
const STEPS_MAX: usize = 200;
/// The longest keep-alive that is granted.
const KATO_MS_MAX: u32 = 600_000;

/// A controller as its hosts know it.
#[derive(Clone, Debug)]
struct Known {
    host: u8,
    hostid: u8,
    discovery: bool,
    cc: Cc,
    /// What Get Features says, where it was set.
    features: BTreeMap<(u8, u32), u32>,
}

/// A question whose answer is known in part.
#[derive(Clone, Debug)]
enum Question {
    Connect {
        qid: u16,
        host: u8,
        hostid: u8,
        discovery: bool,
        cntlid: u16,
        good: bool,
    },
    SetCc(u32),
    GetCc,
    SetFeature {
        fid: u8,
        value: u32,
    },
    GetFeature(GetFeatures),
    Read,
    /// An asynchronous event request: it may never end.
    Held,
    Other,
}

#[derive(Default)]
struct Model {
    /// By identifier.
    controllers: BTreeMap<u16, Known>,
    /// Connections of controllers: identifier and queue.
    queues: [Option<(u16, u16)>; CONNECTIONS],
    /// Connections of which it is not known what they were told: two commands had one identifier.
    lost: [bool; CONNECTIONS],
    /// What was asked, by place and command identifier. Two with one identifier are not told apart.
    questions: BTreeMap<(usize, u16), Vec<Question>>,
}

/// Runs a script.
pub fn script(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let flags = input.u8();
    let mut world = World::new(Answers::AtEnd);
    let mut model = Model::default();
    let mut cid = 0_u16;
    let mut fresh = true;
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let (step, place) = (input.u8(), input.below(CONNECTIONS));
        match step % 16 {
            0 => {
                let digests = input.u8();
                if digests & 0x80 != 0 {
                    world.set_access(&mut input);
                    continue;
                }
                model.opened(&mut world, digests & 3);
            }
            1 => world.close(place),
            2 => world.pass(u64::from(input.u16()) * 16),
            // A host that says a while nothing.
            3 => world.read(place, input.u8().into()),
            kind => {
                cid = if step & 0x80 != 0 { cid } else { cid % 60 + 1 };
                command(&mut world, &mut model, kind, place, cid, &mut input);
            }
        }
        let heard = step & 0x40 == 0;
        if heard {
            world.read_all();
        }
        model.hear(&mut world, fresh && heard);
        fresh = heard;
        world.audit();
    }
    world.read_all();
    model.hear(&mut world, false);
    model.assert_answered(&mut world);
    world.finish(flags & 1 != 0);
}

fn command(
    world: &mut World,
    model: &mut Model,
    kind: u8,
    place: usize,
    cid: u16,
    input: &mut Input<'_>,
) {
    let mut data = Vec::new();
    let (mut sqe, mut question) = match kind {
        4 | 5 => {
            let (sqe, bytes, question) = connects(model, cid, input);
            data = bytes;
            (sqe, question)
        }
        6 => {
            let offset = input.of(&[
                property::CC,
                property::CAP,
                property::VS,
                property::CSTS,
                property::CRTO,
                0x10,
                u32::MAX,
            ]);
            let wide = input.of(&[Some(false), Some(true), None]);
            let is_cc = offset == property::CC && wide == Some(false);
            let question = if is_cc { Question::GetCc } else { Question::Other };
            (PropertyGet { wide, offset }.emit(cid), question)
        }
        7 => {
            let (offset, wide) =
                (input.of(&[property::CC, property::CC, property::CAP, 0x20]), input.u8());
            let bits = input.u32();
            let value = input.of(&[
                Cc::ENABLED.0,
                Cc::ENABLED.0,
                0,
                Cc::ENABLED.with_shutdown().0,
                Cc::ENABLED.0 ^ bits,
                bits,
            ]);
            let wide = if wide < 240 { Some(false) } else { Some(true) };
            let is_cc = offset == property::CC && wide == Some(false);
            let question = if is_cc { Question::SetCc(value) } else { Question::Other };
            (PropertySet { wide, offset, value: value.into() }.emit(cid), question)
        }
        8 => {
            let (fid, value, nsid) =
                (feature_id(input), input.u32(), input.of(&[0, 0, 1, u32::MAX]));
            let save = input.u8() > 240;
            let sqe = Sqe { nsid, ..SetFeatures { fid, save, value }.emit(cid) };
            (sqe, Question::SetFeature { fid, value })
        }
        9 => {
            let (fid, select, bits) = (feature_id(input), input.u8(), input.u8());
            // Which threshold stands in bits 21:20.
            let value = u32::from(bits & 3) | u32::from(bits >> 6) << 20;
            let mut sqe = GetFeatures { fid, select, value }.emit(cid);
            if fid == feature::HOST_ID {
                sqe.sgl = Sgl::transport(input.of(&[16, 16, 8, 64, 0]));
            }
            (sqe, Question::GetFeature(GetFeatures::parse(&sqe)))
        }
        10 => {
            let mut sqe = Sqe::new(opcode::ABORT, cid, 0);
            sqe.cdw10 = u32::from(input.u8() & 1) | u32::from(input.u8() % 64) << 16;
            (sqe, Question::Other)
        }
        11 => (Sqe::new(opcode::ASYNC_EVENT_REQUEST, cid, 0), Question::Held),
        12 => (Sqe::new(opcode::KEEP_ALIVE, cid, 0), Question::Other),
        13 => {
            let mut sqe = Sqe::new(opcode::FABRICS, cid, fctype::DISCONNECT.into());
            sqe.cdw10 = input.of(&[0, 0, 0, 1]);
            (sqe, Question::Other)
        }
        14 => {
            let sqe = if input.u8() & 1 == 0 {
                let (what, set, nsid) =
                    (input.u8() % 0x20, input.u8() % 3, input.of(&[0, 1, 2, 3, u32::MAX]));
                Identify { csi: set, ..Identify::of(what, nsid) }.emit(cid)
            } else {
                let lid =
                    input.of(&[log_page::DISCOVERY, log_page::HEALTH, log_page::EFFECTS, 0x0c]);
                let bytes = (u64::from(input.u16()) + 1) * 4;
                let offset = u64::from(input.u8()) * 16;
                GetLogPage { bytes, offset, ..GetLogPage::of(lid, 4) }.emit(cid)
            };
            (sqe, Question::Read)
        }
        // Anything.
        _ => {
            let mut sqe = Sqe::parse(&input.array::<64>()).expect("64 bytes are an entry");
            sqe.cid = cid;
            // No data comes along, and what a Connect without data would mean is no question here.
            if sqe.opcode == opcode::FABRICS {
                sqe.nsid = sqe.nsid & !0xff | u32::from(input.u8());
            }
            let set = PropertySet::parse(&sqe);
            let question = match (sqe.opcode, sqe.fctype()) {
                (opcode::SET_FEATURES, _) => {
                    let set = SetFeatures::parse(&sqe);
                    Question::SetFeature { fid: set.fid, value: set.value }
                }
                (opcode::FABRICS, fctype::PROPERTY_SET) if set.offset == property::CC => {
                    Question::SetCc(set.value as u32)
                }
                (opcode::ASYNC_EVENT_REQUEST, _) => Question::Held,
                _ => Question::Other,
            };
            (sqe, question)
        }
    };
    // Now and then something around the fields is wrong.
    let (what, bits) = if input.is_empty() { (0, 0) } else { (input.u8(), input.u8()) };
    match what {
        0xf0..=0xf3 => sqe.flags = bits,
        0xf4..=0xf7 => sqe.sgl.kind = bits,
        0xf8..=0xfb => sqe.sgl.length = u32::from(bits) << 4,
        0xfc..=0xff => {
            data.resize(data.len() + usize::from(bits), 7);
            if bits & 1 != 0 {
                sqe.sgl = Sgl::in_capsule(data.len() as u32);
            }
            if let Question::Connect { good, .. } = &mut question {
                *good = bits == 0;
            }
        }
        _ => {}
    }
    if world.is_open(place) {
        model.questions.entry((place, cid)).or_default().push(question);
        world.ask(place, &sqe, &data);
    }
}

fn feature_id(input: &mut Input<'_>) -> u8 {
    input.of(&[
        feature::QUEUES,
        feature::KEEP_ALIVE,
        feature::ASYNC_EVENTS,
        feature::TEMPERATURE,
        feature::POWER,
        feature::ARBITRATION,
        feature::ERROR_RECOVERY,
        feature::ATOMICITY,
        feature::HOST_ID,
        0xc0,
    ])
}

/// Which of its two values a feature's dword is about.
fn threshold(fid: u8, value: u32) -> u32 {
    if fid == feature::TEMPERATURE { value >> 20 & 3 } else { 0 }
}

/// A Connect, most often a good one.
fn connects(model: &Model, cid: u16, input: &mut Input<'_>) -> (Sqe, Vec<u8>, Question) {
    let (qid, host, hostid) = (u16::from(input.u8() % 4), input.u8() % 4, input.u8() & 1);
    let (subsystem, which, odd, bits) = (input.u8() % 8, input.u8(), input.u8(), input.u8());
    let mut request = Connect { kato_ms: u32::from(odd & 15) * 1000, ..connect(qid, 0) };
    if qid == 0 && odd & 15 == 0 {
        request.kato_ms = u32::from(bits) << 24;
    }
    if odd & 0x10 != 0 {
        request.cattr = bits;
    }
    match odd >> 5 {
        1 => request.sqsize = u16::from(bits) % (2 * DEPTH),
        2 => request.recfmt = bits.into(),
        3 => request.qid = u16::from(bits) << 8,
        _ => {}
    }
    let known = model.controllers.keys().nth(usize::from(which) % (model.controllers.len() + 1));
    let cntlid = match (qid, known) {
        (0, _) if which < 240 => ConnectData::CNTLID_ANY,
        (_, Some(&id)) => id,
        (_, None) => u16::from(which),
    };
    let name = |nqn: &str| put_nqn(nqn).expect("the names in this file are names");
    let mut subnqn = name(match subsystem {
        0 | 1 => DISCOVERY_NQN,
        2 => "nqn.2014-08.org.example:other",
        _ => NQN,
    });
    if subsystem == 3 && bits == 0xff {
        subnqn = [b'n'; 256];
    }
    let hostnqn = match host {
        0..3 => name(HOSTS[usize::from(host)]),
        _ if bits == 1 => name("nqn.2014-08.org.example:stranger"),
        _ => [bits; 256],
    };
    let mut bytes = vec![0; ConnectData::BYTES];
    ConnectData { hostid: [hostid; 16], cntlid, subnqn, hostnqn }.emit(&mut bytes);
    let question = Question::Connect {
        qid: request.qid,
        host,
        hostid,
        discovery: subsystem < 2,
        cntlid,
        good: true,
    };
    (request.emit(cid), bytes, question)
}

impl Model {
    /// One more connection. Nobody who is past Connect goes for it (ADM-1), but those who have yet to authenticate.
    fn opened(&mut self, world: &mut World, digests: u8) {
        world.initialised(0, digests);
        if let Some(place) = world.evicted.take() {
            if let Some((id, _)) = self.queues[place] {
                let known = self.controllers.get(&id);
                let stays = known.is_some_and(|known| !known.must_authenticate());
                assert!(!stays, "ADM-1: {place} went for a newcomer");
            }
            self.gone(place);
        }
    }

    fn gone(&mut self, place: usize) {
        self.questions.retain(|(at, _), _| *at != place);
        self.lost[place] = false;
        if let Some((id, 0)) = self.queues[place].take() {
            self.controllers.remove(&id);
        }
    }

    /// Looks at everything that came to its end. `fresh`: everything before has been heard, so that what happened on several
    /// connections is known in its order.
    fn hear(&mut self, world: &mut World, fresh: bool) {
        let fresh = fresh && !self.lost.contains(&true);
        for place in 0..CONNECTIONS {
            let done = world.host(place).map(|host| std::mem::take(&mut host.done));
            for done in done.unwrap_or_default() {
                let questions = self.questions.remove(&(place, done.cid)).unwrap_or_default();
                match questions.as_slice() {
                    [question] if !self.lost[place] => self.judge(place, question, &done, fresh),
                    _ => self.lost[place] = true,
                }
            }
            if !world.is_open(place) {
                self.gone(place);
            }
        }
        assert!(world.frontend.controllers_open() <= CONTROLLERS.into(), "too many controllers");
    }

    fn judge(&mut self, place: usize, question: &Question, done: &Done, fresh: bool) {
        if done.status != Status::SUCCESS {
            return;
        }
        if let Question::Connect { .. } = question {
            self.connected(place, question, done.result as u16, fresh);
            return;
        }
        let (id, qid) = self.queues[place].expect("a command succeeds before Connect");
        let known = self.controllers.get_mut(&id);
        if known.as_ref().is_some_and(|known| known.must_authenticate()) {
            let is_other = matches!(question, Question::Other);
            assert!(is_other, "AUTH-1: {question:?} succeeds before authentication");
            return;
        }
        match question {
            Question::SetCc(value) => {
                assert!(qid == 0, "a property is set on an I/O queue");
                let Some(known) = known else { return };
                let new = Cc(*value);
                if new.enable() && !known.cc.enable() {
                    let sizes = (new.sq_entry_shift(), new.cq_entry_shift());
                    assert!(sizes == (6, 4), "a controller is enabled with entries of {sizes:?}");
                    assert!(new.command_sets() == 0 && new.page_shift() == 0, "enabled: {new:?}");
                }
                if !new.enable() {
                    known.features.clear();
                }
                known.cc = new;
            }
            Question::GetCc => {
                assert!(qid == 0, "a property is read on an I/O queue");
                let Some(known) = known else { return };
                let (cc, got) = (known.cc, done.result);
                assert!(got == cc.0.into(), "CC is {got:x} after {cc:x?}");
            }
            // On I/O queues these opcodes are other commands.
            _ if qid != 0 => {}
            Question::SetFeature { fid, value } => {
                let Some(known) = known else { return };
                known.assert_enabled();
                let kept = match *fid {
                    feature::KEEP_ALIVE => (*value).min(KATO_MS_MAX),
                    feature::TEMPERATURE => *value & 0xffff,
                    feature::ASYNC_EVENTS if known.discovery => 0,
                    feature::ASYNC_EVENTS => *value & (event_bit::HEALTH | event_bit::ACCESS),
                    _ => return,
                };
                known.features.insert((*fid, threshold(*fid, *value)), kept);
            }
            Question::GetFeature(GetFeatures { fid, select, value }) => {
                let Some(known) = known else { return };
                known.assert_enabled();
                let key = (*fid, threshold(*fid, *value));
                if let (0, Some(&value)) = (*select, known.features.get(&key)) {
                    let got = done.result;
                    assert!(got == value.into(), "feature {fid:#x} is {got:#x} after {value:#x}");
                }
            }
            Question::Read | Question::Held => {
                if let Some(known) = known {
                    known.assert_enabled();
                }
            }
            Question::Connect { .. } | Question::Other => {}
        }
    }

    fn connected(&mut self, place: usize, question: &Question, id: u16, fresh: bool) {
        let &Question::Connect { qid, host, hostid, discovery, cntlid, good } = question else {
            return;
        };
        assert!(good, "a Connect succeeds whose data is not what it should be");
        assert!(self.queues[place].is_none(), "a connection is connected twice");
        assert!(discovery || usize::from(host) < HOSTS.len(), "host {host} is let in");
        if qid == 0 {
            assert!(cntlid == ConnectData::CNTLID_ANY, "controller {cntlid} was asked for");
            assert!(
                !fresh || !self.controllers.contains_key(&id),
                "controller {id} is there twice"
            );
            let cc = Cc::default();
            let known = Known { host, hostid, discovery, cc, features: BTreeMap::new() };
            self.controllers.insert(id, known);
        } else {
            assert!(id == cntlid && !discovery, "an I/O queue of another controller");
            let is_taken = self.queues.contains(&Some((id, qid)));
            assert!(!fresh || !is_taken, "queue {qid} of controller {id} is there twice");
            if let Some(known) = self.controllers.get(&id) {
                assert!(
                    !fresh || (known.host, known.hostid) == (host, hostid) && !known.discovery,
                    "an I/O queue of another host's controller"
                );
                if fresh {
                    known.assert_enabled();
                }
            } else {
                assert!(!fresh, "an I/O queue of a controller that nobody has");
            }
        }
        self.queues[place] = Some((id, qid));
    }

    /// After everything was read, whoever is still there has heard of every command, but of events that did not happen, and of writes
    /// whose data it owes.
    fn assert_answered(&self, world: &mut World) {
        for ((place, cid), questions) in &self.questions {
            let Some(host) = world.host(*place) else { continue };
            let owes = host.r2ts.iter().any(|(r2t, _)| r2t.cccid == *cid);
            if let [question] = questions.as_slice()
                && !matches!(question, Question::Held)
            {
                assert!(owes, "command {cid} on {place}, {question:?}, never ends");
            }
        }
    }
}

impl Known {
    /// Discovery is for everybody.
    fn must_authenticate(&self) -> bool {
        usize::from(self.host) == AUTH_HOST && !self.discovery
    }
    fn assert_enabled(&self) {
        assert!(self.cc.enable(), "a controller serves that is not enabled: {self:?}");
    }
}
