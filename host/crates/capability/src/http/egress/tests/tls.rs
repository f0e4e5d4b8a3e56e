use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use super::*;

struct Certificate {
    pem: String,
    config: rustls::ServerConfig,
}

fn certificate(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Certificate {
    install_tls();
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    change(&mut params);
    let certificate = params.self_signed(&key).expect("a certificate");
    let der = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = config
        .with_single_cert(vec![certificate.der().clone()], der)
        .expect("a configuration");
    Certificate {
        pem: certificate.pem(),
        config,
    }
}

/// Answers `hello` over TLS.
async fn tls_server(config: rustls::ServerConfig) -> SocketAddr {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut connection) = acceptor.accept(connection).await else {
                    return;
                };
                let answer =
                    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
                let _gone = connection.write_all(answer).await;
                let _gone = connection.shutdown().await;
            });
        }
    });
    address
}

async fn call(
    host: &str,
    server: SocketAddr,
    trusted: Option<&str>,
) -> Result<HttpResponse, HttpError> {
    let file = trusted.map(pem_file);
    let ca_file = file.as_ref().map(|file| file.path().to_owned());
    let config = EgressConfig {
        allow_addresses: Vec::new(),
        ca_file,
        ..EgressConfig::default()
    };
    let egress =
        Egress::with_lookup(config, Scripted::new(&[&["127.0.0.1"]])).expect("a configuration");
    let url = format!("https://{host}:{}/x", server.port());
    let manifest = manifest(&[rule(url.clone(), None)]);
    egress
        .send(caller(RevisionDigest::of(b"test"), &manifest), get(url))
        .await
}

fn pem_file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    file
}

#[tokio::test]
async fn a_certificate_of_nobody_we_trust_is_refused_and_accepted_with_the_ca_file() {
    let certificate = certificate("api.example", |_| {});
    let server = tls_server(certificate.config).await;
    let answer = call("api.example", server, None).await;
    assert!(matches!(answer, Err(HttpError::Tls(_))), "{answer:?}");
    let answer = call("api.example", server, Some(&certificate.pem)).await;
    assert_eq!(answer.expect("a response").body, b"hello");
}

#[tokio::test]
async fn a_certificate_for_another_name_or_time_is_refused() {
    let other = certificate("other.example", |_| {});
    let answer = call(
        "api.example",
        tls_server(other.config).await,
        Some(&other.pem),
    )
    .await;
    assert!(matches!(answer, Err(HttpError::Tls(_))), "{answer:?}");
    let expired = certificate("api.example", |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1)
    });
    let answer = call(
        "api.example",
        tls_server(expired.config).await,
        Some(&expired.pem),
    )
    .await;
    assert!(matches!(answer, Err(HttpError::Tls(_))), "{answer:?}");
}

#[tokio::test]
async fn a_server_without_tls_behind_https_is_a_tls_error() {
    let server = raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()).await;
    let answer = call("api.example", server, None).await;
    assert!(matches!(answer, Err(HttpError::Tls(_))), "{answer:?}");
}

#[test]
fn a_ca_file_that_cannot_be_used_is_refused_under_its_key() {
    let good = certificate("api.example", |_| {}).pem;
    let broken = good.replacen("\nMII", "\nAAA", 1);
    let key = KeyPair::generate().expect("a key").serialize_pem();
    let cases = [
        ("nonsense", "has no certificate"),
        ("", "has no certificate"),
        (key.as_str(), "has no certificate"),
        (broken.as_str(), "invalid certificate (number 1)"),
        (&format!("{good}{broken}"), "invalid certificate (number 2)"),
        (
            "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
            "is not PEM",
        ),
    ];
    for (text, expected) in cases {
        let file = pem_file(text);
        let config = EgressConfig {
            allow_addresses: Vec::new(),
            ca_file: Some(file.path().to_owned()),
            ..EgressConfig::default()
        };
        let error = Egress::new(config).err().expect(expected).to_string();
        assert!(
            error.starts_with("egress.ca_file:") && error.contains(expected),
            "{error}"
        );
    }
    let config = EgressConfig {
        allow_addresses: Vec::new(),
        ca_file: Some("/nowhere/ca.pem".into()),
        ..EgressConfig::default()
    };
    let error = Egress::new(config).err().expect("refused").to_string();
    assert!(
        error.contains("egress.ca_file") && error.contains("/nowhere/ca.pem"),
        "{error}"
    );
}

#[tokio::test]
async fn when_a_certificate_ends_is_learned_from_a_call_that_goes_out_anyway() {
    let certificate = certificate("partner.example", |params| {
        params.not_after = rcgen::date_time_ymd(2030, 1, 2)
    });
    let server = tls_server(certificate.config).await;
    let file = pem_file(&certificate.pem);
    let config = EgressConfig {
        allow_addresses: Vec::new(),
        ca_file: Some(file.path().to_owned()),
        ..EgressConfig::default()
    };
    let egress =
        Egress::with_lookup(config, Scripted::new(&[&["127.0.0.1"]])).expect("a configuration");
    let url = format!("https://partner.example:{}/x", server.port());
    let manifest = manifest(&[rule(url.clone(), None)]);
    assert!(egress.certificates().ends().is_empty());
    egress
        .send(caller(RevisionDigest::of(b"test"), &manifest), get(url))
        .await
        .expect("an answer");
    let ends = egress.certificates().ends();
    assert_eq!(
        ends.get(&format!("partner.example:{}", server.port())),
        Some(&1_893_542_400),
        "{ends:?}"
    );
}
