//! Takes typed values out of a parsed TOML section and notes every mistake, so that an operator sees all of them at once.
//! Takes the table of keys from `keys`; gives `Some(value)` or a [`Problem`]. Knows nothing of what the values mean together.

use core::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::keys::{Absent, Key, SECTIONS, Section};

/// Everything that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// One or more mistakes, in the order they were found.
    pub problems: Vec<Problem>,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The file can't be read.
    Unreadable(String),
    /// The file is not TOML.
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What the parser says.
        says: String,
    },
    /// A key or section that does not exist.
    Unknown {
        /// Its full name.
        key: String,
        /// The name that was probably meant.
        nearest: Option<&'static str>,
        /// All names that are allowed in its place.
        allowed: Vec<&'static str>,
    },
    /// A key or section that must be there and is not.
    Missing {
        /// Its full name.
        key: String,
        /// What it must be.
        allowed: String,
    },
    /// A value that is not allowed, by itself or together with others.
    Value {
        /// The key's full name.
        key: String,
        /// The value as the file has it.
        value: String,
        /// What is allowed, beginning with a verb.
        allowed: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            match problem {
                Problem::Unreadable(says) => write!(f, "{file}: can't be read: {says}")?,
                Problem::Syntax { line, column, says } => {
                    write!(f, "{file}:{line}:{column}: not TOML: {says}")?
                }
                Problem::Unknown { key, nearest, allowed } => {
                    write!(f, "{file}: {key}: unknown")?;
                    if let Some(nearest) = nearest {
                        write!(f, "; did you mean {nearest}?")?;
                    }
                    write!(f, " (allowed here: {})", allowed.join(", "))?;
                }
                Problem::Missing { key, allowed } => {
                    write!(f, "{file}: {key} is missing: {allowed}")?
                }
                Problem::Value { key, value, allowed } => {
                    write!(f, "{file}: {key} = {value}: {allowed}")?
                }
            }
        }
        Ok(())
    }
}

impl core::error::Error for ConfigError {}

/// Parses the text as TOML; the only mistake here is one of syntax.
pub(super) fn parse(text: &str) -> Result<Table, Problem> {
    toml::from_str::<Table>(text).map_err(|error| {
        let before = &text[..error.span().map_or(0, |span| text.floor_char_boundary(span.start))];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Problem::Syntax {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            // The parser's message may have several lines; ours is one.
            says: error.message().replace('\n', " "),
        }
    })
}

/// Notes every section that is not in the table of keys.
pub(super) fn refuse_unknown_sections(root: &Table, problems: &mut Vec<Problem>) {
    let allowed: Vec<&'static str> = SECTIONS.iter().map(|section| section.name).collect();
    for name in root.keys().filter(|name| !allowed.contains(&name.as_str())) {
        // A key above the first section is often one that lost its section.
        let home = SECTIONS.iter().find(|section| section.keys.iter().any(|key| key.name == name));
        problems.push(match home {
            Some(home) if !root[name].is_table() => Problem::Value {
                key: name.clone(),
                value: show(&root[name]),
                allowed: format!("stands outside every section; it belongs under [{}]", home.name),
            },
            _ => Problem::Unknown {
                key: name.clone(),
                nearest: nearest(name, &allowed),
                allowed: allowed.clone(),
            },
        });
    }
}

