//! A pair under load, end to end: source, destination and client as processes of this machine, for each link and durability.
//! Takes the built `ibid`; gives one table, and every run's latency distribution and figures in `target/bench/`.
//! Run with `cargo bench --bench pair -- --quick`; docs/benchmarks.md says what each figure means.
//! Not here: the cost of single stages, which is `benches/stages`, and what consistency points send in each mode, which is `ibid demo`.

mod demo;
mod load;
mod machine;
mod process;
mod spdk;
mod table;

use anyhow::Context as _;
use clap::Parser;
use load::{LOADS, Row};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Seconds of each run with `--quick`, and without.
const SECONDS_QUICK: u32 = 3;
const SECONDS: u32 = 15;

/// Load pairs of ibid nodes end to end, and SPDK's target where there is one.
#[derive(Parser)]
struct Args {
    /// Short runs: 3 s each
    #[arg(long)]
    quick: bool,
    /// Seconds of each run [default: 15, or 3 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: Option<u32>,
    /// Only pairs with this DPDK device between the nodes
    #[arg(long, value_parser = demo::LINKS)]
    link: Option<String>,
    /// Only pairs with this durability
    #[arg(long, value_parser = demo::DURABILITIES)]
    durability: Option<String>,
    /// What cargo adds to say that this is a benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if !args.bench {
        println!(
            "SKIPPED: the pair benchmark takes minutes; run it with `make bench` or `cargo bench --bench pair`"
        );
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("pair: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// True if every target could be measured and every mirror was identical.
fn run(args: &Args) -> anyhow::Result<bool> {
    let out = out_folder()?;
    let seconds = args.seconds.unwrap_or(if args.quick { SECONDS_QUICK } else { SECONDS });
    let before = machine::describe();
    println!("{before}");
    let mut rows: Vec<Row> = Vec::new();
    let mut notes = Vec::new();
    let mut good = true;
    // The unreplicated target first: what pairs are compared with.
    match spdk::find() {
        None => notes
            .push("SKIPPED: SPDK not found (IBID_SPDK_TGT=/path/to/nvmf_tgt names it)".to_owned()),
        Some(program) => {
            let measured = spdk::Target::start(&program).and_then(|mut target| {
                for load in &LOADS {
                    rows.push(target.run(load, seconds, &out)?);
                }
                target.stop()
            });
            if let Err(error) = measured {
                notes.push(format!("FAILED: {}: {error:#}", program.display()));
                good = false;
            }
        }
    }
    for link in
        demo::LINKS.into_iter().filter(|link| args.link.as_deref().is_none_or(|only| only == *link))
    {
        for durability in demo::DURABILITIES
            .into_iter()
            .filter(|word| args.durability.as_deref().is_none_or(|only| only == *word))
        {
            let name = format!("{link}, {durability}");
            let measured = demo::Demo::start(link, durability).and_then(|mut demo| {
                for load in &LOADS {
                    rows.push(demo.run(&name, load, seconds, &out)?);
                }
                demo.stop()
            });
            match measured {
                Ok(true) => {}
                Ok(false) => {
                    notes.push(format!("FAILED: {name}: mirror identical: no"));
                    good = false;
                }
                Err(error) => {
                    notes.push(format!("FAILED: {name}: {error:#}"));
                    good = false;
                }
            }
        }
    }
    let text = format!(
        "{before}\n{}\n\n{}{}",
        machine::load_average(),
        table::render(&rows),
        notes.iter().map(|note| format!("{note}\n")).collect::<String>()
    );
    println!("\n{text}\nlatency distributions and figures: {}", out.display());
    std::fs::write(out.join("pair.txt"), &text)?;
    let figures: Vec<_> = rows.iter().map(Row::json).collect();
    std::fs::write(out.join("pair.json"), serde_json::to_string_pretty(&figures)?)?;
    Ok(good)
}

/// `bench` in cargo's target folder.
fn out_folder() -> anyhow::Result<PathBuf> {
    let target =
        Path::new(env!("CARGO_TARGET_TMPDIR")).parent().context("cargo's target folder")?;
    let out = target.join("bench");
    std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    Ok(out)
}
