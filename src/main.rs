//! `ibid`: arguments, then the command. Each command is a room of its own.

mod args;
mod bench;
mod demo;
mod load;
mod node;
mod report;

use anyhow::Context as _;
use args::{Args, Command};
use clap::Parser as _;
use ibid_control::rpc::Client;
use std::process::ExitCode;
use std::time::Duration;

/// How long `ibid status` waits for a node.
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Run(run) => node::run(&run),
        Command::Status(status) => show_status(&status),
        Command::Cp(cp) => take_cp(&cp),
        Command::Bench(bench) => bench::run(&bench),
        Command::Demo(demo) => demo::run(&demo),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ibid: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn show_status(args: &args::Status) -> anyhow::Result<ExitCode> {
    let socket = args.node.socket()?;
    let status = Client::connect(&socket, STATUS_TIMEOUT)
        .and_then(|mut client| client.status())
        .with_context(|| format!("no status from {}", socket.display()))?;
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
        .with_context(|| format!("no consistency point from {}", socket.display()))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(ExitCode::SUCCESS)
}
