//! A port for tests of ports around others: shows to itself what it was given.

use crate::{Arena, Class, Port, PortBusy, PortCounters, Seal};
use ibid_units::Span;
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

pub(crate) const BYTES_MAX: usize = 1000;

/// Sends to itself. Full where `room` is used up.
pub(crate) struct Loop {
    arena: Arc<Arena>,
    pub(crate) waiting: VecDeque<Vec<u8>>,
    pub(crate) room: Rc<Cell<usize>>,
    sent: u64,
}

impl Loop {
    pub(crate) fn new(arena: Arc<Arena>) -> Loop {
        let room = Rc::new(Cell::new(usize::MAX));
        Loop { arena, waiting: VecDeque::new(), room, sent: 0 }
    }
}

impl Port for Loop {
    fn datagram_bytes_max(&self) -> usize {
        BYTES_MAX
    }
    fn overhead_bytes(&self) -> usize {
        42
    }
    fn send(
        &mut self,
        _: Class,
        head: &[u8],
        spans: &[Span],
        seal: Option<Seal<'_>>,
    ) -> Result<(), PortBusy> {
        let Some(left) = self.room.get().checked_sub(1) else { return Err(PortBusy) };
        self.room.set(left);
        let mut datagram = head.to_vec();
        for span in spans {
            datagram.extend_from_slice(&self.arena.bytes(*span));
        }
        if let Some(seal) = seal {
            seal(&mut datagram);
        }
        self.waiting.push_back(datagram);
        self.sent += 1;
        Ok(())
    }
    fn flush(&mut self) {}
    fn receive(&mut self, frames_max: usize, sink: &mut dyn FnMut(&mut [u8])) -> usize {
        let count = frames_max.min(self.waiting.len());
        for mut datagram in self.waiting.drain(..count) {
            sink(&mut datagram);
        }
        count
    }
    fn counters(&self) -> PortCounters {
        PortCounters { tx_frames: self.sent, ..PortCounters::default() }
    }
}
