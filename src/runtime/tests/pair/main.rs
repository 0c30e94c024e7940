//! The runtime as a whole pair in one process, against a plain model: see `ibid_sim::world`. The sharper questions have files of their own.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is nothing else")]

mod access;
mod apart;
mod clients;
mod compare_memory;
mod durable;
mod faults;
mod fused;
mod meeting;
mod no_alloc;
mod random;
mod traffic;
mod verify;

use ibid_driver::no_alloc::RefusingAllocator;
use ibid_sim::World;
use ibid_sim::host::{Op, Request};
use ibid_sim::load::LoadConfig;
use ibid_sim::model::Write;

#[global_allocator]
static ALLOCATOR: RefusingAllocator = RefusingAllocator;

/// A load of writes alone.
const WRITES: LoadConfig = LoadConfig {
    commands: 200,
    reads: 0,
    zeroes: 0,
    flushes: 0,
    looks: 0,
    large: 0,
    sectors: 4096,
    deaths: 0,
    cps: 0,
    depth: 16,
};

/// A write to volume 0, which has blocks of 512 bytes.
fn write(world: &mut World, first: u64, sectors: u64) -> (Write, Request) {
    let (write, data) = world.model.begin_write(0, first, sectors, false);
    let op = Op::Write { in_capsule: data.len() <= 16 << 10, data };
    (write, Request { nsid: 1, slba: first, blocks: sectors as u32, lba_bytes: 512, op })
}

/// Does one write on the first I/O queue, to its end.
fn do_write(world: &mut World, first: u64, sectors: u64) {
    let (number, request) = write(world, first, sectors);
    let done = world.command(1, request);
    assert!(done.status.is_success(), "{}", done.status);
    world.model.end_write(number);
}

/// Reads through the target and lets the model judge.
fn do_read(world: &mut World, first: u64, sectors: u64) {
    let reading = world.model.begin_read(0, first, sectors);
    let done = world.command(
        1,
        Request { nsid: 1, slba: first, blocks: sectors as u32, lba_bytes: 512, op: Op::Read },
    );
    assert!(done.status.is_success(), "{}", done.status);
    world.model.end_read(&reading, &done.data);
}
