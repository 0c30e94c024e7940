//! Turns a parsed file into a [`Config`]: each key by itself, then those that must agree with one another.
//! Takes a TOML table; gives the configuration, and notes every mistake on the way. What a key may be is worded in `keys`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ibid_units::{BLOCK_BYTES, Nanos};
use toml::{Table, Value};

use super::read::{self, Problem, Reader};
use super::{
    Auth, AuthHost, Config, HOSTS_MAX, HUGE_PAGE_SIZES, Hosts, Link, LinkDevice, Log,
    NQN_UUID_PREFIX, Node, Peer, REFERRALS_MAX, Role, Target, UNLIMITED, Uuid, VOLUMES_MAX, Volume,
    is_nqn, keys, parse_mac, parse_size, parse_span,
};

pub(super) fn build(root: &Table, problems: &mut Vec<Problem>) -> Option<Config> {
    read::refuse_unknown_sections(root, problems);
    let node =
        Reader::open(root, &keys::NODE, true, problems).and_then(|mut reader| node(&mut reader));
    let mut log =
        Reader::open(root, &keys::LOG, true, problems).and_then(|mut reader| log(&mut reader));
    let link =
        Reader::open(root, &keys::LINK, true, problems).and_then(|mut reader| link(&mut reader));
    let nothing = Table::new();
    let peer = Reader::open_or(root, &keys::PEER, &nothing, problems)
        .and_then(|mut reader| peer(&mut reader));
    // A role or pair that is wrong has been noted; it must not hide mistakes in [target].
    let source = node.as_ref().is_some_and(|node| node.role == Role::Source);
    let has_target = root.contains_key(keys::TARGET.name);
    let pair = node.as_ref().map(|node| node.pair);
    let target = Reader::open(root, &keys::TARGET, source, problems)
        .and_then(|mut reader| target(&mut reader, pair));
    let auth = auth(root, &nothing, target.as_ref(), problems);
    let volumes = volumes(root, log.as_ref(), problems);
    if let Some(log) = &mut log {
        fit(root, log, &volumes, problems);
    }
    if has_target && target.is_none() {
        return None;
    }
    Some(Config { node: node?, log: log?, link: link?, peer: peer?, target, auth: auth?, volumes })
}

fn node(reader: &mut Reader<'_>) -> Option<Node> {
    let name = reader.text("name", name_of);
    let role = reader.text("role", |text| text.parse().ok());
    let pair = reader.text("pair", uuid_of);
    let cpu = reader.number("cpu", 0, 1023);
    let idle = reader.text("idle", |text| text.parse().ok());
    let huge_pages = reader.truth("huge_pages");
    let huge_page_size = reader.text("huge_page_size", |text| {
        parse_size(text).ok().filter(|bytes| HUGE_PAGE_SIZES.contains(bytes))
    });
    let control = reader.path("control", SOCKET_PATH_BYTES_MAX);
    let read_memory = size(reader, "read_memory", HUGE_PAGE_BYTES, HUGE_PAGE_BYTES, 64 * GIB);
    let name = name?;
    // A path that was written and is wrong has been noted; what is built from it is thrown away.
    let control = control.unwrap_or_else(|| PathBuf::from(format!("/run/ibid/{name}.sock")));
    Some(Node {
        name,
        role: role?,
        pair: pair?,
        cpu: cpu.map(|cpu| cpu as usize),
        idle: idle?,
        huge_pages: huge_pages?,
        huge_page_size: huge_page_size?,
        control,
        read_memory: read_memory?,
    })
}

fn log(reader: &mut Reader<'_>) -> Option<Log> {
    let device = reader.path("device", PATH_BYTES_MAX);
    let segments = reader.number("segments", 3, 64);
    let segment_size = size(reader, "segment_size", HUGE_PAGE_BYTES, 4 * MIB, 4 * GIB);
    let durability = reader.text("durability", |text| text.parse().ok());
    let cp_interval = span(reader, "cp_interval", 100, HOUR_MS);
    let cp_mode = reader.text("cp_mode", |text| text.parse().ok());
    let size = size(reader, "size", BLOCK_BYTES, 0, u64::MAX);
    Some(Log {
        device: device?,
        size,
        segments: segments?,
        segment_size: segment_size?,
        durability: durability?,
        cp_interval: cp_interval?,
        cp_mode: cp_mode?,
    })
}

