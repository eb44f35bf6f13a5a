"""Orders and attempts."""

from __future__ import annotations

from guards import Mutant, guards

_DUE = """WHERE next_check_time <= $1 ORDER BY next_check_time LIMIT $3
             FOR NO KEY UPDATE SKIP LOCKED"""

ORDERS: list[Mutant] = [
    *guards(
        "services/gathering.py",
        "test_orders_insert.py",
        (
            "gathering-one-by-one",
            "if len(rows) > 1 and not is_connection_loss(error):",
            "if False:",
            "test_one_order_that_cannot_be_inserted_does_not_fail_the_others "
            "test_payments_together.py::test_one_payment_that_cannot_be_stored_does_not_fail_the_others",
        ),
        (
            "gathering-lost-connection",
            "if len(rows) > 1 and not is_connection_loss(error):",
            "if len(rows) > 1:",
            "test_payments_together.py::test_after_a_lost_connection_nothing_is_done_again",
        ),
        (
            "gathering-own-answer",
            "waiting.done.set_result(result)",
            "waiting.done.set_result(results[0])",
            "test_payments_together.py::test_each_caller_gets_its_own_answer",
        ),
        (
            "gathering-not-cancelled",
            "[waiting for waiting in waiting_rows if self._to_completion or not waiting.done.done()]",
            "waiting_rows",
            "test_a_caller_that_was_cancelled_gets_no_order "
            "test_payments_together.py::test_what_a_caller_wanted_that_goes_away_is_not_done_by_itself",
        ),
        (
            "gathering-wait-under-load",
            "if BUSY_FROM <= len(self._waiting) < MOST_ROWS:",
            "if False:",
            "test_payments_together.py::test_if_several_have_arrived_a_statement_waits_for_more",
        ),
        (
            "gathering-no-wait-for-one",
            "if BUSY_FROM <= len(self._waiting) < MOST_ROWS:",
            "if len(self._waiting) < MOST_ROWS:",
            "test_payments_together.py::test_what_arrives_alone_does_not_wait",
        ),
        (
            "gathering-no-wait-for-full",
            "if BUSY_FROM <= len(self._waiting) < MOST_ROWS:",
            "if BUSY_FROM <= len(self._waiting):",
            "test_payments_together.py::test_a_full_statement_does_not_wait",
        ),
        (
            "gathering-few-wait-longer",
            "for number in range(1, self._waits + 1):",
            "for number in range(1, 2):",
            "test_payments_together.py::test_a_statement_of_few_waits_longer_if_a_channel_is_called",
        ),
        (
            "gathering-enough",
            "            if len(self._waiting) >= ENOUGH:\n                break\n",
            "",
            "test_payments_together.py::test_a_statement_of_few_waits_longer_if_a_channel_is_called",
        ),
        (
            "gathering-slow-is-left-behind",
            "            self._left_behind += 1\n            self._start()\n",
            "            pass\n",
            "test_payments_together.py::test_a_statement_that_takes_long_does_not_hold_up_the_others",
        ),
        (
            "gathering-most-left-behind",
            " and self._left_behind < MOST_LEFT_BEHIND:",
            ":",
            "test_payments_together.py::test_a_statement_that_takes_long_does_not_hold_up_the_others",
        ),
        (
            "gathering-one-chain",
            "            while self._waiting and chain is self._chain:",
            "            while self._waiting:",
            "test_payments_together.py::test_what_was_left_behind_goes_on_with_nothing_else",
        ),
        (
            "gathering-no-wait-after-long",
            "if seconds > 0:",
            "if True:",
            "test_payments_together.py::test_after_a_long_statement_the_next_does_not_wait",
        ),
        (
            "gathering-to-completion",
            "if self._to_completion or not waiting.done.done()]",
            "if not waiting.done.done()]",
            "test_payments_together.py::test_what_was_reported_is_booked_although_every_caller_goes_away",
        ),
        (
            "gathering-of-nobody",
            "if self._chain is not None or self._to_completion:",
            "if self._chain is not None:",
            "test_payments_together.py::test_what_was_reported_is_booked_although_every_caller_goes_away",
        ),
        (
            "gathering-writer-cancelled",
            "                        waiting.done.cancel()",
            "                        pass",
            "test_payments_together.py::test_a_writer_that_is_cancelled_leaves_nobody_waiting",
        ),
    ),
    *guards(
        "services/orders_insert.py",
        "test_orders_insert.py",
        (
            "insert-own-answer",
            "[order.id in made for order, _ in orders]",
            "[True for _ in orders]",
            "test_each_caller_gets_its_own_order test_other_content_under_the_same_number_is_a_conflict",
        ),
    ),
    *guards(
        "storage/orders_insert.py",
        "test_orders_insert.py",
        (
            "insert-hardly-waits",
            'INSERT = _inserting(f"{HARDLY_WAITING}, ", " CROSS JOIN hardly_waiting")',
            'INSERT = _inserting("", "")',
            "test_an_app_whose_row_is_locked_holds_up_its_own_creates_only",
        ),
        (
            "insert-order-of-keys",
            "ordered = sorted(orders, key=lambda item: (item[0].merchant_order_id, item[0].app_id))",
            "ordered = list(orders)",
            "test_a_batch_is_inserted_in_the_order_of_its_numbers",
        ),
    ),
    *guards(
        "storage/database.py",
        "test_statement_budgets.py",
        (
            "time-out-without-the-cancellation",
            "        elif isinstance(error, TimeoutError):",
            "        elif False:",
            "test_connections.py::test_a_lost_connection_holds_up_nobody_after_the_time_out",
        ),
        (
            "jsonb-binary",
            'encoder=_jsonb, decoder=_from_jsonb, schema="pg_catalog", format="binary"',
            'encoder=json.dumps, decoder=json.loads, schema="pg_catalog"',
            "test_arrays_of_json_are_sent_as_they_are",
        ),
    ),
    *guards(
        "storage/database.py",
        "test_connections.py",
        (
            "transaction-of-a-frozen-process",
            '"idle_in_transaction_session_timeout": self._idle_in_transaction,',
            "",
            "test_a_transaction_that_does_nothing_does_not_hold_its_locks_for_ever",
        ),
        (
            "connection-cancelled",
            "            await self._connections.give_back(self._lent)  # a statement may be in progress",
            "            self._connections.put(self._lent)",
            "test_no_transaction_is_left_open_wherever_its_task_is_cancelled",
        ),
        (
            "connection-lost",
            "return not lent.is_closed()",
            "return True",
            "test_a_connection_that_the_server_ended_is_replaced[idle]",
        ),
        (
            "connection-cancelled-as-given",
            "if future.done() and not future.cancelled():",
            "if False:",
            "test_one_is_not_lost_if_a_task_is_cancelled_as_it_gets_it",
        ),
        (
            "connection-waiting-cancelled",
            "            if not future.done():\n                future.set_result(lent)",
            "            if True:\n                future.set_result(lent)",
            "test_a_task_that_is_cancelled_while_it_waits_takes_none_away",
        ),
    ),
    *guards(
        "storage/rows.py",
        "test_plans.py",
        (
            "merchant-number-index",
            'return f"SELECT id FROM {table} WHERE ({columns}) >= ({places}) AND ({columns}) <= ({places}) LIMIT 1"',
            'return f"SELECT id FROM {table} WHERE ({columns}) = ({places}) LIMIT 1"',
            "test_the_plans_of_all_statements",
        ),
    ),
    *guards(
        "storage/lists.py",
        "test_plans.py",
        (
            "list-of-an-app-by-its-index",
            "return [*self.more, key >= tuple_(app, self.low or FIRST_KEY), key < tuple_(app, high or LAST_KEY)]",
            "return [*self.more, table.app_id == app, *([table.id < high] if high is not None else [])]",
            "test_the_plans_of_all_statements",
        ),
    ),
    *guards(
        "services/paging.py",
        "test_bounded_lists.py",
        (
            "list-reads-so-many",
            "    if scan is None and where.reads_many:\n",
            "    if False:\n",
            "test_orders_and_refunds[shop] test_notifications[shop]",
        ),
    ),
    *guards(
        "services/kept.py",
        "test_orders_insert.py",
        (
            "kept-read-before-change",
            "        if changes != self._changes:\n            return value  # what",
            "        if False:\n            return value  # what",
            "test_what_was_read_before_a_change_is_not_kept",
        ),
        (
            "kept-forget-counts",
            "        self._changes += 1\n        self._known.pop(",
            "        self._known.pop(",
            "test_what_was_read_before_a_change_is_not_kept[False]",
        ),
        (
            "kept-forget-all-counts",
            "        self._changes += 1\n        self._known.clear()",
            "        self._known.clear()",
            "test_what_was_read_before_a_change_is_not_kept[True]",
        ),
        (
            "kept-forget",
            "        self._known.pop(key, None)\n        self._reading.pop(",
            "        self._reading.pop(",
            "test_the_app_of_a_create_is_read_once_a_second_and_after_its_change",
        ),
        (
            "kept-forget-all",
            "        self._known.clear()\n        self._reading.clear()",
            "        self._reading.clear()",
            "test_account_callbacks.py::test_a_change_of_a_channel_is_seen_at_once_by_the_process_that_makes_it",
        ),
    ),
    *guards(
        "services/channels_configured.py",
        "test_account_callbacks.py",
        (
            "channel-changed-while-read",
            "return now if changes == self._changes else",
            "return now if True else",
            "test_an_account_that_changes_while_it_is_read_is_read_again",
        ),
        (
            "channel-rows-forgotten",
            "        self._rows.forget()\n",
            "",
            "test_a_change_of_a_channel_is_seen_at_once_by_the_process_that_makes_it",
        ),
    ),
    *guards(
        "services/channels_cache.py",
        "test_account_callbacks.py",
        (
            "channel-of-code-forgotten",
            "        self._by_code.forget_all()\n",
            "",
            "test_a_change_of_a_channel_is_seen_at_once_by_the_process_that_makes_it",
        ),
        (
            "bindings-forgotten",
            "        self._bindings.forget_all()\n",
            "",
            "test_a_change_of_a_channel_is_seen_at_once_by_the_process_that_makes_it",
        ),
        (
            "bindings-read-again",
            "            self._bindings.forget(channel_id)\n",
            "            pass\n",
            "test_a_callback_of_an_account_that_another_process_gave_the_channel_is_booked",
        ),
    ),
    *guards(
        "services/orders.py",
        "test_orders_insert.py",
        (
            "app-deleted-elsewhere",
            "except ForeignKeyViolation:\n            raise apps_errors.app_not_found(app.app_key) from None",
            "except ForeignKeyViolation:\n            raise",
            "test_an_app_that_was_deleted_elsewhere_is_not_found",
        ),
    ),
    *guards(
        "storage/orders.py",
        "test_guards_orders.py",
        (
            "close-order-open-attempt",
            "AND NOT EXISTS (SELECT 1 FROM pay_attempt a WHERE a.order_id = $1 AND a.state = ANY($5))",
            "AND $5::text[] IS NOT NULL",
            "test_close_order_refuses_while_an_attempt_is_open",
        ),
        (
            "close-order-state",
            "WHERE t.id = $1 AND t.state = ANY($4)",
            "WHERE t.id = $1 AND $4::text[] IS NOT NULL",
            "test_close_order_refuses_what_is_paid_or_closed",
        ),
        (
            "update-price-open-attempt",
            "AND NOT EXISTS (SELECT 1 FROM pay_attempt t WHERE t.order_id = $1 AND t.state = ANY($7))",
            "AND $7::text[] IS NOT NULL",
            "test_update_price_refuses_while_an_attempt_is_open",
        ),
        (
            "update-price-old",
            "WHERE id = $1 AND amount = $2 AND state = ANY($6)",
            "WHERE id = $1 AND $2::bigint IS NOT NULL AND state = ANY($6)",
            "test_update_price_compares_the_old_price",
        ),
        (
            "update-price-state",
            "WHERE id = $1 AND amount = $2 AND state = ANY($6)",
            "WHERE id = $1 AND amount = $2 AND $6::text[] IS NOT NULL",
            "test_update_price_refuses_what_is_paid_or_closed",
        ),
        (
            "claim-orders-due",
            _DUE,
            _DUE.replace("next_check_time <= $1", "$1::timestamptz IS NOT NULL"),
            "test_guards_attempts.py::test_claimed_orders_are_due_and_not_claimed_by_another",
        ),
        (
            "claim-orders-skip",
            _DUE,
            "WHERE next_check_time <= $1 ORDER BY next_check_time LIMIT $3",
            "test_guards_attempts.py::test_claimed_orders_are_due_and_not_claimed_by_another",
        ),
        (
            "postpone-open-state",
            "WHERE t.id = ANY($1) AND t.state = ANY($5)",
            "WHERE t.id = ANY($1) AND $5::text[] IS NOT NULL",
            "test_guards_attempts.py::test_set_next_check_of_an_order_leaves_settled_ones_alone",
        ),
        (
            "order-next-check-state",
            'SET next_check_time = $2 WHERE id = $1 AND state = ANY($3)"',
            'SET next_check_time = $2 WHERE id = $1 AND $3::text[] IS NOT NULL"',
            "test_guards_attempts.py::test_set_next_check_of_an_order_leaves_settled_ones_alone",
        ),
    ),
    *guards(
        "services/attempts.py",
        "test_guards_orders.py",
        (
            "close-order-lock",
            "order_rows.lock_order(connection, order_id)",
            "order_rows.get_order(connection, order_id)",
            "test_close_order_locks_the_order",
        ),
    ),
    *guards(
        "services/orders.py",
        "test_guards_orders.py",
        (
            "update-price-lock",
            "            await order_rows.lock_order(connection, order.id)\n",
            "",
            "test_update_price_locks_the_order",
        ),
        (
            "create-compares-amount",
            '"amount": "first_amount",',
            "",
            "test_another_content_is_a_conflict_field_by_field",
        ),
    ),
    *guards(
        "services/attempts_submission.py",
        "test_guards_orders.py",
        (
            "intent-names-state",
            "        seen = await self._read(order.id)\n        await self._payable(seen)\n",
            "        seen = await self._read(order.id)\n",
            "test_intent_checks_the_state_again test_intent_waits_for_a_payment_that_becomes_a_case",
        ),
        (
            "intent-again",
            "_TRIES = 3",
            "_TRIES = 1",
            "test_a_submit_is_stored_although_the_order_has_changed_in_what_does_not_concern_it",
        ),
        ("intent-others", "if attempt.id not in tolerated:", "if False:", "test_intent_checks_the_other_attempts_again"),
        (
            "payable-paid",
            "if order.state in (OrderState.SUCCESS, OrderState.REFUND):",
            "if False:",
            "test_submit_refuses_what_cannot_be_paid[SUCCESS]",
        ),
        (
            "payable-closed",
            "if order.state is OrderState.CLOSED or order.expire_time <= now:",
            "if order.expire_time <= now:",
            "test_submit_refuses_what_cannot_be_paid[CLOSED]",
        ),
        (
            "payable-expired",
            "if order.state is OrderState.CLOSED or order.expire_time <= now:",
            "if order.state is OrderState.CLOSED:",
            "test_submit_refuses_what_cannot_be_paid[EXPIRED]",
        ),
        (
            "same-channel",
            "attempt.binding_id == configured.binding.id\n            #",
            "True\n            #",
            "test_another_channel_gets_another_number",
        ),
        (
            "same-expiry",
            "(attempt.expire_time > self._context.now() or configured.spec.attempt_life is not None)",
            "True",
            "test_an_expired_attempt_is_followed_by_another",
        ),
        ("same-amount", "and attempt.amount == order.amount", "", "test_a_new_price_gets_another_number"),
        (
            "same-extras",
            "and dict(attempt.channel_extras) == dict(new.extras)",
            "",
            "test_another_content_gets_another_number[changes2]",
        ),
        ("same-mode", "and attempt.wanted_mode == new.display_mode", "", "test_another_content_gets_another_number[changes0]"),
        (
            "same-return-url",
            "and attempt.return_url == (new.return_url or order.return_url)",
            "",
            "test_another_content_gets_another_number[changes1]",
        ),
    ),
    *guards(
        "services/payments.py",
        "test_guards_orders.py",
        (
            "surplus-counts-for-submits",
            "        await order_rows.count_for_submits(transaction, order.id)\n",
            "",
            "test_intent_waits_for_a_payment_that_becomes_a_case",
        ),
    ),
    *guards(
        "storage/attempts.py",
        "test_guards_attempts.py",
        (
            "attempt-state",
            "WHERE id = $1 AND state = ANY($3) AND {condition} FOR",
            "WHERE id = $1 AND $3::text[] IS NOT NULL AND {condition} FOR",
            "test_unclear_leaves_a_settled_attempt_alone "
            "test_close_attempt_leaves_a_settled_attempt_alone "
            "test_guards_settlement.py::test_pay_late_leaves_a_paid_attempt_alone",
        ),
        (
            "attempt-lock",
            "AND {condition} FOR NO KEY UPDATE)",
            "AND {condition})",
            "test_a_change_of_an_attempt_waits_for_a_booking",
        ),
        (
            "close-attempt-unshown",
            "(display_content = '' OR NOT $8)",
            "$8::boolean IS NOT NULL",
            "test_a_refusal_closes_only_an_attempt_without_display_content",
        ),
        (
            "begin-cancel-paid",
            "WHERE id = $1 AND state = ANY($4)\n             FOR NO KEY UPDATE",
            "WHERE id = $1 AND $4::text[] IS NOT NULL\n             FOR NO KEY UPDATE",
            "test_begin_cancel_refuses_a_paid_attempt test_begin_cancel_waits_for_a_booking",
        ),
        (
            "begin-cancel-lock",
            "WHERE id = $1 AND state = ANY($4)\n             FOR NO KEY UPDATE",
            "WHERE id = $1 AND state = ANY($4)",
            "test_begin_cancel_waits_for_a_booking",
        ),
        (
            "end-cancel-own",
            "WHERE id = $1 AND cancel_until = $2",
            "WHERE id = $1 AND $2::timestamptz IS NOT NULL",
            "test_end_cancel_leaves_another_cancellation_alone",
        ),
        (
            "look-again-paid",
            "least(coalesce(next_check_time, $2), $2) WHERE id = $1 AND state = ANY($3)",
            "least(coalesce(next_check_time, $2), $2) WHERE id = $1 AND $3::text[] IS NOT NULL",
            "test_look_again_leaves_a_paid_attempt_alone",
        ),
        (
            "attempt-next-check-open",
            "SET next_check_time = $2 WHERE id = $1 AND state = ANY($3)",
            "SET next_check_time = $2 WHERE id = $1 AND $3::text[] IS NOT NULL",
            "test_set_next_check_of_an_attempt_leaves_settled_ones_alone",
        ),
        (
            "attempt-next-check-only-open",
            "OPEN_ATTEMPT if only_open else UNPAID_ATTEMPT",
            "UNPAID_ATTEMPT",
            "test_set_next_check_of_an_attempt_leaves_settled_ones_alone",
        ),
        (
            "attempt-next-check-closed",
            "OPEN_ATTEMPT if only_open else UNPAID_ATTEMPT",
            'OPEN_ATTEMPT if only_open else [*UNPAID_ATTEMPT, "SUCCESS"]',
            "test_set_next_check_of_an_attempt_leaves_settled_ones_alone",
        ),
    ),
]
