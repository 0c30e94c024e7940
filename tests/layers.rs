//! The walls between the crates, checked: who may depend on whom, what must do without std and without unsafe code, and how files look.
//! Reads `cargo metadata` and the sources. A new edge is not forbidden, it is decided: whoever wants it changes the table here, where a
//! reader of the change sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Every crate's normal dependencies. Crates that only build or test with something may do so with anything.
const PERMITTED: &[(&str, &[&str])] = &[
    ("ibid-units", &[]),
    ("ibid-wire", &["ibid-units", "crc", "sha2", "thiserror"]),
    (
        "ibid-chap",
        &[
            "ibid-wire",
            "base64ct",
            "crc",
            "crypto-bigint",
            "hmac",
            "sha2",
            "subtle",
            "thiserror",
            "zeroize",
        ],
    ),
    (
        "ibid-secure",
        &[
            "ibid-units",
            "ibid-wire",
            "aws-lc-rs",
            "base64ct",
            "crc",
            "snow",
            "thiserror",
            "zeroize",
        ],
    ),
    ("ibid-engine", &["ibid-units", "ibid-wire", "ibid-chap", "thiserror"]),
    (
        "ibid-driver",
        &["ibid-units", "core_affinity", "crc-fast", "crossbeam", "io-uring", "libc", "thiserror"],
    ),
    ("ibid-dpdk-sys", &[]),
    ("ibid-dpdk", &["ibid-units", "ibid-driver", "ibid-dpdk-sys", "smoltcp", "libc", "thiserror"]),
    (
        "ibid-runtime",
        &[
            "ibid-units",
            "ibid-wire",
            "ibid-engine",
            "ibid-driver",
            "ibid-secure",
            "crossbeam",
            "hdrhistogram",
            "thiserror",
        ],
    ),
    ("ibid-control", &["ibid-units", "serde", "serde_json", "toml", "thiserror"]),
    ("ibid-client", &["ibid-units", "ibid-wire", "ibid-chap", "crc-fast", "libc", "thiserror"]),
    // The simulator runs the shards over drivers of its own: no DPDK, no sockets, no files.
    (
        "ibid-sim",
        &[
            "ibid-units",
            "ibid-wire",
            "ibid-engine",
            "ibid-driver",
            "ibid-runtime",
            "ibid-secure",
            "crossbeam",
        ],
    ),
    // Hosts of every kind against the target of the engine; libFuzzer only where it is asked for.
    ("ibid-fuzz", &["ibid-units", "ibid-wire", "ibid-chap", "ibid-engine", "libfuzzer-sys"]),
    ("ibid-xtask", &["ibid-sim", "clap", "mimalloc"]),
    // The appliance puts the crates together. It has no business in `dpdk-sys`.
    (
        "ibid",
        &[
            "ibid-units",
            "ibid-wire",
            "ibid-engine",
            "ibid-driver",
            "ibid-dpdk",
            "ibid-runtime",
            "ibid-secure",
            "ibid-control",
            "ibid-client",
            "ibid-chap",
            "anyhow",
            "clap",
            "crossbeam",
            "hdrhistogram",
            "indicatif",
            "serde_json",
            "sha2",
            "signal-hook",
            "tempfile",
            "tracing",
            "tracing-subscriber",
            "zeroize",
        ],
    ),
];

/// Crates that no operating system and no unsafe block may enter.
const PURE: &[&str] = &["units", "wire", "chap", "engine"];

/// Crates without an unsafe block, though with std.
const SAFE: &[&str] = &["control", "secure"];

/// Past this a file has more than one subject. New files should stay below 500.
const FILE_LINES_MAX: usize = 900;

type Edges = BTreeMap<String, BTreeSet<String>>;