/// Checks the log's size against the volumes whose size the file gives; where it gives all of them, what is absent is known too.
/// What only a device can tell is checked at start.
fn fit(root: &Table, log: &mut Log, volumes: &[Volume], problems: &mut Vec<Problem>) {
    let known: Vec<u64> = volumes.iter().filter_map(|volume| volume.size).collect();
    match log.size_with(&known) {
        Ok(size) if known.len() == volumes.len() => log.size = Some(size),
        Ok(_) => {}
        Err(allowed) => problems.push(Problem::Value {
            key: "log.size".to_owned(),
            value: read::show(&root[keys::LOG.name]["size"]),
            allowed,
        }),
    }
}

fn peer(reader: &mut Reader<'_>) -> Option<Peer> {
    let on_loss = reader.text("on_peer_loss", |text| text.parse().ok());
    let timeout = span(reader, "timeout", 500, 60_000);
    let stall_timeout = span(reader, "stall_timeout", 1_000, HOUR_MS);
    let catch_up_rate = reader.text("catch_up_rate", |text| {
        if text == UNLIMITED {
            return Some(None);
        }
        let bytes = parse_size(text).ok()?;
        (MIB..=1024 * GIB).contains(&bytes).then_some(Some(bytes))
    });
    Some(Peer {
        on_loss: on_loss?,
        timeout: timeout?,
        stall_timeout: stall_timeout?,
        catch_up_rate: catch_up_rate?,
    })
}

fn link(reader: &mut Reader<'_>) -> Option<Link> {
    let device = link_device(reader);
    let local = reader.text("local", host_address);
    let peer = reader.text("peer", host_address);
    let peer_mac = reader.text("peer_mac", parse_mac);
    let prefix = reader.number("prefix", 1, 128);
    let gateway = reader.text("gateway", |text| text.parse().ok().filter(|ip| is_one_host(*ip)));
    let vlan = reader.number("vlan", 1, 4094);
    let mtu = reader.number("mtu", 1500, 9000);
    let key = reader.path("key", PATH_BYTES_MAX);
    let encryption = reader.text("encryption", |text| text.parse().ok());
    let (local, peer) = (local?, peer?);
    if local.ip() == peer.ip() {
        // Also with two ports: a node answers for its own address and takes no frame that claims to come from it.
        reader.refuse("peer", "must have another IP address than link.local");
    }
    if local.is_ipv4() != peer.is_ipv4() {
        reader.refuse("peer", "must be of the same family as link.local: both IPv4 or both IPv6");
    } else if is_link_local(local.ip()) != is_link_local(peer.ip()) {
        // Neither can answer the other: a link-local address is not left towards any other.
        reader.refuse("peer", "must be link-local like link.local, or both not");
    }
    let link = Link {
        device: device?,
        local,
        peer,
        prefix: prefix.map(|prefix: u32| prefix as u8), // at most 128
        gateway,
        vlan: vlan.map(|vlan: u32| vlan as u16), // at most 4094
        peer_mac,
        mtu: u16::try_from(mtu?).ok()?,
        key,
        encryption: encryption?,
    };
    check_route(&link, reader);
    Some(link)
}

/// The gateway, the prefix and the peer must agree.
fn check_route(link: &Link, reader: &mut Reader<'_>) {
    let v4 = link.local.is_ipv4();
    if v4 && link.prefix.is_some_and(|prefix| prefix > 32) {
        reader.refuse("prefix", "must be at most 32: link.local is an IPv4 address");
        return;
    }
    let Some(gateway) = link.gateway else {
        if !link.is_near(link.peer.ip()) && !reader.has("gateway") {
            reader.miss(
                "gateway",
                "link.peer is outside of the network of link.local and link.prefix",
            );
        }
        return;
    };
    if gateway.is_ipv4() != v4 {
        reader.refuse("gateway", "must be of the same family as link.local");
    } else if [link.local.ip(), link.peer.ip()].contains(&gateway) {
        reader.refuse("gateway", "must be another host than link.local and link.peer");
    } else if link.prefix.is_none() && !reader.has("prefix") {
        reader.miss("prefix", "link.gateway is written");
    } else if !link.is_near(gateway) {
        reader.refuse("gateway", "must be in the network of link.local and link.prefix: it could not be asked for its Ethernet address");
    }
}

