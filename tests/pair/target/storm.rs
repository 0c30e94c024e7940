//! Storms of connections: each kind opens and closes many, one after the other, as fast as the target takes them, while the well-behaved
//! host writes. What a connection costs must not depend on how many there were, and the host's latency must stay what it was.
//!
//! `IBID_STORM` says how many of each kind (`make test-storm`: 10,000); a thousand otherwise.

use super::field::Field;
use super::raw::{HOST, Raw, connect, connect_fields, emit, icreq, set_cc};
use crate::common::{alone, until};
use hdrhistogram::Histogram;
use ibid_wire::nvme_tcp::{Cc, ConnectData, Status};
use std::time::{Duration, Instant};

const COUNT: usize = 1_000;
/// Tries for each kind: other work on the machine falls into one of them, hardly into all.
const TRIES: usize = 3;
/// The host's p99 during a storm, in parts of that before it: what is promised, and asserted where the storm was asked for …
const RATIO_MAX: f64 = 2.0;
/// … and what fails wherever tests run, on cores that others use, too.
const RATIO_MAX_BUSY: f64 = 10.0;
/// The last tenth of a storm, in parts of its first.
const COST_RATIO_MAX: f64 = 2.0;
/// How long the host is looked at without a storm, and at least with one: a p99 needs writes.
const LOOK: Duration = Duration::from_secs(2);

/// A kind of storm: one connection of it, from its opening to its close.
type Visit = fn(&Field);

const KINDS: [(&str, Visit); 3] = [
    ("TCP alone", |field| {
        let mut raw = Raw::bare(field.addr);
        raw.half_close();
        raw.assert_closed("a connection that has said nothing");
    }),
    ("ICReq", |field| {
        let mut raw = Raw::bare(field.addr);
        raw.send(&icreq(0, 0, 0));
        raw.pdu().expect("an ICResp comes");
    }),
    ("Connect and disconnect", |field| {
        // As a host that has just left and comes back at once: the place of the one before may not be free yet.
        until("a controller is free", || {
            let mut raw = Raw::ready(field.addr, false);
            let data = emit(&connect_fields(&field.nqn, ConnectData::CNTLID_ANY));
            match raw.status(&connect(0).emit(1), &data) {
                Status::CONNECT_BUSY => return None,
                status => assert_eq!(status, Status::SUCCESS, "{HOST}"),
            }
            assert_eq!(raw.status(&set_cc(Cc::ENABLED.0), &[]), Status::SUCCESS);
            assert_eq!(raw.status(&set_cc(Cc::ENABLED.with_shutdown().0), &[]), Status::SUCCESS);
            Some(())
        });
    }),
];

struct Outcome {
    count: usize,
    calm: Histogram<u64>,
    storm: Histogram<u64>,
    /// Mean nanoseconds of a connection in the first and in the last tenth.
    cost: [f64; 2],
    took: Duration,
}

impl Outcome {
    fn ratio(&self) -> f64 {
        let p99 = |latency: &Histogram<u64>| latency.value_at_quantile(0.99) as f64;
        p99(&self.storm) / p99(&self.calm)
    }
}

fn storm(field: &Field, count: usize, visit: Visit) -> Outcome {
    field.live.take_latency();
    std::thread::sleep(LOOK);
    let calm = field.live.take_latency();
    let mut costs = Vec::with_capacity(count);
    let began = Instant::now();
    while costs.len() < count || began.elapsed() < LOOK {
        let at = Instant::now();
        visit(field);
        costs.push(at.elapsed().as_nanos() as f64);
    }
    let took = began.elapsed();
    let storm = field.live.take_latency();
    let (count, tenth) = (costs.len(), costs.len().div_ceil(10));
    let mean = |costs: &[f64]| costs.iter().sum::<f64>() / costs.len() as f64;
    Outcome {
        count,
        calm,
        storm,
        cost: [mean(&costs[..tenth]), mean(&costs[count - tenth..])],
        took,
    }
}

#[test]
fn a_storm_of_connections_costs_what_each_of_them_costs_and_leaves_the_others_latency() {
    let _alone = alone();
    let asked = std::env::var("IBID_STORM").ok();
    let count = asked.as_ref().map_or(COUNT, |text| text.parse().unwrap());
    let ratio_max = if asked.is_some() { RATIO_MAX } else { RATIO_MAX_BUSY };
    let mut field = Field::start();
    let warm = || KINDS.iter().for_each(|(_, visit)| (0..200).for_each(|_| visit(&field)));
    warm();
    let before = field.memory();
    println!("microseconds; at least {count} connections of each kind, one after the other");
    for (name, visit) in KINDS {
        let mut tries = 0;
        loop {
            let outcome = storm(&field, count, visit);
            let us = |latency: &Histogram<u64>, q| latency.value_at_quantile(q) as f64 / 1e3;
            let Outcome { count, calm, storm, cost: [first, last], took } = &outcome;
            println!(
                "{name}: {count} in {:.1} s; a write p50 {:.0} p99 {:.0} ({}) before, p50 {:.0} p99 {:.0} ({}) during, ratio {:.2}; \
                 a connection {:.0} in the first tenth, {:.0} in the last",
                took.as_secs_f64(),
                us(calm, 0.5),
                us(calm, 0.99),
                calm.len(),
                us(storm, 0.5),
                us(storm, 0.99),
                storm.len(),
                outcome.ratio(),
                first / 1e3,
                last / 1e3,
            );
            tries += 1;
            if outcome.ratio() < ratio_max && last / first < COST_RATIO_MAX {
                break;
            }
            assert!(tries < TRIES, "{name}: none of {TRIES} tries kept to the bounds");
        }
        field.assert_nothing_is_left(name);
    }
    field.assert_memory("storms", before);
    field.finish();
}