#[test]
fn every_crate_depends_on_what_the_table_permits_and_on_nothing_else() {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs this test, so it is there");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let breaches = breaches(&edges(&metadata), PERMITTED);
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

#[test]
fn an_edge_that_is_not_in_the_table_is_named() {
    let metadata = serde_json::json!({ "packages": [
        { "name": "low", "dependencies": [
            { "name": "high", "kind": null }, { "name": "only-tests", "kind": "dev" }, { "name": "only-build", "kind": "build" },
        ] },
        { "name": "new", "dependencies": [] },
    ] });
    assert_eq!(
        breaches(&edges(&metadata), &[("low", &["gone"]), ("high", &[])]),
        [
            "low depends on high: not permitted. If that is meant, say so in PERMITTED in tests/layers.rs and why in the commit",
            "new is not in PERMITTED in tests/layers.rs: add it with what it may depend on",
            "high is in PERMITTED in tests/layers.rs, and there is no such crate: take it out",
        ]
    );
    assert!(breaches(&edges(&metadata), &[("low", &["high"]), ("new", &[])]).is_empty());
}

/// The compiler would refuse it, too (`src/main.rs`).
#[test]
fn nothing_but_the_simulator_can_be_told_to_make_mistakes() {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs this test, so it is there");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    assert_eq!(mistaken(&metadata), ["ibid-sim", "ibid-units", "ibid-xtask"]);
}

#[test]
fn a_crate_that_turns_mistakes_on_is_found() {
    let metadata = serde_json::json!({ "packages": [
        { "name": "asks", "features": {}, "dependencies": [{ "name": "ibid-units", "features": ["mutants"] }] },
        { "name": "passes", "features": { "default": ["ibid-units/mutants"] }, "dependencies": [] },
        { "name": "has", "features": { "mutants": [] }, "dependencies": [] },
        { "name": "pure", "features": { "other": [] }, "dependencies": [{ "name": "ibid-units", "features": [] }] },
    ] });
    assert_eq!(
        mistaken(&metadata),
        ["asks", "asks by default", "has", "passes", "passes by default"]
    );
}

#[test]
fn the_pure_crates_do_without_std_and_without_unsafe_code() {
    for name in PURE {
        let missing = missing_attributes(
            &read(&root().join("src").join(name).join("lib.rs")),
            &["#![no_std]", FORBID],
        );
        assert!(missing.is_empty(), "src/{name}/lib.rs lacks {}", missing.join(" and "));
        for file in rust_files(&root().join("src").join(name)) {
            let text = read(&file);
            // A file of tests is under the `cfg(test)` of the line that names it.
            let of_tests =
                file.file_name().is_some_and(|name| name.to_string_lossy().ends_with("tests.rs"));
            assert!(
                of_tests || !std_enters(&text),
                "{}: brings std into a crate that does without",
                file.display()
            );
        }
    }
    for name in SAFE {
        let missing =
            missing_attributes(&read(&root().join("src").join(name).join("lib.rs")), &[FORBID]);
        assert!(missing.is_empty(), "src/{name}/lib.rs lacks {}", missing.join(" and "));
    }
}

#[test]
fn a_pure_crate_that_lets_std_in_is_found() {
    assert_eq!(
        missing_attributes("//! #![no_std]\n#![forbid(unsafe_code)]\n", &["#![no_std]", FORBID]),
        ["#![no_std]"]
    );
    assert!(std_enters("extern crate std;\n"));
    assert!(std_enters("mod a;\n#[cfg(feature = \"x\")]\nextern crate std;\n"));
    assert!(!std_enters("#[cfg(test)]\nextern crate std;\n"));
    assert!(!std_enters("// extern crate std;\n"));
    assert!(!std_enters("fn f() {}\n#[cfg(test)]\nmod tests {\n    extern crate std;\n}\n"));
    assert!(std_enters("#[cfg(test)]\nextern crate std;\nmod a {\n    extern crate std;\n}\n"));
    assert!(std_enters("#[cfg(test)]\nmod tests {\n}\nextern crate std;\n"));
}

#[test]
fn every_file_says_what_it_is_and_stays_readable() {
    let mut untidy = Vec::new();
    let mut count = 0;
    for folder in ["src", "tests", "benches"] {
        for file in rust_files(&root().join(folder)) {
            count += 1;
            untidy.extend(
                untidiness(&read(&file))
                    .into_iter()
                    .map(|what| format!("{}: {what}", file.display())),
            );
        }
    }
    assert!(count > 10, "only {count} files found below {}", root().display());
    assert!(untidy.is_empty(), "\n{}\n", untidy.join("\n"));
}

#[test]
fn an_untidy_file_is_found() {
    assert!(untidiness("//! Says what it is.\nfn f() {}\n").is_empty());
    assert_eq!(untidiness("fn f() {}\n").len(), 1);
    assert_eq!(untidiness(&format!("//! Unfinished.\nfn f() {{ {UNFINISHED}() }}\n")).len(), 1);
    assert_eq!(untidiness(&format!("//! Long.\n{}", "\n".repeat(FILE_LINES_MAX))).len(), 1);
}

/// Crates that have, or turn on, a feature by which mistakes can be made; and those that do so unasked.
fn mistaken(metadata: &Value) -> Vec<String> {
    let names = |value: &Value| value.to_string().contains("mutants");
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().expect("cargo metadata lists packages") {
        let name = package["name"].as_str().expect("a package has a name");
        let dependencies = package["dependencies"].as_array().expect("a list of dependencies");
        let asks = dependencies.iter().any(|dependency| names(&dependency["features"]));
        if asks || names(&package["features"]) {
            found.push(name.to_owned());
        }
        if asks || names(&package["features"]["default"]) {
            found.push(format!("{name} by default"));
        }
    }
    found.sort();
    found
}

fn edges(metadata: &Value) -> Edges {
    let packages = metadata["packages"].as_array().expect("cargo metadata lists packages");
    let name = |value: &Value| {
        value["name"].as_str().expect("packages and dependencies have names").to_owned()
    };
    packages
        .iter()
        .map(|package| {
            let all = package["dependencies"].as_array().expect("a package lists its dependencies");
            let normal = all.iter().filter(|dependency| dependency["kind"].is_null());
            (name(package), normal.map(name).collect())
        })
        .collect()
}

/// What breaks the table, a line each.
fn breaches(edges: &Edges, permitted: &[(&str, &[&str])]) -> Vec<String> {
    let mut lines = Vec::new();
    for (package, dependencies) in edges {
        let Some((_, allowed)) = permitted.iter().find(|(name, _)| name == package) else {
            lines.push(format!("{package} is not in PERMITTED in tests/layers.rs: add it with what it may depend on"));
            continue;
        };
        for dependency in dependencies.iter().filter(|name| !allowed.contains(&name.as_str())) {
            lines.push(format!(
                "{package} depends on {dependency}: not permitted. If that is meant, say so in PERMITTED in tests/layers.rs and why in the commit"
            ));
        }
    }
    for (package, _) in permitted.iter().filter(|(name, _)| !edges.contains_key(*name)) {
        lines.push(format!(
            "{package} is in PERMITTED in tests/layers.rs, and there is no such crate: take it out"
        ));
    }
    lines
}

/// Which of the crate attributes stand on no line of their own.
fn missing_attributes<'a>(lib: &str, wanted: &[&'a str]) -> Vec<&'a str> {
    wanted
        .iter()
        .copied()
        .filter(|wanted| !lib.lines().any(|line| line.trim() == *wanted))
        .collect()
}

