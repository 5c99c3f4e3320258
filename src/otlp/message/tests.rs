use super::*;
use crate::telemetry::trace::{Facts, Parent};
use http::HeaderMap;

/// A request as Python's opentelemetry-proto (1.45) writes it, with `VERSION` for the version.
const REQUEST: &str = "\
    0ad1030a590a1b0a0c736572766963652e6e616d65120b0a09726f616473746561640a1c0a0f736572766963652e76657273 \
    696f6e12090a0756455253494f4e0a1c0a13736572766963652e696e7374616e63652e696412050a036f6e6512f3020a140a \
    09726f61647374656164120756455253494f4e12de010a104bf92f3577b34da6a3ce929d0e0e4736120800f067aa0ba902b7 \
    1a07613d312c623d32220800000000000000092a034745543002392a002a36fe9c97174131cac471fe9c97174a1c0a136874 \
    74702e726571756573742e6d6574686f6412050a034745544a200a19687474702e726573706f6e73652e7374617475735f63 \
    6f6465120318f6034a170a086e65676174697665120b18ffffffffffffffffff016a210a104bf92f3577b34da6a3ce929d0e \
    0e4736120800000000000000ab350101000070037a10120c6e6f207375636820686f73741802850101030000123c0a104bf9 \
    2f3577b34da6a3ce929d0e0e4736120800000000000000ab2a0466696c6c3001392a002a36fe9c9717412a002a36fe9c9717 \
    850101010000123c0a104bf92f3577b34da6a3ce929d0e0e4736120800000000000000ab2a0466696c6c3003392a002a36fe \
    9c9717412a002a36fe9c9717850101010000";
/// A partial success of the same.
const RESPONSE: &str = "0a0b08031207746f6f206f6c64";

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .bytes()
        .filter(u8::is_ascii_hexdigit)
        .map(|digit| u8::try_from(char::from(digit).to_digit(16).unwrap()).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn context(span: u64, state: &str) -> Context {
    let mut headers = HeaderMap::new();
    let parent = format!("00-{TRACE}-{span:016x}-01");
    headers.insert("traceparent", parent.parse().unwrap());
    if !state.is_empty() {
        headers.insert("tracestate", state.parse().unwrap());
    }
    Context::of(&headers).unwrap()
}

fn spans() -> Vec<Ended> {
    let start = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_042);
    let server = Ended {
        context: context(0x00f0_67aa_0ba9_02b7, "a=1,b=2"),
        parent: Some(Parent {
            span_id: 9,
            is_remote: true,
        }),
        kind: SpanKind::Server,
        start,
        took: Duration::new(1, 7),
        facts: Facts {
            name: "GET".into(),
            attributes: vec![
                ("http.request.method", Value::fixed("GET")),
                ("http.response.status_code", Value::from(502_u16)),
                ("negative", Value::Number(-1)),
            ],
            links: vec![context(0xab, "")],
            links_dropped: 3,
            failure: Some("no such host".to_owned()),
        },
    };
    let other = |kind| Ended {
        context: context(0xab, ""),
        parent: None,
        kind,
        start,
        took: Duration::ZERO,
        facts: Facts {
            name: "fill".into(),
            ..Facts::default()
        },
    };
    vec![server, other(SpanKind::Internal), other(SpanKind::Client)]
}

/// The numbers of all fields, as the specification has them: another implementation wrote the same.
#[test]
fn spans_are_written_as_others_write_them() {
    let mut theirs = Request::decode(&*bytes(REQUEST)).unwrap();
    let resource = &mut theirs.resource_spans[0];
    let version = KeyValue::of("service.version", Value::from(VERSION));
    resource.resource.as_mut().unwrap().attributes[1] = version;
    let scope = resource.scope_spans[0].scope.as_mut().unwrap();
    assert_eq!(scope.version, "VERSION");
    scope.version = VERSION.to_owned();
    let ours = encode(spans(), "one");
    assert_eq!(Request::decode(&*ours).unwrap(), theirs);
    assert_eq!(ours, theirs.encode_to_vec());
    // Nothing of theirs was left away in between.
    let read = Request::decode(&*bytes(REQUEST)).unwrap();
    assert_eq!(read.encode_to_vec(), bytes(REQUEST));
}

#[test]
fn an_answer_is_read_as_others_write_it() {
    let response = Response::decode(&*bytes(RESPONSE)).unwrap();
    let partial = response.partial_success.unwrap();
    assert_eq!(
        (partial.rejected_spans, &*partial.error_message),
        (3, "too old")
    );
}
