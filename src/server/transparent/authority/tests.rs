use super::*;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{ServerName, UnixTime};

const NOW: Timestamp = Timestamp(1_790_000_000_000);
const DAY: Duration = Duration::from_hours(24);

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|it| (*it).to_owned()).collect()
}

fn hub() -> (NewAuthority, Authority) {
    let hosts = names(&["docker.io", "registry-1.docker.io", "quay.io"]);
    let made = make(&hosts, &names(&["auth.docker.io"]), NOW).unwrap();
    let authority = read(&made.cert, &made.key).unwrap();
    (made, authority)
}

fn read(cert: &str, key: &str) -> Result<Authority, AuthorityError> {
    let chain = CertificateDer::pem_slice_iter(cert.as_bytes());
    let chain = chain.collect::<Result<_, _>>().unwrap();
    Authority::new(
        chain,
        &PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
    )
}

/// The verdict of a client that trusts the authority.
fn verify(
    authority: &Authority,
    pair: &CertifiedKey,
    host: &str,
    at: Timestamp,
) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
    let (leaf, others) = pair.cert.split_first().unwrap();
    let host = ServerName::try_from(host.to_owned()).unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_millis(at.0));
    let verifier = verifier.build().unwrap();
    let verdict = verifier.verify_server_cert(leaf, others, &host, &[], at);
    verdict.map(|_verified| ())
}

fn mint(authority: &Authority, host: &str, now: Timestamp) -> Arc<CertifiedKey> {
    let provider = aws_lc_rs::default_provider();
    let minted = authority.mint(&names(&[host]), now, &provider).unwrap();
    minted.leaves.into_iter().next().unwrap().1
}

#[test]
fn clients_take_what_it_mints_for_a_week_and_no_longer() {
    let (_, authority) = hub();
    let leaf = mint(&authority, "registry-1.docker.io", NOW);
    let host = "registry-1.docker.io";
    let verdict = |at| verify(&authority, &leaf, host, at);
    let early = Timestamp(NOW.0 - millis(LEAF_BACKDATED));
    for at in [early, NOW, NOW.plus(6 * DAY)] {
        verdict(at).unwrap();
    }
    for at in [Timestamp(early.0 - 1000), early.plus(LEAF_LIFETIME + DAY)] {
        verdict(at).unwrap_err();
    }
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf.cert[0]).unwrap();
    let lifetime =
        parsed.validity().not_after.timestamp() - parsed.validity().not_before.timestamp();
    assert_eq!(lifetime, 7 * 24 * 3600);
    // A root is with the client already.
    assert_eq!(leaf.cert.len(), 1);
}

/// The library that signs knows nothing of constraints: clients refuse what somebody else mints with a stolen key.
#[test]
fn a_stolen_key_is_good_for_the_configured_names_alone() {
    let (_, mut authority) = hub();
    authority.permitted = None;
    authority.excluded.clear();
    for (host, expected) in [
        ("quay.io", true),
        ("docker.io", true),
        ("auth.docker.io", false),
        ("ghcr.io", false),
        ("example.com", false),
    ] {
        let leaf = mint(&authority, host, NOW);
        let verdict = verify(&authority, &leaf, host, NOW);
        assert_eq!(verdict.is_ok(), expected, "{host}: {verdict:?}");
        if let Err(error) = verdict {
            let text = format!("{error:?}");
            assert!(text.contains("NameConstraintViolation"), "{text}");
        }
    }
    let address = mint(&authority, "10.0.0.1", NOW);
    verify(&authority, &address, "10.0.0.1", NOW).unwrap_err();
    // Nor can another authority below it, which clients that look at the length of paths refuse anyway.
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = generate().unwrap();
    let certificate = params.signed_by(&key, &authority.issuer).unwrap();
    let below = Authority {
        issuer: Issuer::new(params, key),
        chain: vec![certificate.der().clone()],
        ..authority
    };
    let leaf = mint(&below, "ghcr.io", NOW);
    let verdict = verify(&below, &leaf, "ghcr.io", NOW);
    let text = format!("{verdict:?}");
    assert!(text.contains("NameConstraintViolation"), "{text}");
}

#[test]
fn names_that_it_does_not_cover_are_not_minted() {
    let (_, authority) = hub();
    for (host, expected) in [
        ("docker.io", true),
        ("registry-1.docker.io", true),
        ("quay.io", true),
        ("cdn01.quay.io", true),
        ("auth.docker.io", false),
        ("ghcr.io", false),
        ("notquay.io", false),
        ("io", false),
    ] {
        assert_eq!(authority.covers(host), expected, "{host}");
    }
    let hosts = names(&["quay.io", "ghcr.io"]);
    let provider = aws_lc_rs::default_provider();
    let minted = authority.mint(&hosts, NOW, &provider).unwrap();
    let minted: Vec<_> = minted.leaves.iter().map(|(host, _)| &**host).collect();
    assert_eq!(minted, ["quay.io"]);
}

#[test]
fn the_constraints_are_critical() {
    let (made, authority) = hub();
    let (_, parsed) = x509_parser::parse_x509_certificate(authority.certificate()).unwrap();
    let found = parsed.name_constraints().unwrap().unwrap();
    assert!(found.critical);
    assert_eq!(
        authority.permitted().unwrap(),
        ["docker.io", "registry-1.docker.io", "quay.io"]
    );
    let constraints = parsed.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.path_len_constraint == Some(0));
    assert!(made.key.contains("PRIVATE KEY") && !format!("{authority:?}").contains("issuer"));
}

#[test]
fn certificates_are_replaced_before_they_end_and_when_the_clock_goes_back() {
    let (_, authority) = hub();
    let provider = aws_lc_rs::default_provider();
    let hosts = names(&["quay.io"]);
    let mut minted = authority.mint(&hosts, NOW, &provider).unwrap();
    assert!(!minted.is_due(NOW));
    assert!(!minted.is_due(NOW.plus(3 * DAY)));
    assert!(minted.is_due(NOW.plus(4 * DAY)));
    assert!(minted.is_due(Timestamp(NOW.0 - millis(DAY))));
    minted.try_later(NOW.plus(4 * DAY));
    assert!(!minted.is_due(NOW.plus(4 * DAY)));
    assert!(minted.is_due(NOW.plus(5 * DAY)));
    // Near the authority's end certificates end with it, and are not minted each second.
    let late = Timestamp(authority.not_after().0 - millis(DAY));
    let last = authority.mint(&hosts, late, &provider).unwrap();
    assert!(!last.is_due(late));
    let leaf = mint(&authority, "quay.io", late);
    verify(
        &authority,
        &leaf,
        "quay.io",
        authority.not_after().plus(DAY),
    )
    .unwrap_err();
    let over = authority.mint(&hosts, authority.not_after(), &provider);
    assert!(over.unwrap_err().to_string().contains("ca init"));
}

#[test]
fn what_is_no_authority_is_refused() {
    let (made, _) = hub();
    let (other, _) = hub();
    let error = read(&made.cert, &other.key).unwrap_err().to_string();
    assert!(error.contains("not the one of this certificate"), "{error}");
    let leaf = rcgen::generate_simple_self_signed(vec!["quay.io".to_owned()]).unwrap();
    let error = read(&leaf.cert.pem(), &leaf.signing_key.serialize_pem());
    assert!(error.unwrap_err().to_string().contains("no authority"));
    assert!(make(&[], &[], NOW).is_err());
}
