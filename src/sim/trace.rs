//! What happened, in three forms: a hash over every event, a story of those that mean something, and how often each was seen in
//! which state. The hash of two runs of one seed is the same, or something that decides does not come from the seed.

use crate::faults::{Class, FAULTS};
use ibid_units::Nanos;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// Lines of the story that are kept for a report.
const KEPT: usize = 60;

/// Where something happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Source,
    Destination,
    Link,
    Client,
    Operator,
}

impl Place {
    /// A node by its side.
    pub fn node(side: usize) -> Place {
        if side == crate::SOURCE { Place::Source } else { Place::Destination }
    }
    const fn name(self) -> &'static str {
        match self {
            Place::Source => "source",
            Place::Destination => "destination",
            Place::Link => "link",
            Place::Client => "client",
            Place::Operator => "operator",
        }
    }
}

macro_rules! names {
    ($(#[$doc:meta])* $kind:ident, $all:ident: $($name:ident = $text:literal;)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum $kind { $($name),* }
        /// All of them with their names.
        pub const $all: &[($kind, &str)] = &[$(($kind::$name, $text)),*];
        impl $kind {
            pub const fn name(self) -> &'static str {
                match self { $($kind::$name => $text),* }
            }
        }
    };
}
pub(crate) use names;

names! {
    /// How a node stands, as seen from outside.
    State, STATES:
    Down = "down";
    Recovering = "recovering";
    Connecting = "connecting";
    Connected = "connected";
    CatchingUp = "catching up";
    Away = "away";
    Alone = "alone";
    Refused = "refused";
    Failed = "failed";
    Stopping = "stopping";
}

names! {
    /// What happens to a node.
    Event, EVENTS:
    Start = "start";
    PowerCut = "power cut";
    Killed = "killed";
    Paused = "paused";
    StopAsked = "stop asked";
    Stopped = "stopped";
    Hello = "hello";
    Answer = "answer";
    CpRecorded = "CP recorded";
    EpochRecorded = "epoch recorded";
    Reused = "segment reused";
    Acknowledged = "acknowledged";
    CommandFailed = "command failed";
    CpAsked = "CP asked";
    Recovered = "recovered";
    NotStarted = "not started";
    Blank = "blank";
    TailTorn = "tail torn";
    LogDamaged = "log damaged";
    SuperblockBad = "superblock bad";
    Unreadable = "unreadable";
    DiskReplaced = "disk replaced";
    Continues = "log continues";
    Fetches = "fetch";
    Salvages = "salvage";
    RollsBack = "rollback";
    Adopts = "catch-up";
    RefusedBlank = "refused: blank";
    RefusedFailed = "refused: failed";
    RefusedLost = "refused: lost";
    RefusedHistory = "refused: history";
    RefusedOther = "refused: other";
    OutOfSync = "out of sync recorded";
    InSync = "in sync recorded";
    CpAlone = "CP recorded alone";
    Fetched = "batches fetched";
    Expired = "writes expired";
    VolumeRetry = "volume tried again";
    Healed = "pages healed";
    ReadFromPeer = "reads from the peer";
    Rewritten = "blocks rewritten";
    Becomes = "becomes";
}

/// A line of the story.
#[derive(Clone, Copy, Debug)]
enum Told {
    Event(Event, u64),
    Becomes(State),
    Fault(Class, u64),
    Note(&'static str, u64),
}

#[derive(Clone, Copy, Debug)]
struct Line {
    now: Nanos,
    place: Place,
    told: Told,
}

impl Line {
    fn text(&self) -> String {
        let micros = self.now.get() / 1000;
        let head = format!(
            "{:>6}.{:06}  {:<12}",
            micros / 1_000_000,
            micros % 1_000_000,
            self.place.name()
        );
        match self.told {
            Told::Event(event, value) => format!("{head}{} {value}", event.name()),
            Told::Becomes(state) => format!("{head}is {}", state.name()),
            Told::Fault(class, value) => format!("{head}fault {} {value}", class.name()),
            Told::Note(what, value) => format!("{head}{what} {value}"),
        }
    }
}

/// How often each event was seen in each state, of both nodes.
pub type Reached = [[[u64; EVENTS.len()]; STATES.len()]; 2];

/// The trace of one run. Shared by everything that is simulated.
pub struct Trace {
    pub now: Nanos,
    hash: u64,
    print: bool,
    story: VecDeque<Line>,
    states: [State; 2],
    pub reached: Reached,
    pub faults: [u64; FAULTS.len()],
    /// Frames that arrived, completions of disks, turns, commands.
    pub events: u64,
}

/// The handle that parts of the world hold.
#[derive(Clone)]
pub struct Tracer(Rc<RefCell<Trace>>);

thread_local! {
    /// The trace of the run of this thread, for a report after a panic.
    static LAST: RefCell<Option<Tracer>> = const { RefCell::new(None) };
    /// Whether the next trace is printed as it grows.
    static PRINT: Cell<bool> = const { Cell::new(false) };
}

/// Stories are printed as they happen, from the next world of this thread on.
pub fn print_stories(print: bool) {
    PRINT.set(print);
}

/// The trace that was begun last on this thread.
pub fn last() -> Option<Tracer> {
    LAST.with_borrow(Clone::clone)
}

impl Tracer {
    /// Begins a trace.
    pub fn new() -> Tracer {
        let tracer = Tracer::apart(PRINT.get());
        LAST.set(Some(tracer.clone()));
        tracer
    }

