//! Sealing, opening, and keyrings.

use promptmill_vault::{Vault, VaultError};
use proptest::prelude::*;
use secrecy::ExposeSecret as _;

const CONTEXT: &str = "acme|webhook|batch_00000000000000000000000000000001";
/// Base64 of 32 bytes each.
const ONE: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const TWO: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

fn vault(keys: &str) -> Vault {
    Vault::from_keys(keys).unwrap()
}

fn one() -> Vault {
    vault(&format!("one:{ONE}"))
}

#[track_caller]
fn check_opens(vault: &Vault, context: &str, sealed: &str, plain: &[u8]) {
    assert_eq!(vault.open(context, sealed).unwrap().expose_secret(), plain);
}

#[track_caller]
fn check_refused(vault: &Vault, context: &str, sealed: &str) {
    let result = vault.open(context, sealed);
    assert!(matches!(result, Err(VaultError::NotOpened)), "{sealed:?}: {result:?}");
}

#[test]
fn what_was_sealed_opens_in_its_context() {
    let sealed = one().seal(CONTEXT, b"whsec_canary").unwrap();
    assert!(sealed.starts_with("pmv1.one."), "{sealed}");
    check_opens(&one(), CONTEXT, &sealed, b"whsec_canary");
    check_opens(&one(), "", &one().seal("", b"").unwrap(), b"");
}

/// Made by another implementation of XChaCha20-Poly1305.
#[test]
fn the_form_of_a_sealed_text_never_changes() {
    let sealed = "pmv1.one.BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH6kT7jd6VKxVkiAJg_OmfwOVAX-wX6pXbg8SqOw";
    check_opens(&one(), "acme|webhook|batch_1", sealed, b"whsec_canary");
}

#[test]
fn a_copy_under_another_context_does_not_open() {
    let sealed = one().seal(CONTEXT, b"secret").unwrap();
    let longer = format!("{CONTEXT}2");
    for other in ["", "acme|webhook|batch_2", "evil|webhook|batch_00000000000000000000000000000001", &longer]
    {
        check_refused(&one(), other, &sealed);
    }
}

#[test]
fn the_same_secret_never_gives_the_same_text() {
    assert_ne!(one().seal(CONTEXT, b"secret").unwrap(), one().seal(CONTEXT, b"secret").unwrap());
}

#[test]
fn a_new_primary_seals_and_the_old_key_still_opens() {
    let old = one().seal(CONTEXT, b"secret").unwrap();
    let rotated = vault(&format!("two:{TWO},one:{ONE}"));
    check_opens(&rotated, CONTEXT, &old, b"secret");
    let new = rotated.seal(CONTEXT, b"secret").unwrap();
    assert!(new.starts_with("pmv1.two."));
    assert!(rotated.is_outdated(&old) && !rotated.is_outdated(&new));
    let unknown = one().open(CONTEXT, &new).unwrap_err();
    assert!(matches!(&unknown, VaultError::UnknownKey(id) if id == "two"), "{unknown}");
}

#[test]
fn another_key_of_the_same_name_does_not_open() {
    let sealed = one().seal(CONTEXT, b"secret").unwrap();
    check_refused(&vault(&format!("one:{TWO}")), CONTEXT, &sealed);
    // Nor under the name of a key that does: which key it was is authenticated as well.
    let both = vault(&format!("one:{ONE},same:{ONE}"));
    check_refused(&both, CONTEXT, &sealed.replace(".one.", ".same."));
}

#[test]
fn what_is_no_sealed_text_does_not_open() {
    for text in
        ["", ".", "..", "secret", "pmv1", "pmv1.", "pmv1.one", "pmv1.one.", "pmv1.one.AAAA", "pmv2.one.AAAA"]
    {
        check_refused(&one(), CONTEXT, text);
    }
    check_refused(&one(), CONTEXT, "pmv1.ONE.AAAA");
    check_refused(&one(), CONTEXT, "pmv1.one.not base64");
}

#[test]
fn a_keyring_is_read_with_comments_lines_and_any_base64() {
    let text = format!(
        "# the new one: since May, secret\ntwo:{TWO} # primary\n\n  one:{}\n",
        ONE.trim_end_matches('=')
    );
    let keys = vault(&text);
    assert!(keys.seal("", b"x").unwrap().starts_with("pmv1.two."));
    check_opens(&keys, CONTEXT, &one().seal(CONTEXT, b"secret").unwrap(), b"secret");
}

#[test]
fn a_malformed_keyring_is_refused_without_showing_it() {
    let twice = format!("one:{ONE},one:{TWO}");
    let cases = [
        ("", "there is no key"),
        ("# nothing", "there is no key"),
        (ONE, "entry 1 is not of the form"),
        ("One:AQEB", "entry 1 has a key id"),
        (":AQEB", "entry 1 has a key id"),
        ("one:AQEB", "entry 1 holds a key that is not of 32 bytes"),
        ("one:AQ*EB", "entry 1 holds a key that is not base64"),
        (&twice, "there are two keys called \"one\""),
    ];
    for (text, expected) in cases {
        let message = Vault::from_keys(text).unwrap_err().to_string();
        assert!(message.contains(expected), "{text:?}: {message}");
        assert!(!message.contains("AQ"), "{message}");
    }
    let swapped = format!("one:{ONE} {TWO}:two");
    let message = Vault::from_keys(&swapped).unwrap_err().to_string();
    assert!(message.contains("entry 2") && !message.contains("AgIC"), "{message}");
}

#[test]
fn debug_shows_the_names_of_the_keys_only() {
    let vault = vault(&format!("two:{TWO},one:{ONE}"));
    assert_eq!(format!("{vault:?}"), r#"Vault { keys: {"two", "one"} }"#);
    let opened = one().open(CONTEXT, &one().seal(CONTEXT, b"canary").unwrap());
    assert!(!format!("{opened:?}").contains("99, 97"), "{opened:?}");
}

proptest! {
    #[test]
    fn any_secret_survives_in_any_context(context in ".*", plain in proptest::collection::vec(any::<u8>(), 0..300)) {
        let sealed = one().seal(&context, &plain).unwrap();
        let opened = one().open(&context, &sealed).unwrap();
        prop_assert_eq!(opened.expose_secret(), &plain[..]);
    }

    #[test]
    fn a_text_with_any_byte_changed_does_not_open(at in any::<proptest::sample::Index>(), to in 0x20_u8..0x7f) {
        let sealed = one().seal(CONTEXT, b"a secret").unwrap();
        let mut changed = sealed.clone().into_bytes();
        *at.get_mut(&mut changed) = to;
        let changed = String::from_utf8(changed).unwrap();
        prop_assume!(changed != sealed);
        let opened = one().open(CONTEXT, &changed);
        prop_assert!(matches!(opened, Err(VaultError::NotOpened | VaultError::UnknownKey(_))), "{:?}", opened);
    }

    #[test]
    fn a_text_that_was_cut_does_not_open(len in any::<proptest::sample::Index>()) {
        let sealed = one().seal(CONTEXT, b"a secret").unwrap();
        prop_assert!(one().open(CONTEXT, &sealed[..len.index(sealed.len())]).is_err());
    }
}
