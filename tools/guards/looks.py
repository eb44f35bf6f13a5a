"""Second looks: a refusal decides only when nothing can be carried out any more, and final states are looked at again."""

from __future__ import annotations

from guards import Mutant, guards

_ROOM = "paid_amount >= refunded_amount + reserved_amount + $2\n                 AND EXISTS"
_LATE = "AND EXISTS (SELECT 1 FROM pay_refund WHERE id = $5 AND out_refund_key = $6 AND state = ANY($7))"

LOOKS: list[Mutant] = [
    *guards(
        "storage/refunds.py",
        "test_second_looks.py",
        (
            "fail-unclear",
            "AND ($12 OR known_time IS NULL AND ({_UNCLEAR} IS NULL OR {_UNCLEAR} <= $11))",
            "AND ($12 OR known_time IS NULL AND coalesce($9::timestamptz, $10::timestamptz, $11::timestamptz, now()) IS NOT NULL)",
            "test_A2_a_refusal_after_an_unclear_send_decides_nothing[wx_native] test_a_bare_refusal_is_not",
        ),
        (
            "fail-too-early",
            "OR {_UNCLEAR} <= $11))",
            "OR $11::timestamptz IS NOT NULL))",
            "test_A2_a_refusal_after_an_unclear_send_decides_nothing[alipay_qr]",
        ),
        (
            "unclear-own-send",
            "CASE WHEN unclear_send_time = $9 THEN $10 ELSE",
            "CASE WHEN $9::timestamptz IS NOT NULL THEN $10 ELSE",
            "test_a_clear_answer_ends_its_own_send_only",
        ),
        (
            "late-room",
            _ROOM,
            "$2::bigint IS NOT NULL\n                 AND EXISTS",
            "test_a_late_success_that_the_payment_has_no_room_for_is_a_case",
        ),
        (
            "late-state",
            _LATE,
            "AND $5::uuid IS NOT NULL AND $6::uuid IS NOT NULL AND $7::text[] IS NOT NULL",
            "test_late_success_changes_no_order_unless_the_refund_failed",
        ),
    ),
    *guards(
        "storage/refunds_numbers.py",
        "test_second_looks.py",
        (
            "send-begins-unclear",
            "next_check_time = $4, unclear_send_time = $3,",
            "next_check_time = $4,",
            "test_a_send_under_a_new_number_is_unclear_until_it_is_answered",
        ),
    ),
    *guards(
        "services/refunds_settlement.py",
        "test_second_looks.py",
        (
            "unanswered-send",
            "return sending if outcome.not_sent or outcome.status not in (RefundStatus.UNKNOWN, RefundStatus.PENDING) else None",
            "return sending",
            "test_A2_a_refusal_after_an_unclear_send_decides_nothing[wx_native]",
        ),
        (
            "accepted-send",
            "not in (RefundStatus.UNKNOWN, RefundStatus.PENDING) else",
            "is not RefundStatus.UNKNOWN else",
            "test_known_refunds.py::test_what_is_not_found_for_a_day_is_a_case_whose_decision_ends_it",
        ),
        (
            "again-unclear",
            "            await self._note_query(refund, outcome)\n"
            "            raise channels_errors.channel_unclear(refund.channel_code)",
            "            await self._note_query(refund, outcome)",
            "test_a_number_that_may_still_succeed_blocks_sending_again",
        ),
        (
            "again-conflict",
            "        if conflict is not None and",
            "        if False and",
            "test_an_open_conflict_blocks_sending_again",
        ),
        (
            "second-look-of-refunds",
            "when = soon if undecided else next_look(",
            "when = soon if undecided else None and next_look(",
            "test_a_failed_refund_is_looked_at_in_minutes_an_hour_and_a_day",
        ),
        (
            "second-look-that-cannot-book",
            "            await self._apply_or_note(configured, refund, outcome, None)\n        else:",
            "            await self._apply_or_note(configured, refund, outcome, None)\n            return\n        else:",
            "test_the_looks_at_a_success_that_cannot_be_booked_end",
        ),
    ),
    *guards(
        "services/refunds_settlement.py",
        "test_earlier_numbers.py",
        (
            "earlier-looked-at",
            "held = refund.send_count > 1 and await self._look_at_earlier(configured, refund, asked=asked)",
            "held = False",
            "test_an_earlier_number_that_succeeds_is_found_after_the_refund_succeeded[job]",
        ),
        (
            "earlier-succeeded-no-send",
            "            if held or await self._went_back_before(refund):",
            "            if held:",
            "test_a_refund_is_not_sent_again_after_an_earlier_number_succeeded",
        ),
        (
            "earlier-in-progress-no-send",
            "            if held or await self._went_back_before(refund):",
            "            if await self._went_back_before(refund):",
            "test_a_refund_is_not_sent_again_while_an_earlier_number_is_in_progress",
        ),
    ),
    *guards(
        "services/refunds_numbers.py",
        "test_earlier_numbers.py",
        (
            "earlier-only-when-due",
            "for key in due or (numbers.keys[-EARLIER_AT_ONCE:] if asked else ()):",
            "for key in numbers.keys:",
            "test_two_earlier_numbers_are_looked_at_at_once_and_the_others_follow",
        ),
        (
            "earlier-unclear",
            "            if status not in (RefundStatus.PENDING, RefundStatus.UNKNOWN):",
            "            if status is not None:",
            "test_an_unclear_look_at_an_earlier_number_is_repeated_soon",
        ),
        (
            "earlier-facts",
            "                self._compare(configured, earlier, outcome.facts)",
            "                pass",
            "test_a_look_at_another_amount_books_nothing",
        ),
    ),
    *guards(
        "storage/refunds.py",
        "test_earlier_numbers.py",
        (
            "success-keeps-earlier-look",
            "next_check_time = earlier_look_time, channel_error_code = NULL, channel_error_message = NULL, version",
            "next_check_time = NULL, channel_error_code = NULL, channel_error_message = NULL, version",
            "test_refunds_together.py::test_a_success_is_due_for_the_looks_at_earlier_numbers[alone]",
        ),
        (
            "late-success-keeps-earlier-look",
            "channel_error_message = NULL, next_check_time = earlier_look_time, version",
            "channel_error_message = NULL, next_check_time = NULL, version",
            "test_a_late_success_keeps_the_looks_at_earlier_numbers",
        ),
        (
            "failed-keeps-earlier-look",
            "CASE WHEN earlier_look_time <= $5 THEN next_check_time ELSE earlier_look_time END)",
            "CASE WHEN $5 < to_timestamp(0) THEN $5 END)",
            "test_the_last_look_at_a_failed_refund_leaves_those_at_earlier_numbers",
        ),
        (
            "unclear-earlier-look-waits",
            "CASE WHEN earlier_look_time <= $5 THEN next_check_time ELSE",
            "CASE WHEN $5 < to_timestamp(0) THEN next_check_time ELSE",
            "test_an_unclear_look_at_an_earlier_number_of_a_failed_refund_is_not_repeated_at_once",
        ),
    ),
    *guards(
        "storage/refunds_numbers.py",
        "test_earlier_numbers.py",
        (
            "replaced-is-looked-at",
            "earlier_look_time = least(earlier_look_time, $7),",
            "earlier_look_time = CASE WHEN $7::timestamptz IS NULL THEN $7 END,",
            "test_an_earlier_number_that_succeeds_is_found_after_the_refund_succeeded[job]",
        ),
        (
            "looks-of-the-number",
            "WHERE id = $1 AND out_refund_key = $2 AND earlier_look_time = $3",
            "WHERE id = $1 AND $2::uuid IS NOT NULL AND earlier_look_time = $3",
            "test_looks_are_not_stored_over_those_of_a_newer_number",
        ),
        (
            "looks-stored-once",
            "WHERE id = $1 AND out_refund_key = $2 AND earlier_look_time = $3",
            "WHERE id = $1 AND out_refund_key = $2 AND $3::timestamptz IS NOT NULL",
            "test_looks_are_not_stored_over_those_of_a_newer_number",
        ),
    ),
    *guards(
        "domain/refunds.py",
        "test_earlier_numbers.py",
        (
            "earlier-due",
            "for when, key in self._left() if when <= now",
            "for when, key in self._left()",
            "test_numbers_are_due_by_the_time_at_which_they_were_replaced",
        ),
        (
            "earlier-left",
            "if when > now or key not in looked_at",
            "if when > now",
            "test_numbers_are_due_by_the_time_at_which_they_were_replaced",
        ),
    ),
    *guards(
        "services/jobs.py",
        "test_earlier_numbers.py",
        (
            "stale-earlier-looks",
            "            stale_time = refund.update_time + VERIFIED_AFTER",
            "            stale_time = refund.update_time + 2 * VERIFIED_AFTER",
            "test_looks_at_an_earlier_number_without_an_answer_become_stale",
        ),
    ),
    *guards(
        "services/refunds.py",
        "test_second_looks.py",
        (
            "again-looks-first",
            "        if existing.state is not RefundState.FAILURE:\n            return existing  # it",
            "        if False:\n            return existing  # it",
            "test_a_refund_that_succeeds_late_is_booked_and_told[send_again]",
        ),
        (
            "sync-failed",
            "        if refund.state is not RefundState.SUCCESS or refund.send_count > 1 or",
            "        if refund.state is RefundState.WAITING or refund.send_count > 1 or",
            "test_a_refund_that_succeeds_late_is_booked_and_told[sync]",
        ),
        (
            "sync-earlier",
            "        if refund.state is not RefundState.SUCCESS or refund.send_count > 1 or",
            "        if refund.state is not RefundState.SUCCESS or",
            "test_earlier_numbers.py::test_an_earlier_number_that_succeeds_is_found_after_the_refund_succeeded[sync]",
        ),
    ),
    *guards(
        "services/attempts.py",
        "test_second_looks.py",
        (
            "first-look",
            "        return next_look(CLOSED_ATTEMPT, now, now)",
            "        return None if now else next_look(CLOSED_ATTEMPT, now, now)",
            "test_a_closed_attempt_is_looked_at_in_minutes_an_hour_and_a_day",
        ),
    ),
    *guards(
        "services/jobs.py",
        "test_second_looks.py",
        (
            "second-look-of-attempts",
            "            when = next_look(CLOSED_ATTEMPT, since, now)",
            "            when = None if since else now",
            "test_a_closed_attempt_is_looked_at_in_minutes_an_hour_and_a_day",
        ),
        (
            "look-while-payable",
            "        elif settled is SettleResult.STILL_PAYABLE and now < ends:",
            "        elif False:",
            "test_what_stays_payable_is_looked_at_until_its_expiry",
        ),
    ),
    *guards(
        "services/orders.py",
        "test_second_looks.py",
        (
            "sync-closed",
            "        if order.state not in (OrderState.WAITING, OrderState.CLOSED):",
            "        if order.state is not OrderState.WAITING:",
            "test_a_closed_attempt_that_was_paid_is_found[sync]",
        ),
        (
            "first-content",
            '"amount": "first_amount"',
            '"amount": "amount"',
            "test_the_same_create_after_a_price_change_answers_the_order",
        ),
    ),
    *guards(
        "services/jobs.py",
        "test_second_looks.py",
        (
            "stale-attempt-first",
            "            await self._cases.stale_attempt(attempt)",
            "            pass",
            "test_an_attempt_that_only_raises_exceptions_becomes_stale",
        ),
        (
            "stale-refund-first",
            "            await self._cases.stale_refund(refund)",
            "            pass",
            "test_a_refund_that_only_raises_exceptions_becomes_stale",
        ),
        (
            "stale-since-sent",
            "time_of(refund.out_refund_key) + STALE_AFTER",
            "refund.create_time + STALE_AFTER",
            "test_a_refund_that_is_sent_again_is_not_stale_at_once",
        ),
    ),
    *guards(
        "storage/cases.py",
        "test_second_looks.py",
        (
            "case-comes-again",
            "    OR update_time > ${_RESOLVED})",
            "    OR ${_RESOLVED} IS NOT NULL)",
            "test_a_stale_case_comes_again_a_day_after_it_was_resolved",
        ),
    ),
    *guards(
        "bootstrap.py",
        "test_second_looks.py",
        (
            "database-time",
            "        clock.set(await read_time(connection), begun)",
            "        await read_time(connection)",
            "test_a_process_whose_clock_is_wrong_has_the_time_of_the_database",
        ),
    ),
    *guards(
        "storage/refunds.py",
        "test_known_refunds.py",
        (
            "known-not-failed",
            "AND ($12 OR known_time IS NULL AND (",
            "AND ($12 OR (",
            "test_what_was_accepted_is_not_ended_by_a_refusal[wx_native] "
            "test_what_was_accepted_is_not_ended_by_a_refusal[alipay_qr] "
            "test_an_acceptance_that_is_stored_at_the_same_moment_stops_the_failure",
        ),
        (
            "known-stored",
            "known_time = CASE WHEN $11 THEN coalesce(known_time, $6) ELSE known_time END",
            "known_time = CASE WHEN $11 AND false THEN $6 ELSE known_time END",
            "test_what_a_query_names_is_not_ended_by_a_refusal[PENDING] "
            "test_what_a_query_names_is_not_ended_by_a_refusal[another-amount] "
            "test_what_a_query_names_is_not_ended_by_a_refusal[an-unknown-state]",
        ),
        (
            "known-kept",
            "known_time = CASE WHEN $11 THEN coalesce(known_time, $6) ELSE known_time END",
            "known_time = CASE WHEN $11 THEN coalesce(known_time, $6) END",
            "test_what_was_accepted_stays_known_after_an_answer_that_does_not_say_so",
        ),
        (
            "known-ends-with-facts",
            "unclear_send_time = NULL, known_time = NULL,",
            "unclear_send_time = NULL,",
            "test_facts_end_what_the_channel_knows test_what_is_not_found_for_a_day_is_a_case_whose_decision_ends_it",
        ),
        (
            "known-looked-at-soon",
            "coalesce(CASE WHEN known_time IS NOT NULL THEN $6::timestamptz END, $3)",
            "coalesce(CASE WHEN $6::timestamptz IS NULL THEN $6 END, $3)",
            "test_a_failed_one_that_stays_unclear_is_a_case_whose_decision_lets_it_be_sent",
        ),
    ),
    *guards(
        "storage/refunds_numbers.py",
        "test_known_refunds.py",
        (
            "known-not-sent-again",
            "state = ANY($6) AND known_time IS NULL",
            "state = ANY($6)",
            "test_what_becomes_known_while_it_is_sent_again_is_not_sent",
        ),
        (
            "known-is-looked-at",
            "next_check_time = CASE WHEN $3 THEN coalesce(next_check_time, $4) ELSE next_check_time END",
            "next_check_time = next_check_time",
            "test_a_failed_one_whose_looks_have_ended_is_looked_at_when_the_channel_names_it",
        ),
    ),
    *guards(
        "services/refunds_numbers.py",
        "test_known_refunds.py",
        (
            "known-by-acceptance",
            "return True if outcome.status is RefundStatus.PENDING else None",
            "return None",
            "test_what_was_accepted_is_not_ended_by_a_refusal[alipay_qr]",
        ),
        (
            "known-number",
            "(facts.out_refund_no, facts.out_trade_no) != (refund.out_refund_no, refund.out_trade_no):\n        return None\n",
            "facts is None:\n        return None\n",
            "test_an_answer_about_another_number_says_nothing_of_this_one",
        ),
    ),
    *guards(
        "services/refunds_booking.py",
        "test_known_refunds.py",
        (
            "known-by-a-slow-answer",
            "        if known and not done:",
            "        if False:",
            "test_what_failed_and_is_known_is_not_sent_under_a_new_number[late-answer]",
        ),
        (
            "known-by-other-facts",
            "because, None, knows(refund, outcome))",
            "because, None)",
            "test_what_a_query_names_is_not_ended_by_a_refusal[another-amount]",
        ),
        (
            "known-until-its-case",
            "            await number_rows.set_known(transaction, about, False, now)",
            "            pass",
            "test_a_late_success_without_room_is_held_by_its_case",
        ),
    ),
    *guards(
        "services/refunds_settlement.py",
        "test_known_refunds.py",
        (
            "known-by-a-callback",
            "await self._note_event(refund, CALLBACK_RECEIVED, cause, knows(refund, outcome))",
            "await self._note_event(refund, CALLBACK_RECEIVED, cause)",
            "test_what_a_callback_names_is_not_ended_by_a_refusal "
            "test_what_failed_and_is_known_is_not_sent_under_a_new_number[callback]",
        ),
        (
            "known-ends-with-a-callback",
            "CALLBACK_REPEATED, cause, False if ended else None)",
            "CALLBACK_REPEATED, cause)",
            "test_facts_let_a_failed_one_be_sent_again",
        ),
        (
            "known-under-review",
            "        if current is not None and current.state is RefundState.FAILURE and current.known_time is not None:",
            "        if False:",
            "test_what_failed_and_is_known_is_not_sent_under_a_new_number[look]",
        ),
        (
            "known-looked-at-soon-if-failed",
            "when, now, soon if refund.state is RefundState.FAILURE else None)",
            "when, now)",
            "test_a_failed_one_that_stays_unclear_is_a_case_whose_decision_lets_it_be_sent",
        ),
    ),
    *guards(
        "services/cases_decisions.py",
        "test_known_refunds.py",
        (
            "known-since-the-query",
            "(current.state, current.out_refund_key, current.known_time) != as_queried:",
            "(current.state, current.out_refund_key, None) != as_queried:",
            "test_what_becomes_known_while_its_case_is_decided_is_not_decided[ACCEPT]",
        ),
        (
            "known-ends-by-a-decision",
            "                await number_rows.set_known(transaction, refund, False, now)",
            "                pass",
            "test_a_failed_one_that_stays_unclear_is_a_case_whose_decision_lets_it_be_sent",
        ),
        (
            "known-ends-for-its-number",
            "            elif same:\n                await number_rows",
            "            else:\n                await number_rows",
            "test_a_decision_about_an_earlier_number_says_nothing_of_this_one",
        ),
    ),
]
