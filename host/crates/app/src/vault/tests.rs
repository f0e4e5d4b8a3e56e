use base64::Engine;
use patchbay_store::SealedSecret;

use super::keys::*;
use super::*;

fn text_key(digit: char) -> String {
    // Not one repeated digit, which would count as a placeholder.
    format!("{}01", digit.to_string().repeat(62))
}

fn keys(digits: &[char]) -> Keys {
    let source = |digit: &char| KeySource::Text {
        key: "secrets.key",
        text: Zeroizing::new(text_key(*digit)),
    };
    let mut sources = digits.iter().map(source);
    Keys::load([sources.next(), sources.next()]).expect("keys")
}

fn row(keys: &Keys, plugin: &str, name: &str, version: i32, value: &str) -> SecretRow {
    let (plugin, name): (PluginName, SecretName) = (
        plugin.parse().expect("a name"),
        name.parse().expect("a name"),
    );
    let sealed = keys
        .newest()
        .expect("a key")
        .seal(&bound_to(&plugin, &name, version), value);
    SecretRow {
        id: i64::from(version),
        plugin,
        name,
        version,
        sealed,
        created_at: Utc::now(),
        created_by: "tests".into(),
        ends_at: None,
        last_used_at: None,
    }
}

fn opened(keys: &Keys, row: &SecretRow) -> Result<String, CannotOpen> {
    keys.open(row).map(|value| value.to_string())
}

#[test]
fn what_was_sealed_opens_and_is_nowhere_in_the_row() {
    let keys = keys(&['a']);
    let row = row(&keys, "exotel", "API_KEY", 1, "hunter2-hunter2");
    assert_eq!(opened(&keys, &row).as_deref(), Ok("hunter2-hunter2"));
    assert!(
        !row.sealed
            .ciphertext
            .windows(7)
            .any(|window| window == b"hunter2")
    );
    assert_eq!(
        (row.sealed.nonce.len(), row.sealed.ciphertext.len()),
        (12, 15 + 16)
    );
}

#[test]
fn the_same_value_never_gives_the_same_seal() {
    let keys = keys(&['a']);
    let [one, two] = [(); 2].map(|()| row(&keys, "exotel", "API_KEY", 1, "value").sealed);
    assert!(one.nonce != two.nonce && one.ciphertext != two.ciphertext);
}

#[test]
fn another_key_opens_nothing_and_cannot_pass_for_the_right_one() {
    let row = row(&keys(&['a']), "exotel", "API_KEY", 1, "value");
    let wrong = keys(&['b']);
    assert_eq!(opened(&wrong, &row), Err(CannotOpen::UnknownKey));
    let mut claimed = row;
    claimed.sealed.key_id = wrong.id().expect("a key").to_owned();
    assert_eq!(opened(&wrong, &claimed), Err(CannotOpen::Damaged));
}

#[test]
fn a_seal_is_bound_to_plugin_name_and_version() {
    let keys = keys(&['a']);
    let original = row(&keys, "exotel", "API_KEY", 1, "value");
    for (plugin, name, version) in [
        ("graphy", "API_KEY", 1),
        ("exotel", "API_TOKEN", 1),
        ("exotel", "API_KEY", 2),
    ] {
        let moved = SecretRow {
            sealed: original.sealed.clone(),
            ..row(&keys, plugin, name, version, "other")
        };
        assert_eq!(
            opened(&keys, &moved),
            Err(CannotOpen::Damaged),
            "{plugin} {name} {version}"
        );
    }
}

