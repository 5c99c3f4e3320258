//! Numbers as people read them: what the commands print.

use bytesize::ByteSize;

/// `1 blob`, `2 blobs`.
#[must_use]
pub fn plural(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
}

/// Bytes in the decimal units of registries' user interfaces: `21.0 MB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        assert_eq!((size(0), size(1_500_000)), ("0 B".into(), "1.5 MB".into()));
        assert_eq!(plural(0, "image"), "0 images");
        assert_eq!(plural(1, "image"), "1 image");
        assert_eq!(plural(1000, "image"), "1000 images");
        assert_eq!(
            (size(1), size(20_971_520)),
            ("1 B".into(), "21.0 MB".into())
        );
    }
}
