//! Nodes as an operator runs them: two `ibid run` with a configuration each, or one `ibid demo --serve` that runs both.

use crate::common::{WAIT, until};
use crate::link::{Link, Veth};
use crate::load::{Model, options};
use crate::process::{self, Process};
use ibid_client::{ConnectOptions, Initiator};
use ibid_control::config::{
    Auth, Config, CpMode, Durability, Encryption, Hosts, Idle, Link as LinkConfig, LinkDevice, Log,
    MemifRole, NQN_UUID_PREFIX, Node, Peer, Role, Target, Uuid, Volume,
};
use ibid_control::rpc::Client;
use ibid_control::status::{PairState, Status};
use ibid_units::Nanos;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// Bytes of a volume in these tests.
pub(crate) const VOLUME_BYTES: u64 = 32 << 20;
const SEGMENT_SIZE: u64 = 4 << 20;
const PAIR: Uuid = Uuid::new(*b"\x01ibid-test-pair\x01");
const VOLUME: Uuid = Uuid::new(*b"\x01ibid-test-volu\x01");

/// Asks a node for its status.
pub(crate) fn status(control: &Path) -> Option<Status> {
    Client::connect(control, WAIT).ok()?.status().ok()
}

/// Waits until a node says it is in `state`.
pub(crate) fn wait_for_state(control: &Path, state: PairState) -> Status {
    until(&format!("{} is {}", control.display(), state.word()), || {
        status(control).filter(|status| status.promise.state == state)
    })
}

/// A source and a destination, run by hand. Both can be stopped, killed and started at will.
pub(crate) struct Pair {
    pub(crate) folder: PathBuf,
    veth: Option<Veth>,
    pub(crate) configs: [Config; 2],
    /// What `--link-faults` is given, where it is.
    pub(crate) faults: [Option<String>; 2],
    /// Other arguments of `ibid run`.
    pub(crate) more: [Vec<String>; 2],
}

/// Which of the two.
pub(crate) const SOURCE: usize = 0;
pub(crate) const DESTINATION: usize = 1;

impl Pair {
    pub(crate) fn new(folder: &Path, link: Link) -> Pair {
        let veth = (link == Link::AfPacket).then(Veth::new);
        let configs =
            [Role::Source, Role::Destination].map(|role| config(folder, role, veth.as_ref()));
        let key = folder.join("link.key");
        if !key.exists() {
            let made = process::run(&["keygen", key.to_str().unwrap()]);
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        let faults = [None, None];
        let pair = Pair {
            folder: folder.to_owned(),
            veth,
            configs,
            faults,
            more: [const { Vec::new() }; 2],
        };
        pair.fresh();
        pair
    }

    /// Gives both nodes empty folders.
    pub(crate) fn fresh(&self) {
        for config in &self.configs {
            let folder = config.log.device.parent().unwrap();
            drop(std::fs::remove_dir_all(folder));
            std::fs::create_dir_all(folder).unwrap();
        }
    }

    pub(crate) fn config_file(&self, which: usize) -> PathBuf {
        self.folder.join(["source.toml", "destination.toml"][which])
    }

    /// Starts a node. Does not wait for anything.
    pub(crate) fn start(&self, which: usize) -> Process {
        let file = self.config_file(which);
        std::fs::write(&file, self.configs[which].to_toml()).unwrap();
        let mut command = match &self.veth {
            Some(veth) if which == DESTINATION => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &veth.space, env!("CARGO_BIN_EXE_ibid")]);
                command
            }
            Some(_) | None => process::ibid(),
        };
        command.arg("run").arg("--config").arg(file);
        if let Some(faults) = &self.faults[which] {
            command.arg("--link-faults").arg(faults);
        }
        command.args(&self.more[which]);
        Process::start(command, &self.folder.join(["source.log", "destination.log"][which]), None)
    }

    /// Starts both and waits until they are in sync.
    pub(crate) fn start_both(&self) -> [Process; 2] {
        let both = [self.start(SOURCE), self.start(DESTINATION)];
        self.wait_in_sync();
        both
    }

    pub(crate) fn wait_in_sync(&self) {
        wait_for_state(self.control(SOURCE), PairState::InSync);
        wait_for_state(self.control(DESTINATION), PairState::InSync);
    }

    pub(crate) fn control(&self, which: usize) -> &Path {
        &self.configs[which].node.control
    }

    pub(crate) fn volume(&self, which: usize) -> &Path {
        &self.configs[which].volumes[0].device
    }

    pub(crate) fn status(&self, which: usize) -> Status {
        status(self.control(which)).expect("the node answers")
    }

    /// Where clients connect: the kernel has chosen the port.
    pub(crate) fn target(&self) -> (SocketAddr, String) {
        let target = self.status(SOURCE).target.expect("a source has a target");
        (target.listen, target.nqn)
    }

    pub(crate) fn connect(&self) -> Initiator {
        self.connect_as(&options(2, 32, true).host_nqn)
    }

    /// As the host of this name.
    pub(crate) fn connect_as(&self, host: &str) -> Initiator {
        let (addr, nqn) = self.target();
        let options = ConnectOptions { host_nqn: host.to_owned(), ..options(2, 32, true) };
        Initiator::connect(addr, &nqn, &options).unwrap()
    }

    /// Both volumes are equal, and hold what the model says.
    pub(crate) fn assert_identical(&self, model: &mut Model) {
        crate::common::assert_files_equal(self.volume(SOURCE), self.volume(DESTINATION));
        model.check_file(self.volume(DESTINATION));
    }
}

/// Stops a node as an operator does.
pub(crate) fn stop(node: &mut Process) -> ExitStatus {
    process::signal(node.pid(), "TERM");
    node.ended()
}

