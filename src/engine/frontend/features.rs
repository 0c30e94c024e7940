//! Features: what a host can set and ask (Base 5.15, 5.27). Nothing is kept over a reset, so nothing can be saved; nothing is set per
//! namespace.

use super::Frontend;
use super::command::{Verdict, no_data};
use super::connection::Page;
use super::controller::Controller;
use super::deadline::KATO_MS_MAX;
use super::events::{ENABLED_AT_FIRST, Notice, WANTABLE};
use ibid_wire::nvme_tcp::{
    ControllerKind, GetFeatures, HOST_BEHAVIOR_BYTES, HealthLog, IS_SUPPORTED, SCOPE_CONTROLLER,
    SUPPORTED_BYTES, SetFeatures, Sqe, Status, feature,
};

/// 27 °C in kelvin; there is no sensor, and 0 K would trip host thresholds the other way.
pub(super) const TEMPERATURE_K: u16 = 300;
/// Over and under: until a host says otherwise, 70 °C and nothing.
pub(super) const THRESHOLDS_K: [u16; 2] = [343, 0];
/// Get Features, capabilities: the feature can be changed. (Bit 0, saved, and bit 1, per namespace, are never set.)
const CHANGEABLE: u32 = 1 << 2;
/// Where Host Behavior Support says ACRE: the host knows what a command retry delay is.
pub(super) const ACRE_AT: usize = 0;
/// After so long a command that was interrupted should be tried again, in 100 ms (CRDT1): it has waited for `peer.stall_timeout` already.
pub(super) const RETRY_DELAY_100MS: u16 = 10;
/// That is delay 1.
const RETRY_DELAY: u8 = 1;
/// Keep-alive timeout in milliseconds, as a controller that was told none would have it.
const KATO_MS_AT_FIRST: u32 = 0;
/// Values of Select.
const CURRENT: u8 = 0;
const CAPABILITIES: u8 = 3;

/// A feature that is there.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Feature {
    changeable: bool,
}

/// What I/O controllers have, and of that what discovery controllers have too.
fn find(kind: ControllerKind, fid: u8) -> Option<Feature> {
    let everywhere = matches!(fid, feature::KEEP_ALIVE | feature::ASYNC_EVENTS);
    if kind == ControllerKind::Discovery && !everywhere && fid != feature::HOST_ID {
        return None;
    }
    let changeable = match fid {
        feature::QUEUES | feature::TEMPERATURE | feature::POWER | feature::HOST_BEHAVIOR => true,
        feature::KEEP_ALIVE | feature::ASYNC_EVENTS => true,
        feature::ARBITRATION | feature::ERROR_RECOVERY | feature::ATOMICITY | feature::HOST_ID => {
            false
        }
        _ => return None,
    };
    Some(Feature { changeable })
}

/// Which threshold a temperature feature is about (Base 5.27.1.3): over 0, under 1. There is one sensor, the composite one, which "all"
/// names too where something is set.
fn threshold(value: u32, sets: bool) -> Result<usize, Status> {
    let (sensor, over_or_under) = (value >> 16 & 15, value >> 20 & 3);
    if sensor != 0 && !(sets && sensor == 15) {
        return Err(Status::INVALID_FIELD);
    }
    match over_or_under {
        0 => Ok(0),
        1 => Ok(1),
        _ => Err(Status::INVALID_FIELD),
    }
}

impl Controller {
    /// The temperature is at or past a threshold.
    pub(super) const fn is_warm_or_cold(&self) -> bool {
        TEMPERATURE_K >= self.thresholds[0] || TEMPERATURE_K <= self.thresholds[1]
    }
    /// Critical warnings of the health log.
    pub(super) const fn critical(&self) -> u8 {
        if self.is_warm_or_cold() { HealthLog::TEMPERATURE } else { 0 }
    }
}

impl Frontend {
    pub(super) fn judge_set_features(
        &mut self,
        k: usize,
        sqe: &Sqe,
        data: u32,
    ) -> Result<Verdict, Status> {
        let set = SetFeatures::parse(sqe);
        let kind = self.controllers[k].kind;
        let found = find(kind, set.fid).ok_or(Status::INVALID_FIELD)?;
        if set.save {
            return Err(Status::FEATURE_NOT_SAVEABLE);
        }
        if !found.changeable {
            return Err(Status::FEATURE_NOT_CHANGEABLE);
        }
        // 0 and "all" mean the controller (Base 5.27).
        if sqe.nsid != 0 && sqe.nsid != u32::MAX {
            return Err(Status::FEATURE_NOT_PER_NAMESPACE);
        }
        if set.fid == feature::HOST_BEHAVIOR {
            return if self.inbound(sqe, data, HOST_BEHAVIOR_BYTES as u64)? {
                Ok(Verdict::AwaitData)
            } else {
                Err(Status::SGL_TYPE_INVALID)
            };
        }
        no_data(data)?;
        self.set_feature(k, set).map(|result| Verdict::End(Status::SUCCESS, result))
    }

    /// Host Behavior Support (Base 5.27.1.18), its data in `small`: of what a host may be able to do only one thing matters here.
    pub(super) fn set_host_behavior(&mut self, c: usize, slot: u16) {
        let retries_later = self.connections[c].small[ACRE_AT];
        let controller = self.connections[c].controller;
        let status = match (controller, retries_later) {
            (Some(k), 0 | 1) => {
                self.controllers[usize::from(k)].retries_later = retries_later == 1;
                Status::SUCCESS
            }
            _ => Status::INVALID_FIELD,
        };
        self.respond(c, slot, status, 0);
    }

