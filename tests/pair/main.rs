//! Tests of a real pair: the built `ibid` as processes, over DPDK, with files on a disk and a client that remembers what it was promised.
//! Every test uses the program as an operator would, by its arguments, files, control socket and signals, and starts everything itself.
//! Where a test can't run it says `SKIPPED:` and why.

mod addresses;
mod atomic;
mod authenticated;
mod capture;
mod common;
mod doctor;
mod dumped;
mod faulty;
mod keys;
mod killed;
mod link;
mod load;
mod node;
mod paths;
mod process;
mod refused;
mod rounds;
mod served;
mod stamps;
mod synced;
mod target;