fn link_device(reader: &mut Reader<'_>) -> Option<LinkDevice> {
    let device = reader.text("device", |text| {
        ["af_packet", "memif", "vdev", "pci"].into_iter().find(|word| *word == text)
    });
    let interface = reader.text("interface", |text| {
        let length_is_one = (1..=15).contains(&text.len());
        (length_is_one && !text.contains(['/', ',']) && is_plain(text)).then(|| text.to_owned())
    });
    // DPDK splits device strings at commas.
    let socket = reader
        .text("socket", |text| (!text.contains(',') && is_plain(text)).then_some(()))
        .and_then(|()| reader.path("socket", SOCKET_PATH_BYTES_MAX));
    let memif_role = reader.text("memif_role", |text| text.parse().ok());
    let vdev = reader.text("vdev", |text| {
        (text.starts_with(|c: char| c.is_ascii_alphabetic()) && is_plain(text))
            .then(|| text.to_owned())
    });
    let address = reader.text("address", pci_address);
    let device = device?;
    for (key, home) in [
        ("interface", "af_packet"),
        ("socket", "memif"),
        ("memif_role", "memif"),
        ("vdev", "vdev"),
        ("address", "pci"),
    ] {
        match (device == home, reader.has(key)) {
            (true, false) => reader.miss(key, &format!("link.device is \"{home}\"")),
            (false, true) => {
                reader.refuse(key, &format!("goes only with link.device = \"{home}\""))
            }
            (true, true) | (false, false) => {}
        }
    }
    match device {
        "af_packet" => interface.map(|interface| LinkDevice::AfPacket { interface }),
        "memif" => Some(LinkDevice::Memif { socket: socket?, role: memif_role? }),
        "vdev" => vdev.map(LinkDevice::Vdev),
        _ => address.map(LinkDevice::Pci),
    }
}

