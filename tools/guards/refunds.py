"""Refunds."""

from __future__ import annotations

from guards import Mutant, guards

_KEY = "WHERE id = $1 AND out_refund_key = $2 AND state = ANY($7) AND {condition}"
_SUCCEED = (
    "next_check_time = earlier_look_time, channel_error_code = NULL, channel_error_message = NULL, version = version + 1\n"
    "             "
)
_FAIL = "version = version + 1\n             "
_FKEY = "WHERE id = $1 AND out_refund_key = $2 AND state = ANY($7)\n               AND ($12"
_NO_FKEY = _FKEY.replace("out_refund_key = $2", "$2::uuid IS NOT NULL")
_NO_FSTATE = _FKEY.replace("state = ANY($7)", "$7::text[] IS NOT NULL")
_NO_KEY = _KEY.replace("out_refund_key = $2", "$2::uuid IS NOT NULL")
_NO_STATE = _KEY.replace("state = ANY($7)", "$7::text[] IS NOT NULL")
_ORDER = """FROM done WHERE o.id = done.order_id AND done.case_id IS NULL RETURNING o.id
           ), noted AS ({noting("done", %s"""
_ANY_ORDER = _ORDER.replace(" AND done.case_id IS NULL", "")
_NOTE = "WHERE id = $1 AND out_refund_key = $2 AND state = $7"
_NOTED_KEY = "ELSE known_time END\n             WHERE id = $1 AND out_refund_key = $2 AND state = ANY($8)"
_SUCCESS_FACTS = "test_a_success_with_other_facts_is_not_booked"
_FAILURE_FACTS = "test_a_failure_with_other_facts_frees_nothing"

