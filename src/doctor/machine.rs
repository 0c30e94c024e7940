//! What every node needs of the machine: kernel, CPU, clock, and the core that its shard has.
//! Facts out of /proc and /sys; verdicts from those alone.

use std::collections::BTreeSet;

use ibid_control::config::{Config, Idle};

use super::check::{Check, Topic, at_boot};
use super::root::{self, Root, Seen, Unseen};

/// What the kernel says of itself, its CPUs and its clock.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// As `uname -r` has it.
    pub(crate) release: Seen<String>,
    /// 0 everybody may use io_uring, 1 the privileged, 2 nobody.
    pub(crate) io_uring_disabled: Seen<u32>,
    /// Features of the first CPU, as /proc/cpuinfo names them.
    pub(crate) flags: Seen<BTreeSet<String>>,
    pub(crate) online: Seen<Vec<u32>>,
    /// Those this process may run on.
    pub(crate) allowed: Seen<Vec<u32>>,
    /// Those the scheduler leaves alone.
    pub(crate) isolated: Seen<Vec<u32>>,
    /// Frequency governors, by CPU. None in most virtual machines.
    pub(crate) governors: Vec<(u32, String)>,
    pub(crate) clock: Seen<String>,
    pub(crate) clocks: Seen<Vec<String>>,
}

impl Machine {
    pub(crate) fn gather(root: &Root) -> Self {
        let cpus = "/sys/devices/system/cpu";
        let clock = "/sys/devices/system/clocksource/clocksource0";
        let online = root::set(root, &format!("{cpus}/online"));
        let governor = |cpu: &u32| {
            let text = root.text(format!("{cpus}/cpu{cpu}/cpufreq/scaling_governor")).ok()?;
            Some((*cpu, text))
        };
        Self {
            release: root.text("/proc/sys/kernel/osrelease"),
            io_uring_disabled: root.number("/proc/sys/kernel/io_uring_disabled"),
            flags: root.text("/proc/cpuinfo").and_then(|text| flags(&text).ok_or(Unseen::Absent)),
            governors: online.iter().flatten().filter_map(governor).collect(),
            online,
            allowed: root.text("/proc/self/status").and_then(|text| allowed(&text)),
            isolated: root::set(root, &format!("{cpus}/isolated")),
            clock: root.text(format!("{clock}/current_clocksource")),
            clocks: root
                .text(format!("{clock}/available_clocksource"))
                .map(|text| text.split_whitespace().map(ToOwned::to_owned).collect()),
        }
    }

    /// Every check of this room. `privileged`: io_uring is open to this process where it is not to everybody.
    pub(crate) fn checks(&self, config: Option<&Config>, privileged: bool) -> Vec<Check> {
        vec![
            self.kernel(),
            self.io_uring(privileged),
            self.cpu_flags(),
            self.clock_source(),
            self.core(config),
            self.governor(config),
        ]
    }

    fn kernel(&self) -> Check {
        let release = match &self.release {
            Ok(release) => release,
            Err(unseen) => return KERNEL.unseen(unseen, ["uname -r"]),
        };
        let mend = ["apt-get install -y linux-image-amd64   # or linux-image-arm64", "reboot"];
        match version(release) {
            None => KERNEL.warn(format!("{release}: not a version that is understood"), mend),
            Some(version) if version < KERNEL_MIN => {
                KERNEL.fail(format!("{release}; needed is 5.6, tried is 6.1 and newer"), mend)
            }
            Some(version) if version < KERNEL_TRIED => {
                KERNEL.warn(format!("{release}; tried is 6.1 and newer"), mend)
            }
            Some(_) => KERNEL.ok(release),
        }
    }

    fn io_uring(&self, privileged: bool) -> Check {
        let mend =
            ["sysctl -w kernel.io_uring_disabled=0   # and in /etc/sysctl.d/ for the next start"];
        match &self.io_uring_disabled {
            // Kernels before 6.6 have no such switch.
            Err(Unseen::Absent) => IO_URING.ok("allowed, this kernel has no switch for it"),
            Err(unseen) => IO_URING.unseen(unseen, mend),
            Ok(0) => IO_URING.ok("allowed"),
            Ok(1) if privileged => {
                IO_URING.ok("allowed for this user (kernel.io_uring_disabled = 1)")
            }
            Ok(value) => IO_URING.fail(
                format!("switched off for this user: kernel.io_uring_disabled = {value}"),
                mend,
            ),
        }
    }

