//! `ibid run`: one node of a pair, from its configuration to its orderly stop.
//! Opens what the shard drives, starts the control socket, pins and runs the shard on a thread of its own, and turns signals into its stop.

use crate::args;
use crate::auth;
use crate::capture;
use crate::doctor::Root;
use crate::faults;
use crate::link_key;
use crate::numa;
use crate::recovery::{self, Found};
use crate::report;
use crate::sizing::{self, EAL_MEMORY_MIB};
use anyhow::{Context as _, anyhow, bail, ensure};
use crossbeam::channel::{RecvTimeoutError, bounded};
use crossbeam::queue::ArrayQueue;
use ibid_control::config::{self, Config, CpMode, Durability, Hosts, Idle, LinkDevice, OnPeerLoss};
use ibid_control::rpc::{Handler, Refused, Server, Timeouts};
use ibid_control::status::{
    CpReport, Histograms, RecoveryStatus, Status, VerifyReport, VerifyRequest,
};
use ibid_dpdk::{Eal, EalConfig, EalMemory, LinkConfig, LinkFacts, LinkPort, UdpChecksum};
use ibid_driver::idle::{IdleMode, pin_to};
use ibid_driver::{
    ACCEPTS_MAX, Arena, Capture, Disk as _, DiskFile, FaultyPort, HugeReserve, LinkFaultCounts,
    MemoryWish, MonotonicClock, OpenOptions, PageSize, Port, TcpStreams, UringDisk,
};
use ibid_engine::frontend::{
    AnaState, AuthConfig, Limits, NamespaceConfig, Referral, TargetConfig,
};
use ibid_runtime::{
    COMMANDS_MAX, Command, CommandKind, Destination, Layout, NodeConfig, PeerLoss, PeerState,
    Reply, Role, Shard, Snapshot, Source, SourceConfig, Stop, SyncState, VerifyProgress,
    VolumeConfig,
};
use ibid_secure::Security;
use ibid_units::{BLOCK_BYTES, Nanos, SECTOR_BYTES, VolumeId};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{IsTerminal as _, Read as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Operations a node may have on its disks.
const DISK_DEPTH: usize = 1024;
/// Connections of clients, and controllers.
pub(crate) const CONNECTIONS_MAX: u16 = 128;
const CONTROLLERS_MAX: u16 = 16;
/// Controller identifiers of the two nodes, which hosts see under one name: each has its half.
const CONTROLLER_IDS: [(u16, u16); 2] = [(1, 0x7FEF), (0x7FF0, 0xFFEF)];
/// Longest read or write.
const TRANSFER_BYTES_MAX: u32 = 1 << 20;
/// Data that a write may carry in its capsule.
const IN_CAPSULE_BYTES: u32 = 16 << 10;
/// Longest time an orderly stop waits for the peer.
const STOP_WAIT: Nanos = Nanos::from_millis(30_000);
/// Longest time the control plane waits for the shard's answer …
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// … and for a consistency point.
const CP_WAIT: Duration = Duration::from_secs(120);
/// How often a node that was started by another process looks whether that still lives.
const PARENT_EVERY: Duration = Duration::from_millis(200);
/// How often a source that was started is asked whether it takes writes, for the line that says so: at first, and after long waiting.
const SERVING_EVERY: Duration = Duration::from_millis(10);
const SERVING_EVERY_MAX: Duration = Duration::from_secs(1);
/// How long it may take to answer: one that is ending never does.
const SERVING_ANSWER: Duration = Duration::from_millis(200);
/// How often a destination looks whether hellos are not authentic, and how long it says nothing after it has said so.
const HELLOS_EVERY: Duration = Duration::from_secs(2);
const HELLOS_AGAIN: Duration = Duration::from_secs(60);
/// The time it says is right to one part of so many.
const SERVING_PARTS: u32 = 50;
/// How long a destination without a parent waits for its source to stop before it.
const ORPHAN_WAIT: Duration = Duration::from_secs(10);

const _: () = assert!(config::LOG_HEAD_BYTES == ibid_wire::disk::SEGMENTS_AT);

/// What a node's shard is made of, once its log has been read.
struct Parts {
    layout: Layout,
    arena: Arc<Arena>,
    node: NodeConfig,
    found: Found,
}

/// Runs a node until it is told to stop.
pub(crate) fn run(args: &args::Run) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let config = Config::load(&args.config)?;
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("IBID_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .init();
    let faults = args.link_faults.clone().map(|faults| (faults, Arc::default()));
    let commands = Arc::new(ArrayQueue::new(COMMANDS_MAX));
    stop_on_signals(commands.clone(), config.node.role, args.stop_with_parent)?;

    // Secrets are small, and the first thing that is forgotten.
    let target_auth = auth::target_auth(&config)?;
    let mut warnings = Vec::new();
    let security = link_key::security(&config)?;
    let home = numa::home(&Root::machine(), &config);
    warnings.extend(home.warning);
    let parts = open_parts(&config, security, home.node, &mut warnings)?;
    let mode = match config.node.idle {
        Idle::Adaptive => IdleMode::Adaptive,
        Idle::Spin => IdleMode::Spin,
    };
    let role = config.node.role;
    // Whatever can be refused is, before there is a port: a peer that is heard over shared memory suffers from one that goes at once.
    let streams = match &config.target {
        Some(target) => Some(listen(target, role, &parts)?),
        None => None,
    };
    let listen = streams.as_ref().map(first_address).transpose()?;
    // DPDK takes its pages when the port is opened: until then nobody else may have them.
    let (eal, mut reserve) = start_eal(&config, home.node, &mut warnings)?;
    warnings.extend(parts.found.warnings());
    for warning in &warnings {
        warn!("{warning}");
    }
    let capture = match &args.pcap {
        Some(path) => Some(capture::open(path, args.pcap_decrypted, &config)?),
        None => None,
    };
    if let Some((_, watch)) = &capture {
        warn!("{}", watch.warning());
    }
    let handler = NodeHandler {
        commands: commands.clone(),
        config: config.clone(),
        started,
        listen,
        huge_pages: parts.arena.page_size() != PageSize::Base4KiB,
        recovery: parts.found.status,
        warnings,
        faults: faults.clone(),
        capture: capture.as_ref().map(|(_, watch)| watch.clone()),
    };
    let server = Server::start(&config.node.control, Box::new(handler), Timeouts::default())?;
    let captured = capture.as_ref().map(|(capture, _)| capture);
    let port = open_port(&config, &eal, &parts.arena, (captured, faults))?;
    if let Some(reserve) = &mut reserve {
        reserve.taken();
    }
    let worker = match (&streams, target_auth.hosts.len()) {
        (None, _) | (_, 0) => None,
        (Some(_), _) => Some(auth::Worker::start(CONNECTIONS_MAX.into())?),
    };
    let stop = match role {
        config::Role::Source => {
            let Some(streams) = streams else { bail!("a source has a [target]") };
            let mut source = make_source(&config, parts, target_auth, (port, streams))?;
            if let Some(worker) = &worker {
                source.authenticate_in(worker.room());
            }
            info!(node = %config.node.name, listen = %first_address(source.streams())?, control = %config.node.control.display(), "source is up");
            run_shard(&config, &eal, source, (mode, commands, started))?
        }
        config::Role::Destination => {
            let target = match streams {
                Some(streams) => {
                    Some((target_config(&config, &parts, target_auth, &streams)?, streams))
                }
                None => None,
            };
            let Parts { layout, arena, node, found } = parts;
            let mut destination =
                Destination::new(node, layout, arena, found.recovered, port, target);
            if let Some(worker) = &worker {
                destination.authenticate_in(worker.room());
            }
            let listen = destination.streams().map(first_address).transpose()?;
            let listen = listen.map_or("none".to_owned(), |listen| listen.to_string());
            info!(node = %config.node.name, %listen, control = %config.node.control.display(), "destination is up");
            run_shard(&config, &eal, destination, (mode, commands, started))?
        }
    };
    drop(server);
    if let Some((capture, watch)) = capture {
        // What is queued is still written.
        drop(capture);
        info!("{}", watch.ended());
    }
    // The pages that were added for DPDK go back after DPDK.
    drop(eal);
    drop(reserve);
    match (role, stop) {
        (_, Stop::Clean) => info!("stopped: everything acknowledged is in the volumes"),
        (config::Role::Destination, Stop::Unclean) => {
            info!(
                "stopped: the log holds writes after the last consistency point, which the source still has"
            );
        }
        (config::Role::Source, Stop::Unclean) => {
            warn!(
                "stopped without a last consistency point: the log holds writes that the volumes lack, and the next start begins with them"
            );
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// SIGTERM, SIGINT and (where asked for) the end of the parent process become the shard's stop.
fn stop_on_signals(
    commands: Arc<ArrayQueue<Command>>,
    role: config::Role,
    parent: Option<u32>,
) -> anyhow::Result<()> {
    let mut signals =
        signal_hook::iterator::Signals::new([SIGTERM, SIGINT]).context("no signal handler")?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let stop = || {
            let (reply, _) = bounded(1);
            // A full queue is full of commands of people who wait: this one is tried again with the next signal.
            drop(commands.push(Command { kind: CommandKind::Stop, reply }));
        };
        let Some(parent) = parent else {
            for _ in signals.forever() {
                stop();
            }
            return;
        };
        let mut orphaned: Option<Instant> = None;
        loop {
            if std::os::unix::process::parent_id() != parent {
                let since = orphaned.get_or_insert_with(Instant::now).elapsed();
                // As in every orderly stop the source goes first: it needs its destination for the last consistency point.
                if role == config::Role::Source || since >= ORPHAN_WAIT || !hears_peer(&commands) {
                    stop();
                }
            }
            if signals.pending().next().is_some() {
                stop();
            }
            std::thread::sleep(PARENT_EVERY);
        }
    })?;
    Ok(())
}

/// Whether the shard hears the other node, as far as it tells.
fn hears_peer(commands: &ArrayQueue<Command>) -> bool {
    ask(commands, CommandKind::Snapshot(Box::new(Snapshot::with_room())), ANSWER_WAIT).is_ok_and(
        |reply| matches!(reply, Reply::Snapshot(snapshot) if snapshot.peer == PeerState::Connected),
    )
}

/// Gives the shard a command and waits for its answer.
fn ask(
    commands: &ArrayQueue<Command>,
    kind: CommandKind,
    wait: Duration,
) -> Result<Reply, Refused> {
    let (reply, answer) = bounded(1);
    commands.push(Command { kind, reply }).map_err(|_| Refused::TimedOut)?;
    answer.recv_timeout(wait).map_err(|error| match error {
        RecvTimeoutError::Timeout => Refused::TimedOut,
        RecvTimeoutError::Disconnected => Refused::Stopping,
    })
}

fn start_eal(
    config: &Config,
    numa_node: Option<u32>,
    warnings: &mut Vec<String>,
) -> anyhow::Result<(Eal, Option<HugeReserve>)> {
    let mut reserve = None;
    let mut memory = EalMemory::Ordinary;
    let mut why = "node.huge_pages = false".to_owned();
    if config.node.huge_pages {
        match HugeReserve::new(EAL_MEMORY_MIB << 20, numa_node) {
            Ok(pages) => {
                reserve = Some(pages);
                memory = EalMemory::Auto;
            }
            Err(refused) => {
                why = refused.to_string();
                warnings.push(format!("packet buffers lie in ordinary memory: {refused}"));
            }
        }
    }
    let log = Some((|line: &str| tracing::debug!("dpdk: {line}")) as fn(&str));
    let pci = match &config.link.device {
        LinkDevice::Pci(address) => Some(address.clone()),
        LinkDevice::AfPacket { .. } | LinkDevice::Memif { .. } | LinkDevice::Vdev(_) => None,
    };
    if pci.is_some() {
        // What a NIC reads and writes must stay where the IOMMU was told that it is.
        ensure!(
            reserve.is_some(),
            "link.device = \"pci\" needs huge pages for packet buffers ({why}); see hugepages/README.md"
        );
        memory = EalMemory::HugePages;
    }
    let (eal, warning) =
        Eal::init(EalConfig { memory_mib: EAL_MEMORY_MIB, memory, numa_node, log, pci })
            .context("DPDK does not start")?;
    warnings.extend(warning.map(|warning| warning.to_string()));
    Ok((eal, reserve))
}

/// Opens everything that holds data, and reads what is in the log.
fn open_parts(
    config: &Config,
    security: Security,
    numa_node: Option<u32>,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Parts> {
    let mut open = |what: &str, path: &std::path::Path, options: OpenOptions| {
        let (file, warning) =
            DiskFile::open(path, options).with_context(|| format!("{what} {}", path.display()))?;
        warnings.extend(warning.map(|warning| format!("{what} {}: {warning}", path.display())));
        anyhow::Ok(file)
    };
    let log_options =
        |bytes| OpenOptions { create_bytes: Some(bytes), written: true, read_only: false };
    // Where the file gives every size the log comes first: whoever has its lock is the node, and nothing else is touched without it.
    let all_known = config.volumes.iter().all(|volume| volume.size.is_some());
    let mut log = None;
    if let Some(bytes) = config.log.size.filter(|_| all_known) {
        log = Some(open("log.device", &config.log.device, log_options(bytes))?);
    }
    let mut files = Vec::new();
    let mut volumes = Vec::new();
    let mut volume_bytes = Vec::new();
    for volume in &config.volumes {
        let options = OpenOptions { create_bytes: volume.size, written: false, read_only: false };
        let file = open("volume.device", &volume.device, options)?;
        let bytes = volume.size.unwrap_or(file.bytes());
        ensure!(
            bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES),
            "volume.device {}: {bytes} bytes is not a multiple of 4 KiB",
            volume.device.display()
        );
        ensure!(
            file.block_bytes() <= volume.lba,
            "volume.device {}: its logical block has {} bytes, volume.lba = {} must not be smaller",
            volume.device.display(),
            file.block_bytes(),
            volume.lba
        );
        volume_bytes.push(bytes);
        volumes.push(VolumeConfig { sectors: bytes / SECTOR_BYTES, uuid: volume.uuid.bytes() });
        files.push(file);
    }
    // Only now is every volume's size known, and with it that of the map behind the log's segments.
    let log_bytes = config.log.size_with(&volume_bytes).map_err(|allowed| {
        // One that is not given is what is needed, and never refused.
        anyhow!("log.size = {}: {allowed}", config::format_size(config.log.size.unwrap_or(0)))
    })?;
    let log = match log {
        Some(log) => log,
        None => open("log.device", &config.log.device, log_options(log_bytes))?,
    };
    let segment_blocks = sizing::segment_blocks(config)?;
    let log_name = || format!("log.device {}", config.log.device.display());
    let allocated = if recovery::is_blank(&log) {
        recovery::allocated(config, &files, &volume_bytes)?
    } else {
        Vec::new()
    };
    let node = NodeConfig {
        pair: config.node.pair.bytes(),
        segments: config.log.segments,
        segment_blocks,
        to_disk: config.log.durability == Durability::Disk,
        volumes,
        allocated,
        seed: chance()?,
        security,
    };
    let role = match config.node.role {
        config::Role::Source => Role::Source,
        config::Role::Destination => Role::Destination,
    };
    files.insert(0, log);

    let layout = sizing::layout(config)?;
    let bytes = usize::try_from(layout.bytes()).context("log.segments × log.segment_size")?;
    let wish = MemoryWish { pages: numa::pages(config), node: numa_node };
    let (arena, warning) = Arena::with(bytes, wish)?;
    warnings.extend(warning.map(|warning| warning.to_string()));
    let arena = Arc::new(arena);
    let (disk, warning) = UringDisk::new(arena.clone(), files, DISK_DEPTH)?;
    warnings.extend(warning.map(|warning| warning.to_string()));
    let found = recovery::run(disk, layout, arena.clone(), &node, role).with_context(log_name)?;
    info!(node = %config.node.name, "{found}");
    Ok(Parts { layout, arena, node, found })
}

fn open_port(
    config: &Config,
    eal: &Eal,
    arena: &Arc<Arena>,
    (capture, faults): (Option<&Capture>, Option<Faults>),
) -> anyhow::Result<NodePort> {
    let port = LinkPort::open(eal, &link_config(config), arena.clone(), MonotonicClock::new())
        .with_context(|| link_name(config))?;
    info!("link over {}", facts(port.facts()));
    // Nearest to the wire: what faults make of it is what is captured.
    let port: NodePort = match capture {
        Some(capture) => Box::new(capture.around(port, arena.clone())),
        None => Box::new(port),
    };
    let Some((injected, counts)) = faults else { return Ok(port) };
    let arena = arena.clone();
    let port = FaultyPort::new(port, arena, injected.faults, &counts, MonotonicClock::new());
    faults::announce(&injected)?;
    Ok(Box::new(port))
}

/// What the link's device does and what the CPU does for it.
fn facts(facts: &LinkFacts) -> String {
    let made = match facts.tx_checksum {
        UdpChecksum::None => "not sent",
        UdpChecksum::Device => "made by the device",
        UdpChecksum::Software => "made by the CPU",
    };
    let checked = if facts.rx_checksum_by_device { "the device" } else { "the CPU" };
    format!("{}: UDP checksums are {made} and checked by {checked}", facts.driver)
}

/// The link's device as the configuration has it, for an error message.
fn link_name(config: &Config) -> String {
    match &config.link.device {
        LinkDevice::AfPacket { interface } => format!("link.interface = {interface}"),
        LinkDevice::Memif { socket, .. } => format!("link.socket = {}", socket.display()),
        LinkDevice::Vdev(arguments) => format!("link.vdev = {arguments}"),
        LinkDevice::Pci(address) => format!("link.address = {address}"),
    }
}

fn link_config(config: &Config) -> LinkConfig {
    let device = match &config.link.device {
        LinkDevice::AfPacket { interface } => {
            ibid_dpdk::LinkDevice::AfPacket { interface: interface.clone() }
        }
        LinkDevice::Memif { socket, role } => ibid_dpdk::LinkDevice::Memif {
            socket: socket.clone(),
            role: match role {
                config::MemifRole::Server => ibid_dpdk::MemifRole::Server,
                config::MemifRole::Client => ibid_dpdk::MemifRole::Client,
            },
        },
        LinkDevice::Vdev(arguments) => ibid_dpdk::LinkDevice::Vdev(arguments.clone()),
        LinkDevice::Pci(address) => ibid_dpdk::LinkDevice::Pci(address.clone()),
    };
    LinkConfig {
        device,
        local: config.link.local,
        peer: config.link.peer,
        gateway: config.link.router(),
        vlan: config.link.vlan,
        peer_mac: config.link.peer_mac,
        mtu: config.link.mtu,
    }
}

/// The link's port, behind a bad cable where that was asked for. A call through a table costs next to nothing beside a frame.
type NodePort = Box<dyn Port + Send>;
/// What spoils the link, and what came of it.
type Faults = (faults::Injected, Arc<LinkFaultCounts>);
type NodeSource = Source<NodePort, UringDisk, TcpStreams>;

/// The target's listener. A source's disk wakes it too.
fn listen(
    target: &config::Target,
    role: config::Role,
    parts: &Parts,
) -> anyhow::Result<TcpStreams> {
    // A newcomer is accepted before the connection that it replaces is closed.
    let connections_max = CONNECTIONS_MAX + ACCEPTS_MAX as u16;
    let mut streams = TcpStreams::listen(target.listen, parts.arena.clone(), connections_max)
        .with_context(|| format!("target.listen = {}", target.listen))?;
    if let Some(descriptor) = parts.found.recovered.disk.descriptor()
        && role == config::Role::Source
    {
        streams.watch(descriptor).context("epoll")?;
    }
    Ok(streams)
}

/// The target, as both nodes of the pair show it: one subsystem, by names that are the same on both, over ports and controllers that are
/// not.
fn target_config(
    config: &Config,
    parts: &Parts,
    auth: AuthConfig,
    streams: &TcpStreams,
) -> anyhow::Result<TargetConfig> {
    let Some(target) = &config.target else { bail!("a node that listens has a [target]") };
    let node = &parts.node;
    let listen = first_address(streams)?;
    let (controller_ids, port_id) =
        if config.link.is_first() { (CONTROLLER_IDS[0], 1) } else { (CONTROLLER_IDS[1], 2) };
    let namespaces = config
        .volumes
        .iter()
        .zip(&node.volumes)
        .enumerate()
        .map(|(place, (volume, sized))| NamespaceConfig {
            volume: VolumeId::new(place as u16),
            capacity: sized.sectors,
            lba_bytes: volume.lba,
            uuid: volume.uuid.bytes(),
            nguid: volume.uuid.bytes(),
        })
        .collect();
    let access = match config.node.role {
        config::Role::Source => AnaState::Optimized,
        config::Role::Destination => AnaState::Inaccessible,
    };
    let referral = |at: &SocketAddr| Referral { traddr: at.ip().to_string(), trsvcid: at.port() };
    Ok(TargetConfig {
        nqn: target.nqn.clone(),
        serial: target.serial.clone(),
        model: "ibid".into(),
        firmware: env!("CARGO_PKG_VERSION").into(),
        namespaces,
        access,
        limits: Limits {
            connections_max: CONNECTIONS_MAX,
            connections_per_address: target.connections_per_address,
            connections_per_host: target.connections_per_host,
            controllers_max: CONTROLLERS_MAX,
            io_queues_max: target.io_queues,
            queue_depth_max: target.queue_depth,
            transfer_bytes_max: TRANSFER_BYTES_MAX,
            in_capsule_bytes: IN_CAPSULE_BYTES,
        },
        hosts: match &target.hosts {
            Hosts::Any => None,
            Hosts::Only(hosts) => Some(hosts.clone()),
        },
        auth,
        traddr: listen.ip().to_string(),
        trsvcid: listen.port(),
        port_id,
        referrals: target.referrals.iter().map(referral).collect(),
        controller_ids,
    })
}

fn make_source(
    config: &Config,
    parts: Parts,
    auth: AuthConfig,
    (port, streams): (NodePort, TcpStreams),
) -> anyhow::Result<NodeSource> {
    let target_config = target_config(config, &parts, auth, &streams)?;
    let Parts { layout, arena, node, found } = parts;
    let source_config = SourceConfig {
        node,
        target: target_config,
        cp_interval: config.log.cp_interval,
        cp_full: config.log.cp_mode == CpMode::Full,
        stop_wait: STOP_WAIT,
        peer_loss: match config.peer.on_loss {
            OnPeerLoss::Stall => PeerLoss::Stall,
            OnPeerLoss::Continue => PeerLoss::Continue,
        },
        peer_timeout: config.peer.timeout,
        stall_timeout: config.peer.stall_timeout,
        catch_up_rate: config.peer.catch_up_rate.unwrap_or(0),
    };
    let Found { recovered, map, .. } = found;
    Ok(Source::new(source_config, layout, arena, recovered, map, (port, streams)))
}

fn first_address(streams: &TcpStreams) -> anyhow::Result<SocketAddr> {
    streams.addresses()?.first().copied().context("no address to listen on")
}

/// The shard has a thread of its own, pinned where the configuration says so; whoever called waits for its end.
fn run_shard<S: Shard + Send>(
    config: &Config,
    eal: &Eal,
    mut shard: S,
    (mode, commands, started): (IdleMode, Arc<ArrayQueue<Command>>, Instant),
) -> anyhow::Result<Stop> {
    let core = config.node.cpu;
    let caller = std::thread::current();
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("shard-0".into()).spawn_scoped(scope, || {
                let _waker = Waker(caller);
                if let Some(core) = core {
                    pin_to(core).with_context(|| format!("node.cpu = {core}"))?;
                }
                let lcore = eal.register_thread()?;
                let stop = shard.run(&mut MonotonicClock::new(), mode, &commands);
                // The port goes while its thread is still DPDK's.
                drop(shard);
                drop(lcore);
                anyhow::Ok(stop)
            })?;
        match config.node.role {
            config::Role::Source => await_serving(config, &thread, &commands, started),
            config::Role::Destination => watch_hellos(&thread, &commands),
        }
        thread.join().unwrap_or_else(|_| bail!("the shard panicked"))
    })
}

