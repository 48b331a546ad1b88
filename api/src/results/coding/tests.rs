use std::io::Read as _;

use super::*;

#[test]
fn the_coding_with_the_largest_weight_is_taken() {
    let choose = |header: &str| Coding::choose([header]);
    assert_eq!(Coding::choose([]), Some(Coding::Identity));
    assert_eq!(choose(""), Some(Coding::Identity));
    assert_eq!(choose("gzip, deflate, br"), Some(Coding::Gzip));
    assert_eq!(choose("gzip, zstd"), Some(Coding::Zstd));
    assert_eq!(choose("GZIP;q=1.0, zstd;q=0.5"), Some(Coding::Gzip));
    assert_eq!(choose("*"), Some(Coding::Zstd));
    assert_eq!(choose("zstd;q=0, *;q=0.1"), Some(Coding::Gzip));
    assert_eq!(choose("gzip;q=0.5, identity"), Some(Coding::Identity));
    assert_eq!(choose("br"), Some(Coding::Identity));
    assert_eq!(choose("gzip;q=0"), Some(Coding::Identity));
    assert_eq!(choose("identity;q=0"), None);
    assert_eq!(choose("*;q=0"), None);
    assert_eq!(choose("*;q=0, gzip;q=0.1"), Some(Coding::Gzip));
    assert_eq!(choose("gzip;q=much"), Some(Coding::Identity));
    assert_eq!(Coding::choose(["br", "gzip"]), Some(Coding::Gzip));
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    let text = b"one outcome a line\n".repeat(10_000);
    for coding in [Coding::Identity, Coding::Gzip, Coding::Zstd] {
        let pipe = Pipe::default();
        let mut encoded = Encoded::new(coding, pipe.clone()).unwrap();
        let mut taken = Vec::new();
        for piece in text.chunks(7_001) {
            encoded.write_all(piece).unwrap();
            taken.extend(pipe.take());
        }
        encoded.finish().unwrap();
        taken.extend(pipe.take());
        let mut decoded = Vec::new();
        match coding {
            Coding::Identity => decoded = taken,
            Coding::Gzip => {
                flate2::read::GzDecoder::new(&taken[..]).read_to_end(&mut decoded).map(drop).unwrap();
            }
            Coding::Zstd => decoded = zstd::stream::decode_all(&taken[..]).unwrap(),
        }
        assert!(decoded == text, "{coding:?}");
    }
}
