"""Booking payments."""

from __future__ import annotations

from guards import Mutant, guards

_ALREADY = """            if current.state is AttemptState.SUCCESS:
                if payment.amount is not None and payment.amount != current.paid_amount:
                    await self._cases.another_amount(current, payment.amount, cause, connection)
                return Booked.ALREADY
            if not (snapshot"""

SETTLEMENT: list[Mutant] = [
    *guards(
        "services/payments.py",
        "test_fee_rates.py",
        (
            "fee-rate-of-the-attempt",
            "        rate = attempt.booked_rate(configured.channel.fee_rate_ppm)",
            "        rate = configured.channel.fee_rate_ppm",
            "test_a_payment_has_the_fee_rate_of_the_time_of_its_attempt",
        ),
    ),
    *guards(
        "services/cases_decisions.py",
        "test_fee_rates.py",
        (
            "fee-rate-of-a-late-payment",
            "        rate = attempt.booked_rate(channel.fee_rate_ppm if channel else 0)",
            "        rate = channel.fee_rate_ppm if channel else 0",
            "test_an_accepted_late_payment_has_the_fee_rate_of_the_time_of_its_attempt",
        ),
    ),
    *guards(
        "storage/payments.py",
        "test_guards_settlement.py",
        (
            "settle-order-lock",
            "WHERE id = $1 AND state = ANY($2) AND version = {_VERSION} - 1 FOR NO KEY UPDATE",
            "WHERE id = $1 AND state = ANY($2) AND version = {_VERSION} - 1",
            "test_settle_locks_the_order_so_that_two_payments_book_one",
        ),
        (
            "settle-order-state",
            "WHERE id = $1 AND state = ANY($2) AND version = {_VERSION} - 1 FOR NO KEY UPDATE",
            "WHERE id = $1 AND $2::text[] IS NOT NULL AND version = {_VERSION} - 1 FOR NO KEY UPDATE",
            "test_settle_refuses_an_order_that_is_not_waiting test_a_second_payment_of_a_paid_order_is_a_duplicate",
        ),
        (
            "settle-channel",
            "a.channel_id IS NOT DISTINCT FROM $4 AND ",
            "$4::uuid IS NOT NULL AND ",
            "test_settle_compares_the_channel",
        ),
        (
            "settle-index",
            "a.channel_id IS NOT DISTINCT FROM $4",
            "a.channel_id = $4",
            "test_plans.py::test_the_plans_of_all_statements",
        ),
        ("settle-amount", "a.amount = $5 AND ", "", "test_settle_compares_the_amount"),
        ("settle-attempt-state", "a.state = ANY($6)", "$6::text[] IS NOT NULL", "test_settle_refuses_an_attempt_that_is_settled"),
        (
            "settle-cancel-unchanged",
            "a.cancel_until IS NOT DISTINCT FROM $18",
            "$18::timestamptz IS NOT DISTINCT FROM $18",
            "test_settle_books_nothing_that_may_be_older_than_a_cancellation",
        ),
        (
            "settle-cancel-over",
            "(a.cancel_until IS NULL OR a.cancel_until <= $19)",
            "$19::timestamptz IS NOT DISTINCT FROM $19",
            "test_settle_books_nothing_while_a_cancellation_may_be_carried_out",
        ),
        (
            "settle-attempt-lock",
            "a.cancel_until <= $19) FOR NO KEY UPDATE OF a",
            "a.cancel_until <= $19)",
            "test_settle_locks_the_attempt_against_a_cancellation_that_begins",
        ),
        (
            "settle-wakes-others",
            "SET next_check_time = $12 FROM t",
            "SET next_check_time = x.next_check_time FROM t",
            "test_a_payment_wakes_the_other_open_attempts",
        ),
        (
            "settle-wakes-only-open",
            "x.id <> t.id AND x.state = ANY($11)",
            "x.id <> t.id AND $11::text[] IS NOT NULL",
            "test_a_payment_wakes_no_settled_attempt",
        ),
    ),
    *guards(
        "storage/payments_direct.py",
        "test_payments_direct.py",
        (
            "direct-hardly-waits",
            "JOIN o ON o.id = t.order_id\n    CROSS JOIN hardly_waiting\n",
            "JOIN o ON o.id = t.order_id\n",
            "test_payments_together.py::test_a_notification_that_is_locked_does_not_hold_up_the_others",
        ),
        ("direct-account", "t.account_id = g.account_id AND ", "", "test_other_facts_book_nothing[account]"),
        ("direct-binding", "t.binding_id = g.binding_id AND ", "", "test_other_facts_book_nothing[binding]"),
        (
            "direct-amount",
            "t.amount = g.amount AND ",
            "",
            "test_other_facts_book_nothing[less] test_other_facts_book_nothing[more]",
        ),
        (
            "direct-currency",
            " AND t.currency = g.currency",
            "",
            "test_other_facts_book_nothing[currency] test_other_facts_book_nothing[lower-case]",
        ),
        (
            "direct-endpoint",
            "    AND o.endpoint IS NOT NULL\n",
            "",
            "test_an_order_with_an_unusual_address_is_left_to_the_other_statement",
        ),
        (
            "direct-order-state",
            "    AND p.state = ANY({listed(sources(ORDER, OrderEvent.PAID))}) FOR",
            "    FOR",
            "test_other_states_book_nothing[closed-order] test_other_states_book_nothing[paid-order]",
        ),
        (
            "direct-attempt-state",
            "    AND a.state = ANY({listed(OPEN_ATTEMPT)}) AND a.cancel_until",
            "    AND a.cancel_until",
            "test_other_states_book_nothing[closed-attempt] test_other_states_book_nothing[paid-attempt]",
        ),
        (
            "direct-cancelled",
            " AND a.cancel_until IS NULL FOR",
            " FOR",
            "test_other_states_book_nothing[cancelled] test_other_states_book_nothing[cancelling] "
            "test_guards_callbacks.py::test_while_a_cancellation_is_undecided_a_message_is_not_acknowledged",
        ),
        (
            "direct-order-lock",
            "sources(ORDER, OrderEvent.PAID))}) FOR NO KEY UPDATE SKIP LOCKED",
            "sources(ORDER, OrderEvent.PAID))})",
            "test_an_order_that_is_locked_holds_nothing_up",
        ),
        (
            "direct-attempt-lock",
            "a.cancel_until IS NULL FOR NO KEY UPDATE SKIP LOCKED",
            "a.cancel_until IS NULL",
            "test_an_attempt_that_is_locked_is_not_booked",
        ),
        (
            "direct-waits-for-no-order",
            "sources(ORDER, OrderEvent.PAID))}) FOR NO KEY UPDATE SKIP LOCKED",
            "sources(ORDER, OrderEvent.PAID))}) FOR NO KEY UPDATE",
            "test_an_order_that_is_locked_holds_nothing_up",
        ),
        (
            "direct-one-of-an-order",
            "SELECT DISTINCT ON (o.id) g.n",
            "SELECT g.n",
            "test_of_two_attempts_of_one_order_the_first_is_booked[0]",
        ),
        (
            "direct-first-of-an-order",
            "  ORDER BY o.id, g.n\n",
            "  ORDER BY o.id, g.n DESC\n",
            "test_of_the_same_payment_twice_the_first_counts test_of_two_attempts_of_one_order_the_first_is_booked[0]",
        ),
        (
            "direct-version",
            "p.version + 1 AS version",
            "p.version + 2 AS version",
            "test_older_open_notifications_of_the_order_are_superseded_and_noted test_it_stores_what_the_other_statement_stores",
        ),
        (
            "direct-wakes-others",
            "SET next_check_time = b.at FROM booked b\n",
            "SET next_check_time = x.next_check_time FROM booked b\n",
            "test_the_other_open_attempts_are_due_and_closed_ones_are_not",
        ),
        (
            "direct-wakes-only-open",
            "\n    AND x.state = ANY({listed(OPEN_ATTEMPT)}) AND x.id",
            "\n    AND x.id",
            "test_the_other_open_attempts_are_due_and_closed_ones_are_not",
        ),
        (
            "direct-others-in-order",
            "ORDER BY x.id FOR NO KEY UPDATE",
            "ORDER BY x.id DESC FOR NO KEY UPDATE",
            "test_the_other_attempts_are_locked_in_the_order_of_their_keys",
        ),
        (
            "direct-own-cause",
            "g.at, g.actor_kind, g.actor, g.evidence",
            "g.at, g.actor_kind, g.actor, first_value(g.evidence) OVER () AS evidence",
            "test_each_payment_has_its_own_values",
        ),
        (
            "direct-fee-rate",
            "coalesce(t.fee_rate_ppm, g.fee_rate_ppm) AS rate",
            "g.fee_rate_ppm AS rate",
            "test_the_fee_rate_is_that_of_the_attempt_or_of_now",
        ),
        (
            "direct-fee-rounding",
            "({amount} * {rate} * 2 + {PPM}) / {2 * PPM}",
            "({amount} * {rate}) / {PPM}",
            "test_the_fee_in_sql_is_that_of_the_domain",
        ),
    ),
    *guards(
        "services/payments_direct.py",
        "test_payments_together.py",
        (
            "direct-wake-up",
            "        if any(booked):\n            self._context.wake_up.send()\n",
            "",
            "test_what_was_reported_is_booked_although_every_caller_goes_away",
        ),
        control=False,
    ),
    *guards(
        "services/payments_direct.py",
        "test_payments_direct.py",
        (
            "direct-lock-timeout",
            "        except LockTimeout:\n            return False\n",
            "        except LockTimeout:\n            raise\n",
            "test_payments_together.py::test_a_notification_that_is_locked_does_not_hold_up_the_others",
        ),
        (
            "direct-account-facts",
            " or configured.differing_fact(payment.account, now):",
            ":",
            "test_odd_facts_are_not_given_to_the_statement[account-value9] "
            "test_odd_facts_are_not_given_to_the_statement[account-value10]",
        ),
        (
            "direct-refunded",
            "payment.refunded is not Refunded.NOTHING or configured",
            "configured",
            "test_odd_facts_are_not_given_to_the_statement[refunded-SOME] "
            "test_odd_facts_are_not_given_to_the_statement[refunded-ALL]",
        ),
        (
            "direct-possible-amount",
            "not 0 < payment.amount <= MAX_AMOUNT",
            "payment.amount == -1",
            "test_odd_facts_are_not_given_to_the_statement[amount-0] "
            "test_odd_facts_are_not_given_to_the_statement[amount-1180591620717411303424]",
        ),
    ),
    *guards(
        "services/callbacks.py",
        "test_guards_callbacks.py",
        (
            "direct-only-paid",
            " or outcome.status is not QueryStatus.PAID or callback.refund",
            " or callback.refund",
            "test_only_a_payment_that_is_paid_is_booked",
        ),
        (
            "direct-only-a-payment",
            " is not QueryStatus.PAID or callback.refund is not None:",
            " is not QueryStatus.PAID:",
            "test_a_message_about_a_payment_and_a_refund_is_stored_whole",
        ),
    ),
    *guards(
        "services/payments.py",
        "test_guards_settlement.py",
        (
            "book-another-amount-meanwhile",
            "                if payment.amount is not None and payment.amount != current.paid_amount:",
            "                if False:",
            "test_lying_answers.py::test_another_amount_at_the_moment_of_the_booking_is_a_case",
        ),
        (
            "book-another-amount",
            "            if payment.amount != attempt.paid_amount:",
            "            if False:",
            "test_lying_answers.py::test_another_amount_of_a_booked_payment_is_a_case",
        ),
        (
            "book-currency",
            "payment.amount == attempt.amount and payment.currency == attempt.currency and payment.refunded",
            "payment.amount == attempt.amount and payment.refunded",
            "test_another_currency_is_not_booked",
        ),
        (
            "book-amount",
            "payment.amount == attempt.amount and payment.currency == attempt.currency and payment.refunded",
            "payment.currency == attempt.currency and payment.refunded",
            "test_another_amount_is_not_booked test_money_rules.py::test_rule_4_a_wrong_amount_is_never_booked",
        ),
        (
            "book-refunded",
            "payment.currency == attempt.currency and payment.refunded is Refunded.NOTHING\n",
            "payment.currency == attempt.currency\n",
            "test_refunds_elsewhere.py::test_paid_and_refunded_before_the_first_report[wx_native-v3]",
        ),
        (
            "book-account-of-number",
            "if known is None or known.attempt.account_id != configured.account.id:",
            "if known is None:",
            "test_a_payment_of_another_accounts_number_is_not_booked "
            "test_reference_faults.py::test_R26_an_account_settles_only_its_own_numbers",
        ),
        (
            "book-known-number",
            "if known is None or known.attempt.out_trade_no != payment.out_trade_no:",
            "if known is None:",
            "test_what_is_known_of_another_number_books_nothing",
        ),
        (
            "book-account",
            "        compare_account(configured, payment.account, self._context.now())\n",
            "",
            "test_money_rules.py::test_rule_4_a_message_without_amount_fails_closed "
            "test_reference_security.py::test_S2_the_account_of_a_message_is_compared",
        ),
        (
            "book-names-currency",
            "payment.amount <= 0 or not payment.currency:",
            "payment.amount <= 0:",
            "test_money_rules.py::test_rule_4_a_message_without_amount_fails_closed",
        ),
        (
            "surplus-kind-currency",
            "        if payment.currency != attempt.currency:\n            return CaseKind.WRONG_CURRENCY\n",
            "",
            "test_another_currency_is_not_booked",
        ),
        (
            "surplus-kind-amount",
            "        if payment.amount != attempt.amount:\n            return CaseKind.WRONG_AMOUNT\n",
            "",
            "test_another_amount_is_not_booked",
        ),
        (
            "surplus-kind-old-price",
            "        if attempt.amount != order.amount:\n            return CaseKind.WRONG_AMOUNT\n",
            "",
            "test_a_payment_at_an_old_price_is_not_booked test_reference_faults.py::test_R5_a_payment_at_the_old_price_is_surplus",
        ),
        (
            "surplus-policy",
            " if app.policy(kind) is SurplusPolicy.ACCEPT else None",
            "",
            "test_a_late_payment_is_accepted_only_by_policy",
        ),
        (
            "surplus-order-lock",
            "lock_order(connection, attempt.order_id)",
            "get_order(connection, attempt.order_id)",
            "test_surplus_locks_the_order",
        ),
        (
            "surplus-attempt-lock",
            "current = await attempt_rows.lock_attempt(connection, attempt.id)",
            "current = await attempt_rows.get_attempt(connection, attempt.id)",
            "test_surplus_locks_the_attempt",
        ),
        (
            "surplus-already",
            _ALREADY,
            "            if not (snapshot",
            "test_the_same_payment_reported_twice_at_once_is_booked_once",
        ),
        (
            "surplus-cancelled",
            "if not (snapshot.counts(current.cancel_until) if snapshot else current.cancel_until is None):",
            "if False:",
            "test_a_late_payment_that_is_being_cancelled_is_not_refunded",
        ),
    ),
    *guards(
        "services/refunds_numbers.py",
        "test_guards_settlement.py",
        (
            "console-refund-lock",
            "await attempt_rows.lock_attempt(connection, attempt.id)",
            "await attempt_rows.get_attempt(connection, attempt.id)",
            "test_two_reports_of_the_same_conflict_make_one_case[True]",
        ),
    ),
    *guards(
        "storage/attempts.py",
        "test_guards_settlement.py",
    ),
    *guards(
        "domain/apps.py",
        "test_guards_settlement.py",
        ("surplus-refund-currency", " if Decision.REFUND in DECISIONS[kind] else ()", "", "test_another_currency_is_not_booked"),
    ),
    *guards(
        "services/cases.py",
        "test_guards_settlement.py",
        (
            "conflict-lock",
            "await attempt_rows.lock_attempt(transaction, attempt.id)",
            "await attempt_rows.get_attempt(transaction, attempt.id)",
            "test_two_reports_of_the_same_conflict_make_one_case[False]",
        ),
    ),
    *guards(
        "services/cases.py",
        "test_refunds_elsewhere.py",
        (
            "conflict-open",
            "if attempt is not None and await case_rows.open_conflict(transaction, attempt.id, whole) is not None:",
            "if False:",
            "test_a_refund_reported_before_its_payment[wx_native-v3]",
        ),
    ),
]
