//! What one node needs: its configuration, the files it names, and what the node says itself where it runs.
//! Facts from the configuration's file, the names of its files, and the control socket; verdicts from those alone.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ibid_control::config::{Config, ConfigError, Hosts, KEY_CREDENTIAL, LinkDevice};
use ibid_control::rpc::Client;
use ibid_control::status::Status;

use super::check::{Check, Topic, quoted};
use super::process::Process;
use super::root::{Root, Seen, Unseen, refused};
use crate::sizing;

/// Memory that a node takes at its start, as `crate::sizing` has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Needs {
    /// Whether it wants huge pages.
    pub(crate) huge: bool,
    /// Whether the link's NIC does without only by not starting.
    pub(crate) nic: bool,
    /// Bytes of one.
    pub(crate) page_bytes: u64,
    /// The arena, before it is rounded up to whole pages.
    pub(crate) arena_bytes: u64,
    /// What DPDK takes.
    pub(crate) eal_bytes: u64,
}

impl Needs {
    pub(crate) fn of(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            huge: config.node.huge_pages,
            nic: matches!(config.link.device, LinkDevice::Pci(_)),
            page_bytes: config.node.huge_page_size,
            arena_bytes: sizing::layout(config)?.bytes(),
            eal_bytes: (sizing::EAL_MEMORY_MIB as u64) << 20,
        })
    }

    /// Pages of that size. DPDK's are always of 2 MiB: with larger ones it gets [`Needs::eal_pages`] beside them.
    pub(crate) fn pages(&self) -> u64 {
        let arena = self.arena_bytes.div_ceil(self.page_bytes);
        if self.page_bytes == PAGE_BYTES { arena + self.eal_pages() } else { arena }
    }

    /// Pages of 2 MiB for DPDK.
    pub(crate) fn eal_pages(&self) -> u64 {
        self.eal_bytes.div_ceil(PAGE_BYTES)
    }

    /// Bytes of all of it.
    pub(crate) fn bytes(&self) -> u64 {
        self.arena_bytes.next_multiple_of(self.page_bytes) + self.eal_bytes
    }
}

/// A file that only the node's user may read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SecretFile {
    /// The key of the configuration that names it.
    pub(crate) key: String,
    pub(crate) path: PathBuf,
    pub(crate) meta: Seen<FileMeta>,
}

/// What is known of a file without opening it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileMeta {
    pub(crate) regular: bool,
    pub(crate) user: u32,
    pub(crate) mode: u32,
}

impl FileMeta {
    pub(crate) fn gather(path: &Path) -> Seen<Self> {
        let meta = fs::metadata(path).map_err(|error| refused(path, &error))?;
        Ok(Self { regular: meta.is_file(), user: meta.uid(), mode: meta.mode() & 0o7777 })
    }
}

/// The key of the link's secret.
const LINK_KEY: &str = "link.key";

/// The files with secrets that a configuration names.
pub(crate) fn secret_files(root: &Root, config: &Config) -> Vec<SecretFile> {
    let file = |key: String, path: &Path| SecretFile {
        key,
        path: path.to_owned(),
        meta: FileMeta::gather(&root.path(path)),
    };
    let mut files = Vec::new();
    // Without one systemd hands it over, at the start and to nobody else.
    if let Some(path) = &config.link.key {
        files.push(file(LINK_KEY.to_owned(), path));
    }
    for (place, host) in config.auth.hosts.iter().enumerate() {
        files.push(file(format!("host[{place}].secret"), &host.secret));
        if let Some(path) = &host.controller_secret {
            files.push(file(format!("host[{place}].controller_secret"), path));
        }
    }
    files
}

/// What the node says of itself, if it runs here.
pub(crate) fn running(config: &Config) -> Option<Status> {
    Client::connect(&config.node.control, STATUS_WAIT)
        .and_then(|mut client| client.status())
        .ok()
        .filter(|status| {
            status.node.pair == config.node.pair && status.node.name == config.node.name
        })
}

