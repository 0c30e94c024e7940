//! What authentication needs of the machine: secrets out of files, and a thread that computes for the shard.

use crate::secret_file;
use anyhow::{Context as _, ensure};
use ibid_chap::{SECRET_TEXT_MAX, Secret};
use ibid_control::config::{self, Config};
use ibid_engine::frontend::{AuthConfig, HostAuth};
use ibid_runtime::AuthRoom;
use ibid_wire::nvme_tcp::{AuthHash, DhGroup};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use tracing::warn;

/// Reads the secret in a file. What is wrong is said without a byte of what it holds.
pub(crate) fn load_secret(path: &Path) -> anyhow::Result<Secret> {
    let text = secret_file::read(path, SECRET_TEXT_MAX, "one secret, DHHC-1:hh:base64:,")?;
    Secret::parse(&text).map_err(|error| anyhow::anyhow!("holds no secret: {error}"))
}

/// What the target is told of authentication, with every secret read.
pub(crate) fn target_auth(config: &Config) -> anyhow::Result<AuthConfig> {
    let mut hosts = Vec::with_capacity(config.auth.hosts.len());
    for (place, host) in config.auth.hosts.iter().enumerate() {
        let load = |key: &str, path: &Path| {
            load_secret(path).with_context(|| format!("host[{place}].{key} = {}", path.display()))
        };
        let secret = load("secret", &host.secret)?;
        let controller_secret = match &host.controller_secret {
            Some(path) => Some(load("controller_secret", path)?),
            None => None,
        };
        ensure!(
            controller_secret.as_ref().is_none_or(|other| !other.has_key_of(&secret)),
            "host[{place}].controller_secret: must be another secret than host[{place}].secret; with one for both, whoever has it can be either"
        );
        hosts.push(HostAuth { nqn: host.nqn.clone(), secret, controller_secret });
    }
    Ok(AuthConfig {
        hosts,
        hashes: config.auth.hashes.iter().map(|hash| hash_of(*hash)).collect(),
        groups: config.auth.groups.iter().map(|group| group_of(*group)).collect(),
    })
}

const fn hash_of(hash: config::AuthHash) -> AuthHash {
    match hash {
        config::AuthHash::Sha256 => AuthHash::Sha256,
        config::AuthHash::Sha384 => AuthHash::Sha384,
        config::AuthHash::Sha512 => AuthHash::Sha512,
    }
}

const fn group_of(group: config::AuthGroup) -> DhGroup {
    match group {
        config::AuthGroup::Null => DhGroup::Null,
        config::AuthGroup::Ffdhe2048 => DhGroup::Ffdhe2048,
        config::AuthGroup::Ffdhe3072 => DhGroup::Ffdhe3072,
        config::AuthGroup::Ffdhe4096 => DhGroup::Ffdhe4096,
        config::AuthGroup::Ffdhe6144 => DhGroup::Ffdhe6144,
        config::AuthGroup::Ffdhe8192 => DhGroup::Ffdhe8192,
    }
}

/// The thread that computes for authentications, until this is dropped.
pub(crate) struct Worker {
    room: Arc<AuthRoom>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts it, with room for so many jobs at a time.
    pub(crate) fn start(jobs_max: usize) -> anyhow::Result<Self> {
        let room = Arc::new(AuthRoom::new(jobs_max));
        let mut chance = File::open("/dev/urandom").context("/dev/urandom")?;
        let inside = room.clone();
        let thread = std::thread::Builder::new().name("auth".into()).spawn(move || {
            inside.serve(|out: &mut [u8]| {
                let read = chance.read_exact(out);
                if let Err(error) = &read {
                    warn!("/dev/urandom: {error}: a host can't authenticate");
                }
                read
            });
        })?;
        Ok(Self { room, thread: Some(thread) })
    }

    /// Where the shard leaves its jobs.
    pub(crate) fn room(&self) -> Arc<AuthRoom> {
        self.room.clone()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.room.close();
        if let Some(thread) = self.thread.take() {
            // It ends with the job it is at; if it panicked, hosts could not authenticate and were told so.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const SECRET: &str = "DHHC-1:01:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+KfiaR:";

    #[test]
    fn a_secret_file_is_its_owners_alone_and_holds_one_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let told = |text: &[u8], mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let result = load_secret(&path);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            result.map(drop).map_err(|error| format!("{error:#}"))
        };
        let line = format!("{SECRET}\n");
        for (text, mode) in [(SECRET, 0o600), (&line, 0o400), (&format!("{SECRET}\r\n"), 0o600)] {
            told(text.as_bytes(), mode).unwrap();
        }
        for (text, mode, expected) in [
            (line.as_bytes(), 0o640, "mode 0640"),
            (line.as_bytes(), 0o604, "mode 0604"),
            (line.as_bytes(), 0o610, "mode 0610"),
            (b"", 0o600, "it is not of the form DHHC-1:hh:base64:"),
            (b"secret\n", 0o600, "it is not of the form"),
            (&line.as_bytes()[1..], 0o600, "it is not of the form"),
            (format!("{SECRET}\n{SECRET}\n").as_bytes(), 0o600, "one secret"),
            (SECRET.replace("AAEC", "AAED").as_bytes(), 0o600, "its checksum is wrong"),
            (&[0xff; 40], 0o600, "one secret"),
            (&[b'A'; 5000], 0o600, "one secret"),
        ] {
            let error = told(text, mode).unwrap_err();
            assert!(error.contains(expected), "{expected} in {error}");
            assert!(!error.contains("AAE"), "the secret is shown: {error}");
        }
        let error = load_secret(folder.path()).unwrap_err().to_string();
        assert!(error.contains("regular file"), "{error}");
        assert!(load_secret(&folder.path().join("none")).is_err());
    }
}
