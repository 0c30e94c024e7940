//! Two nodes as two processes of this very program, with everything they need in one folder.

use super::link::Veth;
use crate::args::DemoLink;
use crate::link_key;
use anyhow::{Context as _, bail, ensure};
use ibid_control::config::{
    Auth, Config, CpMode, Durability, Encryption, Hosts, Idle, Link, LinkDevice, Log, MemifRole,
    NQN_UUID_PREFIX, Node, Peer, Role, Target, Uuid, Volume,
};
use ibid_control::rpc::Client;
use ibid_control::status::{CpReport, PairState, Status};
use ibid_units::Nanos;
use sha2::{Digest, Sha256};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::fs::{self, File};
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SEGMENTS: u32 = 4;
const SEGMENT_SIZE: u64 = 32 << 20;
const READ_MEMORY: u64 = 16 << 20;
const READY_WAIT: Duration = Duration::from_secs(60);
const STOP_WAIT: Duration = Duration::from_secs(60);
const RPC_WAIT: Duration = Duration::from_secs(150);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a pair is started with.
#[derive(Clone)]
pub(crate) struct PairConfig {
    pub(crate) folder: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) size: u64,
    pub(crate) lba: u32,
    pub(crate) link: DemoLink,
    pub(crate) cp_mode: CpMode,
    pub(crate) durability: Durability,
    pub(crate) encryption: Encryption,
}

impl PairConfig {
    /// Where the destination listens: on the port behind the source's, or on one that the kernel chooses too.
    fn other_listen(&self) -> SocketAddr {
        let port = match self.listen.port() {
            0 => 0,
            // Ports end at 65535.
            port => port.checked_add(1).unwrap_or(port - 1),
        };
        SocketAddr::new(self.listen.ip(), port)
    }

    /// The other node's discovery service, where it is known before that runs.
    fn referrals(&self, source: bool) -> Vec<SocketAddr> {
        let other = if source { self.other_listen() } else { self.listen };
        let known = other.port() != 0 && !other.ip().is_unspecified();
        if known { vec![other] } else { Vec::new() }
    }
}

/// A running pair. Dropping it kills what still runs.
pub(crate) struct Pair {
    source: Process,
    destination: Process,
    config: PairConfig,
    nqn: String,
    _veth: Option<Veth>,
}

/// A node's process.
struct Process {
    child: Child,
    config: Config,
    log: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Set when SIGINT or SIGTERM comes.
pub(crate) fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, flag.clone())?;
    }
    Ok(flag)
}

impl Pair {
    /// Makes files and link and starts both nodes. What an earlier demonstration left in the folder is replaced.
    pub(crate) fn start(config: &PairConfig) -> anyhow::Result<Pair> {
        let pair = random_uuid()?;
        let volume = random_uuid()?;
        let veth = match config.link {
            DemoLink::AfPacket => Some(Veth::new()?),
            DemoLink::Memif => None,
        };
        let nqn = format!("{NQN_UUID_PREFIX}{pair}");
        let node = |role| node_config(config, role, pair, volume, &nqn, veth.as_ref());
        let destination = node(Role::Destination);
        // A key of its own for each demonstration.
        link_key::write_new(&config.folder.join(KEY_FILE))?;
        // The server of a memif is there before its client looks for it.
        let destination = Process::start(destination)?;
        let source = Process::start(node(Role::Source))?;
        Ok(Pair { source, destination, config: config.clone(), nqn, _veth: veth })
    }

    pub(crate) fn nqn(&self) -> &str {
        &self.nqn
    }

    /// Where hosts may connect to the destination, too.
    pub(crate) fn standby(&self) -> anyhow::Result<SocketAddr> {
        let target = self.destination_status()?.target;
        target.map(|target| target.listen).context("the destination has a target")
    }

