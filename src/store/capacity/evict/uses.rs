//! The uses of a blob in one byte, of which there are many: the different minutes in which it was used, and whether it is a copy
//! that another node of a cluster gave, and has. The index has the same byte. Pure.

/// The mark of a copy.
const COPY: u8 = 0x80;

/// More uses are not counted.
pub(in crate::store) const COUNT_MAX: u8 = 0x7f;

/// In how many different minutes it was used.
pub(in crate::store) const fn count(uses: u8) -> u8 {
    uses & COUNT_MAX
}

/// True if another node has it, too.
pub(super) const fn is_copy(uses: u8) -> bool {
    uses & COPY != 0
}

/// One use more.
pub(super) fn once_more(uses: u8) -> u8 {
    (uses & COPY) | (count(uses) + 1).min(COUNT_MAX)
}

/// The same uses of a copy, or of what is no copy.
pub(super) const fn marked(uses: u8, is_copy: bool) -> u8 {
    count(uses) | if is_copy { COPY } else { 0 }
}

/// Those of two entries for one blob: it is a copy if both say so.
pub(super) fn united(one: u8, other: u8) -> u8 {
    count(one).max(count(other)) | (one & other & COPY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_and_the_count_do_not_meet() {
        let copy = marked(1, true);
        assert!(is_copy(copy) && !is_copy(1));
        assert_eq!((count(copy), count(once_more(copy))), (1, 2));
        assert!(is_copy(once_more(copy)));
        assert_eq!(once_more(COUNT_MAX), COUNT_MAX);
        assert_eq!(once_more(marked(COUNT_MAX, true)), u8::MAX);
        assert_eq!(marked(copy, false), 1);
        assert_eq!(united(copy, 3), 3);
        assert_eq!(united(copy, marked(3, true)), marked(3, true));
    }
}
