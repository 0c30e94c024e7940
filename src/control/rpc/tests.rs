//! The control socket over real sockets: what is answered, what is refused, and what is left behind.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::status::CpRecords;

/// A node that answers with what a test can tell apart, and whose CP waits until the test lets it go.
struct Node {
    stops: Arc<Mutex<u32>>,
    cp_begun: SyncSender<()>,
    cp_go: Mutex<Receiver<()>>,
}

impl Handler for Node {
    fn status(&self) -> Result<Status, Refused> {
        Ok(crate::status::tests::sample())
    }
    fn cp(&self) -> Result<CpReport, Refused> {
        self.cp_begun.send(()).unwrap();
        self.cp_go
            .lock()
            .unwrap()
            .recv_timeout(Duration::from_secs(10))
            .map_err(|_| Refused::TimedOut)?;
        let records = CpRecords { references: 3, ..CpRecords::default() };
        Ok(CpReport {
            cp: 9,
            taken: true,
            chain_digest: "0f".into(),
            records,
            link_bytes: 48,
            duration_ns: 1,
        })
    }
    fn histograms(&self) -> Result<Histograms, Refused> {
        Err(Refused::Faulted(5))
    }
    fn verify(&self, request: &VerifyRequest) -> Result<VerifyReport, Refused> {
        let VerifyRequest { volume, repair } = request.clone();
        if volume != "v0" {
            return Err(Refused::NoSuchVolume);
        }
        Ok(VerifyReport { volume, repair, ..crate::status::verify_sample() })
    }
    fn verify_progress(&self) -> Result<VerifyReport, Refused> {
        Ok(crate::status::verify_sample())
    }
    fn verify_stop(&self) -> Result<VerifyReport, Refused> {
        Err(Refused::NeverVerified)
    }
    fn stop(&self) -> Result<(), Refused> {
        *self.stops.lock().unwrap() += 1;
        Ok(())
    }
}

/// A server in a folder of its own, which goes when the test ends.
struct Fixture {
    server: Option<Server>,
    folder: PathBuf,
    stops: Arc<Mutex<u32>>,
    cp_begun: Receiver<()>,
    cp_go: SyncSender<()>,
}

const QUICK: Timeouts = Timeouts {
    idle: Duration::from_secs(20),
    request: Duration::from_millis(400),
    reply: Duration::from_secs(2),
};

impl Fixture {
    fn new(name: &str, timeouts: Timeouts) -> Self {
        let folder = std::env::temp_dir().join(format!("ibid-rpc-{}-{name}", std::process::id()));
        let (cp_begun_tx, cp_begun) = sync_channel(16);
        let (cp_go, cp_go_rx) = sync_channel(16);
        let stops = Arc::new(Mutex::new(0));
        let node =
            Node { stops: Arc::clone(&stops), cp_begun: cp_begun_tx, cp_go: Mutex::new(cp_go_rx) };
        let server = Server::start(&folder.join("run/a.sock"), Box::new(node), timeouts).unwrap();
        Self { server: Some(server), folder, stops, cp_begun, cp_go }
    }
    fn path(&self) -> PathBuf {
        self.folder.join("run/a.sock")
    }
    fn client(&self) -> Client {
        Client::connect(&self.path(), Duration::from_secs(10)).unwrap()
    }
    fn raw(&self) -> Raw {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Raw(BufReader::new(stream))
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        drop(self.server.take());
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A client that sends whatever bytes it likes.
struct Raw(BufReader<UnixStream>);

impl Raw {
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }
    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }
    fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0; 16]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

fn request(id: u32, method: &str) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "method": method }).to_string()
}

