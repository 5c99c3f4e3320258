//! Whose bytes a fill consists of, and which origin to fall back to when they are wrong. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use super::origin::Origin;
use crate::store::Coverage;

/// The origins of bytes; `None`: an earlier run of roadstead, or an origin that has no say any more.
#[derive(Debug, Default)]
pub(super) struct Provenance {
    gave: BTreeMap<Option<Origin>, Coverage>,
    /// True if any bytes came in answer to a Range.
    ranged: bool,
    /// Endpoints whose bytes, without any others, were wrong.
    ruled_out: Vec<Origin>,
    /// Of these, those that were asked for ranges: it may be that which they do not do well.
    ranged_wrongly: Vec<Origin>,
    /// Origins whose bytes were replaced: if the whole is right then, they were wrong.
    replaced: Vec<Origin>,
}

/// The way on for a blob that does not hash to its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FallBack {
    /// Only this endpoint is asked.
    pub(super) only: Origin,
    /// The bytes that stay valid.
    pub(super) keep: Coverage,
    /// True if ranges of that endpoint are not to be relied on.
    pub(super) without_ranges: bool,
    /// The endpoint that is known to have given wrong bytes.
    pub(super) wrong: Option<Origin>,
}

impl Provenance {
    /// An earlier run left these bytes.
    pub(super) fn resumed(&mut self, have: &Coverage) {
        if have.bytes() > 0 {
            self.gave.insert(None, have.clone());
        }
    }

    /// An origin gave these bytes.
    pub(super) fn note(&mut self, origin: Origin, range: Range<u64>, ranged: bool) {
        self.ranged |= ranged;
        self.gave.entry(Some(origin)).or_default().insert(range);
    }

    /// The bytes are wrong: the endpoint of the upstream to fall back to, out of `endpoints`, or `None` when all are
    /// ruled out.
    ///
    /// If several gave bytes, it cannot be told which one was wrong: the one that gave most is kept first, and gives
    /// the rest too. One that alone gave everything is ruled out; unless it was asked for ranges, which it may not
    /// honour though it says so: then it is asked once for the whole, when no other is left. A source beside the
    /// upstream is never fallen back to.
    pub(super) fn invalidated(&mut self, endpoints: &[Origin]) -> Option<FallBack> {
        self.set_others_aside();
        let gave = std::mem::take(&mut self.gave);
        let ranged = std::mem::take(&mut self.ranged);
        if gave.is_empty() {
            // Nobody was asked: it is the size that is wrong.
            return None;
        }
        let origins: Vec<Origin> = gave.keys().flatten().copied().collect();
        if let ([only], 1) = (origins.as_slice(), gave.len()) {
            self.ruled_out.push(*only);
            if ranged {
                self.ranged_wrongly.push(*only);
            }
            return self.next(endpoints, Some(*only));
        }
        let most = gave
            .iter()
            .filter_map(|(origin, coverage)| Some(((*origin)?, coverage)))
            .filter(|(origin, _)| !self.ruled_out.contains(origin))
            .max_by_key(|(_, coverage)| coverage.bytes());
        let (only, keep) = match most {
            Some((only, keep)) => (only, keep.clone()),
            // All that was there came from an earlier run.
            None => (*endpoints.first()?, Coverage::default()),
        };
        if let Some(kept) = Some(&keep).filter(|keep| keep.bytes() > 0) {
            self.gave.insert(Some(only), kept.clone());
            self.ranged = ranged;
        }
        self.replaced
            .extend(origins.into_iter().filter(|origin| *origin != only));
        Some(FallBack {
            only,
            keep,
            without_ranges: false,
            wrong: None,
        })
    }

    /// The one endpoint that was asked alone gave up: the one to fall back to now.
    pub(super) fn gave_up(&mut self, only: Origin, endpoints: &[Origin]) -> Option<FallBack> {
        self.ruled_out.push(only);
        self.gave.clear();
        self.ranged = false;
        self.next(endpoints, None)
    }

    /// One that was not yet wrong; or one whose ranges were, without them.
    fn next(&mut self, endpoints: &[Origin], wrong: Option<Origin>) -> Option<FallBack> {
        let keep = Coverage::default();
        let next = endpoints.iter().find(|it| !self.ruled_out.contains(it));
        if let Some(next) = next {
            return Some(FallBack {
                only: *next,
                keep,
                without_ranges: false,
                wrong,
            });
        }
        if self.ranged_wrongly.is_empty() {
            return None;
        }
        let only = self.ranged_wrongly.remove(0);
        Some(FallBack {
            only,
            keep,
            without_ranges: true,
            // If it was the ranges, its content is not wrong.
            wrong: wrong.filter(|wrong| *wrong != only),
        })
    }

    /// The bytes of sources beside the upstream count as little as an earlier run's.
    fn set_others_aside(&mut self) {
        let others = self.gave.keys().flatten().copied();
        let others: Vec<Origin> = others.filter(|it| !it.has_authority()).collect();
        for other in others {
            let gave = self.gave.remove(&Some(other)).unwrap_or_default();
            let nobodys = self.gave.entry(None).or_default();
            for range in gave.ranges() {
                nobodys.insert(range);
            }
            self.replaced.push(other);
        }
    }

