//! `ibid doctor`: what it says of a real machine and a real node, in its one JSON shape, and that it touches nothing.

use crate::common::{alone, folder};
use crate::link::Link;
use crate::node::{Pair, SOURCE, stop};
use crate::process::run;
use serde_json::Value;

/// Exit status and answer.
fn doctor(more: &[&str]) -> (Option<i32>, Value) {
    let output = run(&[&["doctor", "--json"], more].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    (
        output.status.code(),
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")),
    )
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks
        .iter()
        .find(|check| check["check"] == name)
        .unwrap_or_else(|| panic!("no {name}: {report}"))
}

#[test]
fn this_machine_is_judged_in_the_shape_that_is_documented() {
    let (code, report) = doctor(&[]);
    assert_eq!(report["doctor"], 1);
    assert!(report["node"].is_null());
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() >= 10, "{report}");
    for check in checks {
        let verdict = check["verdict"].as_str().unwrap();
        assert!(["ok", "warn", "fail"].contains(&verdict), "{check}");
        assert!(!check["found"].as_str().unwrap().is_empty(), "{check}");
        assert!(!check["why"].as_str().unwrap().is_empty(), "{check}");
        assert_eq!(verdict != "ok", !check["mend"].as_array().unwrap().is_empty(), "{check}");
        assert!(check["seen"] == true || verdict == "warn", "{check}");
    }
    // What runs these tests runs a node.
    assert_eq!(check(&report, "kernel")["seen"], true);
    assert_eq!(check(&report, "cpu-flags")["seen"], true);
    assert_eq!(code, Some(i32::from(report["verdict"] == "fail")), "{report}");
}

#[test]
fn a_node_is_asked_itself_and_left_as_it_is() {
    let _alone = alone();
    let folder = folder();
    let pair = Pair::new(folder.path(), Link::Memif);
    let [mut source, mut destination] = pair.start_both();
    pair.wait_in_sync();
    let file = pair.config_file(SOURCE);
    let file = file.to_str().unwrap();
    let (code, report) = doctor(&["--config", file, "--probe"]);
    assert_eq!(report["node"]["name"], "source", "{report}");
    assert_eq!(report["node"]["running"], true, "{report}");
    assert_eq!(check(&report, "memory")["verdict"], "ok", "{report}");
    let huge = pair.status(SOURCE).log.huge_pages;
    assert_eq!(check(&report, "huge-pages")["verdict"] == "ok", huge, "{report}");
    assert_eq!(check(&report, "volumes")["verdict"], "ok", "{report}");
    let flush = check(&report, "flush");
    assert!(flush["found"].as_str().unwrap().contains("write and flush of 4 KiB"), "{flush}");
    assert_eq!(code, Some(i32::from(report["verdict"] == "fail")), "{report}");
    assert!(stop(&mut source).success());
    assert!(stop(&mut destination).success());

    let log = &pair.configs[SOURCE].log.device;
    let before = std::fs::read(log).unwrap();
    let names = || std::fs::read_dir(log.parent().unwrap()).unwrap().count();
    let count = names();
    let (_, report) = doctor(&["--config", file, "--probe"]);
    assert_eq!(report["node"]["running"], false, "{report}");
    assert!(std::fs::read(log).unwrap() == before, "doctor has changed the log");
    assert_eq!(names(), count, "the probe's file is still there");

    // A machine that has not got what the file asks for fails.
    let text = std::fs::read_to_string(file).unwrap();
    let wrong = folder.path().join("wrong.toml");
    let log = log.display().to_string();
    std::fs::write(&wrong, text.replace(&log, "/nonexistent/log")).unwrap();
    let (code, report) = doctor(&["--config", wrong.to_str().unwrap()]);
    assert_eq!((code, &report["verdict"]), (Some(1), &"fail".into()), "{report}");
    assert_eq!(check(&report, "log-device")["mend"][0], "install -d -m 0700 /nonexistent");
}
