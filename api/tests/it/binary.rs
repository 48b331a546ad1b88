//! The binary of this role alone, over real servers.

use promptmill_test_servers::{check_role, check_role_refuses, check_role_wants_a_master_key, http_get};

const PROGRAM: &str = env!("CARGO_BIN_EXE_promptmill-api");
const ANY_PORT: &[&str] = &["--metrics-listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"];

#[test]
fn it_says_where_it_is_answers_that_it_is_ready_and_stops_in_order() {
    check_role(PROGRAM, ANY_PORT, |said| {
        let served = said.split("http://").nth(1).unwrap().split(',').next().unwrap();
        assert_eq!(http_get(served, "/readyz").0, 200);
        assert_eq!(http_get(served, "/v1/me").0, 401);
    });
}

#[test]
fn what_is_missing_or_wrong_is_told_in_one_sentence_without_a_password() {
    check_role_refuses(PROGRAM, ANY_PORT);
}

#[test]
fn without_a_master_key_it_says_how_to_make_one() {
    check_role_wants_a_master_key(PROGRAM);
}
