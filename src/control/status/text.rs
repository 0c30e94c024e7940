//! Status as aligned text for a terminal: a word, then facts, one subject per line; tables where there are several of a kind.
//! Takes a `Status`; gives text of a stable shape, without colour. For programs there is JSON.

use core::fmt::{self, Write};

use super::{CpRecords, CpReport, Status};
use crate::config::format_size;

/// Width of the words on the left.
const LABEL: usize = 10;

pub(super) fn status(status: &Status, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Status { node, promise, log, cp, link, target, volumes, copied_bytes, latency, warnings } =
        status;
    line(f, "promise", &promise.line)?;
    line(
        f,
        "node",
        &format!(
            "{}, {}, epoch {}, up {}, pid {}, ibid {}",
            node.name,
            node.role,
            node.epoch,
            uptime(node.uptime_s),
            node.pid,
            node.version
        ),
    )?;
    line(f, "pair", &format!("{} ({})", promise.state.word(), node.pair))?;
    let peer_durability =
        promise.peer_durability.map_or("not known", |durability| durability.word());
    line(f, "durable", &format!("here {}, at the peer {peer_durability}", promise.durability))?;
    line(
        f,
        "log",
        &format!(
            "lsn {} (durable here {}, at the peer {}); segments of {}: {} free, {} open, {} sealed; {}",
            log.lsn,
            log.lsn_durable,
            log.lsn_peer,
            format_size(log.segment_bytes),
            log.segments_free,
            log.segments_open,
            log.segments_sealed,
            if log.huge_pages { "huge pages" } else { "ordinary memory" },
        ),
    )?;
    line(
        f,
        "log full",
        &format!(
            "{} writes waited, {} in all; device {}",
            log.full_waits,
            span(log.full_wait_ns),
            log.device.display()
        ),
    )?;
    let running = cp.running.map_or(String::new(), |running| format!(", {running} running"));
    line(
        f,
        "cp",
        &format!("{}{running}, {} mode, last took {}", cp.cp, cp.mode, span(cp.last_ns)),
    )?;
    line(f, "cp sent", &records(&cp.sum))?;
    line(f, "chain", &cp.chain_digest)?;
    let rtt = link.rtt_ns.map_or("not known".to_owned(), span);
    line(
        f,
        "link",
        &format!(
            "{} {} -> {}, {}, datagrams to {} bytes, round trip {rtt}",
            link.device,
            link.local,
            link.peer,
            if link.up { "up" } else { "down" },
            link.datagram_bytes_max,
        ),
    )?;
    line(
        f,
        "link tx",
        &format!(
            "log {}, cp {}, control {}; {} frames, {} again",
            amount(link.tx_bytes.log),
            amount(link.tx_bytes.cp),
            amount(link.tx_bytes.control),
            link.tx_frames,
            link.tx_repeated_frames,
        ),
    )?;
    line(
        f,
        "link rx",
        &format!(
            "{}; {} frames, {} seen before, {} dropped",
            amount(link.rx_bytes),
            link.rx_frames,
            link.rx_repeated_frames,
            link.rx_dropped
        ),
    )?;
    if let Some(target) = target {
        line(
            f,
            "target",
            &format!(
                "{}, {} hosts, {} connections, {} commands; {}",
                target.listen, target.controllers, target.connections, target.commands, target.nqn
            ),
        )?;
    }
    let copies: Vec<String> = copied_bytes
        .iter()
        .map(|copied| format!("{} {}", copied.place, amount(copied.bytes)))
        .collect();
    line(
        f,
        "copied",
        &if copies.is_empty() { "nothing counted".to_owned() } else { copies.join(", ") },
    )?;

    if !volumes.is_empty() {
        let mut rows = vec![
            ["volume", "nsid", "size", "lba", "reads", "read", "writes", "written", "device"]
                .map(str::to_owned),
        ];
        rows.extend(volumes.iter().map(|volume| {
            [
                volume.name.clone(),
                volume.nsid.to_string(),
                format_size(volume.bytes),
                volume.lba_bytes.to_string(),
                volume.reads.to_string(),
                amount(volume.read_bytes),
                volume.writes.to_string(),
                amount(volume.write_bytes),
                volume.device.display().to_string(),
            ]
        }));
        table(f, &rows, &[0, 8])?;
    }
    if !latency.is_empty() {
        let mut rows = vec![["stage", "count", "p50", "p99", "p99.9", "max"].map(str::to_owned)];
        rows.extend(latency.iter().map(|stage| {
            [
                stage.stage.clone(),
                stage.count.to_string(),
                span(stage.p50_ns),
                span(stage.p99_ns),
                span(stage.p999_ns),
                span(stage.max_ns),
            ]
        }));
        table(f, &rows, &[0])?;
    }
    for warning in warnings {
        line(f, "WARNING", warning)?;
    }
    Ok(())
}