    /// A status with the time after which the command should be tried again, where its host has said that it can do that (ACRE).
    pub(super) fn with_delay(&self, c: usize, status: Status) -> Status {
        let retries_later = self.connections[c]
            .controller
            .is_some_and(|k| self.controllers[usize::from(k)].retries_later);
        if retries_later && status == Status::COMMAND_INTERRUPTED {
            status.with_delay(RETRY_DELAY)
        } else {
            status
        }
    }

    fn set_feature(&mut self, k: usize, set: SetFeatures) -> Result<u64, Status> {
        let kind = self.controllers[k].kind;
        let queues_max = self.config.limits.io_queues_max;
        let has_queues = self.has_io_queues(k);
        let controller = &mut self.controllers[k];
        let mut result = 0;
        match set.fid {
            feature::QUEUES => {
                // Submission and completion queues come in pairs, both 0-based; FFFFh is reserved (Base 5.27.1.5).
                let (submission, completion) = (set.value as u16, (set.value >> 16) as u16);
                if submission == u16::MAX || completion == u16::MAX {
                    return Err(Status::INVALID_FIELD);
                }
                // Asked for before the first queue, or not any more.
                if has_queues {
                    return Err(Status::SEQUENCE_ERROR);
                }
                let granted = (submission.min(completion) + 1).min(queues_max);
                controller.queues = granted;
                result = u64::from(granted - 1) | u64::from(granted - 1) << 16;
            }
            feature::KEEP_ALIVE => {
                if set.value == 0 {
                    return Err(Status::KEEP_ALIVE_INVALID);
                }
                controller.kato_ms = set.value.min(KATO_MS_MAX);
                self.restart_keep_alive(k);
            }
            feature::ASYNC_EVENTS => {
                let wantable = if kind == ControllerKind::Io { WANTABLE } else { 0 };
                controller.async_events = set.value & wantable;
                self.check_temperature(k);
            }
            feature::TEMPERATURE => {
                controller.thresholds[threshold(set.value, true)?] = set.value as u16;
                self.check_temperature(k);
            }
            // The one power state there is.
            feature::POWER if set.value & 0x1f == 0 => {}
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(result)
    }

    /// A controller was reset: features are what they were at first (Base 3.7.2).
    pub(super) fn forget_features(&mut self, k: usize) {
        let controller = &mut self.controllers[k];
        let is_io = controller.kind == ControllerKind::Io;
        controller.async_events = if is_io { ENABLED_AT_FIRST } else { 0 };
        controller.thresholds = THRESHOLDS_K;
        controller.retries_later = false;
    }

    fn has_io_queues(&self, k: usize) -> bool {
        // One that still authenticates may be anybody's (ADM-3).
        self.connections.iter().any(|connection| {
            connection.qid != 0
                && connection.controller == Some(k as u16)
                && connection.auth.is_open()
        })
    }

    fn check_temperature(&mut self, k: usize) {
        if self.controllers[k].is_warm_or_cold() {
            self.notice(k, Notice::Temperature);
        }
    }

    pub(super) fn get_feature(
        &mut self,
        c: usize,
        slot: u16,
        k: usize,
        sqe: &Sqe,
        data: u32,
    ) -> Result<Verdict, Status> {
        let GetFeatures { fid, select, value } = GetFeatures::parse(sqe);
        let controller = &self.controllers[k];
        let kind = controller.kind;
        let found = find(kind, fid).ok_or(Status::INVALID_FIELD)?;
        if select > CAPABILITIES {
            return Err(Status::INVALID_FIELD);
        }
        let is_current = select == CURRENT;
        let queues = |count: u16| u32::from(count - 1) | u32::from(count - 1) << 16;
        let value = match fid {
            _ if select == CAPABILITIES && found.changeable => CHANGEABLE,
            _ if select == CAPABILITIES => 0,
            // Over fabrics always the 128-bit form (EXHID, Base 5.27.1.23).
            feature::HOST_ID if value & 1 == 0 => return Err(Status::INVALID_FIELD),
            feature::HOST_ID => {
                self.outbound(sqe, data, 16)?;
                return self.reply(c, slot, Page::HostId, 0, 16);
            }
            feature::HOST_BEHAVIOR => {
                let bytes = HOST_BEHAVIOR_BYTES as u32;
                self.outbound(sqe, data, bytes.into())?;
                let page = Page::HostBehavior { current: is_current };
                return self.reply(c, slot, page, 0, bytes);
            }
            feature::TEMPERATURE => {
                let which = threshold(value, false)?;
                let thresholds = if is_current { controller.thresholds } else { THRESHOLDS_K };
                thresholds[which].into()
            }
            // What was saved is what it is at first: nothing was (Base 5.15).
            feature::QUEUES if is_current => queues(controller.queues),
            feature::QUEUES => queues(self.config.limits.io_queues_max),
            feature::KEEP_ALIVE if is_current => controller.kato_ms,
            feature::KEEP_ALIVE => KATO_MS_AT_FIRST,
            feature::ASYNC_EVENTS if is_current => controller.async_events,
            feature::ASYNC_EVENTS if kind == ControllerKind::Io => ENABLED_AT_FIRST,
            _ => 0,
        };
        no_data(data)?;
        Ok(Verdict::End(Status::SUCCESS, value.into()))
    }

    /// Renders the features supported and their effects (LID 12h) into `scratch`, which is zero; gives its length.
    pub(super) fn render_features(&mut self, k: usize) -> usize {
        let kind = self.controllers[k].kind;
        for (fid, place) in (0..=u8::MAX).zip(self.scratch.chunks_exact_mut(size_of::<u32>())) {
            if find(kind, fid).is_some() {
                place.copy_from_slice(&(IS_SUPPORTED | SCOPE_CONTROLLER).to_le_bytes());
            }
        }
        SUPPORTED_BYTES
    }
}
