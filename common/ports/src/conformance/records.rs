//! The conformance suite of the record ports: each function is one sentence about a fresh store and panics where it is not true.
//!
//! [`records_conformance!`](crate::records_conformance) makes a test of each. The cases use their own random ids; those that forget by age
//! or ask what is due expect that nobody else uses the store meanwhile.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a conformance case is a test that lives outside cfg(test)"
)]

mod accounts;
mod claims;
mod deliveries;
mod endpoints;
mod generations;
mod row_sets;
mod scene;
mod schedules;
mod template_labels;
mod templates;
mod usage;

pub use accounts::*;
pub use claims::*;
pub use deliveries::*;
pub use endpoints::*;
pub use generations::*;
pub use row_sets::*;
pub use schedules::*;
pub use template_labels::*;
pub use templates::*;
pub use usage::*;

/// Makes a `#[tokio::test]` of every case. The expression makes a fresh store: anything that dereferences to
/// [`Records`](crate::Records) that are read beside a [`Read`](crate::Read); it may await, and is dropped at the end of the case.
///
/// ```text
/// promptmill_ports::records_conformance!(TemporaryStore::new());
/// ```
#[macro_export]
macro_rules! records_conformance {
    ($make:expr) => {
        $crate::conformance_tests! { records, $make;
            a_tenant_is_made_once
            a_key_is_kept_as_it_was_given
            a_key_needs_its_tenant
            a_tenant_lists_its_own_keys_oldest_first
            a_key_is_revoked_once_and_for_good
            the_last_use_of_a_key_never_goes_back
            a_template_is_kept_with_its_first_version
            a_name_is_given_once_per_tenant
            of_two_templates_of_a_name_at_once_one_is_kept
            a_version_follows_only_the_newest
            a_version_that_is_added_again_is_added_once
            a_text_that_equals_the_newest_adds_nothing
            of_two_versions_at_once_one_is_added
            templates_come_page_by_page_in_order_of_their_names
            versions_come_page_by_page_newest_first
            a_template_is_deleted_only_at_its_newest_version
            a_foreign_tenant_finds_no_template
            a_label_is_put_moved_and_taken_away
            a_label_that_is_put_again_stays_as_it_is
            labels_come_by_name_and_are_their_templates_alone
            a_label_needs_its_template_and_its_version
            a_template_has_so_many_labels_and_no_more
            of_two_puts_of_a_label_at_once_one_holds
            labels_that_are_put_at_once_are_no_more_than_there_may_be
            labels_go_with_their_template
            a_foreign_tenant_finds_no_label
            of_claims_at_once_exactly_one_runs
            a_repeated_request_is_told_where_the_first_stands
            a_key_that_is_used_for_something_else_is_a_mismatch
            of_those_who_take_over_exactly_one_does
            the_first_answer_counts
            a_released_request_may_be_sent_again
            claims_of_two_tenants_never_meet
            old_claims_are_forgotten_a_few_at_a_time
            a_generation_is_replaced_until_it_has_its_outcome
            an_outcome_of_a_generation_never_changes
            generations_that_nobody_living_runs_come_oldest_first
            a_generation_is_adopted_from_the_owner_it_has
            only_finished_generations_are_forgotten
            a_foreign_tenant_finds_no_generation
            a_delivery_is_kept_once_and_as_it_was_given
            a_due_delivery_is_taken_by_one_caller
            the_earliest_due_deliveries_are_taken_first
            a_delivery_that_was_taken_and_never_tried_is_due_again
            an_attempt_says_what_follows
            an_attempt_that_is_recorded_again_is_recorded_once
            a_delivery_may_be_put_off_without_a_try
            a_delivery_that_is_over_never_changes
            a_delivery_is_tried_again_when_its_tenant_asks_for_it
            the_newest_attempts_of_many_are_kept
            endpoints_are_listed_oldest_first_and_are_their_tenants_alone
            an_endpoint_is_changed_only_by_who_knows_its_version
            schedules_come_page_by_page_and_are_their_tenants_alone
            a_schedule_is_changed_only_by_who_knows_its_version
            schedules_are_looked_at_when_they_are_due
            a_tick_is_kept_once_and_changed_only_by_who_knows_its_version
            ticks_of_a_schedule_come_newest_first_and_go_with_it
            open_ticks_of_all_tenants_come_by_schedule_and_time
            only_ticks_that_are_over_are_forgotten
            blocks_of_a_set_come_back_as_they_were_given
            a_row_set_is_changed_only_by_who_knows_its_version
            row_sets_come_page_by_page_and_those_without_a_name_do_not
            rows_that_no_version_is_are_swept_when_they_are_old
            an_endpoint_lists_what_goes_to_it
            the_next_due_time_is_that_of_the_earliest_pending
            a_batch_lists_its_own_deliveries_oldest_first
            only_deliveries_that_are_over_are_forgotten
            the_bytes_of_records_are_counted_until_they_are_forgotten
        }
    };
}
