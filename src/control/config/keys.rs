//! Every key a node's file may have, once: what it takes, what stands for it when it is absent, what it means.
//! The reader refuses by this table, its messages quote it, and docs/config.md is written from it ([`reference`]).
//! Does not read anything itself: see `read`.

use core::fmt::Write as _;

/// One key of a section.
pub(super) struct Key {
    pub(super) name: &'static str,
    /// Ends the sentence "must be …".
    pub(super) allowed: &'static str,
    pub(super) absent: Absent,
    pub(super) meaning: &'static str,
}

/// What happens where a key is not written.
pub(super) enum Absent {
    /// The file is refused.
    Refused,
    /// This TOML value stands for it.
    Means(&'static str),
    /// The code decides, as this says.
    Decides(&'static str),
}

/// One `[section]`, or `[[section]]` where it may be repeated.
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) repeated: bool,
    pub(super) meaning: &'static str,
    pub(super) keys: &'static [Key],
}

const fn key(
    name: &'static str,
    allowed: &'static str,
    absent: Absent,
    meaning: &'static str,
) -> Key {
    Key { name, allowed, absent, meaning }
}

use Absent::{Decides, Means, Refused};

pub(super) const NODE: Section = Section {
    name: "node",
    repeated: false,
    meaning: "Who this node is and what it may use of the machine.",
    keys: &[
        key(
            "name",
            "1 to 32 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit",
            Refused,
            "Shown in status and logs.",
        ),
        key(
            "role",
            "\"source\" or \"destination\"",
            Refused,
            "The source takes client writes, the destination holds the mirror.",
        ),
        key(
            "pair",
            "a UUID that is not all zeros (`cat /proc/sys/kernel/random/uuid` makes one)",
            Refused,
            "Names the pair; the same on both nodes. A node talks to no other pair.",
        ),
        key(
            "cpu",
            "a CPU number from 0 to 1023",
            Decides("not pinned"),
            "The core the shard's polling thread is pinned to.",
        ),
        key(
            "idle",
            "\"adaptive\" or \"spin\"",
            Means("\"adaptive\""),
            "With nothing to do, `adaptive` backs off to short sleeps; `spin` keeps a whole core busy for the last microseconds of latency.",
        ),
        key(
            "huge_pages",
            "true or false",
            Means("true"),
            "Take log memory from huge pages; where there are none, ordinary memory with a warning.",
        ),
        key(
            "huge_page_size",
            "\"2MiB\" or \"1GiB\"",
            Means("\"2MiB\""),
            "Which. Of 1 GiB whole ones are taken, and they must have been reserved, best at boot (hugepages/README.md); where there are too few, 2 MiB pages with a warning.",
        ),
        key(
            "control",
            "an absolute path of at most 96 bytes",
            Decides("`/run/ibid/NAME.sock`"),
            "The UNIX socket that `ibid status`, `ibid cp` and `ibid verify` talk to. Only its owner may open it.",
        ),
        key(
            "read_memory",
            "a multiple of 2MiB between 2MiB and 64GiB",
            Means("\"64MiB\""),
            "Memory for reads that the log can't answer, taken at start.",
        ),
    ],
};

pub(super) const LOG: Section = Section {
    name: "log",
    repeated: false,
    meaning: "The non-volatile log. Its `segments` lie in memory and on `device`; both nodes need the same `segments` and `segment_size`.",
    keys: &[
        key(
            "device",
            "an absolute path",
            Refused,
            "File or block device the log is persisted to; a missing file is made.",
        ),
        key(
            "size",
            "a multiple of 4KiB, at least segments x segment_size + 1MiB for superblocks + 4KiB for each 127MiB of each volume",
            Decides("the least that is allowed"),
            "How much of the device the log may use. Behind the segments lies the map of blocks that the peer lacks, a bit for each 4KiB.",
        ),
        key(
            "segments",
            "a number from 3 to 64",
            Means("4"),
            "One is written, one drains, the rest absorb bursts. A write waits when all are full.",
        ),
        key(
            "segment_size",
            "a multiple of 2MiB between 4MiB and 4GiB",
            Means("\"64MiB\""),
            "A full segment starts a consistency point.",
        ),
        key(
            "durability",
            "\"disk\" or \"memory\"",
            Means("\"disk\""),
            "`disk`: a write is acknowledged once the log device holds it. `memory`: once this node's RAM holds it; a power cut on both nodes loses it.",
        ),
        key(
            "cp_interval",
            "a time from 100ms to 1h",
            Means("\"10s\""),
            "The longest time between two consistency points while there are writes.",
        ),
        key(
            "cp_mode",
            "\"reference\" or \"full\"",
            Means("\"reference\""),
            "`full` sends every block again at a consistency point; there to measure what references save.",
        ),
    ],
};

