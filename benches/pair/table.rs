//! The one table.

use crate::load::Row;
use std::fmt::Write as _;

const HEADS: [&str; 13] = [
    "target",
    "load",
    "depth",
    "IOPS",
    "MB/s",
    "p50 µs",
    "p99 µs",
    "p99.9 µs",
    "source",
    "dest.",
    "client",
    "link B/B",
    "of SPDK",
];
/// Columns of words, which stand on the left.
const WORDS: usize = 2;

/// The table as text. The last column is the part of SPDK's IOPS under the same load that a pair reaches.
pub(crate) fn render(rows: &[Row]) -> String {
    let lines: Vec<[String; 13]> = rows.iter().map(|row| cells(row, rows)).collect();
    let mut widths = HEADS.map(|head| head.chars().count());
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let mut before = "";
    for (line, target) in std::iter::once((&HEADS.map(str::to_owned), ""))
        .chain(lines.iter().zip(rows).map(|(l, row)| (l, &*row.target)))
    {
        if target != before {
            out.push('\n');
            before = target;
        }
        let cells = line.iter().zip(widths).enumerate().map(|(at, (cell, width))| {
            if at < WORDS { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())
            .expect("a string takes text");
    }
    out.push_str("\nsource, dest., client: CPU seconds for a million commands, the closing consistency point included\n");
    out
}

fn cells(row: &Row, rows: &[Row]) -> [String; 13] {
    let spdk = rows
        .iter()
        .find(|other| other.target.starts_with("SPDK") && std::ptr::eq(other.load, row.load));
    let [source, destination, client] = row.cpu();
    let cpu = |seconds: Option<f64>| {
        seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1}"))
    };
    [
        row.target.clone(),
        row.load.name.to_owned(),
        row.depth().to_string(),
        format!("{:.0}", row.iops()),
        format!("{:.1}", row.megabytes()),
        format!("{:.0}", row.micros("p50")),
        format!("{:.0}", row.micros("p99")),
        format!("{:.0}", row.micros("p999")),
        cpu(source),
        cpu(destination),
        cpu(client),
        row.link_per_byte().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.4}")),
        spdk.map_or_else(|| "-".to_owned(), |spdk| format!("{:.2}", row.iops() / spdk.iops())),
    ]
}
