//! The command line of `ibid`, as types: what each command takes, its defaults and the help an operator reads.
//! Takes what the shell gives; gives checked values. Does nothing with them: see `main`.

use crate::faults;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use ibid_control::config::{
    Config, ConfigError, CpMode, Durability, Encryption, is_nqn, parse_size, parse_span,
};

/// Synchronous block replication: every write in two logs before it is acknowledged.
///
/// A source node takes client writes over NVMe/TCP, a destination node holds the mirror; DPDK carries the log between them.
#[derive(Parser, Debug)]
#[command(name = "ibid", version, arg_required_else_help = true, after_help = START_HERE)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

const START_HERE: &str = "\
Start here:
  ibid demo                            see a pair work on this machine, with figures
  ibid demo --serve                    the same pair, for your own NVMe/TCP client
  ibid run --config /etc/ibid/a.toml   run a node (docs/config.md lists every key)
  ibid status --config /etc/ibid/a.toml";

/// The commands.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run a node in the foreground until SIGTERM or SIGINT
    Run(Run),
    /// Show what a running node promises, holds and counts
    Status(Status),
    /// Take a consistency point now, and wait until it is durable on both nodes
    Cp(Cp),
    /// Compare both copies of a volume while it is in use, and repair what is provably wrong
    Verify(Verify),
    /// Make a key for the link of a pair, in a file of its own
    Keygen(Keygen),
    /// Show what lies on the log device of a node that does not run, and what its start would make of it
    Dump(Dump),
    /// Check what this machine gives a node: what is wrong, why it matters, and the command that mends it
    Doctor(Doctor),
    /// Load an NVMe/TCP target and measure what its clients see
    Bench(Bench),
    /// Run a source and a destination on this machine and show what they do
    Demo(Demo),
}

/// `ibid run`.
#[derive(ClapArgs, Debug)]
#[command(
    after_help = "SIGTERM and SIGINT take a last consistency point and stop the node cleanly."
)]
pub(crate) struct Run {
    /// The node's TOML file; docs/config.md lists every key
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Stop when this process, which has started this one, ends
    #[arg(long, hide = true, value_name = "PID")]
    pub(crate) stop_with_parent: Option<u32>,
    #[arg(long, value_name = "FAULTS", value_parser = faults::parse, help = faults::HELP)]
    pub(crate) link_faults: Option<faults::Injected>,
    /// Write every frame of the link to this file, for Wireshark (docs/ibid.lua); it must not be there yet
    #[arg(long, value_name = "FILE")]
    pub(crate) pcap: Option<PathBuf>,
    /// Write frames opened, with what hosts write in them, not as they pass the wire
    #[arg(long, requires = "pcap")]
    pub(crate) pcap_decrypted: bool,
}

/// `ibid status`.
#[derive(ClapArgs, Debug)]
pub(crate) struct Status {
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeAddress,
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// `ibid cp`.
#[derive(ClapArgs, Debug)]
pub(crate) struct Cp {
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeAddress,
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// Longest time to wait for it
    #[arg(long, value_name = "TIME", default_value = "1min", value_parser = time)]
    pub(crate) timeout: Duration,
}

/// `ibid verify`.
#[derive(ClapArgs, Debug)]
#[command(
    after_help = "Exit status 0: every block was compared, and both copies are the same now. Ctrl-C ends the comparison."
)]
pub(crate) struct Verify {
    /// Name of the volume, as `ibid status` lists it
    #[arg(value_name = "VOLUME")]
    pub(crate) volume: String,
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeAddress,
    /// Overwrite a block that is provably wrong on one node with the other's
    #[arg(long)]
    pub(crate) repair: bool,
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// `ibid keygen`.
#[derive(ClapArgs, Debug)]
#[command(
    after_help = "Both nodes need the same key. It is not printed, and a file that is there is not touched."
)]
pub(crate) struct Keygen {
    /// Where the key goes; made with mode 0600
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// `ibid dump`.
#[derive(ClapArgs, Debug)]
#[command(
    after_help = "Nothing is written. Exit status 0: a start would take the device, and no acknowledged entry is missing in it."
)]
pub(crate) struct Dump {
    /// The log device, or a copy of it
    #[arg(long, value_name = "PATH")]
    pub(crate) log: PathBuf,
}

