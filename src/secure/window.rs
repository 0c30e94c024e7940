//! Which counters were seen: a ring of bits behind the newest, as in RFC 6479. Asked before a frame is opened, told after.

/// Counters behind the newest that may still come.
pub const WINDOW: u64 = 8192;

/// One word more than the window has, so that the word that the newest counter enters can be cleared whole.
const WORDS: u64 = WINDOW / 64 + 1;

/// The newest counter and those behind it.
#[derive(Debug)]
pub(crate) struct Window {
    /// One more than the newest that was seen: 0 before the first.
    next: u64,
    seen: Box<[u64; WORDS as usize]>,
}

/// Why a counter is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    /// It was seen.
    Before,
    /// It is too far behind for anybody to know.
    TooOld,
}

impl Window {
    pub(crate) fn new() -> Self {
        Self { next: 0, seen: Box::new([0; WORDS as usize]) }
    }

    /// Whether a frame with this counter may be opened.
    #[inline]
    pub(crate) fn check(&self, counter: u64) -> Result<(), Seen> {
        if counter >= self.next {
            Ok(())
        } else if self.next - counter > WINDOW {
            Err(Seen::TooOld)
        } else if self.seen[word(counter)] & bit(counter) != 0 {
            Err(Seen::Before)
        } else {
            Ok(())
        }
    }

    /// A frame with this counter was opened. However far ahead it is, no more than the ring is cleared.
    #[inline]
    pub(crate) fn note(&mut self, counter: u64) {
        if counter >= self.next {
            let (from, to) = (self.next.div_ceil(64), counter / 64);
            for entered in (from..=to).take(WORDS as usize) {
                self.seen[(entered % WORDS) as usize] = 0;
            }
            self.next = counter + 1;
        }
        self.seen[word(counter)] |= bit(counter);
    }
}

fn word(counter: u64) -> usize {
    (counter / 64 % WORDS) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// A window that remembers all.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn check(&self, counter: u64) -> Result<(), Seen> {
            match self.seen.last() {
                Some(&newest) if newest >= counter && newest + 1 - counter > WINDOW => {
                    Err(Seen::TooOld)
                }
                _ if self.seen.contains(&counter) => Err(Seen::Before),
                _ => Ok(()),
            }
        }
    }

    #[test]
    fn it_knows_what_a_window_that_remembers_all_knows() {
        for seed in 1..40u64 {
            let mut state = seed;
            let mut random = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) % below
            };
            let (mut window, mut model) = (Window::new(), Model::default());
            let mut at = random(3 * WINDOW);
            for _ in 0..4000 {
                let counter = match random(10) {
                    0 => at.saturating_sub(random(2 * WINDOW)),
                    1 => at + random(3 * WINDOW),
                    2 => at.saturating_sub(WINDOW + 2 - random(4)),
                    _ => at + random(70),
                };
                assert_eq!(window.check(counter), model.check(counter), "seed {seed}: {counter}");
                if window.check(counter).is_ok() && random(4) > 0 {
                    window.note(counter);
                    model.seen.insert(counter);
                    at = at.max(counter);
                }
            }
        }
    }

    #[test]
    fn the_edges_of_the_window_and_a_leap_over_it() {
        let mut window = Window::new();
        for counter in 0..WINDOW {
            assert_eq!(window.check(counter), Ok(()));
            window.note(counter);
        }
        assert_eq!(window.check(0), Err(Seen::Before));
        window.note(WINDOW);
        assert_eq!(window.check(0), Err(Seen::TooOld));
        assert_eq!(window.check(1), Err(Seen::Before));
        // 2^40 ahead: as much is cleared as there is.
        window.note(1 << 40);
        assert_eq!(window.check(WINDOW), Err(Seen::TooOld));
        for counter in (1 << 40) - WINDOW + 1..1 << 40 {
            assert_eq!(window.check(counter), Ok(()), "none of these was seen");
        }
        assert_eq!(window.check(1 << 40), Err(Seen::Before));
    }
}
