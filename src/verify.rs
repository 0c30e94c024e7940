//! `ibid verify`: has a node compare both copies of a volume and stays until that is done, with a bar where somebody looks.
//! An interrupted `ibid verify` ends the comparison at the node as well.

use crate::args;
use anyhow::Context as _;
use ibid_control::rpc::Client;
use ibid_control::status::{VerifyRequest, VerifyState};
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the node may take for one answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Exit status 0: every block has been compared, and both copies are the same now.
pub(crate) fn run(args: &args::Verify) -> anyhow::Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let socket = args.node.socket()?;
    let mut client = Client::connect(&socket, ANSWER_WAIT).context("no comparison")?;
    let request = VerifyRequest { volume: args.volume.clone(), repair: args.repair };
    let mut report = client.verify(&request).context("no comparison")?;
    // Drawn only where standard error is a terminal.
    let bar = ProgressBar::new(report.blocks).with_style(ProgressStyle::with_template(
        "{bar:40} {percent} % of {len} blocks, {msg} differ, {eta} left",
    )?);
    while report.state == VerifyState::Running {
        bar.set_length(report.blocks);
        bar.set_position(report.compared);
        bar.set_message(report.differing.to_string());
        std::thread::sleep(LOOK_EVERY);
        report = if stop.load(Ordering::Relaxed) {
            client.verify_stop()
        } else {
            client.verify_progress()
        }
        .context("the comparison goes on, but its progress is not known")?;
    }
    bar.finish_and_clear();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
