//! What the clients' commands ask of the source: see `writes`, `reads`, `compare` and `fused`.

use super::Core;
use crate::clients::{Clients, Serve};
use ibid_driver::Disk;
use ibid_engine::frontend::{CommandId, ConnId, Event};
use ibid_units::Nanos;
use ibid_wire::disk::EntryKind;
use ibid_wire::nvme_tcp::Status;

/// No place in a table.
pub(super) const NONE: u32 = u32::MAX;

/// The command's place in tables beside the frontend.
#[derive(Clone, Copy, Debug)]
pub(super) struct CommandTable {
    pub(super) write: u32,
    pub(super) read: u32,
}

impl Default for CommandTable {
    fn default() -> Self {
        Self { write: NONE, read: NONE }
    }
}

impl<D: Disk> Serve for Core<D> {
    fn clients(&mut self) -> &mut Clients {
        &mut self.clients
    }

    fn takes_clients(&self) -> bool {
        self.stopping.is_none()
    }

    fn client_event(&mut self, now: Nanos, event: Event) {
        match event {
            Event::Write { cmd, volume, first, sectors, fua: _, fused } => {
                self.write_came(now, cmd, EntryKind::Write, (volume, first, sectors), fused);
            }
            Event::Compare { cmd, volume, first, sectors, inline, fused } => {
                self.compare_came(now, cmd, (volume, first, sectors), inline, fused);
            }
            Event::Verify { cmd, volume, first, sectors } => {
                self.verify_came(now, cmd, volume, first, sectors);
            }
            Event::Zeroes { cmd, volume, first, sectors, deallocate } => {
                let kind = if deallocate { EntryKind::Deallocate } else { EntryKind::Zeroes };
                self.write_came(now, cmd, kind, (volume, first, sectors), None);
            }
            Event::Arrived { cmd, span, digest, last } => {
                self.arrived(now, cmd, span, digest, last)
            }
            Event::Read { cmd, volume, first, sectors } => {
                self.read_came(now, cmd, volume, first, sectors)
            }
            // Nothing is volatile: whatever was completed is durable on both nodes already.
            Event::Flush { cmd, .. } => self.complete(cmd, Status::SUCCESS),
            Event::Released { cmd } => self.released(now, cmd),
            Event::Abandoned { cmd } => self.abandoned(now, cmd),
            Event::Attend { .. } | Event::Authenticate { .. } => {
                unreachable!("the room of clients keeps it")
            }
        }
    }
}

impl<D: Disk> Core<D> {
    /// No write of a client is on its way into the log.
    pub(super) fn frontend_is_quiet(&self) -> bool {
        self.waiting_writes.is_empty()
            && self.large.is_quiet()
            && self.late.is_empty()
            && self.fused.is_empty()
    }

    pub(super) fn table(&mut self, cmd: CommandId) -> &mut CommandTable {
        &mut self.command_table[cmd.conn().index() * self.queue_depth + cmd.slot()]
    }

    pub(super) fn attend(&mut self, conn: ConnId) {
        self.clients.attend(conn);
    }

    pub(super) fn complete(&mut self, cmd: CommandId, status: Status) {
        self.clients.complete(cmd, status);
    }

    fn abandoned(&mut self, now: Nanos, cmd: CommandId) {
        let CommandTable { write, read } = *self.table(cmd);
        let mut place = write;
        while place != NONE {
            let next = self.writes.get(place).next;
            self.abandon_write(now, cmd, place);
            place = next;
        }
        if read != NONE {
            self.abandon_read(now, cmd, read);
        }
    }
}
