//! The consistency point: the list is made once, from the sealed segment's index and the blocks it brings from the out-of-sync map, and
//! applied twice, by the same code over each node's own copy of the log.

mod apply;
mod list;
mod op;
mod receive;

pub use apply::Apply;
pub use list::{CpList, Lister, records_max};
pub use op::{ApplyOp, PayloadAt, Prove, Side, Want};
pub use receive::{ListReceiver, ListState};

#[cfg(test)]
mod model_tests;
