//! Whose bytes a fill consists of, and whom to believe when they are wrong. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::store::Coverage;
use crate::upstream::EndpointId;

/// Who gave which bytes; `None`: an earlier run of roadstead.
#[derive(Debug, Default)]
pub(super) struct Trust {
    gave: BTreeMap<Option<EndpointId>, Coverage>,
    /// Whether any bytes came in answer to a Range.
    ranged: bool,
    /// Endpoints whose bytes, without any others, were wrong.
    refuted: Vec<EndpointId>,
    /// Of these, those who were asked for ranges: it may be that which they do not do well.
    ranged_wrongly: Vec<EndpointId>,
    /// Endpoints whose bytes were replaced: if the whole is right then, they were wrong.
    replaced: Vec<EndpointId>,
}

/// What to do about a blob that does not hash to its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Again {
    /// Only this endpoint is asked.
    pub(super) only: EndpointId,
    /// What counts as there.
    pub(super) keep: Coverage,
    /// Whether ranges of that endpoint are not to be relied on.
    pub(super) plainly: bool,
    /// The endpoint that is known to have given wrong bytes.
    pub(super) wrong: Option<EndpointId>,
}

impl Trust {
    /// What an earlier run left.
    pub(super) fn taken_up(&mut self, have: &Coverage) {
        if have.bytes() > 0 {
            self.gave.insert(None, have.clone());
        }
    }

    /// An endpoint gave these bytes.
    pub(super) fn note(&mut self, endpoint: EndpointId, range: Range<u64>, ranged: bool) {
        self.ranged |= ranged;
        self.gave.entry(Some(endpoint)).or_default().insert(range);
    }

    /// The bytes are wrong: whom to ask now, out of those who are there, or `None` when nobody is
    /// left to believe.
    ///
    /// Where several gave bytes, it cannot be told who was wrong: the one who gave most is believed
    /// first, and gives the rest too. One who alone gave everything is refuted; unless it was asked
    /// for ranges, which it may not honour though it says so: then it is asked once for the whole,
    /// when nobody else is left.
    pub(super) fn again(&mut self, endpoints: &[EndpointId]) -> Option<Again> {
        let gave = std::mem::take(&mut self.gave);
        let ranged = std::mem::take(&mut self.ranged);
        if gave.is_empty() {
            // Nobody was asked: it is the size that is wrong.
            return None;
        }
        let givers: Vec<EndpointId> = gave.keys().flatten().copied().collect();
        if let ([only], 1) = (givers.as_slice(), gave.len()) {
            self.refuted.push(*only);
            if ranged {
                self.ranged_wrongly.push(*only);
            }
            return self.next(endpoints, Some(*only));
        }
        let believed = gave
            .iter()
            .filter_map(|(id, coverage)| Some(((*id)?, coverage)))
            .filter(|(id, _)| !self.refuted.contains(id))
            .max_by_key(|(_, coverage)| coverage.bytes());
        let (only, keep) = match believed {
            Some((only, keep)) => (only, keep.clone()),
            // All that was there came from an earlier run.
            None => (*endpoints.first()?, Coverage::default()),
        };
        if let Some(kept) = Some(&keep).filter(|keep| keep.bytes() > 0) {
            self.gave.insert(Some(only), kept.clone());
            self.ranged = ranged;
        }
        self.replaced
            .extend(givers.into_iter().filter(|id| *id != only));
        Some(Again {
            only,
            keep,
            plainly: false,
            wrong: None,
        })
    }

    /// Whoever was believed alone cannot be asked any more: whom to believe now.
    pub(super) fn deserted(&mut self, only: EndpointId, endpoints: &[EndpointId]) -> Option<Again> {
        self.refuted.push(only);
        self.gave.clear();
        self.ranged = false;
        self.next(endpoints, None)
    }

    /// One who was not yet wrong; or one whose ranges were, without them.
    fn next(&mut self, endpoints: &[EndpointId], wrong: Option<EndpointId>) -> Option<Again> {
        let keep = Coverage::default();
        let next = endpoints.iter().find(|id| !self.refuted.contains(id));
        if let Some(next) = next {
            return Some(Again {
                only: *next,
                keep,
                plainly: false,
                wrong,
            });
        }
        if self.ranged_wrongly.is_empty() {
            return None;
        }
        let only = self.ranged_wrongly.remove(0);
        Some(Again {
            only,
            keep,
            plainly: true,
            // If it was the ranges, its content is not wrong.
            wrong: wrong.filter(|wrong| *wrong != only),
        })
    }

