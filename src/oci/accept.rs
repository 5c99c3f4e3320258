//! Which manifest formats a client takes (dist-spec, "Pulling manifests": `Accept`).

/// The manifest formats a client accepts, as a small set: the class under which a tag's answer is
/// cached. Clients that accept the same formats share one answer, however they spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AcceptClass(u8);

impl AcceptClass {
    /// Every format, schema 1 included as last choice: for requests by digest, where the digest decides.
    pub const ALL: Self = Self(0b11_1111);

    /// Classifies the `Accept` headers of a request. None at all, or `*/*` alone, is every modern
    /// format. Bits: docker list, oci index, docker schema 2, oci image manifest,
    /// oci artifact manifest, docker schema 1 (either spelling). q=0 excludes.
    /// `*/*` or `application/*` beside named types adds nothing when a manifest type is named.
    #[must_use]
    pub fn from_headers<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        todo!()
    }

    /// The `Accept` header to ask upstream with: always the same text for a class.
    #[must_use]
    pub fn header(self) -> String {
        todo!()
    }

    /// Whether an answer of this media type may be given to this class (unknown types: yes).
    #[must_use]
    pub fn allows(self, media_type: &str) -> bool {
        todo!()
    }

    /// A stable small number for the index.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }

    /// The class with these bits.
    #[must_use]
    pub fn from_bits(bits: u8) -> Self {
        Self(bits & Self::ALL.0)
    }
}
