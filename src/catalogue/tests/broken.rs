//! Catalogues that cannot be used: each is told of with its path and what to do, stays as it is, and is never begun
//! anew.

use super::*;
use crate::catalogue::{connection, schema};

/// The content of each file in the state directory.
fn contents(state: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(state)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name() != "catalogue.lock" && entry.path().is_file())
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            // SQLite's index of its log is made anew by whoever opens it, and so is a log without anything in it.
            (name, fs::read(entry.path()).unwrap())
        })
        .filter(|(name, bytes)| {
            !(name.ends_with("-shm") || name.ends_with("-wal") && bytes.is_empty())
        })
        .collect();
    files.sort();
    files
}

/// A catalogue with an import and a pin in it, closed.
async fn filled() -> TempDir {
    let dir = TempDir::new().unwrap();
    let catalogue = open(&dir);
    catalogue.commit(import("a", "v1", 1)).await.unwrap();
    catalogue.commit(Change::Pin(pin("a", &[1]))).await.unwrap();
    catalogue.close().await;
    dir
}

/// Opens it: it is degraded, says all of `said`, changes no file, and refuses whatever is asked.
async fn is_degraded(dir: &TempDir, said: &[&str]) {
    let state = config(dir).dir;
    let before = contents(&state);
    let metrics = metrics();
    let catalogue = Catalogue::open(&config(dir), metrics.clone());
    let why = catalogue.trouble().expect("it is degraded");
    for part in said {
        assert!(why.contains(part), "{part:?} is not in {why:?}");
    }
    assert!(why.contains(state.to_str().unwrap()), "{why}");
    assert!(!why.contains('\n'), "{why}");
    assert!(!catalogue.is_known());
    assert!(
        metrics
            .render()
            .contains("roadstead_catalogue_degraded 1\n")
    );
    let change = Change::Pin(pin("b", &[1]));
    assert!(matches!(
        catalogue.commit(change).await,
        Err(CatalogueError::Unavailable(_))
    ));
    assert!(matches!(
        catalogue.pins().await,
        Err(CatalogueError::Unavailable(_))
    ));
    catalogue.close().await;
    assert!(contents(&state) == before, "files were changed");
}

#[tokio::test]
async fn garbage_is_no_catalogue() {
    let dir = filled().await;
    let path = config(&dir).dir.join(DATABASE);
    let sound = fs::read(&path).unwrap();
    fs::write(&path, vec![0x5a; 10_000]).unwrap();
    is_degraded(
        &dir,
        &[
            "is damaged",
            "it is no database",
            "put a backup in its place",
            "restart",
        ],
    )
    .await;
    fs::write(&path, &sound[..50]).unwrap();
    is_degraded(&dir, &["is damaged"]).await;
    // The header is sound, and what follows is not.
    let mut torn = sound.clone();
    torn[8192..].fill(0x5a);
    fs::write(&path, &torn).unwrap();
    is_degraded(&dir, &["is damaged", "put a backup in its place"]).await;
    fs::write(&path, &sound).unwrap();
    assert_eq!(open(&dir).pins().await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_empty_file_is_not_begun_anew_with_a_log_or_without() {
    let dir = filled().await;
    let path = config(&dir).dir.join(DATABASE);
    fs::write(&path, b"").unwrap();
    is_degraded(&dir, &["is damaged", "it is empty"]).await;
    fs::write(config(&dir).dir.join("catalogue.db-wal"), vec![7; 5000]).unwrap();
    is_degraded(&dir, &["is damaged", "it is empty"]).await;
}

#[tokio::test]
async fn a_lost_database_is_missed_where_something_is_left_of_it() {
    for left in ["catalogue.db-wal", "catalogue.db.before-v1"] {
        let dir = filled().await;
        let state = config(&dir).dir;
        fs::remove_file(state.join(DATABASE)).unwrap();
        fs::write(state.join(left), b"x").unwrap();
        is_degraded(&dir, &["is gone", left, "put it back"]).await;
    }
}

#[tokio::test]
async fn a_start_that_was_cut_short_left_nothing_that_would_count() {
    let dir = TempDir::new().unwrap();
    let state = config(&dir).dir;
    fs::create_dir(&state).unwrap();
    fs::write(state.join("catalogue.db.new"), b"half").unwrap();
    fs::write(state.join("catalogue.db.new-journal"), b"half").unwrap();
    let catalogue = open(&dir);
    assert_eq!(catalogue.trouble(), None);
    assert_eq!(catalogue.pins().await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_database_of_another_program_or_of_a_later_version_is_left_alone() {
    let dir = filled().await;
    let path = config(&dir).dir.join(DATABASE);
    let change = |pragma: &str, value: i64| {
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, pragma, value).unwrap();
        connection
            .pragma_update_and_check(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()))
            .unwrap();
    };
    change("user_version", 99);
    is_degraded(
        &dir,
        &[
            "schema version 99",
            "run the version of roadstead that wrote it",
        ],
    )
    .await;
    change("user_version", 1);
    change("application_id", 77);
    is_degraded(&dir, &["another program"]).await;
}

#[tokio::test]
async fn the_second_process_is_told_who_the_first_is() {
    let dir = filled().await;
    let first = open(&dir);
    let me = format!("another roadstead (process {})", std::process::id());
    is_degraded(&dir, &[&me, "give each a state.dir of its own"]).await;
    assert_eq!(first.trouble(), None);
    first.close().await;
    assert_eq!(open(&dir).trouble(), None);
}

#[tokio::test]
async fn a_place_that_cannot_be_a_directory_is_told_of() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("state"), b"a file").unwrap();
    let catalogue = open(&dir);
    let why = catalogue.trouble().unwrap();
    assert!(why.contains("cannot make the state directory"), "{why}");
    assert!(why.contains("name another state.dir"), "{why}");
}

