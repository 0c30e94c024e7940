//! The log, held twice: the source's side that orders entries, the destination's side that mirrors them, and what both share.

mod geometry;
mod index;
mod mirror;
mod pages;
mod source;

pub use geometry::LogGeometry;
pub(crate) use index::unkey;
pub use index::{BlockSource, Index, nodes_max};
pub use mirror::{Mirror, MirrorFault, PlaceRefused, Placed};
pub use pages::{PagePart, PageTable};
pub use source::{
    ClosedBatch, Committed, Completion, Placement, ReserveRefused, SourceLog, SourceLogConfig,
};
