//! The consistency point: the list is made once, from the sealed segment's index, and applied twice, by the same code over each
//! node's own copy of the log.

mod apply;
mod list;
mod receive;

pub use apply::{Apply, ApplyOp, Prove, Want};
pub use list::{CpList, Lister, records_max};
pub use receive::{ListReceiver, ListState};