#[tokio::test]
async fn without_permission_it_is_told_whose_it_is() {
    if rustix::process::geteuid().is_root() {
        // Nothing is forbidden to root; the words are tested below.
        return;
    }
    let dir = filled().await;
    let path = config(&dir).dir.join(DATABASE);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    is_degraded(
        &dir,
        &["cannot be written", "make the state directory writable"],
    )
    .await;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let catalogue = open(&dir);
    assert!(catalogue.trouble().unwrap().contains("with chown"));
}

#[test]
fn a_file_of_somebody_else_is_named_so() {
    let me = rustix::process::geteuid().as_raw();
    let said = files::whose(Path::new("/proc/1/none"));
    if me == 0 {
        assert_eq!(said, "");
    } else {
        assert_eq!(
            said,
            format!(" (it is user 0's, and this process is user {me}'s)")
        );
    }
}

/// A schema is taken forward step by step, after a copy was made of it as it was.
#[tokio::test]
async fn a_schema_goes_forward_and_leaves_a_copy_of_what_was() {
    let dir = filled().await;
    let state = config(&dir).dir;
    let known = schema::STEPS.len();
    let more = [
        "ALTER TABLE pins ADD COLUMN by TEXT",
        "CREATE TABLE more (x INTEGER) STRICT",
    ];
    let steps = [schema::STEPS, &more].concat();
    let connection = connection::write(&state, &steps).unwrap();
    let version = i64::try_from(steps.len()).unwrap();
    assert_eq!(schema::version_of(&connection), Ok(version));
    connection.execute("UPDATE pins SET by = 'me'", []).unwrap();
    drop(connection);
    // A step that fails leaves the version before.
    let failing = [steps.as_slice(), &more[1..]].concat();
    let error = connection::write(&state, &failing).unwrap_err();
    assert!(error.contains("more"), "{error}");
    drop(connection::write(&state, &steps).unwrap());
    let why = open(&dir).trouble().unwrap();
    assert!(why.contains(&format!("schema version {version}")), "{why}");
    // The way back.
    let before = format!("catalogue.db.before-v{known}");
    fs::copy(state.join(before), state.join(DATABASE)).unwrap();
    assert_eq!(open(&dir).pins().await, Ok(vec![pin("a", &[1])]));
}

/// A process that was killed leaves its log: what it had answered is in it.
#[tokio::test]
async fn a_log_that_a_killed_process_left_is_taken_in() {
    let dir = filled().await;
    let catalogue = open(&dir);
    catalogue
        .commit(Change::Pin(pin("late", &[1])))
        .await
        .unwrap();
    let killed = TempDir::new().unwrap();
    let state = config(&killed).dir;
    fs::create_dir(&state).unwrap();
    for name in [DATABASE, "catalogue.db-wal"] {
        fs::copy(config(&dir).dir.join(name), state.join(name)).unwrap();
    }
    assert_eq!(open(&killed).pins().await.unwrap().len(), 2);
}
