use super::*;
use std::io::Write as _;

/// Reads what is left after `pieces` were sent, in pieces of `size` bytes, with or without the end.
fn read(bytes: &[u8], size: usize, complete: bool, packing: Packing) -> Result<Vec<u8>, Broken> {
    let (send, pieces) = mpsc::channel(bytes.len() / size + 2);
    for piece in bytes.chunks(size) {
        send.try_send(Piece::Data(Bytes::copy_from_slice(piece))).ok().unwrap();
    }
    if complete {
        send.try_send(Piece::End).ok().unwrap();
    }
    drop(send);
    let mut all = Vec::new();
    match unpacked(pieces, packing).unwrap().read_to_end(&mut all) {
        Ok(_) => Ok(all),
        Err(error) => Err(error.downcast::<Broken>().unwrap()),
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn text() -> Vec<u8> {
    (0..20_000)
        .flat_map(|n: u32| format!("{{\"n\":{}}}\n", n.wrapping_mul(2_654_435_761)).into_bytes())
        .collect()
}

#[test]
fn every_packing_gives_the_same_bytes_however_they_are_cut_into_pieces() {
    let text = text();
    let zstd = zstd::encode_all(&text[..], 3).unwrap();
    for size in [1, 7, 4096, 1 << 20] {
        assert_eq!(read(&text, size, true, Packing::Identity).as_ref(), Ok(&text));
        assert_eq!(read(&gzip(&text), size, true, Packing::Gzip).as_ref(), Ok(&text));
        assert_eq!(read(&zstd, size, true, Packing::Zstd).as_ref(), Ok(&text));
    }
}

#[test]
fn members_and_frames_behind_the_first_are_read_too() {
    let (half, rest) = (b"{}\n".repeat(9), b"{\"a\":1}\n".repeat(9));
    let whole = [half.clone(), rest.clone()].concat();
    let members = [gzip(&half), gzip(&rest)].concat();
    assert_eq!(read(&members, 5, true, Packing::Gzip).as_ref(), Ok(&whole));
    let frames = [zstd::encode_all(&half[..], 1).unwrap(), zstd::encode_all(&rest[..], 1).unwrap()].concat();
    assert_eq!(read(&frames, 5, true, Packing::Zstd).as_ref(), Ok(&whole));
}

#[test]
fn a_body_without_its_end_was_cut_even_where_its_bytes_seem_complete() {
    let text = text();
    let zstd = zstd::encode_all(&text[..], 3).unwrap();
    for (bytes, packing) in
        [(text.clone(), Packing::Identity), (gzip(&text), Packing::Gzip), (zstd, Packing::Zstd)]
    {
        assert_eq!(read(&bytes, 512, false, packing), Err(Broken::Cut), "{packing:?}");
    }
}

#[test]
fn half_a_frame_and_other_bytes_are_not_what_the_header_says() {
    let text = text();
    let packed = gzip(&text);
    let corrupt = |name| Err(Broken::Corrupt(name));
    assert_eq!(read(&packed[..packed.len() / 2], 512, true, Packing::Gzip), corrupt("gzip"));
    assert_eq!(read(b"{\"a\":1}\n", 512, true, Packing::Gzip), corrupt("gzip"));
    assert_eq!(read(&[packed, b"tail".to_vec()].concat(), 512, true, Packing::Gzip), corrupt("gzip"));
    let packed = zstd::encode_all(&text[..], 3).unwrap();
    assert_eq!(read(&packed[..packed.len() / 2], 512, true, Packing::Zstd), corrupt("zstd"));
    assert_eq!(read(b"{\"a\":1}\n", 512, true, Packing::Zstd), corrupt("zstd"));
}

#[test]
fn a_bomb_is_stopped_and_a_window_beyond_8_mib_refused() {
    let zeros = vec![b'0'; 50_000_000];
    assert_eq!(read(&gzip(&zeros), 4096, true, Packing::Gzip), Err(Broken::Bomb));
    let packed = zstd::encode_all(&zeros[..], 3).unwrap();
    assert_eq!(read(&packed, 4096, true, Packing::Zstd), Err(Broken::Bomb));
    let mut wide = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    wide.window_log(27).unwrap();
    wide.write_all(&text()).unwrap();
    let wide = wide.finish().unwrap();
    assert_eq!(read(&wide, 4096, true, Packing::Zstd), Err(Broken::Corrupt("zstd")));
}

#[test]
fn a_coding_is_told_by_its_name_whatever_its_case() {
    assert_eq!(Packing::named("GZIP"), Some(Packing::Gzip));
    assert_eq!(Packing::named("x-gzip"), Some(Packing::Gzip));
    assert_eq!(Packing::named("zstd"), Some(Packing::Zstd));
    assert_eq!(Packing::named("identity"), Some(Packing::Identity));
    for bad in ["br", "gzip, gzip", "deflate", ""] {
        assert_eq!(Packing::named(bad), None, "{bad:?}");
    }
}