/// `ibid doctor`.
#[derive(ClapArgs, Debug)]
#[command(
    after_help = "Exit status 0: nothing failed, though there may be warnings; 1: something failed. docs/doctor.md explains each check."
)]
pub(crate) struct Doctor {
    /// The TOML file of the node that is to run, or runs, here; without it the machine alone is checked
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// Time writes and flushes on a file beside the log, which is removed afterwards
    #[arg(long, requires = "config")]
    pub(crate) probe: bool,
}

/// How a running node is named: by its socket, or by the file that names the socket.
#[derive(ClapArgs, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct NodeAddress {
    /// The node's control socket
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
    /// The node's TOML file, which says where its control socket is
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl NodeAddress {
    /// The control socket, read out of the configuration where that was given.
    pub(crate) fn socket(&self) -> Result<PathBuf, ConfigError> {
        match (&self.control, &self.config) {
            (Some(socket), _) => Ok(socket.clone()),
            (None, Some(file)) => Ok(Config::load(file)?.node.control),
            (None, None) => unreachable!("clap lets neither pass: the group is required"),
        }
    }
}

/// `ibid bench`.
#[derive(ClapArgs, Debug)]
#[command(
    after_help = "WRITES DESTROY what the namespace holds; with --reads 100 nothing is written."
)]
pub(crate) struct Bench {
    /// Address and port of the target
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) connect: SocketAddr,
    /// NQN of the subsystem
    #[arg(long, value_parser = nqn)]
    pub(crate) nqn: String,
    /// NQN to connect as; without it one of ibid's own
    #[arg(long, value_name = "NQN", value_parser = nqn)]
    pub(crate) host_nqn: Option<String>,
    /// File with the host's secret, for a target that asks for authentication (`nvme gen-dhchap-key` makes one; mode 0600)
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
    /// File with the secret that the target must know; one that does not is not used
    #[arg(long, value_name = "FILE", requires = "secret_file")]
    pub(crate) controller_secret_file: Option<PathBuf>,
    /// Namespace to use
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) nsid: u32,
    /// I/O queues, each a TCP connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) queues: u16,
    /// Commands in flight, over all queues
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) depth: u16,
    /// Bytes of a command
    #[arg(long, value_name = "SIZE", default_value = "4KiB", value_parser = command_size)]
    pub(crate) size: u64,
    /// Percentage of reads; the rest are writes
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) reads: u8,
    /// Where commands go
    #[arg(long, value_enum, default_value_t = Order::Random)]
    pub(crate) order: Order,
    /// How much of the namespace to use, from its start; without it all
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) region: Option<u64>,
    /// How long to measure
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) seconds: u32,
    /// Seed of the random positions and contents
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Ask for header digests
    #[arg(long)]
    pub(crate) header_digest: bool,
    /// Ask for data digests
    #[arg(long)]
    pub(crate) data_digest: bool,
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the whole latency distribution, of writes and reads together, to this file in HdrHistogram's percentile format
    #[arg(long, value_name = "FILE")]
    pub(crate) hgrm: Option<PathBuf>,
}

/// Where the load generator's commands go.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// Anywhere
    Random,
    /// One behind the other
    Sequential,
}

/// `ibid demo`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Without --serve: writes a file system through NVMe/TCP, overwrites parts of it in rounds, compares both volumes, checks the mirror
and prints what the link carried with references and with full blocks. Exit status 0: all equal.

