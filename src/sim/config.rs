//! What a simulated pair is made of: sizes, policies, faults; a pair without faults to begin with.

use crate::disk::DiskFaults;
use crate::host::{NQN, QueueConfig};
use crate::net::NetFaults;
use crate::random::Random;
use ibid_engine::frontend::{AnaState, AuthConfig, Limits, NamespaceConfig, TargetConfig};
use ibid_runtime::{
    COMPARE_ASKED_BLOCKS, Layout, LayoutConfig, NodeConfig, PeerLoss, Role, VolumeConfig,
};
use ibid_secure::{Encryption, Limits as KeyLimits, LinkKey, Security};
use ibid_units::{Nanos, VolumeId};

/// Everything that one run depends on.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    pub seed: u64,
    pub segments: u32,
    pub segment_blocks: u32,
    /// (sectors, bytes of a logical block) of each.
    pub volumes: Vec<(u64, u32)>,
    pub to_disk: bool,
    pub full: bool,
    pub mtu: usize,
    pub cp_interval: Nanos,
    pub read_blocks: u32,
    pub staging_blocks: u32,
    /// For data of compares that comes in capsules.
    pub compare_blocks: u32,
    /// The source's memory for late data.
    pub aside_blocks: u32,
    pub net: NetFaults,
    pub disk: DiskFaults,
    /// The node whose devices are the slower ones.
    pub slower: Option<usize>,
    /// Bytes of a client's stream that arrive at once, at most; 0: no bound.
    pub pieces: u64,
    pub queue: QueueConfig,
    pub queues: u16,
    /// The longest that time goes on at once when nobody has anything to do.
    pub idle: Nanos,
    /// What the source does without its peer, and when.
    pub peer_loss: PeerLoss,
    pub peer_timeout: Nanos,
    pub stall_timeout: Nanos,
    /// Blocks that one CP brings of what the peer lacks.
    pub catch_up_blocks: u32,
    /// Runs of blocks that the source's volumes hold before it first runs.
    pub allocated: Vec<(VolumeId, u64, u64)>,
    /// … and the destination's: what it happens to hold, which nobody knows.
    pub allocated_there: Vec<(VolumeId, u64, u64)>,
    /// The longest that a stop in good order waits for the peer.
    pub stop_wait: Nanos,
    /// Chance of a thousand that a node has no turn in a step.
    pub late_turns: u32,
    /// Hosts may connect to the destination too.
    pub standby: bool,
    /// What is done to the link's frames.
    pub encryption: Encryption,
    /// How long its keys are used.
    pub key_limits: KeyLimits,
}

impl WorldConfig {
    /// A pair without faults.
    pub fn calm(seed: u64) -> WorldConfig {
        WorldConfig {
            seed,
            segments: 4,
            segment_blocks: 320,
            volumes: vec![(8192, 512), (4096, 4096)],
            to_disk: true,
            full: false,
            mtu: 9000,
            cp_interval: Nanos::from_millis(50),
            read_blocks: 1100,
            staging_blocks: 64,
            compare_blocks: 64,
            aside_blocks: 2048,
            net: NetFaults::NONE,
            disk: DiskFaults::FAST,
            slower: None,
            pieces: 0,
            queue: QueueConfig {
                host: 0,
                qid: 0,
                cntlid: 0,
                depth: 31,
                header_digest: false,
                data_digest: false,
                flow_control: false,
                withhold: 0,
                withheld: 0,
                patient: false,
            },
            queues: 2,
            idle: Nanos::new(500_000),
            peer_loss: PeerLoss::Stall,
            peer_timeout: Nanos::from_millis(2000),
            stall_timeout: Nanos::from_millis(600_000),
            catch_up_blocks: 32,
            allocated: Vec::new(),
            allocated_there: Vec::new(),
            stop_wait: Nanos::from_millis(60_000),
            late_turns: 250,
            standby: false,
            encryption: Encryption::Full,
            key_limits: KeyLimits::LINK,
        }
    }

    pub fn layout(&self, role: Role) -> Layout {
        Layout::new(LayoutConfig {
            segments: self.segments,
            segment_blocks: self.segment_blocks,
            read_blocks: self.read_blocks,
            staging_blocks: match role {
                Role::Source => self.aside_blocks,
                Role::Destination => self.staging_blocks,
            },
            catch_up_blocks: self.catch_up_blocks,
            answer_blocks: 512,
            compare_blocks: match role {
                Role::Source => COMPARE_ASKED_BLOCKS + self.compare_blocks,
                Role::Destination => 0,
            },
        })
    }

    pub fn node(&self, seed: u64) -> NodeConfig {
        let volume = |(n, (sectors, _)): (usize, &(u64, u32))| VolumeConfig {
            sectors: *sectors,
            uuid: [n as u8 + 1; 16],
        };
        NodeConfig {
            pair: [9; 16],
            segments: self.segments,
            segment_blocks: self.segment_blocks,
            to_disk: self.to_disk,
            volumes: self.volumes.iter().enumerate().map(volume).collect(),
            allocated: Vec::new(),
            seed,
            security: self.security(seed),
        }
    }

    /// The key is the same at every start, chance is not.
    fn security(&self, seed: u64) -> Security {
        let mut random = Random::new(!seed);
        let entropy = [(); 32].map(|()| random.word() as u8);
        let mut security = Security::new(LinkKey::new([7; 32]), entropy, self.encryption);
        security.limits = self.key_limits;
        security
    }

    pub(crate) fn target(&self, side: usize) -> TargetConfig {
        let namespace = |(n, (sectors, lba_bytes)): (usize, &(u64, u32))| NamespaceConfig {
            volume: VolumeId::new(n as u16),
            capacity: *sectors,
            lba_bytes: *lba_bytes,
            uuid: [n as u8 + 1; 16],
            nguid: [n as u8 + 1; 16],
        };
        TargetConfig {
            nqn: NQN.to_string(),
            serial: "1".to_string(),
            model: "ibid".to_string(),
            firmware: "1".to_string(),
            namespaces: self.volumes.iter().enumerate().map(namespace).collect(),
            access: AnaState::Optimized,
            limits: Limits {
                connections_max: 8,
                connections_per_address: 8,
                connections_per_host: 8,
                controllers_max: 4,
                io_queues_max: 4,
                queue_depth_max: 64,
                transfer_bytes_max: 1 << 20,
                in_capsule_bytes: 16 << 10,
            },
            hosts: None,
            auth: AuthConfig::default(),
            traddr: "192.0.2.1".to_string(),
            trsvcid: 4420,
            port_id: 1,
            referrals: Vec::new(),
            controller_ids: [(1, 99), (100, 199)][side],
        }
    }

    /// Files of a node that has never run.
    pub(crate) fn blank(&self, role: Role) -> Vec<Vec<u8>> {
        let map = self.node(0).map(role).pages() as usize * 4096;
        let log = vec![0; self.layout(role).log.device_bytes() as usize + map];
        let volumes = self.volumes.iter().map(|(sectors, _)| vec![0; *sectors as usize * 512]);
        std::iter::once(log).chain(volumes).collect()
    }
}