    /// The whole is right: the origins whose bytes had to be replaced for that were wrong.
    pub(super) fn proven_wrong(&self) -> impl Iterator<Item = Origin> {
        let right = |origin: &Origin| self.gave.contains_key(&Some(*origin));
        self.replaced
            .iter()
            .copied()
            .filter(move |origin| !right(origin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::EndpointId;

    const A: Origin = Origin::upstream(EndpointId::of(0));
    const B: Origin = Origin::upstream(EndpointId::of(1));
    const PEER: Origin = Origin::other(0);

    fn covers(start: u64, end: u64) -> Coverage {
        Coverage::from(vec![(start, end)])
    }

    #[test]
    fn one_that_gave_everything_is_ruled_out_and_the_next_is_asked() {
        let mut provenance = Provenance::default();
        provenance.note(A, 0..100, false);
        let next = provenance.invalidated(&[A, B]).unwrap();
        assert_eq!((next.only, next.wrong), (B, Some(A)));
        assert_eq!(next.keep, Coverage::default());
        provenance.note(B, 0..100, false);
        assert_eq!(provenance.invalidated(&[A, B]), None, "nobody is left");
    }

    #[test]
    fn who_was_asked_for_ranges_is_asked_once_for_the_whole() {
        let mut provenance = Provenance::default();
        provenance.note(A, 0..50, true);
        provenance.note(A, 50..100, true);
        let next = provenance.invalidated(&[A]).unwrap();
        assert!(next.without_ranges && next.only == A && next.wrong.is_none());
        provenance.note(A, 0..100, false);
        assert_eq!(provenance.invalidated(&[A]), None);
    }

    #[test]
    fn everybody_whose_ranges_were_wrong_is_asked_without() {
        let mut provenance = Provenance::default();
        provenance.note(A, 0..100, true);
        assert_eq!(provenance.invalidated(&[A, B]).unwrap().only, B);
        provenance.note(B, 0..100, true);
        let next = provenance.invalidated(&[A, B]).unwrap();
        assert!(next.without_ranges && next.only == A && next.wrong == Some(B));
        provenance.note(A, 0..100, false);
        let next = provenance.invalidated(&[A, B]).unwrap();
        assert!(next.without_ranges && next.only == B && next.wrong == Some(A));
        provenance.note(B, 0..100, false);
        assert_eq!(provenance.invalidated(&[A, B]), None);
    }

    #[test]
    fn who_was_believed_and_is_gone_leaves_it_to_the_others() {
        let mut provenance = Provenance::default();
        provenance.note(A, 0..70, true);
        provenance.note(B, 70..100, true);
        assert_eq!(provenance.invalidated(&[A, B]).unwrap().only, A);
        let next = provenance.gave_up(A, &[A, B]).unwrap();
        assert_eq!((next.only, next.wrong), (B, None));
        assert_eq!(next.keep, Coverage::default());
        assert_eq!(provenance.gave_up(B, &[A, B]), None);
    }

    #[test]
    fn of_several_the_one_who_gave_most_is_believed_first() {
        let mut provenance = Provenance::default();
        provenance.note(A, 0..30, true);
        provenance.note(B, 30..100, true);
        let next = provenance.invalidated(&[A, B]).unwrap();
        assert_eq!((next.only, next.keep), (B, covers(30, 100)));
        provenance.note(B, 0..30, true);
        assert_eq!(provenance.proven_wrong().collect::<Vec<_>>(), [A]);
        // But B was the liar.
        let next = provenance.invalidated(&[A, B]).unwrap();
        assert_eq!((next.only, next.keep), (A, Coverage::default()));
        assert_eq!(next.wrong, Some(B));
        provenance.note(A, 0..100, true);
        assert_eq!(
            provenance.proven_wrong().count(),
            0,
            "A was right after all"
        );
        // Or it was the ranges of both.
        for endpoint in [B, A] {
            let next = provenance.invalidated(&[A, B]).unwrap();
            assert!(next.without_ranges && next.only == endpoint);
            provenance.note(endpoint, 0..100, false);
        }
        assert_eq!(provenance.invalidated(&[A, B]), None);
    }

    #[test]
    fn what_an_earlier_run_left_is_believed_least() {
        let mut provenance = Provenance::default();
        provenance.resumed(&covers(0, 60));
        provenance.note(A, 60..100, true);
        let next = provenance.invalidated(&[A]).unwrap();
        assert_eq!((next.only, next.keep), (A, covers(60, 100)));

        let mut provenance = Provenance::default();
        provenance.resumed(&covers(0, 100));
        let next = provenance.invalidated(&[A, B]).unwrap();
        assert_eq!((next.only, next.keep), (A, Coverage::default()));
    }

    #[test]
    fn a_source_beside_the_upstream_is_never_fallen_back_to() {
        let mut provenance = Provenance::default();
        provenance.note(PEER, 0..100, true);
        let next = provenance.invalidated(&[A, B]).unwrap();
        assert_eq!((next.only, next.wrong), (A, None));
        assert_eq!(next.keep, Coverage::default());
        provenance.note(A, 0..100, true);
        assert_eq!(provenance.proven_wrong().collect::<Vec<_>>(), [PEER]);

        // However much of it the source gave: what the upstream gave is kept.
        let mut provenance = Provenance::default();
        provenance.note(PEER, 0..90, true);
        provenance.note(A, 90..100, true);
        let next = provenance.invalidated(&[A, B]).unwrap();
        assert_eq!((next.only, next.keep), (A, covers(90, 100)));
    }
}
