//! A pair of ibid nodes to be loaded: `ibid demo --serve`, its stable handle, and the control sockets of its two nodes.

use crate::load::{IBID, Load, Row, Used, VOLUME};
use crate::process::{Process, cpu_seconds};
use anyhow::{Context as _, ensure};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Lines};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// DPDK devices between the nodes.
pub(crate) const LINKS: [&str; 2] = ["memif", "af_packet"];
/// What a write has reached on each node when it is acknowledged.
pub(crate) const DURABILITIES: [&str; 2] = ["memory", "disk"];
/// The end of a pair includes a consistency point and the comparison of both volumes.
const STOP_WAIT: Duration = Duration::from_secs(120);

/// A running pair.
pub(crate) struct Demo {
    // Before the folder: the processes end first.
    process: Process,
    lines: Lines<BufReader<ChildStdout>>,
    nqn: String,
    address: SocketAddr,
    folder: TempDir,
}

impl Demo {
    /// Starts a pair and waits until it takes writes.
    pub(crate) fn start(link: &str, durability: &str) -> anyhow::Result<Demo> {
        // On a real file system: /tmp is often memory, which O_DIRECT and flushes mean nothing to.
        let folder = tempfile::Builder::new().prefix("ibid-bench-").tempdir_in("/var/tmp")?;
        let mut command = Command::new(IBID);
        command
            .args(["demo", "--serve", "--listen", "127.0.0.1:0", "--size", VOLUME])
            .args(["--link", link, "--durability", durability, "--keep"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut process = Process::start(command, "`ibid demo --serve`", STOP_WAIT)?;
        let mut lines = BufReader::new(process.output()?).lines();
        let ready = lines.next().context("the pair did not become ready")??;
        let field = |name: &str| {
            let mut words = ready.split_whitespace();
            words
                .find_map(|word| word.strip_prefix(name))
                .with_context(|| format!("no {name} in `{ready}`"))
        };
        let address = SocketAddr::new(field("traddr=")?.parse()?, field("trsvcid=")?.parse()?);
        Ok(Demo { nqn: field("nqn=")?.to_owned(), address, process, lines, folder })
    }

    /// Loads it. The consistency point that ends the run belongs to its cost.
    pub(crate) fn run(
        &mut self,
        name: &str,
        load: &'static Load,
        seconds: u32,
        out: &Path,
    ) -> anyhow::Result<Row> {
        self.process.check_alive()?;
        let settle = || self.control("source", "cp").map(drop);
        Row::measure(name, self.address, &self.nqn, load, (seconds, out), || self.used(), settle)
    }

    /// Ends it in good order; true if both volumes were identical.
    pub(crate) fn stop(mut self) -> anyhow::Result<bool> {
        let good = self.process.interrupt()?;
        // Before it, how to connect to either node.
        let last = self.lines.last().context("the pair ended without a word")??;
        ensure!(last.starts_with("mirror identical: "), "the pair ended with `{last}`");
        Ok(good && last == "mirror identical: yes")
    }

    fn used(&self) -> anyhow::Result<Used> {
        let source = self.control("source", "status")?;
        let destination = self.control("destination", "status")?;
        let number = |status: &Value, path: &str| {
            status
                .pointer(path)
                .and_then(Value::as_u64)
                .with_context(|| format!("no {path} in a status"))
        };
        let cpu = |status: &Value| cpu_seconds(u32::try_from(number(status, "/node/pid")?)?);
        let mut link_bytes = 0;
        for status in [&source, &destination] {
            for class in ["log", "cp", "control", "catch_up"] {
                link_bytes += number(status, &format!("/link/tx_bytes/{class}"))?;
            }
        }
        Ok(Used {
            source: cpu(&source)?,
            destination: Some(cpu(&destination)?),
            link_bytes: Some(link_bytes),
        })
    }

    /// Runs `ibid status` or `ibid cp` on a node.
    fn control(&self, node: &str, command: &str) -> anyhow::Result<Value> {
        let config = self.folder.path().join(node).join("node.toml");
        let output = Command::new(IBID)
            .args([command, "--json", "--config"])
            .arg(config)
            .stderr(Stdio::inherit())
            .output()
            .context(IBID)?;
        ensure!(
            output.status.success(),
            "`ibid {command}` of the {node} ended with {}",
            output.status
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}
