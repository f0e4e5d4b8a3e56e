use super::*;

/// Made with OpenSSL 3.0 from 32 times the byte 7, for the file `component`: fixes the format.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH\n-----END PRIVATE KEY-----\n";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=\n-----END PUBLIC KEY-----\n";
const ONE_LINE: &str = "ed25519:6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=";
const SIGNATURE: &str = "fe812c12f3ab4ce6:bdsr4JlcU4VQIUGzQT/ylt5rF9Vc9X1cpODi4tt8Bfvz1p8AT3dJxOgKwsn8j5bFCeo2DRI8rdhQ5XK0FBs2AQ==";

fn file() -> RevisionDigest {
    RevisionDigest::of(b"component")
}

fn key() -> PrivateKey {
    PrivateKey::from_pem(PRIVATE).expect("a key")
}

#[test]
fn openssl_and_we_make_the_same_keys_and_signatures() {
    assert_eq!(key().to_pem().expect("PEM"), PRIVATE);
    assert_eq!(key().public(), PUBLIC.parse().expect("PEM"));
    assert_eq!(key().public().to_string(), ONE_LINE);
    assert_eq!(key().sign(&file()).to_string(), SIGNATURE);
    let signature: Signature = SIGNATURE.parse().expect("a signature");
    assert!(
        ONE_LINE
            .parse::<PublicKey>()
            .expect("a key")
            .verifies(&file(), &signature)
    );
}

#[test]
fn a_signature_fits_one_file_and_one_key() {
    let signature = key().sign(&file());
    assert!(key().public().verifies(&file(), &signature));
    assert!(
        !key()
            .public()
            .verifies(&RevisionDigest::of(b"component2"), &signature),
        "another file"
    );
    assert!(
        !PrivateKey::generate()
            .public()
            .verifies(&file(), &signature),
        "another key"
    );
    for at in 0..64 {
        let mut changed = signature.clone();
        changed.bytes[at] ^= 1;
        assert!(!key().public().verifies(&file(), &changed), "byte {at}");
    }
}

#[test]
fn what_the_same_key_has_signed_for_another_purpose_is_no_signature_of_a_plugin() {
    let signed = |message: &[u8]| Signature {
        key: key().public().id(),
        bytes: key().0.sign(message).to_bytes(),
    };
    let digest = file();
    for other in [
        digest.as_bytes().to_vec(),
        [b"patchbay-v2\0".as_slice(), digest.as_bytes()].concat(),
        [b"patchbay-v1".as_slice(), digest.as_bytes()].concat(),
        [b"patchbay-v1\0".as_slice(), digest.to_string().as_bytes()].concat(),
        b"component".to_vec(),
    ] {
        assert!(!key().public().verifies(&digest, &signed(&other)));
    }
    assert!(key().public().verifies(&digest, &signed(&message(&digest))));
}

#[test]
fn truncated_and_lengthened_texts_are_no_signatures() {
    assert!(SIGNATURE.parse::<Signature>().is_ok());
    for end in 0..SIGNATURE.len() {
        assert!(SIGNATURE[..end].parse::<Signature>().is_err(), "{end}");
    }
    let (id, encoded) = SIGNATURE.split_once(':').expect("two parts");
    for bad in [
        format!("{SIGNATURE}A"),
        format!("{id}:{}", STANDARD.encode([1; 65])),
        format!("{id}:{}", STANDARD.encode([1; 63])),
        format!("{}:{encoded}", &id[1..]),
        format!("zz{}:{encoded}", &id[2..]),
        encoded.to_owned(),
        format!("{id}:{}", encoded.replace('+', "-").replace('/', "_")),
    ] {
        assert!(bad.parse::<Signature>().is_err(), "{bad}");
    }
}

#[test]
fn keys_that_are_none_are_refused_and_never_quoted() {
    for (bad, reason) in [
        ("", "a public key is ed25519:"),
        (
            "6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=",
            "a public key is ed25519:",
        ),
        ("ed25519:6kpsY", "44 characters"),
        (
            "ed25519:AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "not an Ed25519 key",
        ),
        (
            "ed25519:AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "weak",
        ),
        (PRIVATE, "private key"),
        (
            "-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----",
            "PEM",
        ),
    ] {
        let error = bad.parse::<PublicKey>().expect_err(bad).to_string();
        assert!(
            error.contains(reason) && !error.contains("BwcHBwcH"),
            "{bad}: {error}"
        );
    }
    assert!(PrivateKey::from_pem(PUBLIC).is_err());
    assert!(
        !format!("{:?}", key()).contains("7, 7"),
        "private keys are never printed"
    );
}

