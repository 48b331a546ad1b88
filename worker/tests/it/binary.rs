//! The binary of this role alone, over real servers.

use promptmill_test_servers::{check_role, check_role_refuses};

const PROGRAM: &str = env!("CARGO_BIN_EXE_promptmill-worker");
const ANY_PORT: &[&str] = &["--metrics-listen", "127.0.0.1:0"];

#[test]
fn it_says_where_it_is_answers_that_it_is_ready_and_stops_in_order() {
    check_role(PROGRAM, ANY_PORT, |_| {});
}

#[test]
fn what_is_missing_or_wrong_is_told_in_one_sentence_without_a_password() {
    check_role_refuses(PROGRAM, ANY_PORT);
}
