//! What pairs are compared with: SPDK's NVMe/TCP target on one core over a malloc bdev, without replication and without a log.
//! Set up over SPDK's JSON-RPC socket, so that nothing but the target itself is needed.

use crate::load::{Load, Row, Used, VOLUME_BYTES};
use crate::process::{Process, cpu_seconds};
use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const NQN: &str = "nqn.2016-06.io.spdk:ibid-bench";
const BLOCK_BYTES: u64 = 4096;
/// DPDK memory in MiB: the bdev, the target's buffers and room for its other pools.
const MEMORY_MIB: &str = "1024";
const READY_WAIT: Duration = Duration::from_secs(30);
const STOP_WAIT: Duration = Duration::from_secs(20);
const RPC_WAIT: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The program, as `IBID_SPDK_TGT` names it, or where an installed SPDK has it.
pub(crate) fn find() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("IBID_SPDK_TGT") {
        // What was asked for is tried, even where it will fail: the failure is then told.
        return Some(PathBuf::from(named));
    }
    let prefix = Command::new("pkg-config")
        .args(["--variable=prefix", "spdk_nvmf"])
        .stderr(Stdio::null())
        .output();
    let prefix =
        prefix.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    let installed = (!prefix.trim().is_empty()).then(|| Path::new(prefix.trim()).join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = installed.into_iter().chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join("nvmf_tgt")).find(|program| program.is_file())
}

/// A running target.
pub(crate) struct Target {
    process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

impl Target {
    /// Starts it and gives it a namespace.
    pub(crate) fn start(program: &Path) -> anyhow::Result<Target> {
        let folder = tempfile::Builder::new().prefix("ibid-bench-spdk-").tempdir()?;
        let socket = folder.path().join("rpc.sock");
        let log = File::create(folder.path().join("log"))?;
        let mut command = Command::new(program);
        // One core, no huge pages, no PCI: what runs wherever the pair runs.
        command
            .args([
                "-m",
                "0x1",
                "--no-huge",
                "-s",
                MEMORY_MIB,
                "--iova-mode",
                "va",
                "--no-pci",
                "-r",
            ])
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = Process::start(command, "SPDK's nvmf_tgt", STOP_WAIT)?;
        let mut target = Target { process, address: free_address()?, _folder: folder };
        let set_up = target.set_up(&socket);
        set_up.with_context(|| {
            let text = std::fs::read_to_string(socket.with_file_name("log")).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("its log ends:\n  {}", lines[lines.len().saturating_sub(8)..].join("\n  "))
        })?;
        Ok(target)
    }

    fn set_up(&mut self, socket: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WAIT;
        let mut stream = loop {
            self.process.check_alive()?;
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => {
                    bail!("no answer at its socket: {error}")
                }
                Err(_) => std::thread::sleep(LOOK_EVERY),
            }
        };
        stream.set_read_timeout(Some(RPC_WAIT))?;
        let listen = json!({
            "trtype": "TCP", "adrfam": "IPv4",
            "traddr": self.address.ip().to_string(), "trsvcid": self.address.port().to_string(),
        });
        let calls = [
            ("framework_wait_init", None),
            ("nvmf_create_transport", Some(json!({ "trtype": "TCP" }))),
            (
                "bdev_malloc_create",
                Some(
                    json!({ "name": "bench", "num_blocks": VOLUME_BYTES / BLOCK_BYTES, "block_size": BLOCK_BYTES }),
                ),
            ),
            (
                "nvmf_create_subsystem",
                Some(json!({ "nqn": NQN, "allow_any_host": true, "serial_number": "IBIDBENCH" })),
            ),
            (
                "nvmf_subsystem_add_ns",
                Some(json!({ "nqn": NQN, "namespace": { "bdev_name": "bench" } })),
            ),
            ("nvmf_subsystem_add_listener", Some(json!({ "nqn": NQN, "listen_address": listen }))),
        ];
        for (id, (method, params)) in (1..).zip(calls) {
            call(&mut stream, id, method, params).with_context(|| method.to_owned())?;
        }
        Ok(())
    }

    /// Loads it.
    pub(crate) fn run(
        &mut self,
        load: &'static Load,
        seconds: u32,
        out: &Path,
    ) -> anyhow::Result<Row> {
        self.process.check_alive()?;
        let pid = self.process.pid();
        let used = || Ok(Used { source: cpu_seconds(pid)?, ..Used::default() });
        Row::measure("SPDK, malloc", self.address, NQN, load, (seconds, out), used, || Ok(()))
    }

    /// Ends it.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.process.interrupt().map(drop)
    }
}

fn call(
    stream: &mut UnixStream,
    id: u64,
    method: &str,
    params: Option<Value>,
) -> anyhow::Result<()> {
    let mut request = json!({ "jsonrpc": "2.0", "id": id, "method": method });
    if let Some(params) = params {
        request["params"] = params;
    }
    stream.write_all(request.to_string().as_bytes())?;
    // SPDK ends an answer with nothing but its last brace: the parser says where that is.
    let mut answers = serde_json::Deserializer::from_reader(stream).into_iter::<Value>();
    let answer = answers.next().context("the target closed the connection")??;
    ensure!(answer.get("id").and_then(Value::as_u64) == Some(id), "not the answer: {answer}");
    match answer.get("error") {
        None => Ok(()),
        Some(error) => bail!("{error}"),
    }
}

/// A port that was free a moment ago.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
