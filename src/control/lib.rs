//! What an operator touches: a node's configuration file, its status, and the control socket they meet at.
//! Takes TOML and JSON-RPC 2.0; gives checked types. Nothing here ever runs on a data thread, and nothing here is on the path of a write.
#![forbid(unsafe_code)]

pub mod config;
pub mod rpc;
pub mod status;
