//! docs/nvme-conformance.md, compared with what the target does: every code from 00h to FFh of every table is sent to a target of its own, and
//! the answer must be what the table says.

use super::*;
use alloc::{collections::BTreeMap, string::String};
use ibid_wire::nvme_tcp::{
    GetFeatures, GetLogPage, Identify, PropertyGet, SetFeatures, fctype, feature,
};

const PAGE: &str = include_str!("../../../../docs/nvme-conformance.md");

/// What a table says of each code in its columns of answers; the row of all others has no code.
struct Table {
    rows: BTreeMap<u8, Vec<String>>,
    others: Vec<String>,
}

impl Table {
    /// The table below a heading: its answers stand in `columns`.
    fn read(heading: &str, columns: core::ops::Range<usize>) -> Self {
        let (_, after) = PAGE.split_once(&alloc::format!("\n## {heading}\n")).expect(heading);
        let section = after.split("\n## ").next().unwrap();
        let mut table = Self { rows: BTreeMap::new(), others: Vec::new() };
        for line in section.lines().filter(|line| line.starts_with('|')).skip(2) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let answers: Vec<String> =
                cells[columns.clone()].iter().map(|&cell| cell.into()).collect();
            if cells[0] == "others" {
                table.others = answers;
                continue;
            }
            for code in cells[0].split(", ") {
                let hex = code.strip_suffix('h').unwrap_or_else(|| panic!("{heading}: {code}"));
                let code =
                    u8::from_str_radix(hex, 16).unwrap_or_else(|_| panic!("{heading}: {code}"));
                assert!(
                    table.rows.insert(code, answers.clone()).is_none(),
                    "{heading}: {code:02X}h twice"
                );
            }
        }
        assert!(table.rows.len() > 4, "{heading}: no table was found");
        assert_eq!(table.others.len(), columns.len(), "{heading}: nothing is said of the others");
        table
    }

    /// Compares the answer to a code with a column. `None` is no answer: the target holds the command. What a command that is taken never ends
    /// with is in `refusals`.
    fn check(&self, code: u8, column: usize, answer: Option<Status>, refusals: &[Status]) {
        let said = self.rows.get(&code).map_or(&self.others[column], |answers| &answers[column]);
        let is_taken = answer.is_none_or(|status| !refusals.contains(&status));
        let is = match answer {
            Some(status) if !is_taken => alloc::format!("{}/{:02X}h", status.sct(), status.sc()),
            Some(_) | None => "yes".to_string(),
        };
        assert_eq!(
            said.as_str(),
            is,
            "{code:02X}h in column {column}: the page says, the target does ({answer:?})"
        );
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum On {
    Unconnected,
    Admin,
    Io,
    Discovery,
}

/// What a new target answers to a command there; `None` if it waits with that.
fn answer(on: On, sqe: &Sqe) -> Option<Status> {
    let mut world = World::new(config(4096));
    let conn = match on {
        On::Unconnected => world.initialised(0),
        On::Admin => world.admin(0).0,
        On::Io => world.io(0).0,
        On::Discovery => world.discovery(0),
    };
    let bytes = world.capsule(sqe, &[]);
    assert!(world.give(conn, &bytes, usize::MAX).is_empty());
    world.pdus(conn).last().map(|pdu| pdu.cqe().status)
}

#[test]
fn commands_are_what_the_page_says() {
    let admin = Table::read("Admin commands", 2..4);
    let io = Table::read("I/O commands", 2..3);
    for code in (0..=u8::MAX).filter(|&code| code != opcode::FABRICS) {
        let sqe = Sqe::new(code, 1, 1);
        let refusals = [Status::INVALID_OPCODE];
        admin.check(code, 0, answer(On::Admin, &sqe), &refusals);
        admin.check(code, 1, answer(On::Discovery, &sqe), &refusals);
        io.check(code, 0, answer(On::Io, &sqe), &refusals);
    }
}

#[test]
fn fabrics_commands_and_properties_are_what_the_page_says() {
    let fabrics = Table::read("Fabrics commands", 2..5);
    for code in 0..=u8::MAX {
        let mut sqe = Sqe::new(opcode::FABRICS, 1, code.into());
        if matches!(code, fctype::PROPERTY_GET | fctype::PROPERTY_SET) {
            (sqe.cdw11, sqe.cdw12) = (property::CC, Cc::ENABLED.0);
        }
        let refusals = [Status::INVALID_OPCODE, Status::SEQUENCE_ERROR, Status::INVALID_FIELD];
        for (column, on) in [On::Unconnected, On::Admin, On::Io].into_iter().enumerate() {
            fabrics.check(code, column, answer(on, &sqe), &refusals);
        }
    }
    let properties = Table::read("Properties", 2..5);
    for code in 0..=u8::MAX {
        let bytes = properties.rows.get(&code).map(|answers| answers[0].as_str());
        let wide = bytes == Some("8");
        for other in [false, true] {
            let get = PropertyGet { wide: Some(other), offset: code.into() };
            let set =
                PropertySet { wide: Some(other), offset: code.into(), value: Cc::ENABLED.0.into() };
            let (get, set) = (answer(On::Admin, &get.emit(1)), answer(On::Admin, &set.emit(1)));
            if other == wide {
                properties.check(code, 1, get, &[Status::INVALID_FIELD]);
                properties.check(code, 2, set, &[Status::INVALID_FIELD]);
            } else {
                assert_eq!(
                    (get, set),
                    (Some(Status::INVALID_FIELD), Some(Status::INVALID_FIELD)),
                    "{code:02X}h"
                );
            }
        }
    }
}

#[test]
fn features_log_pages_and_structures_are_what_the_page_says() {
    let features = Table::read("Features", 2..5);
    let logs = Table::read("Log pages", 2..4);
    let structures = Table::read("Identify", 2..4);
    for code in 0..=u8::MAX {
        let get = GetFeatures { fid: code, select: 3, value: 0 }.emit(1);
        // One that can be set takes this; for keep-alive 0 is no time.
        let value = u32::from(code == feature::KEEP_ALIVE);
        let set = SetFeatures { fid: code, save: false, value }.emit(1);
        let refusals = [Status::INVALID_FIELD, Status::FEATURE_NOT_CHANGEABLE];
        features.check(code, 0, answer(On::Admin, &get), &refusals);
        features.check(code, 1, answer(On::Discovery, &get), &refusals);
        features.check(code, 2, answer(On::Admin, &set), &refusals);
        let log = GetLogPage::of(code, 64).emit(1);
        logs.check(code, 0, answer(On::Admin, &log), &[Status::INVALID_LOG_PAGE]);
        logs.check(code, 1, answer(On::Discovery, &log), &[Status::INVALID_LOG_PAGE]);
        let identify = Identify::of(code, 1).emit(1);
        structures.check(code, 0, answer(On::Admin, &identify), &[Status::INVALID_FIELD]);
        structures.check(code, 1, answer(On::Discovery, &identify), &[Status::INVALID_FIELD]);
    }
}
