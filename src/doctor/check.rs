//! A check's outcome, and how all of them are shown: text for people, one JSON shape for programs (docs/doctor.md).
//! Takes verdicts; judges nothing itself.

use std::fmt;

use serde_json::{Value, json};

use super::root::Unseen;

/// Version of the JSON shape: grows when a field changes its meaning or goes.
const SHAPE: u32 = 1;

/// How a check ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Verdict {
    /// As it should be.
    Ok,
    /// A node works, but slower or less safely than it could; or this could not be seen.
    Warn,
    /// A node does not start, or what it promises does not hold.
    Fail,
}

impl Verdict {
    /// Its word.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What is looked at, and why it matters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Topic {
    /// Its name, which does not change.
    pub(crate) name: &'static str,
    /// One sentence.
    pub(crate) why: &'static str,
}

impl Topic {
    pub(crate) fn ok(self, found: impl Into<String>) -> Check {
        self.check(Verdict::Ok, found.into(), Vec::new())
    }

    pub(crate) fn warn<M: Into<String>>(
        self,
        found: impl Into<String>,
        mend: impl IntoIterator<Item = M>,
    ) -> Check {
        self.check(Verdict::Warn, found.into(), mend.into_iter().map(Into::into).collect())
    }

    pub(crate) fn fail<M: Into<String>>(
        self,
        found: impl Into<String>,
        mend: impl IntoIterator<Item = M>,
    ) -> Check {
        self.check(Verdict::Fail, found.into(), mend.into_iter().map(Into::into).collect())
    }

    /// What could not be seen is no success.
    pub(crate) fn unseen<M: Into<String>>(
        self,
        unseen: &Unseen,
        mend: impl IntoIterator<Item = M>,
    ) -> Check {
        Check { seen: false, ..self.warn(format!("could not be seen: {unseen}"), mend) }
    }

    fn check(self, verdict: Verdict, found: String, mend: Vec<String>) -> Check {
        Check { topic: self, verdict, seen: true, found, mend }
    }
}

/// One outcome.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    pub(crate) topic: Topic,
    pub(crate) verdict: Verdict,
    /// False where the machine did not show what the check asks for.
    pub(crate) seen: bool,
    /// What was found, one line.
    pub(crate) found: String,
    /// Lines for a shell; what no command can do stands behind `#`.
    pub(crate) mend: Vec<String>,
}

/// What the doctor was asked about.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// The configuration's file.
    pub(crate) file: String,
    /// Name and role, where it could be read.
    pub(crate) node: Option<(String, String)>,
    /// Whether that node runs here and has answered.
    pub(crate) running: bool,
}

/// All of it.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// `None`: the machine alone.
    pub(crate) subject: Option<Subject>,
    pub(crate) checks: Vec<Check>,
}

impl Report {
    /// The worst verdict.
    pub(crate) fn verdict(&self) -> Verdict {
        self.checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok)
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }

    /// The shape that docs/doctor.md describes.
    pub(crate) fn to_json(&self) -> Value {
        let checks: Vec<Value> = self
            .checks
            .iter()
            .map(|check| {
                json!({
                    "check": check.topic.name,
                    "verdict": check.verdict.word(),
                    "seen": check.seen,
                    "found": check.found,
                    "why": check.topic.why,
                    "mend": check.mend,
                })
            })
            .collect();
        let node = self.subject.as_ref().map(|subject| {
            let named = subject.node.as_ref();
            json!({
                "config": subject.file,
                "name": named.map(|(name, _)| name),
                "role": named.map(|(_, role)| role),
                "running": subject.running,
            })
        });
        json!({
            "doctor": SHAPE,
            "node": node,
            "verdict": self.verdict().word(),
            "counts": {
                "ok": self.count(Verdict::Ok),
                "warn": self.count(Verdict::Warn),
                "fail": self.count(Verdict::Fail),
            },
            "checks": checks,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            None => {
                writeln!(f, "this machine, for any node (--config FILE checks what one needs)")?
            }
            Some(Subject { file, node: None, .. }) => writeln!(f, "this machine, and {file}")?,
            Some(Subject { file, node: Some((name, role)), running }) => {
                let runs = if *running { ", running" } else { ", not running" };
                writeln!(f, "this machine, for node {name} ({role}{runs}) of {file}")?;
            }
        }
        let width = self.checks.iter().map(|check| check.topic.name.len()).max().unwrap_or(0);
        for check in &self.checks {
            writeln!(
                f,
                "{:4}  {:width$}  {}",
                check.verdict.word(),
                check.topic.name,
                check.found
            )?;
            if check.verdict == Verdict::Ok {
                continue;
            }
            writeln!(f, "      {:width$}  why: {}", "", check.topic.why)?;
            for (place, line) in check.mend.iter().enumerate() {
                let label = if place == 0 { "mend:" } else { "" };
                writeln!(f, "      {:width$}  {label:5} {line}", "")?;
            }
        }
        let count = |verdict| self.count(verdict);
        writeln!(
            f,
            "{} ok, {} warn, {} fail",
            count(Verdict::Ok),
            count(Verdict::Warn),
            count(Verdict::Fail)
        )
    }
}

