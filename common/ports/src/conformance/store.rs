//! The conformance suite of the store ports: each function is one sentence about a fresh store and panics where it is not true.
//!
//! [`store_conformance!`](crate::store_conformance) makes a test of each. The cases use their own random ids, so one store may
//! serve several of them; [`random_steps_agree_with_the_model`] alone expects that nobody else wakes chunks meanwhile.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a conformance case is a test that lives outside cfg(test)"
)]

mod accept;
mod budgets;
mod close;
mod events;
mod intake;
mod lanes;
mod lists;
mod many;
mod model;
mod order;
mod read;
mod replies;
mod retention;
pub(super) mod scene;
mod sessions;
mod uploads;
mod walk;
mod work;

pub use accept::*;
pub use budgets::*;
pub use close::*;
pub use events::*;
pub use intake::*;
pub use lanes::*;
pub use lists::*;
pub use many::*;
pub use order::*;
pub use read::*;
pub use replies::*;
pub use retention::*;
pub use sessions::*;
pub use uploads::*;
pub use walk::*;
pub use work::*;

/// Makes a `#[tokio::test]` of every case. The expression makes a fresh store: anything that dereferences to a
/// [`Store`](crate::Store); it may await, and is dropped at the end of the case.
///
/// ```text
/// promptmill_ports::store_conformance!(TemporaryStore::new());
/// ```
#[macro_export]
macro_rules! store_conformance {
    ($make:expr) => {
        $crate::conformance_tests! { store, $make;
            an_account_is_replaced_only_by_who_knows_its_version
            changes_of_an_account_at_once_all_count
            accounts_that_may_be_spent_from_are_listed_and_others_are_forgotten_in_time
            a_reply_is_given_again_to_whom_it_was_kept_for
            a_reply_that_is_kept_stays_as_it_is_and_counts_once
            replies_of_a_batch_go_with_it
            replies_are_forgotten_the_oldest_first
            replies_of_a_batch_are_forgotten_once_by_many_at_once
            what_is_kept_of_lanes_is_the_newest_and_the_longest_pause
            create_is_idempotent_by_id_and_by_key
            the_same_key_of_two_tenants_makes_two_batches
            rows_are_invisible_until_their_part_is_committed
            a_part_that_is_sent_again_replaces_what_it_was
            a_block_that_is_sent_again_changes_nothing
            a_part_with_a_missing_block_is_refused
            every_submit_step_may_be_repeated
            two_submits_at_once_make_one_set_of_heads
            an_empty_draft_cannot_be_submitted
            rows_and_parts_are_frozen_by_the_submit
            a_submit_with_a_missing_head_is_refused
            the_heads_are_the_cut_of_the_rows
            an_accepted_batch_is_what_the_steps_of_a_submit_make
            an_accept_that_is_repeated_changes_nothing
            accepts_at_once_of_the_same_batch_make_it_once
            accepts_at_once_are_answered_each_for_itself
            an_accept_that_is_refused_leaves_nothing
            an_accepted_batch_runs_to_its_end_and_is_deleted
            only_a_ready_chunk_is_claimed
            the_chunk_of_a_single_row_is_claimed_while_it_waits
            the_chunk_of_a_single_row_is_held_by_the_state_of_its_batch
            of_two_claimers_exactly_one_gets_the_chunk
            chunks_of_a_paused_or_closing_batch_are_neither_admitted_nor_claimed
            what_is_to_be_known_of_batches_is_read_together
            a_lease_brings_the_rows_of_its_chunk
            a_stale_token_cannot_settle
            a_settle_that_is_repeated_is_recorded_once
            an_item_keeps_its_first_outcome
            a_group_that_names_no_item_of_its_chunk_is_refused
            groups_of_one_call_are_answered_in_order
            a_chunk_whose_open_items_all_wait_is_parked_until_the_earliest
            a_lane_that_stands_still_parks_the_whole_chunk
            a_released_chunk_with_open_items_is_ready_again
            a_chunk_whose_items_all_settled_is_done
            a_session_that_beats_is_not_buried
            burying_a_session_takes_its_chunks_and_counts_the_death
            a_dead_session_is_told_so_and_claims_nothing
            a_quarantined_item_that_keeps_killing_fails_alone
            a_planned_end_hands_chunks_back_without_a_death
            sessions_lists_only_the_living
            sealing_closes_open_items_and_fences_the_holder
            sealing_is_refused_while_the_batch_runs
            a_batch_closes_only_when_every_chunk_is_final
            an_expired_batch_keeps_what_was_settled
            deleting_removes_everything_in_bounded_steps
            only_a_final_batch_or_a_draft_is_deleted
            steering_and_limits_are_seen_as_changes
            a_step_that_the_state_forbids_is_a_conflict
            outcomes_come_in_order_of_index_and_page_by_page
            a_page_is_bounded_by_bytes_and_never_empty
            the_rows_of_an_item_are_found_by_its_index
            ready_chunks_come_page_by_page
            open_batches_are_those_between_draft_and_end
            a_tenant_lists_its_own_batches_newest_first
            a_foreign_tenant_finds_nothing
            a_dropped_upload_takes_no_more_and_becomes_no_part
            an_upload_dropped_before_its_first_block_takes_none
            an_upload_that_became_a_part_stays
            only_uploads_that_fell_silent_are_swept
            a_commit_and_a_drop_at_once_leave_a_whole_part_or_none
            a_sweep_never_takes_a_block_from_an_upload_that_goes_on
            hashes_of_custom_ids_come_in_the_order_of_the_rows
            a_block_is_read_by_its_place_in_the_part
            submitted_rows_count_once_on_the_day_of_their_submit
            stored_bytes_are_counted_until_they_are_removed
            the_spec_of_a_batch_is_counted_until_it_is_deleted
            outcomes_come_in_the_order_of_their_settling
            what_settled_has_its_place_without_being_asked_for
            sealed_and_killing_items_have_their_place_in_the_order
            a_page_of_the_order_is_bounded_and_says_whether_it_caught_up
            a_reader_of_the_order_misses_nothing_while_others_settle
            a_list_has_the_batches_that_match_every_field
            a_list_by_state_is_of_this_moment
            each_change_that_is_told_writes_one_event
            the_event_of_an_end_tells_how_it_ended
            a_batch_without_a_webhook_writes_no_event
            events_are_pending_until_they_are_handed_on
            a_batch_tells_when_it_was_submitted_and_when_it_ended
            a_final_batch_is_kept_as_long_as_it_asked_for
            a_draft_is_outlived_by_its_last_block
            a_deletion_that_was_begun_is_named_until_it_is_done
            a_fresh_store_has_room
            a_session_is_listed_with_its_last_report
            limits_in_force_are_the_last_ones_set
            admitting_moves_the_chunks_of_every_batch_that_may_run
            groups_of_many_batches_settle_in_one_call_each_in_its_own_order
            closes_at_once_are_answered_each_for_itself_and_told_once
            random_steps_agree_with_the_model
        }
    };
}
