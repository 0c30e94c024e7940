//! What a figure is worth depends on: the processor, how many of it, and what else it was doing.

use std::fs;

/// Processor, number of processors, kernel, uptime and load, on a line.
pub(crate) fn describe() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let hours = uptime
        .split('.')
        .next()
        .and_then(|seconds| seconds.parse::<u64>().ok())
        .map_or(0, |s| s / 3600);
    format!(
        "{cpus} x {}, Linux {}, up {hours} h; before: {}",
        model(),
        kernel.trim(),
        load_average()
    )
}

/// The load averages of 1, 5 and 15 minutes. More than the pair itself makes: someone else was at work, repeat the run.
pub(crate) fn load_average() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let words: Vec<&str> = load.split_whitespace().take(3).collect();
    format!("load average {}", words.join(" "))
}

fn model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line =
        text.lines().find(|line| line.starts_with("model name") || line.starts_with("CPU part"));
    line.and_then(|line| line.split_once(": "))
        .map_or("unknown processor", |(_, name)| name)
        .to_owned()
}
