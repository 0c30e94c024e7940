//! Asymmetric namespace access (ANA, Base 8.1): for which namespaces this node is a path now, and how hosts hear of a change.
//! Each namespace is a group of its own, with its number: a volume moves by itself.
//!
//! ANA-1  the shard is told of a command only while its namespace is accessible here; one that is not ends with its state's status.
//!
//! Not here: who decides. That is the shard, by [`Frontend::set_access`].

use super::Frontend;
use super::config::NamespaceConfig;
use super::events::Notice;
use alloc::{vec, vec::Vec};
use ibid_units::{Nanos, VolumeId};
use ibid_wire::nvme_tcp::{AnaGroup, AnaHeader, AnaState, Status};

/// ANACAP: every state can be told; no namespace changes its group while it is attached.
pub(super) const ANACAP: u8 = AnaState::Optimized.capability()
    | AnaState::NonOptimized.capability()
    | AnaState::Inaccessible.capability()
    | AnaState::PersistentLoss.capability()
    | AnaState::Change.capability()
    | 1 << 6;
/// ANATT: nobody who uses "change" stays in it for longer. Linux resets a controller that does.
pub(super) const TRANSITION_S: u8 = 10;

/// The state of every namespace, by its place in the configuration.
pub(super) struct Access {
    groups: Vec<Group>,
    /// Grows when the log changes.
    changes: u64,
}

#[derive(Clone, Copy)]
struct Group {
    state: AnaState,
    changes: u64,
}

impl Access {
    pub(super) fn new(namespaces: usize, state: AnaState) -> Self {
        Self { groups: vec![Group { state, changes: 0 }; namespaces], changes: 0 }
    }
}

/// What an I/O command ends with in this state (C35); `None`: it is served. Every host may try again, here or on another path.
const fn refusal(state: AnaState) -> Option<Status> {
    match state {
        AnaState::Optimized | AnaState::NonOptimized => None,
        AnaState::Inaccessible => Some(Status::ANA_INACCESSIBLE),
        AnaState::PersistentLoss => Some(Status::ANA_PERSISTENT_LOSS),
        AnaState::Change => Some(Status::ANA_TRANSITION),
    }
}

impl Frontend {
    fn place(&self, volume: VolumeId) -> Option<usize> {
        self.config.namespaces.iter().position(|namespace| namespace.volume == volume)
    }

    /// How hosts may reach a volume here now; `None` if it is not served at all.
    pub fn access(&self, volume: VolumeId) -> Option<AnaState> {
        self.place(volume).map(|place| self.access.groups[place].state)
    }

    /// Changes how hosts may reach a volume here. Commands that come from now on are judged by it, and every controller is told;
    /// those the shard has already are its own to end.
    ///
    /// # Panics
    /// If the volume is not served.
    pub fn set_access(&mut self, now: Nanos, volume: VolumeId, state: AnaState) {
        self.now = now;
        let place = self.place(volume).expect("a volume that is served");
        let group = &mut self.access.groups[place];
        if group.state == state {
            return;
        }
        group.state = state;
        group.changes += 1;
        self.access.changes += 1;
        for k in 0..self.controllers.len() {
            self.notice(k, Notice::Access);
        }
    }

    /// What commands to a volume end with here, if they do.
    pub(super) fn access_refusal(&self, volume: VolumeId) -> Option<Status> {
        match self.access(volume) {
            Some(state) => refusal(state),
            None => Some(Status::INVALID_NAMESPACE),
        }
    }

    /// Bytes of the ANA log.
    pub(super) fn access_log_bytes(&self, specific: u8) -> usize {
        let ids = if specific & AnaHeader::GROUPS_ONLY == 0 { size_of::<u32>() } else { 0 };
        AnaHeader::BYTES + self.access.groups.len() * (AnaGroup::BYTES + ids)
    }

    /// Renders the ANA log into `scratch`, groups in ascending order; gives its length.
    pub(super) fn render_access(&mut self, specific: u8) -> usize {
        let namespaces = &self.config.namespaces;
        let count = namespaces.len();
        let out = &mut self.scratch[..];
        AnaHeader { changes: self.access.changes, groups: count as u16 }.emit(out);
        let mut at = AnaHeader::BYTES;
        // Each time the one with the smallest number above the one before, whatever order they are configured in.
        let above = |floor: u32| {
            (0..count)
                .filter(|&place| namespaces[place].id() > floor)
                .min_by_key(|&place| namespaces[place].id())
        };
        let mut next = above(0);
        while let Some(place) = next {
            let id = NamespaceConfig::id(&namespaces[place]);
            let Group { state, changes } = self.access.groups[place];
            let named = specific & AnaHeader::GROUPS_ONLY == 0;
            AnaGroup { group: id, namespaces: u32::from(named), changes, state: state as u8 }
                .emit(&mut out[at..]);
            at += AnaGroup::BYTES;
            if named {
                out[at..at + size_of::<u32>()].copy_from_slice(&id.to_le_bytes());
                at += size_of::<u32>();
            }
            next = above(id);
        }
        at
    }
}
