//! Hosts that must authenticate, at a pair as an operator runs it: secrets in files, who gets in and who does not, and what status says of it.

use crate::common::{alone, folder};
use crate::link::Link;
use crate::load::options;
use crate::node::{Pair, SOURCE, stop};
use crate::process::{refused, run};
use ibid_client::{AuthRefusal, ClientError, ConnectOptions, Initiator, Secret, Status};
use ibid_control::config::{Auth, AuthHost, Hosts};
use ibid_wire::nvme_tcp::{
    AuthCommand, AuthMessage, AuthOffer, CAPSULE_BYTES, COMMON_BYTES, CommonHeader, Connect,
    ConnectData, Cqe, IC_BYTES, IcReq, PduKind, RESPONSE_BYTES, Sqe, put_nqn,
};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const HOST: &str = "nqn.2014-08.com.example:authenticates";
const FREE: &str = "nqn.2014-08.com.example:need-not";
pub(crate) const SECRET: &str = "DHHC-1:01:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+KfiaR:";
pub(crate) const CONTROLLER_SECRET: &str = "DHHC-1:03:Pz49PDs6OTg3NjU0MzIxMC8uLSwrKikoJyYlJCMiISAfHh0cGxoZGBcWFRQTEhEQDw4NDAsKCQgHBgUEAwIBALUzYbU=:";
const OTHER: &str = "DHHC-1:00:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:";
/// Half-authentications at a time: all the controllers there are but one.
const HALVES: usize = 15;