fn config(folder: &Path, role: Role, veth: Option<&Veth>) -> Config {
    let source = role == Role::Source;
    let name = if source { "source" } else { "destination" };
    let own = folder.join(name);
    let ends = ["192.0.2.1:4791", "192.0.2.2:4791"].map(|end| end.parse().unwrap());
    Config {
        node: Node {
            name: name.to_owned(),
            role,
            pair: PAIR,
            cpu: None,
            idle: Idle::Adaptive,
            huge_pages: true,
            huge_page_size: 2 << 20,
            control: folder.join(format!("{name}.sock")),
            read_memory: 8 << 20,
        },
        log: Log {
            device: own.join("log"),
            size: None,
            segments: 4,
            segment_size: SEGMENT_SIZE,
            durability: Durability::Disk,
            cp_interval: Nanos::from_millis(3_000),
            cp_mode: CpMode::Reference,
        },
        link: LinkConfig {
            device: match veth {
                Some(veth) => LinkDevice::AfPacket {
                    interface: if source { veth.near.clone() } else { veth.far.clone() },
                },
                None => LinkDevice::Memif {
                    socket: folder.join("memif.sock"),
                    role: if source { MemifRole::Client } else { MemifRole::Server },
                },
            },
            local: ends[usize::from(!source)],
            peer: ends[usize::from(source)],
            prefix: None,
            gateway: None,
            vlan: None,
            peer_mac: None,
            mtu: 9000,
            key: Some(folder.join("link.key")),
            encryption: Encryption::Full,
        },
        peer: Peer::default(),
        // The far end's network namespace has no way to a host.
        target: (source || veth.is_none()).then(|| Target {
            listen: "127.0.0.1:0".parse().unwrap(),
            allow_wildcard: false,
            nqn: format!("{NQN_UUID_PREFIX}{PAIR}"),
            serial: "IBIDTEST".to_owned(),
            hosts: Hosts::Any,
            queue_depth: 128,
            io_queues: 4,
            connections_per_address: 96,
            connections_per_host: 64,
            referrals: Vec::new(),
        }),
        auth: Auth::default(),
        volumes: vec![Volume {
            name: "test".to_owned(),
            device: own.join("volume.img"),
            size: Some(VOLUME_BYTES),
            lba: 4096,
            uuid: VOLUME,
        }],
    }
}

/// `ibid demo --serve`, with its files kept in a folder that the test can look into.
pub(crate) struct Demo {
    pub(crate) process: Process,
    pub(crate) folder: PathBuf,
    lines: Receiver<String>,
    pub(crate) addr: SocketAddr,
    /// The destination's.
    pub(crate) standby: SocketAddr,
    pub(crate) nqn: String,
}

impl Demo {
    /// Starts it with a volume of [`VOLUME_BYTES`] and waits for its first lines.
    pub(crate) fn start(folder: &Path, link: Link, more: &[&str]) -> Demo {
        let mut command = process::ibid();
        command.args([
            "demo",
            "--serve",
            "--listen",
            "127.0.0.1:0",
            "--size",
            "32MiB",
            "--link",
            link.word(),
        ]);
        command.arg("--keep").arg(folder).args(more);
        Demo::start_as(command, folder)
    }

    pub(crate) fn start_as(command: Command, folder: &Path) -> Demo {
        let mut process = Process::start(command, &folder.join("demo.log"), Some(Stdio::piped()));
        let output = process.child().stdout.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            use std::io::BufRead as _;
            for line in std::io::BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let line = lines.recv_timeout(WAIT).expect("the demonstration says that it is ready");
        let (addr, nqn) = parse_ready(&line);
        // Behind it, how a Linux host connects to each of the two nodes.
        let command = "nvme connect -t tcp -a 127.0.0.1 -s ";
        let ports = [(); 2].map(|()| {
            let line = lines.recv_timeout(WAIT).expect("two more lines");
            let rest = line.strip_prefix(command).unwrap_or_else(|| panic!("{line}"));
            let (port, name) = rest.split_once(" -n ").unwrap_or_else(|| panic!("{line}"));
            assert_eq!(name, nqn);
            port.parse::<u16>().unwrap_or_else(|_| panic!("{line}"))
        });
        assert_eq!(ports[0], addr.port());
        let standby = SocketAddr::new(addr.ip(), ports[1]);
        Demo { process, folder: folder.to_owned(), lines, addr, standby, nqn }
    }

    pub(crate) fn control(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("control.sock")
    }

    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("volume.img")
    }

    /// Stops it with a signal; its exit code, and everything it printed after its first lines.
    pub(crate) fn stop(&mut self, name: &str) -> (Option<i32>, Vec<String>) {
        process::signal(self.process.pid(), name);
        let code = self.process.ended().code();
        // The sender goes with the end of its output.
        (code, self.lines.iter().collect())
    }
}

/// Takes the stable line apart, and insists on every part of it.
fn parse_ready(line: &str) -> (SocketAddr, String) {
    let words: Vec<&str> = line.split(' ').collect();
    let [ready, nqn, traddr, trsvcid, nsid] = words[..] else { panic!("{line}") };
    assert_eq!((ready, nsid), ("ready", "nsid=1"), "{line}");
    let value = |word: &str, key: &str| {
        word.strip_prefix(key).unwrap_or_else(|| panic!("{line}")).to_owned()
    };
    let addr = SocketAddr::new(
        value(traddr, "traddr=").parse().unwrap(),
        value(trsvcid, "trsvcid=").parse().unwrap(),
    );
    (addr, value(nqn, "nqn="))
}