/// Wakes who waits for a thread when that ends, however it ends.
struct Waker(std::thread::Thread);

impl Drop for Waker {
    fn drop(&mut self) {
        self.0.unpark();
    }
}

/// Says when the source takes writes: how long a restart takes is what operators look for first.
fn await_serving<T>(
    config: &Config,
    shard: &ScopedJoinHandle<'_, T>,
    commands: &ArrayQueue<Command>,
    started: Instant,
) {
    while !shard.is_finished() {
        let kind = CommandKind::Snapshot(Box::new(Snapshot::with_room()));
        if let Ok(Reply::Snapshot(snapshot)) = ask(commands, kind, SERVING_ANSWER)
            && report::takes_writes(&snapshot)
        {
            let alone = snapshot.sync == SyncState::Alone;
            let after_ms = started.elapsed().as_millis() as u64;
            info!(node = %config.node.name, after_ms, alone, "serving");
            return;
        }
        let wait = started.elapsed() / SERVING_PARTS;
        std::thread::sleep(wait.clamp(SERVING_EVERY, SERVING_EVERY_MAX));
    }
}

/// Says at a destination that hellos come which nobody with its key has made: the source hears nothing of that, and its operator would
/// look for a cable.
fn watch_hellos<T>(shard: &ScopedJoinHandle<'_, T>, commands: &ArrayQueue<Command>) {
    let mut told = 0;
    let mut every = HELLOS_EVERY;
    while !shard.is_finished() {
        // Woken when the shard ends; an early return for nothing costs one more look.
        std::thread::park_timeout(every);
        every = HELLOS_EVERY;
        let kind = CommandKind::Snapshot(Box::new(Snapshot::with_room()));
        let Ok(Reply::Snapshot(snapshot)) = ask(commands, kind, SERVING_ANSWER) else { continue };
        if let Some(warning) = report::key_warning(&snapshot)
            && snapshot.security.hellos_failed > told
        {
            told = snapshot.security.hellos_failed;
            every = HELLOS_AGAIN;
            warn!("{warning}");
        }
    }
}

