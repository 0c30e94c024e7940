//! Who a node is to its peer. What two nodes decide when they meet is one pure function with one table.

mod confirm;
mod meet;
#[cfg(test)]
mod play_tests;
#[cfg(test)]
mod table_tests;

pub use confirm::{FalseClaim, confirm};
pub use meet::{BatchEnd, Destination, LogPlan, Meeting, OwnLog, meet};
