//! A peer process (the test binary executed again) and what it does on its link.
//! A [`Task`] travels in one environment variable; the peer prints lines of `key=value` that the test waits for.
//! Every payload byte is a function of its place in the arena, so the receiver checks each one without having the sender's memory.

use crate::common::{ARENA_BYTES, Ticks, link_config_on, pattern, patterned_arena};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use ibid_dpdk::{Eal, EalConfig, EalMemory, LinkDevice, LinkPort, LinkState, MemifRole};
use ibid_driver::{Class, Port};
use ibid_units::Span;

const VARIABLE: &str = "IBID_DPDK_PEER";
const WINDOW: u64 = 64;
const RESEND: Duration = Duration::from_millis(20);

/// What a peer process does: `device mode count bytes mtu memory net side`, separated by blanks.
#[derive(Clone)]
pub(crate) struct Task {
    pub(crate) device: String,
    pub(crate) mode: &'static str,
    pub(crate) count: u64,
    /// Datagram size; 0 mixes all sizes.
    pub(crate) bytes: usize,
    pub(crate) mtu: u16,
    pub(crate) memory: &'static str,
    /// What the addresses are, see `link_config_on`.
    pub(crate) net: &'static str,
    /// 1 or 2: whose addresses.
    pub(crate) side: u8,
}

impl Task {
    pub(crate) fn new(device: &str, side: u8, mode: &'static str) -> Task {
        Task {
            device: device.into(),
            mode,
            count: 0,
            bytes: 0,
            mtu: 9000,
            memory: "ordinary",
            net: "v4",
            side,
        }
    }
    pub(crate) fn count(self, count: u64) -> Task {
        Task { count, ..self }
    }
    pub(crate) fn bytes(self, bytes: usize) -> Task {
        Task { bytes, ..self }
    }
    pub(crate) fn mtu(self, mtu: u16) -> Task {
        Task { mtu, ..self }
    }
    pub(crate) fn memory(self, memory: &'static str) -> Task {
        Task { memory, ..self }
    }
    pub(crate) fn net(self, net: &'static str) -> Task {
        Task { net, ..self }
    }
    fn text(&self) -> String {
        let Task { device, mode, count, bytes, mtu, memory, net, side } = self;
        format!("{device} {mode} {count} {bytes} {mtu} {memory} {net} {side}")
    }
}

/// A peer process. Killed on drop.
pub(crate) struct Peer {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Peer {
    /// Executes this binary again with the task, in a network namespace where one is named.
    pub(crate) fn spawn(task: &Task, namespace: Option<&str>) -> Peer {
        let own = std::env::current_exe().unwrap();
        let mut command = match namespace {
            None => Command::new(own),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(own);
                command
            }
        };
        let mut child = command
            .args(["peer_process", "--exact", "--nocapture"])
            .env(VARIABLE, task.text())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Peer { child, lines, seen: Vec::new() }
    }

    /// Waits for a line with `word` in it.
    pub(crate) fn expect(&mut self, word: &str, within: Duration) -> String {
        let until = Instant::now() + within;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = line.contains(word);
                    self.seen.push(line.clone());
                    if found {
                        return line;
                    }
                }
                Err(why) => {
                    let dead = self.child.try_wait().unwrap();
                    let late = why == RecvTimeoutError::Timeout;
                    panic!("no {word:?} (late: {late}, exit: {dead:?}); saw {:?}", self.seen);
                }
            }
        }
    }

    /// Throws away what was said until now.
    pub(crate) fn drain(&mut self) {
        while self.lines.try_recv().is_ok() {}
    }

    pub(crate) fn alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGKILL: no destructor runs.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM: a clean end.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        // SAFETY: the pid is our child's, which was not waited for yet.
        unsafe { libc::kill(i32::try_from(self.child.id()).unwrap(), libc::SIGTERM) };
        self.finish()
    }

    pub(crate) fn finish(&mut self) -> ExitStatus {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "a peer doesn't end; saw {:?}", self.seen);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if self.alive() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The number behind `key=` in a line.
