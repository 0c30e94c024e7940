//! `cargo xtask fuzz`: builds the fuzz targets with coverage counters, runs each for a while, and says in a line what came of it.
//! On stable Rust: libFuzzer comes as a crate, and the compiler's passes are asked for by flags. Everything it makes lies below
//! `target/fuzz`, so that ordinary builds are not disturbed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::Instant;

/// The targets: names of programs of `src/fuzz`.
const TARGETS: &[&str] = &["pdu_stream", "fabrics", "log_pages", "auth", "io"];

/// What `cargo fuzz` asks of the compiler, too: counters per edge, the table of their places, and the operands of comparisons.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
];

/// Longest script.
const LEN_MAX: u32 = 4096;
/// Seconds after which a script counts as endless.
const TIMEOUT_S: u32 = 10;
/// Memory of the whole program.
const RSS_MAX_MIB: u32 = 1024;
/// Seconds per target of `--smoke`.
const SMOKE_S: u64 = 10;
/// … which are the same scripts each time: what chance finds is for the long runs.
const SMOKE_SAME: [&str; 2] = ["-seed=1", "-runs=8000"];
/// Lines of a failed run's log that are shown.
const TOLD_LINES: usize = 40;

/// What is fuzzed, and for how long.
#[derive(clap::Args)]
pub(crate) struct Fuzz {
    /// The target, or "all"
    #[arg(default_value = "all")]
    target: String,
    /// How long each runs
    #[arg(long, default_value_t = 60, conflicts_with = "smoke")]
    seconds: u64,
    /// What CI does: the corpus, then a few seconds; skipped where there is no C++ compiler
    #[arg(long)]
    smoke: bool,
    /// Targets that run at a time
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Run this file once instead, as a failed run names it
    #[arg(long, conflicts_with_all = ["smoke", "seconds", "threads"])]
    input: Option<PathBuf>,
}

impl Fuzz {
    pub(crate) fn run(&self) -> ExitCode {
        let targets: Vec<&str> = TARGETS
            .iter()
            .copied()
            .filter(|name| self.target == "all" || self.target == *name)
            .collect();
        if targets.is_empty() {
            eprintln!(
                "there is no target {:?}; there are all, {}",
                self.target,
                TARGETS.join(", ")
            );
            return ExitCode::FAILURE;
        }
        if !has_compiler() {
            println!(
                "SKIPPED: fuzzing: libFuzzer is built from C++, and there is no C++ compiler (g++)"
            );
            return if self.smoke { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        let places = Places::new();
        let Some(programs) = build(&places) else {
            eprintln!("the fuzz targets don't build");
            return ExitCode::FAILURE;
        };
        if let Some(input) = &self.input {
            let status = Command::new(programs.join(targets[0])).arg(input).status();
            let passed = status.is_ok_and(|status| status.success());
            return if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        let seconds = if self.smoke { SMOKE_S } else { self.seconds };
        let extra: &[&str] = if self.smoke { &SMOKE_SAME } else { &[] };
        println!(
            "{} targets, {seconds} s each at most, logs in {}",
            targets.len(),
            places.logs.display()
        );
        let queue = Mutex::new(targets.into_iter());
        let failed = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(|| {
                    while let Some(name) = next(&queue) {
                        let ran = run(&places, &programs, name, (seconds, extra));
                        println!("{}", ran.line());
                        if !ran.passed {
                            println!("{}", ran.tail);
                            failed.lock().expect("nobody panics with it").push(name);
                        }
                    }
                });
            }
        });
        let failed = failed.into_inner().expect("nobody panics with it");
        if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn next<'a>(queue: &Mutex<impl Iterator<Item = &'a str>>) -> Option<&'a str> {
    queue.lock().expect("nobody panics with it").next()
}

/// Where everything lies.
struct Places {
    root: PathBuf,
    seeds: PathBuf,
    build: PathBuf,
    corpus: PathBuf,
    artifacts: PathBuf,
    logs: PathBuf,
}

impl Places {
    fn new() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = root.canonicalize().expect("the sources that this was built from are there");
        let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        let build = root.join(target).join("fuzz");
        Self {
            seeds: root.join("src/fuzz/corpus"),
            corpus: build.join("corpus"),
            artifacts: build.join("artifacts"),
            logs: build.join("logs"),
            root,
            build,
        }
    }
}

