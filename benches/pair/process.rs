//! Processes that this benchmark starts: asked to end by pid, made to end when they don't, and what they cost.

use anyhow::{Context as _, bail, ensure};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Ticks of the times in /proc/PID/stat: USER_HZ, which Linux fixes at 100 for user space.
const TICKS_PER_SECOND: f64 = 100.0;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A child that doesn't outlive this value.
pub(crate) struct Process {
    child: Child,
    name: &'static str,
    /// How long it may take to end in good order.
    patience: Duration,
}

impl Process {
    /// Starts it.
    pub(crate) fn start(
        mut command: Command,
        name: &'static str,
        patience: Duration,
    ) -> anyhow::Result<Process> {
        let child = command.spawn().with_context(|| format!("{name} does not start"))?;
        Ok(Process { child, name, patience })
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard output, once.
    pub(crate) fn output(&mut self) -> anyhow::Result<std::process::ChildStdout> {
        self.child.stdout.take().context("its output is taken already")
    }

    /// An error if it has ended.
    pub(crate) fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended with {status}", self.name),
            None => Ok(()),
        }
    }

    /// Sends SIGINT and waits for the end; true if it ended without an error of its own.
    pub(crate) fn interrupt(&mut self) -> anyhow::Result<bool> {
        if self.child.try_wait()?.is_none() {
            // The shell's own `kill`: the program of that name is not on every machine.
            let kill =
                Command::new("sh").arg("-c").arg(format!("kill -INT {}", self.pid())).status();
            ensure!(kill.context("sh")?.success(), "{} can't be signalled", self.name);
        }
        let deadline = Instant::now() + self.patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.success());
            }
            ensure!(
                Instant::now() < deadline,
                "{} did not end within {} s",
                self.name,
                self.patience.as_secs()
            );
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) && self.interrupt().is_err() {
            // Already gone is what is wanted.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// CPU time of a process so far, user and system (proc(5), fields 14 and 15 of stat).
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let (_, fields) = stat.rsplit_once(')').with_context(|| path.clone())?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |at: usize| {
        fields.get(at).and_then(|field| field.parse::<f64>().ok()).with_context(|| path.clone())
    };
    // Counted from field 3, the first behind the name.
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}
