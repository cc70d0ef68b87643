//! The contract of every store: one suite of tests, which each database runs through a [`Fixture`] of its own.

mod admin;
mod audit;
mod builders;
mod claimed;
mod deleting;
mod handlers;
mod history;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(in crate::store) mod hot_path;
mod inbox;
mod leases;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) mod lost_answers;
mod order;
mod queue_position;
mod reading;
mod routing;
mod settling;
mod waits;
mod writing;

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use self::handlers::holding;
use crate::store::Store;

/// A database for one test, with direct access for setting up situations around the store.
#[async_trait]
pub(crate) trait Fixture: Send + Sync + Sized {
    /// An empty database.
    async fn empty() -> Self;

    /// The store under test, on this database.
    fn store(&self) -> Arc<dyn Store>;

    /// Runs a statement and commits it.
    async fn execute(&self, sql: &str);

    /// The single number that a query returns; the query casts values that are not integers to `bigint`.
    async fn number(&self, sql: &str) -> i64;

    /// Begins a transaction on a connection of its own.
    async fn begin(&self) -> Box<dyn OpenTransaction>;

    /// Makes the database refuse updates of this event's row from now on, with the message "not this one".
    async fn refuse_updates(&self, id: Uuid);

    /// Makes the database refuse to delete this event's row from now on.
    async fn refuse_deletion(&self, id: Uuid);

    /// The type of an event's id.
    async fn id_type(&self) -> String {
        "uuid".to_owned()
    }

    /// Whether other connections can write while a transaction that has written is open.
    fn writers_overlap(&self) -> bool;

    /// An id as SQL.
    fn id(&self, id: Uuid) -> String;

    /// An SQL expression for now plus some milliseconds, of the type of the table's times.
    fn time(&self, offset_ms: i64) -> String;

    /// Columns, each with an SQL expression that the table accepts there but that does not make a valid event.
    fn nonsense(&self) -> &'static [(&'static str, &'static str)];

    /// An empty outbox with migrated tables.
    async fn fresh() -> Self {
        let fixture = Self::empty().await;
        fixture.store().migrate(&|_| ()).await.unwrap();
        fixture
    }
}

/// A transaction that ends when the test ends it.
#[async_trait]
pub(crate) trait OpenTransaction: Send {
    async fn execute(&mut self, sql: &str);
    async fn commit(self: Box<Self>);
    async fn rollback(self: Box<Self>);
}