/// Whether the file is a configuration, and who may change it.
pub(crate) fn configuration(
    file: &Path,
    config: Result<&Config, &ConfigError>,
    meta: &Seen<FileMeta>,
) -> Check {
    let shown = quoted(file.display());
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            let text = error.to_string();
            let problems: Vec<String> = text.lines().map(|line| format!("# {line}")).collect();
            let count = problems.len();
            return CONFIG.fail(
                format!("{count} {} in it", if count == 1 { "mistake" } else { "mistakes" }),
                problems,
            );
        }
    };
    match meta {
        Err(unseen) => CONFIG.unseen(unseen, [format!("ls -l {shown}")]),
        Ok(meta) if meta.mode & OTHERS_WRITE != 0 => CONFIG.warn(
            format!("others may change it (mode {:04o})", meta.mode),
            [format!("chmod go-w {shown}")],
        ),
        Ok(_) => CONFIG.ok(format!(
            "{} of pair {}, {} volumes",
            config.node.name,
            config.node.pair,
            config.volumes.len()
        )),
    }
}

/// The modes of files with secrets, and whose they are. `process`: the node, or what would start it.
pub(crate) fn secrets(config: &Config, files: &[SecretFile], process: &Process) -> Check {
    let mut wrong = Vec::new();
    let mut mend = Vec::new();
    for file in files {
        let (key, path) = (&file.key, file.path.display());
        let word = quoted(&path);
        match &file.meta {
            Err(Unseen::Absent) => {
                wrong.push(format!("{key} = {path} is not there"));
                mend.push(if key == LINK_KEY {
                    format!("ibid keygen {word}   # on one node, and the same file to the other")
                } else {
                    format!("(umask 077 && nvme gen-dhchap-key > {word})   # apt-get install -y nvme-cli; the host needs the same")
                });
            }
            Err(unseen) => return SECRETS.unseen(unseen, [format!("ls -l {word}")]),
            Ok(meta) => {
                if !meta.regular {
                    wrong.push(format!("{key} = {path} is no regular file"));
                    mend.push(format!("ls -l {word}"));
                }
                if meta.mode & OTHERS != 0 {
                    wrong.push(format!("{key} = {path} has mode {:04o}", meta.mode));
                    mend.push(format!(
                        "chmod 600 {word}   # and another secret: this one may have been read"
                    ));
                }
                if let Ok(user) = process.user
                    && meta.user != user
                {
                    wrong.push(format!(
                        "{key} = {path} belongs to uid {}, {} runs as {user}",
                        meta.user,
                        process.whose()
                    ));
                    mend.push(format!(
                        "chown {user} {word}   # or start the node as uid {}",
                        meta.user
                    ));
                }
            }
        }
    }
    if wrong.is_empty() && config.link.key.is_none() && process.node.is_none() {
        return Check {
            seen: false,
            ..SECRETS.warn(
                format!("link.key is not set: a node starts only where systemd gives it {KEY_CREDENTIAL}"),
                [format!("# in its systemd unit: LoadCredential={KEY_CREDENTIAL}:FILE; or in the configuration: [link] key = FILE")],
            )
        };
    }
    if wrong.is_empty() {
        return SECRETS.ok(match files.len() {
            0 => "the configuration names none".to_owned(),
            count => format!("{count}, each its user's alone"),
        });
    }
    SECRETS.fail(wrong.join("; "), mend)
}

/// Who may connect.
pub(crate) fn access(config: &Config) -> Check {
    let Some(target) = &config.target else { return ACCESS.ok("no [target]: nobody connects") };
    let mut open = Vec::new();
    let mut mend = Vec::new();
    if target.listen.ip().is_unspecified() {
        open.push(format!("target.listen = {} is on every network", target.listen));
        mend.push(
            "# in the configuration: target.listen = the address of the storage network".to_owned(),
        );
    }
    let secret = |nqn: &String| config.auth.hosts.iter().any(|host| host.nqn == *nqn);
    match &target.hosts {
        Hosts::Any => {
            open.push("any host may connect".to_owned());
            mend.push(
                "# in the configuration: target.hosts = [the hosts' NQNs: cat /etc/nvme/hostnqn]"
                    .to_owned(),
            );
        }
        Hosts::Only(hosts) => {
            let without = hosts.iter().filter(|nqn| !secret(nqn)).count();
            if without > 0 {
                open.push(format!("{without} of {} hosts are believed by their name", hosts.len()));
                mend.push(
                    "# in the configuration: a [[host]] with a secret for each (docs/runbook.md)"
                        .to_owned(),
                );
            }
        }
    }
    if open.is_empty() {
        return ACCESS.ok("hosts that are named, each with a secret");
    }
    ACCESS.warn(open.join("; "), mend)
}