/// Eight bytes nobody can guess: session numbers must differ at every start.
fn chance() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("/dev/urandom")?;
    Ok(u64::from_le_bytes(bytes))
}

/// Answers the control socket by asking the shard.
struct NodeHandler {
    commands: Arc<ArrayQueue<Command>>,
    config: Config,
    started: Instant,
    listen: Option<SocketAddr>,
    huge_pages: bool,
    recovery: Option<RecoveryStatus>,
    warnings: Vec<String>,
    faults: Option<Faults>,
    capture: Option<capture::Watch>,
}

impl NodeHandler {
    fn ask(&self, kind: CommandKind, wait: Duration) -> Result<Reply, Refused> {
        ask(&self.commands, kind, wait)
    }

    fn snapshot(&self) -> Result<Box<Snapshot>, Refused> {
        match self.ask(CommandKind::Snapshot(Box::new(Snapshot::with_room())), ANSWER_WAIT)? {
            Reply::Snapshot(snapshot) => Ok(snapshot),
            Reply::Cp(_)
            | Reply::Stopping
            | Reply::NotSource
            | Reply::Busy
            | Reply::Verify(_)
            | Reply::Verifying(_)
            | Reply::NeverVerified
            | Reply::NoSuchVolume => Err(Refused::TimedOut),
        }
    }
}

