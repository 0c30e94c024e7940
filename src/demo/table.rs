//! The one table: what clients wrote, what the link carried for it, what the CPU copied, how long writes took; a column per mode.

use crate::bench::micros;
use crate::load::Measured;
use ibid_control::config::CpMode;
use ibid_control::status::Status;
use std::fmt::Write as _;

/// One mode's run.
pub(crate) struct Column {
    pub(crate) mode: CpMode,
    pub(crate) measured: Measured,
    pub(crate) source: Status,
    pub(crate) destination: Status,
}

impl Column {
    /// Bytes of payload that clients sent: zeroes travel as commands without payload.
    fn client_bytes(&self) -> u64 {
        self.destination.copied("frame to log")
    }
    fn log_bytes(&self) -> u64 {
        self.source.link.tx_bytes.log
    }
    fn cp_bytes(&self) -> u64 {
        self.source.link.tx_bytes.cp + self.source.link.tx_bytes.catch_up
    }
    /// Probes and greetings from the source, reports from the destination.
    fn control_bytes(&self) -> u64 {
        self.source.link.tx_bytes.control + self.destination.link.tx_bytes.control
    }
    fn link_bytes(&self) -> u64 {
        self.log_bytes() + self.cp_bytes() + self.control_bytes()
    }
}

/// The table as text.
pub(crate) fn render(columns: &[Column]) -> String {
    let mut rows: Vec<(String, Vec<String>, Option<f64>)> = Vec::new();
    let mut number = |name: &str, value: &dyn Fn(&Column) -> u64| {
        let values: Vec<u64> = columns.iter().map(value).collect();
        let ratio = match values[..] {
            [first, second] if first > 0 => Some(second as f64 / first as f64),
            _ => None,
        };
        rows.push((name.to_owned(), values.iter().map(|value| grouped(*value)).collect(), ratio));
    };
    number("payload bytes written by the client", &Column::client_bytes);
    number("bytes on the link as log", &Column::log_bytes);
    number("bytes on the link at consistency points", &Column::cp_bytes);
    number("bytes on the link for control, both ways", &Column::control_bytes);
    number("bytes on the link in all", &Column::link_bytes);
    number("consistency points", &|column| column.source.cp.cp);
    number("references in their lists", &|column| column.source.cp.sum.references);
    number("blocks those name", &|column| column.source.cp.sum.referenced_blocks);
    number("blocks sent at consistency points", &|column| column.source.cp.sum.blocks);
    for place in ["late entry", "gathered read", "log to frame"] {
        number(&format!("bytes copied, source: {place}"), &|column| column.source.copied(place));
    }
    for place in ["frame to log", "frame to staging"] {
        number(&format!("bytes copied, destination: {place}"), &|column| {
            column.destination.copied(place)
        });
    }
    let per_byte = columns.iter().map(|column| {
        format!("{:.4}", column.link_bytes() as f64 / column.client_bytes().max(1) as f64)
    });
    rows.insert(5, ("link bytes per payload byte".to_owned(), per_byte.collect(), None));
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        let values =
            columns.iter().map(|column| micros(column.measured.writes.value_at_quantile(quantile)));
        rows.push((format!("latency of client writes, {name}"), values.collect(), None));
    }

    let modes: Vec<String> =
        columns.iter().map(|column| format!("cp_mode = {}", column.mode.word())).collect();
    let first = rows.iter().map(|row| row.0.chars().count()).max().unwrap_or(0);
    let width = rows
        .iter()
        .flat_map(|row| &row.1)
        .chain(&modes)
        .map(|cell| cell.chars().count())
        .max()
        .unwrap_or(0);
    let mut out = String::new();
    let mut line = |name: &str, cells: &[String], ratio: &str| {
        let cells: String = cells.iter().map(|cell| format!("  {cell:>width$}")).collect();
        writeln!(out, "{}", format!("{name:<first$}{cells}  {ratio:>10}").trim_end())
            .expect("a string takes text");
    };
    line("", &modes, if columns.len() == 2 { "ratio" } else { "" });
    for (name, cells, ratio) in &rows {
        let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        line(name, cells, &ratio);
    }
    out
}

/// A number with its thousands apart.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1 234 567");
    }
}
