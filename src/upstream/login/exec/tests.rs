use std::fmt::Write;
use std::process::Command as StdCommand;

use super::*;

/// Puts a program for `/bin/sh` into a folder. Another process writes it: were it open for writing here
/// while another test starts a program, the system would refuse to run it (ETXTBSY).
pub(in crate::upstream::login) fn program(dir: &Path, name: &str, script: &str) -> OsString {
    let path = dir.join(name);
    let status = StdCommand::new("/bin/sh")
        .args([
            "-c",
            r#"printf '#!/bin/sh\n%s\n' "$1" >"$0" && chmod 755 "$0""#,
        ])
        .arg(&path)
        .arg(script)
        .status()
        .unwrap();
    assert!(status.success());
    path.into_os_string()
}

fn helper(command: Vec<OsString>) -> Helper {
    Helper {
        command,
        timeout: Duration::from_secs(20),
        ttl: Duration::from_mins(15),
    }
}

/// Asks a helper that is this script, with the argument `get`.
async fn ask(script: &str) -> Result<Issued, FetchError> {
    let dir = tempfile::tempdir().unwrap();
    let program = program(dir.path(), "give-login", script);
    let helper = helper(vec![program, "get".into()]);
    helper.ask("registry.example:5000").await
}

async fn error(script: &str) -> String {
    match ask(script).await {
        Ok(given) => panic!("{:?}", given.login),
        Err(error @ FetchError::Login(_)) => {
            let text = error.to_string();
            assert!(text.starts_with("credentials: give-login: "), "{text}");
            assert!(!text.contains("s3cret"), "{text}");
            text
        }
        Err(error) => panic!("{error:?}"),
    }
}

fn basic(username: &str, password: &str) -> Login {
    Login::Basic(Credentials {
        username: username.to_owned(),
        password: Secret::new(password.to_owned()),
    })
}

#[tokio::test]
async fn the_registry_goes_in_and_the_login_comes_out() {
    let script = r#"printf '{"ServerURL":"x","Username":"%s","Secret":"%s"}' "$1" "$(cat)""#;
    let given = ask(script).await.unwrap();
    assert_eq!(given.login, Some(basic("get", "registry.example:5000")));
    assert_eq!(given.good_for, Some(Duration::from_mins(15)));
}

#[tokio::test]
async fn a_program_need_not_read_and_may_use_other_words() {
    let script = r#"exec <&-; echo '{"username":"u","secret":"p","Extra":1}'"#;
    assert_eq!(ask(script).await.unwrap().login, Some(basic("u", "p")));
    let script = r#"echo '{"Username":"<token>","Secret":"identity"}'"#;
    let refresh = Login::Refresh(Secret::new("identity".to_owned()));
    assert_eq!(ask(script).await.unwrap().login, Some(refresh));
}

#[tokio::test]
async fn no_login_is_an_answer() {
    for script in [
        "echo 'credentials not found in native keychain'; exit 1",
        r#"echo '{"Username":"","Secret":""}'"#,
        r#"echo '{"Secret":""}'"#,
    ] {
        let given = ask(script).await.unwrap();
        assert_eq!(given.login, None, "{script}");
    }
}