    /// The whole is right: the endpoints whose bytes had to be replaced for that.
    pub(super) fn convicted(&self) -> impl Iterator<Item = EndpointId> {
        let right = |id: &EndpointId| self.gave.contains_key(&Some(*id));
        self.replaced.iter().copied().filter(move |id| !right(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: EndpointId = EndpointId::of(0);
    const B: EndpointId = EndpointId::of(1);

    fn covers(start: u64, end: u64) -> Coverage {
        Coverage::from(vec![(start, end)])
    }

    #[test]
    fn who_gave_everything_is_refuted_and_the_next_is_asked() {
        let mut trust = Trust::default();
        trust.note(A, 0..100, false);
        let again = trust.again(&[A, B]).unwrap();
        assert_eq!((again.only, again.wrong), (B, Some(A)));
        assert_eq!(again.keep, Coverage::default());
        trust.note(B, 0..100, false);
        assert_eq!(trust.again(&[A, B]), None, "nobody is left");
    }

    #[test]
    fn who_was_asked_for_ranges_is_asked_once_for_the_whole() {
        let mut trust = Trust::default();
        trust.note(A, 0..50, true);
        trust.note(A, 50..100, true);
        let again = trust.again(&[A]).unwrap();
        assert!(again.plainly && again.only == A && again.wrong.is_none());
        trust.note(A, 0..100, false);
        assert_eq!(trust.again(&[A]), None);
    }

    #[test]
    fn everybody_whose_ranges_were_wrong_is_asked_without() {
        let mut trust = Trust::default();
        trust.note(A, 0..100, true);
        assert_eq!(trust.again(&[A, B]).unwrap().only, B);
        trust.note(B, 0..100, true);
        let again = trust.again(&[A, B]).unwrap();
        assert!(again.plainly && again.only == A && again.wrong == Some(B));
        trust.note(A, 0..100, false);
        let again = trust.again(&[A, B]).unwrap();
        assert!(again.plainly && again.only == B && again.wrong == Some(A));
        trust.note(B, 0..100, false);
        assert_eq!(trust.again(&[A, B]), None);
    }

    #[test]
    fn who_was_believed_and_is_gone_leaves_it_to_the_others() {
        let mut trust = Trust::default();
        trust.note(A, 0..70, true);
        trust.note(B, 70..100, true);
        assert_eq!(trust.again(&[A, B]).unwrap().only, A);
        let again = trust.deserted(A, &[A, B]).unwrap();
        assert_eq!((again.only, again.wrong), (B, None));
        assert_eq!(again.keep, Coverage::default());
        assert_eq!(trust.deserted(B, &[A, B]), None);
    }

    #[test]
    fn of_several_the_one_who_gave_most_is_believed_first() {
        let mut trust = Trust::default();
        trust.note(A, 0..30, true);
        trust.note(B, 30..100, true);
        let again = trust.again(&[A, B]).unwrap();
        assert_eq!((again.only, again.keep), (B, covers(30, 100)));
        trust.note(B, 0..30, true);
        assert_eq!(trust.convicted().collect::<Vec<_>>(), [A]);
        // But B was the liar.
        let again = trust.again(&[A, B]).unwrap();
        assert_eq!((again.only, again.keep), (A, Coverage::default()));
        assert_eq!(again.wrong, Some(B));
        trust.note(A, 0..100, true);
        assert_eq!(trust.convicted().count(), 0, "A was right after all");
        // Or it was the ranges of both.
        for endpoint in [B, A] {
            let again = trust.again(&[A, B]).unwrap();
            assert!(again.plainly && again.only == endpoint);
            trust.note(endpoint, 0..100, false);
        }
        assert_eq!(trust.again(&[A, B]), None);
    }

    #[test]
    fn what_an_earlier_run_left_is_believed_least() {
        let mut trust = Trust::default();
        trust.taken_up(&covers(0, 60));
        trust.note(A, 60..100, true);
        let again = trust.again(&[A]).unwrap();
        assert_eq!((again.only, again.keep), (A, covers(60, 100)));

        let mut trust = Trust::default();
        trust.taken_up(&covers(0, 100));
        let again = trust.again(&[A, B]).unwrap();
        assert_eq!((again.only, again.keep), (A, Coverage::default()));
    }
}
