//! What a configuration file may and may not say, and what an operator is told.

use toml::{Table, Value};

use super::*;
use std::net::IpAddr;

const PAIR: &str = "6f1c4a52-3d0e-4f0b-9c5e-2f6f0a7b8c9d";

/// The shortest file a source can have.
const SOURCE: &str = r#"
[node]
name = "a"
role = "source"
pair = "6f1c4a52-3d0e-4f0b-9c5e-2f6f0a7b8c9d"
[log]
device = "/var/lib/ibid/a.log"
[link]
device = "af_packet"
interface = "ens2"
local = "10.9.0.1:4790"
peer = "10.9.0.2:4790"
[target]
listen = "10.0.0.1:4420"
hosts = "any"
[[volume]]
name = "v0"
device = "/var/lib/ibid/v0.img"
uuid = "11111111-2222-4333-8444-555555555555"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/ibid/a.toml"))
}

/// What the operator reads when `find` in the good file is replaced.
fn told(find: &str, replace: &str) -> String {
    assert_eq!(SOURCE.matches(find).count(), 1, "{find:?} must stand once in the good file");
    parse(&SOURCE.replace(find, replace)).expect_err(replace).to_string()
}

#[test]
fn the_shortest_file_gets_the_documented_defaults() {
    let config = parse(SOURCE).unwrap();
    assert_eq!(config.node.control, Path::new("/run/ibid/a.sock"));
    assert_eq!(
        (config.node.idle, config.node.huge_pages, config.node.cpu),
        (Idle::Adaptive, true, None)
    );
    assert_eq!((config.node.read_memory, config.node.huge_page_size), (64 << 20, 2 << 20));
    assert_eq!((config.log.segments, config.log.segment_size), (4, 64 << 20));
    // The volume's size is its device's, and with it the map's.
    assert_eq!(config.log.size, None);
    let peer = config.peer;
    assert_eq!((peer.on_loss, peer.catch_up_rate), (OnPeerLoss::Stall, None));
    assert_eq!(peer.timeout, Nanos::from_millis(2_000));
    assert_eq!(peer.stall_timeout, Nanos::from_millis(20_000));
    assert_eq!(peer, Peer::default());
    assert_eq!(config.log.cp_interval, Nanos::from_millis(10_000));
    assert_eq!((config.log.durability, config.log.cp_mode), (Durability::Disk, CpMode::Reference));
    assert_eq!(config.link.mtu, 9000);
    assert_eq!((config.link.key, config.link.encryption), (None, Encryption::Full));
    let target = config.target.unwrap();
    assert_eq!(target.nqn, format!("{NQN_UUID_PREFIX}{PAIR}"));
    assert_eq!(target.serial, "ibid6f1c4a523d0e4f0b");
    assert_eq!((target.queue_depth, target.io_queues), (128, 8));
    assert_eq!((target.connections_per_address, target.connections_per_host), (64, 64));
    assert_eq!((config.volumes[0].size, config.volumes[0].lba), (None, 4096));
}

