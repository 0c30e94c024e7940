//! Hosts that authenticate against the real target, and those that can't.

use super::target::{NQN, Target};
use crate::{AuthRefusal, ClientError, ConnectOptions, Initiator, Secret, discover};
use ibid_engine::frontend::{AuthConfig, HostAuth};
use ibid_wire::nvme_tcp::{AuthHash, DhGroup};

const SECRET: &str = "DHHC-1:01:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+KfiaR:";
const CONTROLLER_SECRET: &str = "DHHC-1:03:Pz49PDs6OTg3NjU0MzIxMC8uLSwrKikoJyYlJCMiISAfHh0cGxoZGBcWFRQTEhEQDw4NDAsKCQgHBgUEAwIBALUzYbU=:";
const OTHER: &str = "DHHC-1:00:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:";

fn secret(text: &str) -> Secret {
    Secret::parse(text).unwrap()
}

fn options(host: Option<&str>, controller: Option<&str>) -> ConnectOptions {
    ConnectOptions {
        io_queues: 2,
        secret: host.map(secret),
        controller_secret: controller.map(secret),
        header_digest: controller.is_some(),
        data_digest: controller.is_some(),
        ..ConnectOptions::default()
    }
}

fn target(hash: AuthHash, group: DhGroup, controller: Option<&str>) -> Target {
    Target::start_with(
        4096,
        AuthConfig {
            hosts: vec![HostAuth {
                nqn: ConnectOptions::default().host_nqn,
                secret: secret(SECRET),
                controller_secret: controller.map(secret),
            }],
            hashes: vec![hash],
            groups: vec![group],
        },
    )
}

#[test]
fn a_host_with_the_right_secret_authenticates_on_every_queue() {
    for (hash, group) in [
        (AuthHash::Sha256, DhGroup::Null),
        (AuthHash::Sha384, DhGroup::Ffdhe2048),
        (AuthHash::Sha512, DhGroup::Ffdhe4096),
    ] {
        for controller in [None, Some(CONTROLLER_SECRET)] {
            let target = target(hash, group, controller);
            let options = options(Some(SECRET), controller);
            let mut host = Initiator::connect(target.addr, NQN, &options).unwrap();
            assert_eq!(host.queues(), 2);
            host.write(3, &[7; 4096]).unwrap();
            let mut back = [0; 4096];
            host.read(3, &mut back).unwrap();
            assert!(back == [7; 4096], "another block came back");
            host.disconnect().unwrap();
        }
    }
}

#[test]
fn a_host_without_the_right_secret_stays_out() {
    let target = target(AuthHash::Sha256, DhGroup::Ffdhe2048, Some(CONTROLLER_SECRET));
    let connect = |host, controller| {
        Initiator::connect(target.addr, NQN, &options(host, controller)).err().unwrap()
    };
    assert!(matches!(connect(None, None), ClientError::SecretNeeded));
    let error = connect(Some(OTHER), None);
    assert!(matches!(error, ClientError::Authentication(AuthRefusal::Failed)), "{error}");
    let error = connect(Some(CONTROLLER_SECRET), Some(CONTROLLER_SECRET));
    assert!(matches!(error, ClientError::Authentication(AuthRefusal::Failed)), "{error}");
    // Discovery tells everybody, also one with secrets.
    assert_eq!(discover(target.addr, &options(Some(OTHER), Some(OTHER))).unwrap().len(), 2);
}

#[test]
fn a_target_that_does_not_know_its_own_secret_is_not_used() {
    let knows = target(AuthHash::Sha256, DhGroup::Null, Some(CONTROLLER_SECRET));
    let wants_other = options(Some(SECRET), Some(OTHER));
    let error = Initiator::connect(knows.addr, NQN, &wants_other).err().unwrap();
    assert!(matches!(error, ClientError::Authentication(AuthRefusal::Failed)), "{error}");
    let has_none = target(AuthHash::Sha256, DhGroup::Null, None);
    let wants = options(Some(SECRET), Some(CONTROLLER_SECRET));
    let error = Initiator::connect(has_none.addr, NQN, &wants).err().unwrap();
    assert!(matches!(error, ClientError::Authentication(AuthRefusal::Failed)), "{error}");
    let open = Target::start(4096);
    let error = Initiator::connect(open.addr, NQN, &wants).err().unwrap();
    assert!(matches!(error, ClientError::NotAuthenticated), "{error}");
}