/// Bytes of an ordinary huge page.
pub(crate) const PAGE_BYTES: u64 = 2 << 20;
/// How long the running node may take to answer.
const STATUS_WAIT: Duration = Duration::from_secs(3);
/// Permission bits of everybody but the owner.
const OTHERS: u32 = 0o077;
const OTHERS_WRITE: u32 = 0o022;

const CONFIG: Topic = Topic {
    name: "config",
    why: "A node does not start with a mistake in its file; and who may change the file says what the node opens, and to whom.",
};
const SECRETS: Topic = Topic {
    name: "secrets",
    why: "Who reads a secret can be that host, or the target; a node refuses to start with one that others may read.",
};
const ACCESS: Topic =
    Topic { name: "access", why: "A host that connects reads and writes the volumes." };

#[cfg(test)]
pub(crate) mod tests {
    use super::super::check::Verdict::{Fail, Ok as Good, Warn};
    use super::super::root::tests::Tree;
    use super::*;
    use ibid_control::config::Encryption;
    use ibid_control::status::{ClassBytes, LinkSecurity};

    const FILE: &str = r#"
        [node]
        name = "a"
        role = "source"
        pair = "6f1c4a52-3d0e-4f0b-9c5e-2f6f0a7b8c9d"
        [log]
        device = "/var/lib/ibid/a.log"
        [link]
        device = "memif"
        socket = "/run/ibid/link0.sock"
        memif_role = "server"
        local = "10.9.0.1:4790"
        peer = "10.9.0.2:4790"
        [target]
        listen = "127.0.0.1:4420"
        hosts = ["nqn.2014-08.com.example:h1"]
        [[volume]]
        name = "v0"
        device = "/var/lib/ibid/v0.img"
        size = "1GiB"
        uuid = "11111111-2222-4333-8444-555555555555"
    "#;

