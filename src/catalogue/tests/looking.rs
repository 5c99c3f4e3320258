//! Commands that only look change no file, whether a server runs beside them or not.

use super::*;

/// Each file's bytes and time of change.
fn state_of(dir: &Path) -> Vec<(String, Vec<u8>, std::time::SystemTime)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let changed = entry.metadata().unwrap().modified().unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, fs::read(entry.path()).unwrap(), changed)
        })
        .collect();
    files.sort();
    files
}

async fn looks_without_a_trace(dir: &TempDir, pins: usize, except: &str) {
    let state = config(dir).dir;
    let traces = |state: &Path| {
        let mut files = state_of(state);
        files.retain(|(name, ..)| name != except);
        files
    };
    let before = traces(&state);
    let looking = Catalogue::look_into(&config(dir), metrics());
    assert_eq!(looking.trouble(), None);
    assert_eq!(looking.pins().await.unwrap().len(), pins);
    assert!(looking.may_have(&source("a")));
    let found = looking.imported_tag(&source("a"), &tag("v1")).await;
    assert_eq!(found, Ok(Some(imported(1))));
    let refused = looking.commit(Change::Pin(pin("b", &[1]))).await;
    assert!(matches!(refused, Err(CatalogueError::Unavailable(_))));
    assert!(looking.must_be_writable().is_err());
    looking.close().await;
    assert!(traces(&state) == before, "files were changed");
}

#[tokio::test]
async fn after_a_stop_and_a_kill() {
    let dir = TempDir::new().unwrap();
    let catalogue = open(&dir);
    catalogue.commit(import("a", "v1", 1)).await.unwrap();
    // As a kill leaves it: with a log, and its index.
    let killed = TempDir::new().unwrap();
    fs::create_dir(config(&killed).dir).unwrap();
    for entry in fs::read_dir(config(&dir).dir).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), config(&killed).dir.join(entry.file_name())).unwrap();
    }
    looks_without_a_trace(&killed, 0, "").await;
    catalogue.close().await;
    looks_without_a_trace(&dir, 0, "").await;
}

/// Within one process the log's index is SQLite's for all connections: `tests/it/state.rs` looks from another one.
#[tokio::test]
async fn beside_a_server() {
    let dir = TempDir::new().unwrap();
    let catalogue = open(&dir);
    catalogue.commit(import("a", "v1", 1)).await.unwrap();
    catalogue.commit(Change::Pin(pin("a", &[1]))).await.unwrap();
    looks_without_a_trace(&dir, 1, "catalogue.db-shm").await;
    catalogue.commit(Change::Pin(pin("b", &[1]))).await.unwrap();
    looks_without_a_trace(&dir, 2, "catalogue.db-shm").await;
}

#[tokio::test]
async fn where_there_is_none_nothing_is_in_it_and_none_is_made() {
    let dir = TempDir::new().unwrap();
    let looking = Catalogue::look_into(&config(&dir), metrics());
    assert_eq!(looking.trouble(), None);
    assert!(looking.is_known());
    assert_eq!(looking.pins().await, Ok(Vec::new()));
    assert_eq!(looking.tag_page(None).await, Ok(Vec::new()));
    assert!(!looking.may_have(&source("a")));
    assert!(!config(&dir).dir.exists());
}

#[tokio::test]
async fn one_that_cannot_be_read_is_told_of() {
    let dir = TempDir::new().unwrap();
    open(&dir).close().await;
    fs::write(config(&dir).dir.join(DATABASE), vec![1; 9000]).unwrap();
    let looking = Catalogue::look_into(&config(&dir), metrics());
    assert!(looking.trouble().unwrap().contains("is damaged"));
    assert!(!looking.is_known());
}
