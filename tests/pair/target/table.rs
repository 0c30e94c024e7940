//! The list of bad input as a table: every row of it has an entry, each entry is sent, and after each nothing is left.

use super::field::Field;
use super::{auth, commands, connects, pdus, resources};
use crate::common::alone;
use std::collections::BTreeSet;

/// One entry: a row of the list, what of it, and how it is shown.
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    pub(crate) shown: Shown,
}

/// Where a row is shown.
pub(crate) enum Shown {
    /// Here: sends it, and panics where the reaction is not the required one. Takes no time to speak of.
    Sent(fn(&Field)),
    /// Here, and waits for a deadline: runs beside the others of its kind.
    Waits(fn(&Field)),
    /// By tests of another place, `file::test`, because bytes on a socket can't bring it about.
    Elsewhere(&'static [&'static str]),
    /// What it is about is not built; why that is no hole.
    NotBuilt(&'static str),
}

pub(crate) const fn sent(id: &'static str, what: &'static str, run: fn(&Field)) -> Row {
    Row { id, what, shown: Shown::Sent(run) }
}

pub(crate) const fn waits(id: &'static str, what: &'static str, run: fn(&Field)) -> Row {
    Row { id, what, shown: Shown::Waits(run) }
}

/// Rows of the list: PDUs, commands, resources.
const PDUS: u32 = 30;
const COMMANDS: u32 = 41;
const RESOURCES: u32 = 12;

fn rows() -> impl Iterator<Item = &'static Row> {
    [pdus::ROWS, connects::ROWS, commands::ROWS, auth::ROWS, resources::ROWS].into_iter().flatten()
}

#[test]
fn every_row_of_the_list_has_an_entry() {
    let listed = |letter: char, count| (1..=count).map(move |number| format!("{letter}{number}"));
    let listed: BTreeSet<String> =
        listed('P', PDUS).chain(listed('C', COMMANDS)).chain(listed('R', RESOURCES)).collect();
    let entered: BTreeSet<String> = rows().map(|row| row.id.to_owned()).collect();
    let missing: Vec<_> = listed.difference(&entered).collect();
    assert!(missing.is_empty(), "rows without an entry: {missing:?}");
    let unknown: Vec<_> = entered.difference(&listed).collect();
    assert!(unknown.is_empty(), "entries for rows that are not on the list: {unknown:?}");
}

/// A test that is named instead of shown exists.
#[test]
fn what_is_shown_elsewhere_is_there() {
    for row in rows() {
        let Shown::Elsewhere(tests) = row.shown else { continue };
        for cited in tests {
            let (file, name) = cited.split_once("::").expect("file::test");
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            let text = std::fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("{}: {}: {error}", row.id, path.display()));
            let head = format!("#[test]\nfn {name}(");
            assert!(text.contains(&head), "{}: {file} has no test {name}", row.id);
        }
    }
}

/// All rows on one pair. The first round warms up (pools are touched for the first time), the second is held to the bounds.
#[test]
fn every_row_gets_its_reaction_and_leaves_nothing() {
    let _alone = alone();
    let mut field = Field::start();
    for round in ["warming up", "again"] {
        println!("{round}");
        let before = field.memory();
        for row in rows() {
            if let Shown::Sent(run) = row.shown {
                let what = format!("{} {}", row.id, row.what);
                run(&field);
                field.assert_nothing_is_left(&what);
            }
        }
        if round == "again" {
            field.assert_memory("all rows", before);
        }
    }
    let before = field.memory();
    std::thread::scope(|scope| {
        for row in rows() {
            if let Shown::Waits(run) = row.shown {
                let field = &field;
                std::thread::Builder::new()
                    .name(format!("{} {}", row.id, row.what))
                    .spawn_scoped(scope, move || run(field))
                    .unwrap();
            }
        }
    });
    field.assert_nothing_is_left("rows that wait for a deadline");
    field.assert_memory("rows that wait for a deadline", before);
    for row in rows() {
        match row.shown {
            Shown::Sent(_) | Shown::Waits(_) => {}
            Shown::Elsewhere(tests) => println!("{} {}: {}", row.id, row.what, tests.join(", ")),
            Shown::NotBuilt(why) => println!("{} {}: not built: {why}", row.id, row.what),
        }
    }
    resources::stall(&mut field);
    field.finish();
}
