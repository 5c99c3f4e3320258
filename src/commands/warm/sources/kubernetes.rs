//! Images of Kubernetes objects, of whatever kind: a pod's specification looks the same wherever it
//! stands, and operators put it into kinds of their own.

use super::yaml::{Node, Value};
use super::{Fault, Images};

/// The lists of a pod's specification whose elements have an `image`.
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Adds the images of the containers, and of the image volumes, anywhere in the node.
///
/// # Errors
/// A name that is none.
pub(super) fn images(node: &Node, images: &mut Images) -> Result<(), Fault> {
    // The parser bounds the depth.
    match &node.value {
        Value::List(items) => items.iter().try_for_each(|item| self::images(item, images)),
        Value::Map(members) => members.iter().try_for_each(|(key, value)| {
            if CONTAINERS.contains(&key.as_str()) {
                for container in value.items() {
                    add(container.member("image"), images)?;
                }
            }
            if key == "volumes" {
                for volume in value.items() {
                    let source = volume.member("image");
                    add(source.and_then(|image| image.member("reference")), images)?;
                }
            }
            self::images(value, images)
        }),
        Value::Null | Value::Text(_) | Value::Other => Ok(()),
    }
}

fn add(image: Option<&Node>, images: &mut Images) -> Result<(), Fault> {
    let Some(node) = image else { return Ok(()) };
    match node.image()? {
        Some(text) => images.add(text, node.line),
        None => Ok(()),
    }
}
