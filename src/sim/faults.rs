//! The classes of faults, by the names of the fault list, and the budget that keeps a run inside what must be survived.
//!
//! The budget, so that whatever happens has to be survived and the oracle may demand it:
//! * B1  What is durable on both nodes is never damaged on both: devices fail, bytes rot and disks are replaced on one node of a run only,
//!   the victim. A source that may go on alone loses nothing of its log.
//! * B2  Of the two superblock copies at most one is damaged at a time, and only where the other says the same.
//! * B3  Nothing is damaged on a node that is the only one to hold it: of a source's log only what the destination's log still has, not what it
//!   has drained or is draining.
//! * B4  Errors of devices pass: the operator puts things right and starts the node again, over what the device then holds.
//! * B5  Power cuts and kills are not in the budget: any number of them, of one node or of both at once, must be survived.
//! * B6  Memory flips on the victim, in pages that are durable there and not on their way to a device. The destination may have a page of the
//!   source's or not. The source has one of the destination's: one that it had lost it would ask for in vain until the destination is started again.

use crate::trace::names;

names! {
    /// What can go wrong.
    Class, FAULTS:
    NetLoss = "N1 frame lost";
    NetDouble = "N2 frame doubled";
    NetReplay = "N2 old frame again";
    NetReorder = "N3 frame overtaken";
    NetBit = "N4 bit flipped";
    NetBurst = "N4 burst of errors";
    NetTruncated = "N4 frame cut short";
    NetExtended = "N4 frame too long";
    NetHeader = "N4 header changed";
    NetPartition = "N5 partition";
    NetOneWay = "N5 partition one way";
    NetClog = "N6 clogged";
    NetLarge = "N7 large frames lost";
    NetBusy = "N8 port busy";
    NetReflected = "N9 own frame back";
    NetStranger = "N10 frame of a stranger";
    HostReset = "N11 host resets";
    NetSlow = "N12 slow peer";
    HostDeaf = "N13 host does not read";
    HostOwes = "N14 data withheld";
    DiskSubset = "D1 any subset persists";
    DiskTorn = "D2 write torn";
    DiskCacheLost = "D4 cache lost";
    DiskWriteError = "D5 write error";
    DiskReadError = "D5 read error";
    DiskFlushError = "D6 flush error";
    RotLog = "D10 rot in the log";
    RotSuperblock = "D10 rot in a superblock";
    RotMap = "D10 rot in the map";
    DiskSlow = "D12 operation slow";
    DiskBusy = "D13 queue full";
    DiskFull = "D15 no space";
    DiskReplaced = "L8 disk replaced";
    MemoryFlip = "P8 bit of memory flips";
    PowerSource = "P1 power cut, source";
    PowerDestination = "P1 power cut, destination";
    PowerBoth = "P1 power cut, both";
    KillSource = "P1 killed, source";
    KillDestination = "P1 killed, destination";
    KillBoth = "P1 killed, both";
    CrashInRecovery = "P2 crash in recovery";
    Pause = "P3 paused";
    ClockJump = "C1 clock jumps";
    ClockFrozen = "C1 clock frozen";
    ClockDrift = "C1 clock drifts";
    TurnsLate = "C2 turns late";
    OperatorCp = "O12 CP asked for";
    OperatorStop = "O13 stop and start";
    OperatorStatus = "O14 status asked for";
}

impl Class {
    /// Of those that a bad cable or disk has by the thousand.
    pub fn is_small(self) -> bool {
        matches!(
            self,
            Class::NetLoss
                | Class::NetDouble
                | Class::NetReplay
                | Class::NetReorder
                | Class::NetBit
                | Class::NetBurst
                | Class::NetTruncated
                | Class::NetExtended
                | Class::NetHeader
                | Class::NetBusy
                | Class::NetReflected
                | Class::DiskSlow
                | Class::DiskBusy
                | Class::HostOwes
                | Class::TurnsLate
                | Class::OperatorStatus
        )
    }
}

/// Which classes a run may use.
#[derive(Clone, Copy, Debug)]
pub struct Classes([bool; FAULTS.len()]);

impl Classes {
    pub const NONE: Classes = Classes([false; FAULTS.len()]);
    pub const ALL: Classes = Classes([true; FAULTS.len()]);

    pub fn has(&self, class: Class) -> bool {
        self.0[class as usize]
    }
    pub fn set(&mut self, class: Class, on: bool) {
        self.0[class as usize] = on;
    }
}
