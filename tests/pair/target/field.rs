//! Where the rows are played: a pair of processes, the well-behaved host, and what both looked like before.

use super::live::{self, Live};
use super::raw::{self, HOST, Raw};
use crate::authenticated::{CONTROLLER_SECRET, SECRET, key};
use crate::common::{folder, until};
use crate::link::Link;
use crate::node::{DESTINATION, Pair, SOURCE, VOLUME_BYTES, stop};
use crate::process::Process;
use ibid_control::config::{Auth, AuthGroup, AuthHash, AuthHost, Hosts};
use ibid_control::rpc::Client;
use ibid_units::Nanos;
use ibid_wire::nvme_tcp::{Cc, ConnectData, Status};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

/// Writes and reads the whole volume, so that the log, and the memory for reads, are there before anything is compared.
fn touch(pair: &Pair) {
    let mut initiator = pair.connect_as(live::LIVE);
    let mebibyte = vec![0x5a; 1 << 20];
    for slba in (0..VOLUME_BYTES / 4096).step_by(256) {
        initiator.write(slba, &mebibyte).unwrap();
    }
    let mut all = vec![0; VOLUME_BYTES as usize];
    initiator.read(0, &mut all).unwrap();
    initiator.disconnect().unwrap();
}

/// How much more memory the source may have after all rows than before them, once it is warm: what the C library keeps of the control
/// plane's answers, and pages of pools that no earlier row has touched.
const MEMORY_SLACK: u64 = 4 << 20;
/// Commands of the well-behaved host that must end well after each row.
const GOES_ON: u64 = 8;
/// Writes and reads wait no longer for the peer than this, so that R9 is short; on a busy machine they do wait for seconds.
pub(crate) const STALL: Nanos = Nanos::from_millis(8_000);

pub(crate) struct Field {
    pub(crate) pair: Pair,
    pub(crate) nodes: [Process; 2],
    pub(crate) live: Live,
    pub(crate) addr: SocketAddr,
    pub(crate) nqn: String,
    next_lba: AtomicU64,
    _folder: TempDir,
}

impl Field {
    pub(crate) fn start() -> Field {
        let folder = folder();
        let mut pair = Pair::new(folder.path(), Link::Memif);
        let config = &mut pair.configs[SOURCE];
        config.peer.stall_timeout = STALL;
        let target = config.target.as_mut().unwrap();
        let hosts = [HOST, live::LIVE, raw::WITHHOLDING, raw::DEAF, raw::GUARDED];
        target.hosts = Hosts::Only(hosts.map(str::to_owned).to_vec());
        config.auth = Auth {
            hashes: vec![AuthHash::Sha384, AuthHash::Sha512],
            groups: vec![AuthGroup::Ffdhe2048],
            hosts: vec![AuthHost {
                nqn: raw::GUARDED.to_owned(),
                secret: key(folder.path(), "host.key", SECRET),
                controller_secret: Some(key(folder.path(), "node.key", CONTROLLER_SECRET)),
            }],
        };
        let nodes = pair.start_both();
        let (addr, nqn) = pair.target();
        touch(&pair);
        let live = Live::start(addr, &nqn);
        live.goes_on("start", 100);
        Field { pair, nodes, live, addr, nqn, next_lba: AtomicU64::new(0), _folder: folder }
    }

    /// Behind ICReq.
    pub(crate) fn ready(&self, digests: bool) -> Raw {
        Raw::ready(self.addr, digests)
    }

    /// An admin queue with its controller's identifier.
    pub(crate) fn admin(&self, digests: bool) -> (Raw, u16) {
        raw::admin(self.addr, &self.nqn, digests)
    }

    /// An I/O queue and its admin queue.
    pub(crate) fn io(&self, digests: bool) -> (Raw, Raw) {
        let (admin, cntlid) = self.admin(digests);
        (self.queue(cntlid, digests), admin)
    }

    /// An I/O queue of a controller that is there.
    pub(crate) fn queue(&self, cntlid: u16, digests: bool) -> Raw {
        let mut io = self.ready(digests);
        let data = raw::emit(&raw::connect_fields(&self.nqn, cntlid));
        assert_eq!(io.status(&raw::connect(1).emit(1), &data), Status::SUCCESS);
        io
    }

    /// An I/O queue and its admin queue, of another host.
    pub(crate) fn io_of(&self, host: &str) -> (Raw, Raw) {
        let mut admin = self.ready(false);
        let any = raw::fields_of(host, &self.nqn, ConnectData::CNTLID_ANY);
        let cqe = admin.run(&raw::connect(0).emit(1), &raw::emit(&any));
        assert_eq!(cqe.status, Status::SUCCESS);
        assert_eq!(admin.status(&raw::set_cc(Cc::ENABLED.0), &[]), Status::SUCCESS);
        let mut io = self.ready(false);
        let data = raw::emit(&raw::fields_of(host, &self.nqn, cqe.result as u16));
        assert_eq!(io.status(&raw::connect(1).emit(1), &data), Status::SUCCESS);
        (io, admin)
    }

    /// Blocks of 4 KiB of the volume.
    pub(crate) const fn blocks(&self) -> u64 {
        VOLUME_BYTES / 4096
    }

    /// 256 blocks that no other row and not the well-behaved host writes at this time.
    pub(crate) fn lba(&self) -> u64 {
        const RUN: u64 = 256;
        let runs = (self.blocks() - live::BLOCKS) / RUN;
        live::BLOCKS + self.next_lba.fetch_add(1, Ordering::Relaxed) % runs * RUN
    }

    pub(crate) fn connections(&self) -> u32 {
        self.pair.status(SOURCE).target.unwrap().connections
    }

    /// Resident memory of the source in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.nodes[SOURCE].pid());
        let text = std::fs::read_to_string(path).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib << 10
    }

    pub(crate) fn assert_memory(&self, what: &str, before: u64) {
        let after = self.memory();
        println!("{what}: resident {} KiB before, {} KiB after", before >> 10, after >> 10);
        assert!(after <= before + MEMORY_SLACK, "{what}: memory grew from {before} to {after}");
    }

    /// Nothing of a row is left but the well-behaved host, whose I/O goes on.
    pub(crate) fn assert_nothing_is_left(&mut self, what: &str) {
        self.live.goes_on(what, GOES_ON);
        // Its admin queue, and one of I/O.
        until(&format!("{what}: connections and controllers are gone"), || {
            let target = self.pair.status(SOURCE).target.unwrap();
            ((target.connections, target.controllers) == (2, 1)).then_some(())
        });
        assert!(self.nodes[SOURCE].is_running(), "{what}: the source ended");
        let said = self.nodes[SOURCE].said();
        assert!(!said.contains("panicked"), "{what}: {said}");
    }

    /// Stops everything in good order: the log drains, so no page is pinned and no place taken, and both copies are equal.
    pub(crate) fn finish(self) {
        let Field { pair, mut nodes, live, .. } = self;
        Client::connect(pair.control(SOURCE), crate::common::WAIT).unwrap().cp().unwrap();
        live.finish();
        until("no command is left", || {
            (pair.status(SOURCE).target.unwrap().commands == 0).then_some(())
        });
        for which in [SOURCE, DESTINATION] {
            assert!(stop(&mut nodes[which]).success());
        }
        let said = nodes[SOURCE].said();
        assert!(said.contains("everything acknowledged is in the volumes"), "{said}");
        crate::common::assert_files_equal(pair.volume(SOURCE), pair.volume(DESTINATION));
    }
}