pub(super) const LINK: Section = Section {
    name: "link",
    repeated: false,
    meaning: "The DPDK port that leads to the peer, and both ends' addresses on it.",
    keys: &[
        key(
            "device",
            "\"af_packet\", \"memif\", \"vdev\" or \"pci\"",
            Refused,
            "`af_packet`: a kernel interface. `memif`: shared memory between two processes of one machine. `vdev`: any DPDK virtual device. `pci`: a NIC that was given to vfio-pci (`dpdk-config/bind.sh`), driven by DPDK itself.",
        ),
        key(
            "interface",
            "the name of a network interface: 1 to 15 bytes without '/', ',' or blanks",
            Decides("required with `af_packet`, refused otherwise"),
            "The kernel interface; its MTU must be at least `mtu`.",
        ),
        key(
            "socket",
            "an absolute path of at most 96 bytes without ',' or blanks",
            Decides("required with `memif`, refused otherwise"),
            "The socket over which the two memif ends meet.",
        ),
        key(
            "memif_role",
            "\"server\" or \"client\"",
            Decides("required with `memif`, refused otherwise"),
            "One node is the server, the other the client.",
        ),
        key(
            "vdev",
            "a DPDK device string without blanks, such as \"net_tap0,iface=ibid0\"",
            Decides("required with `vdev`, refused otherwise"),
            "Given to DPDK as it stands.",
        ),
        key(
            "address",
            "a PCI address as in /sys/bus/pci/devices, such as \"0000:3b:00.0\"",
            Decides("required with `pci`, refused otherwise"),
            "The NIC. DPDK touches no other.",
        ),
        key(
            "local",
            "an IP address of one host and a port, such as \"10.9.0.1:4790\" or \"[fd00:9::1]:4790\"",
            Refused,
            "This node's address on the link; the kernel need not know it.",
        ),
        key(
            "peer",
            "an IP address of one other host and a port, of the same family as link.local, such as \"10.9.0.2:4790\" or \"[fd00:9::2]:4790\"",
            Refused,
            "The peer's `local`.",
        ),
        key(
            "peer_mac",
            "one station's Ethernet address, such as \"02:00:00:00:00:02\"",
            Decides("asked by ARP or NDP"),
            "Where neither can ask. With a gateway that leads to the peer, the gateway's.",
        ),
        key(
            "prefix",
            "a number from 1 to 32, with IPv6 to 128",
            Decides("everybody is on the link's own segment; required with `gateway`"),
            "How many bits of `local` all addresses of its network share, the 24 of 10.9.0.1/24. A peer outside of it is sent to through `gateway`.",
        ),
        key(
            "gateway",
            "an IP address of one other host, in the network of `local` and `prefix` (or link-local, with IPv6)",
            Decides("none; required where `peer` is outside of `prefix`"),
            "The router that leads to the peer. Ignored for a peer within `prefix`.",
        ),
        key(
            "vlan",
            "a number from 1 to 4094",
            Decides("no tag"),
            "The 802.1Q VLAN that frames are tagged with, priority 0. Frames of another, untagged ones and ones with two tags are dropped. With a kernel interface, name the interface itself here, not a VLAN interface of it.",
        ),
        key(
            "mtu",
            "a number from 1500 to 9000",
            Means("9000"),
            "Largest IP packet on the link; 9000 carries two blocks whole. Every hop must allow it.",
        ),
        key(
            "key",
            "an absolute path",
            Decides(
                "the credential `ibid-link-key` that systemd gives (`LoadCredential=`); without either the node does not start",
            ),
            "File with the pair's key, one line as `ibid keygen` writes it, the same on both nodes. It must belong to the user that runs the node, and nobody else may read it (mode 0600). Whoever has it can be either node.",
        ),
        key(
            "encryption",
            "\"full\" or \"integrity-only\"",
            Means("\"full\""),
            "`full`: frames are encrypted and authenticated. `integrity-only`: whoever sees the link can read it, and nobody can change it; for a cable that nobody else can reach. The same on both nodes.",
        ),
    ],
};

