//! I/O commands: read, write, compare, verify, flush, write zeroes, deallocate. Checks ranges and limits, then tells the shard in
//! sectors. PRINFO is not looked at: no namespace has protection information (NVM 5.3). Retries are never limited, so LR changes nothing.

use super::command::{Verdict, no_data};
use super::config::{NamespaceConfig, VERIFY_BYTES_MAX, ZEROES_BYTES_MAX};
use super::connection::{First, Phase};
use super::{Event, Frontend};
use ibid_units::{Sector, Sectors};
use ibid_wire::nvme_tcp::{
    Deallocate, DsmRange, Fuse, Io, Sqe, Status, directive_type, opcode, write_zeroes_deallocates,
};

/// Ranges of one Dataset Management command: all that its field can say (NVM 3.2.3).
pub(super) const RANGES_MAX: usize = 256;

impl NamespaceConfig {
    /// A run of logical blocks in sectors, if it lies in the namespace.
    fn range(&self, slba: u64, blocks: u32) -> Result<(Sector, Sectors), Status> {
        let end = slba.checked_add(blocks.into()).ok_or(Status::LBA_OUT_OF_RANGE)?;
        if end > self.blocks() {
            return Err(Status::LBA_OUT_OF_RANGE);
        }
        // No overflow: the end lies in a volume whose sectors fit, and every limit that got here is far below 2 TiB.
        let scale = self.lba_bytes / 512;
        Ok((Sector::new(slba * u64::from(scale)), Sectors::new(blocks.saturating_mul(scale))))
    }
}

impl Frontend {
    pub(super) fn judge_io(
        &mut self,
        c: usize,
        slot: u16,
        k: usize,
        sqe: &Sqe,
        data: u32,
        first_of_pair: First,
    ) -> Result<Verdict, Status> {
        if !self.controllers[k].serves() {
            return Err(Status::SEQUENCE_ERROR);
        }
        match sqe.opcode {
            opcode::READ
            | opcode::WRITE
            | opcode::COMPARE
            | opcode::VERIFY
            | opcode::FLUSH
            | opcode::WRITE_ZEROES
            | opcode::DATASET_MANAGEMENT => {}
            _ => return Err(Status::INVALID_OPCODE),
        }
        let namespace = *self.namespace(sqe.nsid).ok_or(Status::INVALID_NAMESPACE)?;
        let volume = namespace.volume;
        if let Some(status) = self.access_refusal(volume) {
            return Err(status);
        }
        let cmd = self.command_id(c, slot);
        let io = Io::parse(sqe);
        let bytes = u64::from(io.blocks) * u64::from(namespace.lba_bytes);
        match sqe.opcode {
            opcode::WRITE => {
                // No directive is supported, streams among them (Base 8.7).
                if directive_type(sqe) != 0 {
                    return Err(Status::INVALID_FIELD);
                }
                let inline = self.inbound(sqe, data, bytes)?;
                let (first, sectors) = namespace.range(io.slba, io.blocks)?;
                let fused = self.join_first(c, first_of_pair, sqe.nsid, &io)?;
                self.counters.writes += 1;
                self.counters.written_sectors += u64::from(sectors.get());
                self.set_phase(c, slot, Phase::AwaitsPages { bytes: bytes as u32, inline });
                self.push(Event::Write { cmd, volume, first, sectors, fua: io.fua, fused });
                Ok(if inline { Verdict::WriteInline } else { Verdict::Taken })
            }
            opcode::COMPARE => {
                let inline = self.inbound(sqe, data, bytes)?;
                let (first, sectors) = namespace.range(io.slba, io.blocks)?;
                let fused = sqe.fuse() == Fuse::First;
                if fused && io.blocks > self.pair_blocks_max(&namespace) {
                    return Err(Status::INVALID_FIELD);
                }
                self.counters.reads += 1;
                self.counters.read_sectors += u64::from(sectors.get());
                self.set_phase(c, slot, Phase::AwaitsPages { bytes: bytes as u32, inline });
                if fused {
                    self.await_second(c, cmd, sqe.nsid, &io);
                }
                self.push(Event::Compare { cmd, volume, first, sectors, inline, fused });
                Ok(if inline { Verdict::WriteInline } else { Verdict::Taken })
            }
            opcode::VERIFY => {
                no_data(data)?;
                if bytes > VERIFY_BYTES_MAX {
                    return Err(Status::INVALID_FIELD);
                }
                let (first, sectors) = namespace.range(io.slba, io.blocks)?;
                self.counters.reads += 1;
                self.counters.read_sectors += u64::from(sectors.get());
                self.set_phase(c, slot, Phase::AtShard);
                self.push(Event::Verify { cmd, volume, first, sectors });
                Ok(Verdict::Taken)
            }
            opcode::READ => {
                self.outbound(sqe, data, bytes)?;
                if u64::from(sqe.sgl.length) != bytes {
                    return Err(Status::SGL_LENGTH_INVALID);
                }
                let (first, sectors) = namespace.range(io.slba, io.blocks)?;
                self.counters.reads += 1;
                self.counters.read_sectors += u64::from(sectors.get());
                self.set_phase(c, slot, Phase::Reading { bytes: bytes as u32 });
                self.push(Event::Read { cmd, volume, first, sectors });
                Ok(Verdict::Taken)
            }
            opcode::FLUSH => {
                no_data(data)?;
                self.set_phase(c, slot, Phase::AtShard);
                self.push(Event::Flush { cmd, volume });
                Ok(Verdict::Taken)
            }
            opcode::WRITE_ZEROES => {
                no_data(data)?;
                if bytes > ZEROES_BYTES_MAX {
                    return Err(Status::INVALID_FIELD);
                }
                let (first, sectors) = namespace.range(io.slba, io.blocks)?;
                self.set_phase(c, slot, Phase::AtShard);
                self.push(Event::Zeroes {
                    cmd,
                    volume,
                    first,
                    sectors,
                    deallocate: write_zeroes_deallocates(sqe),
                });
                Ok(Verdict::Taken)
            }
            _ => {
                // Dataset Management. Linux always sends room for 256 ranges, whatever their number.
                let list = u64::from(Deallocate::parse(sqe).ranges) * DsmRange::BYTES as u64;
                let given = u64::from(sqe.sgl.length);
                if given < list || given > (RANGES_MAX * DsmRange::BYTES) as u64 {
                    return Err(Status::SGL_LENGTH_INVALID);
                }
                if self.inbound(sqe, data, given)? {
                    Ok(Verdict::AwaitData)
                } else {
                    Err(Status::SGL_TYPE_INVALID)
                }
            }
        }
    }