impl NodeHandler {
    /// Asks the shard about a comparison.
    fn verified(&self, kind: CommandKind) -> Result<VerifyReport, Refused> {
        match self.ask(kind, ANSWER_WAIT)? {
            Reply::Verify(progress) => Ok(report::verify(&self.config, &progress)),
            Reply::Verifying(_) => Err(Refused::Verifying),
            Reply::NeverVerified => Err(Refused::NeverVerified),
            Reply::NoSuchVolume => Err(Refused::NoSuchVolume),
            Reply::NotSource => Err(Refused::NotSource),
            Reply::Stopping => Err(Refused::Stopping),
            Reply::Busy | Reply::Snapshot(_) | Reply::Cp(_) => Err(Refused::TimedOut),
        }
    }
}

impl Handler for NodeHandler {
    fn status(&self) -> Result<Status, Refused> {
        let snapshot = self.snapshot()?;
        let mut status = report::status(
            &self.config,
            &snapshot,
            self.started.elapsed(),
            self.listen,
            self.huge_pages,
        );
        status.recovery = self.recovery;
        status.warnings.extend(self.warnings.iter().cloned());
        let spoilt = |(injected, counts): &Faults| faults::warning(injected, Some(counts));
        status.warnings.extend(self.faults.as_ref().map(spoilt));
        status.warnings.extend(self.capture.as_ref().map(capture::Watch::warning));
        Ok(status)
    }

