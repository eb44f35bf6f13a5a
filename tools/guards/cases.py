"""Cases: one decision of two is carried out, money that may be with the payer is not sent again, and a second operator."""

from __future__ import annotations

from guards import Mutant, guards

CASES: list[Mutant] = [
    *guards(
        "services/cases_decisions.py",
        "test_stale_refunds.py",
        (
            "stale-refund-sent-now",
            "if refund.unclear_send_time is not None and refund.unclear_send_time > now - REQUEST_LIFE:",
            "if False:",
            "test_a_refund_that_was_sent_a_moment_ago_is_not_decided[ACCEPT] "
            "test_a_refund_that_was_sent_a_moment_ago_is_not_decided[CLOSE]",
        ),
        (
            "stale-refund-number",
            "same = current.state is CaseState.REFUNDING or current.reference == refund.out_refund_no",
            "same = True",
            "test_a_decision_about_an_earlier_number_moves_nothing[ACCEPT-False] "
            "test_a_decision_about_an_earlier_number_moves_nothing[CLOSE-True]",
        ),
        (
            "stale-refund-decided",
            "            elif event is CaseEvent.ACCEPT or current.state is CaseState.REFUNDING:",
            "            elif False:",
            "test_a_decision_about_an_earlier_number_moves_nothing[ACCEPT-False]",
        ),
        (
            "stale-case-ends-its-refund",
            "            if refunding or case.kind is CaseKind.STALE_REFUND:",
            "            if case.kind is CaseKind.STALE_REFUND:",
            "test_a_stale_case_that_is_closed_sends_nothing_any_more",
        ),
        (
            "stale-case-closed-as-read",
            "            if current.state is not case.state:",
            "            if False:",
            "test_a_case_that_became_stale_since_it_was_read_is_not_closed_alone",
        ),
        (
            "stale-reason",
            "minimum=1 if case.needs_reason(decision) else 0)",
            "minimum=0)",
            "test_a_decision_about_a_stale_refund_needs_a_reason[ACCEPT]",
        ),
    ),
    *guards(
        "services/cases_authority.py",
        "test_stale_refunds.py",
        (
            "stale-case-repeats-nothing",
            "current.decision == work.decision and not current.possible:",
            "current.decision == work.decision:",
            "test_a_stale_case_takes_retry_and_close",
        ),
    ),
    *guards(
        "services/cases_decisions.py",
        "test_stale_refunds.py",
        (
            "accepted-looked-at",
            "            await refund_rows.begin_looks(transaction, refund, first_look)",
            "            await refund_rows.begin_looks(transaction, refund, None)",
            "test_an_accepted_refund_that_did_not_go_back_is_found_by_a_look[failure-job] "
            "test_an_accepted_refund_is_looked_at_in_minutes_an_hour_and_a_day[success-1]",
        ),
    ),
    *guards(
        "services/refunds.py",
        "test_stale_refunds.py",
        (
            "accepted-synced",
            " or await self._settlement.was_accepted(refund):",
            ":",
            "test_an_accepted_refund_that_did_not_go_back_is_found_by_a_look[failure-sync]",
        ),
    ),
    *guards(
        "services/cases.py",
        "test_stale_refunds.py",
        (
            "failed-after-acceptance",
            "        if await case_rows.refund_was_accepted(transaction, refund.attempt_id, refund.id):",
            "        if True:",
            "test_a_failure_after_a_success_that_the_channel_reported_is_no_conflict",
        ),
    ),
    *guards(
        "services/refunds_settlement.py",
        "test_stale_refunds.py",
        (
            "accepted-queried",
            "        elif await self.was_accepted(refund):",
            "        elif False:",
            "test_an_accepted_refund_that_did_not_go_back_is_found_by_a_look[failure-job]",
        ),
        (
            "accepted-not-found",
            "outcome.status in (RefundStatus.FAILED, RefundStatus.NOT_FOUND):",
            "outcome.status is RefundStatus.FAILED:",
            "test_an_accepted_refund_that_did_not_go_back_is_found_by_a_look[lost-job]",
        ),
        (
            "accepted-facts",
            "        if not verdict and outcome.status in",
            "        if outcome.status in",
            "test_a_look_at_an_accepted_refund_with_other_facts_decides_nothing",
        ),
    ),
    *guards(
        "services/refunds_booking.py",
        "test_stale_refunds.py",
        (
            "acceptance-contradicted",
            "            if certainty.final and await self._contradict(refund, cause):",
            "            if False:",
            "test_a_refund_that_fails_after_it_was_accepted_is_a_conflict",
        ),
    ),
    *guards(
        "services/refunds_settlement.py",
        "test_refunds_contradicted.py",
        (
            "success-closed-later",
            "                if ended:\n                    await self._doubt_success",
            "                if False:\n                    await self._doubt_success",
            "test_what_did_not_go_back_after_all_is_a_conflict[CLOSED]",
        ),
        (
            "success-abnormal-later",
            "            elif outcome.error_code:",
            "            elif False:",
            "test_what_did_not_go_back_after_all_is_a_conflict[ABNORMAL]",
        ),
        (
            "success-doubt-confirmed",
            "        if outcome.status is RefundStatus.FAILED or is_stuck(outcome):",
            "        if True:",
            "test_a_callback_about_an_earlier_state_is_no_conflict[CLOSED]",
        ),
        (
            "success-doubt-answered",
            "        if outcome.facts is None:\n            raise UndecidedError",
            "        if outcome.facts is None:\n            return\n            raise UndecidedError",
            "test_without_a_clear_answer_it_is_not_acknowledged[CLOSED]",
        ),
        (
            "success-doubt-facts",
            "        self._compare_failed(refund, outcome.facts)\n        if outcome.status is RefundStatus.FAILED or",
            "        if outcome.status is RefundStatus.FAILED or",
            "test_an_answer_about_another_amount_decides_nothing",
        ),
        (
            "success-doubt-state",
            "(RefundState.SUCCESS, refund.out_refund_key):\n            return\n        if await self.was_accepted",
            "(current.state, refund.out_refund_key):\n            return\n        if await self.was_accepted",
            "test_one_that_failed_is_not_queried",
        ),
    ),
    *guards(
        "services/callbacks.py",
        "test_refunds_contradicted.py",
        (
            "refunded-without-number",
            "        if compare and payment is not None:",
            "        if False:",
            "test_what_went_back_without_a_refund_is_a_case[SOME]",
        ),
        (
            "refunded-with-number",
            "(callback.refund is None or payment.refunded_amount is not None)",
            "callback.refund is None",
            "test_refunds_elsewhere.py::test_a_lost_callback_of_alipays_console_is_seen_with_the_next",
        ),
    ),
    *guards(
        "services/refunds_numbers.py",
        "test_refunds_contradicted.py",
        (
            "refunded-explained",
            "            if ours == 0 or ours < total:",
            "            if ours is not None:",
            "test_what_our_refunds_explain_is_none",
        ),
        (
            "refunded-all",
            "total = attempt.paid_amount if payment.refunded is Refunded.ALL else payment.refunded_amount or 0",
            "total = payment.refunded_amount or 0",
            "test_all_went_back_and_ours_are_less",
        ),
        (
            "refunded-total",
            "total = attempt.paid_amount if payment.refunded is Refunded.ALL else payment.refunded_amount or 0",
            "total = attempt.paid_amount if payment.refunded is Refunded.ALL else 0",
            "test_a_part_that_ours_do_not_explain_is_a_case",
        ),
        (
            "refunded-elsewhere-known",
            "                if elsewhere == 0 or ours + elsewhere < total:",
            "                if elsewhere is not None:",
            "test_refunds_elsewhere.py::test_a_refund_in_alipays_console_is_one_case",
        ),
    ),
    *guards(
        "storage/refunds.py",
        "test_refunds_contradicted.py",
        (
            "refunded-by-failed",
            'WHERE attempt_id = $1 AND state = ANY($2)",',
            'WHERE attempt_id = $1 AND $2::text[] IS NOT NULL",',
            "test_a_refund_that_failed_explains_nothing",
        ),
    ),
    *guards(
        "services/cases_decisions.py",
        "test_case_decisions.py",
        (
            "decide-look",
            "await self._refunds.look_at_failed(refund) if refund.state is RefundState.FAILURE else refund",
            "refund",
            "test_a_failed_refund_that_succeeded_after_all_is_not_sent_again test_money_that_went_back_after_all_is_not_accepted",
        ),
        (
            "decide-refund-unchanged",
            "if current is None or (current.state, current.out_refund_key, current.known_time) != as_queried:",
            "if current is None or as_queried is None:",
            "test_case_operators.py::test_a_refund_that_changed_after_the_query_stops_the_decision[ACCEPT]",
        ),
        (
            "decide-conflict",
            "if conflict is not None:",
            "if False:",
            "test_money_that_may_be_with_the_payer_is_neither_refunded_nor_booked",
        ),
        (
            "decide-conflict-lock",
            "attempt = await attempt_rows.lock_attempt(transaction, case.attempt_id)",
            "attempt = await attempt_rows.get_attempt(transaction, case.attempt_id)",
            "test_case_operators.py::test_a_conflict_that_is_opened_at_the_same_moment_stops_the_refund",
        ),
        (
            "decide-account",
            "if not await account_rows.hold_enabled(transaction, attempt.account_id):",
            "if False:",
            "test_no_refund_over_a_disabled_account",
        ),
        (
            "decide-amount",
            "if order is None or attempt.paid_amount != current.amount:",
            "if order is None:",
            "test_case_operators.py::test_only_the_amount_that_the_operator_saw_is_refunded",
        ),
        (
            "accept-order",
            "if order.state is not OrderState.CLOSED or attempt.paid_amount != order.amount:",
            "if False:",
            "test_accept_needs_an_order_that_can_take_the_money",
        ),
    ),
    *guards(
        "services/cases_authority.py",
        "test_case_decisions.py",
        (
            "decide-lock",
            "current = await case_rows.lock_case(transaction, case.id)",
            "current = await case_rows.get_case(transaction, case.id)",
            "test_case_operators.py::test_two_decisions_that_move_no_money_at_the_same_moment "
            "test_case_operators.py::test_two_proposals_at_the_same_moment_decide_nothing_by_one_operator",
        ),
        (
            "decide-repeated",
            "if current.state is not CaseState.OPEN and current.decision == work.decision and",
            "if False and",
            "test_the_same_decision_again_changes_nothing",
        ),
        (
            "decide-possible",
            "if work.decision not in current.possible:",
            "if False:",
            "test_a_case_whose_refund_is_in_progress_is_not_decided test_a_kind_takes_only_its_decisions",
        ),
        (
            "decide-second",
            "if not needs_second_operator(current, app.case_decision_limit if app else None):",
            "if True:",
            "test_case_operators.py::test_an_amount_above_the_limit_needs_a_second_operator",
        ),
        (
            "decide-second-is-another",
            "if current.proposed_by == work.decided.by:",
            "if False:",
            "test_case_operators.py::test_an_amount_above_the_limit_needs_a_second_operator",
        ),
        (
            "decide-second-decides-the-same",
            "if current.proposed_decision != work.decision:",
            "if not current.proposed_decision:",
            "test_case_operators.py::test_another_decision_replaces_the_proposal",
        ),
        (
            "decide-refund-appeared",
            "if current.refund_id != case.refund_id:",
            "if False:",
            "test_case_operators.py::test_a_refund_that_failed_since_the_case_was_read_stops_the_decision",
        ),
    ),
    *guards(
        "storage/payments.py",
        "test_case_decisions.py",
        (
            "accept-state",
            "p.state = ANY($3) AND EXISTS (",
            "$3::text[] IS NOT NULL AND EXISTS (",
            "test_case_operators.py::test_the_statement_books_a_late_payment_once_and_only_what_was_paid",
        ),
        (
            "accept-amount",
            "a.state = $14 AND a.paid_amount = $4)",
            "a.state = $14)",
            "test_case_operators.py::test_the_statement_books_a_late_payment_once_and_only_what_was_paid",
        ),
    ),
    *guards(
        "domain/cases.py",
        "test_case_decisions.py",
        (
            "limit-unknown-amount",
            "return case.amount is None or case.kind is CaseKind.WRONG_CURRENCY or case.amount > limit",
            "return case.kind is CaseKind.WRONG_CURRENCY or (case.amount or 0) > limit",
            "test_case_operators.py::test_an_amount_that_is_not_known_needs_a_second_operator",
        ),
        (
            "limit-currency",
            " or case.kind is CaseKind.WRONG_CURRENCY or ",
            " or ",
            "test_case_operators.py::test_an_amount_that_is_not_known_needs_a_second_operator",
        ),
    ),
    *guards(
        "domain/apps.py",
        "test_guards_settlement.py",
        (
            "policy-possible",
            "return policy if policy in possible_policies(kind) else SurplusPolicy.HOLD",
            "return policy",
            "test_another_currency_is_not_booked",
        ),
    ),
    *guards(
        "storage/cases.py",
        "test_case_decisions.py",
        (
            "proposal-ends",
            "    proposed_decision = '', proposed_reason = '', proposed_by = '', proposed_time = NULL, stale_time = NULL,",
            "    stale_time = NULL,",
            "test_case_operators.py::test_a_change_of_the_state_ends_the_proposal",
        ),
        (
            "stale-once",
            " AND old.stale_time IS NULL",
            "",
            "test_case_operators.py::test_a_case_whose_refund_only_raises_exceptions_is_stale_by_its_age",
        ),
        (
            "stale-ends",
            "proposed_time = NULL, stale_time = NULL,",
            "proposed_time = NULL,",
            "test_case_operators.py::test_a_stale_case_is_not_stale_any_more_when_its_refund_is_decided",
        ),
    ),
    *guards(
        "services/cases.py",
        "test_case_decisions.py",
        (
            "another-amount-beside",
            "is_open = not beside and await",
            "is_open = await",
            "test_lying_answers.py::test_another_amount_beside_an_open_conflict_is_a_case",
        ),
        (
            "elsewhere-again",
            "        again = timedelta() if more is not None else None",
            "        again = None",
            "test_refunds_contradicted.py::test_a_part_that_ours_do_not_explain_is_a_case",
        ),
        (
            "given-up-again",
            "await self._open(transaction, case, cause_now(), timedelta())",
            "await self._open(transaction, case, cause_now())",
            "test_notifications_delivery.py::test_what_is_given_up_again_without_a_delivery_is_a_case_again",
        ),
        (
            "surplus-refunded-already",
            " and payment.refunded is Refunded.NOTHING",
            "",
            "test_money_that_may_be_with_the_payer_is_neither_refunded_nor_booked",
        ),
        (
            "decided-otherwise",
            "if event is CaseEvent.RESOLVE and case is not None and case.decision in (Decision.ACCEPT, Decision.CLOSE):",
            "if False:",
            "test_a_refund_that_succeeds_after_its_case_was_decided_otherwise_is_a_conflict",
        ),
        (
            "case-stale",
            "if refund.case_id is not None and await case_rows.mark_stale(transaction, refund.case_id, now, cause_now()):",
            "if False:",
            "test_case_operators.py::test_a_case_whose_refund_only_raises_exceptions_is_stale_by_its_age",
        ),
        (
            "given-up-not-told",
            " or case.kind is CaseKind.NOTIFICATION_GIVEN_UP",
            "",
            "test_retry_resends_a_notification_that_was_given_up",
        ),
    ),
    *guards(
        "services/payments.py",
        "test_case_desk.py",
        (
            "accept-refunded-already",
            "kind is CaseKind.LATE_PAYMENT and payment.refunded is Refunded.NOTHING:",
            "kind is CaseKind.LATE_PAYMENT:",
            "test_a_late_payment_that_was_refunded_is_not_accepted_by_policy",
        ),
    ),
    *guards(
        "storage/cases.py",
        "test_case_desk.py",
        (
            "case-version",
            ", version = version + $10::int",
            "",
            "test_the_app_hears_of_a_case_and_a_newer_notification_supersedes",
        ),
    ),
    *guards(
        "services/attempts_submission.py",
        "test_case_desk.py",
        (
            "submit-held",
            "        if seen.held is not None:\n",
            "        if False:\n",
            "test_submit_says_that_money_is_under_review",
        ),
        (
            "submit-found-paid",
            "raise await self._attempts.found_paid(attempt.order_id)",
            "raise orders_errors.order_paid()",
            "test_a_submit_that_finds_held_money_does_not_say_paid test_an_order_whose_wrong_payment_is_refunded_can_be_paid",
        ),
    ),
    *guards(
        "storage/cases_desk.py",
        "test_case_desk.py",
        (
            "list-bounded",
            "LIMIT {SCANNED if outer else limit}",
            "LIMIT 1000 * {SCANNED if outer else limit}",
            "test_a_page_reads_a_bounded_number_of_cases",
        ),
    ),
    *guards(
        "services/cases_desk.py",
        "test_case_desk.py",
        (
            "desk-operators",
            "        self._identity.require_operator(caller)\n        key = decode(",
            "        key = decode(",
            "test_only_operators_use_the_desk test_case_decisions.py::test_apps_do_not_decide",
        ),
        (
            "desk-operators-list",
            "        self._identity.require_operator(caller)\n        where = replace(",
            "        where = replace(",
            "test_only_operators_use_the_desk",
        ),
    ),
    *guards(
        "services/cases_decisions.py",
        "test_refunds_taken_back.py",
        (
            "taken-back-as-contradicted",
            "        if refund is None or not _is_about(case, refund):",
            "        if refund is None:",
            "test_only_the_success_that_the_case_is_about_is_taken_back",
        ),
        (
            "taken-back-says-so",
            "        if outcome.status not in (RefundStatus.FAILED, RefundStatus.NOT_FOUND) and not stuck:",
            "        if False:",
            "test_what_goes_back_after_all_is_not_taken_back[SUCCESS] test_what_goes_back_after_all_is_not_taken_back[PENDING]",
        ),
        (
            "taken-back-conflict",
            "            await self._refuse_conflict(transaction, current, attempt, work)\n            version =",
            "            version =",
            "test_another_conflict_about_the_payment_is_decided_first",
        ),
        (
            "taken-back-stuck",
            "work.cause, code=code, message=message, known=stuck, now=now,",
            "work.cause, code=code, message=message, known=False, now=now,",
            "test_one_that_is_stuck_at_the_channel_is_not_sent_again",
        ),
    ),
    *guards(
        "services/refunds_settlement.py",
        "test_refunds_taken_back.py",
        (
            "taken-back-unclear",
            "            raise channels_errors.channel_unclear(refund.channel_code)\n        return outcome",
            "            pass\n        return outcome",
            "test_without_a_clear_answer_it_is_not_taken_back[http_502]",
        ),
        (
            "taken-back-facts",
            "            raise channels_errors.channel_unclear(refund.channel_code) from error",
            "            log.debug(str(error))",
            "test_without_a_clear_answer_it_is_not_taken_back[wrong_amount]",
        ),
    ),
    *guards(
        "storage/refunds.py",
        "test_refunds_taken_back.py",
        (
            "taken-back-number",
            "out_refund_key = $2 AND version = $3 AND state = ANY($10)",
            "$2::uuid IS NOT NULL AND version = $3 AND state = ANY($10)",
            "test_the_statement_takes_back_only_what_was_read",
        ),
        (
            "taken-back-version",
            "out_refund_key = $2 AND version = $3 AND state = ANY($10)",
            "out_refund_key = $2 AND $3::int IS NOT NULL AND state = ANY($10)",
            "test_the_statement_takes_back_only_what_was_read",
        ),
        (
            "taken-back-state",
            "out_refund_key = $2 AND version = $3 AND state = ANY($10)",
            "out_refund_key = $2 AND version = $3 AND $10::text[] IS NOT NULL",
            "test_the_statement_takes_back_only_a_success_of_an_order_with_refunds[pay_refund]",
        ),
        (
            "taken-back-surplus",
            " AND num_nulls(case_id) = 1\n               AND (SELECT o.state FROM pay_order o WHERE o.id = order_id) = ANY($11)",
            "\n               AND (SELECT o.state FROM pay_order o WHERE o.id = order_id) = ANY($11)",
            "test_a_refund_of_surplus_money_is_not_taken_back",
        ),
        (
            "taken-back-order-state",
            "(SELECT o.state FROM pay_order o WHERE o.id = order_id) = ANY($11)",
            "$11::text[] IS NOT NULL",
            "test_the_statement_takes_back_only_a_success_of_an_order_with_refunds[pay_order]",
        ),
        (
            "taken-back-last",
            "state = CASE WHEN refunded_amount = done.amount THEN $12 ELSE $13 END",
            "state = CASE WHEN refunded_amount < done.amount THEN $12 ELSE $13 END",
            "test_its_amount_can_be_refunded_again",
        ),
        (
            "taken-back-ledger",
            'RefundState.SUCCESS, refunded="-")',
            "RefundState.SUCCESS)",
            "test_its_amount_can_be_refunded_again",
        ),
    ),
    *guards(
        "services/cases.py",
        "test_refunds_taken_back.py",
        (
            "contradicted-surplus",
            "        await self._mismatch(transaction, refund, why, cause, {DID_NOT_GO_BACK: refund.case_id is None})",
            "        await self._mismatch(transaction, refund, why, cause, {DID_NOT_GO_BACK: True})",
            "test_a_refund_of_surplus_money_is_not_taken_back",
        ),
        (
            "contradicted-each-time",
            'f":{refund.version}")',
            '":1")',
            "test_a_success_that_comes_again_can_be_contradicted_again test_a_late_success_without_room_is_a_conflict",
        ),
    ),
    *guards(
        "domain/cases.py",
        "test_refunds_taken_back.py",
        (
            "contradicted-only",
            "        if self.kind is CaseKind.REFUND_MISMATCH and not self.did_not_go_back:",
            "        if False:",
            "test_other_contradictions_take_close_only",
        ),
        (
            "contradicted-reason",
            "about_refund = self.kind in (CaseKind.STALE_REFUND, CaseKind.REFUND_MISMATCH)",
            "about_refund = self.kind is CaseKind.STALE_REFUND",
            "test_it_needs_a_reason_and_above_the_limit_a_second_operator",
        ),
    ),
]
