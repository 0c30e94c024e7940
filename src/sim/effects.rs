//! Numbers everything that crosses a node's rim, in order, and ends nodes exactly behind one of these effects: what the node does in the
//! rest of that turn reaches nothing.
//! EFF-1  a node that is cut has no further effect: its disk takes nothing, its frames and answers leave nobody.

use crate::trace::names;
use std::cell::RefCell;
use std::rc::Rc;

names! {
    /// What crosses a node's rim.
    Effect, EFFECTS:
    LogWrite = "log write submitted";
    LogWritten = "log write completed";
    LogFlush = "log flush submitted";
    LogFlushed = "log flush completed";
    Superblock = "superblock write submitted";
    SuperblockWritten = "superblock write completed";
    MapWrite = "map write submitted";
    MapWritten = "map write completed";
    LogRead = "log device read submitted";
    LogReadDone = "log device read completed";
    VolumeWrite = "volume write submitted";
    VolumeWritten = "volume write completed";
    VolumeFlush = "volume flush submitted";
    VolumeFlushed = "volume flush completed";
    VolumeRead = "volume read submitted";
    VolumeReadDone = "volume read completed";
    Sent = "frame sent";
    Received = "frame received";
    Answered = "answer to a client";
    Acknowledged = "acknowledgement taken by a client";
}

#[derive(Default)]
struct Inner {
    count: u64,
    kinds: [u64; EFFECTS.len()],
    /// Behind which effect, and who ends there.
    cut: Option<(u64, [bool; 2])>,
    /// What that was.
    last: Option<(usize, Effect)>,
    dead: [bool; 2],
}

/// The count of one world. Shared by everything that a node acts upon.
#[derive(Clone, Default)]
pub struct Effects(Rc<RefCell<Inner>>);

impl Effects {
    /// One more. Those of a node that is cut are none.
    pub fn mark(&self, side: usize, effect: Effect) {
        let inner = &mut *self.0.borrow_mut();
        if inner.dead[side] {
            return;
        }
        inner.count += 1;
        inner.kinds[effect as usize] += 1;
        if let Some((_, victims)) = inner.cut.filter(|(at, _)| *at == inner.count) {
            inner.dead = victims;
            inner.last = Some((side, effect));
            inner.cut = None;
        }
    }

    /// Behind effect `at` these nodes end.
    pub fn cut_after(&self, at: u64, victims: [bool; 2]) {
        let inner = &mut *self.0.borrow_mut();
        assert!(at > inner.count, "an effect that is still to come");
        inner.cut = Some((at, victims));
    }

    /// Nobody ends any more.
    pub fn spare(&self) {
        self.0.borrow_mut().cut = None;
    }

    pub fn is_dead(&self, side: usize) -> bool {
        self.0.borrow().dead[side]
    }

    /// The nodes that were cut and the effect that was their last, once; they may be started again then.
    pub fn take_dead(&self) -> Option<([bool; 2], (usize, Effect))> {
        let inner = &mut *self.0.borrow_mut();
        let last = inner.last.take()?;
        Some((std::mem::take(&mut inner.dead), last))
    }

    pub fn count(&self) -> u64 {
        self.0.borrow().count
    }

    pub fn kinds(&self) -> [u64; EFFECTS.len()] {
        self.0.borrow().kinds
    }
}
