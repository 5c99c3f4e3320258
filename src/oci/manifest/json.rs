//! The members of a manifest that matter, and nothing else.
//!
//! Read in one pass without a tree of values: what is not looked for is skipped, not held, so that
//! a hostile document of some megabytes costs no more memory than its descriptors.

use super::media;
use crate::oci::{Digest, media_type};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// A manifest of any kind. A list that is not there differs from an empty one: it shows the kind.
#[derive(Default)]
pub(super) struct Document {
    pub(super) media_type: Option<String>,
    /// True if it says that it, or what it is an artifact of, has a type that cannot be one.
    pub(super) has_impossible_type: bool,
    pub(super) config: Option<Descriptor>,
    pub(super) layers: Option<Vec<Descriptor>>,
    pub(super) blobs: Option<Vec<Descriptor>>,
    pub(super) manifests: Option<Vec<Descriptor>>,
    pub(super) fs_layers: Option<Vec<Descriptor>>,
    /// `signatures[0].protected` of a signed schema 1 manifest.
    pub(super) signature: Option<String>,
    /// True if it has a list `errors`: then it is an error envelope.
    pub(super) has_errors: bool,
    schema_version: Option<u64>,
    has_config: bool,
    found: Found,
}

/// Fields that tell kinds apart, however their names are written: Go's decoder, with which most clients read
/// manifests, compares names without case.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent findings, none of which excludes another"
)]
struct Found {
    /// A list of manifests that is not empty.
    manifests: bool,
    /// A config that names content, or a list of layers that is not empty.
    image: bool,
    /// A list of schema 1's layers that is not empty.
    schema1: bool,
    /// The first `mediaType`, and whether another one differs from it.
    media_type: Option<String>,
    media_types_differ: bool,
}

/// An entry of a manifest's lists, if its digest can be checked.
pub(super) struct Descriptor {
    pub(super) digest: Digest,
    pub(super) size: Option<u64>,
    pub(super) media_type: Option<String>,
    pub(super) foreign: bool,
}

impl Document {
    /// `None` when it is no JSON object. Nesting is bounded by `serde_json`.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let Lenient(object): Lenient<Object<Self>> = serde_json::from_slice(bytes).ok()?;
        object.0
    }

    /// The media type that the structure shows, for documents that do not say it themselves.
    ///
    /// Docker's schema 2 differs from the OCI's formats by media types alone: what it holds says which.
    pub(super) fn structure(&self) -> Option<&'static str> {
        let is_docker = |descriptor: &Descriptor| {
            let media_type = descriptor.media_type.as_deref().unwrap_or_default();
            media_type.starts_with("application/vnd.docker.")
        };
        if let Some(manifests) = &self.manifests {
            let docker = !manifests.is_empty() && manifests.iter().all(is_docker);
            Some(if docker {
                media::DOCKER_LIST
            } else {
                media::OCI_INDEX
            })
        } else if self.has_config && (self.layers.is_some() || self.schema_version == Some(2)) {
            let docker = self.config.as_ref().is_some_and(is_docker);
            Some(if docker {
                media::DOCKER_MANIFEST
            } else {
                media::OCI_MANIFEST
            })
        } else if self.blobs.is_some() {
            Some(media::OCI_ARTIFACT)
        } else if self.is_schema1() {
            // No registry sends it unsigned.
            Some(media::DOCKER_SCHEMA1_SIGNED)
        } else {
            None
        }
    }

    /// True if one client may read it as an index and another as an image (CVE-2021-41190).
    pub(super) fn has_two_kinds(&self) -> bool {
        let found = &self.found;
        let kinds = [found.manifests, found.image, found.schema1];
        kinds.into_iter().filter(|kind| *kind).count() > 1
    }

    /// True if one client may go by the first of two types and another by the last.
    pub(super) fn has_two_types(&self) -> bool {
        self.found.media_types_differ
    }

    /// True if the structure is that of schema 1.
    pub(super) fn is_schema1(&self) -> bool {
        self.fs_layers.is_some() && self.schema_version == Some(1)
    }
}