With --serve: prints `ready nqn=… traddr=… trsvcid=… nsid=1` and the two commands that connect a Linux host to both nodes (the
destination listens on the next port), serves any NVMe/TCP client until SIGINT or SIGTERM, then takes a consistency point, compares both volumes, prints `mirror identical: yes` or `no`, and exits 0 or 1.")]
pub(crate) struct Demo {
    /// Serve other clients instead of running the demonstration's own load
    #[arg(long)]
    pub(crate) serve: bool,
    /// Where to listen for clients; port 0 lets the kernel choose
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:4420")]
    pub(crate) listen: SocketAddr,
    /// Size of the volume [default: 1GiB with --serve, 256MiB without]
    #[arg(long, value_parser = volume_size)]
    size: Option<u64>,
    /// Bytes of a logical block
    #[arg(long, value_name = "BYTES", default_value = "4096", value_parser = lba())]
    pub(crate) lba: u32,
    /// DPDK device between the two nodes [default: af_packet as root, memif otherwise]
    #[arg(long, value_enum, value_name = "DEVICE")]
    pub(crate) link: Option<DemoLink>,
    /// What consistency points send [default: reference with --serve; both, one after the other, without]
    #[arg(long, value_name = "MODE", value_parser = words::<CpMode>(CpMode::WORDS))]
    pub(crate) cp_mode: Option<CpMode>,
    /// What a write has reached on each node when it is acknowledged
    #[arg(long, value_name = "PLACE", default_value = "disk", value_parser = words::<Durability>(Durability::WORDS))]
    pub(crate) durability: Durability,
    /// What is done to the link's frames, which are always authenticated
    #[arg(long, value_name = "MODE", default_value = "full", value_parser = words::<Encryption>(Encryption::WORDS))]
    pub(crate) encryption: Encryption,
    /// Keep configurations, logs and volumes in this folder, instead of in a temporary one that is removed
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

impl Demo {
    /// Bytes of the volume.
    pub(crate) fn size(&self) -> u64 {
        self.size.unwrap_or(if self.serve { 1 << 30 } else { 256 << 20 })
    }
    /// The folder to keep things in, if any.
    pub(crate) fn keep(&self) -> Option<&Path> {
        self.keep.as_deref()
    }
}

/// The DPDK devices a demonstration can set up by itself.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
#[value(rename_all = "snake_case")]
pub(crate) enum DemoLink {
    /// Shared memory between the two processes: needs no privilege, the fastest
    Memif,
    /// A veth pair between two network namespaces: needs root, survives the death of either node
    AfPacket,
}

fn words<T>(allowed: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: core::str::FromStr<Err: core::fmt::Debug> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(allowed)
        .map(|word| word.parse().expect("the parser lets only the type's own words pass"))
}

fn lba() -> impl TypedValueParser<Value = u32> {
    PossibleValuesParser::new(["512", "4096"]).map(|text| text.parse().expect("both are numbers"))
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| format!("{error}; such as 64MiB"))
}

fn command_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        bytes if bytes.is_multiple_of(512) && (512..=COMMAND_BYTES_MAX).contains(&bytes) => {
            Ok(bytes)
        }
        _ => Err("must be a multiple of 512B between 512B and 16MiB".to_owned()),
    }
}

fn volume_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        bytes
            if bytes.is_multiple_of(4096)
                && (VOLUME_BYTES_MIN..=VOLUME_BYTES_MAX).contains(&bytes) =>
        {
            Ok(bytes)
        }
        _ => Err("must be a multiple of 4KiB between 16MiB and 16TiB".to_owned()),
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let span = parse_span(text).map_err(|error| format!("{error}; such as 10s"))?;
    if span.get() == 0 {
        return Err("must be more than nothing".to_owned());
    }
    Ok(Duration::from_nanos(span.get()))
}

fn nqn(text: &str) -> Result<String, String> {
    if is_nqn(text) {
        return Ok(text.to_owned());
    }
    Err("must be an NVMe Qualified Name such as nqn.2026-01.org.example:store1".to_owned())
}

