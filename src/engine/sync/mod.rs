//! What the peer's volumes may lack: the map of it, and the part of the map that one CP brings.
//! Beside it, what is known of blocks that both must hold alike: sums of those that recent CPs wrote.
//! Takes blocks that were written without the peer; gives pages for the log device, and blocks to be read and sent.

mod catch_up;
mod map;
mod recent;

pub use catch_up::{Brought, BroughtRun, CatchUp};
pub use map::OutOfSync;
pub use recent::{RECENT_LINES, RecentSums};