/// Puts a secret into a file that only its owner may read.
pub(crate) fn key(folder: &Path, name: &str, secret: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, format!("{secret}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A pair that lets two hosts in, and asks one of them who it is.
fn guarded(folder: &Path) -> Pair {
    let mut pair = Pair::new(folder, Link::Memif);
    let config = &mut pair.configs[SOURCE];
    config.target.as_mut().unwrap().hosts = Hosts::Only(vec![HOST.to_owned(), FREE.to_owned()]);
    config.auth = Auth {
        hosts: vec![AuthHost {
            nqn: HOST.to_owned(),
            secret: key(folder, "host.key", SECRET),
            controller_secret: Some(key(folder, "controller.key", CONTROLLER_SECRET)),
        }],
        ..Auth::default()
    };
    pair
}

/// What a command says that succeeds.
fn said(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn as_host(nqn: &str, secret: Option<&str>, controller: Option<&str>) -> ConnectOptions {
    let secret_of = |text: &str| Secret::parse(text).unwrap();
    ConnectOptions {
        host_nqn: nqn.to_owned(),
        secret: secret.map(secret_of),
        controller_secret: controller.map(secret_of),
        ..options(3, 32, true)
    }
}

#[test]
fn who_has_the_secret_gets_in_and_nobody_else() {
    let _alone = alone();
    let folder = folder();
    let pair = guarded(folder.path());
    let [mut source, mut destination] = pair.start_both();
    let (addr, nqn) = pair.target();
    let connect = |options: &ConnectOptions| Initiator::connect(addr, &nqn, options);

    // Both sides authenticate, on four queues; then it is a host like any other.
    let mut host = connect(&as_host(HOST, Some(SECRET), Some(CONTROLLER_SECRET))).unwrap();
    assert_eq!(host.queues(), 3);
    host.write(0, &[0xa5; 8192]).unwrap();
    host.disconnect().unwrap();
    // One side is enough for the target.
    let mut host = connect(&as_host(HOST, Some(SECRET), None)).unwrap();
    let mut back = [0; 8192];
    host.read(0, &mut back).unwrap();
    assert!(back == [0xa5; 8192], "other bytes came back");
    host.disconnect().unwrap();

    let failed = |options: &ConnectOptions| connect(options).err().expect("it got in");
    let error = failed(&as_host(HOST, Some(OTHER), None));
    assert!(matches!(error, ClientError::Authentication(AuthRefusal::Failed)), "{error}");
    let error = failed(&as_host(HOST, None, None));
    assert!(matches!(error, ClientError::SecretNeeded), "{error}");
    let error = failed(&as_host(HOST, Some(SECRET), Some(OTHER)));
    assert!(matches!(error, ClientError::Authentication(AuthRefusal::Failed)), "{error}");
    let error = failed(&as_host("nqn.2014-08.com.example:stranger", Some(SECRET), None));
    assert!(
        matches!(error, ClientError::Failed { status: Status::CONNECT_INVALID_HOST, .. }),
        "{error}"
    );
    // A host in the list without a secret.
    connect(&as_host(FREE, None, None)).unwrap().disconnect().unwrap();

    let access = pair.status(SOURCE).target.unwrap().access;
    assert!(!access.any_host);
    assert_eq!(
        (&access.authenticated[..], &access.unauthenticated[..]),
        (&[HOST.to_owned()][..], &[FREE.to_owned()][..])
    );
    // Of the two hosts that got in, four queues each. The one that did not believe the target had opened its first.
    assert_eq!((access.succeeded, access.failed, access.under_way), (8, 2, 0));
    let control = pair.control(SOURCE).to_str().unwrap();
    let text = said(&["status", "--control", control]);
    assert!(
        text.contains(&format!(
            "must authenticate: {HOST}; WITHOUT authentication: {FREE}; 8 authenticated"
        )),
        "{text}"
    );

    // The command line.
    let (at, own) = (addr.to_string(), folder.path().join("host.key"));
    let bench = [
        "bench",
        "--connect",
        &at,
        "--nqn",
        &nqn,
        "--host-nqn",
        HOST,
        "--seconds",
        "1",
        "--queues",
        "2",
        "--secret-file",
    ];
    let controller = folder.path().join("controller.key");
    let said = said(
        &[
            &bench[..],
            &[own.to_str().unwrap(), "--controller-secret-file", controller.to_str().unwrap()],
        ]
        .concat(),
    );
    assert!(said.contains("write"), "{said}");
    let said = refused(&[&bench[..], &[controller.to_str().unwrap()]].concat());
    assert!(said.contains("authentication failed"), "{said}");
    for secret in [SECRET, CONTROLLER_SECRET, OTHER] {
        let logged = std::fs::read_to_string(folder.path().join("source.log")).unwrap();
        assert!(!logged.contains(&secret[10..40]), "a secret is in the log");
    }
    assert!(stop(&mut source).success());
    assert!(stop(&mut destination).success());
}

#[test]
fn a_node_with_a_bad_secret_file_does_not_start_and_says_what_is_wrong() {
    let folder = folder();
    let pair = guarded(folder.path());
    let file = pair.config_file(SOURCE);
    std::fs::write(&file, pair.configs[SOURCE].to_toml()).unwrap();
    let file = file.to_str().unwrap();
    let secret = folder.path().join("host.key");
    let named = format!("host[0].secret = {}", secret.display());
    let told = |expected: &str| {
        let said = refused(&["run", "--config", file]);
        assert!(said.contains(&named) && said.contains(expected), "{expected} in {said}");
        assert!(!said.contains(&SECRET[10..30]), "{said}");
    };
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    told("mode 0644");
    key(folder.path(), "host.key", &SECRET.replace("AAEC", "AAED"));
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    told("checksum");
    std::fs::remove_file(&secret).unwrap();
    told("No such file");
    key(folder.path(), "host.key", CONTROLLER_SECRET);
    let said = refused(&["run", "--config", file]);
    assert!(
        said.contains("host[0].controller_secret") && said.contains("another secret"),
        "{said}"
    );
    // Nothing was begun.
    assert!(!pair.configs[SOURCE].log.device.exists());
}

/// A connection that authenticates up to the challenge, and asks for the group that costs the target most.
struct Half(TcpStream);

impl Half {
    fn connect(addr: SocketAddr, nqn: &str) -> Half {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut bytes = [0; IC_BYTES];
        IcReq { pfv: 0, hpda: 0, dgst: 0, maxr2t: 0 }.emit(&mut bytes);
        CommonHeader::plain(PduKind::IcReq).emit(&mut bytes);
        stream.write_all(&bytes).unwrap();
        stream.read_exact(&mut bytes).unwrap();
        let mut half = Half(stream);
        let request = Connect { recfmt: 0, qid: 0, sqsize: 31, cattr: 0, kato_ms: 60_000 };
        let mut data = [0; ConnectData::BYTES];
        ConnectData {
            hostid: [7; 16],
            cntlid: ConnectData::CNTLID_ANY,
            subnqn: put_nqn(nqn).unwrap(),
            hostnqn: put_nqn(HOST).unwrap(),
        }
        .emit(&mut data);
        half.send(&request.emit(1), &data);
        assert_eq!(half.completion().status, Status::SUCCESS);
        half
    }

    fn send(&mut self, sqe: &Sqe, data: &[u8]) {
        let mut bytes = [0; CAPSULE_BYTES];
        sqe.emit(&mut bytes[COMMON_BYTES..]);
        let pdo = if data.is_empty() { 0 } else { CAPSULE_BYTES as u8 };
        let plen = (CAPSULE_BYTES + data.len()) as u32;
        CommonHeader { pdo, plen, ..CommonHeader::plain(PduKind::CapsuleCmd) }.emit(&mut bytes);
        self.0.write_all(&[&bytes, data].concat()).unwrap();
    }

    fn completion(&mut self) -> Cqe {
        let mut bytes = [0; RESPONSE_BYTES];
        self.0.read_exact(&mut bytes).unwrap();
        Cqe::parse(&bytes[COMMON_BYTES..]).unwrap()
    }

    /// Asks for a challenge, without waiting for it.
    fn negotiate(&mut self) {
        let offer = Some(AuthOffer { hashes: &[1], groups: &[5] });
        let message = AuthMessage::Negotiate { secure_channel: 0, offer };
        let mut bytes = vec![0; message.bytes()];
        message.emit(1, &mut bytes);
        self.send(&AuthCommand::new(bytes.len() as u32).emit_send(2), &bytes);
        assert_eq!(self.completion().status, Status::SUCCESS);
        self.send(&AuthCommand::new(4096).emit_receive(3), &[]);
    }

    fn has_challenge(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let peeked = self.0.peek(&mut [0; 1]);
        self.0.set_nonblocking(false).unwrap();
        match peeked {
            Ok(0) => panic!("the target closed it"),
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn challenge(mut self) {
        let mut bytes = vec![0; 24 + 4096];
        self.0.read_exact(&mut bytes).unwrap();
        let (_, message) = AuthMessage::parse_padded(&bytes[24..]).unwrap();
        assert!(matches!(message, AuthMessage::Challenge { group: 5, .. }), "{message:?}");
        assert_eq!(self.completion().status, Status::SUCCESS);
    }
}

#[test]
fn half_authentications_delay_nobodys_io() {
    let _alone = alone();
    let folder = folder();
    let pair = guarded(folder.path());
    let [mut source, mut destination] = pair.start_both();
    let (addr, nqn) = pair.target();
    let mut host = Initiator::connect(addr, &nqn, &as_host(FREE, None, None)).unwrap();
    host.write(0, &[0xa5; 4096]).unwrap();
    let mut overtaken = 0;
    for _ in 0..3 {
        let mut halves: Vec<Half> = (0..HALVES).map(|_| Half::connect(addr, &nqn)).collect();
        halves.iter_mut().for_each(Half::negotiate);
        // It is answered from the log, while the target owes most of the challenges.
        let mut back = [0; 4096];
        host.read(0, &mut back).unwrap();
        overtaken += halves.iter().filter(|half| !half.has_challenge()).count();
        let access = pair.status(SOURCE).target.unwrap().access;
        assert_eq!(access.under_way as usize, HALVES);
        // Each comes in its turn.
        halves.into_iter().for_each(Half::challenge);
    }
    assert!(overtaken > HALVES / 2, "a read waited for challenges: it overtook {overtaken}");
    // One that means it gets in behind them, though they hold all the controllers but one.
    let _halves: Vec<Half> = (0..HALVES).map(|_| Half::connect(addr, &nqn)).collect();
    let guest = Initiator::connect(addr, &nqn, &as_host(HOST, Some(SECRET), None)).unwrap();
    guest.disconnect().unwrap();
    // What they leave behind when they go is computed for nobody: the next host is neither refused nor late.
    for _ in 0..300 {
        Half::connect(addr, &nqn).negotiate();
    }
    let began = Instant::now();
    let guest = Initiator::connect(addr, &nqn, &as_host(HOST, Some(SECRET), None)).unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "it waited for {:?}", began.elapsed());
    guest.disconnect().unwrap();
    host.disconnect().unwrap();
    assert!(stop(&mut source).success());
    assert!(stop(&mut destination).success());
}