impl Members for Document {
    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "mediaType" => {
                self.media_type = None;
                match value::<MediaType, _>(map)? {
                    MediaType::Type(media_type) => self.media_type = Some(media_type),
                    MediaType::Impossible => self.has_impossible_type = true,
                    MediaType::Unsaid => {}
                }
                self.found.say(self.media_type.as_deref());
            }
            "artifactType" => {
                let artifact_type = value::<MediaType, _>(map)?;
                self.has_impossible_type |= matches!(artifact_type, MediaType::Impossible);
            }
            "schemaVersion" => self.schema_version = value::<Number, _>(map)?.0,
            "config" => {
                let config = value::<Object<Parts>, _>(map)?.0;
                self.has_config = config.is_some();
                self.found.image |= config.as_ref().is_some_and(Parts::names_content);
                self.config = config.and_then(Parts::descriptor);
            }
            "layers" => self.layers = descriptors(map, &mut self.found.image)?,
            "blobs" => self.blobs = descriptors(map, &mut false)?,
            "manifests" => self.manifests = descriptors(map, &mut self.found.manifests)?,
            "fsLayers" => self.fs_layers = descriptors(map, &mut self.found.schema1)?,
            "signatures" => {
                let First(signature) = value::<First<Object<Signature>>, _>(map)?;
                self.signature = signature
                    .and_then(|signature| signature.0)
                    .and_then(|signature| signature.protected);
            }
            "errors" => self.has_errors = value::<List<Skipped>, _>(map)?.kept.is_some(),
            _ => self.found.take(key, map)?,
        }
        Ok(())
    }
}

impl Found {
    fn say(&mut self, media_type: Option<&str>) {
        let Some(media_type) = media_type else {
            return;
        };
        match &self.media_type {
            Some(first) => self.media_types_differ |= first != media_type,
            None => self.media_type = Some(media_type.to_owned()),
        }
    }

    /// Takes the value of a member that is none by its exact name.
    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match go_folded(key).as_str() {
            "mediatype" => match value::<MediaType, _>(map)? {
                MediaType::Type(media_type) => self.say(Some(&media_type)),
                MediaType::Impossible => self.media_types_differ = true,
                MediaType::Unsaid => {}
            },
            "manifests" => drop(descriptors(map, &mut self.manifests)?),
            "layers" => drop(descriptors(map, &mut self.image)?),
            "config" => {
                let config = value::<Object<Parts>, _>(map)?.0;
                self.image |= config.is_some_and(|config| config.names_content());
            }
            "fslayers" => drop(descriptors(map, &mut self.schema1)?),
            _ => skip(map)?,
        }
        Ok(())
    }
}

/// A name as Go's decoder compares it: lower case, and two letters beyond ASCII that fold to `s` and `k`.
/// Empty for what is longer than any name that is looked for.
fn go_folded(key: &str) -> String {
    if key.len() > 24 {
        return String::new();
    }
    let letters = key.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    });
    letters.collect()
}

/// The members of a descriptor, before it is known whether it is one.
#[derive(Default)]
struct Parts {
    digest: Option<String>,
    blob_sum: Option<String>,
    size: Option<u64>,
    media_type: Option<String>,
    foreign: bool,
}

impl Parts {
    fn names_content(&self) -> bool {
        self.digest.is_some()
    }

    fn descriptor(self) -> Option<Descriptor> {
        Some(Descriptor {
            digest: Digest::parse(&self.digest.or(self.blob_sum)?).ok()?,
            size: self.size,
            media_type: self.media_type,
            foreign: self.foreign,
        })
    }
}

impl Members for Parts {
    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "digest" => self.digest = value::<Text, _>(map)?.0,
            "blobSum" => self.blob_sum = value::<Text, _>(map)?.0,
            "size" => self.size = value::<Number, _>(map)?.0,
            // Here it only hints where to fetch from. What cannot be one says nothing, and is not kept.
            "mediaType" => {
                self.media_type = match value::<MediaType, _>(map)? {
                    MediaType::Type(media_type) => Some(media_type),
                    MediaType::Impossible | MediaType::Unsaid => None,
                };
            }
            "urls" => {
                let First(url) = value::<First<Text>, _>(map)?;
                self.foreign = url.is_some();
            }
            _ => skip(map)?,
        }
        Ok(())
    }
}

/// A JOSE signature, as far as it says where the payload is.
#[derive(Default)]
pub(super) struct Signature {
    protected: Option<String>,
}

impl Members for Signature {
    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "protected" => self.protected = value::<Text, _>(map)?.0,
            _ => skip(map)?,
        }
        Ok(())
    }
}

/// The descriptors in the list under the current key; `None` when it is no list. `any` becomes true if
/// there is anything in it.
fn descriptors<'de, A: MapAccess<'de>>(
    map: &mut A,
    any: &mut bool,
) -> Result<Option<Vec<Descriptor>>, A::Error> {
    let list = value::<List<Object<Parts>>, _>(map)?;
    *any |= list.any;
    Ok(list.kept)
}

