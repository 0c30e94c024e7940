//! Fabrics commands: Connect with everything that can be wrong with it, properties, Disconnect.

use super::Frontend;
use super::command::{Verdict, no_data};
use super::config::TargetConfig;
use super::connection::State;
use super::controller::Controller;
use super::deadline::{DISCOVERY_KATO_MS, KATO_MS_MAX};
use super::events::ENABLED_AT_FIRST;
use ibid_units::Nanos;
use ibid_wire::nvme_tcp::{
    CONNECT_AUTH_REQUIRED, Cap, Cc, Connect, ConnectData, ConnectRefusal, ControllerKind, Csts,
    DISCOVERY_NQN, PropertyGet, PropertySet, Sqe, Status, fctype, nqn_of, opcode, property,
    put_nqn,
};

/// NVMe 2.0.0 (Base 3.1.3.2).
pub(super) const VERSION: u32 = 2 << 16;
/// Longest time to become ready, in half seconds. We are ready at once; 0 would be read as "no time".
const READY_TIMEOUT_500MS: u8 = 2;

const fn in_command(ipo: u16) -> (Status, u64) {
    (Status::CONNECT_INVALID_PARAMETERS, ConnectRefusal { ipo, in_data: false }.emit())
}
const fn in_data(ipo: u16) -> (Status, u64) {
    (Status::CONNECT_INVALID_PARAMETERS, ConnectRefusal { ipo, in_data: true }.emit())
}

impl TargetConfig {
    fn admits(&self, host: &str) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|allowed| allowed == host))
    }
}

impl Frontend {
    /// Before Connect nothing else is taken (C1).
    pub(super) fn judge_unconnected(&self, sqe: &Sqe, data: u32) -> Result<Verdict, Status> {
        if sqe.opcode != opcode::FABRICS || sqe.fctype() != fctype::CONNECT {
            return Err(Status::SEQUENCE_ERROR);
        }
        // Connect data must be accepted in the capsule (TCP 3.3.2.2); no host sends it in another way.
        if self.inbound(sqe, data, ConnectData::BYTES as u64)? {
            Ok(Verdict::AwaitData)
        } else {
            Err(Status::SGL_TYPE_INVALID)
        }
    }

    pub(super) fn judge_fabrics(
        &mut self,
        c: usize,
        slot: u16,
        k: usize,
        sqe: &Sqe,
        data: u32,
    ) -> Result<Verdict, Status> {
        let is_admin = self.connections[c].qid == 0;
        match sqe.fctype() {
            fctype::AUTH_SEND | fctype::AUTH_RECEIVE
                if self.connections[c].auth.authenticates() =>
            {
                return self.judge_auth(c, slot, sqe, data);
            }
            fctype::CONNECT | fctype::AUTH_SEND | fctype::AUTH_RECEIVE => {
                return Err(Status::SEQUENCE_ERROR);
            }
            _ => {}
        }
        no_data(data)?;
        match (sqe.fctype(), is_admin) {
            (fctype::PROPERTY_GET, true) => {
                let value = self.property(k, PropertyGet::parse(sqe))?;
                Ok(Verdict::End(Status::SUCCESS, value))
            }
            (fctype::PROPERTY_SET, true) => {
                self.set_property(k, PropertySet::parse(sqe))?;
                Ok(Verdict::End(Status::SUCCESS, 0))
            }
            (fctype::DISCONNECT, false) => {
                if sqe.cdw10 as u16 != 0 {
                    return Err(Status::CONNECT_INCOMPATIBLE_FORMAT);
                }
                // The response still goes out, and what was queued before it.
                self.connections[c].leaves = true;
                self.set_leave_deadline(c);
                Ok(Verdict::End(Status::SUCCESS, 0))
            }
            (fctype::PROPERTY_GET | fctype::PROPERTY_SET | fctype::DISCONNECT, _) => {
                Err(Status::INVALID_FIELD)
            }
            _ => Err(Status::INVALID_OPCODE),
        }
    }

