//! What is on its way to the stream: a short list of pieces, headers and small structures rendered into one buffer.
//! Takes rendered bytes and spans; gives them out merged, and says what became of commands when bytes have gone.

use alloc::{boxed::Box, collections::VecDeque, vec};
use ibid_units::Span;

/// Pieces that one [`PieceList`] holds: one gathering send.
pub const SEND_PIECES_MAX: usize = 64;
/// Pieces that may be staged.
const ITEMS_MAX: usize = 256;
/// Bytes that may be staged, besides what is kept for a last word.
const BYTES_MAX: usize = 12 << 10;
/// Kept free for a termination PDU.
const LAST_WORD_BYTES: usize = 152;
/// The same, for those who write it.
pub(super) const LAST_WORD_ROOM: usize = LAST_WORD_BYTES;

/// A piece of what is sent on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece<'a> {
    /// Headers, digests, small structures.
    Bytes(&'a [u8]),
    /// Payload in the arena.
    Span(Span),
}

/// What to send next, in order.
#[derive(Debug)]
pub struct PieceList<'a> {
    pieces: [Piece<'a>; SEND_PIECES_MAX],
    count: usize,
}

impl<'a> PieceList<'a> {
    /// Nothing.
    pub const fn new() -> Self {
        Self { pieces: [Piece::Bytes(&[]); SEND_PIECES_MAX], count: 0 }
    }
    /// The pieces.
    pub fn as_slice(&self) -> &[Piece<'a>] {
        &self.pieces[..self.count]
    }
    /// Whether there is nothing to send.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
    /// Forgets what is in it.
    pub fn clear(&mut self) {
        self.count = 0;
    }
    fn push(&mut self, piece: Piece<'a>) -> bool {
        if self.count == SEND_PIECES_MAX {
            return false;
        }
        self.pieces[self.count] = piece;
        self.count += 1;
        true
    }
}

impl Default for PieceList<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// What follows for a command when a staged piece has gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum After {
    Nothing,
    /// The last payload of a read is out.
    Release(u16),
    /// The command's last byte is out.
    Free(u16),
    /// Both: payload of a read that needs no response.
    ReleaseAndFree(u16),
}

#[derive(Clone, Copy, Debug)]
enum Content {
    Bytes {
        at: u16,
        len: u16,
    },
    /// Payload of the command in this slot.
    Span {
        span: Span,
        slot: u16,
    },
}

#[derive(Clone, Copy, Debug)]
struct Item {
    content: Content,
    after: After,
}

impl Item {
    const fn len(&self) -> usize {
        match self.content {
            Content::Bytes { len, .. } => len as usize,
            Content::Span { span, .. } => span.len as usize,
        }
    }
}

pub(super) struct Stage {
    bytes: Box<[u8]>,
    used: usize,
    items: VecDeque<Item>,
    /// Bytes of the first item that have gone.
    gone: usize,
}

impl Stage {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; BYTES_MAX + LAST_WORD_BYTES].into_boxed_slice(),
            used: 0,
            items: VecDeque::with_capacity(ITEMS_MAX + 1),
            gone: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.used = 0;
        self.gone = 0;
        self.items.clear();
    }

    /// Whether nothing is staged.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether so many pieces with so many bytes fit.
    pub(super) fn has_room(&self, items: usize, bytes: usize) -> bool {
        self.items.len() + items <= ITEMS_MAX && self.used + bytes <= BYTES_MAX
    }

    /// Stages `len` bytes and gives them to be written. Only after [`Stage::has_room`], or once as the last word.
    pub(super) fn bytes(&mut self, len: usize, after: After) -> &mut [u8] {
        let at = self.used;
        self.used += len;
        self.items
            .push_back(Item { content: Content::Bytes { at: at as u16, len: len as u16 }, after });
        &mut self.bytes[at..at + len]
    }

    /// Stages payload of a slot. Only after [`Stage::has_room`].
    pub(super) fn span(&mut self, slot: u16, span: Span, after: After) {
        self.items.push_back(Item { content: Content::Span { span, slot }, after });
    }

    /// A slot's staged payload lies elsewhere now.
    pub(super) fn move_spans(&mut self, slot: u16, mut moved: impl FnMut(Span) -> Span) {
        for item in &mut self.items {
            if let Content::Span { span, slot: of } = &mut item.content
                && *of == slot
            {
                *span = moved(*span);
            }
        }
    }

    /// Shows what is to be sent; neighbouring bytes are one piece.
    pub(super) fn plan<'a>(&'a self, out: &mut PieceList<'a>) {
        let mut run: Option<(usize, usize)> = None;
        let mut skip = self.gone;
        for item in &self.items {
            match item.content {
                Content::Bytes { at, len } => {
                    let (start, end) = (usize::from(at) + skip, usize::from(at) + usize::from(len));
                    run = match run {
                        Some((first, last)) if last == start => Some((first, end)),
                        Some((first, last)) => {
                            if !out.push(Piece::Bytes(&self.bytes[first..last])) {
                                return;
                            }
                            Some((start, end))
                        }
                        None => Some((start, end)),
                    };
                }
                Content::Span { span, .. } => {
                    if let Some((first, last)) = run.take()
                        && !out.push(Piece::Bytes(&self.bytes[first..last]))
                    {
                        return;
                    }
                    if !out.push(Piece::Span(span.skip(skip as u32))) {
                        return;
                    }
                }
            }
            skip = 0;
        }
        if let Some((first, last)) = run {
            out.push(Piece::Bytes(&self.bytes[first..last]));
        }
    }

    /// Takes up to `count` gone bytes off the front; gives the rest of the count and what follows from the piece that ended.
    /// `None` when the count is used up within a piece.
    pub(super) fn take(&mut self, count: usize) -> Option<(usize, After)> {
        let item = *self.items.front()?;
        let left = item.len() - self.gone;
        if count < left {
            self.gone += count;
            return None;
        }
        self.gone = 0;
        self.items.pop_front();
        if self.items.is_empty() {
            self.used = 0;
        }
        Some((count - left, item.after))
    }
}