fn refuse_all() -> Box<dyn Handler> {
    struct Refusing;
    impl Handler for Refusing {
        fn status(&self) -> Result<Status, Refused> {
            Err(Refused::Starting)
        }
        fn cp(&self) -> Result<CpReport, Refused> {
            Err(Refused::NotSource)
        }
        fn histograms(&self) -> Result<Histograms, Refused> {
            Err(Refused::Stopping)
        }
        fn verify(&self, _: &VerifyRequest) -> Result<VerifyReport, Refused> {
            Err(Refused::NotSupported)
        }
        fn verify_progress(&self) -> Result<VerifyReport, Refused> {
            Err(Refused::NeverVerified)
        }
        fn verify_stop(&self) -> Result<VerifyReport, Refused> {
            Err(Refused::NeverVerified)
        }
        fn stop(&self) -> Result<(), Refused> {
            Err(Refused::Stopping)
        }
    }
    Box::new(Refusing)
}

#[test]
fn a_client_gets_what_the_node_says() {
    let fixture = Fixture::new("answers", QUICK);
    let mut client = fixture.client();
    assert_eq!(client.status().unwrap(), crate::status::tests::sample());
    assert_eq!(client.version().unwrap(), Version::current());
    fixture.cp_go.send(()).unwrap();
    assert_eq!(client.cp().unwrap().records.references, 3);
    client.stop().unwrap();
    assert_eq!(*fixture.stops.lock().unwrap(), 1);
    // A refusal is an answer: the connection goes on.
    match client.histograms() {
        Err(ClientError::Refused { code: -32006, message }) => {
            assert!(message.contains("Input/output error"))
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        client.call::<Value>("no_such_method").unwrap_err().to_string(),
        "the node refused: no such method; there are status, cp, histograms, verify, verify_progress, verify_stop, stop, version"
    );
    assert!(client.version().is_ok());
}

#[test]
fn a_comparison_takes_the_volume_to_compare_and_nothing_unknown() {
    let fixture = Fixture::new("verify", QUICK);
    let mut client = fixture.client();
    let ask = |volume: &str, repair| VerifyRequest { volume: volume.to_owned(), repair };
    let report = client.verify(&ask("v0", false)).unwrap();
    assert_eq!((report.volume.as_str(), report.repair), ("v0", false));
    assert!(client.verify(&ask("v0", true)).unwrap().repair);
    assert_eq!(client.verify_progress().unwrap(), crate::status::verify_sample());
    for (refused, code) in [
        (client.verify(&ask("v9", false)), Refused::NoSuchVolume.code()),
        (client.verify_stop(), Refused::NeverVerified.code()),
    ] {
        assert!(matches!(refused, Err(ClientError::Refused { code: told, .. }) if told == code));
    }
    let mut raw = fixture.raw();
    for params in ["{}", "[\"v0\"]", r#"{"volume":7}"#, r#"{"volume":"v0","repiar":true}"#, "null"]
    {
        raw.send(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"verify","params":{params}}}"#));
        let answer = raw.answer();
        assert_eq!(answer["error"]["code"], -32602, "{params}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().starts_with("verify takes "));
    }
}

#[test]
fn requests_may_come_as_lines_or_one_behind_the_other_or_in_halves() {
    let fixture = Fixture::new("framing", QUICK);
    let mut raw = fixture.raw();
    raw.send(format!(
        "{}\n\r\n  {}{}",
        request(1, "version"),
        request(2, "version"),
        request(3, "version")
    ));
    for id in 1..=3 {
        assert_eq!(raw.answer()["id"], id);
    }
    // Pretty-printed, byte by byte.
    let pretty = serde_json::to_string_pretty(
        &json!({ "jsonrpc": "2.0", "id": "x}]\n", "method": "version", "params": {} }),
    );
    for byte in pretty.unwrap().bytes() {
        raw.send([byte]);
    }
    assert_eq!(raw.answer()["id"], "x}]\n");
    // One whole and a half; the other half later.
    let (first, second) = (request(4, "version"), request(5, "version"));
    let (half, rest) = second.split_at(20);
    raw.send(format!("{first}{half}"));
    assert_eq!(raw.answer()["id"], 4);
    raw.send(rest);
    assert_eq!(raw.answer()["id"], 5);
}

#[test]
fn a_batch_is_answered_as_a_batch_and_a_notification_not_at_all() {
    let fixture = Fixture::new("batch", QUICK);
    let mut raw = fixture.raw();
    let stop = r#"{"jsonrpc":"2.0","method":"stop"}"#;
    raw.send(format!("[{}, {stop}, {}, 7]", request(1, "version"), request(2, "none")));
    let answers = raw.answer();
    let codes: Vec<(Value, Value)> = answers
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| (answer["id"].clone(), answer["error"]["code"].clone()))
        .collect();
    assert_eq!(
        codes,
        [(json!(1), Value::Null), (json!(2), json!(-32601)), (Value::Null, json!(-32600))]
    );
    raw.send(format!("{stop}[{stop}]{}", request(3, "version")));
    assert_eq!(raw.answer()["id"], 3, "only the last has an id");
    assert_eq!(*fixture.stops.lock().unwrap(), 3);
    raw.send(format!("[{}]", vec![request(1, "stop"); BATCH_MAX + 1].join(",")));
    assert_eq!(raw.answer()["error"]["code"], -32600);
    assert_eq!(*fixture.stops.lock().unwrap(), 3, "nothing of a refused batch is done");
}

#[test]
fn a_request_that_is_json_but_no_request_is_refused_and_the_next_is_heard() {
    let fixture = Fixture::new("invalid", QUICK);
    let mut raw = fixture.raw();
    for (bytes, code) in [
        ("42\n", -32600),
        ("\"status\"\n", -32600),
        ("null\n", -32600),
        ("[]", -32600),
        ("{}\n", -32600),
        (r#"{"id":1,"method":"stop"}"#, -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"stop"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":[1],"method":"stop"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"stop","params":{"force":true}}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"stop","params":[1]}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"Stop"}"#, -32601),
    ] {
        raw.send(bytes);
        assert_eq!(raw.answer()["error"]["code"], code, "{bytes}");
    }
    raw.send(r#"{"jsonrpc":"2.0","method":"Stop"}"#);
    raw.send(request(8, "version"));
    assert_eq!(raw.answer()["id"], 8, "a notification has no answer, not even an error");
    assert_eq!(*fixture.stops.lock().unwrap(), 0);
}

#[test]
fn garbage_is_answered_once_and_the_connection_closed() {
    let fixture = Fixture::new("garbage", QUICK);
    let deep = "[".repeat(1000) + "\n";
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"{\"jsonrpc\": }",
        b"\xff\xfe\x00\n",
        b"{\"a\":\"\xc3\x28\"}",
        b"]",
        deep.as_bytes(),
    ] {
        let mut raw = fixture.raw();
        raw.send(bytes);
        assert_eq!(raw.answer()["error"]["code"], -32700, "{bytes:?}");
        assert!(raw.is_closed());
    }
    assert!(fixture.client().version().is_ok());
}

#[test]
fn a_request_larger_than_allowed_is_refused() {
    let fixture = Fixture::new("oversize", Timeouts { request: Duration::from_secs(10), ..QUICK });
    // Just fits: blanks behind the braces are not part of it.
    let pad = REQUEST_BYTES_MAX - 1 - request(1, "version").len();
    let mut raw = fixture.raw();
    raw.send(request(1, "version").replacen('{', &format!("{{{}", " ".repeat(pad)), 1));
    assert_eq!(raw.answer()["id"], 1);
    let mut raw = fixture.raw();
    raw.send(format!("{{\"a\": \"{}", "x".repeat(REQUEST_BYTES_MAX - 7)));
    let answer = raw.answer();
    assert_eq!(answer["error"]["code"], -32600);
    assert!(answer["error"]["message"].as_str().unwrap().contains("larger than 65536 bytes"));
    assert!(raw.is_closed());
}

#[test]
fn half_a_request_is_not_waited_for_forever() {
    let fixture = Fixture::new("half", QUICK);
    let mut raw = fixture.raw();
    let begun = Instant::now();
    raw.send("{\"jsonrpc\"");
    assert!(raw.is_closed());
    let waited = begun.elapsed();
    assert!(waited >= QUICK.request && waited < QUICK.idle, "{waited:?}");
    // Dripping bytes doesn't stretch the time.
    let mut raw = fixture.raw();
    let begun = Instant::now();
    while raw.0.get_mut().write_all(b"[").is_ok() {
        assert!(begun.elapsed() < QUICK.idle, "still open");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Nor does the time count while nothing was begun.
    let mut raw = fixture.raw();
    std::thread::sleep(QUICK.request * 2);
    raw.send(request(1, "version"));
    assert_eq!(raw.answer()["id"], 1);
}

#[test]
fn a_client_that_says_nothing_is_closed_after_the_idle_time() {
    let fixture = Fixture::new("idle", Timeouts { idle: Duration::from_millis(200), ..QUICK });
    let mut raw = fixture.raw();
    raw.send(request(1, "version"));
    raw.answer();
    assert!(raw.is_closed());
}

#[test]
fn a_slow_method_of_one_client_doesnt_keep_another_waiting() {
    let fixture = Fixture::new("two", QUICK);
    let mut slow = fixture.client();
    let mut quick = fixture.client();
    std::thread::scope(|scope| {
        let cp = scope.spawn(|| slow.cp());
        fixture.cp_begun.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(quick.status().unwrap().node.name, "a");
        assert!(!cp.is_finished());
        fixture.cp_go.send(()).unwrap();
        assert_eq!(cp.join().unwrap().unwrap().cp, 9);
    });
}

#[test]
fn one_client_too_many_is_told_so_and_there_is_room_again_later() {
    let fixture = Fixture::new("many", QUICK);
    let mut clients: Vec<Client> = (0..CLIENTS_MAX).map(|_| fixture.client()).collect();
    for client in &mut clients {
        client.version().unwrap();
    }
    match fixture.client().version() {
        Err(ClientError::Refused { code: -32000, message }) => {
            assert!(message.contains("16 clients"))
        }
        other => panic!("{other:?}"),
    }
    drop(clients.pop());
    let until = Instant::now() + Duration::from_secs(10);
    while fixture.client().version().is_err() {
        assert!(Instant::now() < until, "no room came back");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_client_doesnt_wait_longer_than_it_wants() {
    let fixture = Fixture::new("patience", QUICK);
    let mut client = Client::connect(&fixture.path(), Duration::from_millis(150)).unwrap();
    assert!(matches!(client.cp(), Err(ClientError::TimedOut(_))));
    fixture.cp_go.send(()).unwrap();
}

#[test]
fn only_the_owner_may_open_the_socket_and_nothing_else_is_left_in_its_folder() {
    let fixture = Fixture::new("mode", QUICK);
    let mode = std::fs::metadata(fixture.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let list = |folder: &Path| {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let folder = fixture.folder.join("run");
    assert_eq!(list(&folder), ["a.sock", "a.sock.lock"]);
    let mut fixture = fixture;
    drop(fixture.server.take());
    assert!(list(&folder).is_empty());
}

#[test]
fn the_socket_of_a_live_server_is_refused_and_that_of_a_dead_one_replaced() {
    let mut fixture = Fixture::new("stale", QUICK);
    let path = fixture.path();
    let start = || Server::start(&path, refuse_all(), QUICK);
    assert!(matches!(start(), Err(ServerError::Live(_))));
    assert!(fixture.client().version().is_ok(), "the refused start did no harm");
    drop(fixture.server.take());

    // Somebody who doesn't know of our lock.
    let other = UnixListener::bind(&path).unwrap();
    assert!(matches!(start(), Err(ServerError::Live(_))));
    drop(other);
    // Now it is what a killed process leaves: a socket nobody listens at, a lock file nobody holds, a half-made socket.
    assert!(path.exists());
    std::fs::write(path.with_file_name("a.sock.lock"), "").unwrap();
    std::fs::create_dir(path.with_file_name("a.sock.new")).unwrap();
    drop(UnixListener::bind(path.with_file_name("a.sock.new").join("s")).unwrap());
    let server = start().unwrap();
    assert!(fixture.client().version().is_ok());
    assert!(!path.with_file_name("a.sock.new").exists());
    drop(server);

    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(start(), Err(ServerError::NotASocket(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_stop_lets_a_running_request_finish() {
    let mut fixture = Fixture::new("drain", QUICK);
    let mut waiting = fixture.raw();
    waiting.send(request(1, "version"));
    waiting.answer();
    let mut busy = fixture.client();
    let server = fixture.server.take();
    std::thread::scope(|scope| {
        let cp = scope.spawn(|| busy.cp());
        fixture.cp_begun.recv_timeout(Duration::from_secs(10)).unwrap();
        let stop = scope.spawn(move || drop(server));
        assert!(waiting.is_closed(), "who asks nothing is closed at once");
        assert!(!stop.is_finished());
        fixture.cp_go.send(()).unwrap();
        assert_eq!(cp.join().unwrap().unwrap().cp, 9);
        stop.join().unwrap();
    });
    assert!(matches!(
        Client::connect(&fixture.path(), QUICK.reply),
        Err(ClientError::NoNode { .. })
    ));
}

#[test]
fn every_refusal_reaches_the_client_with_its_own_code() {
    let mut fixture = Fixture::new("codes", QUICK);
    drop(fixture.server.take());
    fixture.server = Some(Server::start(&fixture.path(), refuse_all(), QUICK).unwrap());
    let mut client = fixture.client();
    for (method, refused) in [
        ("status", Refused::Starting),
        ("cp", Refused::NotSource),
        ("histograms", Refused::Stopping),
        ("verify_progress", Refused::NeverVerified),
        ("verify_stop", Refused::NeverVerified),
        ("stop", Refused::Stopping),
    ] {
        match client.call::<Value>(method) {
            Err(ClientError::Refused { code, message }) => {
                assert_eq!((code, message), (refused.code(), refused.to_string()));
            }
            other => panic!("{method}: {other:?}"),
        }
    }
    let all = [
        Refused::Starting,
        Refused::Stopping,
        Refused::NotSource,
        Refused::PeerAway,
        Refused::TimedOut,
        Refused::Faulted(5),
        Refused::NotSupported,
        Refused::Verifying,
        Refused::NeverVerified,
        Refused::NoSuchVolume,
    ];
    for (index, one) in all.iter().enumerate() {
        assert!(all[index + 1..].iter().all(|other| other.code() != one.code()));
    }
}

#[test]
fn a_client_tells_what_is_wrong_with_the_socket_or_the_answer() {
    let folder = std::env::temp_dir().join(format!("ibid-rpc-{}-client", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("s");
    let told = Client::connect(&path, QUICK.reply).err().unwrap().to_string();
    assert!(
        told.contains("no node serves this socket") && told.contains("is `ibid run` active"),
        "{told}"
    );

    let listener = UnixListener::bind(&path).unwrap();
    for (answer, expected) in [
        ("SSH-2.0\n", "not JSON"),
        ("{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n", "not the answer to request 1"),
        ("{\"jsonrpc\":\"2.0\",\"id\":1}\n", "neither result nor error"),
        (
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"version\":\"9\"}}\n",
            "missing field `interface`",
        ),
        ("{\"jsonrpc\":\"2.0\",", "closed the connection"),
    ] {
        let mut client = Client::connect(&path, Duration::from_secs(10)).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let told = std::thread::scope(|scope| {
            let asked = scope.spawn(move || client.version().unwrap_err().to_string());
            // The request first: closing with unread bytes would reset the connection.
            assert!(stream.read(&mut [0; 256]).unwrap() > 0);
            stream.write_all(answer.as_bytes()).unwrap();
            drop(stream);
            asked.join().unwrap()
        });
        assert!(told.contains(expected), "{told}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
