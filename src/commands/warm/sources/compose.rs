//! Images of compose files (compose-spec, 05-services.md).

use super::interpolate::interpolate;
use super::yaml::{Node, Value, member};
use super::{Fault, Images, Variables};

/// True if a document is a compose file: it has services, and is no Kubernetes object.
pub(super) fn is_compose(members: &[(String, Node)]) -> bool {
    let services = member(members, "services");
    services.is_some_and(|node| matches!(node.value, Value::Map(_)))
        && member(members, "apiVersion").is_none()
}

/// Adds the images of all services, whatever their profile.
///
/// # Errors
/// A name that is none, or that needs a variable which is not set; names the service.
pub(super) fn images(
    members: &[(String, Node)],
    variables: Variables<'_>,
    images: &mut Images,
) -> Result<(), Fault> {
    let services = member(members, "services").map(|node| &node.value);
    let Some(Value::Map(services)) = services else {
        return Ok(());
    };
    for (name, service) in services {
        add(name, service, variables, images).map_err(|Fault { line, why }| Fault {
            line,
            why: format!("service {name}: {why}"),
        })?;
    }
    Ok(())
}

fn add(
    name: &str,
    service: &Node,
    variables: Variables<'_>,
    images: &mut Images,
) -> Result<(), Fault> {
    let policy = service.member("pull_policy").and_then(Node::text);
    let is_built = service.member("build").is_some();
    if is_built || matches!(policy, Some("never" | "build")) {
        let why = if is_built { "built" } else { "never pulled" };
        let note = format!("service {name} is {why}, so its image is left out");
        images.notes.push(note);
    } else if let Some(image) = service.member("image") {
        add_image(image, variables, images)?;
    }
    // Volumes that are images: `type: image`, `source: NAME`.
    let volumes = service.member("volumes").map_or(&[][..], Node::items);
    for volume in volumes {
        if volume.member("type").and_then(Node::text) == Some("image")
            && let Some(source) = volume.member("source")
        {
            add_image(source, variables, images)?;
        }
    }
    Ok(())
}

fn add_image(node: &Node, variables: Variables<'_>, images: &mut Images) -> Result<(), Fault> {
    let Some(text) = node.image()? else {
        return Ok(());
    };
    let text = interpolate(text, variables).map_err(|why| Fault::new(Some(node.line), why))?;
    images.add(text.trim(), node.line)
}
