//! Mistakes that the code can be made to make, one at a time: what the simulator is worth shows in how soon it finds each of them.
//! Takes a mistake to be made; answers the code that would make it. Without the feature `mutants` every answer is a constant no, so that
//! nothing of it is left in what is built; nothing but the simulator's own crates may turn the feature on (`tests/layers.rs`).

#[cfg(feature = "mutants")]
use core::sync::atomic::{AtomicU32, Ordering};

macro_rules! mutants {
    ($($name:ident = $mistake:literal;)*) => {
        /// A mistake, made at one place in the code.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mutant {
            $(#[doc = concat!($mistake, ".")] $name,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Mutant] = &[$(Mutant::$name),*];

            /// Its name in the code.
            pub const fn name(self) -> &'static str {
                match self { $(Mutant::$name => stringify!($name),)* }
            }

            /// What is done wrong.
            pub const fn mistake(self) -> &'static str {
                match self { $(Mutant::$name => $mistake,)* }
            }
        }
    };
}

mutants! {
    AckBeforePeer = "A write is acknowledged when it is durable here, before the peer has it";
    AckBeforeFlush = "A write is acknowledged when it is durable at the peer, before it is here";
    ReportBeforeFlush = "The destination reports what has arrived as durable";
    LogFlushSkipped = "A batch counts as durable when it is written, without a flush";
    FlushCoversLater = "A flush of the log counts for batches that were written after it was submitted";
    FailedFlushCounts = "A flush of the log that failed counts";
    AloneUnrecorded = "The source goes on alone before its superblock says that it may have";
    AloneForGood = "The source goes on acknowledging alone when its peer is back";
    CommitIndexAhead = "A batch names entries as committed that are only logged";
    SuperblockBeforeFlush = "A superblock counts when it is written, before its flush";
    SuperblockOnce = "A superblock is written to one of its two places only";
    OlderSuperblock = "Of two superblocks the older one is taken";
    CleanForGood = "A superblock goes on saying that the node was stopped in good order";
    FreedBeforeRecord = "A segment is freed before the superblock that says so is durable";
    RecordedBeforePeer = "The source records a CP that the peer has only been told of";
    DrainedUncommitted = "A CP drains a segment before all its entries are committed";
    ReusedPinned = "The source opens a segment in a slot that reads still use";
    PinForgotten = "A read of log pages pins nothing";
    VolumeFlushSkipped = "A CP is recorded without a flush of the volumes";
    FlushBeforeWrites = "The volumes are flushed while writes of the CP are under way";
    DoneBeforeFlush = "A CP counts as done before its flushes have ended";
    FailedWriteDone = "A write of a CP that failed counts as done";
    FailedBlockDone = "A block of a CP whose write failed counts as written";
    RetryFlushesOnly = "After a failed flush of a volume the flush is repeated, not the writes before it";
    ReadGateOpen = "A CP writes into volumes under reads that began before it";
    RottenApplied = "A CP writes pages from memory without looking whether they are what came";
    RottenResent = "A page of the log is sent again without looking whether it is what came";
    LastRunDropped = "The list of a CP lacks its last run";
    SectorDropped = "The list of a CP lacks the last sector of each block";
    ZeroesIgnored = "Zeroes of a CP are not written to the volumes";
    HoleIgnored = "A zero block that a CP brings is not written";
    BroughtWins = "A block that a CP brings covers what its segment writes";
    RoundIgnored = "Blocks are not sent again for a CP that the destination has begun again";
    OlderVersionWins = "A read takes the oldest version that the log has";
    ZeroesFromVolume = "A read of zeroes in the log goes to the volume";
    ReadBeforeOpen = "Reads are answered before it is known what recovery has found";
    OrphanOvertaken = "A read does not wait for logged writes whose hosts no longer wait for them";
    UndecidedRead = "What recovery found is readable before it is known to be committed";
    DeadWriteLogged = "A write that waits, or is late, is logged although its connection has died";
    LateUnpinned = "A segment that was closed without late data is not kept for it";
    TornPageRecovered = "Recovery takes a batch whose pages do not check";
    VoidRecovered = "Recovery takes entries of earlier epochs above `agreed`";
    EmptyEndsLog = "Recovery ends at the first segment that is empty";
    OpenedUnmet = "The log is opened before the peer was met";
    FetchedUnwritten = "Entries that the peer gave back count as durable here without having been written";
    TailNotFetched = "Entries that only the peer has are not taken back";
    AgreedUnwritten = "The log is opened without a record of what of it counts";
    MapTornEmpty = "A page of the map that does not check counts as empty";
    RecoveryUnflushed = "What recovery read from the log is not flushed before it counts";
    EpochKept = "A source starts in the epoch of the one before it";
    EpochUnrecorded = "A source says hello before its epoch is durable";
    SameEpochRefused = "A source of the destination's own epoch is refused";
    OlderEpochTaken = "A source of an older epoch is taken";
    RollbackUnerased = "Entries that are dropped stay on the destination's device";
    RollbackForgotten = "The destination keeps entries that it was to drop";
    AdoptKeepsLog = "A destination that adopts a CP keeps the log that it had";
    AdoptInSync = "A destination that begins to be caught up does not say so";
    DestinationEpochForgotten = "The destination does not record who may write";
    ResumeAtOwnEnd = "A session sends only what is newer than the source's own end";
    MapAfterRecord = "The map is written after the superblock of the CP that needs it";
    MapForgotten = "A CP that is taken alone leaves no trace in the map";
    MapClearedEarly = "A block leaves the map when it is read, before the peer has it";
    WholeForgotten = "A blank peer is caught up from a map that names only what changed";
    PeerUnnoted = "Where the peer stands is not recorded before CPs are sent to it";
    LossIgnored = "What is lost on the link is not sent again";
    BodyUnchecked = "The destination does not check the sums of what a frame carries";
    PageMissing = "A batch counts as whole while a page of it is missing";
    CompareSkipsLog = "A compare looks at the volume only";
    FusedOvertakes = "The compare of a fused pair does not wait for writes that are logged and not committed";
    FusedUnbarred = "Writes are logged between the compare of a fused pair and its write";
    FusedUnmatched = "The write of a fused pair is logged though its compare found a difference";
    CounterReused = "A frame is sealed with the counter of the one before it";
    WindowForgotten = "A frame that was opened is opened again";
    WindowBeforeTag = "The replay window moves before the tag has been checked";
    HeaderUnbound = "Session, epoch, number and counter of a frame are not covered by its tag";
    CookieIgnored = "A hello is heard whenever it was made";
    AckedUnplaced = "A frame is reported although what it carries had no place";
}

