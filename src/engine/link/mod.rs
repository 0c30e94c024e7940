//! Reliability of the one direction that needs it, source to destination. The other direction carries reports that stand by themselves.
//! What is sent is a list of items: each names what to send, not its bytes, so that a retransmission sends what is in the log now,
//! and arriving twice or in another order changes nothing.

mod ask;
mod received;
mod sender;

pub use ask::{ASKS_MAX, Asker};
pub use received::Received;
pub use sender::{ITEMS_MAX, Item, ItemKind, PACKETS_MAX, Sender, SenderCounters};
