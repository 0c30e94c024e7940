//! `ibid dump`: what is on a log device is told before anybody starts on it, and telling changes nothing.

use crate::common::{alone, folder};
use crate::link::Link;
use crate::load::{Model, write_count};
use crate::node::{DESTINATION, Pair, SOURCE, VOLUME_BYTES, stop};
use crate::process::{refused, run};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Whether a start would take the log, and what is said of it.
fn dumped(log: &Path) -> (bool, String) {
    let output = run(&["dump", "--log", log.to_str().unwrap()]);
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

/// The lines that begin with `label`.
fn lines<'a>(text: &'a str, label: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.strip_prefix(label)).map(str::trim).collect()
}

#[test]
fn the_log_of_a_node_that_was_killed_is_shown_and_left_as_it_is() {
    let _alone = alone();
    let folder = folder();
    let mut pair = Pair::new(folder.path(), Link::Memif);
    // The one CP that a pair begins with, and none while writes come.
    pair.configs[SOURCE].log.cp_interval = ibid_units::Nanos::from_millis(3_600_000);
    let [mut source, mut destination] = pair.start_both();
    let log = pair.configs[SOURCE].log.device.clone();
    let said = refused(&["dump", "--log", log.to_str().unwrap()]);
    assert!(said.contains("it is in use by another process"), "{said}");
    let mut model = Model::new(VOLUME_BYTES, 4096);
    let mut initiator = pair.connect();
    write_count(&mut initiator, &mut model, 1, 100);
    source.kill();
    assert!(stop(&mut destination).success());

    let before = std::fs::read(&log).unwrap();
    let (good, text) = dumped(&log);
    assert!(good, "{text}");
    assert!(std::fs::read(&log).unwrap() == before, "dump has changed the log");
    assert!(
        text.contains("a source's") && text.contains("in sync: the peer lacks nothing"),
        "{text}"
    );
    let recovery = lines(&text, "recovery")[0];
    assert!(recovery.starts_with("100 entries in 1 segments after cp"), "{text}");
    assert!(recovery.ends_with("the log is whole"), "{text}");
    assert!(text.contains("100 pages, 0 of them bad"), "{text}");
    let (good, text) = dumped(&pair.configs[DESTINATION].log.device);
    assert!(good && text.contains("a destination's"), "{text}");

    // The page of the first entry after the CP, a bit of which turns: entries behind it are known to have been acknowledged.
    let page = before
        .chunks(4096)
        .position(|block| block.starts_with(b"IBIDSEGM") && block[16] == 2)
        .expect("segment 2 has a header")
        + 1;
    let file = File::options().write(true).open(&log).unwrap();
    file.write_all_at(&[before[page * 4096] ^ 1], page as u64 * 4096).unwrap();
    let (good, text) = dumped(&log);
    assert!(!good, "{text}");
    assert!(text.contains("100 pages, 1 of them bad"), "{text}");
    assert!(lines(&text, "recovery")[0].contains("THE LOG IS DAMAGED"), "{text}");

    // One superblock is enough, and that the other is gone is told.
    file.write_all_at(&before[page * 4096..][..1], page as u64 * 4096).unwrap();
    file.write_all_at(b"nothing", 0).unwrap();
    let (_, text) = dumped(&log);
    assert_eq!(lines(&text, "superblock").len(), 2, "{text}");
    // With both gone nothing can be said.
    file.write_all_at(b"nothing", 65_536).unwrap();
    let (good, text) = dumped(&log);
    assert!(!good && lines(&text, "recovery")[0].starts_with("no superblock"), "{text}");
}