pub(crate) fn number(line: &str, key: &str) -> u64 {
    let key = format!("{key}=");
    let word = line.split_whitespace().find_map(|word| word.strip_prefix(key.as_str()));
    word.unwrap_or_else(|| panic!("no {key} in {line:?}")).parse().unwrap()
}

/// The body of the peer process: does its task and says how it went. False where this process has none.
pub(crate) fn run_peer() -> bool {
    let Ok(text) = std::env::var(VARIABLE) else {
        return false;
    };
    let words: Vec<&str> = text.split(' ').collect();
    let [device, mode, count, bytes, mtu, memory, net, side] = words[..] else {
        panic!("{text:?}")
    };
    let parts: Vec<&str> = device.split(':').collect();
    let device = match parts[..] {
        ["memif", socket, role] => LinkDevice::Memif {
            socket: socket.into(),
            role: if role == "server" { MemifRole::Server } else { MemifRole::Client },
        },
        ["af_packet", interface] => LinkDevice::AfPacket { interface: interface.into() },
        _ => panic!("{device:?}"),
    };
    // SAFETY: installs a handler that only stores to an atomic.
    unsafe { libc::signal(libc::SIGTERM, on_term as *const () as libc::sighandler_t) };
    let memory = if memory == "huge" { EalMemory::HugePages } else { EalMemory::Ordinary };
    let config = EalConfig {
        memory,
        // Every machine has this one; asked for only where there are huge pages.
        numa_node: (memory == EalMemory::HugePages).then_some(0),
        log: Some(|line| eprintln!("dpdk: {line}")),
        ..EalConfig::default()
    };
    let (eal, _) = Eal::init(config).unwrap();
    {
        let _lcore = eal.register_thread().unwrap();
        let config = link_config_on(net, device, side.parse().unwrap(), mtu.parse().unwrap());
        let port = LinkPort::open(&eal, &config, patterned_arena(), Ticks::new()).unwrap();
        say("open");
        let mut work = Work { port, bytes: bytes.parse().unwrap(), seed: 1, bad: 0 };
        let count = count.parse().unwrap();
        match mode {
            "source" => work.source(count),
            "target" => work.target(count),
            "load" => work.load(),
            "ping" => work.ping(count),
            "echo" => work.echo(),
            "pour" => work.pour(),
            "sink" => work.sink(Duration::from_millis(count)),
            _ => panic!("{mode:?}"),
        }
        let (details, counters) = (work.port.details(), work.port.counters());
        say(&format!(
            "end bad={} tx={} rx={} dropped={} linearised={} ups={}",
            work.bad,
            counters.tx_frames,
            counters.rx_frames,
            counters.rx_dropped,
            details.rx_linearised,
            details.link_ups,
        ));
    }
    drop(eal);
    say("clean");
    true
}

static ENDING: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

extern "C" fn on_term(_: i32) {
    ENDING.store(true, std::sync::atomic::Ordering::Relaxed);
}

fn ending() -> bool {
    ENDING.load(std::sync::atomic::Ordering::Relaxed)
}

/// A whole line, also past a test harness that captures `println!`.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

struct Work {
    port: LinkPort<Ticks>,
    bytes: usize,
    seed: u64,
    bad: u64,
}

/// number u64, spans u8, then of each span its place u32 and length u16; behind that, the spans' bytes.
const HEAD_BYTES_MAX: usize = 9 + 6 * SPANS;
const SPANS: usize = 4;

impl Work {
    fn random(&mut self, below: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        usize::try_from(self.seed % below as u64).unwrap()
    }