    fn cp(&self) -> Result<CpReport, Refused> {
        match self.ask(CommandKind::Cp, CP_WAIT)? {
            Reply::Cp(done) => Ok(report::cp(&done)),
            Reply::NotSource => Err(Refused::NotSource),
            Reply::Stopping => Err(Refused::Stopping),
            Reply::Busy
            | Reply::Snapshot(_)
            | Reply::Verify(_)
            | Reply::Verifying(_)
            | Reply::NeverVerified
            | Reply::NoSuchVolume => Err(Refused::TimedOut),
        }
    }

    fn histograms(&self) -> Result<Histograms, Refused> {
        let snapshot = self.snapshot()?;
        Ok(report::histograms(&snapshot))
    }

    fn verify(&self, request: &VerifyRequest) -> Result<VerifyReport, Refused> {
        let named = |volume: &config::Volume| volume.name == request.volume;
        let volume = self.config.volumes.iter().position(named).ok_or(Refused::NoSuchVolume)?;
        let volume = VolumeId::new(u16::try_from(volume).map_err(|_| Refused::NoSuchVolume)?);
        let progress = Box::new(VerifyProgress::with_room());
        self.verified(CommandKind::Verify { volume, repair: request.repair, progress })
    }

    fn verify_progress(&self) -> Result<VerifyReport, Refused> {
        self.verified(CommandKind::VerifyProgress(Box::new(VerifyProgress::with_room())))
    }

    fn verify_stop(&self) -> Result<VerifyReport, Refused> {
        self.verified(CommandKind::VerifyStop(Box::new(VerifyProgress::with_room())))
    }

    fn stop(&self) -> Result<(), Refused> {
        self.ask(CommandKind::Stop, ANSWER_WAIT).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nic_without_huge_pages_is_refused_with_what_is_in_the_way_of_those() {
        let mut config = crate::doctor::node::tests::config();
        config.link.device = LinkDevice::Pci("0000:3b:00.0".into());
        config.node.huge_pages = false;
        let mut warnings = vec!["what was said of something else before".to_owned()];
        let refused = start_eal(&config, None, &mut warnings).err().expect("before DPDK starts");
        let said = refused.to_string();
        assert!(said.contains("(node.huge_pages = false)"), "{said}");
    }
}
