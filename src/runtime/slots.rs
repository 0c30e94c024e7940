//! A fixed table of things under way, with places handed out and taken back.

/// A table of `T`s. Places are numbers that stay the same until given back.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    items: Vec<T>,
    free: Vec<u32>,
}

impl<T: Clone> Slots<T> {
    pub(crate) fn new(count: usize, empty: T) -> Self {
        Self { items: vec![empty; count], free: (0..count as u32).rev().collect() }
    }
    /// Puts `item` into a free place.
    pub(crate) fn take(&mut self, item: T) -> Option<u32> {
        let place = self.free.pop()?;
        self.items[place as usize] = item;
        Some(place)
    }
    /// Gives a place back.
    pub(crate) fn give(&mut self, place: u32) {
        assert!(self.free.len() < self.items.len(), "a place is given back once");
        self.free.push(place);
    }
    pub(crate) fn get(&self, place: u32) -> &T {
        &self.items[place as usize]
    }
    pub(crate) fn get_mut(&mut self, place: u32) -> &mut T {
        &mut self.items[place as usize]
    }
    /// Number of places, used or not.
    pub(crate) fn count(&self) -> usize {
        self.items.len()
    }
    /// Places in use.
    pub(crate) fn used(&self) -> usize {
        self.items.len() - self.free.len()
    }
    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty()
    }
}