/// Creates a test of each promise, for one database.
macro_rules! instantiate {
    ($database:ident, $fixture:ty) => {
        mod $database {
            instantiate! { @tests $fixture;
                writing::a_database_without_tables_is_named_as_such,
                writing::a_dry_run_of_migrating_lists_the_statements_and_changes_nothing,
                writing::migrating_twice_changes_nothing,
                writing::events_come_back_as_stored_in_the_order_given,
                writing::events_that_differ_in_everything_are_stored_as_each_says,
                writing::events_that_have_all_but_themselves_in_common_are_stored_as_they_say,
                writing::an_id_that_is_given_twice_or_was_there_is_one_event,
                writing::an_id_that_is_there_returns_what_is_stored_under_it,
                writing::the_same_content_again_is_the_stored_event_however_it_is_written,
                writing::an_id_with_other_content_is_refused_and_the_first_difference_named,
                writing::an_id_conflict_fails_a_whole_batch_but_only_one_of_separate_events,
                writing::an_event_that_names_no_backend_is_the_one_that_a_route_gave_one,
                writing::a_rolled_back_transaction_leaves_no_event,
                writing::an_event_committed_late_is_found_from_the_start,
                writing::a_keyed_event_committed_late_blocks_the_later_ones,
                writing::every_row_draws_its_own_seq,
                reading::due_events_come_in_the_order_of_their_schedule,
                reading::an_event_is_read_only_when_its_time_has_come,
                reading::a_range_excludes_both_its_ends_and_keeps_its_limit,
                reading::a_range_leaves_out_the_events_of_some_keys_and_its_limit_counts_the_others,
                reading::an_event_that_was_moved_into_a_range_takes_no_room_of_its_limit,
                reading::lanes_are_read_apart,
                reading::a_retry_is_read_only_when_it_is_due,
                reading::a_retry_without_a_time_is_due_and_stops_nobody,
                reading::a_key_is_read_from_its_start_up_to_a_limit,
                reading::a_key_is_read_from_a_place_on,
                reading::reading_stops_at_the_most_events_of_all_kinds_together,
                reading::reading_stops_at_the_byte_budget_but_not_before_one_event,
                reading::an_oversize_event_comes_back_with_the_reason,
                reading::a_row_that_is_no_event_comes_back_with_the_reason_beside_the_others,
                reading::what_is_settled_is_not_read_again,
                reading::only_what_is_not_recorded_as_published_is_unrecorded,
                routing::routed_events_keep_their_place_and_are_read_in_their_new_lane,
                routing::an_event_is_routed_only_unsent_and_under_its_lease,
                routing::an_event_is_not_routed_past_an_earlier_one_of_its_key,
                order::the_first_unsettled_event_of_the_key_blocks,
                order::what_stands_before_the_place_asked_from_does_not_count,
                order::an_event_that_has_no_place_yet_blocks_nobody,
                order::events_in_flight_and_later_ones_do_not_block,
                order::an_event_with_the_id_of_one_in_flight_and_another_seq_blocks,
                order::a_retry_blocks_and_says_whether_it_is_due,
                order::a_failed_event_blocks_only_where_it_holds_its_key,
                order::a_key_is_ordered_within_its_lane_alone,
                order::nothing_is_due_in_an_empty_lane_or_before_the_time,
                order::a_due_retry_is_due,
                order::one_question_tells_the_lanes_in_which_something_is_due,
                order::a_retry_without_a_time_is_due_by_its_schedule,
                order::what_waits_behind_a_retry_is_not_due,
                order::what_waits_behind_a_pending_event_of_a_later_time_is_not_due,
                order::what_waits_behind_a_failed_event_is_due_unless_the_lane_holds,
                order::what_cannot_be_recorded_is_not_due_and_blocks_its_key_if_it_was_rejected,
                settling::publishing_is_recorded_once,
                settling::a_row_is_settled_where_it_was_read_or_found_by_its_id,
                settling::each_event_of_a_settle_has_an_outcome_of_its_own,
                settling::a_row_that_may_not_be_updated_is_named_and_holds_no_other,
                settling::where_every_row_is_refused_no_row_is_to_blame,
                settling::a_row_that_another_transaction_holds_is_skipped_and_recorded_later,
                settling::publishing_wins_over_any_other_status,
                settling::a_failed_event_that_was_sent_stays_failed_and_is_marked_as_sent,
                settling::a_replayed_event_is_not_settled_by_its_earlier_seq,
                settling::a_retry_is_recorded_with_its_error_and_keeps_its_schedule,
                settling::a_failure_is_recorded_with_its_last_ten_errors,
                settling::a_settle_whose_answer_was_lost_is_answered_again_and_counts_once,
                settling::waiting_for_handlers_is_no_failure,
                settling::published_at_is_set_once_and_never_cleared,
                deleting::a_done_event_is_deleted_and_counts_as_recorded_again,
                deleting::deleting_wins_over_any_other_status_but_failed_after_acceptance,
                deleting::a_replayed_event_is_not_deleted_by_its_earlier_seq,
                deleting::an_event_that_may_not_be_deleted_is_published,
                deleting::a_last_answer_for_a_row_that_may_not_be_deleted_publishes_it,
                deleting::a_deferred_foreign_key_stops_no_settle,
                deleting::a_row_that_others_refer_to_and_hold_is_published,
                deleting::where_no_row_may_be_deleted_all_are_published,
                deleting::retention_deletes_what_it_may_next_to_what_it_may_not,
                deleting::retention_goes_on_behind_rows_that_it_may_not_delete,
                deleting::one_run_of_retention_deletes_all_that_may_be_deleted_among_many_that_may_not,
                deleting::a_row_that_another_transaction_holds_is_deleted_later,
                deleting::the_last_answer_deletes,
                deleting::last_answers_that_meet_leave_no_row,
                deleting::deliverers_of_both_kinds_end_one_event,
                deleting::after_the_deletion_the_same_id_is_a_new_event,
                deleting::operators_are_told_that_a_deleted_event_is_gone,
                settling::an_event_with_another_retry_count_is_left_alone,
                settling::a_rejection_repeated_after_an_operators_retry_is_not_recorded,
                settling::a_row_that_is_no_event_is_recorded_as_failed,
                settling::a_published_event_is_not_rescheduled,
                settling::a_settle_under_a_lost_lease_is_refused,
                handlers::beside_an_older_worker_no_handler_elsewhere_is_owed_anything,
                handlers::an_event_of_which_no_handler_elsewhere_is_owed_anything_is_published,
                handlers::what_is_announced_is_owed_until_it_is_answered,
                handlers::what_only_handlers_elsewhere_are_owed_is_in_nobodys_way,
                handlers::what_an_event_owes_is_fixed_by_the_first_record_of_its_acceptance,
                handlers::a_settle_from_before_a_release_drops_no_pending_handler,
                handlers::a_late_settle_adds_no_name_that_has_answered,
                handlers::what_a_process_leaves_to_others_is_owed_announced_or_not,
                handlers::an_announcement_that_ran_out_owes_nothing_new_and_keeps_what_was_owed,
                handlers::of_handlers_that_answer_together_the_last_one_publishes,
                handlers::an_answer_is_a_fact_and_may_come_twice,
                handlers::an_answer_whose_row_is_held_or_refused_is_named_and_holds_no_other,
                handlers::a_rejected_delivery_is_tried_again_and_counts_once,
                handlers::a_delivery_of_an_uncovered_type_is_deferred_and_spends_no_attempt,
                handlers::a_rejection_under_a_lost_lease_or_of_another_attempt_is_refused,
                handlers::a_handler_that_gives_up_fails_the_event_and_ends_no_other_delivery,
                holding::a_handler_that_gives_up_holds_its_own_deliveries_of_the_key_alone,
                holding::what_a_failure_holds_goes_on_once_the_event_was_tried_again,
                holding::an_operator_who_gives_a_failed_event_up_frees_what_it_holds,
                holding::a_failure_of_a_handler_of_the_delivering_process_holds_likewise,
                holding::what_waits_behind_a_failure_hides_no_other_delivery,
                handlers::an_event_failed_by_a_handler_does_not_hold_its_key,
                handlers::a_remote_handler_that_gives_up_does_not_end_retries_of_local_handlers,
                handlers::a_local_handlers_failure_does_not_end_what_others_are_owed,
                handlers::deliveries_of_a_key_come_in_its_order,
                handlers::an_unsettled_event_holds_back_later_deliveries_of_its_key,
                handlers::deliveries_that_wait_for_one_of_their_key_hide_no_other,
                handlers::reading_deliveries_stops_at_its_budgets,
                handlers::a_dropped_handler_is_owed_nothing_and_inherits_nothing,
                handlers::announcing_again_keeps_what_is_owed,
                handlers::a_delivery_whose_event_is_gone_is_dropped_when_it_is_met,
                handlers::the_janitor_publishes_what_owes_nothing_any_more,
                handlers::retention_keeps_what_is_owed,
                handlers::an_operator_who_fails_or_replays_an_event_ends_its_deliveries,
                handlers::a_sent_event_that_an_operator_failed_is_owed_to_all_once_it_is_retried,
                handlers::who_is_owed_a_key_and_how_much_is_known,
                leases::two_workers_never_own_a_shard_at_once,
                leases::an_expired_lease_is_taken_by_another,
                leases::each_taking_raises_the_epoch_and_renewing_keeps_it,
                leases::a_released_lease_is_free_at_once,
                leases::a_worker_releases_only_what_is_its_own,
                leases::a_late_release_does_not_free_a_lease_that_was_taken_again,
                leases::a_late_renewal_does_not_take_back_what_was_released,
                leases::a_lease_whose_taking_was_not_answered_is_seen_and_given_up,
                leases::a_worker_takes_no_more_than_it_wants,
                leases::an_expired_lease_that_nobody_took_is_renewed,
                leases::a_worker_that_leaves_is_forgotten,
                leases::a_worker_that_is_stuck_is_alive_and_lets_its_leases_end,
                leases::a_worker_whose_row_was_deleted_comes_back_without_a_lease,
                leases::the_end_of_another_workers_leases_is_known_in_advance,
                leases::newer_rules_begin_once_no_older_worker_is_alive_or_holds_a_lease,
                leases::workers_see_each_other_while_they_are_alive,
                leases::a_lease_is_renewed_for_its_owner_alone,
                leases::an_epoch_is_raised_above_another_for_its_owner_alone,
                admin::rows_without_seq_get_one_in_the_order_of_writing,
                admin::expired_events_are_deleted_in_small_batches,
                admin::a_failed_event_that_holds_its_key_is_kept,
                admin::events_are_selected_in_the_order_of_creation_and_filtered,
                admin::looking_through_events_finds_what_is_meant_and_says_where_it_stopped,
                admin::pages_follow_each_other_without_a_gap_also_within_one_moment,
                admin::events_are_loaded_in_the_order_given_and_a_row_that_is_none_says_why,
                admin::an_event_is_loaded_without_its_data,
                admin::data_is_read_in_parts,
                admin::a_row_is_checked_without_its_data,
                admin::a_retried_event_is_as_new_in_its_old_place_and_is_not_sent_twice,
                admin::an_event_is_failed_for_a_reason_unless_it_is_published,
                admin::a_failed_event_that_a_person_gave_up_holds_its_key_no_longer,
                admin::a_replayed_event_is_new_under_its_old_id_and_replays_keep_their_order,
                admin::the_overview_counts_what_there_is_and_what_is_due,
                admin::an_event_is_found_by_its_id,
                claimed::events_of_a_claimed_lane_are_deleted_whatever_their_status,
                claimed::nothing_is_changed_once_another_worker_may_have_read_the_lane,
                claimed::moved_events_are_new_ones_in_their_order_and_sent_ones_stay,
                claimed::a_deleted_event_is_owed_to_nobody,
                claimed::a_pause_is_seen_with_the_next_heartbeat_until_it_ends,
                audit::a_change_is_recorded_with_its_author_and_the_events_changed,
                audit::a_change_of_very_many_events_names_the_first_thousand,
                audit::a_change_that_cannot_be_recorded_is_not_made,
                audit::recorded_changes_are_deleted_with_the_history,
                history::what_became_of_events_is_added_up_by_minute_and_by_hour,
                history::history_ends_after_a_day_by_minute_and_thirty_by_hour,
                waits::a_sample_of_waits_has_the_first_published_events_of_each_period,
                waits::a_rare_backend_has_a_sample_of_its_own_next_to_a_frequent_one,
                inbox::the_inbox_is_made_alone_and_once,
                inbox::the_outbox_does_not_need_an_inbox_and_leaves_one_alone,
                inbox::a_table_of_another_shape_is_no_inbox,
                inbox::old_notes_are_deleted_in_small_batches_and_new_ones_stay,
                queue_position::an_event_stands_behind_the_pending_ones_of_its_lane_that_come_first,
                queue_position::those_before_an_event_are_counted_up_to_a_bound,
                queue_position::an_events_owner_is_who_has_a_lease_that_runs,
                queue_position::an_event_stands_somewhere_whatever_its_row_holds,
            }
        }
    };
    (@server $fixture:ty) => {
        instantiate! { @tests $fixture;
            lost_answers::an_insert_whose_answer_is_lost_may_be_repeated,
            lost_answers::a_settle_whose_answer_is_lost_is_repeated_and_counts_once,
            lost_answers::a_rejection_whose_answer_is_lost_is_repeated_and_counts_once,
            lost_answers::a_handlers_answer_that_is_lost_is_repeated_and_ends_the_event,
        }
    };
    (@tests $fixture:ty; $($topic:ident::$promise:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $promise() {
                crate::store::conformance::$topic::$promise::<$fixture>().await;
            }
        )*
    };
}

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "sqlite")]
instantiate!(sqlite, crate::store::sqlite::fixture::SqliteFixture);
#[cfg(feature = "postgres")]
instantiate!(postgres, crate::store::postgres::fixture::PostgresFixture);
#[cfg(feature = "postgres")]
mod postgres_server {
    instantiate! { @server crate::store::postgres::fixture::PostgresFixture }
}