    /// Connect, its data in `small`: the status and the result of its completion.
    pub(super) fn connect(&mut self, c: usize, sqe: &Sqe) -> (Status, u64) {
        let request = Connect::parse(sqe);
        let data =
            ConnectData::parse(&self.connections[c].small).expect("Connect data is complete");
        match self.try_connect(c, &request, &data) {
            Ok(result) => (Status::SUCCESS, result),
            Err(refusal) => refusal,
        }
    }

    fn try_connect(
        &mut self,
        c: usize,
        request: &Connect,
        data: &ConnectData,
    ) -> Result<u64, (Status, u64)> {
        if request.recfmt != 0 {
            return Err((Status::CONNECT_INCOMPATIBLE_FORMAT, 0));
        }
        let subsystem = nqn_of(&data.subnqn).ok_or(in_data(ConnectData::SUBNQN_AT))?;
        let host = match nqn_of(&data.hostnqn) {
            Some(name) => name,
            // Some hosts (SPDK's perf) give no name unless told to; where any host may connect, that one may, too.
            None if data.hostnqn == [0; 256] => "",
            None => return Err(in_data(ConnectData::HOSTNQN_AT)),
        };
        let kind = match subsystem {
            DISCOVERY_NQN => ControllerKind::Discovery,
            name if name == self.config.nqn => ControllerKind::Io,
            _ => return Err(in_data(ConnectData::SUBNQN_AT)),
        };
        // The discovery log names only what is there for everybody; who may use it is asked at the subsystem.
        if kind == ControllerKind::Io && !self.config.admits(host) {
            return Err((Status::CONNECT_INVALID_HOST, 0));
        }
        if request.sqsize == 0 || request.sqsize >= self.config.limits.queue_depth_max {
            return Err(in_command(Connect::SQSIZE_AT));
        }
        // Behind the NUL stands nothing: one name is one host, with one share.
        let hostnqn = put_nqn(host).unwrap_or([0; 256]);
        let data = ConnectData { hostnqn, ..*data };
        let k = if request.qid == 0 {
            self.connect_admin(c, kind, request, &data)?
        } else {
            self.connect_io(kind, request, &data)?
        };
        let place = self.controllers[k].host;
        if kind == ControllerKind::Io {
            self.hosts[usize::from(place)].connections += 1;
        }
        let connection = &mut self.connections[c];
        connection.state = State::Connected;
        connection.controller = Some(k as u16);
        connection.host = place;
        connection.qid = request.qid;
        connection.entries = request.sqsize + 1;
        connection.flow_control = request.cattr & Connect::NO_FLOW_CONTROL == 0;
        connection.sq_head = if connection.flow_control { 0 } else { 0xffff };
        connection.step_deadline = Nanos::NEVER;
        let id = u64::from(self.controllers[k].id);
        match self.auth_host(host).filter(|_| kind == ControllerKind::Io) {
            // Every queue by itself: what binds an I/O queue to its controller without that, names and numbers, anyone can read.
            Some(host) => {
                self.begin_auth(c, host);
                Ok(id | CONNECT_AUTH_REQUIRED)
            }
            None => {
                self.restart_keep_alive(k);
                self.places.settle(c);
                Ok(id)
            }
        }
    }

    fn connect_admin(
        &mut self,
        c: usize,
        kind: ControllerKind,
        request: &Connect,
        data: &ConnectData,
    ) -> Result<usize, (Status, u64)> {
        if data.cntlid != ConnectData::CNTLID_ANY {
            return Err(in_data(ConnectData::CNTLID_AT));
        }
        let kato_ms = match (request.kato_ms, kind) {
            // TCP demands a keep-alive (C12); a short discovery does without.
            (0, ControllerKind::Io) => return Err((Status::KEEP_ALIVE_INVALID, 0)),
            (0, ControllerKind::Discovery) => DISCOVERY_KATO_MS,
            (ms, _) => ms.min(KATO_MS_MAX),
        };
        if !self.make_room(kind, &data.hostnqn) {
            return Err((Status::CONNECT_BUSY, 0));
        }
        let (k, id) = self.take_controller().ok_or((Status::CONNECT_BUSY, 0))?;
        let host = self.host_place(&data.hostnqn);
        self.hosts[host].nqn = data.hostnqn;
        self.hosts[host].controllers += 1;
        self.controllers[k] = Controller {
            id,
            kind,
            since: self.now,
            hostnqn: data.hostnqn,
            hostid: data.hostid,
            host: host as u16,
            admin: c as u16,
            queues: if kind == ControllerKind::Io { self.config.limits.io_queues_max } else { 0 },
            kato_ms,
            // A discovery controller has no event to tell.
            async_events: if kind == ControllerKind::Io { ENABLED_AT_FIRST } else { 0 },
            ..Controller::default()
        };
        Ok(k)
    }