/// Whether std is linked outside of tests, that is by an item that neither is nor lies in one marked `#[cfg(test)]`.
fn std_enters(text: &str) -> bool {
    let mut before = "";
    let mut in_tests = false;
    for line in text.lines() {
        if before.trim() == "#[cfg(test)]" && line.starts_with("mod ") && line.ends_with('{') {
            in_tests = true;
        }
        if line.trim_start().starts_with("extern crate std")
            && before.trim() != "#[cfg(test)]"
            && !in_tests
        {
            return true;
        }
        // rustfmt puts the brace that closes an outermost item at the start of its line, and no other.
        in_tests &= line != "}";
        before = line;
    }
    false
}

fn untidiness(text: &str) -> Vec<String> {
    let mut what = Vec::new();
    if !text.starts_with("//!") {
        what.push("does not open with //! and what it is".to_owned());
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        what.push(format!(
            "has {lines} lines; {FILE_LINES_MAX} are allowed, so it wants to be split by subject"
        ));
    }
    if let Some(at) = text.lines().position(|line| line.contains(UNFINISHED)) {
        what.push(format!("line {} is unfinished", at + 1));
    }
    what
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.expect("a folder that was opened can be read").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

const FORBID: &str = "#![forbid(unsafe_code)]";
/// In two parts, or this file would find itself.
const UNFINISHED: &str = concat!("to", "do!");