#[tokio::test]
async fn it_may_say_when_its_login_ends() {
    let life = async |more: &str| {
        let script = format!(r#"echo '{{"Username":"u","Secret":"p",{more}}}'"#);
        ask(&script).await.unwrap().good_for.unwrap().as_secs()
    };
    assert_eq!(life(r#""ExpiresIn":60"#).await, 60);
    let far = life(r#""ExpiresAt":"2999-01-01T00:00:00Z""#).await;
    assert!(far > 365 * 24 * 3600, "{far}");

    let json = r#"{"Username":"u","Secret":"s3cret","ExpiresAt":"2020-01-01T00:00:00Z"}"#;
    let text = error(&format!("echo '{json}'")).await;
    assert!(
        text.ends_with("the login that it gave has expired"),
        "{text}"
    );
    let json = r#"{"Username":"u","Secret":"s3cret","ExpiresAt":"soon"}"#;
    let text = error(&format!("echo '{json}'")).await;
    assert!(
        text.ends_with("its ExpiresAt is no time of RFC 3339"),
        "{text}"
    );
}

#[test]
fn times_have_offsets() {
    let noon = Timestamp(1_582_977_600_000);
    for text in [
        "2020-02-29T12:00:00Z",
        "2020-02-29T12:00:00.000z",
        " 2020-02-29 12:00:00+00:00\n",
        "2020-02-29T20:00:00+08:00",
        "2020-02-29T06:30:00-05:30",
    ] {
        assert_eq!(Timestamp::of_rfc3339(text), Some(noon), "{text}");
    }
    for text in [
        "",
        "Z",
        "2020-02-29T12:00:00",
        "2020-02-30T12:00:00Z",
        "1582977600",
        "2020-02-29T12:00:00+0800",
        "2020-02-29T12:00:00+99999999999999999:00",
        "1970-01-01T00:00:00+23:59",
        "äöüäöüäöüäöüäöüäöü+00:00",
        "2020-02-29T12:00:00+ä:00",
    ] {
        assert_eq!(Timestamp::of_rfc3339(text), None, "{text}");
    }
}

#[tokio::test]
async fn failures_name_the_program_and_nothing_it_wrote() {
    let text = error("echo s3cret; echo s3cret >&2; exit 3").await;
    assert!(text.ends_with("failed with exit status: 3"), "{text}");
    let text = error("kill -9 $$").await;
    assert!(text.contains("signal: 9"), "{text}");
    for output in [
        "",
        "s3cret",
        "[]",
        "{}",
        r#"{"token":"s3cret"}"#,
        r#"{"Username":1,"Secret":"s3cret"}"#,
        r#""s3cret""#,
    ] {
        let text = error(&format!("echo '{output}'")).await;
        assert!(
            text.ends_with("its output is not the JSON of a login"),
            "{text}"
        );
    }
    let text = error("echo '{\"Secret\":\"s3cret'; printf '\\377'").await;
    assert!(
        text.ends_with("its output is not the JSON of a login"),
        "{text}"
    );
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named_without_its_arguments() {
    let helper = helper(vec!["/nowhere/give-login".into(), "--key=s3cret".into()]);
    let Err(error) = helper.ask("registry.example").await else {
        panic!("it ran");
    };
    assert_eq!(
        error.to_string(),
        "credentials: give-login: cannot be started: entity not found"
    );
    let error = Helper {
        command: Vec::new(),
        ..helper
    }
    .ask("registry.example")
    .await;
    assert!(error.is_err());
}

#[tokio::test]
async fn too_much_output_ends_it() {
    let text = error("exec cat /dev/zero").await;
    assert!(text.ends_with("wrote more than 65536 bytes"), "{text}");
    // Just as much as it may.
    let mut script = String::from("printf '{\"Username\":\"u\",\"Secret\":\"p\"}%s' '");
    write!(script, "{:65504}'", "").unwrap();
    let given = ask(&script).await;
    assert!(given.is_ok());
    // Whatever it writes elsewhere is nobody's matter.
    let script = r#"head -c 1000000 /dev/zero >&2; echo '{"Username":"u","Secret":"p"}'"#;
    assert!(ask(script).await.is_ok());
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_killed_with_what_it_started() {
    let dir = tempfile::tempdir().unwrap();
    // Both the shell and its child hold this pipe: it ends when both are dead.
    let fifo = dir.path().join("alive");
    let status = StdCommand::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(status.success());
    let script = format!("exec 9>'{}'; sleep 1000; echo '{{}}'", fifo.display());
    let program = program(dir.path(), "give-login", &script);
    let helper = Helper {
        timeout: Duration::from_secs(2),
        ..helper(vec![program])
    };
    let wait = tokio::task::spawn_blocking(move || std::fs::read(fifo).unwrap());
    let Err(error) = helper.ask("registry.example").await else {
        panic!("it ended");
    };
    assert_eq!(
        error.to_string(),
        "credentials: give-login: gave nothing within 2s"
    );
    let bound = Duration::from_secs(20);
    let all_dead = tokio::time::timeout(bound, wait).await.unwrap();
    assert_eq!(all_dead.unwrap(), b"");
}