    /// Blocks of a Compare and Write, at most: what ACWU says. As much as a capsule carries, so that its write never waits for the memory
    /// that large writes share.
    pub(super) const fn pair_blocks_max(&self, namespace: &NamespaceConfig) -> u32 {
        self.config.limits.in_capsule_bytes / namespace.lba_bytes
    }

    /// A Dataset Management whose list is in `small`: all ranges are judged before the first one is told.
    pub(super) fn deallocate(&mut self, c: usize, slot: u16, sqe: &Sqe, bytes: usize) {
        let request = Deallocate::parse(sqe);
        let namespace = self.namespace(sqe.nsid).copied();
        // Access may have changed while the list was on its way.
        let refusal = namespace.and_then(|namespace| self.access_refusal(namespace.volume));
        if let Some(status) = refusal {
            self.respond(c, slot, status, 0);
            return;
        }
        let (Some(namespace), true) = (namespace, request.deallocate) else {
            // A hint (no AD) changes nothing.
            self.respond(c, slot, Status::SUCCESS, 0);
            return;
        };
        let list = &self.connections[c].small[..bytes];
        let ranges = list.chunks_exact(DsmRange::BYTES).take(request.ranges.into());
        let mut runs = [(Sector::new(0), Sectors::new(0)); RANGES_MAX];
        let mut count = 0;
        let mut refusal = None;
        for range in ranges {
            let range = DsmRange::parse(range).expect("a chunk is a range");
            if range.blocks == 0 {
                continue;
            }
            if u64::from(range.blocks) * u64::from(namespace.lba_bytes) > ZEROES_BYTES_MAX {
                refusal = Some(Status::COMMAND_SIZE_LIMIT);
                break;
            }
            match namespace.range(range.slba, range.blocks) {
                Ok(run) => {
                    runs[count] = run;
                    count += 1;
                }
                Err(status) => {
                    refusal = Some(status);
                    break;
                }
            }
        }
        if refusal.is_some() || count == 0 {
            self.respond(c, slot, refusal.unwrap_or(Status::SUCCESS), 0);
            return;
        }
        let cmd = self.command_id(c, slot);
        self.set_phase(c, slot, Phase::Ranges { left: count as u16, worst: Status::SUCCESS });
        for &(first, sectors) in &runs[..count] {
            self.push(Event::Zeroes {
                cmd,
                volume: namespace.volume,
                first,
                sectors,
                deallocate: true,
            });
        }
    }

    fn set_phase(&mut self, c: usize, slot: u16, phase: Phase) {
        self.connections[c].slots[usize::from(slot)].phase = phase;
    }
}
