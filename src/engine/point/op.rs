//! What applying a CP asks of a node, and what the node tells it.

use ibid_units::{LogBlock, Sector, Sectors, VolumeId};

/// What is to be done for a CP; tell [`super::Apply::completed`] afterwards, or [`super::Apply::failed`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApplyOp {
    /// Write sectors of a volume from the log: `first`'s bytes lie at its place in page `page` of the CP's segment, the others behind.
    Write {
        /// Which volume.
        volume: VolumeId,
        /// First sector.
        first: Sector,
        /// How many.
        sectors: Sectors,
        /// The page that holds the first.
        page: LogBlock,
    },
    /// Make sectors zero, keep the space.
    Zero {
        /// Which volume.
        volume: VolumeId,
        /// First sector.
        first: Sector,
        /// How many.
        sectors: Sectors,
    },
    /// Make sectors zero, give the space back.
    Deallocate {
        /// Which volume.
        volume: VolumeId,
        /// First sector.
        first: Sector,
        /// How many.
        sectors: Sectors,
    },
    /// At the source only: the bytes of these sectors in the log's memory are no longer those that came (they lie in one page). Get them
    /// from the peer, which holds them too, and write them instead.
    Rotten {
        /// Which volume.
        volume: VolumeId,
        /// First sector.
        first: Sector,
        /// How many.
        sectors: Sectors,
        /// The page of the CP's segment that should hold them.
        page: LogBlock,
    },
    /// Make a volume's writes durable.
    Flush {
        /// Which volume.
        volume: VolumeId,
    },
}

/// Whose volumes are brought up to the CP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The source's: what is caught up came from them, so blocks and holes are nothing to do; what the log lost the peer has.
    Source,
    /// The destination's: blocks are wanted as payload, holes are made, and a reference that can't be believed is refused.
    Destination,
}

/// Whether references are believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prove {
    /// From this node's own log, after checking.
    References,
    /// Every run's bytes are to come as blocks (`cp_mode = "full"` at the destination).
    Nothing,
}

/// Where payload that came for a list's page belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// Which volume.
    pub volume: VolumeId,
    /// First sector of the piece.
    pub first: Sector,
    /// Its length.
    pub sectors: Sectors,
}

/// Where the source has the bytes of a page of the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PayloadAt {
    /// In this page of the CP's segment.
    Log(LogBlock),
    /// In this page of staging memory.
    Staging(u32),
}
