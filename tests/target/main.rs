//! The target of a real pair against hosts that break the rules: every row of the list of bad input, sent as raw bytes over a socket of
//! its own, while a well-behaved host goes on writing and reading. After each row nothing may be left of it: no connection, no memory.
//! And storms of connections, with the latency of the well-behaved host before and during them.

#[allow(dead_code, reason = "shared with tests/pair, which uses all of it")]
#[path = "../pair/common.rs"]
mod common;
#[allow(dead_code, reason = "shared with tests/pair, which uses all of it")]
#[path = "../pair/link.rs"]
mod link;
#[allow(dead_code, reason = "shared with tests/pair, which uses all of it")]
#[path = "../pair/load.rs"]
mod load;
#[allow(dead_code, reason = "shared with tests/pair, which uses all of it")]
#[path = "../pair/node.rs"]
mod node;
#[allow(dead_code, reason = "shared with tests/pair, which uses all of it")]
#[path = "../pair/process.rs"]
mod process;

mod commands;
mod connects;
mod field;
mod live;
mod pdus;
mod raw;
mod resources;
mod storm;
mod table;
