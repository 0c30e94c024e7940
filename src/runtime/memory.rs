//! The arena as the engine sees it.

use ibid_driver::Arena;
use ibid_engine::Memory;
use ibid_units::Span;
use std::sync::Arc;

/// The engine's view of the node's arena.
#[derive(Clone)]
pub(crate) struct ArenaMemory(pub(crate) Arc<Arena>);

impl Memory for ArenaMemory {
    fn read<R>(&self, span: Span, show: impl FnOnce(&[u8]) -> R) -> R {
        show(&self.0.bytes(span))
    }
    fn write<R>(&mut self, span: Span, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        self.0.with_mut(span, fill)
    }
    fn crc32c(&self, span: Span) -> u32 {
        self.0.crc32c(span)
    }
}