    /// Sends frame `number`; false when the port is busy. The same number gives the same frame.
    fn send(&mut self, number: u64) -> bool {
        self.seed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let most = self.port.datagram_bytes_max();
        let size = match self.bytes {
            0 => HEAD_BYTES_MAX + self.random(most - HEAD_BYTES_MAX + 1),
            usize::MAX => most,
            bytes => bytes.max(HEAD_BYTES_MAX),
        };
        let count = 1 + self.random(SPANS);
        let head_bytes = 9 + 6 * count;
        let mut spans = [Span::default(); SPANS];
        let mut left = size - head_bytes;
        let mut head = [0u8; HEAD_BYTES_MAX];
        head[..8].copy_from_slice(&number.to_le_bytes());
        head[8] = count as u8;
        for (i, span) in spans.iter_mut().enumerate().take(count) {
            let len = if i + 1 == count { left } else { self.random(left + 1) };
            left -= len;
            let at = self.random(ARENA_BYTES - len);
            *span = Span::new(at as u64, u32::try_from(len).unwrap());
            let place = 9 + 6 * i;
            head[place..place + 4].copy_from_slice(&u32::try_from(at).unwrap().to_le_bytes());
            head[place + 4..place + 6].copy_from_slice(&u16::try_from(len).unwrap().to_le_bytes());
        }
        self.port.send(Class::Log, &head[..head_bytes], &spans[..count], None).is_ok()
    }

    fn source(&mut self, count: u64) {
        let (mut acked, mut next) = (0, 0);
        let mut moved = Instant::now();
        let mut resent = 0;
        while acked < count && !ending() {
            while next < count && next < acked + WINDOW && self.send(next) {
                next += 1;
            }
            self.port.flush();
            let before = acked;
            self.port.receive(64, &mut |bytes| {
                acked = acked.max(u64::from_le_bytes(bytes[..8].try_into().unwrap()));
            });
            if acked > before {
                moved = Instant::now();
            } else if moved.elapsed() > RESEND {
                resent += next - acked;
                next = acked;
                moved = Instant::now();
            } else {
                std::thread::yield_now();
            }
        }
        say(&format!("sent={acked} resent={resent}"));
    }

    fn target(&mut self, count: u64) {
        let mut want = 0;
        let mut bad = 0;
        let mut last = Instant::now();
        // Acknowledges for a while after the end, for the case that the last acknowledgement is lost.
        while !ending() && (want < count || last.elapsed() < Duration::from_millis(200)) {
            let got = self.port.receive(64, &mut |bytes| match check(bytes) {
                Some(number) if number == want => want += 1,
                Some(_) => {}
                None => bad += 1,
            });
            if got > 0 {
                last = Instant::now();
                let _ = self.port.send(Class::Control, &want.to_le_bytes(), &[], None);
                self.port.flush();
            } else {
                std::thread::yield_now();
            }
        }
        self.bad = bad;
        say(&format!("got={want}"));
    }

    /// Both directions as fast as it goes, until told to end.
    fn load(&mut self) {
        let (mut number, mut good, mut bad) = (0, 0u64, 0);
        let mut told = Instant::now();
        let mut state = LinkState::AwaitingDevice;
        while !ending() {
            for _ in 0..32 {
                if !self.send(number) {
                    break;
                }
                number += 1;
            }
            self.port.flush();
            let got = self.port.receive(64, &mut |bytes| match check(bytes) {
                Some(_) => good += 1,
                None => bad += 1,
            });
            if got == 0 {
                std::thread::yield_now();
            }
            if state != self.port.state() {
                state = self.port.state();
                say(&format!("state={state:?}"));
            }
            if told.elapsed() > Duration::from_millis(100) {
                told = Instant::now();
                say(&format!("good={good} bad={bad} number={number}"));
            }
        }
        self.bad = bad;
    }