/// Far above any target's limit; the target's own is found when connecting.
const COMMAND_BYTES_MAX: u64 = 16 << 20;
/// Room for a file system with something in it.
const VOLUME_BYTES_MIN: u64 = 16 << 20;
/// As much as a sparse file on ext4 can be.
const VOLUME_BYTES_MAX: u64 = 16 << 40;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split_whitespace())
    }

    fn demo(line: &str) -> Demo {
        match parse(line).unwrap().command {
            Command::Demo(demo) => demo,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn clap_finds_nothing_wrong_with_the_definition() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[test]
    fn the_demo_has_the_defaults_its_help_names() {
        let plain = demo("ibid demo");
        assert_eq!((plain.serve, plain.size(), plain.lba), (false, 256 << 20, 4096));
        assert_eq!((plain.link, plain.cp_mode, plain.durability), (None, None, Durability::Disk));
        assert_eq!(plain.listen, "127.0.0.1:4420".parse().unwrap());
        assert_eq!(plain.keep(), None);
        assert_eq!(demo("ibid demo --serve").size(), 1 << 30);
    }

    #[test]
    fn the_demo_takes_every_option_of_its_stable_handle() {
        let demo = demo(
            "ibid demo --serve --listen [::1]:0 --size 2GiB --lba 512 --link af_packet --cp-mode full --durability memory --keep /tmp/k",
        );
        assert_eq!((demo.size(), demo.lba), (2 << 30, 512));
        assert_eq!(demo.link, Some(DemoLink::AfPacket));
        assert_eq!((demo.cp_mode, demo.durability), (Some(CpMode::Full), Durability::Memory));
        assert_eq!(demo.keep(), Some(Path::new("/tmp/k")));
    }

    #[test]
    fn a_node_is_named_by_exactly_one_of_socket_and_file() {
        for command in ["status", "cp", "verify v0"] {
            assert!(parse(&format!("ibid {command}")).is_err());
            assert!(parse(&format!("ibid {command} --control /s --config /c")).is_err());
            assert!(parse(&format!("ibid {command} --control /s --json")).is_ok());
        }
        let Command::Status(status) = parse("ibid status --control /s").unwrap().command else {
            panic!()
        };
        assert_eq!(status.node.socket().unwrap(), Path::new("/s"));
        let Command::Status(status) =
            parse("ibid status --config /nonexistent.toml").unwrap().command
        else {
            panic!()
        };
        assert!(
            status
                .node
                .socket()
                .unwrap_err()
                .to_string()
                .starts_with("/nonexistent.toml: can't be read")
        );
    }

    #[test]
    fn what_is_not_allowed_is_refused_with_what_is() {
        for (line, told) in [
            ("ibid demo --size 1GB", "B, KiB, MiB, GiB, TiB"),
            ("ibid demo --size 1MiB", "between 16MiB and 16TiB"),
            ("ibid demo --lba 1024", "512, 4096"),
            ("ibid demo --link tap", "memif, af_packet"),
            ("ibid demo --cp-mode delta", "reference, full"),
            ("ibid demo --durability pmem", "disk, memory"),
            ("ibid demo --listen 4420", "invalid socket address"),
            ("ibid bench --connect 127.0.0.1:4420 --nqn store", "nqn.2026-01.org.example:store1"),
            ("ibid bench --connect 127.0.0.1:4420", "--nqn"),
            (
                "ibid bench --connect 127.0.0.1:4420 --nqn nqn.2014-08.com.example --size 1000B",
                "multiple of 512B",
            ),
            (
                "ibid bench --connect 127.0.0.1:4420 --nqn nqn.2014-08.com.example --reads 101",
                "0..=100",
            ),
            ("ibid cp --control /s --timeout 0s", "more than nothing"),
            ("ibid verify --control /s", "<VOLUME>"),
            ("ibid run", "--config"),
            ("ibid run --config /c --pcap-decrypted", "--pcap <FILE>"),
            ("ibid run --config /c --link-faults loss=1%", "the key must be drop, "),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(told), "{line}:\n{error}");
        }
    }

    #[test]
    fn a_bench_without_options_writes_4_kib_at_random() {
        let line = "ibid bench --connect 127.0.0.1:4420 --nqn nqn.2014-08.com.example:x";
        let Command::Bench(bench) = parse(line).unwrap().command else { panic!() };
        assert_eq!(
            (bench.depth, bench.size, bench.reads, bench.order),
            (32, 4096, 0, Order::Random)
        );
        assert_eq!((bench.nsid, bench.queues, bench.seconds, bench.seed), (1, 1, 10, 1));
        assert!(bench.host_nqn.is_none() && bench.region.is_none() && !bench.json);
        assert!(!bench.header_digest && !bench.data_digest);
    }
}
