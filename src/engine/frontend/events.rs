//! Asynchronous events (Base 5.2): a host leaves requests that are answered when there is something to tell. An event that was told is
//! not told again until its log page was read; what happens meanwhile stands in the page.
//!
//! ANA-2  a change of access is told to every controller that wants to know, or stands in the page that an event already told sends it to.

use super::connection::{Phase, State};
use super::{ConnId, Event, Frontend};
use ibid_wire::nvme_tcp::{AsyncEvent, ControllerKind, HealthLog, Status, event_bit};

/// Asynchronous event requests that are held; AERL says one less.
pub(super) const AER_MAX: usize = 4;
/// Notices that I/O controllers give: OAES.
pub(super) const NOTICES: u32 = event_bit::ACCESS;
/// What the feature has before a host sets it.
pub(super) const ENABLED_AT_FIRST: u32 = NOTICES;
/// Events that a host may want. Others are taken for "no": there is nothing of the kind here.
pub(super) const WANTABLE: u32 = NOTICES | event_bit::HEALTH;

/// What a controller can tell its host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Notice {
    /// The ANA state of a namespace has changed.
    Access,
    /// The temperature is past a threshold.
    Temperature,
}

impl Notice {
    const ALL: [Self; 2] = [Self::Access, Self::Temperature];

    const fn bit(self) -> u8 {
        1 << self as u8
    }
    const fn event(self) -> AsyncEvent {
        match self {
            Self::Access => AsyncEvent::ACCESS,
            Self::Temperature => AsyncEvent::TEMPERATURE,
        }
    }
    /// Its bit in the feature that enables it.
    const fn enabled_by(self) -> u32 {
        match self {
            Self::Access => event_bit::ACCESS,
            Self::Temperature => HealthLog::TEMPERATURE as u32,
        }
    }
}

/// What a controller has to tell, and what it has told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Events {
    /// To be told with the next request.
    pending: u8,
    /// Told, and the page not read since.
    masked: u8,
}

impl Frontend {
    /// Holds a request until there is an event.
    pub(super) fn hold_request(&mut self, c: usize, slot: u16, k: usize) -> Result<(), Status> {
        let connection = &mut self.connections[c];
        let held = connection.slots.iter().filter(|slot| slot.phase == Phase::Held).count();
        if held >= AER_MAX {
            return Err(Status::AER_LIMIT_EXCEEDED);
        }
        connection.slots[usize::from(slot)].phase = Phase::Held;
        self.tell_events(k);
        Ok(())
    }

    /// Something happened that a controller's host may want to hear.
    pub(super) fn notice(&mut self, k: usize, notice: Notice) {
        let controller = &mut self.controllers[k];
        let wants = controller.id != 0
            && controller.kind == ControllerKind::Io
            && controller.serves()
            && controller.async_events & notice.enabled_by() != 0
            && controller.events.masked & notice.bit() == 0;
        if wants {
            controller.events.pending |= notice.bit();
            self.tell_events(k);
        }
    }

    /// Answers held requests with what is to be told, one event each.
    fn tell_events(&mut self, k: usize) {
        let c = usize::from(self.controllers[k].admin);
        for notice in Notice::ALL {
            if self.controllers[k].events.pending & notice.bit() == 0 {
                continue;
            }
            let connection = &self.connections[c];
            let held = connection.slots.iter().position(|slot| slot.phase == Phase::Held);
            let (Some(slot), State::Connected) = (held, connection.state) else {
                return;
            };
            let events = &mut self.controllers[k].events;
            events.pending &= !notice.bit();
            events.masked |= notice.bit();
            self.respond(c, slot as u16, Status::SUCCESS, notice.event().emit().into());
            self.push(Event::Attend { conn: ConnId(c as u16) });
        }
    }

    /// A log page is read: what it tells of need not be told any more, and may be told anew.
    pub(super) fn clear_events(&mut self, k: usize, lid: u8) {
        let events = &mut self.controllers[k].events;
        for notice in Notice::ALL.into_iter().filter(|notice| notice.event().page == lid) {
            events.pending &= !notice.bit();
            events.masked &= !notice.bit();
        }
    }

    /// A controller was reset: requests are gone without an answer (Base 3.7.2), and nothing is to be told.
    pub(super) fn forget_events(&mut self, k: usize) {
        self.controllers[k].events = Events::default();
        let connection = &mut self.connections[usize::from(self.controllers[k].admin)];
        for slot in 0..connection.slots.len() as u16 {
            if connection.slots[usize::from(slot)].phase == Phase::Held {
                connection.free_slot(slot);
            }
        }
    }
}