pub(super) fn cp_report(report: &CpReport, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if !report.taken {
        line(f, "cp", &format!("{}: nothing was written since", report.cp))?;
        return line(f, "chain", &report.chain_digest);
    }
    line(f, "cp", &format!("{} in {}", report.cp, span(report.duration_ns)))?;
    line(
        f,
        "cp sent",
        &format!("{}; {} on the link", records(&report.records), amount(report.link_bytes)),
    )?;
    line(f, "chain", &report.chain_digest)
}

fn records(records: &CpRecords) -> String {
    format!(
        "{} references for {} blocks, {} opcodes, {} blocks, {} refused",
        records.references,
        records.referenced_blocks,
        records.opcodes,
        records.blocks,
        records.refused
    )
}

fn line(f: &mut impl Write, label: &str, text: &str) -> fmt::Result {
    writeln!(f, "{label:<LABEL$}{text}")
}

/// Rows as wide as their widest cell; columns in `left` lean to the left, numbers to the right.
fn table<const COLUMNS: usize>(
    f: &mut impl Write,
    rows: &[[String; COLUMNS]],
    left: &[usize],
) -> fmt::Result {
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
    f.write_char('\n')?;
    for row in rows {
        let mut text = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = if column == 0 { widths[0].max(LABEL - 2) } else { widths[column] };
            let gap = if column == 0 { "" } else { "  " };
            let _ = match left.contains(&column) {
                true => write!(text, "{gap}{cell:<width$}"),
                false => write!(text, "{gap}{cell:>width$}"),
            };
        }
        writeln!(f, "{}", text.trim_end())?;
    }
    Ok(())
}

/// Bytes with three digits' worth of precision, for reading; JSON has them exactly.
fn amount(bytes: u64) -> String {
    scaled(
        bytes,
        &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)],
    )
}

/// Nanoseconds with three digits' worth of precision.
fn span(ns: u64) -> String {
    scaled(ns, &[("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)])
}

fn scaled(number: u64, units: &[(&str, u64)]) -> String {
    let at = units.iter().rposition(|(_, scale)| number >= *scale).unwrap_or(0);
    let (unit, scale) = units[at];
    if scale == 1 {
        return format!("{number} {unit}");
    }
    let tenths = u128::from(number) * 10 / u128::from(scale);
    if tenths >= 1000 {
        format!("{} {unit}", tenths / 10)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (_, _, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_keep_three_digits_and_never_round_up() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (10 << 20, "10.0 MiB"),
            ((100 << 20) + 1, "100 MiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(amount(bytes), text);
        }
        assert_eq!(span(1_999), "1.9 us");
        assert_eq!(span(999_999_999), "999 ms");
        assert_eq!(span(61_000_000_000), "61.0 s");
    }

    #[test]
    fn uptime_says_the_two_largest_units() {
        for (seconds, text) in
            [(5, "5 s"), (65, "1 min 5 s"), (3_660, "1 h 1 min"), (90_000, "1 d 1 h")]
        {
            assert_eq!(uptime(seconds), text);
        }
    }
}
