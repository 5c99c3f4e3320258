//! Styles, script and icon of the pages: embedded, under names that change with their content.

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body_util::Full;
use std::sync::LazyLock;

/// The beginning of their paths.
pub(super) const PREFIX: &str = "/assets/";

/// Files under these names never change.
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

static FILES: LazyLock<[Asset; 3]> = LazyLock::new(|| {
    [
        Asset::new(
            "page",
            "css",
            "text/css; charset=utf-8",
            include_str!("assets/page.css"),
        ),
        Asset::new(
            "page",
            "js",
            "text/javascript; charset=utf-8",
            include_str!("assets/page.js"),
        ),
        Asset::new(
            "icon",
            "svg",
            "image/svg+xml",
            include_str!("assets/icon.svg"),
        ),
    ]
});

struct Asset {
    path: String,
    content_type: &'static str,
    content: &'static str,
}

/// The paths of all, for the head of a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct AssetPaths {
    pub(super) style: &'static str,
    pub(super) script: &'static str,
    pub(super) icon: &'static str,
}

impl Asset {
    fn new(name: &str, extension: &str, content_type: &'static str, content: &'static str) -> Self {
        let hash = crc32fast::hash(content.as_bytes());
        Self {
            path: format!("{PREFIX}{name}.{hash:08x}.{extension}"),
            content_type,
            content,
        }
    }
}

/// The paths of all files.
pub(super) fn paths() -> AssetPaths {
    let [style, script, icon] = &*FILES;
    AssetPaths {
        style: &style.path,
        script: &script.path,
        icon: &icon.path,
    }
}

/// The file of a path.
pub(super) fn answer(path: &str) -> Option<Response<Full<Bytes>>> {
    let asset = FILES.iter().find(|it| it.path == path)?;
    let mut response = Response::new(Full::new(Bytes::from_static(asset.content.as_bytes())));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(asset.content_type),
    );
    headers.insert(header::CACHE_CONTROL, FOR_EVER);
    Some(response)
}