/// Reads one section's keys.
pub(super) struct Reader<'a> {
    /// `log`, or `volume[0]` for one of several.
    path: String,
    section: &'static Section,
    table: &'a Table,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Reader<'a> {
    /// Opens a section that stands at most once. A missing section is noted where it is needed.
    pub(super) fn open(
        root: &'a Table,
        section: &'static Section,
        needed: bool,
        problems: &'a mut Vec<Problem>,
    ) -> Option<Self> {
        match root.get(section.name) {
            Some(Value::Table(table)) => {
                Some(Self::over(section.name.to_owned(), section, table, problems))
            }
            Some(other) => {
                problems.push(Problem::Value {
                    key: section.name.to_owned(),
                    value: show(other),
                    allowed: format!("must be a section, [{}]", section.name),
                });
                None
            }
            None => {
                if needed {
                    problems.push(Problem::Missing {
                        key: format!("[{}]", section.name),
                        allowed: needs(section),
                    });
                }
                None
            }
        }
    }

    /// Opens a section that may be absent as a whole: then `nothing` stands for it, and every key has its default.
    pub(super) fn open_or(
        root: &'a Table,
        section: &'static Section,
        nothing: &'a Table,
        problems: &'a mut Vec<Problem>,
    ) -> Option<Self> {
        if root.contains_key(section.name) {
            return Self::open(root, section, false, problems);
        }
        Some(Self::over(section.name.to_owned(), section, nothing, problems))
    }

    /// The tables of a section that may be repeated, and their paths. None at all is noted.
    pub(super) fn tables(
        root: &'a Table,
        section: &'static Section,
        problems: &mut Vec<Problem>,
    ) -> Vec<(String, &'a Table)> {
        match root.get(section.name) {
            Some(Value::Array(items)) if items.iter().all(Value::is_table) && !items.is_empty() => {
                items
                    .iter()
                    .filter_map(Value::as_table)
                    .enumerate()
                    .map(|(index, table)| (format!("{}[{index}]", section.name), table))
                    .collect()
            }
            Some(other) => {
                problems.push(Problem::Value {
                    key: section.name.to_owned(),
                    value: show(other),
                    allowed: format!(
                        "must be one or more sections, each written [[{}]]",
                        section.name
                    ),
                });
                Vec::new()
            }
            None => {
                problems.push(Problem::Missing {
                    key: format!("[[{}]]", section.name),
                    allowed: needs(section),
                });
                Vec::new()
            }
        }
    }

    /// The same for a section that need not be there.
    pub(super) fn tables_if_any(
        root: &'a Table,
        section: &'static Section,
        problems: &mut Vec<Problem>,
    ) -> Vec<(String, &'a Table)> {
        if root.contains_key(section.name) {
            Self::tables(root, section, problems)
        } else {
            Vec::new()
        }
    }

    /// Opens one table; every key in it that the section does not have is noted.
    pub(super) fn over(
        path: String,
        section: &'static Section,
        table: &'a Table,
        problems: &'a mut Vec<Problem>,
    ) -> Self {
        let allowed: Vec<&'static str> = section.keys.iter().map(|key| key.name).collect();
        for name in table.keys().filter(|name| !allowed.contains(&name.as_str())) {
            problems.push(Problem::Unknown {
                key: format!("{path}.{name}"),
                nearest: nearest(name, &allowed),
                allowed: allowed.clone(),
            });
        }
        Self { path, section, table, problems }
    }

    /// The key's value, or what stands for it; `None` where it is absent or wrong, and the mistake is noted.
    pub(super) fn take<T>(
        &mut self,
        name: &str,
        convert: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let key = self.key(name);
        let literal;
        let value = match (self.table.get(name), &key.absent) {
            (Some(value), _) => value,
            (None, Absent::Means(text)) => {
                literal = default_value(text);
                &literal
            }
            (None, Absent::Refused) => {
                let allowed = format!("must be {}", key.allowed);
                self.problems
                    .push(Problem::Missing { key: format!("{}.{name}", self.path), allowed });
                return None;
            }
            (None, Absent::Decides(_)) => return None,
        };
        let converted = convert(value);
        if converted.is_none() {
            let (value, allowed) = (show(value), format!("must be {}", key.allowed));
            self.problems.push(Problem::Value {
                key: format!("{}.{name}", self.path),
                value,
                allowed,
            });
        }
        converted
    }

    /// Takes text that `convert` understands.
    pub(super) fn text<T>(
        &mut self,
        name: &str,
        convert: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.take(name, |value| value.as_str().and_then(convert))
    }

    /// Takes a whole number between `min` and `max`.
    pub(super) fn number(&mut self, name: &str, min: u32, max: u32) -> Option<u32> {
        self.take(name, |value| {
            let number = u32::try_from(value.as_integer()?).ok()?;
            (min..=max).contains(&number).then_some(number)
        })
    }

    /// Takes `true` or `false`.
    pub(super) fn truth(&mut self, name: &str) -> Option<bool> {
        self.take(name, Value::as_bool)
    }

    /// Takes an absolute path of at most `bytes_max` bytes.
    pub(super) fn path(&mut self, name: &str, bytes_max: usize) -> Option<PathBuf> {
        self.text(name, |text| {
            let path = Path::new(text);
            (path.is_absolute()
                && path.file_name().is_some()
                && text.len() <= bytes_max
                && !text.contains('\0'))
            .then(|| path.to_owned())
        })
    }

    /// Whether the file has the key.
    pub(super) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Notes that a key's value doesn't go with others; `allowed` begins with a verb.
    pub(super) fn refuse(&mut self, name: &str, allowed: &str) {
        let value = match (self.table.get(name), &self.key(name).absent) {
            (Some(value), _) => show(value),
            (None, Absent::Means(text)) => (*text).to_owned(),
            (None, Absent::Refused | Absent::Decides(_)) => "(not given)".to_owned(),
        };
        self.problems.push(Problem::Value {
            key: format!("{}.{name}", self.path),
            value,
            allowed: allowed.to_owned(),
        });
    }

    /// Notes that a key is needed here, though not everywhere.
    pub(super) fn miss(&mut self, name: &str, why: &str) {
        let allowed = format!("{why}; must be {}", self.key(name).allowed);
        self.problems.push(Problem::Missing { key: format!("{}.{name}", self.path), allowed });
    }

    fn key(&self, name: &str) -> &'static Key {
        self.section.keys.iter().find(|key| key.name == name).unwrap_or_else(|| {
            panic!("[{}] has no key {name} in the table of keys", self.section.name)
        })
    }
}

/// What a missing section must have.
fn needs(section: &Section) -> String {
    let keys: Vec<&str> = section
        .keys
        .iter()
        .filter(|key| matches!(key.absent, Absent::Refused))
        .map(|key| key.name)
        .collect();
    format!("it needs at least {}", keys.join(", "))
}

/// A default as if the file had it.
fn default_value(literal: &str) -> Value {
    let mut table: Table = toml::from_str(&format!("value = {literal}"))
        .expect("defaults in the table of keys are TOML");
    table.remove("value").expect("the line above sets it")
}

/// A value in one line, shortened where it is long: a message has to stay readable whatever the file holds.
pub(super) fn show(value: &Value) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    let text = value.to_string().replace('\n', " ");
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// The allowed name that needs fewest single-letter changes, if it needs few enough to be a slip.
fn nearest(name: &str, allowed: &[&'static str]) -> Option<&'static str> {
    const CHANGES_MAX: usize = 3;
    // Nothing longer can be that near, and a name from the file may be of any length.
    let candidates = allowed.iter().filter(|other| name.len().abs_diff(other.len()) <= CHANGES_MAX);
    candidates
        .map(|other| (changes(name.as_bytes(), other.as_bytes()), *other))
        .filter(|(count, other)| *count <= CHANGES_MAX && *count < other.len())
        .min_by_key(|(count, _)| *count)
        .map(|(_, other)| other)
}

/// Levenshtein's distance: insertions, deletions and substitutions that turn one word into the other.
fn changes(from: &[u8], to: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}