    /// A trace of what is only tried out.
    pub fn silent() -> Tracer {
        Tracer::apart(false)
    }

    fn apart(print: bool) -> Tracer {
        let trace = Trace {
            now: Nanos::ZERO,
            hash: 0xCBF2_9CE4_8422_2325,
            print,
            story: VecDeque::with_capacity(KEPT),
            states: [State::Down; 2],
            reached: [[[0; EVENTS.len()]; STATES.len()]; 2],
            faults: [0; FAULTS.len()],
            events: 0,
        };
        Tracer(Rc::new(RefCell::new(trace)))
    }

    pub fn set_time(&self, now: Nanos) {
        self.0.borrow_mut().now = now;
    }
    /// Something small: in the hash, not in the story.
    pub fn mix(&self, what: u64) {
        let trace = &mut *self.0.borrow_mut();
        trace.events += 1;
        trace.mix(what);
    }
    /// A node does or meets something.
    pub fn event(&self, side: usize, event: Event, value: u64) {
        let trace = &mut *self.0.borrow_mut();
        let state = trace.states[side];
        trace.reached[side][state as usize][event as usize] += 1;
        trace.mix(1 << 56 | (event as u64) << 48 | (side as u64) << 47 | value & 0xFFFF_FFFF);
        trace.tell(Place::node(side), Told::Event(event, value));
    }
    /// A node is in a state; nothing happens where it was already.
    pub fn state(&self, side: usize, state: State) {
        let trace = &mut *self.0.borrow_mut();
        if trace.states[side] == state {
            return;
        }
        let old = trace.states[side];
        trace.reached[side][old as usize][Event::Becomes as usize] += 1;
        trace.states[side] = state;
        trace.mix(2 << 56 | (state as u64) << 48 | side as u64);
        trace.tell(Place::node(side), Told::Becomes(state));
    }
    pub fn state_of(&self, side: usize) -> State {
        self.0.borrow().states[side]
    }
    /// A fault was injected.
    pub fn fault(&self, place: Place, class: Class, value: u64) {
        let trace = &mut *self.0.borrow_mut();
        trace.faults[class as usize] += 1;
        trace.mix(3 << 56 | (class as u64) << 48 | value & 0xFFFF_FFFF);
        // Those that a bad cable has by the thousand would drown the others.
        if !class.is_small() || trace.print {
            trace.tell(place, Told::Fault(class, value));
        }
    }
    pub fn note(&self, place: Place, what: &'static str, value: u64) {
        let trace = &mut *self.0.borrow_mut();
        trace.mix(4 << 56 | value & 0xFFFF_FFFF);
        trace.tell(place, Told::Note(what, value));
    }
    pub fn hash(&self) -> u64 {
        self.0.borrow().hash
    }
    pub fn events(&self) -> u64 {
        self.0.borrow().events
    }
    pub fn faults(&self) -> [u64; FAULTS.len()] {
        self.0.borrow().faults
    }
    pub fn reached(&self) -> Reached {
        self.0.borrow().reached
    }
    /// The last lines of the story.
    pub fn story(&self) -> Vec<String> {
        self.0.borrow().story.iter().map(Line::text).collect()
    }
}

impl Default for Tracer {
    fn default() -> Self {
        Self::new()
    }
}

impl Trace {
    fn mix(&mut self, what: u64) {
        let word = what ^ self.now.get().rotate_left(32);
        self.hash = (self.hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }
    fn tell(&mut self, place: Place, told: Told) {
        let line = Line { now: self.now, place, told };
        if self.print {
            println!("{}", line.text());
        }
        if self.story.len() == KEPT {
            self.story.pop_front();
        }
        self.story.push_back(line);
    }
}