/// A path or another name in a line for a shell: one word there, whatever it holds.
pub(crate) fn quoted(name: impl fmt::Display) -> String {
    let name = name.to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if !name.is_empty() && name.chars().all(plain) {
        return name;
    }
    format!("'{}'", name.replace('\'', r"'\''"))
}

/// The command that puts words onto the kernel's command line, instead of those that `old` matches (a regular expression of sed's):
/// typed twice it does no more than once.
pub(crate) fn at_boot(old: &str, words: &str) -> String {
    format!(
        "sed -i -E '/^GRUB_CMDLINE_LINUX=\"/{{s/{old} ?//g;s/\"/&{words} /}}' /etc/default/grub"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Topic = Topic { name: "a", why: "Because." };
    const LONG: Topic = Topic { name: "long-name", why: "For this." };

    fn report() -> Report {
        Report {
            subject: None,
            checks: vec![
                A.ok("good"),
                LONG.warn("so so", ["do this", "# or that"]),
                A.unseen(&Unseen::Absent, Vec::<String>::new()),
            ],
        }
    }

    #[test]
    fn people_get_columns_and_reasons_where_something_is_to_be_done() {
        let text = report().to_string();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(lines[0], "ok    a          good");
        assert_eq!(lines[1], "warn  long-name  so so");
        assert_eq!(lines[2], "                 why: For this.");
        assert_eq!(lines[3], "                 mend: do this");
        assert_eq!(lines[4], "                       # or that");
        assert_eq!(lines.last(), Some(&"1 ok, 2 warn, 0 fail"));
    }

    #[test]
    fn a_name_is_one_word_for_a_shell() {
        for name in ["/srv/a.log", "/srv/my vol/a", "/x'; reboot #", "eth0;$(id)", "*", "a\nb"] {
            let line = format!("printf %s {}", quoted(name));
            let output = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), name, "{line}");
        }
        assert_eq!(quoted("/srv/a.log"), "/srv/a.log");
    }

    #[test]
    fn the_kernels_command_line_is_the_same_after_a_second_time() {
        let folder = tempfile::tempdir().unwrap();
        let grub = folder.path().join("grub");
        let run = |old: &str, words: &str| {
            let line = at_boot(old, words).replace("/etc/default/grub", grub.to_str().unwrap());
            assert!(
                std::process::Command::new("sh").args(["-c", &line]).status().unwrap().success()
            );
            std::fs::read_to_string(&grub).unwrap()
        };
        for (before, after) in [
            ("", "isolcpus=domain,3 "),
            ("quiet", "isolcpus=domain,3 quiet"),
            ("isolcpus=1 quiet", "isolcpus=domain,3 quiet"),
            ("quiet isolcpus=1", "isolcpus=domain,3 quiet "),
        ] {
            let file = |words: &str| {
                format!(
                    "GRUB_CMDLINE_LINUX_DEFAULT=\"isolcpus=7\"\nGRUB_CMDLINE_LINUX=\"{words}\"\n"
                )
            };
            std::fs::write(&grub, file(before)).unwrap();
            for _ in 0..2 {
                assert_eq!(run(r#"isolcpus=[^ "]*"#, "isolcpus=domain,3"), file(after));
            }
        }
    }

    #[test]
    fn programs_get_one_shape() {
        let mut report = report();
        let value = report.to_json();
        assert_eq!(value["doctor"], 1);
        assert_eq!(value["node"], Value::Null);
        assert_eq!(value["verdict"], "warn");
        assert_eq!(value["counts"], json!({ "ok": 1, "warn": 2, "fail": 0 }));
        assert_eq!(
            value["checks"][1],
            json!({
                "check": "long-name", "verdict": "warn", "seen": true, "found": "so so",
                "why": "For this.", "mend": ["do this", "# or that"],
            })
        );
        assert_eq!(value["checks"][2]["seen"], false);

        report.checks.push(A.fail("bad", ["x"]));
        let file = "/etc/ibid/a.toml".to_owned();
        report.subject = Some(Subject { file, node: None, running: false });
        let value = report.to_json();
        assert_eq!(value["verdict"], "fail");
        assert_eq!(value["node"]["name"], Value::Null);
        assert_eq!(value["node"]["config"], "/etc/ibid/a.toml");
    }
}
