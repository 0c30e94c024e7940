//! The source's questions that are not answered yet: bounded, repeated until they are, forgotten when the session is over.
//! Takes what is asked for with a token of the asker's; gives what is to be sent now, and the token back exactly once.
//! ASK-1  a token comes back once: with its answer, with the end of its session, or never if it was cancelled.
//! ASK-2  an id is never used again: the answer to a question that is over is nobody's.

use ibid_units::{CpId, Nanos};
use ibid_wire::peer::{Ask, AskWhat};

/// Questions outstanding, at most.
pub const ASKS_MAX: usize = 16;
/// How long a question waits for its answer the first time …
const AGAIN_AFTER: Nanos = Nanos::from_millis(20);
/// … and, doubled each time, at most.
const AGAIN_AFTER_MAX: Nanos = Nanos::from_millis(500);

#[derive(Clone, Copy, Debug)]
struct Asked<T> {
    ask: Ask,
    token: T,
    /// When it is to be sent, again or for the first time.
    at: Nanos,
    wait: Nanos,
}

/// Outstanding questions. `T` tells the asker which wish a question serves.
#[derive(Debug)]
pub struct Asker<T> {
    asked: [Option<Asked<T>>; ASKS_MAX],
    next: u64,
}

impl<T: Copy> Default for Asker<T> {
    fn default() -> Self {
        Self { asked: [None; ASKS_MAX], next: 0 }
    }
}

impl<T: Copy + PartialEq> Asker<T> {
    /// Takes a question of a node whose volumes are at `cp`; `None` when [`ASKS_MAX`] are outstanding.
    pub fn ask(&mut self, cp: CpId, what: AskWhat, token: T) -> Option<u64> {
        let free = self.asked.iter_mut().find(|asked| asked.is_none())?;
        let id = self.next;
        self.next += 1;
        let ask = Ask { id, cp, what };
        *free = Some(Asked { ask, token, at: Nanos::ZERO, wait: AGAIN_AFTER });
        Some(id)
    }

    /// A question that is to be sent now: the one that has waited longest. Counts as sent.
    pub fn due(&mut self, now: Nanos) -> Option<Ask> {
        let waiting = self.asked.iter_mut().flatten().filter(|asked| asked.at <= now);
        let first = waiting.min_by_key(|asked| (asked.at, asked.ask.id))?;
        first.at = now.after(first.wait);
        first.wait = first.wait.after(first.wait).min(AGAIN_AFTER_MAX);
        Some(first.ask)
    }

    /// When the next question is due; [`Nanos::NEVER`] without any.
    pub fn deadline(&self) -> Nanos {
        self.asked.iter().flatten().map(|asked| asked.at).min().unwrap_or(Nanos::NEVER)
    }

    /// What an id asks for, if it is outstanding: for whoever must look at the answer first. An answer that says "not now" ends nothing;
    /// the question is repeated in its time.
    pub fn what(&self, id: u64) -> Option<AskWhat> {
        self.asked.iter().flatten().find(|asked| asked.ask.id == id).map(|asked| asked.ask.what)
    }

    /// A question is answered. `None` for an id that is not outstanding (ASK-2): late, doubled, or invented.
    pub fn answered(&mut self, id: u64) -> Option<(T, AskWhat)> {
        let of = |asked: &Option<Asked<T>>| asked.is_some_and(|asked| asked.ask.id == id);
        let asked = self.asked.iter_mut().find(|asked| of(asked))?.take()?;
        Some((asked.token, asked.ask.what))
    }

    /// The session is over: every question has failed, `failed` is given their tokens.
    pub fn reset(&mut self, mut failed: impl FnMut(T)) {
        for asked in &mut self.asked {
            if let Some(asked) = asked.take() {
                failed(asked.token);
            }
        }
    }

    /// The wish behind `token` is gone; its questions are no longer sent and their answers are nobody's.
    pub fn cancel(&mut self, token: T) {
        for asked in &mut self.asked {
            if asked.is_some_and(|asked| asked.token == token) {
                *asked = None;
            }
        }
    }