    /// A node's configuration for tests of verdicts.
    pub(crate) fn config() -> Config {
        Config::parse(FILE, Path::new("a.toml")).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A link that has carried nothing yet.
    pub(crate) fn link_status() -> LinkStatus {
        LinkStatus {
            device: "af_packet".into(),
            local: "10.9.0.1:4790".parse().unwrap(),
            peer: "10.9.0.2:4790".parse().unwrap(),
            up: true,
            datagram_bytes_max: 8972,
            rtt_ns: Some(34_000),
            tx_frames: 0,
            tx_bytes: ClassBytes::default(),
            tx_repeated_frames: 0,
            rx_frames: 0,
            rx_bytes: 0,
            rx_dropped: 0,
            rx_repeated_frames: 0,
            security: LinkSecurity {
                encryption: Encryption::Full,
                tx_generation: 0,
                rx_generation: 0,
                handshakes: 1,
                rx_unauthentic: 0,
                rx_replayed: 0,
                rx_strange: 0,
                rx_handshakes_unauthentic: 0,
                rx_handshakes_limited: 0,
                tx_cookies: 0,
            },
        }
    }

    use ibid_control::status::LinkStatus;

    #[test]
    fn a_node_needs_what_it_takes() {
        let config = config();
        let needs = Needs::of(&config).unwrap();
        assert!(needs.huge);
        assert_eq!(needs.arena_bytes, sizing::layout(&config).unwrap().bytes());
        // Four segments of 64 MiB, and reads of 64 MiB, and more.
        assert!(needs.arena_bytes > 320 << 20 && needs.arena_bytes < 360 << 20, "{needs:?}");
        assert_eq!(needs.pages(), needs.arena_bytes.div_ceil(2 << 20) + 32);
    }

    #[test]
    fn mistakes_of_a_configuration_are_told_one_by_one() {
        let meta = Ok(FileMeta { regular: true, user: 0, mode: 0o644 });
        let file = Path::new("/etc/ibid/a.toml");
        let config = config();
        assert_eq!(configuration(file, Ok(&config), &meta).verdict, Good);
        let loose = Ok(FileMeta { regular: true, user: 0, mode: 0o664 });
        let check = configuration(file, Ok(&config), &loose);
        assert_eq!((check.verdict, check.mend[0].as_str()), (Warn, "chmod go-w /etc/ibid/a.toml"));
        let error = Config::parse("[node]\nname = 7\n", file).unwrap_err();
        let check = configuration(file, Err(&error), &meta);
        assert_eq!(check.verdict, Fail);
        assert!(check.mend.iter().any(|line| line.contains("node.name")), "{check:?}");
    }

    #[test]
    fn a_secret_that_others_may_read_is_none() {
        let of = |regular, user, mode| SecretFile {
            key: "host[0].secret".into(),
            path: "/etc/ibid/host.key".into(),
            meta: Ok(FileMeta { regular, user, mode }),
        };
        let node = Process {
            node: Some(7),
            user: Ok(1000),
            capabilities: Ok(0),
            locked: Ok(0),
            files: Ok(0),
        };
        let mut config = config();
        let secrets = |files: &[SecretFile]| secrets(&config, files, &node);
        assert_eq!(secrets(&[]).verdict, Good);
        assert_eq!(secrets(&[of(true, 1000, 0o600)]).verdict, Good);
        for (file, told) in [
            (of(true, 1000, 0o640), "chmod 600 /etc/ibid/host.key"),
            (of(true, 0, 0o600), "chown 1000 /etc/ibid/host.key"),
            (of(false, 1000, 0o600), "no regular file"),
            (SecretFile { meta: Err(Unseen::Absent), ..of(true, 0, 0) }, "gen-dhchap-key"),
        ] {
            let check = secrets(&[file]);
            let said = format!("{}; {}", check.found, check.mend.join("; "));
            assert_eq!(check.verdict, Fail, "{said}");
            assert!(said.contains(told), "{said}");
        }
        let link =
            SecretFile { key: LINK_KEY.to_owned(), meta: Err(Unseen::Absent), ..of(true, 0, 0) };
        assert!(secrets(&[link]).mend[0].starts_with("ibid keygen /etc/ibid/host.key"));
        let hidden = Err(Unseen::Refused { path: "/etc/ibid".into(), says: "no".into() });
        let check = secrets(&[SecretFile { meta: hidden, ..of(true, 0, 0) }]);
        assert_eq!((check.verdict, check.seen), (Warn, false));

        // Nobody but systemd knows what it will give to a node that does not run.
        let shell = Process { node: None, ..node };
        let check = super::secrets(&config, &[], &shell);
        assert_eq!((check.verdict, check.seen), (Warn, false));
        let check = super::secrets(&config, &[of(true, 0, 0o600)], &shell);
        assert!(check.found.ends_with("belongs to uid 0, this shell runs as 1000"), "{check:?}");
        config.link.key = Some("/etc/ibid/link.key".into());
        assert_eq!(super::secrets(&config, &[], &shell).verdict, Good);
    }

    #[test]
    fn the_secret_files_are_those_of_the_configuration() {
        let tree = Tree::new(&[("etc/ibid/host.key", "x")]);
        let mut config = config();
        config.auth.hosts.push(ibid_control::config::AuthHost {
            nqn: "nqn.2014-08.com.example:h1".into(),
            secret: "/etc/ibid/host.key".into(),
            controller_secret: Some("/etc/ibid/none.key".into()),
        });
        let files = secret_files(&tree.root(), &config);
        assert_eq!(files.len(), 2);
        assert!(files[0].meta.is_ok() && files[1].meta == Err(Unseen::Absent));
        assert_eq!(access(&config).verdict, Good);
    }

    #[test]
    fn what_is_open_is_told() {
        let mut config = config();
        assert!(access(&config).found.contains("1 of 1 hosts are believed"));
        let target = config.target.as_mut().unwrap();
        (target.listen, target.hosts) = ("0.0.0.0:4420".parse().unwrap(), Hosts::Any);
        let check = access(&config);
        assert_eq!((check.verdict, check.mend.len()), (Warn, 2));
        config.target = None;
        assert_eq!(access(&config).verdict, Good);
    }
}