    fn ping(&mut self, count: u64) {
        let mut times = hdrhistogram::Histogram::<u64>::new(3).unwrap();
        let warm = count / 10;
        let mut lost = 0;
        let mut number = 0;
        // A round that is lost, on a machine that has other work, is another's turn.
        while times.len() < count && !ending() {
            let start = Instant::now();
            if !self.send(number) {
                self.port.receive(1, &mut |_| {});
                continue;
            }
            self.port.flush();
            let mut back = false;
            while !back && start.elapsed() < Duration::from_millis(50) {
                self.port.receive(1, &mut |bytes| back |= bytes[..8] == number.to_le_bytes());
            }
            if !back {
                lost += 1;
            } else if number >= warm {
                times.record(u64::try_from(start.elapsed().as_nanos()).unwrap()).unwrap();
            }
            number += 1;
        }
        say(&format!(
            "rounds={} lost={lost} p50_ns={} p99_ns={}",
            times.len(),
            times.value_at_quantile(0.5),
            times.value_at_quantile(0.99)
        ));
    }

    /// Sends as fast as it goes, until told to end.
    fn pour(&mut self) {
        let mut number = 0;
        while !ending() {
            while self.send(number) {
                number += 1;
                if number.is_multiple_of(1024) {
                    break;
                }
            }
            self.port.flush();
            self.port.receive(4, &mut |_| {});
        }
    }

    /// Counts what arrives in `span` from the first frame on; reads every cache line of it.
    fn sink(&mut self, span: Duration) {
        let (mut frames, mut bytes, mut sum) = (0u64, 0u64, 0u64);
        let mut start = None;
        while start.is_none_or(|start: Instant| start.elapsed() < span) && !ending() {
            let got = self.port.receive(64, &mut |datagram| {
                frames += 1;
                bytes += datagram.len() as u64;
                sum += datagram.iter().step_by(64).map(|byte| u64::from(*byte)).sum::<u64>();
            });
            if got > 0 && start.is_none() {
                start = Some(Instant::now());
            }
        }
        let seconds = start.expect("frames arrived").elapsed().as_secs_f64();
        let (rate, bits) = (frames as f64 / seconds, bytes as f64 * 8.0 / seconds);
        say(&format!("frames_per_s={rate:.0} mbit_per_s={:.0} sum={sum}", bits / 1e6));
    }

    /// Sends every datagram back; payload from the arena, so that both ways cost the same.
    fn echo(&mut self) {
        let mut said = Instant::now();
        while !ending() {
            let mut echo = None;
            self.port.receive(1, &mut |bytes| {
                echo = Some((<[u8; 8]>::try_from(&bytes[..8]).unwrap(), bytes.len() - 8));
            });
            if let Some((head, rest)) = echo {
                let _ = self.port.send(Class::Log, &head, &[Span::new(0, rest as u32)], None);
                self.port.flush();
                said = Instant::now();
            } else if said.elapsed() > Duration::from_millis(1) {
                std::thread::yield_now();
            }
        }
    }
}

/// The number of a frame that is right in every byte.
fn check(bytes: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(bytes.get(..8)?.try_into().unwrap());
    let count = usize::from(*bytes.get(8)?);
    let mut payload = bytes.get(9 + 6 * count..)?;
    for i in 0..count {
        let place = &bytes[9 + 6 * i..][..6];
        let at = u32::from_le_bytes(place[..4].try_into().unwrap()) as usize;
        let len = usize::from(u16::from_le_bytes(place[4..].try_into().unwrap()));
        let piece = payload.get(..len)?;
        if piece.iter().enumerate().any(|(i, byte)| *byte != pattern(at + i)) {
            return None;
        }
        payload = &payload[len..];
    }
    payload.is_empty().then_some(number)
}

/// What a killed process could leave behind: files of DPDK and of memif.
pub(crate) fn leftovers() -> Vec<String> {
    let mut found = Vec::new();
    for dir in ["/var/run/dpdk/rte", "/dev/hugepages"] {
        if let Ok(entries) = std::fs::read_dir(dir) {
            found.extend(entries.flatten().map(|entry| entry.path().display().to_string()));
        }
    }
    found.sort();
    found
}
