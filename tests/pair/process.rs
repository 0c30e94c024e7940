//! Processes of the built `ibid`: run to their end, or kept until told to go; what they were, found in /proc.

use crate::common::until;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

/// The program under test.
pub(crate) fn ibid() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ibid"))
}

/// Runs `ibid` to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    ibid().args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs `ibid` expecting it to fail; gives what it said.
pub(crate) fn refused(arguments: &[&str]) -> String {
    let output = run(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{arguments:?} was accepted");
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// A child that is killed at the end of the test, at the latest.
pub(crate) struct Process {
    child: Child,
    pub(crate) log: PathBuf,
}

impl Process {
    /// Starts `command` with everything it says in `log`, except what `stdout` is for.
    pub(crate) fn start(mut command: Command, log: &Path, stdout: Option<Stdio>) -> Process {
        let output = File::options().create(true).append(true).open(log).unwrap();
        let stdout = stdout.unwrap_or_else(|| output.try_clone().unwrap().into());
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(output).spawn().unwrap();
        Process { child, log: log.to_owned() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Everything it has said.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        until(&format!("process {} ends", self.pid()), || self.child.try_wait().unwrap())
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.ended();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!(
                "--- {} ends:\n{}",
                self.log.display(),
                std::fs::read_to_string(&self.log).unwrap_or_default()
            );
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends a signal by name.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
    assert!(status.success(), "kill -{name} {pid}");
}

/// Fields of /proc/PID/stat behind the name: state, parent, … (proc(5), from field 3 on).
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// Whether a process runs: it is there, and not only as a status that nobody has fetched.
pub(crate) fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| !matches!(fields[0].as_str(), "Z" | "X"))
}

/// The processes `pid` has started.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|other| stat(*other).is_some_and(|fields| fields[1] == pid.to_string())).collect()
}

/// CPU time of a process so far, in ticks of 10 ms, user and system.
pub(crate) fn cpu_ticks(pid: u32) -> u64 {
    let fields = stat(pid).unwrap();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
