//! The target of a real pair against hosts that break the rules: every row of the list of bad input, sent as raw bytes over a socket of
//! its own, while a well-behaved host goes on writing and reading. After each row nothing may be left of it: no connection, no memory.
//! And storms of connections, with the latency of the well-behaved host before and during them.

mod auth;
mod commands;
mod connects;
mod field;
mod live;
mod pdus;
mod raw;
mod resources;
mod storm;
mod table;