#[test]
fn every_mistake_names_file_key_value_and_what_is_allowed() {
    let log = "device = \"/var/lib/ibid/a.log\"\n";
    let cases: &[(&str, &str, &str)] = &[
        // A value by itself.
        (
            log,
            &format!("{log}segment_size = \"3MiB\"\n"),
            "log.segment_size = \"3MiB\": must be a multiple of 2MiB between 4MiB and 4GiB",
        ),
        (
            log,
            &format!("{log}segment_size = 67108864\n"),
            "log.segment_size = 67108864: must be a multiple of 2MiB between 4MiB and 4GiB",
        ),
        (log, &format!("{log}segments = 2\n"), "log.segments = 2: must be a number from 3 to 64"),
        (log, &format!("{log}segments = -3\n"), "log.segments = -3: must be a number from 3 to 64"),
        (
            log,
            &format!("{log}durability = \"tape\"\n"),
            "log.durability = \"tape\": must be \"disk\" or \"memory\"",
        ),
        (
            log,
            &format!("{log}cp_interval = \"10\"\n"),
            "log.cp_interval = \"10\": must be a time from 100ms to 1h",
        ),
        (
            log,
            &format!("{log}cp_interval = \"2h\"\n"),
            "log.cp_interval = \"2h\": must be a time from 100ms to 1h",
        ),
        (log, &format!("{log}cp_mode = 1\n"), "log.cp_mode = 1: must be \"reference\" or \"full\""),
        (log, "device = \"a.log\"\n", "log.device = \"a.log\": must be an absolute path"),
        (
            "role = \"source\"",
            "role = \"primary\"",
            "node.role = \"primary\": must be \"source\" or \"destination\"",
        ),
        ("name = \"a\"", "name = \"A b\"", "node.name = \"A b\": must be 1 to 32 of a-z"),
        (
            PAIR,
            "00000000-0000-0000-0000-000000000000",
            "node.pair = \"00000000-0000-0000-0000-000000000000\": must be a UUID that is not all zeros",
        ),
        ("[log]", "cpu = 1024\n[log]", "node.cpu = 1024: must be a CPU number from 0 to 1023"),
        (
            "[log]",
            "huge_pages = \"yes\"\n[log]",
            "node.huge_pages = \"yes\": must be true or false",
        ),
        (
            "[log]",
            "huge_page_size = \"4MiB\"\n[log]",
            "node.huge_page_size = \"4MiB\": must be \"2MiB\" or \"1GiB\"",
        ),
        (
            "[log]",
            "control = \"/\"\n[log]",
            "node.control = \"/\": must be an absolute path of at most 96 bytes",
        ),
        (
            "[log]",
            "read_memory = \"1MiB\"\n[log]",
            "node.read_memory = \"1MiB\": must be a multiple of 2MiB between 2MiB and 64GiB",
        ),
        (
            "\"10.9.0.1:4790\"",
            "\"0.0.0.0:4790\"",
            "link.local = \"0.0.0.0:4790\": must be an IP address of one host and a port",
        ),
        (
            "\"10.9.0.1:4790\"",
            "\"10.9.0.1:0\"",
            "link.local = \"10.9.0.1:0\": must be an IP address of one host and a port",
        ),
        (
            "\"10.9.0.2:4790\"",
            "\"10.9.0.2\"",
            "link.peer = \"10.9.0.2\": must be an IP address of one other host and a port",
        ),
        (
            "\"10.9.0.2:4790\"",
            "\"[fd00::2]:4790\"",
            "link.peer = \"[fd00::2]:4790\": must be of the same family as link.local",
        ),
        (
            "\"10.9.0.2:4790\"",
            "\"[fe80::2%3]:4790\"",
            "link.peer = \"[fe80::2%3]:4790\": must be an IP address of one other host",
        ),
        (
            "\"10.9.0.2:4790\"",
            "\"[::ffff:10.9.0.2]:4790\"",
            "link.peer = \"[::ffff:10.9.0.2]:4790\": must be an IP address of one other host",
        ),
        ("[target]", "vlan = 0\n[target]", "link.vlan = 0: must be a number from 1 to 4094"),
        ("[target]", "vlan = 4095\n[target]", "link.vlan = 4095: must be a number from 1 to 4094"),
        ("[target]", "prefix = 33\n[target]", "link.prefix = 33: must be at most 32"),
        ("[target]", "prefix = 0\n[target]", "link.prefix = 0: must be a number from 1 to 32"),
        (
            "[target]",
            "prefix = 31\n[target]",
            "link.gateway is missing: link.peer is outside of the network of link.local and link.prefix",
        ),
        (
            "[target]",
            "gateway = \"10.9.0.254\"\n[target]",
            "link.prefix is missing: link.gateway is written",
        ),
        (
            "[target]",
            "prefix = 24\ngateway = \"10.8.0.254\"\n[target]",
            "link.gateway = \"10.8.0.254\": must be in the network of link.local and link.prefix",
        ),
        (
            "[target]",
            "prefix = 24\ngateway = \"10.9.0.2\"\n[target]",
            "link.gateway = \"10.9.0.2\": must be another host than",
        ),
        (
            "[target]",
            "prefix = 24\ngateway = \"fe80::1\"\n[target]",
            "link.gateway = \"fe80::1\": must be of the same family",
        ),
        (
            "[target]",
            "gateway = \"10.9.0.0/24\"\n[target]",
            "link.gateway = \"10.9.0.0/24\": must be an IP address of one other host",
        ),
        (
            "\"10.9.0.2:4790\"",
            "\"239.0.0.1:4790\"",
            "link.peer = \"239.0.0.1:4790\": must be an IP address of one other host",
        ),
        ("[target]", "mtu = 9001\n[target]", "link.mtu = 9001: must be a number from 1500 to 9000"),
        (
            "[target]",
            "peer_mac = \"ff:ff:ff:ff:ff:ff\"\n[target]",
            "link.peer_mac = \"ff:ff:ff:ff:ff:ff\": must be one station's Ethernet address",
        ),
        (
            "\"ens2\"",
            "\"a-name-of-16-byt\"",
            "link.interface = \"a-name-of-16-byt\": must be the name of a network interface",
        ),
        (
            "\"10.0.0.1:4420\"",
            "\"10.0.0.1\"",
            "target.listen = \"10.0.0.1\": must be an IP address and a port",
        ),
        (
            "hosts = \"any\"",
            "hosts = \"all\"",
            "target.hosts = \"all\": must be \"any\", or a list of 1 to 64 different host NQNs",
        ),
        ("hosts = \"any\"", "hosts = []", "target.hosts = []: must be \"any\", or a list"),
        (
            "hosts = \"any\"",
            "hosts = [\"host1\"]",
            "target.hosts = [\"host1\"]: must be \"any\", or a list",
        ),
        (
            "hosts = \"any\"",
            "hosts = \"any\"\nnqn = \"nqn.store\"",
            "target.nqn = \"nqn.store\": must be an NVMe Qualified Name",
        ),
        (
            "hosts = \"any\"",
            "hosts = \"any\"\nserial = \" x\"",
            "target.serial = \" x\": must be 1 to 20 printable ASCII characters",
        ),
        (
            "hosts = \"any\"",
            "hosts = \"any\"\nio_queues = 65",
            "target.io_queues = 65: must be a number from 1 to 64",
        ),
        (
            "hosts = \"any\"",
            "hosts = \"any\"\nio_queues = 64",
            "target.io_queues = 64: must be below target.connections_per_host and target.connections_per_address",
        ),
        (
            "hosts = \"any\"",
            "hosts = \"any\"\nconnections_per_address = 8",
            "target.io_queues = 8: must be below",
        ),
        (
            "hosts = \"any\"",
            "hosts = \"any\"\nconnections_per_address = 1",
            "target.connections_per_address = 1: must be a number from 2 to 128",
        ),
        (
            "hosts = \"any\"",
            "hosts = \"any\"\nconnections_per_host = 129",
            "target.connections_per_host = 129: must be a number from 2 to 128",
        ),
        (
            "hosts = \"any\"",
            "hosts = \"any\"\nreferrals = [\"10.0.0.1:4420\"]",
            "target.referrals = [\"10.0.0.1:4420\"]: must be a list of at most 8 different addresses",
        ),
        (
            "hosts = \"any\"",
            "hosts = \"any\"\nreferrals = [\"10.0.0.2:4420\", \"10.0.0.2:4420\"]",
            "target.referrals = [\"10.0.0.2:4420\", \"10.0.0.2:4420\"]: must be a list",
        ),
        (
            "hosts = \"any\"",
            "hosts = \"any\"\nreferrals = [\"0.0.0.0:4420\"]",
            "target.referrals = [\"0.0.0.0:4420\"]: must be a list",
        ),
        (
            "hosts = \"any\"",
            "hosts = \"any\"\nreferrals = [\"10.0.0.2:0\"]",
            "target.referrals = [\"10.0.0.2:0\"]: must be a list",
        ),
        (
            "hosts = \"any\"",
            "hosts = \"any\"\nreferrals = \"10.0.0.2:4420\"",
            "target.referrals = \"10.0.0.2:4420\": must be a list",
        ),
        (
            "[target]",
            "[peer]\non_peer_loss = \"panic\"\n[target]",
            "peer.on_peer_loss = \"panic\": must be \"stall\" or \"continue\"",
        ),
        (
            "[target]",
            "[peer]\ntimeout = \"499ms\"\n[target]",
            "peer.timeout = \"499ms\": must be a time from 500ms to 60s",
        ),
        (
            "[target]",
            "[peer]\nstall_timeout = \"2h\"\n[target]",
            "peer.stall_timeout = \"2h\": must be a time from 1s to 1h",
        ),
        (
            "[target]",
            "[peer]\ncatch_up_rate = \"1KiB\"\n[target]",
            "peer.catch_up_rate = \"1KiB\": must be \"unlimited\", or a size from 1MiB to 1TiB",
        ),
        ("[target]", "peer_loss = 1\n[target]", "link.peer_loss: unknown"),
        (
            "[target]",
            "[peer]\non_loss = 1\n[target]",
            "peer.on_loss: unknown (allowed here: on_peer_loss,",
        ),
        ("uuid =", "lba = 1024\nuuid =", "volume[0].lba = 1024: must be 512 or 4096"),
        (
            "uuid =",
            "size = \"1GB\"\nuuid =",
            "volume[0].size = \"1GB\": must be a multiple of 4KiB between 1MiB and 65536TiB",
        ),
        (
            "uuid =",
            "size = \"1049088B\"\nlba = 512\nuuid =",
            "volume[0].size = \"1049088B\": must be a multiple of 4KiB",
        ),
        // Values together.
        (
            "\"10.9.0.2:4790\"",
            "\"10.9.0.1:4791\"",
            "link.peer = \"10.9.0.1:4791\": must have another IP address than link.local",
        ),
        (
            "\"10.0.0.1:4420\"",
            "\"0.0.0.0:4420\"",
            "target.listen = \"0.0.0.0:4420\": would listen on every network; name one address, or set target.allow_wildcard = true",
        ),
        (
            "\"10.0.0.1:4420\"",
            "\"[::]:4420\"",
            "target.listen = \"[::]:4420\": would listen on every network",
        ),
        (
            log,
            &format!("{log}size = \"256MiB\"\n"),
            "log.size = \"256MiB\": must be at least 257MiB, that is 4 segments of 64MiB, 1MiB for superblocks, and room for the map",
        ),
        (
            "interface = \"ens2\"",
            "",
            "link.interface is missing: link.device is \"af_packet\"; must be the name of a network interface",
        ),
        (
            "interface = \"ens2\"",
            "interface = \"ens2\"\nsocket = \"/run/m\"",
            "link.socket = \"/run/m\": goes only with link.device = \"memif\"",
        ),
        (
            "\"af_packet\"\ninterface = \"ens2\"",
            "\"pci\"\naddress = \"3b:00.0\"",
            "link.address = \"3b:00.0\": must be a PCI address",
        ),
        (
            "\"af_packet\"\ninterface = \"ens2\"",
            "\"pci\"\naddress = \"0000:3b:00\"",
            "link.address = \"0000:3b:00\": must be a PCI address",
        ),
        (
            "\"af_packet\"\ninterface = \"ens2\"",
            "\"pci\"\naddress = \"0000:3b:20.0\"",
            "link.address = \"0000:3b:20.0\": must be a PCI address",
        ),
        (
            "\"af_packet\"\ninterface = \"ens2\"",
            "\"pci\"\naddress = \"0000:3B:00.0\"",
            "link.address = \"0000:3B:00.0\": must be a PCI address",
        ),
        (
            "\"af_packet\"\ninterface = \"ens2\"",
            "\"pci\"\naddress = \"0000:3b:00.8\"",
            "link.address = \"0000:3b:00.8\": must be a PCI address",
        ),
        (
            "\"af_packet\"\ninterface = \"ens2\"",
            "\"pci\"\naddress = \"0000:3b:00.0,x\"",
            "link.address = \"0000:3b:00.0,x\": must be a PCI address",
        ),
        (
            "/var/lib/ibid/v0.img",
            "/var/lib/ibid/a.log",
            "volume[0].device = \"/var/lib/ibid/a.log\": is log.device already",
        ),
        // Names.
        (
            log,
            &format!("{log}segmnt_size = \"64MiB\"\n"),
            "log.segmnt_size: unknown; did you mean segment_size? (allowed here: device, size, segments,",
        ),
        (
            log,
            &format!("{log}compression = true\n"),
            "log.compression: unknown (allowed here: device,",
        ),
        (
            "[target]\n",
            "[targets]\n",
            "targets: unknown; did you mean target? (allowed here: node, log, link, peer, target, auth, host, volume)",
        ),
        ("[[volume]]", "[volume]", "volume = "),
        (
            "\n[node]",
            "segments = 4\n[node]",
            "segments = 4: stands outside every section; it belongs under [log]",
        ),
        // What is missing.
        (log, "", "log.device is missing: must be an absolute path"),
        ("hosts = \"any\"", "", "target.hosts is missing: must be \"any\", or a list"),
    ];
    for (find, replace, expected) in cases {
        let told = told(find, replace);
        let line = format!("/etc/ibid/a.toml: {expected}");
        assert!(
            told.lines().any(|told| told.starts_with(&line)),
            "\nexpected {line}\ntold     {told}"
        );
    }
}

