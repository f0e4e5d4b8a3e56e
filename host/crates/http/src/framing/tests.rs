use super::*;

/// What is found when the bytes arrive in pieces of this size.
fn heads(sent: &str, piece: usize) -> (Vec<bool>, Place) {
    let mut framing = Framing::default();
    for piece in sent.as_bytes().chunks(piece) {
        framing.read(piece);
    }
    (framing.heads.into(), framing.place)
}

#[test]
fn both_fields_are_found_in_any_order_and_any_number_of_pieces() {
    let plain = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let sized = "POST / HTTP/1.1\r\nhost: x\r\nCONTENT-length: 4\r\n\r\nab\r\n";
    let chunked = "\r\nPOST / HTTP/1.1\r\ntransfer-encoding: gzip, Chunked\r\n\r\n\
        1A;x=y\r\ncontent-length: 1\r\n\r\n\r\nabc\r\n0\r\ntrailer: x\r\ncontent-length: 9\r\n\r\n";
    let te_first = "POST / HTTP/1.1\nTransfer-Encoding: chunked\nContent-Length: 4\n\n0\r\n\r\n";
    let te_last =
        "POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding:chunked\r\n\r\n0\r\n\r\n";
    let all = [plain, sized, chunked, te_first, te_last, plain].concat();
    let found = vec![false, false, false, true, true, false];
    for piece in 1..all.len() {
        assert_eq!(heads(&all, piece), (found.clone(), Place::Head), "{piece}");
    }
}

#[test]
fn a_request_after_connect_is_read_like_any_other() {
    let sent = "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n\
        POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(heads(sent, 5), (vec![false, true], Place::Head));
}

#[test]
fn what_cannot_be_followed_is_given_up() {
    for lost in [
        "POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\nx",
        "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\nx",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\nx",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    ] {
        assert_eq!(heads(lost, 7).1, Place::Lost, "{lost}");
    }
    let endless = "x".repeat(MAX_LINE + 1);
    assert_eq!(heads(&endless, 1_000).1, Place::Lost);
}

#[test]
fn any_bytes_are_read_without_a_panic_and_in_bounded_memory() {
    let mut bytes: u64 = 1;
    let mut framing = Framing::default();
    for round in 0..20_000_u64 {
        // A linear congruential generator: the same bytes at each run.
        bytes = bytes
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(round);
        let mut piece = bytes.to_be_bytes().to_vec();
        if round % 7 == 0 {
            piece.extend(b"\r\n");
        }
        if round % 101 == 0 {
            framing = Framing::default();
        }
        framing.read(&piece);
        assert!(framing.line.len() <= MAX_LINE && framing.heads.len() <= MAX_PIPELINED + 1);
    }
}
