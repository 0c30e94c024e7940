//! The loads, the client that makes them (`ibid bench` in a process of its own), and what a run gives.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// The program under test, built with these benchmarks.
pub(crate) const IBID: &str = env!("CARGO_BIN_EXE_ibid");
/// Bytes of every volume and of every malloc bdev: loads go over all of it.
pub(crate) const VOLUME: &str = "256MiB";
/// The same as a number.
pub(crate) const VOLUME_BYTES: u64 = 256 << 20;

/// One load.
pub(crate) struct Load {
    /// What the table calls it.
    pub(crate) name: &'static str,
    size: &'static str,
    order: &'static str,
    reads: &'static str,
    /// Commands in flight.
    pub(crate) depth: u16,
}

const fn random_writes(depth: u16) -> Load {
    Load { name: "4 KiB random writes", size: "4KiB", order: "random", reads: "0", depth }
}

/// In this order: the sequential writes give later reads something to find.
pub(crate) static LOADS: [Load; 5] = [
    Load {
        name: "128 KiB sequential writes",
        size: "128KiB",
        order: "sequential",
        reads: "0",
        depth: 16,
    },
    random_writes(1),
    random_writes(32),
    random_writes(128),
    Load { name: "4 KiB random reads", size: "4KiB", order: "random", reads: "100", depth: 32 },
];

impl Load {
    /// The load as part of a file name.
    fn slug(&self) -> String {
        format!("{}-qd{}", self.name.to_lowercase().replace(' ', "-"), self.depth)
    }

    /// Whether it writes.
    pub(crate) fn writes(&self) -> bool {
        self.reads == "0"
    }
}

/// What a target's processes have used so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Used {
    /// CPU seconds of the source, or of the only process.
    pub(crate) source: f64,
    /// CPU seconds of the destination, if any.
    pub(crate) destination: Option<f64>,
    /// Bytes of whole frames on the link, both ways.
    pub(crate) link_bytes: Option<u64>,
}

/// One line of the table.
pub(crate) struct Row {
    /// What was loaded.
    pub(crate) target: String,
    /// With what.
    pub(crate) load: &'static Load,
    /// What `ibid bench --json` said.
    client: Value,
    used: Used,
}

impl Row {
    /// Loads a target and asks what that cost. `used` is called before and after, `settle` in between.
    pub(crate) fn measure(
        target: &str,
        address: SocketAddr,
        nqn: &str,
        load: &'static Load,
        (seconds, out): (u32, &Path),
        used: impl Fn() -> anyhow::Result<Used>,
        settle: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Row> {
        let slug: String =
            target.split(", ").collect::<Vec<_>>().join("-").replace(' ', "-").to_lowercase();
        let before = used()?;
        let output = Command::new(IBID)
            .args([
                "bench", "--json", "--nqn", nqn, "--size", load.size, "--order", load.order,
                "--reads", load.reads,
            ])
            .args(["--connect", &address.to_string(), "--depth", &load.depth.to_string()])
            .args(["--seconds", &seconds.to_string(), "--hgrm"])
            .arg(out.join(format!("{slug}-{}.hgrm", load.slug())))
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context(IBID)?;
        ensure!(output.status.success(), "`ibid bench` ended with {}", output.status);
        let client =
            serde_json::from_slice(&output.stdout).context("what `ibid bench --json` printed")?;
        settle()?;
        let after = used()?;
        let row = Row {
            target: target.to_owned(),
            load,
            client,
            used: Used {
                source: after.source - before.source,
                destination: after
                    .destination
                    .zip(before.destination)
                    .map(|(after, before)| after - before),
                link_bytes: after
                    .link_bytes
                    .zip(before.link_bytes)
                    .map(|(after, before)| after.saturating_sub(before)),
            },
        };
        ensure!(row.count() > 0, "`ibid bench` completed nothing");
        println!("{target}: {}, queue depth {}: {:.0} IOPS", load.name, load.depth, row.iops());
        Ok(row)
    }

    fn number(&self, path: &str) -> f64 {
        self.client.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN)
    }

    fn side(&self) -> &'static str {
        if self.load.writes() { "write" } else { "read" }
    }

    fn count(&self) -> u64 {
        self.client.pointer(&format!("/{}/count", self.side())).and_then(Value::as_u64).unwrap_or(0)
    }

    /// Commands that were in flight: a queue of n entries holds n - 1.
    pub(crate) fn depth(&self) -> u64 {
        self.client.pointer("/depth").and_then(Value::as_u64).unwrap_or(u64::from(self.load.depth))
    }

    /// Completions a second.
    pub(crate) fn iops(&self) -> f64 {
        self.number("/iops")
    }

    /// Payload a second, in 10^6 bytes.
    pub(crate) fn megabytes(&self) -> f64 {
        self.number("/bytes_per_second") / 1e6
    }

    /// A latency in microseconds; `which` is p50, p99 or p999.
    pub(crate) fn micros(&self, which: &str) -> f64 {
        self.number(&format!("/{}/{which}_ns", self.side())) / 1e3
    }

    /// CPU seconds of the source, the destination and the client for each million commands.
    pub(crate) fn cpu(&self) -> [Option<f64>; 3] {
        let millions = self.count() as f64 / 1e6;
        [
            Some(self.used.source / millions),
            self.used.destination.map(|seconds| seconds / millions),
            Some(self.number("/cpu_us_per_io")),
        ]
    }

    /// Bytes on the link for each byte that the client wrote.
    pub(crate) fn link_per_byte(&self) -> Option<f64> {
        let bytes = self.count() as f64 * self.number("/size");
        self.used.link_bytes.filter(|_| self.load.writes()).map(|link| link as f64 / bytes)
    }

    /// The line for programs.
    pub(crate) fn json(&self) -> Value {
        let [source, destination, client] = self.cpu();
        json!({
            "target": self.target, "load": self.load.name, "client": self.client,
            "cpu_seconds_per_million": { "source": source, "destination": destination, "client": client },
            "link_bytes_per_client_byte": self.link_per_byte(),
        })
    }
}
