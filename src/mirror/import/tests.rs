use std::pin::pin;

use futures_util::FutureExt as _;

use super::*;
use crate::mirror::testing::Bench;
use crate::store;

impl Bench {
    /// Puts a file where a lost index would have had it.
    #[expect(
        clippy::disallowed_methods,
        reason = "behind the store's back: that is what is tested"
    )]
    fn leave(&self, digest: &Digest, bytes: &Bytes) {
        let text = digest.to_string();
        let (algorithm, hex) = text.split_once(':').unwrap();
        let shard = self.dir.path().join("cache/blobs").join(algorithm);
        let shard = shard.join(&hex[..2]);
        std::fs::create_dir_all(&shard).unwrap();
        std::fs::write(shard.join(hex), bytes).unwrap();
    }
}

#[tokio::test]
async fn a_name_is_given_before_an_operators_removal_or_after_it_and_then_what_went_is_missed() {
    // A layer that was found and not brought again used to go while its image got its name.
    let bench = Bench::new();
    bench.bring_all().await;
    let (name, root) = (Bench::name(), bench.manifest.0);
    let removing = bench.mirror.inner.operator.removal.hold().await;
    let mut naming = pin!(bench.mirror.operator().imports().image(&name, &root, false));
    // All that it could wait for besides comes off the disk.
    let waited = tokio::time::timeout(Duration::from_millis(200), &mut naming).await;
    assert!(
        waited.is_err(),
        "what is being removed is not known: {waited:?}"
    );
    let gone = bench.blobs[1].0;
    assert!(matches!(
        bench.store.contents().remove(&gone).await,
        store::Removal::Removed(3000)
    ));
    drop(removing);
    match naming.await {
        Err(ImportError::Incomplete(missing)) => assert_eq!(missing, [gone]),
        other => panic!("{other:?}"),
    }
    let Reference::Tag(tag) = name.reference.clone() else {
        panic!("{name}")
    };
    let source = Source {
        upstream: name.upstream.clone(),
        repository: name.repository.clone(),
    };
    assert!(bench.store.metadata().tags(&source, &tag).await.is_empty());
    bench.bring(&gone, &bench.blobs[1].1).await;
    let image = bench
        .mirror
        .operator()
        .imports()
        .image(&name, &root, false)
        .await
        .unwrap();
    assert_eq!((image.manifests, image.blobs), (1, 3));
    assert!(
        bench
            .mirror
            .inner
            .operator
            .removal
            .hold()
            .now_or_never()
            .is_some()
    );
}

#[tokio::test]
async fn a_manifest_that_is_in_memory_only_is_missed() {
    let bench = Bench::new();
    bench.bring_all().await;
    let root = bench.manifest.0;
    assert!(
        bench
            .mirror
            .inner
            .operator
            .imports
            .local
            .read(&root)
            .await
            .is_some()
    );
    bench.store.contents().remove(&root).await;
    let named = bench
        .mirror
        .operator()
        .imports()
        .image(&Bench::name(), &root, false)
        .await;
    match named {
        Err(ImportError::Incomplete(missing)) => assert_eq!(missing, [root]),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn files_that_a_lost_index_does_not_know_need_not_be_brought() {
    let bench = Bench::new();
    for (digest, bytes) in bench.blobs.iter().chain([&bench.manifest]) {
        bench.leave(digest, bytes);
        assert_eq!(bench.store.contains(digest), None, "nobody has looked yet");
    }
    // Each in its own way: by the question, by what is brought all the same, by the walk.
    let (digest, bytes) = &bench.blobs[0];
    let size = bench.mirror.operator().imports().size_of(digest).await;
    assert_eq!(size, Some(bytes.len() as u64));
    let (digest, bytes) = &bench.blobs[1];
    assert_eq!(bench.bring(digest, bytes).await, ImportOutcome::There);
    let (digest, bytes) = &bench.manifest;
    let brought = bench
        .mirror
        .operator()
        .imports()
        .manifest(digest, None, bytes.clone());
    assert_eq!(brought.await.unwrap(), ImportOutcome::There);
    let image = bench
        .mirror
        .operator()
        .imports()
        .image(&Bench::name(), digest, false)
        .await;
    assert_eq!(image.unwrap().blobs, 3);
}