REFUNDS: list[Mutant] = [
    *guards(
        "storage/refunds.py",
        "test_guards_refunds.py",
        (
            "reserve-in-one-statement",
            "SET reserved_amount = reserved_amount + made.amount, update_time",
            "SET reserved_amount = reserved_amount, update_time",
            "test_reserve_counts_what_is_refunded_and_what_is_reserved "
            "test_money_rules.py::test_rule_3_concurrent_refunds_never_exceed_what_was_paid",
        ),
        control=False,
    ),
    *guards(
        "storage/refunds.py",
        "test_guards_refunds.py",
        (
            "reserve-left",
            "refunded_amount + reserved_amount + $2 <= paid_amount",
            "$2::bigint IS NOT NULL",
            "test_reserve_counts_what_is_refunded_and_what_is_reserved test_sending_again_reserves_again "
            "test_money_rules.py::test_rule_3_concurrent_refunds_never_exceed_what_was_paid",
        ),
        (
            "reserve-refunded",
            "refunded_amount + reserved_amount + $2 <= paid_amount",
            "reserved_amount + $2 <= paid_amount",
            "test_reserve_counts_what_is_refunded_and_what_is_reserved",
        ),
        (
            "reserve-reserved",
            "refunded_amount + reserved_amount + $2 <= paid_amount",
            "refunded_amount + $2 <= paid_amount",
            "test_reserve_counts_what_is_refunded_and_what_is_reserved",
        ),
        (
            "insert-account-in-one-statement",
            'REFUNDS.insert_from("account")',
            'REFUNDS.insert_from("(SELECT 1) x")',
            "test_accounts.py::test_a_refund_waits_for_the_account_that_is_being_disabled",
        ),
        (
            "succeed-version",
            "num_nulls(case_id) = 1 AND version = {_VERSION} - 1",
            "num_nulls(case_id) = 1 AND {_VERSION}::int IS NOT NULL",
            "test_a_success_is_reported_in_the_version_that_it_makes",
        ),
        (
            "succeed-case",
            "num_nulls(case_id) = 1 AND version = {_VERSION} - 1",
            "version = {_VERSION} - 1",
            "test_a_refund_of_a_case_succeeds_with_its_case_only",
        ),
        (
            "succeed-tells-of-done",
            "telling(NotificationType.REFUND, 13, of='done')",
            "telling(NotificationType.REFUND, 13)",
            "test_a_success_that_is_not_booked_is_not_reported",
        ),
        (
            "succeed-number",
            _SUCCEED + _KEY,
            _SUCCEED + _NO_KEY,
            "test_a_late_success_of_the_first_try_settles_not_the_second",
        ),
        (
            "succeed-state",
            _SUCCEED + _KEY,
            _SUCCEED + _NO_STATE,
            "test_succeed_counts_once test_a_success_after_a_failure_is_booked_if_there_is_room",
        ),
        (
            "succeed-surplus",
            _ORDER % 10,
            _ANY_ORDER % 10,
            "test_a_refund_of_surplus_changes_no_order[succeed]",
        ),
        (
            "succeed-order-state",
            "(SELECT o.state FROM pay_order o WHERE o.id = order_id) = ANY($9)",
            "$9::text[] IS NOT NULL",
            "test_state_tables.py::test_money_goes_back_where_the_table_of_the_order_says_so[succeed-WAITING] "
            "test_state_tables.py::test_money_goes_back_where_the_table_of_the_order_says_so[succeed-CLOSED] "
            "test_state_tables.py::test_money_goes_back_where_the_table_of_the_order_says_so[succeed-and-tell-WAITING]",
        ),
        (
            "succeed-adds",
            "refunded_amount = refunded_amount + done.amount",
            "refunded_amount = (SELECT p.refunded_amount FROM pay_order p WHERE p.id = done.order_id) + done.amount",
            "test_two_refunds_that_succeed_at_once_are_both_counted",
        ),
        ("fail-number", _FAIL + _FKEY, _FAIL + _NO_FKEY, "test_a_late_failure_of_the_first_try_fails_not_the_second"),
        ("fail-state", _FAIL + _FKEY, _FAIL + _NO_FSTATE, "test_fail_does_not_undo_a_success"),
        (
            "fail-surplus",
            _ORDER % 13,
            _ANY_ORDER % 13,
            "test_a_refund_of_surplus_changes_no_order[fail]",
        ),
        (
            "note-number",
            _NOTED_KEY,
            _NOTED_KEY.replace("out_refund_key = $2", "$2::uuid IS NOT NULL"),
            "test_a_late_answer_of_the_first_try_is_not_noted_with_the_second",
        ),
        (
            "note-state",
            _NOTED_KEY,
            _NOTED_KEY.replace("state = ANY($8)", "$8::text[] IS NOT NULL"),
            "test_note_leaves_a_settled_refund_alone",
        ),
    ),
    *guards(
        "storage/refunds_numbers.py",
        "test_guards_refunds.py",
        (
            "send-again-state",
            "out_refund_key = $8 AND state = ANY($6) AND known_time IS NULL",
            "out_refund_key = $8 AND $6::text[] IS NOT NULL AND known_time IS NULL",
            "test_state_tables.py::test_only_a_failed_refund_is_sent_again",
        ),
        (
            "send-again-number",
            "out_refund_key = $8 AND state = ANY($6) AND known_time IS NULL",
            "$8::uuid IS NOT NULL AND state = ANY($6) AND known_time IS NULL",
            "test_what_was_sent_again_since_the_look_is_not_sent_a_third_time",
        ),
    ),
    *guards(
        "services/refunds_numbers.py",
        "test_guards_refunds.py",
        (
            "success-account",
            "        compare_account(configured, facts.account, self._context.now())",
            "        pass",
            f"{_SUCCESS_FACTS}[wrong4] {_SUCCESS_FACTS}[wrong5]",
        ),
        (
            "success-amount",
            "theirs != (refund.out_refund_no, refund.out_trade_no, refund.amount)",
            "theirs[:2] != (refund.out_refund_no, refund.out_trade_no)",
            f"{_SUCCESS_FACTS}[wrong1]",
        ),
        (
            "success-refund-number",
            "theirs != (refund.out_refund_no, refund.out_trade_no, refund.amount)",
            "theirs[1:] != (refund.out_trade_no, refund.amount)",
            f"{_SUCCESS_FACTS}[wrong2]",
        ),
        (
            "success-trade-number",
            "theirs != (refund.out_refund_no, refund.out_trade_no, refund.amount)",
            "theirs[::2] != (refund.out_refund_no, refund.amount)",
            f"{_SUCCESS_FACTS}[wrong3]",
        ),
    ),
    *guards(
        "services/refunds_settlement.py",
        "test_guards_refunds.py",
        (
            "callback-account-of-refund",
            "if refund is not None and refund.account_id != configured.account.id:",
            "if False:",
            "test_a_callback_settles_only_refunds_of_its_own_account",
        ),
    ),
    *guards(
        "services/refunds_booking.py",
        "test_guards_refunds.py",
        (
            "failure-amount",
            "if not same or facts.amount not in (None, refund.amount):",
            "if not same:",
            f"{_FAILURE_FACTS}[wrong0]",
        ),
        (
            "failure-numbers",
            "if not same or facts.amount not in (None, refund.amount):",
            "if facts.amount not in (None, refund.amount):",
            f"{_FAILURE_FACTS}[wrong1] {_FAILURE_FACTS}[wrong2]",
        ),
        (
            "late-success-case",
            "        return -1 if await self._cases.succeeded_after_failure(transaction, about, cause) else 0",
            "        return 0 if about else -1",
            "test_a_success_after_a_failure_is_booked_if_there_is_room "
            "test_second_looks.py::test_a_late_success_that_the_payment_has_no_room_for_is_a_case",
        ),
        (
            "earlier-success-case",
            "        if current is not None and same and current.state is RefundState.SUCCESS:\n            return 0",
            "        if not same or (current is not None and current.state is RefundState.SUCCESS):\n            return False",
            "test_a_late_success_of_the_first_try_settles_not_the_second",
        ),
    ),
    *guards(
        "services/refunds.py",
        "test_guards_refunds.py",
        (
            "refund-again-only-failed",
            "        if existing.state is not RefundState.FAILURE:\n            return existing\n",
            "",
            "test_a_refund_that_has_not_failed_is_not_sent_again",
        ),
        ("refund-at-most-paid", "if new.amount > order.paid_amount:", "if False:", "test_more_than_was_paid_is_refused"),
        (
            "refund-of-a-case",
            "if differing or refund.case_id is not None:",
            "if differing:",
            "test_the_number_of_a_surplus_refund_is_taken",
        ),
        (
            "send-again-conflict",
            "            if conflict is not None:\n                raise refunds_errors.refund_under_review",
            "            if False:\n                raise refunds_errors.refund_under_review",
            "test_a_conflict_that_is_opened_since_the_look_stops_the_refund",
        ),
        (
            "send-again-conflict-lock",
            "await attempt_rows.lock_attempt(connection, refund.attempt_id)",
            "await attempt_rows.get_attempt(connection, refund.attempt_id)",
            "test_a_conflict_that_is_opened_since_the_look_stops_the_refund",
        ),
        (
            "send-again-reserves",
            "if not await refund_rows.reserve(connection, refund.order_id, refund.amount, now):",
            "if False:",
            "test_sending_again_reserves_again",
        ),
    ),
    *guards(
        "services/refunds.py",
        "test_guards_refunds.py",
        (
            "refund-reserves",
            "if not await refund_rows.reserve(connection, order.id, new.amount, now):",
            "if False:",
            "test_reserve_counts_what_is_refunded_and_what_is_reserved",
        ),
        control=False,
    ),
    *guards(
        "storage/refunds_shared.py",
        "test_refunds_together.py",
        (
            "refunds-wait-for-no-account",
            """{_array('account_id')})", " SKIP LOCKED")}""",
            """{_array('account_id')})")}""",
            "test_what_is_locked_does_not_hold_up_the_others[account]",
        ),
        (
            "refunds-wait-for-no-order",
            "FOR NO KEY UPDATE OF t SKIP LOCKED),\nfitting",
            "FOR NO KEY UPDATE OF t),\nfitting",
            "test_what_is_locked_does_not_hold_up_the_others[order]",
        ),
        (
            "refunds-lock-the-order",
            " FOR NO KEY UPDATE OF t SKIP LOCKED),\nfitting",
            "),\nfitting",
            "test_what_is_left_is_that_of_the_locked_order test_what_is_locked_does_not_hold_up_the_others[order]",
        ),
        (
            "refunds-account",
            " JOIN account ON account.id = g.account_id\n",
            "\n",
            "test_nothing_is_begun_over_a_disabled_account test_what_is_locked_does_not_hold_up_the_others[account]",
        ),
        (
            "refunds-number",
            """({id_of_unique_key("pay_refund", "merchant_refund_no, app_id", "g.merchant_refund_no, g.app_id")}) IS NULL""",
            "true",
            "test_a_number_that_is_used_does_not_fail_the_others",
        ),
        (
            "refunds-number-of-the-app",
            """({id_of_unique_key("pay_refund", "merchant_refund_no, app_id", "g.merchant_refund_no, g.app_id")})""",
            """({id_of_unique_key("pay_refund", "merchant_refund_no", "g.merchant_refund_no")})""",
            "test_another_app_may_use_the_same_number",
        ),
        (
            "refunds-left",
            "ON t.id = g.order_id WHERE g.amount <= t.amount)",
            "ON t.id = g.order_id)",
            "test_too_little_that_is_left_does_not_fail_the_others",
        ),
        (
            "refunds-refunded",
            "t.paid_amount - t.refunded_amount - t.reserved_amount AS",
            "t.paid_amount - t.reserved_amount AS",
            "test_too_little_that_is_left_does_not_fail_the_others",
        ),
        (
            "refunds-reserved",
            "t.paid_amount - t.refunded_amount - t.reserved_amount AS",
            "t.paid_amount - t.refunded_amount AS",
            "test_too_little_that_is_left_does_not_fail_the_others",
        ),
        (
            "refunds-own-amount",
            "WHERE t.id = g.order_id AND t.id = ANY(ARRAY(SELECT order_id FROM fitting))),\nmade",
            "WHERE t.id = ANY(ARRAY(SELECT order_id FROM fitting))),\nmade",
            "test_each_intent_is_stored_with_its_own_values",
        ),
        (
            "refunds-hardly-wait-for-a-number",
            "JOIN account ON account.id = g.account_id\n    CROSS JOIN hardly_waiting\n",
            "JOIN account ON account.id = g.account_id\n",
            "test_a_number_that_is_not_committed_does_not_hold_up_the_others",
        ),
        (
            "successes-hardly-wait",
            "JOIN o ON o.id = t.order_id\n    CROSS JOIN hardly_waiting\n",
            "JOIN o ON o.id = t.order_id\n",
            "test_a_notification_that_is_locked_does_not_hold_up_the_others",
        ),
        (
            "refunds-of-an-order",
            "keys = {intent.refund.order_id, (",
            "keys = {(",
            "test_of_two_intents_of_an_order_the_first_is_stored",
        ),
        (
            "refunds-with-a-number",
            "keys = {intent.refund.order_id, (intent.refund.app_id, intent.refund.merchant_refund_no)}",
            "keys: set[object] = {intent.refund.order_id}",
            "test_of_two_intents_with_a_number_the_first_is_stored",
        ),
        (
            "successes-wait-for-no-refund",
            "= 1 FOR NO KEY UPDATE SKIP LOCKED)",
            "= 1 FOR NO KEY UPDATE)",
            "test_a_success_waits_for_nobody_but_by_itself[refund]",
        ),
        (
            "successes-lock-the-refund",
            "= 1 FOR NO KEY UPDATE SKIP LOCKED)",
            "= 1)",
            "test_a_success_is_compared_with_the_locked_refund test_a_success_waits_for_nobody_but_by_itself[refund]",
        ),
        (
            "successes-wait-for-no-order",
            "OrderEvent.REFUNDED))}) FOR NO KEY UPDATE SKIP LOCKED)",
            "OrderEvent.REFUNDED))}) FOR NO KEY UPDATE)",
            "test_a_success_waits_for_nobody_but_by_itself[order]",
        ),
        (
            "successes-lock-the-order",
            "OrderEvent.REFUNDED))}) FOR NO KEY UPDATE SKIP LOCKED)",
            "OrderEvent.REFUNDED))}))",
            "test_a_success_waits_for_nobody_but_by_itself[order]",
        ),
        (
            "successes-number",
            "WHERE t.out_refund_key = g.key AND t.version",
            "WHERE t.version",
            "test_a_refund_that_has_changed_is_left_out[number]",
        ),
        (
            "successes-version",
            " AND t.version = g.version - 1)",
            ")",
            "test_a_refund_that_has_changed_is_left_out[version]",
        ),
        (
            "successes-state",
            " AND r.state = ANY({listed(sources(REFUND, RefundEvent.SUCCEED))})",
            "",
            "test_a_refund_that_has_changed_is_left_out[failed] test_a_refund_that_has_changed_is_left_out[succeeded]",
        ),
        (
            "successes-case",
            "AND num_nulls(r.case_id) = 1 FOR",
            "FOR",
            "test_a_refund_of_a_case_is_left_out",
        ),
        (
            "successes-order-state",
            "\n    AND p.state = ANY({listed(sources(ORDER, OrderEvent.REFUNDED))}) FOR",
            " FOR",
            "test_state_tables.py::test_money_goes_back_where_the_table_of_the_order_says_so[succeed-shared-WAITING] "
            "test_state_tables.py::test_money_goes_back_where_the_table_of_the_order_says_so[succeed-shared-CLOSED]",
        ),
        (
            "successes-keep-earlier-looks",
            "next_check_time = t.earlier_look_time, ",
            "next_check_time = NULL, ",
            "test_a_success_is_due_for_the_looks_at_earlier_numbers[shared] "
            "test_earlier_numbers.py::test_an_earlier_number_that_succeeds_is_found_after_the_refund_succeeded[job]",
        ),
        (
            "successes-own-values",
            "FROM fitting b WHERE t.id = b.id AND t.id",
            "FROM fitting b WHERE t.id",
            "test_each_success_is_stored_with_its_own_values",
        ),
        (
            "successes-of-an-order",
            "first = {one.refund.order_id: one for",
            "first: dict[object, Success] = {one.refund.id: one for",
            "test_of_two_successes_of_an_order_the_first_is_stored",
        ),
        (
            "successes-tell-once",
            " ON CONFLICT (data_id, event, data_version) DO NOTHING),\nnoted",
            "),\nnoted",
            "test_a_notification_that_is_stored_already_is_not_stored_twice",
        ),
        (
            "successes-endpoint",
            "coalesce(nullif(b.endpoint, ''), app.refund_notification_endpoint)",
            "b.endpoint",
            "test_each_success_is_stored_with_its_own_values",
        ),
    ),
    *guards(
        "storage/notifications.py",
        "test_refunds_together.py",
        (
            "each-supersedes-older",
            "\n    AND n.data_version < (SELECT b.version {of} n.data_id)",
            "",
            "test_payments_direct.py::test_older_open_notifications_of_the_order_are_superseded_and_noted "
            "test_a_newer_notification_is_not_superseded",
        ),
        (
            "each-supersedes-open-ones",
            "\n    AND n.state = ANY({listed(sources(NOTIFICATION, NotificationEvent.SUPERSEDE))})\n",
            "\n",
            "test_a_success_supersedes_the_older_notifications_of_its_refund",
        ),
    ),
    *guards(
        "services/refunds_statements.py",
        "test_refunds_together.py",
        (
            "refund-number-waits-alone",
            "        with suppress(LockTimeout):  # it waits below, where it holds up nobody else\n",
            "        if True:\n",
            "test_a_number_that_is_not_committed_does_not_hold_up_the_others",
        ),
        (
            "success-waits-alone",
            "        with suppress(LockTimeout):\n            stored",
            "        if True:\n            stored",
            "test_a_notification_that_is_locked_does_not_hold_up_the_others",
        ),
    ),
]