#[test]
fn hosts_that_authenticate_are_read_and_checked() {
    let h = "nqn.2014-08.com.example:h";
    let host = |keys: &str| format!("{SOURCE}[[host]]\nnqn = \"{h}\"\nsecret = \"/a\"\n{keys}");
    let config = parse(&host("")).unwrap();
    assert_eq!(
        config.auth,
        Auth {
            hosts: vec![AuthHost { nqn: h.into(), secret: "/a".into(), controller_secret: None }],
            ..Auth::default()
        }
    );
    assert_eq!(parse(SOURCE).unwrap().auth, Auth::default());
    let listed = host("").replace("hosts = \"any\"", &format!("hosts = [\"{h}\"]"));
    assert!(parse(&listed).is_ok());
    for (text, told) in [
        (
            host("[[host]]\nnqn = \"nqn.2014-08.com.example:h\"\nsecret = \"/b\"\n"),
            "host[1].nqn = \"nqn.2014-08.com.example:h\": has a [[host]] already",
        ),
        (
            listed.replace("[\"nqn.2014-08.com.example:h\"]", "[\"nqn.2014-08.com.example:i\"]"),
            "is not in target.hosts",
        ),
        (
            host("controller_secret = \"/a\"\n"),
            "host[0].controller_secret = \"/a\": must be another file",
        ),
        (host("").replace("\"/a\"", "\"a\""), "host[0].secret = \"a\": must be an absolute path"),
        (host("").replace("secret = \"/a\"\n", ""), "host[0].secret is missing"),
        (host("").replace("[[host]]", "[host]"), "each written [[host]]"),
        (
            host("key = \"DHHC-1:00:x:\"\n"),
            "host[0].key: unknown (allowed here: nqn, secret, controller_secret)",
        ),
        (
            host("").replace("nqn.2014-08.com.example:h\"", "h\""),
            "host[0].nqn = \"h\": must be the NQN of one host",
        ),
        (format!("{SOURCE}[auth]\nhashes = []\n"), "auth.hashes = []: must be a list"),
        (
            format!("{SOURCE}[auth]\nhashes = [\"sha1\"]\n"),
            "auth.hashes = [\"sha1\"]: must be a list of different ones",
        ),
        (
            format!("{SOURCE}[auth]\ngroups = [\"null\", \"null\"]\n"),
            "must be a list of different ones of \"null\"",
        ),
        (format!("{SOURCE}[auth]\ngroups = \"null\"\n"), "auth.groups = \"null\": must be a list"),
    ] {
        let error = parse(&text).expect_err(told).to_string();
        assert!(error.contains(told), "{told} in\n{error}");
    }
    let many: String =
        (0..65).map(|n| format!("[[host]]\nnqn = \"{h}{n}\"\nsecret = \"/a\"\n")).collect();
    let error = parse(&format!("{SOURCE}{many}")).unwrap_err().to_string();
    assert!(error.contains("[[host]] = 65 of them: must be at most 64"), "{error}");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = SOURCE
        .replace("role = \"source\"", "role = \"x\"")
        .replace("\"10.9.0.1:4790\"", "\"y\"")
        .replace("\"any\"", "\"z\"")
        .replace("uuid =", "uid =");
    let error = parse(&text).unwrap_err();
    let told = error.to_string();
    for key in [
        "node.role",
        "link.local",
        "target.hosts",
        "volume[0].uid: unknown; did you mean uuid?",
        "volume[0].uuid is missing",
    ] {
        assert!(told.contains(key), "{key} in\n{told}");
    }
    assert_eq!(error.problems.len(), 5, "{told}");
}