    fn connect_io(
        &mut self,
        kind: ControllerKind,
        request: &Connect,
        data: &ConnectData,
    ) -> Result<usize, (Status, u64)> {
        let found = self
            .controllers
            .iter()
            .position(|controller| controller.id == data.cntlid && controller.id != 0);
        let k = found.ok_or(in_data(ConnectData::CNTLID_AT))?;
        let controller = &self.controllers[k];
        // The same controller means the same subsystem, host name and host identifier (C9).
        if controller.kind != kind || kind == ControllerKind::Discovery {
            return Err(in_data(ConnectData::SUBNQN_AT));
        }
        if controller.hostnqn != data.hostnqn {
            return Err(in_data(ConnectData::HOSTNQN_AT));
        }
        if controller.hostid != data.hostid {
            return Err(in_data(0));
        }
        if !controller.serves() {
            return Err((Status::SEQUENCE_ERROR, 0));
        }
        if request.qid > controller.queues {
            return Err(in_command(Connect::QID_AT));
        }
        let host = controller.host.into();
        let taken = self
            .connections
            .iter()
            .position(|other| other.controller == Some(k as u16) && other.qid == request.qid);
        match taken {
            // Whoever can't authenticate keeps no queue from its host.
            Some(other) if !self.connections[other].auth.is_open() => self.evict(other),
            Some(_) => return Err((Status::SEQUENCE_ERROR, 0)),
            None => {}
        }
        if self.has_room(host) || self.evict_auth_of(host) {
            Ok(k)
        } else {
            Err((Status::CONNECT_BUSY, 0))
        }
    }

    fn property(&self, k: usize, get: PropertyGet) -> Result<u64, Status> {
        let controller = &self.controllers[k];
        match (get.offset, get.wide) {
            (property::CAP, Some(true)) => Ok(Cap {
                mqes: self.config.limits.queue_depth_max - 1,
                timeout_500ms: READY_TIMEOUT_500MS,
            }
            .emit()),
            (property::VS, Some(false)) => Ok(VERSION.into()),
            (property::CC, Some(false)) => Ok(controller.cc.0.into()),
            (property::CSTS, Some(false)) => Ok(controller.csts.emit().into()),
            (property::CRTO, Some(false)) => Ok(READY_TIMEOUT_500MS.into()),
            _ => Err(Status::INVALID_FIELD),
        }
    }

    /// Only CC can be set (Base 3.1.3.5): enable, reset, shut down.
    fn set_property(&mut self, k: usize, set: PropertySet) -> Result<(), Status> {
        if (set.offset, set.wide) != (property::CC, Some(false)) {
            return Err(Status::INVALID_FIELD);
        }
        let new = Cc(set.value as u32);
        let controller = &mut self.controllers[k];
        let was_enabled = controller.cc.enable();
        if new.enable() && !was_enabled {
            let is_supported = new.command_sets() == 0
                && new.page_shift() == 0
                && new.arbitration() == 0
                && new.sq_entry_shift() == 6
                && new.cq_entry_shift() == 4;
            if !is_supported {
                controller.csts.failed = true;
                return Err(Status::INVALID_FIELD);
            }
            controller.csts = Csts { ready: true, failed: false, shut_down: false };
        }
        controller.cc = new;
        if was_enabled && !new.enable() {
            controller.csts = Csts::default();
            self.forget_features(k);
            self.forget_events(k);
            self.close_io_queues(k);
        }
        if new.shutdown() != 0 {
            // Nothing lies in a volatile cache here: what was completed is durable, so shutdown is complete at once.
            self.controllers[k].csts.shut_down = true;
        }
        Ok(())
    }
}
