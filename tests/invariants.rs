//! docs/invariants.md against the sources: every id that stands in code is in a table there, every id there stands in code and names what
//! guards it, and every test and function that is cited exists where it is said to be. The same for the tests that docs/nvme-conformance.md
//! cites. It reads; whether a test really guards its statement is for readers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Words that look like ids and are none: names of standards and of algorithms.
const NOT_IDS: &[&str] = &["AES", "CRC", "CVE", "DHHC", "ISO", "RFC", "SHA", "SSH", "UTF"];

/// What may stand under "guarded by" where no test can.
const NO_TEST: &str = "not checkable by the program";

/// The section whose tables define ids.
const IDS: &str = "## The ids";

/// A source file: its path below the root, and its text.
type Sources = BTreeMap<String, String>;

#[test]
fn the_page_and_the_code_name_the_same_ids_and_every_citation_exists() {
    let page = read(&root().join("docs/invariants.md"));
    assert!(ids_defined(&page).len() > 20, "the tables of docs/invariants.md were not found");
    let breaches = breaches(&page, &sources());
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

#[test]
fn the_tests_that_the_page_of_conformance_cites_exist() {
    let page = read(&root().join("docs/nvme-conformance.md"));
    assert!(page.matches(".rs::").count() > 20, "no citations were found");
    let (sources, mut lines) = (sources(), Vec::new());
    for cell in page.lines().flat_map(|line| line.split('|')) {
        check_citations(cell, true, &sources, &mut lines);
    }
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

fn sources() -> Sources {
    let mut sources = Sources::new();
    for folder in ["src", "tests", "benches"] {
        for file in rust_files(&root().join(folder)) {
            let below = file
                .strip_prefix(root())
                .expect("it was found there")
                .to_string_lossy()
                .into_owned();
            // The samples of this file are not the project's.
            if below != "tests/invariants.rs" {
                sources.insert(below, read(&file));
            }
        }
    }
    sources
}

const SAMPLE: &str = "
## The ids

| id | statement | enforced in | guarded by |
|---|---|---|---|
| A-1 | so | `a.rs::keep` (assert), `here` | `a/tests/x.rs::works`, `::works_too`; of b, `b_tests.rs::works` |
| A-2 | so | `a.rs` | as A-1 |
| B-1 | so | `a.rs` | not checkable by the program; sums would show it |

## The wider list

| I1 | this | tested (A-1, `x.rs::works`) |
";

fn sample_sources() -> Sources {
    let test = |name: &str| format!("#[test]\n#[should_panic]\nfn {name}() {{}}\n");
    Sources::from([
        (
            "src/a.rs".to_owned(),
            "//! A-1 and A-2 (B-1), SHA-256.\nfn keep() {}\nfn works() {}\n".to_owned(),
        ),
        ("src/a/tests/x.rs".to_owned(), test("works") + &test("works_too")),
        ("src/b_tests.rs".to_owned(), test("works")),
    ])
}

#[test]
fn a_page_that_is_right_passes() {
    assert_eq!(breaches(SAMPLE, &sample_sources()), [""; 0]);
}

#[test]
fn what_is_missing_or_does_not_exist_is_named() {
    let found = |from: &str, to: &str| {
        assert!(SAMPLE.contains(from), "{from} stands in the sample to be changed");
        breaches(&SAMPLE.replacen(from, to, 1), &sample_sources()).join("; ")
    };
    // Ids.
    assert!(found("| A-2 |", "| A-3 |").contains("A-2 stands in src/a.rs and not in"));
    assert!(found("| A-2 |", "| A-3 |").contains("A-3 is defined and stands nowhere in src"));
    assert!(found("| A-2 |", "| A-1 |").contains("A-1 is defined twice"));
    // Citations: a name that is wrong, one that is no test, a file that is wrong, a short form without a file before it.
    assert!(found("x.rs::works`,", "x.rs::work`,").contains("x.rs::work:"));
    assert!(found("`a/tests/x.rs::works`", "`a.rs::works`").contains("is no test"));
    assert!(found("a/tests/x.rs::works`,", "c/tests/x.rs::works`,").contains("no such file"));
    assert!(found("`::works_too`", "`::works_not`").contains("x.rs::works_not:"));
    assert!(found("(A-1, `x.rs", "(A-1, `x.rs::gone`, `x.rs").contains("x.rs::gone:"));
    assert!(found("`a.rs::keep`", "`a.rs::kept`").contains("a.rs::kept:"), "functions, too");
    assert!(
        found("`a.rs::keep`", "`::keep`").contains("no file stands before it"),
        "a cell begins anew"
    );
    // Guards.
    assert!(
        found("| as A-1 |", "| pending |")
            .contains("A-2 names neither a test nor why there is none")
    );
    assert!(found("| as A-1 |", "| as A-7 |").contains("A-2 is guarded as A-7, which is not"));
    assert!(found("| as A-1 |", "| |").contains("A-2"));
    // A line in code.
    let mut sources = sample_sources();
    sources.insert("src/new.rs".to_owned(), "assert!(x, \"NEW-12: is kept\");".to_owned());
    assert_eq!(
        breaches(SAMPLE, &sources),
        ["NEW-12 stands in src/new.rs and not in a table of docs/invariants.md"]
    );
}

#[test]
fn ids_are_told_from_other_words() {
    let ids = |text: &str| ids_in(text).into_iter().collect::<Vec<_>>();
    assert_eq!(
        ids("//! LOG-1  a.   CP-22: b (IDX-3), `FE-4`."),
        ["CP-22", "FE-4", "IDX-3", "LOG-1"]
    );
    assert_eq!(
        ids("UTF-8 SHA-256 a-1 X-1a XY-1-2 NO-X-1 x_LOG-1 -1 LOG- A1-2 0xAB-1 P28 I21"),
        [""; 0]
    );
}

/// Everything that is wrong, a line each.
fn breaches(page: &str, sources: &Sources) -> Vec<String> {
    let mut lines = Vec::new();
    let mut defined = BTreeSet::new();
    for id in ids_defined(page) {
        if !defined.insert(id.clone()) {
            lines.push(format!("{id} is defined twice in docs/invariants.md"));
        }
    }
    // Where each id stands; in src, if it stands there at all.
    let mut used: BTreeMap<String, &str> = BTreeMap::new();
    for (file, text) in sources {
        for id in ids_in(text) {
            let place = used.entry(id).or_insert(file);
            if !place.starts_with("src/") {
                *place = file;
            }
        }
    }
    for (id, file) in &used {
        if !defined.contains(id) {
            lines.push(format!("{id} stands in {file} and not in a table of docs/invariants.md"));
        }
    }
    for id in &defined {
        if !used.get(id).is_some_and(|file| file.starts_with("src/")) {
            lines.push(format!("{id} is defined and stands nowhere in src"));
        }
    }
    for cells in rows(page) {
        // In the tables of ids the last cell cites tests, the one before functions; elsewhere whatever is cited is a test.
        let is_id = is_id(&cells[0]);
        for (at, cell) in cells.iter().enumerate() {
            let wants_test = !is_id || at + 1 == cells.len();
            check_citations(cell, wants_test, sources, &mut lines);
        }
        if is_id {
            lines.extend(unguarded(&cells, &defined));
        }
    }
    // Text beside the tables cites tests as well.
    for line in page.lines().filter(|line| !line.starts_with('|')) {
        check_citations(line, true, sources, &mut lines);
    }
    lines
}

/// Why a row of a table of ids does not say what guards it.
fn unguarded(cells: &[String], defined: &BTreeSet<String>) -> Option<String> {
    let (id, guard) = (&cells[0], cells.last()?);
    if let Some(other) = guard.strip_prefix("as ") {
        let other = other.trim_end_matches('.');
        return (!defined.contains(other))
            .then(|| format!("{id} is guarded as {other}, which is not defined"));
    }
    let says = guard.contains("::") || guard.starts_with(NO_TEST);
    (!says).then(|| format!("{id} names neither a test nor why there is none"))
}

/// Looks for each `file.rs::name`, and each `::name` in the file cited before it in the same cell.
fn check_citations(cell: &str, wants_test: bool, sources: &Sources, lines: &mut Vec<String>) {
    let mut last: Option<&str> = None;
    // Every second part stands between backticks.
    for code in cell.split('`').skip(1).step_by(2) {
        let Some((file, name)) = code.split_once("::") else {
            continue;
        };
        if name.is_empty()
            || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        {
            // A type or a constant, `Mirror::set_durable` for one: the compiler's names, not this page's.
            continue;
        }
        if !file.is_empty() && !file.ends_with(".rs") {
            continue;
        }
        if !file.is_empty() {
            last = Some(file);
        }
        let Some(file) = last else {
            lines.push(format!("{code}: no file stands before it in its cell"));
            continue;
        };
        let places: Vec<&String> = sources
            .keys()
            .filter(|path| path.as_str() == file || path.ends_with(&format!("/{file}")))
            .collect();
        let found: Vec<bool> =
            places.iter().filter_map(|path| function(&sources[*path], name)).collect();
        if places.is_empty() {
            lines.push(format!("{file}::{name}: no such file"));
        } else if found.is_empty() {
            lines.push(format!("{file}::{name}: there is no such function"));
        } else if wants_test && !found.contains(&true) {
            lines.push(format!("{file}::{name}: is no test"));
        }
    }
}

/// Whether the text has a function of that name, and whether one of them is a test.
fn function(text: &str, name: &str) -> Option<bool> {
    let mut found = None;
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        is_test |= line == "#[test]";
        let named = line
            .split_once("fn ")
            .filter(|(before, _)| !before.contains("//"))
            .and_then(|(_, after)| after.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with(['(', '<']));
        if named {
            found = Some(found == Some(true) || is_test);
        }
        // Other attributes and comments may stand between, another item or a gap may not.
        is_test &= !(line.is_empty() || line.starts_with('}') || line.contains("fn "));
    }
    found
}

/// Every id that a table of the page defines, in order.
fn ids_defined(page: &str) -> Vec<String> {
    let section = page.split_once(IDS).map_or("", |(_, after)| after);
    let section = section.split("\n## ").next().unwrap_or("");
    rows(section).into_iter().map(|cells| cells[0].clone()).filter(|first| is_id(first)).collect()
}

/// The cells of every row of every table.
fn rows(page: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| {
        let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        Some(inner.split('|').map(|cell| cell.trim().to_owned()).collect())
    };
    page.lines().filter_map(cells).collect()
}

/// Capital letters, a dash, a number.
fn is_id(word: &str) -> bool {
    let Some((family, number)) = word.split_once('-') else {
        return false;
    };
    let family_is = !family.is_empty() && family.chars().all(|c| c.is_ascii_uppercase());
    let number_is = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit());
    family_is && number_is && !NOT_IDS.contains(&family)
}

fn ids_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'))
        .filter(|word| is_id(word))
        .map(str::to_owned)
        .collect()
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
    files
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