pub(super) const PEER: Section = Section {
    name: "peer",
    repeated: false,
    meaning: "What happens while the peer is away, and when it is back. May be left out as a whole; give both nodes the same.",
    keys: &[
        key(
            "on_peer_loss",
            "\"stall\" or \"continue\"",
            Means("\"stall\""),
            "`stall`: writes wait, so that an acknowledged write is never on one node only. `continue`: the source goes on alone, notes which blocks the peer lacks, and sends them when it is back; until then there is no second copy.",
        ),
        key(
            "timeout",
            "a time from 500ms to 60s",
            Means("\"2s\""),
            "A peer that is silent for so long is away.",
        ),
        key(
            "stall_timeout",
            "a time from 1s to 1h",
            Means("\"20s\""),
            "A write that has waited so long, for a peer that is away or for room in a full log, ends with a status that asks the host to try again. It should be shorter than the hosts' own limit (30 s on Linux), after which they reset the connection.",
        ),
        key(
            "catch_up_rate",
            "\"unlimited\", or a size from 1MiB to 1TiB, for each second",
            Means("\"unlimited\""),
            "How much of the blocks that the peer lacks is sent to it in a second, beside new writes.",
        ),
    ],
};

pub(super) const TARGET: Section = Section {
    name: "target",
    repeated: false,
    meaning: "The NVMe/TCP target clients connect to. A source must have one. With one at the destination, hosts connect to both nodes and see one subsystem with two paths: give both the same `nqn` and `serial`.",
    keys: &[
        key(
            "listen",
            "an IP address and a port, such as \"10.0.0.1:4420\" (port 0: the kernel chooses)",
            Refused,
            "Where clients connect.",
        ),
        key(
            "allow_wildcard",
            "true or false",
            Means("false"),
            "Whether `listen` may be 0.0.0.0 or [::], that is every network the machine is on.",
        ),
        key(
            "nqn",
            "an NVMe Qualified Name such as \"nqn.2026-01.org.example:store1\", at most 223 bytes, and not the discovery name",
            Decides("`nqn.2014-08.org.nvmexpress:uuid:` and `node.pair`"),
            "The subsystem's name; the same on both nodes.",
        ),
        key(
            "serial",
            "1 to 20 printable ASCII characters without a blank at either end",
            Decides("`ibid` and 16 digits of `node.pair`"),
            "The subsystem's serial number.",
        ),
        key(
            "hosts",
            "\"any\", or a list of 1 to 64 different host NQNs",
            Refused,
            "Which hosts may connect. It has no default: opening a store to everyone is something to write down. A host without a `[[host]]` connects without authentication, by the name it gives; `ibid status` says which may.",
        ),
        key(
            "queue_depth",
            "a number from 2 to 1024",
            Means("128"),
            "Entries a client may ask for in a queue. Each takes 2 KiB for each of the 128 connections there may be, all of it at the start: 32 MiB with 128 entries, 256 MiB with 1024.",
        ),
        key(
            "io_queues",
            "a number from 1 to 64",
            Means("8"),
            "I/O queues a client may have; with its admin queue no more than `connections_per_host` and `connections_per_address` allow.",
        ),
        key(
            "connections_per_address",
            "a number from 2 to 128",
            Means("64"),
            "TCP connections from one address (with IPv6: one /64), of the 128 there are. Beyond it only its own that have not connected are replaced, so that no address locks others out.",
        ),
        key(
            "connections_per_host",
            "a number from 2 to 128",
            Means("64"),
            "Queues of one host, admin and I/O, over all its controllers but those for discovery; hosts are told apart by their NQN.",
        ),
        key(
            "referrals",
            "a list of at most 8 different addresses of one host with a port, such as [\"10.0.0.2:4420\"], `listen` not among them",
            Means("[]"),
            "Other discovery services that this one names, as a rule the peer's `listen`: then `nvme connect-all` finds both paths.",
        ),
    ],
};

