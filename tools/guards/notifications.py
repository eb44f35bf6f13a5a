"""Notifications to apps, and callbacks of channels."""

from __future__ import annotations

from guards import Mutant, guards

_DUE = """WHERE next_notify_time <= $1 AND NOT app_id = ANY($5) ORDER BY next_notify_time LIMIT 1000) candidates
           ), locked AS (
             SELECT t.id FROM pay_notify_task t WHERE t.next_notify_time <= $1 AND t.id IN ("""
_NO_PAYMENT = """            if callback.payment.payment is None:
"""
_PASSES_OVER = "test_a_claim_passes_over_what_another_worker_holds"

NOTIFICATIONS: list[Mutant] = [
    *guards(
        "storage/notifications.py",
        "test_guards_notifications.py",
        (
            "claim-tasks-due",
            _DUE,
            _DUE.replace("next_notify_time <= $1", "$1::timestamptz IS NOT NULL").replace("t.$1", "$1"),
            "test_a_claim_takes_only_what_is_due",
        ),
        control=False,
    ),
    *guards(
        "storage/notifications.py",
        "test_guards_notifications.py",
        (
            "claim-tasks-due-again",
            "WHERE t.next_notify_time <= $1 AND t.id IN (",
            "WHERE t.id IN (",
            "test_a_claim_looks_again_at_what_another_worker_has_claimed_meanwhile",
        ),
        ("claim-tasks-lock", ") FOR NO KEY UPDATE SKIP LOCKED", ")", _PASSES_OVER),
        ("claim-tasks-skip", ") FOR NO KEY UPDATE SKIP LOCKED", ") FOR NO KEY UPDATE", _PASSES_OVER),
        (
            "claim-tasks-places",
            "WHERE place <= $4 LIMIT $3",
            "WHERE $4::int IS NOT NULL LIMIT $3",
            "test_a_claim_takes_no_more_of_an_app_than_its_places",
        ),
        (
            "claim-tasks-busy",
            "AND NOT app_id = ANY($5)",
            "AND $5::uuid[] IS NOT NULL",
            "test_a_claim_takes_no_more_of_an_app_than_its_places",
        ),
        (
            "record-delivery",
            "t.notify_times = g.claimed AND t.state = ANY($11)",
            "t.state = ANY($11)",
            "test_a_late_result_does_not_overwrite_a_later_one",
        ),
        (
            "record-state",
            "t.notify_times = g.claimed AND t.state = ANY($11)",
            "t.notify_times = g.claimed AND $11::text[] IS NOT NULL",
            "test_a_result_does_not_reopen_what_has_ended",
        ),
        (
            "resend-state",
            "WHERE id = $1 AND state = ANY($4) RETURNING id",
            "WHERE id = $1 AND $4::text[] IS NOT NULL RETURNING id",
            "test_only_what_has_ended_is_sent_again",
        ),
    ),
    *guards(
        "services/callbacks.py",
        "test_guards_callbacks.py",
        (
            "callback-facts",
            'acknowledge(False, "the callback does not match our records")',
            'acknowledge(True, "the callback does not match our records")',
            "test_a_message_of_another_account_is_not_acknowledged test_paid_without_a_payment_is_not_acknowledged "
            "test_a_refund_with_other_facts_is_not_acknowledged "
            "test_reference_security.py::test_S2_the_account_of_a_message_is_compared "
            "test_reference_security.py::test_S3_what_does_not_match_is_never_answered_with_2xx",
        ),
        (
            "callback-verifies",
            'acknowledge(False, "the callback cannot be verified")',
            'acknowledge(True, "the callback cannot be verified")',
            "test_a_message_that_does_not_verify_is_not_acknowledged "
            "test_reference_security.py::test_S3_a_failure_is_never_answered_with_2xx "
            "test_money_rules.py::test_rule_5_only_what_is_stored_is_acknowledged",
        ),
        (
            "callback-stored",
            'acknowledge(False, "not stored, send again")',
            'acknowledge(True, "not stored, send again")',
            "test_a_message_that_cannot_be_stored_is_not_acknowledged "
            "test_while_a_cancellation_is_undecided_a_message_is_not_acknowledged "
            "test_reference_security.py::test_S3_what_cannot_be_stored_is_never_answered_with_2xx "
            "test_money_rules.py::test_rule_8_the_notification_is_in_the_same_commit",
        ),
        (
            "callback-names-payment",
            _NO_PAYMENT + '                raise FactsMismatchError("the message names no payment")\n',
            _NO_PAYMENT + "                return callback\n",
            "test_paid_without_a_payment_is_not_acknowledged",
        ),
        (
            "callback-paid",
            "if callback.payment is not None and callback.payment.status is QueryStatus.PAID:",
            "if callback.payment is not None and callback.payment.payment is not None:",
            "test_only_a_payment_that_is_paid_is_booked",
        ),
        (
            "callback-cancelled",
            "if outcome.status not in (QueryStatus.PAID, QueryStatus.CLOSED):",
            "if False:",
            "test_while_a_cancellation_is_undecided_a_message_is_not_acknowledged",
        ),
    ),
    *guards(
        "services/notifications_delivery.py",
        "test_reference_security.py",
        (
            "notification-signed",
            'f"{number}.{timestamp}.{body}".encode()',
            'f"{number}.{timestamp}".encode()',
            "test_S4_notifications_are_signed_and_state_the_event",
        ),
        control=False,
    ),
    *guards(
        "services/notifications_delivery.py",
        "test_reference_security.py",
        (
            "notification-old-secret",
            "until and until > now",
            "until",
            "test_S4_a_secret_that_was_replaced_signs_for_a_day_only",
        ),
    ),
    *guards(
        "services/notifications_payloads.py",
        "test_reference_security.py",
        (
            "notification-says-paid",
            '"paid_amount": amount,',
            '"paid_amount": 0,',
            "test_S4_notifications_are_signed_and_state_the_event",
        ),
        control=False,
    ),
]
