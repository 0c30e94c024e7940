//! `ibid doctor`: what of this machine is not as a node wants it, why that matters, and the command that mends it.
//! Facts are gathered at the rim (`root`: /proc and /sys, which tests replace by a made-up tree); verdicts are pure functions over them.
//! Writes nothing, but for `--probe`, which times writes to a file of its own. docs/doctor.md lists every check.
//!
//! Rooms: `machine` (kernel, CPU, clock, core), `memory`, `process` (limits), `network`, `storage`, `node` (configuration and its files).

mod check;
mod machine;
pub(crate) mod memory;
pub(crate) mod network;
pub(crate) mod node;
mod probe;
mod process;
pub(crate) mod root;
mod storage;

use std::path::Path;
use std::process::ExitCode;

use ibid_control::config::Config;

use crate::args;
use check::{Check, Report, Subject, Verdict};
use machine::Machine;
use memory::{Memory, Places};
use network::Network;
use node::{FileMeta, Needs};
use process::Process;
pub(crate) use root::Root;
use storage::Storage;

/// Exit status 0: nothing has failed; warnings may be there.
pub(crate) fn run(args: &args::Doctor) -> anyhow::Result<ExitCode> {
    let root = Root::machine();
    let report = match &args.config {
        None => machine(&root),
        Some(file) => for_node(&root, file, args.probe)?,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report.to_json())?);
    } else {
        print!("{report}");
    }
    Ok(if report.verdict() == Verdict::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What any node needs.
fn machine(root: &Root) -> Report {
    let process = Process::gather(root, None);
    let mut checks = Machine::gather(root).checks(None, process.may(process::CAP_SYS_ADMIN));
    checks.extend(Memory::gather(root).checks(None, None, &Places::default(), process.is_root()));
    checks.extend(process.checks(None));
    checks.extend(Network::gather(root, None).checks(None, None));
    Report { subject: None, checks }
}

/// What the node of a configuration needs.
fn for_node(root: &Root, file: &Path, probed: bool) -> anyhow::Result<Report> {
    let loaded = Config::load(file);
    let meta = FileMeta::gather(file);
    let first = node::configuration(file, loaded.as_ref(), &meta);
    let mut subject = Subject { file: file.display().to_string(), node: None, running: false };
    let Ok(config) = loaded else {
        // The machine can be told of all the same.
        let mut report = machine(root);
        report.checks.insert(0, first);
        return Ok(Report { subject: Some(subject), ..report });
    };
    let status = node::running(&config);
    subject.node = Some((config.node.name.clone(), config.node.role.to_string()));
    subject.running = status.is_some();

    let needs = Needs::of(&config)?;
    let running = status.as_ref().map(|status| status.log.huge_pages);
    let process = Process::gather(root, status.as_ref().map(|status| status.node.pid));
    let network = Network::gather(root, Some(&config));
    let log = Storage::gather(root, &config.log.device);
    let volumes: Vec<Storage> =
        config.volumes.iter().map(|volume| Storage::gather(root, &volume.device)).collect();
    let secrets = node::secret_files(root, &config);
    let maps = process.node.map(|pid| root.text(format!("/proc/{pid}/numa_maps")));
    let places = Places {
        nic: network.nic.clone(),
        cpu: config.node.cpu.and_then(|cpu| u32::try_from(cpu).ok()),
        disk: log.disk.as_ref().ok().and_then(storage::Disk::numa_node),
        memory: maps.and_then(|maps| memory::largest_mapping(&maps.ok()?)),
    };
    let probe = probed.then(|| probe::run(&log));

    let mut checks: Vec<Check> = vec![first];
    checks.extend([node::secrets(&config, &secrets, &process), node::access(&config)]);
    let privileged = process.may(process::CAP_SYS_ADMIN);
    checks.extend(Machine::gather(root).checks(Some(&config), privileged));
    let memory = Memory::gather(root);
    checks.extend(memory.checks(Some(&needs), running, &places, process.is_root()));
    checks.extend(process.checks(Some((&config, &needs))));
    checks.extend(network.checks(Some(&config), status.as_ref().map(|status| &status.link)));
    checks.extend(storage::checks(&config, &log, &volumes, probe.as_ref()));
    Ok(Report { subject: Some(subject), checks })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/doctor.md explains each check, and no other.
    #[test]
    fn every_check_is_in_the_documentation() {
        let page = include_str!("../../docs/doctor.md");
        let mut config = node::tests::config();
        config.link.device =
            ibid_control::config::LinkDevice::AfPacket { interface: "lo".to_owned() };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        std::fs::write(&file, config.to_toml()).unwrap();
        let report = for_node(&Root::machine(), &file, false).unwrap();
        let names: Vec<&str> = report.checks.iter().map(|check| check.topic.name).collect();
        let table = page.lines().filter_map(|line| line.strip_prefix("| `"));
        let told: Vec<&str> = table.filter_map(|line| line.split('`').next()).collect();
        assert_eq!(names, told);
        for check in machine(&Root::machine()).checks {
            assert!(told.contains(&check.topic.name), "{check:?}");
        }
    }

    #[test]
    fn a_file_with_a_mistake_is_one_more_check_that_fails() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        std::fs::write(&file, "[node]\nname = 7\n").unwrap();
        let report = for_node(&Root::machine(), &file, false).unwrap();
        assert_eq!(report.verdict(), Verdict::Fail);
        assert_eq!(report.checks.len(), machine(&Root::machine()).checks.len() + 1);
        let report = for_node(&Root::machine(), &folder.path().join("none"), false).unwrap();
        assert_eq!(report.checks[0].verdict, Verdict::Fail);
    }
}
