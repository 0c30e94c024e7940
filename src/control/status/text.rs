//! Status as aligned text for a terminal: a word, then facts, one subject per line; tables where there are several of a kind.
//! Takes a `Status`; gives text of a stable shape, without colour. For programs there is JSON.

use core::fmt::{self, Write};

use super::{AccessStatus, CpRecords, CpReport, PathState, Status};
use crate::config::{Encryption, format_size};

/// Width of the words on the left.
const LABEL: usize = 10;

pub(super) fn status(status: &Status, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Status { node, promise, sync, recovery, faults, log, cp, link, .. } = status;
    let Status { target, volumes, copied_bytes, latency, warnings, .. } = status;
    line(f, "promise", &promise.line)?;
    for fault in faults {
        let word = if fault.is_final { "FAILED" } else { "FAULT" };
        line(f, word, &fault.line)?;
    }
    let lacks = match sync.out_of_sync_bytes {
        0 => String::new(),
        bytes => format!("; the peer lacks {}", amount(bytes)),
    };
    line(
        f,
        "sync",
        &format!(
            "{}; mirror {}{lacks}; without the peer: {}",
            sync.line,
            sync.mirror.words(),
            sync.on_peer_loss
        ),
    )?;
    line(
        f,
        "node",
        &format!(
            "{}, {}, epoch {}, up {}, pid {}, ibid {}",
            node.name,
            node.role,
            node.epoch,
            long_span(node.uptime_s),
            node.pid,
            node.version
        ),
    )?;
    line(f, "pair", &format!("{} ({})", promise.state.word(), node.pair))?;
    if let Some(recovery) = recovery {
        line(f, "recovery", &recovery.to_string())?;
    }
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
    if log.expired > 0 || log.fetched > 0 {
        let facts = format!(
            "{} writes ended because they waited too long; {} batches came back from the peer",
            log.expired, log.fetched
        );
        line(f, "log kept", &facts)?;
    }
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
            "log {}, cp {}, catch-up {}, control {}; {} frames, {} again",
            amount(link.tx_bytes.log),
            amount(link.tx_bytes.cp),
            amount(link.tx_bytes.catch_up),
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
    let security = &link.security;
    line(
        f,
        "link keys",
        &format!(
            "{}, {} handshakes, generation {} out {} in; dropped: {} not authentic, {} replayed, {} of no session, {} handshakes not authentic, {} too many",
            match security.encryption {
                Encryption::Full => "encrypted",
                Encryption::IntegrityOnly => "authenticated, NOT encrypted",
            },
            security.handshakes,
            security.tx_generation,
            security.rx_generation,
            security.rx_unauthentic,
            security.rx_replayed,
            security.rx_strange,
            security.rx_handshakes_unauthentic,
            security.rx_handshakes_limited,
        ),
    )?;
    if let Some(target) = target {
        let closed = volumes.iter().all(|volume| volume.path == Some(PathState::Inaccessible));
        line(
            f,
            "target",
            &format!(
                "{}, {} hosts, {} connections, {} commands; {}{}",
                target.listen,
                target.controllers,
                target.connections,
                target.commands,
                target.nqn,
                if closed { "; inaccessible here" } else { "" }
            ),
        )?;
    }
    if let Some(target) = target {
        line(f, "access", &access(&target.access))?;
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
            [
                "volume", "nsid", "size", "lba", "path", "reads", "read", "writes", "written",
                "device",
            ]
            .map(str::to_owned),
        ];
        rows.extend(volumes.iter().map(|volume| {
            [
                volume.name.clone(),
                volume.nsid.to_string(),
                format_size(volume.bytes),
                volume.lba_bytes.to_string(),
                volume.path.map_or("-", PathState::word).to_owned(),
                volume.reads.to_string(),
                amount(volume.read_bytes),
                volume.writes.to_string(),
                amount(volume.write_bytes),
                volume.device.display().to_string(),
            ]
        }));
        table(f, &rows, &[0, 4, 9])?;
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

/// Who may connect. What is open stands in capitals: it must not be overlooked.
fn access(access: &AccessStatus) -> String {
    let must = &access.authenticated;
    let mut parts = Vec::new();
    if access.any_host {
        parts.push("ANY host may connect, WITHOUT authentication".to_owned());
    }
    if !must.is_empty() {
        let only = if access.any_host {
            "only these names must authenticate"
        } else {
            "must authenticate"
        };
        parts.push(format!("{only}: {}", names(must)));
    }
    if !access.unauthenticated.is_empty() {
        parts.push(format!("WITHOUT authentication: {}", names(&access.unauthenticated)));
    }
    if !must.is_empty() {
        parts.push(format!(
            "{} authenticated, {} failed, {} under way",
            access.succeeded, access.failed, access.under_way
        ));
    }
    if parts.is_empty() { "nobody may connect".to_owned() } else { parts.join("; ") }
}

/// The first names of a list, and how many more there are.
fn names(all: &[String]) -> String {
    const NAMES_MAX: usize = 4;
    let shown = all[..all.len().min(NAMES_MAX)].join(", ");
    match all.len().saturating_sub(NAMES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
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

pub(super) fn line(f: &mut impl Write, label: &str, text: &str) -> fmt::Result {
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
pub(super) fn amount(bytes: u64) -> String {
    scaled(
        bytes,
        &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)],
    )
}

/// Nanoseconds with three digits' worth of precision.
pub(super) fn span(ns: u64) -> String {
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

/// Seconds in the two largest units.
pub(super) fn long_span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (_, _, _) => format!("{days} d {hours} h"),
    }
}

/// A moment in seconds since 1970, as date and time in UTC: what the logs of both nodes have too, whatever their time zones are.
pub(super) fn moment(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // From days to a date of the Gregorian calendar, in years that begin with March (H. Hinnant, "chrono-compatible low-level date
    // algorithms", civil_from_days).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02} UTC", second % 60)
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
    fn a_long_span_says_the_two_largest_units() {
        for (seconds, text) in
            [(5, "5 s"), (65, "1 min 5 s"), (3_660, "1 h 1 min"), (90_000, "1 d 1 h")]
        {
            assert_eq!(long_span(seconds), text);
        }
    }

    #[test]
    fn a_moment_is_a_date_and_a_time() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_767_225_599, "2025-12-31 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(moment(seconds), text);
        }
    }
}
