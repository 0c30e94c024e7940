//! `ibid bench`: loads any NVMe/TCP target and says what its client saw.

use crate::args::{self, Order};
use crate::auth;
use crate::load::{self, Random, Request};
use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use ibid_client::{ConnectOptions, Initiator};
use serde_json::json;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Ticks of the times in /proc/PID/stat: USER_HZ, which Linux fixes at 100 for user space.
const TICKS_PER_SECOND: f64 = 100.0;

pub(crate) fn run(args: &args::Bench) -> anyhow::Result<ExitCode> {
    let queues = args.queues;
    let mut options = ConnectOptions {
        io_queues: queues,
        queue_depth: args.depth.div_ceil(queues).max(2),
        header_digest: args.header_digest,
        data_digest: args.data_digest,
        ..ConnectOptions::default()
    };
    if let Some(host) = &args.host_nqn {
        options.host_nqn.clone_from(host);
    }
    let load = |path: &Option<std::path::PathBuf>| {
        let secret = path
            .as_ref()
            .map(|path| auth::load_secret(path).with_context(|| path.display().to_string()));
        secret.transpose()
    };
    options.secret = load(&args.secret_file)?;
    options.controller_secret = load(&args.controller_secret_file)?;
    let mut initiator = Initiator::connect(args.connect, &args.nqn, &options)
        .with_context(|| format!("no connection to {} at {}", args.nqn, args.connect))?;
    ensure!(initiator.use_namespace(args.nsid), "the subsystem has no namespace {}", args.nsid);
    let namespace = initiator.namespace();
    let lba = u64::from(namespace.lba_bytes);
    ensure!(
        args.size.is_multiple_of(lba),
        "--size {}: must be a multiple of the namespace's {lba} B",
        args.size
    );
    let limit = u64::from(initiator.transfer_bytes_max());
    ensure!(args.size <= limit, "--size {}: the target takes at most {limit} B", args.size);
    let bytes = namespace.blocks * lba;
    let region = args.region.unwrap_or(bytes).min(bytes);
    let places = region / args.size;
    ensure!(places > 0, "--region is smaller than --size");
    let depth = usize::from(args.depth)
        .min((0..initiator.queues()).map(|queue| initiator.room(queue)).sum());

    let blocks = u32::try_from(args.size / lba)?;
    let mut random = Random(args.seed);
    let mut place = 0;
    let deadline = Instant::now() + Duration::from_secs(u64::from(args.seconds));
    let cpu = cpu_seconds();
    let measured = load::run(
        &mut initiator,
        depth,
        |buffer| {
            if Instant::now() >= deadline {
                return None;
            }
            place = match args.order {
                Order::Random => random.below(places),
                Order::Sequential => (place + 1) % places,
            };
            let slba = place * u64::from(blocks);
            if random.below(100) < u64::from(args.reads) {
                return Some(Request::Read { slba, blocks });
            }
            if buffer.len() as u64 != args.size {
                buffer.resize(usize::try_from(args.size).ok()?, 0);
                random.fill(buffer);
            }
            // Each write differs in its first bytes; filling all of them would measure the generator.
            buffer[..8].copy_from_slice(&random.next().to_le_bytes());
            Some(Request::Write { slba, blocks })
        },
        |_| {},
    )?;
    let cpu = cpu_seconds() - cpu;
    // What was measured stands, however the goodbye ends: SPDK's target has no Disconnect command (it is optional: Base 6.4).
    drop(initiator.disconnect());

    if let Some(file) = &args.hgrm {
        let mut all = measured.writes.clone();
        all.add(&measured.reads).expect("the bounds are the same");
        std::fs::write(file, hgrm(&all)).with_context(|| file.display().to_string())?;
    }
    let ios = measured.writes.len() + measured.reads.len();
    let seconds = measured.took.as_secs_f64();
    if args.json {
        let result = json!({
            "depth": depth, "size": args.size, "reads": args.reads,
            "order": match args.order { Order::Random => "random", Order::Sequential => "sequential" },
            "seconds": seconds, "iops": ios as f64 / seconds,
            "bytes_per_second": (measured.bytes_written + measured.bytes_read) as f64 / seconds,
            "cpu_us_per_io": cpu * 1e6 / ios.max(1) as f64,
            "write": percentiles(&measured.writes), "read": percentiles(&measured.reads),
        });
        println!("{}", serde_json::to_string_pretty(&result)?);
        return Ok(ExitCode::SUCCESS);
    }
    let order = match args.order {
        Order::Random => "random",
        Order::Sequential => "sequential",
    };
    println!(
        "{} B {order}, {} % reads, queue depth {depth}, {seconds:.1} s",
        args.size, args.reads
    );
    println!(
        "{:.0} IOPS, {:.1} MB/s, {:.1} µs of CPU per I/O in this process",
        ios as f64 / seconds,
        (measured.bytes_written + measured.bytes_read) as f64 / seconds / 1e6,
        cpu * 1e6 / ios.max(1) as f64
    );
    for (name, histogram) in [("writes", &measured.writes), ("reads", &measured.reads)] {
        if histogram.is_empty() {
            continue;
        }
        println!(
            "{name:<7} p50 {} | p90 {} | p99 {} | p99.9 {} | max {}",
            at(histogram, 0.5),
            at(histogram, 0.9),
            at(histogram, 0.99),
            at(histogram, 0.999),
            micros(histogram.max())
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn percentiles(histogram: &Histogram<u64>) -> serde_json::Value {
    json!({
        "count": histogram.len(),
        "p50_ns": histogram.value_at_quantile(0.5), "p90_ns": histogram.value_at_quantile(0.9),
        "p99_ns": histogram.value_at_quantile(0.99), "p999_ns": histogram.value_at_quantile(0.999),
        "max_ns": histogram.max(),
    })
}

/// A distribution in the text form that HdrHistogram's tools plot, values in microseconds.
fn hgrm(histogram: &Histogram<u64>) -> String {
    let mut out = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut count = 0;
    for step in histogram.iter_quantiles(HGRM_STEPS) {
        count += step.count_since_last_iteration();
        let (value, quantile) =
            (step.value_iterated_to() as f64 / 1e3, step.quantile_iterated_to());
        let inverse = if quantile < 1.0 {
            format!("{:>14.2}", 1.0 / (1.0 - quantile))
        } else {
            format!("{:>14}", "inf")
        };
        out.push_str(format!("{value:12.3} {quantile:2.12} {count:10} {inverse}\n").trim_end());
        out.push('\n');
    }
    let (mean, deviation) = (histogram.mean() / 1e3, histogram.stdev() / 1e3);
    let (max, total) = (histogram.max() as f64 / 1e3, histogram.len());
    out.push_str(&format!("#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]\n"));
    out.push_str(&format!("#[Max     = {max:12.3}, Total count    = {total:12}]\n"));
    out
}

/// Lines for each halving of the distance to 100 %: what HdrHistogram's own tools use.
const HGRM_STEPS: u32 = 5;

fn at(histogram: &Histogram<u64>, quantile: f64) -> String {
    micros(histogram.value_at_quantile(quantile))
}

/// Nanoseconds as an operator reads them.
pub(crate) fn micros(nanos: u64) -> String {
    match nanos {
        0..100_000 => format!("{:.1} µs", nanos as f64 / 1e3),
        100_000..10_000_000 => format!("{:.0} µs", nanos as f64 / 1e3),
        _ => format!("{:.1} ms", nanos as f64 / 1e6),
    }
}

/// CPU time of this process so far.
fn cpu_seconds() -> f64 {
    cpu_seconds_of(std::process::id()).unwrap_or(0.0)
}

/// CPU time of a process so far, user and system (proc(5), fields 14 and 15 of stat).
pub(crate) fn cpu_seconds_of(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}
