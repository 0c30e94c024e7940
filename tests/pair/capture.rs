//! `ibid run --pcap`: what passed the link of a real pair lies in files that Wireshark reads, with docs/ibid.lua field by field.

use crate::common::{alone, folder};
use crate::link::Link;
use crate::load::{Model, write_count};
use crate::node::{DESTINATION, Pair, SOURCE, VOLUME_BYTES, stop};
use crate::process::run;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Writes that the client makes.
const WRITES: usize = 200;

/// The fields of each frame in a capture, by Wireshark and our dissector; `None` without Wireshark.
fn dissected(file: &Path, fields: &[&str]) -> Option<Vec<Vec<String>>> {
    let script = concat!("lua_script:", env!("CARGO_MANIFEST_DIR"), "/docs/ibid.lua");
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-X", script, "-T", "fields", "-E", "separator=;"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            println!("SKIPPED: no frame is dissected: tshark: {error} (apt-get install tshark)");
            return None;
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("Lua: "), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().map(|line| line.split(';').map(ToOwned::to_owned).collect()).collect())
}

/// Kind of each block of a pcapng file, all of which must be whole.
fn blocks(file: &Path) -> Vec<u32> {
    let bytes = std::fs::read(file).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let (mut at, mut kinds) = (0, Vec::new());
    while at < bytes.len() {
        let length = word(at + 4) as usize;
        assert_eq!(word(at + length - 4) as usize, length, "at {at}");
        kinds.push(word(at));
        at += length;
    }
    kinds
}

#[test]
fn what_passed_the_link_is_in_the_capture_and_wireshark_reads_it() {
    let _alone = alone();
    let folder = folder();
    let mut pair = Pair::new(folder.path(), Link::Memif);
    let files: [PathBuf; 2] =
        ["source.pcapng", "destination.pcapng"].map(|it| folder.path().join(it));
    for (which, file) in files.iter().enumerate() {
        pair.more[which] = vec!["--pcap".to_owned(), file.display().to_string()];
    }
    pair.more[SOURCE].push("--pcap-decrypted".to_owned());
    let [mut source, mut destination] = pair.start_both();
    let mut model = Model::new(VOLUME_BYTES, 4096);
    write_count(&mut pair.connect(), &mut model, 1, WRITES as u64);
    // Nobody runs it so without knowing.
    for (which, told) in [(SOURCE, "OPENED"), (DESTINATION, "as they pass the wire")] {
        let warnings = pair.status(which).warnings;
        assert!(
            warnings.iter().any(|text| text.contains(told) && text.contains("0 missing")),
            "{warnings:?}"
        );
    }
    let lsn = pair.status(SOURCE).log.lsn;
    assert!(stop(&mut source).success() && stop(&mut destination).success());
    pair.assert_identical(&mut model);

    for file in &files {
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{}", file.display());
        let kinds = blocks(file);
        assert_eq!((kinds[0], kinds[1], kinds.last()), (0x0A0D_0D0A, 1, Some(&5)));
        assert!(kinds[2..kinds.len() - 1].iter().all(|kind| *kind == 6));
        assert!(kinds.len() > WRITES / 32, "{} blocks", kinds.len());
    }
    // A capture is never written over.
    let refused = run(&[
        "run",
        "--config",
        pair.config_file(SOURCE).to_str().unwrap(),
        "--pcap",
        files[0].to_str().unwrap(),
    ]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--pcap"), "{refused:?}");

    let fields = [
        "ip.src",
        "udp.length",
        "ibid.kind",
        "ibid.section.kind",
        "ibid.report.durable",
        "ibid.encrypted",
        "_ws.malformed",
        "ibid.lengths",
    ];
    let Some(opened) = dissected(&files[SOURCE], &fields) else { return };
    let column = |at: usize| opened.iter().map(move |frame| frame[at].as_str());
    assert!(column(6).chain(column(7)).all(str::is_empty), "{opened:?}");
    // Sourced frames go out, reports come in; hellos and their answers open the session.
    for frame in &opened {
        let from_source = frame[0] == "192.0.2.1";
        assert_eq!(["0", "2", "4"].contains(&frame[2].as_str()), from_source, "{frame:?}");
    }
    for kind in ["0", "1", "2", "3"] {
        assert!(column(2).any(|it| it == kind), "no frame of kind {kind}");
    }
    let sections =
        |kind: &str| column(3).flat_map(|all| all.split(',')).filter(|it| *it == kind).count();
    // Each write has a page in a Log section, and a CP was opened and its list sent.
    assert!(sections("1") >= WRITES, "{} Log sections", sections("1"));
    assert!(sections("2") >= 1 && sections("3") >= 1 && sections("9") == 1);
    // The last report says what status said.
    let durable =
        column(4).filter(|it| !it.is_empty()).filter_map(|it| it.parse::<u64>().ok()).max();
    assert_eq!(durable, Some(lsn));

    // On the wire as many frames passed, and those that are the handshake's or sealed are shown as such.
    let wire = dissected(&files[DESTINATION], &fields).unwrap();
    assert!(wire.iter().all(|frame| frame[6].is_empty() && frame[7].is_empty()), "{wire:?}");
    assert!(wire.iter().any(|frame| frame[2] == "0") && wire.iter().any(|frame| frame[2] == "1"));
}
