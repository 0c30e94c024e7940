//! First copies: volumes that hold data before their pair exists, mirrors that hold something else, mirrors that were replaced.

use crate::common::{alone, assert_files_equal, folder, until};
use crate::link::Link;
use crate::load::{Model, write_count};
use crate::node::{DESTINATION, Pair, SOURCE, VOLUME_BYTES, stop};
use ibid_client::ClientError;
use ibid_units::Nanos;
use ibid_wire::nvme_tcp::Status;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// A sparse volume with a few runs of bytes that are not zero.
fn fill(path: &Path, seed: u8) {
    let file = File::create(path).unwrap();
    file.set_len(VOLUME_BYTES).unwrap();
    for run in 0..8_u64 {
        let bytes: Vec<u8> = (0..200_000_u32).map(|at| (at / 7) as u8 ^ seed | 1).collect();
        file.write_all_at(&bytes, run * (VOLUME_BYTES / 8) + 5_000 * run).unwrap();
    }
    file.sync_all().unwrap();
}

fn stop_and_compare(pair: &Pair, nodes: [crate::process::Process; 2]) {
    let [mut source, mut destination] = nodes;
    assert!(stop(&mut source).success());
    assert!(stop(&mut destination).success());
    assert_files_equal(pair.volume(SOURCE), pair.volume(DESTINATION));
}

#[test]
fn a_volume_that_holds_data_is_copied_and_its_holes_are_not() {
    let _alone = alone();
    let folder = folder();
    let pair = Pair::new(folder.path(), Link::Memif);
    fill(pair.volume(SOURCE), 1);
    let before = std::fs::read(pair.volume(SOURCE)).unwrap();
    let nodes = pair.start_both();
    let sent = pair.status(SOURCE).link.tx_bytes.catch_up;
    println!("{sent} bytes of a volume of {VOLUME_BYTES}");
    assert!(
        (1_600_000..4 << 20).contains(&sent),
        "1.6 MB were to be copied, not the holes: {sent}"
    );
    stop_and_compare(&pair, nodes);
    assert!(std::fs::read(pair.volume(DESTINATION)).unwrap() == before, "the mirror is another");
}

#[test]
fn a_mirror_that_holds_something_else_becomes_the_same_all_over() {
    let _alone = alone();
    let folder = folder();
    let pair = Pair::new(folder.path(), Link::Memif);
    fill(pair.volume(SOURCE), 1);
    fill(pair.volume(DESTINATION), 2);
    // Where only the mirror holds anything, too.
    let stray = File::options().write(true).open(pair.volume(DESTINATION)).unwrap();
    stray.write_all_at(&[9; 4096], VOLUME_BYTES - 4096).unwrap();
    let before = std::fs::read(pair.volume(SOURCE)).unwrap();
    let nodes = pair.start_both();
    stop_and_compare(&pair, nodes);
    assert!(std::fs::read(pair.volume(DESTINATION)).unwrap() == before, "the mirror is another");
}

#[test]
fn a_destination_that_was_replaced_by_an_empty_one_is_given_everything() {
    let _alone = alone();
    let folder = folder();
    let pair = Pair::new(folder.path(), Link::Memif);
    let [source, mut destination] = pair.start_both();
    let mut model = Model::new(VOLUME_BYTES, 4096);
    let mut initiator = pair.connect();
    write_count(&mut initiator, &mut model, 32, 1000);
    destination.kill();
    let own = pair.configs[DESTINATION].log.device.parent().unwrap();
    std::fs::remove_dir_all(own).unwrap();
    std::fs::create_dir_all(own).unwrap();
    let destination = pair.start(DESTINATION);
    pair.wait_in_sync();
    write_count(&mut initiator, &mut model, 32, 300);
    initiator.disconnect().unwrap();
    stop_and_compare(&pair, [source, destination]);
    model.check_file(pair.volume(DESTINATION));
}

#[test]
fn a_write_that_waits_too_long_for_the_peer_ends_with_a_status_that_asks_for_a_retry() {
    let _alone = alone();
    let folder = folder();
    let mut pair = Pair::new(folder.path(), Link::Memif);
    pair.configs[SOURCE].peer.stall_timeout = Nanos::from_millis(1_000);
    let [source, mut destination] = pair.start_both();
    let mut model = Model::new(VOLUME_BYTES, 4096);
    let mut initiator = pair.connect();
    write_count(&mut initiator, &mut model, 16, 100);
    destination.kill();
    let began = Instant::now();
    let failed = crate::load::write(&mut initiator, &mut model, 16, &mut |_| false).unwrap_err();
    let took = began.elapsed();
    let ClientError::Failed { status, .. } = failed else { panic!("{failed}") };
    assert_eq!(status, Status::COMMAND_INTERRUPTED);
    assert!(!status.is_final(), "it may be tried again");
    assert!((Duration::from_millis(900)..Duration::from_secs(4)).contains(&took), "{took:?}");
    drop(initiator);
    let status = pair.status(SOURCE);
    assert!(status.log.expired > 0 && status.log.expired <= 16, "{}", status.log.expired);
    // Those that have a place in the log keep it, and happen when the peer has them too; what is read from then on stays.
    let destination = pair.start(DESTINATION);
    pair.wait_in_sync();
    until("the peer has the log", || {
        let log = pair.status(SOURCE).log;
        (log.lsn == log.lsn_peer && log.lsn == log.lsn_durable).then_some(())
    });
    let mut initiator = pair.connect();
    model.check_target(&mut initiator);
    write_count(&mut initiator, &mut model, 16, 100);
    initiator.disconnect().unwrap();
    stop_and_compare(&pair, [source, destination]);
    model.check_file(pair.volume(DESTINATION));
}
