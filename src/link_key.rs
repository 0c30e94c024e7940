//! The link's key: out of a file or a credential when a node starts, and `ibid keygen`, which makes one.

use crate::args;
use crate::secret_file;
use anyhow::{Context as _, anyhow};
use ibid_control::config::{self, Config, KEY_CREDENTIAL};
use ibid_secure::{Encryption, KEY_TEXT_MAX, LinkKey, Security};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const WHAT: &str = "one key, ibid-link-1:base64:,";
/// Where systemd says that it has put the credentials of a service.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// What secures the link of this start: the pair's key, and chance that no other start has.
pub(crate) fn security(config: &Config) -> anyhow::Result<Security> {
    let key = match &config.link.key {
        Some(path) => load(path).with_context(|| format!("link.key = {}", path.display()))?,
        None => {
            let folder = std::env::var_os(CREDENTIALS).ok_or_else(|| {
                anyhow!(
                    "link.key is missing, and systemd gives no credential {KEY_CREDENTIAL}: `ibid keygen FILE` makes a key, which both nodes need"
                )
            })?;
            let path = PathBuf::from(folder).join(KEY_CREDENTIAL);
            let name = || format!("credential {}", path.display());
            parse(&secret_file::read_given(&path, KEY_TEXT_MAX, WHAT).with_context(name)?)
                .with_context(name)?
        }
    };
    let encryption = match config.link.encryption {
        config::Encryption::Full => Encryption::Full,
        config::Encryption::IntegrityOnly => Encryption::IntegrityOnly,
    };
    Ok(Security::new(key, chance()?, encryption))
}

fn load(path: &Path) -> anyhow::Result<LinkKey> {
    parse(&secret_file::read(path, KEY_TEXT_MAX, WHAT)?)
}

fn parse(text: &str) -> anyhow::Result<LinkKey> {
    LinkKey::parse(text).map_err(|error| anyhow!("holds no key: {error}"))
}

/// `ibid keygen`: makes a key, and a file for it that nobody else may read. One that is there stays as it is.
pub(crate) fn keygen(args: &args::Keygen) -> anyhow::Result<ExitCode> {
    write_new(&args.file)?;
    println!(
        "{}: a new key, which only its owner may read. Copy it to the other node over a way that nobody else sees, and set link.key on both.",
        args.file.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Makes a key in a file that is not there yet.
pub(crate) fn write_new(path: &Path) -> anyhow::Result<()> {
    let name = || path.display().to_string();
    let text = LinkKey::new(chance()?).text();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(name)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| file.sync_all())
        .with_context(name)
}

fn chance() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("/dev/urandom")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_that_was_made_is_read_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_new(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let key = load(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim_end(), &**key.text());
        assert!(write_new(&path).is_err(), "a key is never overwritten");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        let other = folder.path().join("other");
        write_new(&other).unwrap();
        assert_ne!(std::fs::read_to_string(&other).unwrap(), text);

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("mode 0600 or stricter), has mode 0640"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        for (bad, expected) in [
            ("", "not of the form ibid-link-1:base64:"),
            ("secret", "not of the form"),
            (&text[..20], "not of the form"),
            (&format!("{text}{text}"), "must hold one key"),
            (&"x".repeat(5000), "must hold one key"),
        ] {
            std::fs::write(&path, bad).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected} in {error}");
        }
        let mistyped = if text.contains('A') {
            text.replacen('A', "B", 1)
        } else {
            text.replacen('b', "c", 1)
        };
        std::fs::write(&path, &mistyped).unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(!error.contains(&mistyped[12..30]), "the key is shown: {error}");

        let fifo = folder.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let error = load(&fifo).unwrap_err().to_string();
        assert!(error.contains("must be a regular file"), "{error}");
    }
}