/// Domain, bus, device and function as Linux writes them in /sys/bus/pci/devices.
fn pci_address(text: &str) -> Option<String> {
    let (front, function) = text.split_once('.')?;
    let fields: Vec<&str> = front.split(':').collect();
    let hex = |text: &str, digits| {
        text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let [domain, bus, device] = fields[..] else {
        return None;
    };
    let whole = hex(domain, 4) && hex(bus, 2) && hex(device, 2) && function.len() == 1;
    let device_fits = u8::from_str_radix(device, 16).is_ok_and(|device| device < 32);
    (whole && device_fits && matches!(function.as_bytes(), [b'0'..=b'7'])).then(|| text.to_owned())
}

fn target(reader: &mut Reader<'_>, pair: Option<Uuid>) -> Option<Target> {
    let listen = reader.text("listen", |text| text.parse::<SocketAddr>().ok());
    let allow_wildcard = reader.truth("allow_wildcard");
    let nqn = reader.text("nqn", |text| is_nqn(text).then(|| text.to_owned()));
    let serial = reader.text("serial", |text| {
        let printable = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        ((1..=20).contains(&text.len()) && printable && text.trim() == text)
            .then(|| text.to_owned())
    });
    let hosts = reader.take("hosts", hosts_of);
    let queue_depth = reader.number("queue_depth", 2, 1024);
    let io_queues = reader.number("io_queues", 1, 64);
    let connections_per_address = reader.number("connections_per_address", 2, 128);
    let connections_per_host = reader.number("connections_per_host", 2, 128);
    let referrals = reader.take("referrals", |value| referrals_of(value, listen));
    if let (Some(queues), Some(address), Some(host)) =
        (io_queues, connections_per_address, connections_per_host)
        && queues + 1 > address.min(host)
    {
        reader.refuse(
            "io_queues",
            "must be below target.connections_per_host and target.connections_per_address: a host that takes all queues it is granted, and its admin queue, would be turned away",
        );
    }
    let (listen, allow_wildcard) = (listen?, allow_wildcard?);
    if listen.ip().is_unspecified() && !allow_wildcard {
        reader.refuse(
            "listen",
            "would listen on every network; name one address, or set target.allow_wildcard = true",
        );
    }
    if is_group(listen.ip()) {
        reader.refuse("listen", "must be the address of one host");
    }
    let pair = pair?;
    Some(Target {
        listen,
        allow_wildcard,
        nqn: nqn.unwrap_or_else(|| format!("{NQN_UUID_PREFIX}{pair}")),
        serial: serial.unwrap_or_else(|| serial_of(pair)),
        hosts: hosts?,
        queue_depth: u16::try_from(queue_depth?).ok()?,
        io_queues: u16::try_from(io_queues?).ok()?,
        connections_per_address: u16::try_from(connections_per_address?).ok()?,
        connections_per_host: u16::try_from(connections_per_host?).ok()?,
        referrals: referrals?,
    })
}

fn auth(
    root: &Table,
    nothing: &Table,
    target: Option<&Target>,
    problems: &mut Vec<Problem>,
) -> Option<Auth> {
    let hosts = auth_hosts(root, target, problems);
    let mut reader = Reader::open_or(root, &keys::AUTH, nothing, problems)?;
    let hashes = reader.take("hashes", words_of);
    let groups = reader.take("groups", words_of);
    Some(Auth { hashes: hashes?, groups: groups?, hosts })
}

fn auth_hosts(root: &Table, target: Option<&Target>, problems: &mut Vec<Problem>) -> Vec<AuthHost> {
    let tables = Reader::tables_if_any(root, &keys::HOST, problems);
    if tables.len() > HOSTS_MAX {
        problems.push(Problem::Value {
            key: "[[host]]".to_owned(),
            value: format!("{} of them", tables.len()),
            allowed: format!("must be at most {HOSTS_MAX}"),
        });
        return Vec::new();
    }
    let mut hosts: Vec<AuthHost> = Vec::new();
    for (path, table) in tables {
        let mut reader = Reader::over(path, &keys::HOST, table, problems);
        let nqn = reader.text("nqn", |text| is_nqn(text).then(|| text.to_owned()));
        let secret = reader.path("secret", PATH_BYTES_MAX);
        let controller_secret = reader.path("controller_secret", PATH_BYTES_MAX);
        let (Some(nqn), Some(secret)) = (nqn, secret) else { continue };
        if hosts.iter().any(|other| other.nqn == nqn) {
            reader.refuse("nqn", "has a [[host]] already");
        }
        if let Some(Hosts::Only(list)) = target.map(|target| &target.hosts)
            && !list.contains(&nqn)
        {
            reader.refuse("nqn", "is not in target.hosts, so it could never connect");
        }
        if controller_secret.as_ref() == Some(&secret) {
            reader.refuse(
                "controller_secret",
                "must be another file than `secret`: who has one must not have the other",
            );
        }
        hosts.push(AuthHost { nqn, secret, controller_secret });
    }
    hosts
}

/// A list of different words, at least one.
fn words_of<T: core::str::FromStr + PartialEq>(value: &Value) -> Option<Vec<T>> {
    let mut words: Vec<T> = Vec::new();
    for item in value.as_array()? {
        let word = item.as_str()?.parse().ok().filter(|word| !words.contains(word))?;
        words.push(word);
    }
    (!words.is_empty()).then_some(words)
}

fn volumes(root: &Table, log: Option<&Log>, problems: &mut Vec<Problem>) -> Vec<Volume> {
    let tables = Reader::tables(root, &keys::VOLUME, problems);
    if tables.len() > VOLUMES_MAX {
        problems.push(Problem::Value {
            key: "[[volume]]".to_owned(),
            value: format!("{} of them", tables.len()),
            allowed: format!("must be at most {VOLUMES_MAX}"),
        });
        return Vec::new();
    }
    let mut volumes: Vec<Volume> = Vec::new();
    for (path, table) in tables {
        let mut reader = Reader::over(path, &keys::VOLUME, table, problems);
        if let Some(volume) = volume(&mut reader) {
            if volumes.iter().any(|other| other.name == volume.name) {
                reader.refuse("name", "names another volume already");
            }
            if volumes.iter().any(|other| other.device == volume.device) {
                reader.refuse("device", "backs another volume already");
            }
            if log.is_some_and(|log| log.device == volume.device) {
                reader.refuse("device", "is log.device already");
            }
            if volumes.iter().any(|other| other.uuid == volume.uuid) {
                reader.refuse("uuid", "names another volume already");
            }
            volumes.push(volume);
        }
    }
    volumes
}

fn volume(reader: &mut Reader<'_>) -> Option<Volume> {
    let name = reader.text("name", name_of);
    let device = reader.path("device", PATH_BYTES_MAX);
    // 4 KiB is a multiple of both LBA formats, and the unit that volumes are read, logged and compared in.
    let size = size(reader, "size", BLOCK_BYTES, MIB, VOLUME_BYTES_MAX);
    let lba = reader.take("lba", |value| {
        let bytes = u32::try_from(value.as_integer()?).ok()?;
        [512, 4096].contains(&bytes).then_some(bytes)
    });
    let uuid = reader.text("uuid", uuid_of);
    Some(Volume { name: name?, device: device?, size, lba: lba?, uuid: uuid? })
}

fn size(reader: &mut Reader<'_>, name: &str, multiple: u64, min: u64, max: u64) -> Option<u64> {
    reader.text(name, |text| {
        let bytes = parse_size(text).ok()?;
        (bytes.is_multiple_of(multiple) && (min..=max).contains(&bytes)).then_some(bytes)
    })
}

fn span(reader: &mut Reader<'_>, name: &str, min_ms: u64, max_ms: u64) -> Option<Nanos> {
    reader.text(name, |text| {
        let span = parse_span(text).ok()?;
        (Nanos::from_millis(min_ms)..=Nanos::from_millis(max_ms)).contains(&span).then_some(span)
    })
}

fn name_of(text: &str) -> Option<String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let begins = text.bytes().next().is_some_and(plain);
    (begins && text.len() <= 32 && text.bytes().all(|b| plain(b) || b"._-".contains(&b)))
        .then(|| text.to_owned())
}

