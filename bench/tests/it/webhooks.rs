//! The table of webhooks with tiny numbers: every event comes, from `promptmill serve` and from a fleet.

use crate::end_to_end::{bench, check_succeeded, check_table, engine};

#[test]
fn events_of_both_engines_come_to_every_receiver_that_answers() {
    let engine = engine();
    let table = check_succeeded(&bench(&["webhooks", "--quick", "--binary", engine.to_str().unwrap()]));
    let many = "deliveries to endpoints that answer at once";
    check_table(&table, &["serve: 20 events/s", "fleet: 20 events/s", many, many]);
}