fn value<'de, T: Shape, A: MapAccess<'de>>(map: &mut A) -> Result<T, A::Error> {
    map.next_value::<Lenient<T>>().map(|value| value.0)
}

fn skip<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    map.next_value::<IgnoredAny>().map(drop)
}

/// The shape that is looked for in a value. A value of another type leaves the default.
trait Shape: Default {
    fn text(&mut self, _: &str) {}
    fn number(&mut self, _: u64) {}
    fn list<'de, A: SeqAccess<'de>>(&mut self, list: &mut A) -> Result<(), A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
    fn object<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

/// An object of which some members are looked for. Of a member given twice the last counts, as in
/// Go's decoder, with which clients read manifests.
trait Members: Default {
    /// Takes (or skips) the value of `key`.
    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error>;
}

/// The shape of an element of a [`List`].
trait Element: Shape {
    type Kept;
    fn keep(self) -> Option<Self::Kept>;
}

#[derive(Default)]
struct Text(Option<String>);
impl Shape for Text {
    fn text(&mut self, text: &str) {
        self.0 = Some(text.to_owned());
    }
}

/// A media type, without parameters. An empty one is as none.
#[derive(Default)]
enum MediaType {
    #[default]
    Unsaid,
    Type(String),
    /// A text that is none by its length or characters.
    Impossible,
}
impl Shape for MediaType {
    fn text(&mut self, text: &str) {
        *self = match media_type::essence(text) {
            _ if text.is_empty() => Self::Unsaid,
            Some(essence) => Self::Type(essence.to_owned()),
            None => Self::Impossible,
        };
    }
}

#[derive(Default)]
struct Number(Option<u64>);
impl Shape for Number {
    fn number(&mut self, number: u64) {
        self.0 = Some(number);
    }
}

#[derive(Default)]
struct Skipped;
impl Shape for Skipped {}
impl Element for Skipped {
    type Kept = ();
    fn keep(self) -> Option<()> {
        None
    }
}

#[derive(Default)]
struct Object<T>(Option<T>);
impl<T: Members> Shape for Object<T> {
    fn object<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        let mut members = T::default();
        while let Some(Lenient(Text(key))) = map.next_key()? {
            members.take(&key.unwrap_or_default(), map)?;
        }
        self.0 = Some(members);
        Ok(())
    }
}
impl Element for Object<Parts> {
    type Kept = Descriptor;
    fn keep(self) -> Option<Descriptor> {
        self.0?.descriptor()
    }
}

/// All elements worth keeping; `None` when it is no list.
struct List<T: Element> {
    kept: Option<Vec<T::Kept>>,
    /// True if it has any element, worth keeping or not.
    any: bool,
}
impl<T: Element> Default for List<T> {
    fn default() -> Self {
        Self {
            kept: None,
            any: false,
        }
    }
}
impl<T: Element> Shape for List<T> {
    fn list<'de, A: SeqAccess<'de>>(&mut self, list: &mut A) -> Result<(), A::Error> {
        let mut kept = Vec::new();
        while let Some(Lenient(element)) = list.next_element::<Lenient<T>>()? {
            kept.extend(element.keep());
            self.any = true;
        }
        self.kept = Some(kept);
        Ok(())
    }
}

/// The first element of a list.
#[derive(Default)]
struct First<T>(Option<T>);
impl<T: Shape> Shape for First<T> {
    fn list<'de, A: SeqAccess<'de>>(&mut self, list: &mut A) -> Result<(), A::Error> {
        self.0 = list.next_element::<Lenient<T>>()?.map(|first| first.0);
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

/// Takes any value, and of it what the shape looks for.
struct Lenient<T>(T);

impl<'de, T: Shape> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LenientVisitor(T::default()))
    }
}

struct LenientVisitor<T>(T);

impl<'de, T: Shape> Visitor<'de> for LenientVisitor<T> {
    type Value = Lenient<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Lenient(self.0))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Lenient(self.0))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Lenient(self.0))
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Lenient(self.0))
    }
    fn visit_u64<E>(mut self, number: u64) -> Result<Self::Value, E> {
        self.0.number(number);
        Ok(Lenient(self.0))
    }
    fn visit_str<E>(mut self, text: &str) -> Result<Self::Value, E> {
        self.0.text(text);
        Ok(Lenient(self.0))
    }
    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Self::Value, A::Error> {
        self.0.list(&mut list)?;
        Ok(Lenient(self.0))
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        self.0.object(&mut map)?;
        Ok(Lenient(self.0))
    }
}
