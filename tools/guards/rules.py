"""The guards of the rules (`test_money_rules.py`) and against the reference's faults (R1, S1, …)."""

from __future__ import annotations

from guards import Mutant, guards

_FREES = """refunded_amount = refunded_amount + done.amount,
               reserved_amount = reserved_amount - done.amount,"""
_NOT_FOUND = "        if outcome.status is RefundStatus.NOT_FOUND:\n            await self._note_query(refund, outcome)\n"

RULES: list[Mutant] = [
    *guards(
        "domain/guard.py",
        "test_money_rules.py",
        (
            "guard-in-transaction",
            "    if _open.get():",
            "    if False:",
            "test_rule_1_the_guard_refuses_to_send_inside_a_transaction",
        ),
    ),
    *guards(
        "services/attempts_submission.py",
        "test_reference_faults.py",
        (
            "r1-close-others",
            "            settled = await self._attempts.settle_or_close(attempt)\n            if settled is SettleResult.PAID:\n"
            "                raise await self._attempts.found_paid(attempt.order_id)\n            if settled in",
            "            settled = SettleResult.STILL_PAYABLE\n            if settled in",
            "test_R1_only_one_attempt_stays_payable_where_the_channel_can_close",
        ),
        (
            "r1-intent-others",
            "if attempt.id not in tolerated:",
            "if False:",
            "test_R1_two_submits_at_once_leave_one_attempt_payable",
        ),
        (
            "r2-longest-life",
            "for life in (spec.attempt_life, spec.longest_life)",
            "for life in (spec.attempt_life,)",
            "test_R2_expiry_goes_to_every_channel_and_equals_ours",
        ),
        (
            "s9-submit",
            "if configured.spec.development_only and self._context.options.production:",
            "if False:",
            "test_reference_security.py::test_S9_mock_is_refused_in_production",
        ),
        (
            "channel-enabled",
            "        if not channel.enabled:\n",
            "        if False:\n",
            "test_submit.py::test_disabled_channel_and_expired_order",
        ),
    ),
    *guards(
        "services/channels.py",
        "test_reference_security.py",
        (
            "s9-create",
            "if spec.development_only and self._context.options.production:",
            "if False:",
            "test_S9_mock_is_refused_in_production",
        ),
    ),
    *guards(
        "storage/attempts_submission.py",
        "test_reference_faults.py",
        (
            "r1-intent-version",
            " AND t.submit_version = g.submit_version)",
            ")",
            "test_R1_two_submits_at_once_leave_one_attempt_payable",
        ),
    ),
    *guards(
        "storage/payments_direct.py",
        "test_reference_faults.py",
        (
            "r1-wakes-others",
            "SET next_check_time = b.at FROM booked b\n",
            "SET next_check_time = x.next_check_time FROM booked b\n",
            "test_R1_what_cannot_be_closed_is_closed_as_soon_as_another_is_paid",
        ),
    ),
    *guards(
        "services/orders.py",
        "test_reference_faults.py",
        (
            "r2-whole-seconds",
            "expire_time=expire_time.replace(microsecond=0)",
            "expire_time=expire_time",
            "test_R2_expiry_goes_to_every_channel_and_equals_ours",
        ),
        (
            "r4-closes-at-channel",
            "        await self._attempts.close_all(order.id)\n        if await",
            "        for one in await self.attempts(order):\n            await self._attempts.give_up_on(one)\n        if await",
            "test_R4_a_payment_of_a_cancelled_order_becomes_a_case",
        ),
    ),
    *guards(
        "services/payments.py",
        "test_reference_faults.py",
        (
            "r4-late-payment",
            "        return CaseKind.LATE_PAYMENT if order.state is OrderState.CLOSED else None",
            "        return None if order.state is OrderState.CLOSED else None",
            "test_R4_a_payment_of_a_cancelled_order_becomes_a_case",
        ),
        (
            "s2-amount",
            "payment.amount == attempt.amount and payment.currency == attempt.currency and payment.refunded",
            "payment.currency == attempt.currency and payment.refunded",
            "test_reference_security.py::test_S2_the_amount_of_a_message_is_compared",
        ),
        (
            "s2-kind-amount",
            "        if payment.amount != attempt.amount:\n            return CaseKind.WRONG_AMOUNT\n",
            "",
            "test_reference_security.py::test_S2_the_amount_of_a_message_is_compared",
        ),
    ),
    *guards(
        "storage/orders.py",
        "test_reference_faults.py",
        (
            "r4-open-attempt",
            "AND NOT EXISTS (SELECT 1 FROM pay_attempt a WHERE a.order_id = $1 AND a.state = ANY($5))",
            "AND $5::text[] IS NOT NULL",
            "test_R4_an_attempt_that_is_made_meanwhile_keeps_the_order_open",
        ),
    ),
    *guards(
        "services/refunds_settlement.py",
        "test_reference_faults.py",
        (
            "r7-not-found-fails",
            _NOT_FOUND,
            "        if outcome.status is RefundStatus.NOT_FOUND:\n            outcome = replace(outcome, "
            "status=RefundStatus.FAILED)\n            sending = Sending(asked, None)\n        if False:\n",
            "test_reference_refunds.py::test_R7_the_refund_job_cannot_fail_a_refund_in_progress",
        ),
        (
            "r7-not-found-waits",
            _NOT_FOUND,
            "        if False:\n",
            "test_reference_refunds.py::test_R7_the_refund_job_cannot_fail_a_refund_in_progress",
        ),
    ),
    *guards(
        "services/refunds_booking.py",
        "test_reference_faults.py",
        (
            "r6-unknown-fails",
            "        if outcome.status is RefundStatus.FAILED:\n            self._compare",
            "        if outcome.status in (RefundStatus.FAILED, RefundStatus.UNKNOWN):\n            self._compare",
            "test_reference_refunds.py::test_R6_a_query_without_an_answer_is_not_a_failure",
        ),
    ),
    *guards(
        "storage/refunds.py",
        "test_reference_faults.py",
        (
            "r9-adds",
            "refunded_amount = refunded_amount + done.amount",
            "refunded_amount = (SELECT p.refunded_amount FROM pay_order p WHERE p.id = done.order_id) + done.amount",
            "test_reference_refunds.py::test_R9_two_refunds_that_finish_together_are_both_counted",
        ),
        (
            "r9-frees",
            _FREES,
            _FREES.replace("= reserved_amount -", "= (SELECT p.reserved_amount FROM pay_order p WHERE p.id = done.order_id) -"),
            "test_reference_refunds.py::test_R9_two_refunds_that_finish_together_are_both_counted",
        ),
    ),
    *guards(
        "services/attempts.py",
        "test_guards_orders.py",
        (
            "query-number",
            "if outcome.status in _DEFINITE and number != attempt.out_trade_no:",
            "if False:",
            "test_an_answer_about_another_number_decides_nothing",
        ),
    ),
    *guards(
        "services/channels_gateway.py",
        "test_guards_orders.py",
        (
            "not-after",
            "if not_after is not None and self._context.now() > not_after:",
            "if False:",
            "test_what_would_come_too_late_is_not_sent",
        ),
    ),
    *guards(
        "storage/channels.py",
        "test_guards_orders.py",
        (
            "channel-version",
            "WHERE id = $1 AND version = $2 RETURNING id",
            "WHERE id = $1 AND $2::int IS NOT NULL RETURNING id",
            "test_two_operators_do_not_overwrite_each_other",
        ),
    ),
    *guards(
        "services/attempts.py",
        "test_bar_codes.py",
        (
            "close-after",
            "if self._context.now() < attempt.create_time + configured.spec.close_after:",
            "if False:",
            "test_close_while_the_payer_confirms[v2]",
        ),
    ),
    *guards(
        "storage/cases.py",
        "test_guards_refunds.py",
        (
            "case-state",
            "WHERE id = $1 AND state = ANY($5) FOR NO KEY UPDATE",
            "WHERE id = $1 AND $5::text[] IS NOT NULL FOR NO KEY UPDATE",
            "test_a_resolved_case_stays_so",
        ),
    ),
    *guards(
        "services/jobs.py",
        "test_reference_faults.py",
        (
            "r1-job-closes",
            "        if order.state is not OrderState.WAITING or attempt.expire_time <= self._context.now():",
            "        if attempt.expire_time <= self._context.now():",
            "test_R1_what_cannot_be_closed_is_closed_as_soon_as_another_is_paid",
        ),
    ),
    *guards(
        "services/context.py",
        "test_grpc_server.py",
        (
            "to-the-end",
            "return await asyncio.shield(self.start(work))",
            "return await self.start(work)",
            "test_a_cancelled_caller_does_not_stop_its_work",
        ),
    ),
    *guards(
        "services/attempts_answers.py",
        "test_lying_answers.py",
        (
            "refused-unshown",
            "                    next_look=self._attempts.first_look(), unshown=True,\n",
            "                    next_look=self._attempts.first_look(),\n",
            "test_a_refusal_beside_an_acceptance_closes_nothing",
        ),
        (
            "accepted-too-late",
            "            if not done:\n",
            "            if False:\n",
            "test_an_acceptance_that_comes_after_its_refusal_leaves_nothing_payable",
        ),
        (
            "unclear-too-late",
            "outcome.error_code, outcome.error_message, outcome):\n",
            "outcome.error_code, outcome.error_message, outcome) and False:\n",
            "test_an_unclear_answer_beside_a_request_that_was_not_sent_leaves_nothing_payable",
        ),
    ),
    *guards(
        "services/refunds_numbers.py",
        "test_refunds_elsewhere.py",
        (
            "confirmed",
            "if outcome.status in (RefundStatus.PENDING, RefundStatus.UNKNOWN):\n            raise",
            "if False:\n            raise",
            "test_a_callback_that_cannot_be_confirmed_is_not_acknowledged[wx_native-v2]",
        ),
    ),
    *guards(
        "services/refunds_settlement.py",
        "test_refunds_elsewhere.py",
        (
            "trade-decides",
            "outcome.status is RefundStatus.TRADE_DECIDES and await self._all_went_back(refund, configured):",
            "outcome.status is RefundStatus.TRADE_DECIDES:",
            "test_a_refund_of_a_trade_with_money_left_waits",
        ),
        (
            "trade-decides-last",
            "if last.status is RefundStatus.NOT_FOUND else last",
            "if last is not None else last",
            "test_a_trade_that_this_refund_has_fully_refunded_is_a_success",
        ),
    ),
    *guards(
        "services/attempts.py",
        "test_bar_cancel_races.py",
        (
            "cancel-booked",
            "        if cancelling is None:\n            return SettleResult.PAID\n",
            "        if cancelling is None:\n            cancelling = attempt_rows.Cancelling(until, None)\n",
            "test_booked_by_another_while_the_job_is_about_to_cancel",
        ),
    ),
    *guards(
        "domain/callers.py",
        "test_reference_security.py",
        (
            "s8-owner",
            "return app_id is not None and self.app_id == app_id",
            "return True",
            "test_S8_only_the_owner_may_submit",
        ),
    ),
]
