//! A power cut whose outcome is given, not drawn: which sectors of what was not flushed survive.

use super::{Files, SECTOR};
use crate::random::Random;
use ibid_driver::{Arena, DiskOp, FileId};

/// What survives of everything that was not flushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Survive {
    /// Nothing.
    None,
    /// Everything, what was under way included.
    All,
    /// What had completed.
    Completed,
    /// One sector, by its number among all of them.
    Single(u64),
    /// All but one.
    AllBut(u64),
    /// Of one write under way the sectors of a mask (the mask repeats where it is longer than 64 sectors); of the rest all that had
    /// completed, or nothing.
    Torn { write: u64, mask: u64, rest: bool },
    /// Any.
    Random(u64),
}

impl Survive {
    /// As the command line takes it.
    pub fn name(self) -> String {
        match self {
            Survive::None => "none".to_string(),
            Survive::All => "all".to_string(),
            Survive::Completed => "completed".to_string(),
            Survive::Single(one) => format!("single:{one}"),
            Survive::AllBut(one) => format!("all-but:{one}"),
            Survive::Torn { write, mask, rest } => {
                format!("torn:{write}:{mask:#x}:{}", if rest { "rest" } else { "alone" })
            }
            Survive::Random(seed) => format!("random:{seed}"),
        }
    }

    pub fn parse(text: &str) -> Option<Survive> {
        let parts: Vec<&str> = text.split(':').collect();
        Some(match parts.as_slice() {
            ["none"] => Survive::None,
            ["all"] => Survive::All,
            ["completed"] => Survive::Completed,
            ["single", one] => Survive::Single(one.parse().ok()?),
            ["all-but", one] => Survive::AllBut(one.parse().ok()?),
            ["torn", write, mask, rest] => Survive::Torn {
                write: write.parse().ok()?,
                mask: u64::from_str_radix(mask.strip_prefix("0x")?, 16).ok()?,
                rest: match *rest {
                    "rest" => true,
                    "alone" => false,
                    _ => return None,
                },
            },
            ["random", seed] => Survive::Random(seed.parse().ok()?),
            _ => return None,
        })
    }
}

/// What there is to choose from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unflushed {
    /// Sectors of writes that had completed.
    pub completed: u64,
    /// Of each write under way its sectors.
    pub flying: Vec<u64>,
}

impl Unflushed {
    pub fn sectors(&self) -> u64 {
        self.completed + self.flying.iter().sum::<u64>()
    }
}

/// A sector that was not flushed: file, place, bytes, and the write under way that it belongs to with its number in it.
type Loose = (usize, usize, Vec<u8>, Option<(u64, u64)>);

impl Files {
    /// What a power cut would decide about now.
    pub fn unflushed(&self, arena: &Arena) -> Unflushed {
        let mut found = Unflushed::default();
        for (_, _, _, flying) in self.loose(arena) {
            match flying {
                None => found.completed += 1,
                Some((write, _)) => {
                    found.flying.resize(write as usize + 1, 0);
                    found.flying[write as usize] += 1;
                }
            }
        }
        found
    }

    /// Every sector that was not flushed, in the order of its write.
    fn loose(&self, arena: &Arena) -> Vec<Loose> {
        let mut cached: Vec<_> = self
            .files
            .iter()
            .enumerate()
            .flat_map(|(number, file)| file.cache.iter().map(move |write| (number, write)))
            .collect();
        cached.sort_by_key(|(_, write)| write.number);
        let mut loose = Vec::new();
        for (file, write) in cached {
            for (n, bytes) in write.bytes.chunks(SECTOR).enumerate() {
                loose.push((file, write.at + n * SECTOR, bytes.to_vec(), None));
            }
        }
        let mut number = 0;
        for flying in &self.flying {
            let (FileId(file), at, bytes) = match flying.op {
                DiskOp::Write { file, at, span } => (file, at, arena.bytes(span).to_vec()),
                DiskOp::Zero { file, at, len } | DiskOp::Deallocate { file, at, len } => {
                    (file, at, vec![0; len as usize])
                }
                DiskOp::Read { .. } | DiskOp::Flush { .. } => continue,
            };
            for (n, bytes) in bytes.chunks(SECTOR).enumerate() {
                let at = at as usize + n * SECTOR;
                loose.push((file.into(), at, bytes.to_vec(), Some((number, n as u64))));
            }
            number += 1;
        }
        loose
    }

    /// The power goes.
    pub fn power_cut_to(&mut self, arena: &Arena, survive: Survive) {
        let loose = self.loose(arena);
        let mut random = match survive {
            Survive::Random(seed) => Random::new(seed),
            _ => Random::new(0),
        };
        let share = 1 + random.below(999) as u32;
        self.flying.clear();
        for file in &mut self.files {
            for write in file.cache.drain(..) {
                let run = write.at..write.at + write.bytes.len();
                file.live[run.clone()].copy_from_slice(&file.durable[run]);
            }
        }
        for (n, (file, at, bytes, flying)) in (0..).zip(loose) {
            let survives = match survive {
                Survive::None => false,
                Survive::All => true,
                Survive::Completed => flying.is_none(),
                Survive::Single(one) => n == one,
                Survive::AllBut(one) => n != one,
                Survive::Torn { write, mask, rest } => match flying {
                    None => rest,
                    Some((of, sector)) => of == write && mask >> (sector % 64) & 1 == 1,
                },
                Survive::Random(_) => random.chance(share),
            };
            if survives {
                let file = &mut self.files[file];
                file.live[at..][..SECTOR].copy_from_slice(&bytes);
                file.durable[at..][..SECTOR].copy_from_slice(&bytes);
            }
        }
    }
}