pub(super) const AUTH: Section = Section {
    name: "auth",
    repeated: false,
    meaning: "How hosts authenticate in band (DH-HMAC-CHAP). May be left out as a whole; who must authenticate is said by `[[host]]`.",
    keys: &[
        key(
            "hashes",
            "a list of different ones of \"sha256\", \"sha384\" and \"sha512\"",
            Means("[\"sha512\", \"sha384\", \"sha256\"]"),
            "Hash functions that are allowed. The first that the host offers is taken.",
        ),
        key(
            "groups",
            "a list of different ones of \"null\", \"ffdhe2048\", \"ffdhe3072\", \"ffdhe4096\", \"ffdhe6144\" and \"ffdhe8192\"",
            Means("[\"ffdhe3072\", \"ffdhe4096\", \"ffdhe6144\", \"ffdhe8192\"]"),
            "Diffie-Hellman groups that are allowed. The first that the host offers is taken. With `null` or a small group, whoever records an authentication can try secrets on it. What host and target agree on is not itself protected, so the weakest that stands here is what it is worth.",
        ),
    ],
};

pub(super) const HOST: Section = Section {
    name: "host",
    repeated: true,
    meaning: "A host that must authenticate before it can do anything, on each of its queues. At most 64 of them, or none.",
    keys: &[
        key(
            "nqn",
            "the NQN of one host, different for each and in target.hosts where that is a list",
            Refused,
            "The host.",
        ),
        key(
            "secret",
            "an absolute path",
            Refused,
            "File with the host's secret, one line as `nvme gen-dhchap-key` gives it (`DHHC-1:hh:…:`). It must belong to the user that runs the node, and nobody else may read it (mode 0600).",
        ),
        key(
            "controller_secret",
            "an absolute path, other than `secret`",
            Decides("the target does not authenticate; a host that asks it to is refused"),
            "File with the secret that the target proves to know where the host asks (`nvme connect --dhchap-ctrl-secret`). Another secret than the host's.",
        ),
    ],
};

pub(super) const VOLUME: Section = Section {
    name: "volume",
    repeated: true,
    meaning: "One volume, exported as one NVMe namespace: the first is namespace 1. 1 to 48 of them, the same order, `size`, `lba` and `uuid` on both nodes.",
    keys: &[
        key(
            "name",
            "1 to 32 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit, different for each volume",
            Refused,
            "Shown in status and logs.",
        ),
        key(
            "device",
            "an absolute path, different for each volume and from log.device",
            Refused,
            "Backing file or block device. LBA n lies at n x `lba`: an ordinary image.",
        ),
        key(
            "size",
            "a multiple of 4KiB between 1MiB and 65536TiB",
            Decides("the device's own"),
            "A missing file is made with this size, sparse; an existing one must have it.",
        ),
        key(
            "lba",
            "512 or 4096",
            Means("4096"),
            "Bytes in a logical block. Choose 512 for hosts that know nothing else.",
        ),
        key(
            "uuid",
            "a UUID that is not all zeros, different for each volume",
            Refused,
            "How hosts recognise the volume, on either node.",
        ),
    ],
};

/// All sections, in the order a file has them.
pub(super) const SECTIONS: [&Section; 8] =
    [&NODE, &LOG, &LINK, &PEER, &TARGET, &AUTH, &HOST, &VOLUME];

/// The reference of all keys as a Markdown page; docs/config.md is this text.
pub fn reference() -> String {
    let mut page = String::from(INTRODUCTION);
    for section in SECTIONS {
        let heading = if section.repeated {
            format!("[[{}]]", section.name)
        } else {
            format!("[{}]", section.name)
        };
        let _ = write!(page, "\n## `{heading}`\n\n{}\n\n", section.meaning);
        page.push_str("| key | takes | when absent | meaning |\n|---|---|---|---|\n");
        for key in section.keys {
            let absent = match key.absent {
                Refused => "refused".to_owned(),
                Means(literal) => format!("`{literal}`"),
                Decides(how) => how.to_owned(),
            };
            let _ =
                writeln!(page, "| `{}` | {} | {absent} | {} |", key.name, key.allowed, key.meaning);
        }
    }
    page
}

const INTRODUCTION: &str = "# The configuration of a node

`ibid run --config FILE` reads one TOML file per node. Every mistake in it is reported at once, each with file, key, value and what
is allowed; a key that is not listed here is one of them.

Sizes are written with a binary unit (`\"64MiB\"`: B, KiB, MiB, GiB, TiB), spans of time with us, ms, s, min or h (`\"10s\"`).
Paths are absolute. This page is written from the table that the reader itself uses (`src/control/config/keys.rs`).
";