#[test]
fn rows_that_are_cut_or_changed_do_not_open() {
    let keys = keys(&['a']);
    let original = row(&keys, "exotel", "API_KEY", 1, "value");
    let damaged = |damage: &dyn Fn(&mut SealedSecret)| {
        let mut row = original.clone();
        damage(&mut row.sealed);
        opened(&keys, &row)
    };
    assert_eq!(
        damaged(&|sealed| sealed.ciphertext.truncate(20)),
        Err(CannotOpen::Damaged)
    );
    assert_eq!(
        damaged(&|sealed| sealed.ciphertext.truncate(10)),
        Err(CannotOpen::Damaged)
    );
    assert_eq!(
        damaged(&|sealed| sealed.ciphertext.clear()),
        Err(CannotOpen::Damaged)
    );
    assert_eq!(
        damaged(&|sealed| sealed.ciphertext[0] ^= 1),
        Err(CannotOpen::Damaged)
    );
    assert_eq!(
        damaged(&|sealed| sealed.nonce[0] ^= 1),
        Err(CannotOpen::Damaged)
    );
    assert_eq!(
        damaged(&|sealed| sealed.nonce.truncate(11)),
        Err(CannotOpen::Damaged)
    );
}

#[test]
fn during_a_rotation_of_the_key_both_open_and_the_new_one_seals() {
    let before = row(&keys(&['a']), "exotel", "API_KEY", 1, "value");
    let both = keys(&['b', 'a']);
    assert_eq!(opened(&both, &before).as_deref(), Ok("value"));
    let after = row(&both, "exotel", "API_KEY", 1, "value");
    assert_eq!(after.sealed.key_id, keys(&['b']).id().expect("a key"));
}

#[test]
fn a_key_is_hex_or_base64_of_32_bytes_and_nothing_else() {
    let bytes = parse_key(&text_key('a')).expect("a key");
    let base64 = base64::engine::general_purpose::STANDARD.encode(*bytes);
    assert_eq!(parse_key(&format!("  {base64}\n")).expect("a key"), bytes);
    let too_long = base64::engine::general_purpose::STANDARD.encode([1_u8, 2].repeat(17));
    for bad in [
        "",
        "secret",
        &text_key('a')[1..],
        &"0".repeat(64),
        &format!("{}g", &text_key('a')[1..]),
        &too_long,
    ] {
        assert!(parse_key(bad).is_none(), "{bad:?}");
    }
}

#[test]
fn a_bad_key_is_named_and_not_shown() {
    let text = |text: &str, key| KeySource::Text {
        key,
        text: Zeroizing::new(text.to_owned()),
    };
    let refused = |current, old| {
        Keys::load([Some(current), old])
            .map(drop)
            .expect_err("should be refused")
            .to_string()
    };
    let bad = refused(text("hunter2", "secrets.key"), None);
    assert!(
        bad.contains("secrets.key is not a key") && !bad.contains("hunter2"),
        "{bad}"
    );
    let missing = KeySource::File {
        key: "secrets.key_file",
        path: "/nonexistent/key".into(),
    };
    assert!(refused(missing, None).contains("secrets.key_file (/nonexistent/key) cannot be read"));
    let same = refused(
        text(&text_key('a'), "secrets.key"),
        Some(text(&text_key('a'), "secrets.old_key")),
    );
    assert!(
        same.contains("secrets.old_key is the same key as secrets.key") && !same.contains("aaaa"),
        "{same}"
    );
}

#[test]
fn only_a_key_that_opens_nothing_is_refused_as_the_wrong_one() {
    let (right, wrong) = (keys(&['a']), keys(&['b']));
    let rows = [
        row(&right, "exotel", "API_KEY", 1, "value"),
        row(&right, "exotel", "API_TOKEN", 1, "value"),
    ];
    let text = wrong
        .refuse_wrong(&rows)
        .expect_err("should be refused")
        .to_string();
    assert!(
        text.contains("secrets.key is the wrong key")
            && text.contains("none of the secrets in the database (2)"),
        "{text}"
    );
    assert!(right.refuse_wrong(&rows).is_ok() && wrong.refuse_wrong(&[]).is_ok());
    assert!(
        Keys::load([None, None])
            .expect("no keys")
            .refuse_wrong(&rows)
            .is_ok()
    );
    let mixed = [
        rows[0].clone(),
        row(&wrong, "exotel", "API_TOKEN", 1, "value"),
    ];
    assert!(right.refuse_wrong(&mixed).is_ok());
}
