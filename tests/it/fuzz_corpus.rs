//! The corpus of the fuzz targets in `fuzz/`, each input once: what fuzzing has found stays mended.

#[allow(unreachable_pub, reason = "the fuzz crate exports them")]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 14] = [
    ("route", targets::route),
    ("range", targets::range),
    ("challenge", targets::challenge),
    ("manifest", targets::manifest),
    ("link", targets::link),
    ("proxy_head", targets::proxy_head),
    ("configuration", targets::configuration),
    ("import_archive", targets::import_archive),
    ("credentials", targets::credentials),
    ("statement", targets::statement),
    ("token", targets::token),
    ("ram_document", targets::ram_document),
    ("directory_names", targets::directory_names),
    ("directory_message", targets::directory_message),
];

#[test]
fn every_input_of_the_corpus_keeps_its_promises() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in TARGETS {
        let mut inputs = 0;
        for input in std::fs::read_dir(corpus.join(name)).unwrap() {
            let path = input.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            // A panic is to name its input.
            let whole = std::panic::catch_unwind(|| target(&bytes));
            assert!(whole.is_ok(), "{}", path.display());
            inputs += 1;
        }
        assert!(inputs > 0, "no inputs for {name}");
    }
}

/// Of each input every beginning, and every input with a byte changed: what a cut or damaged message looks like.
#[test]
fn inputs_that_are_cut_or_damaged_keep_them_too() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in TARGETS {
        for input in std::fs::read_dir(corpus.join(name)).unwrap() {
            let path = input.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            // Some hundred of each are enough: the long inputs repeat themselves.
            let step = bytes.len() / 100 + 1;
            for at in (0..bytes.len()).step_by(step) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << (at % 8);
                let whole = std::panic::catch_unwind(|| {
                    target(&bytes[..at]);
                    target(&damaged);
                });
                assert!(whole.is_ok(), "{} at {at}", path.display());
            }
        }
    }
}
