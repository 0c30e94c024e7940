//! `cargo xtask mutants`: hunts mistakes, one after another, and shows what it took to find each.

use std::process::ExitCode;

/// What is hunted, and for how long.
#[derive(clap::Args)]
pub(crate) struct Mutants {
    /// This one only
    #[arg(long)]
    only: Option<String>,
    /// Some that are found soon
    #[arg(long, conflicts_with = "only")]
    quick: bool,
    /// Seeds that are tried on each, at most
    #[arg(long, default_value_t = 2000)]
    cap: u64,
    /// Threads; as many as there are cores if not given
    #[arg(long)]
    threads: Option<usize>,
}

impl Mutants {
    #[cfg(feature = "mutants")]
    pub(crate) fn run(&self) -> ExitCode {
        use ibid_sim::Mutant;
        use ibid_sim::mutants::{Hunt, QUICK, hunt, text};
        let all = if self.quick { QUICK } else { Mutant::ALL };
        let is_meant =
            |mutant: &&Mutant| self.only.as_deref().is_none_or(|name| name == mutant.name());
        let mut hunts: Vec<Hunt> = Vec::new();
        for mutant in all.iter().filter(is_meant) {
            let hunt = hunt(*mutant, self.cap, crate::cores(self.threads));
            eprintln!("{}", hunt.line());
            hunts.push(hunt);
        }
        if hunts.is_empty() {
            eprintln!("there is no such mutant");
            return ExitCode::FAILURE;
        }
        println!("{}", text(&hunts));
        let killed = hunts.iter().all(|hunt| hunt.killer.is_some());
        if killed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// This program can make no mistakes: it has one built that can.
    #[cfg(not(feature = "mutants"))]
    pub(crate) fn run(&self) -> ExitCode {
        use std::os::unix::process::CommandExt;
        let Self { only, quick, cap, threads } = self;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = std::process::Command::new(cargo);
        command
            .args(["run", "--profile", "sim", "--quiet", "--locked", "-p", "ibid-xtask"])
            .args(["--features", "mutants", "--", "mutants", "--cap", &cap.to_string()])
            .args(quick.then_some("--quick"));
        if let Some(only) = only {
            command.args(["--only", only]);
        }
        if let Some(threads) = threads {
            command.args(["--threads", &threads.to_string()]);
        }
        let error = command.exec();
        eprintln!("cargo can't be run: {error}");
        ExitCode::FAILURE
    }
}
