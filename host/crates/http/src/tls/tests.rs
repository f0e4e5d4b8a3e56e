use chrono::TimeDelta;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::*;

/// Files of one test.
struct Files {
    dir: TempDir,
}

impl Files {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a directory"),
        }
    }

    fn names(&self) -> TlsFiles {
        TlsFiles {
            certificate: self.dir.path().join("cert.pem"),
            key: self.dir.path().join("key.pem"),
        }
    }

    fn write(&self, certificate: &str, key: &str) {
        use std::os::unix::fs::PermissionsExt;
        let files = self.names();
        std::fs::write(&files.certificate, certificate).expect("written");
        std::fs::write(&files.key, key).expect("written");
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&files.key, mode).expect("changed");
    }

    fn load(&self) -> Result<Pair, TlsError> {
        Pair::load(&self.names(), Utc::now())
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Certificate and key.
fn made(name: &str) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let certificate = params(name).self_signed(&key).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn a_pair_that_fits_tells_its_names_and_its_end() {
    let files = Files::new();
    let (certificate, key) = made("a.example");
    files.write(&certificate, &key);
    let pair = files.load().expect("a pair");
    assert_eq!(pair.names, ["a.example"]);
    assert!(pair.ends > Utc::now());
}

#[test]
fn each_wrong_file_is_named_with_what_is_wrong() {
    let files = Files::new();
    let refused = || files.load().expect_err("refused").to_string();
    assert!(refused().contains("key.pem: "), "{}", refused());
    let (certificate, key) = made("a.example");
    files.write("", &key);
    assert!(refused().contains("cert.pem holds no certificate"));
    files.write(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        &key,
    );
    assert!(refused().contains("cert.pem holds no certificate"));
    files.write(&certificate, "nonsense");
    assert!(refused().contains("key.pem holds no private key"));
    files.write(&certificate, &made("a.example").1);
    assert!(refused().contains("does not belong to"));
    files.write(&format!("{certificate}{}", made("b.example").0), &key);
    assert!(refused().contains("certificate 1 in"), "{}", refused());
    files.write(&certificate, &key);
    let later = Utc::now() + TimeDelta::days(2_000_000);
    let ended = Pair::load(&files.names(), later).expect_err("ended");
    assert!(matches!(ended, TlsError::Ended { .. }), "{ended}");
    let earlier = DateTime::UNIX_EPOCH;
    let not_yet = Pair::load(&files.names(), earlier).expect_err("not valid yet");
    assert!(matches!(not_yet, TlsError::NotYet { .. }), "{not_yet}");
}

#[test]
fn a_key_that_everyone_can_read_is_refused_and_one_of_a_group_is_not() {
    use std::os::unix::fs::PermissionsExt;
    let files = Files::new();
    let (certificate, key) = made("a.example");
    files.write(&certificate, &key);
    for (mode, is_loose) in [(0o600, false), (0o440, false), (0o644, true), (0o660, true)] {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(files.names().key, permissions).expect("changed");
        let loaded = files.load();
        assert_eq!(
            matches!(loaded, Err(TlsError::Loose(_))),
            is_loose,
            "{mode:o}"
        );
    }
}

#[test]
fn a_chain_in_its_order_is_taken() {
    let files = Files::new();
    let mut of_issuer = params("issuer.example");
    of_issuer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer_key = KeyPair::generate().expect("a key");
    let issuers_own = of_issuer.self_signed(&issuer_key).expect("a certificate");
    let issuer = Issuer::new(of_issuer, issuer_key);
    let key = KeyPair::generate().expect("a key");
    let own = params("a.example")
        .signed_by(&key, &issuer)
        .expect("signed");
    files.write(
        &format!("{}{}", own.pem(), issuers_own.pem()),
        &key.serialize_pem(),
    );
    assert_eq!(files.load().expect("a pair").names, ["a.example"]);
    files.write(
        &format!("{}{}", issuers_own.pem(), own.pem()),
        &key.serialize_pem(),
    );
    assert!(files.load().is_err(), "the wrong order");
}

#[test]
fn new_files_are_taken_into_use_and_the_certificate_before_goes_on_while_they_are_wrong() {
    let files = Files::new();
    let (certificate, key) = made("a.example");
    files.write(&certificate, &key);
    let tls = Tls::load(files.names()).expect("usable");
    let served = || tls.current.0.load().names.clone();
    let (second, second_key) = made("b.example");
    files.write(&second, &key);
    assert!(tls.look().is_err());
    assert_eq!(served(), ["a.example"]);
    files.write(&second, &second_key);
    assert_eq!(tls.look(), Ok(()));
    assert_eq!(served(), ["b.example"]);
    std::fs::remove_file(files.names().key).expect("removed");
    assert!(tls.look().is_err());
    assert_eq!(served(), ["b.example"]);
}
