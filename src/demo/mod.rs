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
use std::path::PathBuf;
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
            let temporary = tempfile::Builder::new().prefix("ibid-demo-").tempdir_in(disk_folder())?;
            Folder { path: temporary.path().to_owned(), _temporary: Some(temporary) }
        }
    };
    if args.serve { serve(args, &folder) } else { show::run(args, &folder.path) }
}

/// A folder on a real file system: /tmp is often memory, which O_DIRECT and flushes mean nothing to.
fn disk_folder() -> PathBuf {
    PathBuf::from("/var/tmp")
}

fn config(args: &args::Demo, folder: &std::path::Path, link: DemoLink, cp_mode: CpMode) -> PairConfig {
    PairConfig {
        folder: folder.to_owned(),
        listen: args.listen,
        size: args.size(),
        lba: args.lba,
        link,
        cp_mode,
        durability: args.durability,
    }
}

fn serve(args: &args::Demo, folder: &Folder) -> anyhow::Result<ExitCode> {
    let stop = pair::stop_flag()?;
    let link = link::choose(args.link);
    let mode = args.cp_mode.unwrap_or(CpMode::Reference);
    let mut pair = Pair::start(&config(args, &folder.path, link, mode))?;
    let listen = pair.wait_until_ready()?;
    println!("ready nqn={} traddr={} trsvcid={} nsid=1", pair.nqn(), listen.ip(), listen.port());
    pair.wait_while_alive(&stop)?;
    let identical = pair.stop_and_compare()?;
    println!("mirror identical: {}", if identical { "yes" } else { "no" });
    Ok(if identical { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
