//! `ibid`: arguments, then the command. Each command is a room of its own.

mod args;
mod auth;
mod bench;
mod capture;
mod demo;
mod doctor;
mod dump;
mod faults;
mod link_key;
mod load;
mod node;
mod recovery;
mod numa;
mod report;
mod sizing;
mod secret_file;
mod verify;

use anyhow::Context as _;
use args::{Args, Command};
use clap::Parser as _;
use ibid_control::rpc::Client;
use std::process::ExitCode;
use std::time::Duration;

// A program that can be told to make mistakes is for the simulator, and is not this one.
const _: () = assert!(!ibid_units::mutant::POSSIBLE);

/// How long `ibid status` waits for a node.
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Run(run) => node::run(&run),
        Command::Status(status) => show_status(&status),
        Command::Cp(cp) => take_cp(&cp),
        Command::Verify(verify) => verify::run(&verify),
        Command::Keygen(keygen) => link_key::keygen(&keygen),
        Command::Dump(dump) => dump::run(&dump),
        Command::Doctor(doctor) => doctor::run(&doctor),
        Command::Bench(bench) => bench::run(&bench),
        Command::Demo(demo) => demo::run(&demo),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ibid: {}", said(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes in one line. Some errors already say their cause: it is not said again.
fn said(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn show_status(args: &args::Status) -> anyhow::Result<ExitCode> {
    let socket = args.node.socket()?;
    let status = Client::connect(&socket, STATUS_TIMEOUT)
        .and_then(|mut client| client.status())
        .context("no status")?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{status}");
    }
    Ok(ExitCode::SUCCESS)
}

fn take_cp(args: &args::Cp) -> anyhow::Result<ExitCode> {
    let socket = args.node.socket()?;
    let report = Client::connect(&socket, args.timeout)
        .and_then(|mut client| client.cp())
        .context("no consistency point")?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        let io = || anyhow::Error::from(std::io::Error::from_raw_os_error(2));
        let plain = io().to_string();
        assert_eq!(said(&io().context("no status")), format!("no status: {plain}"));
        assert_eq!(
            said(&io().context(format!("no node ({plain})")).context("no status")),
            format!("no status: no node ({plain})")
        );
    }
}
