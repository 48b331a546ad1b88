//! The table of schedules with tiny numbers: each has one run, in `promptmill serve`, in a fleet, and in one whose leading scheduler is killed.

use crate::end_to_end::{bench, check_succeeded, check_table, engine};

#[test]
fn schedules_that_are_due_at_the_same_moment_have_one_run_each() {
    let engine = engine();
    let table = check_succeeded(&bench(&["schedules", "--quick", "--binary", engine.to_str().unwrap()]));
    let due = "40 schedules due at the same moment have all begun";
    check_table(&table, &[&format!("serve: {due}"), &format!("fleet: {due}")]);
    for told in [
        "serve: 120 schedules due",
        "fleet: 120 schedules due",
        "commands of MongoDB a run",
        "the scheduler that leads is killed",
    ] {
        assert!(table.contains(told), "{told:?} is not there:\n{table}");
    }
}
