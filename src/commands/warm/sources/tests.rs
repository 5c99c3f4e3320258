use super::*;
use std::fmt::Write as _;

fn parsed(text: &str) -> Result<Images, Fault> {
    parse(text, &|name| (name == "TAG").then(|| "1.27".to_owned()))
}

fn names(text: &str) -> Vec<String> {
    let images = parsed(text).unwrap();
    images.names.iter().map(ToString::to_string).collect()
}

/// The line and the reason.
fn fault(text: &str) -> (Option<u64>, String) {
    let fault = parsed(text).unwrap_err();
    (fault.line, fault.why)
}

#[test]
fn a_list_has_a_name_in_each_line_and_comments() {
    let text = "\u{feff}# our images\n\nalpine:3.20\r\n  ghcr.io/org/app:1 # the app\nalpine:3.20\n#x\nlocalhost:5000/a\n";
    assert_eq!(
        names(text),
        [
            "docker.io/library/alpine:3.20",
            "ghcr.io/org/app:1",
            "localhost:5000/a:latest"
        ]
    );
    assert_eq!(names("- alpine\n- nginx:1\n").len(), 2);
    assert_eq!(names("[\"alpine\", \"nginx:1\"]").len(), 2);
}

#[test]
fn the_bad_line_of_a_list_is_named() {
    let (line, why) = fault("alpine\n\nNginx:1\n");
    assert_eq!(line, Some(3));
    assert!(why.starts_with("image \"Nginx:1\": "), "{why}");
    let (line, why) = fault("alpine\nnginx 1.27\n");
    assert_eq!(line, Some(2));
    assert!(why.contains("\"nginx 1.27\""), "{why}");
    assert_eq!(fault("# nothing\n"), (None, "names no image".to_owned()));
}

#[test]
fn images_are_found_in_kubernetes_objects_of_any_kind() {
    let text = r#"
# Source: chart/templates/job.yaml
apiVersion: batch/v1
kind: CronJob
spec:
  jobTemplate:
    spec:
      template:
        spec:
          initContainers: [{name: init, image: busybox}]
          containers:
          - name: main
            image: "ghcr.io/org/app:1"
            env: [{name: image, value: not-an-image}]
          - name: injected
            image: ""
          volumes:
          - name: model
            image: {reference: "quay.io/org/model:v2", pullPolicy: Always}
          - name: scratch
            emptyDir: {}
---
---
apiVersion: v1
kind: List
items:
- kind: Pod
  spec:
    containers: [{image: nginx}]
    ephemeralContainers: [{image: debug}]
  status:
    containerStatuses: [{image: other}]
- kind: ConfigMap
  data: {image: none, key: "3", 7: x}
"#;
    assert_eq!(
        names(text),
        [
            "docker.io/library/busybox:latest",
            "ghcr.io/org/app:1",
            "quay.io/org/model:v2",
            "docker.io/library/nginx:latest",
            "docker.io/library/debug:latest",
        ]
    );
    let json =
        r#"{"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"image": "nginx"}]}}"#;
    assert_eq!(names(json), ["docker.io/library/nginx:latest"]);
}

#[test]
fn faults_in_yaml_name_the_line() {
    let (line, why) = fault("kind: Pod\nspec:\n  containers:\n  - name: a\n    image: UPPER:x\n");
    assert_eq!(line, Some(5), "{why}");
    assert!(why.starts_with("image \"UPPER:x\": "), "{why}");
    let (line, why) = fault("kind: Pod\nspec:\n  containers:\n  - image: 3\n");
    assert_eq!(
        (line, why.as_str()),
        (Some(4), "an image's name must be a text")
    );
    let (line, why) = fault("kind: Pod\nspec: [a\nb: {\n");
    assert!(line.is_some(), "{why}");
    assert!(!why.contains('\n'), "{why}");
    assert_eq!(
        fault("kind: ConfigMap\ndata: {}\n"),
        (None, "names no image".to_owned())
    );
    // A cascade of aliases that would be a billion values.
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let of = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(bomb, "a{level}: &a{level} [{of}]").unwrap();
    }
    fault(&bomb);
}

#[test]
fn images_are_found_in_compose_files() {
    let text = r"
x-app: &app
  image: ghcr.io/org/app:${APP_VERSION:-2}
  restart: always
services:
  web:
    <<: *app
    command: serve
  worker: *app
  proxy:
    image: nginx:${TAG}-alpine
    volumes:
    - ./conf:/etc/nginx
    - {type: image, source: busybox, target: /box}
  own:
    build: .
    image: org/own
  local:
    image: org/local
    pull_policy: never
  empty:
volumes:
  data:
";
    assert_eq!(
        names(text),
        [
            "ghcr.io/org/app:2",
            "docker.io/library/nginx:1.27-alpine",
            "docker.io/library/busybox:latest"
        ]
    );
    assert_eq!(
        parsed(text).unwrap().notes,
        [
            "service own is built, so its image is left out",
            "service local is never pulled, so its image is left out"
        ]
    );
}

#[test]
fn a_variable_without_value_names_the_service() {
    let (line, why) = fault("services:\n  web:\n    image: nginx:${NGINX_TAG}\n");
    assert_eq!(line, Some(3));
    assert_eq!(
        why,
        "service web: the variable NGINX_TAG is not set, and has no default"
    );
}

#[test]
fn errors_name_the_file() {
    let none = &|_: &str| None;
    let error = read(Path::new("/nowhere/list.txt"), none).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("/nowhere/list.txt: cannot be read: "),
        "{text}"
    );
}
