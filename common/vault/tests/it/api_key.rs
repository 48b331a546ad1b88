//! Making, reading and comparing API keys.

use promptmill_domain::KeyId;
use promptmill_vault::api_key::{InvalidKey, KEY_LEN, issue, parse, verify};
use proptest::prelude::*;
use secrecy::ExposeSecret as _;

/// The key of an id of bytes 1 and random bytes 255, the largest secret there is; reckoned by another program.
const GOLDEN: &str = "pmk_01010101010101010101010101010101_yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp12YZmOj";

fn text(id: [u8; 16], random: [u8; 32]) -> String {
    issue(KeyId::from_bytes(id), random).text.expose_secret().to_owned()
}

#[test]
fn the_form_of_a_key_never_changes() {
    assert_eq!(text([1; 16], [255; 32]), GOLDEN);
}

#[test]
fn the_smallest_secret_is_as_long_as_any() {
    let text = text([0; 16], [0; 32]);
    assert!(text.starts_with(&format!("pmk_{}_{}", "0".repeat(32), "0".repeat(43))), "{text}");
    assert_eq!(text.len(), KEY_LEN);
}

#[test]
fn debug_of_a_new_key_does_not_show_it() {
    let issued = issue(KeyId::from_bytes([1; 16]), [2; 32]);
    let shown = format!("{issued:?}");
    assert!(!shown.contains("pmk_") && !shown.contains(&issued.text.expose_secret()[40..60]), "{shown}");
    assert!(issued.text.expose_secret().ends_with(&issued.hint));
}

#[test]
fn what_only_looks_like_a_key_is_refused() {
    let mut foreign = GOLDEN.to_owned();
    foreign.replace_range(0..4, "sk-_");
    let umlaut = format!("{}ä", &GOLDEN[..KEY_LEN - 2]);
    for wrong in ["", "pmk_", "Bearer", &foreign, &umlaut, &GOLDEN.to_uppercase(), &format!("{GOLDEN} ")] {
        assert_eq!(parse(wrong), Err(InvalidKey), "{wrong:?}");
    }
}

#[test]
fn a_right_checksum_over_a_wrong_form_is_refused() {
    // The checksum is no secret: whoever knows the form can make one that fits.
    let digits: Vec<char> = ('0'..='9').chain('A'..='Z').chain('a'..='z').collect();
    let with_checksum = |checked: &str| {
        let mut rest = crc32fast::hash(checked.as_bytes());
        let mut check = Vec::new();
        for _ in 0..6 {
            check.push(digits[rest as usize % 62]);
            rest /= 62;
        }
        format!("{checked}{}", check.iter().rev().collect::<String>())
    };
    let (id, secret) = ("0".repeat(32), "0".repeat(43));
    assert!(parse(&with_checksum(&format!("pmk_{id}_{secret}"))).is_ok());
    let wrong = [
        format!("pmx_{id}_{secret}"),
        format!("pmk_{}_{secret}", id.replace('0', "A")),
        format!("pmk_{id}_{}", secret.replace('0', "-")),
        format!("pmk_{id}0{secret}"),
        format!("pmk_{}_0{secret}", &id[1..]),
    ];
    for checked in wrong {
        assert_eq!(parse(&with_checksum(&checked)), Err(InvalidKey), "{checked}");
    }
}

proptest! {
    #[test]
    fn an_issued_key_parses_to_its_id_and_hash(id: [u8; 16], random: [u8; 32]) {
        let id = KeyId::from_bytes(id);
        let issued = issue(id, random);
        let (parsed, hash) = parse(issued.text.expose_secret()).unwrap();
        prop_assert_eq!(parsed, id);
        prop_assert!(verify(&issued.hash, &hash));
    }

    #[test]
    fn different_secrets_have_different_keys_and_hashes(id: [u8; 16], one: [u8; 32], two: [u8; 32]) {
        prop_assume!(one != two);
        let (one, two) = (issue(KeyId::from_bytes(id), one), issue(KeyId::from_bytes(id), two));
        prop_assert_ne!(one.text.expose_secret(), two.text.expose_secret());
        prop_assert!(!verify(&one.hash, &two.hash));
    }

    #[test]
    fn any_mistyped_character_is_noticed(random: [u8; 32], at in 0..KEY_LEN, to in 0x20_u8..0x7f) {
        let key = text([7; 16], random);
        let mut typed = key.clone().into_bytes();
        typed[at] = to;
        let typed = String::from_utf8(typed).unwrap();
        prop_assert_eq!(parse(&typed).is_ok(), typed == key);
    }

    #[test]
    fn any_text_is_answered(text in ".*") {
        prop_assert_eq!(parse(&text), Err(InvalidKey));
    }

    #[test]
    fn hashes_are_equal_only_when_every_bit_is(hash: [u8; 32], bit in 0_usize..256) {
        let mut other = hash;
        other[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(verify(&hash, &hash) && !verify(&hash, &other));
    }
}