    /// How many are outstanding.
    pub fn outstanding(&self) -> usize {
        self.asked.iter().flatten().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::vec;
    use alloc::vec::Vec;
    use ibid_units::LogBlock;

    const WHAT: AskWhat =
        AskWhat::Log { segment: CpId::new(3), block: LogBlock::new(9), first: 0, sectors: 2 };

    fn ms(ms: u64) -> Nanos {
        Nanos::from_millis(ms)
    }

    fn asker(count: u32) -> Asker<u32> {
        let mut asker = Asker::default();
        for token in 0..count {
            assert_eq!(asker.ask(CpId::new(2), WHAT, token), Some(u64::from(token)));
        }
        asker
    }

    #[test]
    fn a_question_is_sent_at_once_and_then_ever_more_rarely_until_it_is_answered() {
        let mut asker = asker(1);
        let mut sent = Vec::new();
        for now in 1000..3000 {
            while let Some(ask) = asker.due(ms(now)) {
                assert_eq!((ask.id, ask.what), (0, WHAT));
                sent.push(now - 1000);
            }
        }
        assert_eq!(sent, [0, 20, 60, 140, 300, 620, 1120, 1620]);
        assert_eq!(asker.deadline(), ms(1000 + 2120));
        assert_eq!(asker.answered(0), Some((0, WHAT)));
        assert_eq!(asker.due(Nanos::NEVER), None);
        assert_eq!(asker.deadline(), Nanos::NEVER);
    }

    #[test]
    fn no_more_are_taken_than_there_is_room_and_each_has_its_turn() {
        let mut asker = asker(ASKS_MAX as u32);
        assert_eq!(asker.ask(CpId::new(2), WHAT, 99), None);
        let ids: Vec<u64> = core::iter::from_fn(|| asker.due(ms(1)).map(|ask| ask.id)).collect();
        assert_eq!(ids, (0..ASKS_MAX as u64).collect::<Vec<_>>());
        assert_eq!(asker.answered(5), Some((5, WHAT)));
        assert_eq!(asker.ask(CpId::new(2), WHAT, 99), Some(ASKS_MAX as u64));
        assert_eq!(asker.due(ms(1)).map(|ask| ask.id), Some(ASKS_MAX as u64));
    }

    #[test]
    fn late_doubled_and_invented_answers_are_nobodys() {
        let mut asker = asker(2);
        assert_eq!(asker.what(0), Some(WHAT));
        assert_eq!(asker.answered(0), Some((0, WHAT)));
        assert_eq!((asker.answered(0), asker.what(0)), (None, None));
        assert_eq!(asker.answered(7), None);
        asker.cancel(1);
        assert_eq!(asker.answered(1), None);
        assert_eq!(asker.outstanding(), 0);
    }

    #[test]
    fn the_end_of_a_session_gives_every_token_back_and_no_id_comes_again() {
        let mut asker = asker(3);
        asker.cancel(1);
        let mut failed = vec![];
        asker.reset(|token| failed.push(token));
        assert_eq!(failed, [0, 2]);
        assert_eq!(asker.ask(CpId::new(2), WHAT, 8), Some(3));
        assert_eq!(asker.answered(0), None);
    }

    #[test]
    fn each_token_comes_back_once_whatever_is_lost_doubled_or_late() {
        for seed in 1..200u64 {
            let mut random = seed;
            let mut below = move |n: u64| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (random >> 33) % n
            };
            let (mut asker, mut wire) = (Asker::default(), Vec::new());
            let (mut open, mut next, mut now) = (BTreeSet::new(), 0u32, ms(1));
            while next < 200 || !open.is_empty() {
                now = now.after(ms(below(30)));
                if next < 200 && asker.ask(CpId::new(2), WHAT, next).is_some() {
                    assert!(open.insert(next));
                    next += 1;
                }
                while let Some(ask) = asker.due(now) {
                    for _ in 0..below(3) {
                        wire.push(ask.id);
                    }
                }
                for _ in 0..below(4).min(wire.len() as u64) {
                    let at = below(wire.len() as u64) as usize;
                    if let Some((token, _)) = asker.answered(wire.swap_remove(at)) {
                        assert!(open.remove(&token), "ASK-1: {token} came back twice");
                    }
                }
                if below(100) == 0 {
                    asker.reset(|token| assert!(open.remove(&token), "ASK-1"));
                }
                assert_eq!(asker.outstanding(), open.len());
            }
        }
    }
}