#[test]
fn a_source_needs_a_target_and_a_destination_does_not() {
    let (before, rest) = SOURCE.split_once("[target]").unwrap();
    let (_, volume) = rest.split_once("[[volume]]").unwrap();
    let without = format!("{before}[[volume]]{volume}");
    let told = parse(&without).unwrap_err().to_string();
    assert_eq!(told, "/etc/ibid/a.toml: [target] is missing: it needs at least listen, hosts");
    let destination = without.replace("\"source\"", "\"destination\"");
    assert_eq!(parse(&destination).unwrap().target, None);
    // One that is there is checked there too.
    let bad =
        SOURCE.replace("\"source\"", "\"destination\"").replace("hosts = \"any\"", "hosts = 1");
    assert!(parse(&bad).unwrap_err().to_string().contains("target.hosts = 1"));
}

#[test]
fn an_empty_file_is_told_what_it_lacks() {
    let told = parse("").unwrap_err().to_string();
    for section in ["[node]", "[log]", "[link]", "[[volume]]"] {
        assert!(told.contains(&format!("{section} is missing: it needs at least ")), "{told}");
    }
}

#[test]
fn a_syntax_error_names_line_and_column() {
    let told = parse("[node]\nname = \"ä\" x\n").unwrap_err().to_string();
    assert!(told.starts_with("/etc/ibid/a.toml:2:12: not TOML: "), "{told}");
    let told = parse("[node]\nname = \"a\"\nname = \"b\"\n").unwrap_err().to_string();
    assert!(told.starts_with("/etc/ibid/a.toml:3:1: not TOML: "), "{told}");
    let told = parse("[node]\nname = \"a").unwrap_err().to_string();
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn a_wildcard_is_taken_when_it_is_asked_for() {
    let text = SOURCE.replace("\"10.0.0.1:4420\"", "\"[::]:4420\"\nallow_wildcard = true");
    assert!(parse(&text).unwrap().target.unwrap().listen.ip().is_unspecified());
}

#[test]
fn two_volumes_share_nothing() {
    let second = "[[volume]]\nname = \"v0\"\ndevice = \"/var/lib/ibid/v0.img\"\nuuid = \"11111111-2222-4333-8444-555555555555\"\n";
    let told = parse(&format!("{SOURCE}{second}")).unwrap_err().to_string();
    for key in ["volume[1].name", "volume[1].device", "volume[1].uuid"] {
        assert!(told.contains(key), "{told}");
    }
    let other = second.replace("v0", "v1").replace("1111-2222", "1111-2223");
    let config = parse(&format!("{SOURCE}{other}")).unwrap();
    assert_eq!(config.volumes.len(), 2);
}

#[test]
fn more_volumes_than_a_node_has_are_refused() {
    let mut text = SOURCE.to_owned();
    for index in 1..=VOLUMES_MAX {
        text += &format!(
            "[[volume]]\nname = \"w{index}\"\ndevice = \"/w{index}\"\nuuid = \"11111111-2222-4333-8444-{index:012}\"\n"
        );
    }
    assert!(
        parse(&text)
            .unwrap_err()
            .to_string()
            .contains("[[volume]] = 49 of them: must be at most 48")
    );
}

#[test]
fn a_logs_size_includes_the_map_of_its_volumes() {
    // A page has a bit for 32512 blocks, 127 MiB, and belongs to one volume.
    for (volume, pages) in [(1 << 20, 1), (127 << 20, 1), ((127 << 20) + 4096, 2), (1 << 40, 8257)]
    {
        assert_eq!(map_bytes(volume), pages * 4096, "{volume}");
    }
    let segments = 4 * (64 << 20) + LOG_HEAD_BYTES;
    assert_eq!(Log::size_needed(4, 64 << 20, &[1 << 20, 1 << 20]), segments + 2 * 4096);
    let sized = SOURCE.replace("uuid =", "size = \"1GiB\"\nuuid =");
    let config = parse(&sized).unwrap();
    assert_eq!(config.log.size, Some(segments + 9 * 4096));
    // What the file says must have room for the volumes it knows; others are looked at when they are open.
    let log = "device = \"/var/lib/ibid/a.log\"\n";
    let short = format!("{log}size = \"257MiB\"\n");
    let told = parse(&sized.replace(log, &short)).unwrap_err().to_string();
    assert_eq!(
        told,
        "/etc/ibid/a.toml: log.size = \"257MiB\": must be at least 263204KiB, that is 4 segments of 64MiB, 1MiB for superblocks, and 36KiB for the map of the volumes"
    );
    let unsized_volume = parse(&SOURCE.replace(log, &short)).unwrap();
    assert!(
        unsized_volume
            .log
            .size_with(&[1 << 20])
            .unwrap_err()
            .starts_with("must be at least 263172KiB, ")
    );
}

#[test]
fn what_is_written_reads_back_the_same() {
    let plain = parse(SOURCE).unwrap();
    let mut every = plain.clone();
    every.node.cpu = Some(3);
    every.node.idle = Idle::Spin;
    every.node.huge_pages = false;
    every.node.huge_page_size = 1 << 30;
    every.log.size = Some(1 << 40);
    every.peer = Peer {
        on_loss: OnPeerLoss::Continue,
        timeout: Nanos::from_millis(500),
        stall_timeout: Nanos::from_millis(3_600_000),
        catch_up_rate: Some(100 << 20),
    };
    every.log.durability = Durability::Memory;
    every.log.cp_mode = CpMode::Full;
    every.log.cp_interval = Nanos::from_millis(250);
    every.log.device = PathBuf::from("/tmp/with \"quotes\" and \\ and ü\n");
    every.link.device =
        LinkDevice::Memif { socket: PathBuf::from("/run/ibid/memif"), role: MemifRole::Client };
    every.link.peer_mac = Some([2, 0, 0, 0, 0, 1]);
    every.link.mtu = 1500;
    every.link.prefix = Some(24);
    every.link.gateway = Some("10.9.0.254".parse().unwrap());
    every.link.vlan = Some(4094);
    every.volumes[0].size = Some(1 << 30);
    every.volumes[0].lba = 512;
    let target = every.target.as_mut().unwrap();
    target.hosts =
        Hosts::Only(vec!["nqn.2014-08.com.example:h1".into(), "nqn.2014-08.com.example:h2".into()]);
    every.auth = Auth {
        hashes: vec![AuthHash::Sha384],
        groups: vec![AuthGroup::Null, AuthGroup::Ffdhe8192],
        hosts: vec![
            AuthHost {
                nqn: "nqn.2014-08.com.example:h1".into(),
                secret: "/etc/ibid/h1.key".into(),
                controller_secret: None,
            },
            AuthHost {
                nqn: "nqn.2014-08.com.example:h2".into(),
                secret: "/etc/ibid/h2.key".into(),
                controller_secret: Some("/etc/ibid/own.key".into()),
            },
        ],
    };
    let target = every.target.as_mut().unwrap();
    target.listen = "[::]:0".parse().unwrap();
    target.allow_wildcard = true;
    target.referrals =
        vec!["10.0.0.2:4420".parse().unwrap(), "[2001:db8::2]:8009".parse().unwrap()];
    let mut vdev = plain.clone();
    vdev.link.device = LinkDevice::Vdev("net_tap0,iface=ibid0".into());
    vdev.target = None;
    vdev.link.local = "[2001:db8:1::1]:4790".parse().unwrap();
    vdev.link.peer = "[2001:db8:2::1]:4790".parse().unwrap();
    vdev.link.prefix = Some(64);
    vdev.link.gateway = Some("fe80::ff".parse().unwrap());
    vdev.node.role = Role::Destination;
    let mut pci = vdev.clone();
    pci.link.device = LinkDevice::Pci("0000:3b:1f.7".into());
    for config in [plain, every, vdev, pci] {
        assert_eq!(parse(&config.to_toml()), Ok(config.clone()), "{}", config.to_toml());
    }
}

#[test]
fn a_router_is_used_for_a_peer_that_is_not_near_and_for_no_other() {
    let link = |local: &str, peer: &str, route: &str| {
        let text = SOURCE
            .replace("\"10.9.0.1:4790\"", &format!("\"{local}\""))
            .replace("\"10.9.0.2:4790\"", &format!("\"{peer}\""))
            .replace("[target]", &format!("{route}\n[target]"));
        parse(&text).unwrap().link.router()
    };
    let (v4, v6) = ("gateway = \"10.9.0.254\"", "gateway = \"fe80::1\"");
    let router = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    assert_eq!(link("10.9.0.1:1", "10.9.0.2:1", ""), None);
    assert_eq!(link("10.9.0.1:1", "10.9.0.2:1", "prefix = 24"), None);
    assert_eq!(link("10.9.0.1:1", "10.9.0.2:1", &format!("prefix = 24\n{v4}")), None);
    assert_eq!(
        link("10.9.0.1:1", "10.9.1.2:1", &format!("prefix = 24\n{v4}")),
        router("10.9.0.254")
    );
    assert_eq!(link("10.9.0.1:1", "10.9.1.2:1", &format!("prefix = 23\n{v4}")), None);
    let (near, far) = ("[2001:db8::2]:1", "[2001:db8:1::2]:1");
    assert_eq!(link("[2001:db8::1]:1", near, &format!("prefix = 64\n{v6}")), None);
    assert_eq!(link("[2001:db8::1]:1", far, &format!("prefix = 64\n{v6}")), router("fe80::1"));
    assert_eq!(link("[2001:db8::1]:1", far, "prefix = 32"), None);
    assert_eq!(link("[fe80::1]:1", "[fe80::2]:1", "prefix = 128"), None);
}

#[test]
fn a_written_file_has_every_key_of_the_table() {
    let hosts = "[[host]]\nnqn = \"nqn.2014-08.com.example:h\"\nsecret = \"/a\"\ncontroller_secret = \"/b\"\n";
    let text = SOURCE.replace("uuid =", "size = \"1GiB\"\nuuid =") + hosts;
    let config = parse(&text).unwrap().to_toml();
    let root: Table = toml::from_str(&config).unwrap();
    // Absent for a reason: no core to pin to, no MAC to name, nobody between the two, and keys of other link devices.
    let absent = [
        "cpu",
        "peer_mac",
        "prefix",
        "gateway",
        "vlan",
        "socket",
        "memif_role",
        "vdev",
        "address",
        "key",
    ];
    for section in keys::SECTIONS {
        let table = match &root[section.name] {
            Value::Array(items) => items[0].as_table().unwrap(),
            other => other.as_table().unwrap(),
        };
        for key in section.keys {
            assert_eq!(
                table.contains_key(key.name),
                !absent.contains(&key.name),
                "{}.{}",
                section.name,
                key.name
            );
        }
    }
}

#[test]
fn a_file_that_cant_be_read_is_named() {
    let missing = Config::load(Path::new("/nonexistent/a.toml")).unwrap_err().to_string();
    assert!(missing.starts_with("/nonexistent/a.toml: can't be read: No such file"), "{missing}");
    let file = std::env::temp_dir().join(format!("ibid-config-{}.toml", std::process::id()));
    for (bytes, expected) in [
        (vec![0xff, 0xfe], "not UTF-8 text"),
        (vec![b'#'; CONFIG_BYTES_MAX as usize + 1], "larger than 1MiB"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        assert!(Config::load(&file).unwrap_err().to_string().contains(expected));
    }
    std::fs::write(&file, SOURCE).unwrap();
    assert_eq!(Config::load(&file), parse(SOURCE));
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn a_long_value_is_shortened_in_the_message() {
    let told = told("name = \"a\"", &format!("name = \"{}\"", "ü".repeat(4000)));
    assert!(told.len() < 400, "{told}");
}

/// Rewrites the page instead of comparing when asked: `IBID_WRITE_DOCS=1 cargo test -p ibid-control`.
#[test]
fn the_documentation_is_what_the_table_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/config.md");
    if std::env::var_os("IBID_WRITE_DOCS").is_some() {
        std::fs::write(&page, reference()).unwrap();
    }
    let written = std::fs::read_to_string(&page).unwrap();
    assert!(
        written == reference(),
        "docs/config.md differs from the table of keys; IBID_WRITE_DOCS=1 cargo test -p ibid-control writes it"
    );
}
