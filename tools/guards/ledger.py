"""The event ledger: a row for each change, append-only, without secrets; and the books check."""

from __future__ import annotations

from guards import Mutant, guards

LEDGER: list[Mutant] = [
    *guards(
        "storage/payments.py",
        "test_event_ledger.py",
        (
            "ledger-paid-change",
            'amount="paid_amount", paid="paid_amount")',
            'amount="paid_amount")',
            "test_a_payment_and_a_refund_in_the_ledger test_a_repeated_and_a_refused_callback_are_in_the_ledger",
        ),
    ),
    *guards(
        "storage/cases.py",
        "test_guards_refunds.py",
        ("case-lock", "AND state = ANY($5) FOR NO KEY UPDATE)", "AND state = ANY($5))", "test_a_case_is_changed_once_of_two_calls"),
    ),
    *guards(
        "storage/refunds.py",
        "test_event_ledger.py",
        (
            "ledger-surplus",
            '_OF_ORDER = "CASE WHEN case_id IS NULL THEN amount ELSE 0 END"',
            '_OF_ORDER = "amount"',
            "test_a_refund_of_surplus_is_in_the_ledger_without_changing_amounts",
        ),
    ),
    *guards(
        "storage/events.py",
        "test_event_ledger.py",
        (
            "ledger-storable",
            'value.replace("\\0", "").encode("utf-8", "replace").decode()',
            "value",
            "test_a_nul_in_an_answer_does_not_stop_the_change",
        ),
    ),
    *guards(
        "services/timeline.py",
        "test_event_ledger.py",
        ("ledger-evidence", "if evidence and event.evidence else", "if event.evidence else", "test_the_timeline_over_the_wire"),
    ),
    *guards(
        "channels/records.py",
        "test_event_ledger.py",
        (
            "ledger-secrets",
            "sign|signature|auth_code|",
            "",
            "test_signatures_and_bar_codes_are_not_in_the_ledger",
        ),
    ),
]