    /// Waits until writes would be taken; gives the address to connect to.
    pub(crate) fn wait_until_ready(&mut self) -> anyhow::Result<SocketAddr> {
        let deadline = Instant::now() + READY_WAIT;
        loop {
            self.check_alive()?;
            if let Ok(status) = self.source_status()
                && status.promise.state == PairState::InSync
            {
                return status.target.map(|target| target.listen).context("a source has a target");
            }
            if Instant::now() >= deadline {
                bail!("the pair was not ready after {} s; {}", READY_WAIT.as_secs(), self.logs());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    pub(crate) fn source_status(&self) -> anyhow::Result<Status> {
        Ok(Client::connect(&self.source.config.node.control, RPC_WAIT)?.status()?)
    }

    pub(crate) fn destination_status(&self) -> anyhow::Result<Status> {
        Ok(Client::connect(&self.destination.config.node.control, RPC_WAIT)?.status()?)
    }

    /// Takes a consistency point.
    pub(crate) fn cp(&self) -> anyhow::Result<CpReport> {
        Ok(Client::connect(&self.source.config.node.control, RPC_WAIT)?.cp()?)
    }

    fn check_alive(&mut self) -> anyhow::Result<()> {
        for process in [&mut self.source, &mut self.destination] {
            if let Some(status) = process.child.try_wait()? {
                let name = process.config.node.name.clone();
                bail!("the {name} ended ({status}); {}", tail(&process.log));
            }
        }
        Ok(())
    }

    fn logs(&self) -> String {
        format!("source: {}\ndestination: {}", tail(&self.source.log), tail(&self.destination.log))
    }

    /// Returns when `stop` is set; an error when a node ends before.
    pub(crate) fn wait_while_alive(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.check_alive()?;
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Stops both nodes in good order, source first; true if their volumes are equal.
    pub(crate) fn stop_and_compare(&mut self) -> anyhow::Result<bool> {
        self.stop()?;
        let [source, destination] = self.digests()?;
        Ok(source == destination)
    }

    /// Stops both nodes in good order, source first: it takes a last consistency point.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.source.stop()?;
        self.destination.stop()
    }

    /// SHA-256 of the two volumes, source first.
    pub(crate) fn digests(&self) -> anyhow::Result<[[u8; 32]; 2]> {
        let both = std::thread::scope(|scope| {
            let other = scope.spawn(|| sha256(&self.mirror(), self.config.size));
            let mine = sha256(&self.volume(), self.config.size);
            (mine, other.join())
        });
        let destination = both.1.map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        Ok([both.0?, destination])
    }

    /// The source's volume.
    pub(crate) fn volume(&self) -> PathBuf {
        self.source.config.volumes[0].device.clone()
    }

    /// The destination's.
    pub(crate) fn mirror(&self) -> PathBuf {
        self.destination.config.volumes[0].device.clone()
    }
}

impl Process {
    fn start(config: Config) -> anyhow::Result<Process> {
        let folder = config.log.device.parent().context("a folder")?.to_owned();
        let file = folder.join("node.toml");
        fs::write(&file, config.to_toml())?;
        let log = folder.join("node.log");
        let output = File::create(&log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("run")
            .arg("--config")
            .arg(&file)
            .arg("--stop-with-parent")
            .arg(std::process::id().to_string());
        // A process group of its own: Ctrl-C reaches the demonstration, which stops its nodes in the right order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("a node does not start")?;
        Ok(Process { child, config, log })
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        Client::connect(&self.config.node.control, RPC_WAIT)?.stop()?;
        let deadline = Instant::now() + STOP_WAIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(
                    status.success(),
                    "the {} ended with {status}; {}",
                    self.config.node.name,
                    tail(&self.log)
                );
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "the {} did not stop within {} s; {}",
                    self.config.node.name,
                    STOP_WAIT.as_secs(),
                    tail(&self.log)
                );
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// The link's key. In the folder of one of the nodes, which is made anew: in that of the pair somebody may keep a key that nobody has twice.
const KEY_FILE: &str = "destination/link.key";

fn node_config(
    config: &PairConfig,
    role: Role,
    pair: Uuid,
    volume: Uuid,
    nqn: &str,
    veth: Option<&Veth>,
) -> Config {
    let source = role == Role::Source;
    let name = if source { "source" } else { "destination" };
    let folder = config.folder.join(name);
    // Fresh files each time: a demonstration never goes on where another ended.
    drop(fs::remove_dir_all(&folder));
    drop(fs::create_dir_all(&folder));
    let ends: [SocketAddr; 2] =
        ["192.0.2.1:4791", "192.0.2.2:4791"].map(|end| end.parse().expect("an address"));
    let device = match veth {
        Some(veth) => LinkDevice::AfPacket {
            interface: if source { veth.near.clone() } else { veth.far.clone() },
        },
        None => LinkDevice::Memif {
            socket: config.folder.join("memif.sock"),
            role: if source { MemifRole::Client } else { MemifRole::Server },
        },
    };
    Config {
        node: Node {
            name: name.to_owned(),
            role,
            pair,
            cpu: None,
            idle: Idle::Adaptive,
            huge_pages: true,
            huge_page_size: 2 << 20,
            control: folder.join("control.sock"),
            read_memory: READ_MEMORY,
        },
        log: Log {
            device: folder.join("log"),
            size: Some(Log::size_needed(SEGMENTS, SEGMENT_SIZE, &[config.size])),
            segments: SEGMENTS,
            segment_size: SEGMENT_SIZE,
            durability: config.durability,
            cp_interval: Nanos::from_millis(10_000),
            cp_mode: config.cp_mode,
        },
        link: Link {
            device,
            local: ends[usize::from(!source)],
            peer: ends[usize::from(source)],
            prefix: None,
            gateway: None,
            vlan: None,
            peer_mac: None,
            mtu: 9000,
            key: Some(config.folder.join(KEY_FILE)),
            encryption: config.encryption,
        },
        peer: Peer::default(),
        target: Some(Target {
            listen: if source { config.listen } else { config.other_listen() },
            // Whoever types the address on the command line has said it.
            allow_wildcard: config.listen.ip().is_unspecified(),
            nqn: nqn.to_owned(),
            serial: "IBIDDEMO".to_owned(),
            hosts: Hosts::Any,
            queue_depth: 128,
            io_queues: 16,
            connections_per_address: 128,
            connections_per_host: 128,
            referrals: config.referrals(source),
        }),
        auth: Auth::default(),
        volumes: vec![Volume {
            name: "demo".to_owned(),
            device: folder.join("volume.img"),
            size: Some(config.size),
            lba: config.lba,
            uuid: volume,
        }],
    }
}

fn random_uuid() -> anyhow::Result<Uuid> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("/dev/urandom")?;
    Ok(Uuid::from_random(bytes))
}

/// SHA-256 of a file's first `bytes`.
pub(crate) fn sha256(path: &Path, bytes: u64) -> anyhow::Result<[u8; 32]> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?.take(bytes);
    let mut sha = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(sha.finalize().into());
        }
        sha.update(&buffer[..count]);
    }
}

/// The last lines of a node's log, for an error message.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(8)..].join("\n  ");
    format!("its log ends:\n  {last}")
}