/// Whether mistakes can be made at all.
pub const POSSIBLE: bool = cfg!(feature = "mutants");

/// 0 for none, otherwise one more than the mutant's number.
#[cfg(feature = "mutants")]
static MADE: AtomicU32 = AtomicU32::new(0);

/// From now on this mistake is made, or none, by all threads. To be called while no node runs.
#[cfg(feature = "mutants")]
pub fn make(mutant: Option<Mutant>) {
    MADE.store(mutant.map_or(0, |mutant| mutant as u32 + 1), Ordering::SeqCst);
}

impl Mutant {
    /// True where this mistake is to be made.
    #[cfg(feature = "mutants")]
    pub fn is_on(self) -> bool {
        MADE.load(Ordering::Relaxed) == self as u32 + 1
    }

    /// True where this mistake is to be made: never.
    #[cfg(not(feature = "mutants"))]
    #[inline(always)]
    pub const fn is_on(self) -> bool {
        false
    }
}

#[cfg(all(test, not(feature = "mutants")))]
mod tests {
    use super::*;

    #[test]
    fn no_mistake_is_made_without_the_feature() {
        const NONE: bool = !POSSIBLE && !Mutant::AckBeforePeer.is_on();
        const _: () = assert!(NONE);
        assert!(Mutant::ALL.iter().all(|mutant| !mutant.is_on()));
        assert!(Mutant::ALL.len() >= 40);
    }
}