/// The compiler that the crate `cc` would take.
fn has_compiler() -> bool {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let asked = Command::new(compiler).arg("--version").stdout(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

/// The triple of this machine: with it named, the flags do not apply to build scripts, which can't have them.
fn triple() -> Option<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned)
}

/// Builds all programs; the folder they lie in.
fn build(places: &Places) -> Option<PathBuf> {
    let triple = triple()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(&places.root)
        .env("RUSTFLAGS", COVERAGE.join(" "))
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .args(["build", "--quiet", "--locked", "--profile", "fuzz", "--target", &triple])
        .args(["-p", "ibid-fuzz", "--features", "libfuzzer", "--bins", "--target-dir"])
        .arg(&places.build)
        .status();
    status.is_ok_and(|status| status.success()).then(|| places.build.join(triple).join("fuzz"))
}

/// What came of one target.
struct Ran {
    name: String,
    passed: bool,
    seconds: f64,
    executions: u64,
    coverage: String,
    new: u64,
    rss_mib: u64,
    artifacts: usize,
    tail: String,
}

impl Ran {
    fn line(&self) -> String {
        let Self { name, seconds, executions, coverage, new, rss_mib, artifacts, .. } = self;
        let rate = *executions as f64 / seconds.max(1e-9);
        let verdict = if self.passed { "passed" } else { "FAILED" };
        format!(
            "{name:<11} {verdict}: {executions} executions in {seconds:.0} s ({rate:.0}/s), {coverage}, {new} new in the corpus, {rss_mib} MiB, {artifacts} crashes"
        )
    }
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

fn run(places: &Places, programs: &Path, name: &str, (seconds, extra): (u64, &[&str])) -> Ran {
    let corpus = places.corpus.join(name);
    let artifacts = places.artifacts.join(name);
    for folder in [&corpus, &artifacts, &places.logs] {
        std::fs::create_dir_all(folder).expect("a folder below target/ can be made");
    }
    let log = places.logs.join(format!("{name}.log"));
    let out = std::fs::File::create(&log).expect("a file below target/ can be made");
    let known = files(&artifacts);
    let mut prefix = OsString::from("-artifact_prefix=");
    prefix.push(&artifacts);
    prefix.push("/");
    let begun = Instant::now();
    let status = Command::new(programs.join(name))
        .arg(format!("-max_total_time={seconds}"))
        .args(extra)
        .arg(format!("-max_len={LEN_MAX}"))
        .arg(format!("-timeout={TIMEOUT_S}"))
        .arg(format!("-rss_limit_mb={RSS_MAX_MIB}"))
        .args(["-print_final_stats=1", "-use_value_profile=1", "-reload=0"])
        .arg(prefix)
        .arg(&corpus)
        .arg(places.seeds.join(name))
        .stdout(Stdio::null())
        .stderr(out)
        .status();
    let text = std::fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let stat = |key: &str| {
        let line = lines.iter().rev().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.trim_start_matches(':').trim().parse().ok()).unwrap_or(0)
    };
    Ran {
        name: name.to_owned(),
        passed: status.is_ok_and(|status| status.success()),
        seconds: begun.elapsed().as_secs_f64(),
        executions: stat("stat::number_of_executed_units"),
        coverage: coverage(&lines),
        new: stat("stat::new_units_added"),
        rss_mib: stat("stat::peak_rss_mb"),
        artifacts: files(&artifacts) - known,
        tail: lines[lines.len().saturating_sub(TOLD_LINES)..].join("\n"),
    }
}

/// What the first and the last status line say of coverage: edges and features.
fn coverage(lines: &[&str]) -> String {
    let word = |line: &str, key: &str| {
        let mut words = line.split_whitespace().skip_while(|word| *word != key);
        words.nth(1).unwrap_or("?").to_owned()
    };
    let told = |line: &&&str| line.contains(" cov: ");
    let (first, last) = (lines.iter().find(told), lines.iter().rev().find(told));
    match (first, last) {
        (Some(first), Some(last)) => format!(
            "edges {} at the start, {} at the end, features {}",
            word(first, "cov:"),
            word(last, "cov:"),
            word(last, "ft:")
        ),
        _ => "no coverage was told".to_owned(),
    }
}