#[test]
fn files_of_keys_mix_both_forms_with_comments() {
    let other = PrivateKey::generate().public();
    let text = format!("# the build server\n{ONE_LINE}\n\n# the release team\n{PUBLIC}{other}\n");
    let keys = read_public_keys(&text).expect("three keys");
    assert_eq!(keys, [key().public(), key().public(), other.clone()]);
    assert_eq!(
        TrustedKeys::new(keys).ids(),
        format!("fe812c12f3ab4ce6, {}", other.id()),
        "each once"
    );
    let broken = read_public_keys(&format!("{ONE_LINE}\nnonsense\n")).expect_err("a broken line");
    assert!(broken.to_string().starts_with("line 2: "), "{broken}");
    for none in ["", "# nothing\n", "-----BEGIN PUBLIC KEY-----\n"] {
        assert!(read_public_keys(none).is_err(), "{none:?}");
    }
}

#[test]
fn without_trusted_keys_nothing_is_required_and_with_them_everything_is() {
    let none = TrustedKeys::default();
    assert_eq!(none.check(&file(), &[]), Ok(()));
    let good = key().sign(&file());
    assert_eq!(none.standing(&file(), &good), Standing::Unchecked);
    let trusted = TrustedKeys::new([key().public()]);
    assert_eq!(trusted.check(&file(), std::slice::from_ref(&good)), Ok(()));
    assert!(matches!(
        trusted.check(&file(), &[]),
        Err(Untrusted::Unsigned { .. })
    ));
    let stranger = PrivateKey::generate();
    assert!(matches!(
        trusted.check(&file(), &[stranger.sign(&file())]),
        Err(Untrusted::UnknownKey { keys, .. }) if keys == stranger.public().id().to_string()
    ));
    let other_file = key().sign(&RevisionDigest::of(b"other"));
    assert!(matches!(
        trusted.check(&file(), std::slice::from_ref(&other_file)),
        Err(Untrusted::Wrong { .. })
    ));
    // The id is only a claim: a stranger's signature with a trusted id is wrong.
    let claimed = Signature {
        key: key().public().id(),
        ..stranger.sign(&file())
    };
    assert_eq!(trusted.standing(&file(), &claimed), Standing::Wrong);
}

#[test]
fn during_a_rotation_either_key_is_enough_and_a_wrong_signature_is_never_accepted_for_keeping() {
    let (old, new) = (key(), PrivateKey::generate());
    let both = [old.sign(&file()), new.sign(&file())];
    for trusted in [
        vec![old.public()],
        vec![new.public()],
        vec![old.public(), new.public()],
    ] {
        let trusted = TrustedKeys::new(trusted);
        assert_eq!(trusted.check(&file(), &both), Ok(()));
        assert_eq!(trusted.check_upload(&file(), &both, &[]), Ok(()));
        assert_eq!(
            trusted.check_upload(&file(), &[], &both),
            Ok(()),
            "signed before"
        );
    }
    let wrong = old.sign(&RevisionDigest::of(b"other"));
    let trusted = TrustedKeys::new([old.public(), new.public()]);
    let mixed = [wrong.clone(), new.sign(&file())];
    assert_eq!(
        trusted.check(&file(), &mixed),
        Ok(()),
        "one good one is enough to run"
    );
    assert_eq!(
        trusted.check_upload(&file(), &mixed, &[]),
        Err(Untrusted::Wrong { key: wrong.key })
    );
}

#[test]
fn signature_files_hold_one_per_line() {
    let text = format!(
        "# release 1.4\n{SIGNATURE}\n\n{}\n",
        PrivateKey::generate().sign(&file())
    );
    assert_eq!(
        read_signatures(&text).map(|signatures| signatures.len()),
        Ok(2)
    );
    assert!(read_signatures("\n").is_err());
    assert!(read_signatures(&format!("{SIGNATURE}\n").repeat(17)).is_err());
}