    fn cpu_flags(&self) -> Check {
        let flags = match &self.flags {
            Ok(flags) => flags,
            Err(unseen) => return CPU_FLAGS.unseen(unseen, ["lscpu"]),
        };
        let lacks = |wanted: &[&'static str]| -> Vec<&'static str> {
            wanted.iter().copied().filter(|flag| !flags.contains(*flag)).collect()
        };
        // Which kind of CPU it is, its own list says: `fpu` is on each x86, `asimd` on each 64-bit ARM.
        let (needed, wanted) = if flags.contains("asimd") { ARM } else { X86 };
        let mend = ["# in a virtual machine: give it the host's CPU model (QEMU: -cpu host)"];
        let missing = lacks(needed);
        if !missing.is_empty() {
            return CPU_FLAGS.fail(format!("without {}", missing.join(", ")), mend);
        }
        let missing = lacks(wanted);
        if !missing.is_empty() {
            return CPU_FLAGS.warn(format!("without {}", missing.join(", ")), mend);
        }
        CPU_FLAGS.ok([needed, wanted].concat().join(", "))
    }

    fn clock_source(&self) -> Check {
        let clock = match &self.clock {
            Ok(clock) => clock,
            Err(unseen) => {
                return CLOCK.unseen(unseen, ["dmesg | grep -i clocksource"]);
            }
        };
        if CLOCKS_GOOD.contains(&clock.as_str()) {
            return CLOCK.ok(clock);
        }
        let good = self.clocks.iter().flatten().find(|clock| CLOCKS_GOOD.contains(&clock.as_str()));
        match good {
            Some(good) => CLOCK.warn(
                format!("{clock}, though there is {good}"),
                [format!(
                    "echo {good} > /sys/devices/system/clocksource/clocksource0/current_clocksource"
                )],
            ),
            None => CLOCK.warn(
                clock,
                ["dmesg | grep -i -e tsc -e clocksource   # why the kernel does not trust the TSC"],
            ),
        }
    }

    /// The core of the shard.
    fn core(&self, config: Option<&Config>) -> Check {
        let (online, isolated) = match (&self.online, &self.isolated) {
            (Ok(online), Ok(isolated)) => (online, isolated),
            (Err(unseen), _) | (_, Err(unseen)) => return CORE.unseen(unseen, ["lscpu"]),
        };
        let count = online.len();
        let Some(config) = config else {
            return match isolated.as_slice() {
                [] => CORE.warn(
                    format!("none of {count} CPUs is isolated"),
                    isolate(online.last().copied().unwrap_or(0), isolated),
                ),
                some => CORE.ok(format!("isolated of {count} CPUs: {}", set(some))),
            };
        };
        let Some(cpu) = config.node.cpu else {
            let best = isolated.first().or(online.last()).copied().unwrap_or(0);
            return CORE.warn(
                "node.cpu is not set: the shard wanders between CPUs",
                [format!("# in the configuration: [node] cpu = {best}")],
            );
        };
        let cpu = u32::try_from(cpu).unwrap_or(u32::MAX);
        if !online.contains(&cpu) {
            return CORE.fail(
                format!("node.cpu = {cpu} is not online"),
                [format!("# in the configuration: [node] cpu = one of {}", set(online))],
            );
        }
        if let Ok(allowed) = &self.allowed
            && !allowed.contains(&cpu)
        {
            return CORE.fail(
                format!("node.cpu = {cpu} is not allowed for this process, only {}", set(allowed)),
                [format!("taskset -c {cpu} ibid run …   # or AllowedCPUs= of the systemd unit")],
            );
        }
        if isolated.contains(&cpu) {
            return CORE.ok(format!("node.cpu = {cpu} is isolated"));
        }
        let polls = match config.node.idle {
            Idle::Spin => " and spins",
            Idle::Adaptive => "",
        };
        if count == 1 {
            return CORE.warn(
                format!("node.cpu = {cpu}{polls} is the only CPU: everything shares it"),
                ["# a second CPU"],
            );
        }
        CORE.warn(
            format!("node.cpu = {cpu}{polls} is shared with other programs"),
            isolate(cpu, isolated),
        )
    }

    fn governor(&self, config: Option<&Config>) -> Check {
        let cpu = config.and_then(|config| config.node.cpu);
        let all: Vec<&(u32, String)> = self
            .governors
            .iter()
            .filter(|(number, _)| cpu.is_none_or(|cpu| cpu == *number as usize))
            .collect();
        if all.is_empty() {
            return GOVERNOR
                .ok("no frequency governor here: a virtual machine, or the firmware decides");
        }
        let slow: BTreeSet<&str> = all
            .iter()
            .map(|(_, governor)| governor.as_str())
            .filter(|governor| *governor != "performance")
            .collect();
        let which = cpu.map_or("all CPUs".to_owned(), |cpu| format!("CPU {cpu}"));
        if slow.is_empty() {
            return GOVERNOR.ok(format!("performance, {which}"));
        }
        let slow: Vec<&str> = slow.into_iter().collect();
        GOVERNOR.warn(
            format!("{}, {which}", slow.join(", ")),
            [
                "echo performance | tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
                "# for every start: apt-get install -y linux-cpupower, and cpupower frequency-set -g performance in a unit",
            ],
        )
    }
}

/// CPUs as the kernel's command line has them.
fn set(cpus: &[u32]) -> String {
    let all: Vec<String> = cpus.iter().map(ToString::to_string).collect();
    all.join(",")
}

/// Isolates one more CPU.
fn isolate(cpu: u32, isolated: &[u32]) -> Vec<String> {
    let all = set(&[isolated, &[cpu]].concat());
    vec![
        at_boot("isolcpus=[^ \"]*", &format!("isolcpus=managed_irq,domain,{all}")),
        "update-grub && reboot".to_owned(),
    ]
}

/// The two numbers that count of `6.1.0-28-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The first CPU's features: `flags` on x86, `Features` on ARM.
fn flags(cpuinfo: &str) -> Option<BTreeSet<String>> {
    let line = cpuinfo.lines().find_map(|line| {
        let (name, rest) = line.split_once(':')?;
        ["flags", "Features"].contains(&name.trim()).then_some(rest)
    })?;
    Some(line.split_whitespace().map(ToOwned::to_owned).collect())
}

fn allowed(status: &str) -> Seen<Vec<u32>> {
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.and_then(|line| root::parse_set(line.trim())).ok_or(Unseen::Absent)
}

/// io_uring with `fallocate`, which zeroes and deallocations go through.
const KERNEL_MIN: (u32, u32) = (5, 6);
/// Debian 12's.
const KERNEL_TRIED: (u32, u32) = (6, 1);
/// What Debian's DPDK and the sums of every page need, and what makes them and encryption fast.
const X86: (&[&str], &[&str]) = (&["sse4_2", "popcnt"], &["aes", "pclmulqdq", "avx2"]);
const ARM: (&[&str], &[&str]) = (&["crc32"], &["aes", "pmull"]);
/// Clocks that a program reads without a system call, or the kernel as fast as those.
const CLOCKS_GOOD: &[&str] =
    &["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "tsc-early"];

const KERNEL: Topic = Topic {
    name: "kernel",
    why: "Disks are driven through io_uring, and direct I/O needs to know the device's alignment (6.1).",
};
const IO_URING: Topic = Topic {
    name: "io-uring",
    why: "Log and volumes are read and written through io_uring; without it no node starts.",
};
const CPU_FLAGS: Topic = Topic {
    name: "cpu-flags",
    why: "DPDK does not start without SSE4.2 (ARM: CRC32); without AES, carry-less multiplication and AVX2, sums and encryption of every byte are made step by step.",
};
const CLOCK: Topic = Topic {
    name: "clock-source",
    why: "The shard reads the clock in every turn: the TSC is a register of the CPU, HPET and ACPI's are devices that each read waits for.",
};
const CORE: Topic = Topic {
    name: "core",
    why: "The shard polls on one core; whatever else runs there adds its time slices, milliseconds, to every write.",
};
const GOVERNOR: Topic = Topic {
    name: "governor",
    why: "A core that clocks down between writes makes the next one wait until it is fast again.",
};

#[cfg(test)]
mod tests {
    use super::super::check::Verdict::{self, Fail, Ok as Good, Warn};
    use super::super::node::tests::config;
    use super::super::root::tests::Tree;
    use super::*;

    fn tree() -> Tree {
        Tree::new(&[
            ("proc/sys/kernel/osrelease", "6.1.0-28-amd64\n"),
            ("proc/sys/kernel/io_uring_disabled", "0\n"),
            ("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu sse4_2 popcnt aes pclmulqdq avx2\n"),
            ("proc/self/status", "Name:\tibid\nCpus_allowed_list:\t0-2\n"),
            ("sys/devices/system/cpu/online", "0-3\n"),
            ("sys/devices/system/cpu/isolated", "2\n"),
            ("sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "performance\n"),
            ("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "powersave\n"),
            ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
            ("sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc hpet \n"),
        ])
    }

    fn verdict(tree: &Tree, name: &str, config: Option<&Config>) -> (Verdict, bool, String) {
        let checks = Machine::gather(&tree.root()).checks(config, false);
        let check = checks.into_iter().find(|check| check.topic.name == name).unwrap();
        (check.verdict, check.seen, format!("{}; {}", check.found, check.mend.join("; ")))
    }

    #[test]
    fn a_good_machine_is_good_but_for_one_governor() {
        for check in Machine::gather(&tree().root()).checks(None, false) {
            let expected = if check.topic.name == "governor" { Warn } else { Good };
            assert_eq!(check.verdict, expected, "{check:?}");
        }
    }

    #[test]
    fn each_check_has_its_verdicts() {
        let clock = "sys/devices/system/clocksource/clocksource0/current_clocksource";
        let clocks = "sys/devices/system/clocksource/clocksource0/available_clocksource";
        let io_uring = "proc/sys/kernel/io_uring_disabled";
        let release = "proc/sys/kernel/osrelease";
        for (path, text, name, expected, told) in [
            (release, "5.4.0-150-generic", "kernel", Fail, "linux-image-amd64"),
            (release, "5.10.0", "kernel", Warn, "6.1"),
            (release, "next", "kernel", Warn, "next"),
            (io_uring, "1", "io-uring", Fail, "kernel.io_uring_disabled=0"),
            (io_uring, "2", "io-uring", Fail, "io_uring_disabled = 2"),
            ("proc/cpuinfo", "flags : fpu popcnt aes", "cpu-flags", Fail, "without sse4_2;"),
            (
                "proc/cpuinfo",
                "flags : fpu sse4_2 popcnt",
                "cpu-flags",
                Warn,
                "aes, pclmulqdq, avx2",
            ),
            ("proc/cpuinfo", "Features : asimd crc32 aes pmull", "cpu-flags", Good, "pmull"),
            ("proc/cpuinfo", "Features : asimd aes", "cpu-flags", Fail, "without crc32"),
            (clock, "hpet", "clock-source", Warn, "echo tsc > /sys"),
            (clock, "kvm-clock", "clock-source", Good, "kvm-clock"),
            (clocks, "hpet acpi_pm", "clock-source", Good, "tsc"),
            ("sys/devices/system/cpu/isolated", "", "core", Warn, "domain,3 /}' /etc/default/grub"),
        ] {
            let tree = tree();
            tree.put(path, text);
            let (verdict, seen, said) = verdict(&tree, name, None);
            assert_eq!(verdict, expected, "{path} {text}: {said}");
            assert!(seen && said.contains(told), "{path} {text}: {said}");
        }
        let untrusted = tree();
        untrusted.put(clock, "hpet");
        untrusted.put(clocks, "hpet acpi_pm");
        assert!(verdict(&untrusted, "clock-source", None).2.contains("dmesg"));
    }

    #[test]
    fn a_privileged_user_may_use_what_only_the_privileged_may() {
        let tree = tree();
        tree.put("proc/sys/kernel/io_uring_disabled", "1");
        let machine = Machine::gather(&tree.root());
        assert_eq!(machine.io_uring(true).verdict, Good);
        assert_eq!(machine.io_uring(false).verdict, Fail);
    }

    #[test]
    fn the_nodes_own_core_is_what_counts() {
        for (cpu, idle, expected, told) in [
            (Some(2), Idle::Spin, Good, "is isolated"),
            (Some(1), Idle::Spin, Warn, "node.cpu = 1 and spins is shared"),
            (Some(0), Idle::Adaptive, Warn, "domain,2,0 /}"),
            (Some(3), Idle::Adaptive, Fail, "only 0,1,2"),
            (Some(9), Idle::Adaptive, Fail, "one of 0,1,2,3"),
            (None, Idle::Adaptive, Warn, "cpu = 2"),
        ] {
            let mut config = config();
            (config.node.cpu, config.node.idle) = (cpu, idle);
            let (verdict, _, said) = verdict(&tree(), "core", Some(&config));
            assert_eq!(verdict, expected, "{cpu:?}: {said}");
            assert!(said.contains(told), "{cpu:?}: {said}");
        }
        for (cpu, expected) in [(2, Good), (3, Warn), (0, Good)] {
            let mut config = config();
            config.node.cpu = Some(cpu);
            assert_eq!(verdict(&tree(), "governor", Some(&config)).0, expected, "{cpu}");
        }
    }

    #[test]
    fn what_is_not_shown_is_told_and_is_no_success() {
        let empty = Tree::new(&[]);
        for name in ["kernel", "cpu-flags", "clock-source", "core"] {
            let (verdict, seen, said) = verdict(&empty, name, None);
            assert_eq!((verdict, seen), (Warn, false), "{name}: {said}");
            assert!(said.contains("could not be seen"), "{name}: {said}");
        }
    }
}
