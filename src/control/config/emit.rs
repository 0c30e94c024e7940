//! Writes a [`Config`] as the TOML file that reads back as the same `Config`.
//! Takes checked values only; writes every key, also those that equal their default, so that a file shows what a node runs with.

use core::fmt::Write as _;

use toml::Value;

use super::{Config, Hosts, LinkDevice, UNLIMITED, format_mac, format_size, format_span};

impl Config {
    /// The configuration as a TOML file.
    ///
    /// # Panics
    /// If a path in it is not UTF-8, which none that came from a file is.
    pub fn to_toml(&self) -> String {
        let Self { node, log, link, peer, target, auth, volumes } = self;
        let mut page = Page::default();

        page.section("[node]");
        page.text("name", &node.name);
        page.text("role", node.role.word());
        page.text("pair", &node.pair.to_string());
        if let Some(cpu) = node.cpu {
            page.plain("cpu", cpu);
        }
        page.text("idle", node.idle.word());
        page.plain("huge_pages", node.huge_pages);
        page.text("huge_page_size", &format_size(node.huge_page_size));
        page.path("control", &node.control);
        page.text("read_memory", &format_size(node.read_memory));

        page.section("[log]");
        page.path("device", &log.device);
        if let Some(size) = log.size {
            page.text("size", &format_size(size));
        }
        page.plain("segments", log.segments);
        page.text("segment_size", &format_size(log.segment_size));
        page.text("durability", log.durability.word());
        page.text("cp_interval", &format_span(log.cp_interval));
        page.text("cp_mode", log.cp_mode.word());

        page.section("[link]");
        page.text("device", link.device.word());
        match &link.device {
            LinkDevice::AfPacket { interface } => page.text("interface", interface),
            LinkDevice::Memif { socket, role } => {
                page.path("socket", socket);
                page.text("memif_role", role.word());
            }
            LinkDevice::Vdev(arguments) => page.text("vdev", arguments),
            LinkDevice::Pci(address) => page.text("address", address),
        }
        page.text("local", &link.local.to_string());
        page.text("peer", &link.peer.to_string());
        if let Some(prefix) = link.prefix {
            page.plain("prefix", prefix);
        }
        if let Some(gateway) = link.gateway {
            page.text("gateway", &gateway.to_string());
        }
        if let Some(vlan) = link.vlan {
            page.plain("vlan", vlan);
        }
        if let Some(mac) = link.peer_mac {
            page.text("peer_mac", &format_mac(mac));
        }
        page.plain("mtu", link.mtu);
        if let Some(key) = &link.key {
            page.path("key", key);
        }
        page.text("encryption", link.encryption.word());

        page.section("[peer]");
        page.text("on_peer_loss", peer.on_loss.word());
        page.text("timeout", &format_span(peer.timeout));
        page.text("stall_timeout", &format_span(peer.stall_timeout));
        let rate = peer.catch_up_rate.map_or_else(|| UNLIMITED.to_owned(), format_size);
        page.text("catch_up_rate", &rate);

        if let Some(target) = target {
            page.section("[target]");
            page.text("listen", &target.listen.to_string());
            page.plain("allow_wildcard", target.allow_wildcard);
            page.text("nqn", &target.nqn);
            page.text("serial", &target.serial);
            let hosts = match &target.hosts {
                Hosts::Any => Value::String("any".to_owned()),
                Hosts::Only(hosts) => {
                    Value::Array(hosts.iter().cloned().map(Value::String).collect())
                }
            };
            page.plain("hosts", hosts);
            page.plain("queue_depth", target.queue_depth);
            page.plain("io_queues", target.io_queues);
            page.plain("connections_per_address", target.connections_per_address);
            page.plain("connections_per_host", target.connections_per_host);
            let referrals = target.referrals.iter().map(|at| Value::String(at.to_string()));
            page.plain("referrals", Value::Array(referrals.collect()));
        }

        page.section("[auth]");
        page.words("hashes", auth.hashes.iter().map(|hash| hash.word()));
        page.words("groups", auth.groups.iter().map(|group| group.word()));
        for host in &auth.hosts {
            page.section("[[host]]");
            page.text("nqn", &host.nqn);
            page.path("secret", &host.secret);
            if let Some(secret) = &host.controller_secret {
                page.path("controller_secret", secret);
            }
        }

        for volume in volumes {
            page.section("[[volume]]");
            page.text("name", &volume.name);
            page.path("device", &volume.device);
            if let Some(size) = volume.size {
                page.text("size", &format_size(size));
            }
            page.plain("lba", volume.lba);
            page.text("uuid", &volume.uuid.to_string());
        }
        page.0
    }
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn section(&mut self, heading: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.0, "{gap}{heading}");
    }
    fn plain(&mut self, key: &str, value: impl core::fmt::Display) {
        let _ = writeln!(self.0, "{key} = {value}");
    }
    fn text(&mut self, key: &str, value: &str) {
        // The TOML crate quotes and escapes.
        self.plain(key, Value::String(value.to_owned()));
    }
    fn words(&mut self, key: &str, words: impl Iterator<Item = &'static str>) {
        self.plain(key, Value::Array(words.map(|word| Value::String(word.to_owned())).collect()));
    }
    fn path(&mut self, key: &str, value: &std::path::Path) {
        self.text(key, value.to_str().expect("CONFIG-1: a path that came from TOML is UTF-8"));
    }
}