fn uuid_of(text: &str) -> Option<Uuid> {
    text.parse::<Uuid>().ok().filter(|uuid| !uuid.is_nil())
}

fn hosts_of(value: &Value) -> Option<Hosts> {
    if value.as_str() == Some("any") {
        return Some(Hosts::Any);
    }
    let list = value.as_array()?;
    let mut hosts: Vec<String> = Vec::new();
    for item in list {
        let host = item
            .as_str()
            .filter(|host| is_nqn(host) && !hosts.iter().any(|other| other == host))?;
        hosts.push(host.to_owned());
    }
    (1..=HOSTS_MAX).contains(&hosts.len()).then_some(Hosts::Only(hosts))
}

fn referrals_of(value: &Value, own: Option<SocketAddr>) -> Option<Vec<SocketAddr>> {
    let mut referrals: Vec<SocketAddr> = Vec::new();
    for item in value.as_array()? {
        let address: SocketAddr = item.as_str()?.parse().ok()?;
        let (ip, port) = (address.ip(), address.port());
        let one_host = !ip.is_unspecified() && !is_group(ip) && port != 0;
        if !one_host || own == Some(address) || referrals.contains(&address) {
            return None;
        }
        referrals.push(address);
    }
    (referrals.len() <= REFERRALS_MAX).then_some(referrals)
}

/// An address that can be one host's on the link, and a port that can be sent from.
fn host_address(text: &str) -> Option<SocketAddr> {
    let address: SocketAddr = text.parse().ok()?;
    // A zone names an interface of the kernel's; the link has only one.
    let zoned = matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0);
    (is_one_host(address.ip()) && !zoned && address.port() != 0).then_some(address)
}

fn is_one_host(ip: IpAddr) -> bool {
    let other = match ip {
        IpAddr::V4(ip) => ip.octets()[0] == 0,
        IpAddr::V6(ip) => ip.to_ipv4_mapped().is_some(),
    };
    !ip.is_unspecified() && !ip.is_loopback() && !is_group(ip) && !other
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn is_group(ip: IpAddr) -> bool {
    ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// No blanks and nothing that doesn't print: what may stand in a DPDK device string.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Twenty characters that both nodes of the pair arrive at (NVMe Base 2.0, 5.17.2.1: SN is 20 bytes of ASCII).
fn serial_of(pair: Uuid) -> String {
    let digits: String = pair.bytes()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("ibid{digits}")
}

/// `sun_path` holds 108 bytes with its zero (unix(7)); the rest is for the suffixes of a lock and of a socket in the making.
const SOCKET_PATH_BYTES_MAX: usize = 96;
/// PATH_MAX without its zero (limits.h).
const PATH_BYTES_MAX: usize = 4095;
const HUGE_PAGE_BYTES: u64 = 2 << 20;
const HOUR_MS: u64 = 3_600_000;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// A reference names a sector with 48 bits, which reaches 128 PiB; half of it keeps every end of a run within them too.
const VOLUME_BYTES_MAX: u64 = 1 << 56;
