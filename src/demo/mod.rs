//! `ibid demo`: a whole pair on this machine, two processes and a DPDK link between them, shown at work on real files.

mod files;
mod link;
mod pair;
mod show;
mod table;

use crate::args::{self, DemoLink};
use anyhow::Context as _;
use ibid_control::config::CpMode;
use pair::{Pair, PairConfig};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tempfile::TempDir;

/// Where the demonstration's files lie: a folder that is removed at the end, or one that was named.
struct Folder {
    path: PathBuf,
    _temporary: Option<TempDir>,
}

pub(crate) fn run(args: &args::Demo) -> anyhow::Result<ExitCode> {
    let folder = match args.keep() {
        Some(path) => {
            std::fs::create_dir_all(path).with_context(|| format!("--keep {}", path.display()))?;
            Folder { path: std::fs::canonicalize(path)?, _temporary: None }
        }
        None => {
            sweep();
            let prefix = format!("{PREFIX}{}-", std::process::id());
            let temporary = tempfile::Builder::new().prefix(&prefix).tempdir_in(DISK_FOLDER)?;
            Folder { path: temporary.path().to_owned(), _temporary: Some(temporary) }
        }
    };
    if args.serve { serve(args, &folder) } else { show::run(args, &folder.path) }
}

/// A folder on a real file system: /tmp is often memory, which O_DIRECT and flushes mean nothing to.
const DISK_FOLDER: &str = "/var/tmp";
/// What a demonstration leaves for others to see is named after its process …
const PREFIX: &str = "ibid-demo-";

/// … so that the next one knows what belongs to one that was killed.
fn is_left_over(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let pid = rest.split('-').next().unwrap_or(rest);
    pid.parse::<u32>().is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Removes the folders of demonstrations that were killed.
fn sweep() {
    let Ok(folders) = std::fs::read_dir(DISK_FOLDER) else {
        return;
    };
    for folder in folders.flatten() {
        if folder.file_name().to_str().is_some_and(is_left_over) {
            // Another user's stays.
            drop(std::fs::remove_dir_all(folder.path()));
        }
    }
}

fn config(args: &args::Demo, folder: &Path, link: DemoLink, cp_mode: CpMode) -> PairConfig {
    PairConfig {
        folder: folder.to_owned(),
        listen: args.listen,
        size: args.size(),
        lba: args.lba,
        link,
        cp_mode,
        encryption: args.encryption,
        durability: args.durability,
    }
}

fn serve(args: &args::Demo, folder: &Folder) -> anyhow::Result<ExitCode> {
    let stop = pair::stop_flag()?;
    let link = link::choose(args.link);
    let mode = args.cp_mode.unwrap_or(CpMode::Reference);
    let mut pair = Pair::start(&config(args, &folder.path, link, mode))?;
    let listen = pair.wait_until_ready()?;
    let standby = pair.standby()?;
    println!("ready nqn={} traddr={} trsvcid={} nsid=1", pair.nqn(), listen.ip(), listen.port());
    // Both make one multipath device: the first path serves, the second is inaccessible until its node is promoted.
    for at in [listen, standby] {
        println!("nvme connect -t tcp -a {} -s {} -n {}", at.ip(), at.port(), pair.nqn());
    }
    pair.wait_while_alive(&stop)?;
    let identical = pair.stop_and_compare()?;
    println!("mirror identical: {}", if identical { "yes" } else { "no" });
    Ok(if identical { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_demonstration_has_made_is_left_over() {
        let own = std::process::id();
        assert!(!is_left_over(&format!("ibid-demo-{own}")));
        assert!(!is_left_over(&format!("ibid-demo-{own}-x7Y")));
        // Above the kernel's largest process number.
        assert!(is_left_over("ibid-demo-4194305"));
        assert!(is_left_over("ibid-demo-4194305-x7Y"));
        for other in ["ibid-demo-x7Y", "ibid-demo-", "ibid-4194305", "4194305"] {
            assert!(!is_left_over(other), "{other}");
        }
    }
}
