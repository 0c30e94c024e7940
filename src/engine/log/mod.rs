//! The log, held twice: the source's side that orders entries, the destination's side that mirrors them, and what both share.

mod check;
mod geometry;
mod index;
mod mirror;
mod pages;
mod recover;
mod source;

pub use geometry::LogGeometry;
pub use index::{BlockSource, Index, nodes_max};
pub(crate) use index::{key, unkey};
pub use mirror::{Mirror, MirrorFault, PlaceRefused, Placed};
pub use pages::{PagePart, PageTable};
pub use recover::{
    BlockRun, RUN_BLOCKS_MAX, RecoveredLog, RecoveredSegment, Scan, ScanConfig, ScanRefused,
};
pub use source::{
    AdoptRefused, ClosedBatch, Committed, Completion, Held, Placement, ReserveRefused, SourceLog,
    SourceLogConfig, TOKEN_NONE,
};
