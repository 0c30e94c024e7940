//! How the engine reads and writes its own structures in the arena: segment headers, descriptor blocks, checksums.
//! Client payload is never shown to the engine; it only asks for a page's sum.

use ibid_units::Span;

/// The node's arena as the engine sees it.
pub trait Memory {
    /// Shows a structure's bytes.
    fn read<R>(&self, span: Span, show: impl FnOnce(&[u8]) -> R) -> R;
    /// Lets a structure's bytes be written.
    fn write<R>(&mut self, span: Span, fill: impl FnOnce(&mut [u8]) -> R) -> R;
    /// CRC32C of a span's bytes.
    fn crc32c(&self, span: Span) -> u32;
}

/// Plain memory, for tests and the simulator.
#[derive(Debug, Clone)]
pub struct PlainMemory(pub alloc::vec::Vec<u8>);

impl PlainMemory {
    fn range(span: Span) -> core::ops::Range<usize> {
        let at = usize::try_from(span.at).expect("an arena fits the address space");
        at..at + span.len as usize
    }
}

impl Memory for PlainMemory {
    fn read<R>(&self, span: Span, show: impl FnOnce(&[u8]) -> R) -> R {
        show(&self.0[Self::range(span)])
    }
    fn write<R>(&mut self, span: Span, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        fill(&mut self.0[Self::range(span)])
    }
    fn crc32c(&self, span: Span) -> u32 {
        ibid_wire::crc32c(&self.0[Self::range(span)])
    }
}
