//! The link's key and encryption with real processes: what is refused before a node starts, what is told where two nodes differ, and what
//! whoever sees the link can read.

use crate::common::{alone, folder, until};
use crate::link::Link;
use crate::load::{Model, write_count};
use crate::node::{DESTINATION, Demo, Pair, SOURCE, VOLUME_BYTES, status, stop};
use crate::process::{refused, run};
use ibid_control::config::Encryption;
use ibid_control::status::Status;
use std::os::unix::fs::PermissionsExt as _;

fn is_told(status: &Status, what: &str) -> bool {
    status.warnings.iter().any(|warning| warning.contains(what))
}

/// U6, U12. Nothing is said on the wire: the source hears nothing, and the destination says why.
#[test]
fn a_key_that_differs_is_told_by_the_side_that_drops() {
    let _alone = alone();
    let folder = folder();
    let mut pair = Pair::new(folder.path(), Link::Memif);
    let other = folder.path().join("other.key");
    assert!(run(&["keygen", other.to_str().unwrap()]).status.success());
    let right = pair.configs[SOURCE].link.key.replace(other);
    let [mut source, mut destination] = [pair.start(SOURCE), pair.start(DESTINATION)];
    until("the destination to tell", || {
        status(pair.control(DESTINATION))
            .filter(|status| is_told(status, "is link.key the same on both nodes?"))
    });
    until("its log to tell", || {
        destination.said().contains("is link.key the same on both nodes?").then_some(())
    });
    let (here, there) = (pair.status(SOURCE), pair.status(DESTINATION));
    assert!(there.link.security.rx_handshakes_unauthentic > 0);
    // Not a datagram: what the destination sent besides asks for addresses.
    assert_eq!((there.link.security.tx_cookies, here.link.rx_frames), (0, 0));
    source.kill();
    drop(source);
    // With the right key it goes on.
    pair.configs[SOURCE].link.key = right;
    let mut source = pair.start(SOURCE);
    pair.wait_in_sync();
    assert!(!is_told(&pair.status(DESTINATION), "link.key"));
    assert!(stop(&mut source).success() && stop(&mut destination).success());
}

#[test]
fn an_encryption_that_differs_is_refused_by_name() {
    let _alone = alone();
    let folder = folder();
    let mut pair = Pair::new(folder.path(), Link::Memif);
    pair.configs[SOURCE].link.encryption = Encryption::IntegrityOnly;
    let [mut source, mut destination] = [pair.start(SOURCE), pair.start(DESTINATION)];
    until("the source to tell", || {
        status(pair.control(SOURCE))
            .filter(|status| is_told(status, "link.encryption differs from the peer's"))
    });
    source.kill();
    drop(source);
    // Both without encryption, which status shows.
    assert!(stop(&mut destination).success());
    pair.configs[DESTINATION].link.encryption = Encryption::IntegrityOnly;
    let [mut source, mut destination] = pair.start_both();
    let mut model = Model::new(VOLUME_BYTES, 4096);
    write_count(&mut pair.connect(), &mut model, 1, 50);
    let security = pair.status(SOURCE).link.security;
    assert_eq!(security.encryption, Encryption::IntegrityOnly);
    assert_eq!((security.rx_unauthentic, security.rx_replayed), (0, 0));
    assert!(pair.status(SOURCE).to_string().contains("authenticated, NOT encrypted"));
    assert!(stop(&mut source).success() && stop(&mut destination).success());
    pair.assert_identical(&mut model);
}

#[test]
fn a_key_that_others_may_read_or_that_is_none_is_refused_before_anything_is_opened() {
    let folder = folder();
    let mut pair = Pair::new(folder.path(), Link::Memif);
    let key = pair.configs[SOURCE].link.key.clone().unwrap();
    let file = pair.config_file(SOURCE);
    std::fs::write(&file, pair.configs[SOURCE].to_toml()).unwrap();
    let told = |expected: &str| {
        let said = refused(&["run", "--config", file.to_str().unwrap()]);
        assert!(said.contains(expected), "{expected} in {said}");
        assert!(said.contains("link.key"), "{said}");
        assert!(!pair.configs[SOURCE].log.device.exists(), "nothing was made");
    };
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    told("has mode 0644");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&key, "ibid-link-1:AAAA:\n").unwrap();
    told("holds no key");
    std::fs::remove_file(&key).unwrap();
    told("No such file");
    assert!(refused(&["keygen", file.to_str().unwrap()]).contains("File exists"));
    pair.configs[SOURCE].link.key = None;
    std::fs::write(&file, pair.configs[SOURCE].to_toml()).unwrap();
    let said = refused(&["run", "--config", file.to_str().unwrap()]);
    assert!(said.contains("link.key is missing") && said.contains("ibid-link-key"), "{said}");
}

#[test]
fn a_demonstration_leaves_the_key_alone_that_lies_where_its_files_are_kept() {
    let _alone = alone();
    let folder = folder();
    let file = folder.path().join("link.key");
    std::fs::write(&file, "somebody's").unwrap();
    let mut demo = Demo::start(folder.path(), Link::Memif, &[]);
    assert_eq!(demo.stop("TERM").0, Some(0));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "somebody's");
}
