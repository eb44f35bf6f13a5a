"""The event ledger: a row for each change, append-only, without secrets; and the books check."""

from __future__ import annotations

from guards import Mutant, guards

# Its tests migrate databases of their own: that of the runs has the triggers of the unchanged tree.
_MIGRATION, _REFUSES = (
    "migrations/versions/0009_partitions.py",
    "tests/integration/test_migrations.py::test_a_new_database_refuses_changes_of_events",
)

LEDGER: list[Mutant] = [
    *guards(
        "storage/partitions.py",
        "test_partitions.py",
        (
            "partition-no-truncate",
            '    if table == "pay_event":\n',
            "    if not table:\n",
            "test_every_partition_is_append_only[later-truncate]",
        ),
        (
            "partition-lock-timeout",
            """    await transaction.execute(f"SET LOCAL lock_timeout = '{_TABLE_LOCK_TIMEOUT}'")\n""",
            """    await transaction.execute("SET LOCAL lock_timeout = 0")\n""",
            "test_a_table_that_stays_locked_is_left_for_later",
        ),
        (
            "partition-advisory-lock",
            '    await transaction.execute("SELECT pg_advisory_xact_lock($1)", _ADVISORY_LOCK)\n',
            "",
            "test_time_goes_on_and_partitions_are_made_once",
        ),
    ),
    *guards(
        "services/partitions.py",
        "test_partitions.py",
        (
            "partition-of-default-rows",
            "                if await partition_rows.has_rows(transaction, table, month):",
            "                if False:",
            "test_a_month_that_nobody_made_is_in_the_default_partition_and_said",
        ),
        (
            "partition-pause",
            "self._failed <= now < self._failed + PAUSE_AFTER_FAILURE",
            "False",
            "test_the_job_pauses_after_a_table_was_locked",
        ),
        (
            "partition-pause-clock",
            "self._failed <= now < self._failed + PAUSE_AFTER_FAILURE",
            "now < self._failed + PAUSE_AFTER_FAILURE",
            "test_the_job_pauses_after_a_table_was_locked",
        ),
        (
            "partition-old-by-both-clocks",
            "                old = [one for one in old if newest is not None and self._is_old(one, newest.astimezone(UTC))]\n",
            "",
            "test_a_clock_that_is_wrong_drops_nothing[process]",
        ),
        (
            "partition-old-by-the-process",
            "old = [one for one in found if self._is_old(one, now)]",
            "old = list(found)",
            "test_a_clock_that_is_wrong_drops_nothing[database]",
        ),
        (
            "retention-nothing",
            "        return bool(months) and partition.month is not None",
            "        return partition.month is not None",
            "test_without_a_retention_nothing_is_dropped",
        ),
    ),
    *guards(
        "services/books.py",
        "test_partitions.py",
        (
            "books-since",
            "        last = max(last or UUID(int=0), first_key(since))\n",
            "        pass\n",
            "test_the_retention_drops_whole_months_and_the_books_are_checked_from_then_on",
        ),
    ),
    *(
        Mutant(f"ledger-append-only-{name}", _MIGRATION, text, replacement, (f"{_REFUSES}[{statement}]",))
        for name, text, replacement, statement in (
            ("update", "BEFORE UPDATE OR DELETE ON", "BEFORE DELETE ON", "UPDATE pay_event SET amount = 1"),
            ("delete", "BEFORE UPDATE OR DELETE ON", "BEFORE UPDATE ON", "DELETE FROM pay_event"),
            (
                "truncate",
                "FOR EACH STATEMENT EXECUTE FUNCTION pay_event_refuse()",
                "FOR EACH STATEMENT WHEN (false) EXECUTE FUNCTION pay_event_refuse()",
                "TRUNCATE pay_event",
            ),
        )
    ),
    *guards(
        "services/books.py",
        "test_case_desk.py",
        (
            "books-case",
            "opened += cases is not None and await cases.books_differ(found, sentence)",
            "opened += cases is not None and len(sentence) < 0",
            "test_a_difference_of_the_books_is_a_case_once",
        ),
    ),
    *guards(
        "storage/notifications.py",
        "test_event_ledger.py",
        (
            "noted-superseded",
            'noted_superseded AS ({noting_state(named(NotificationEvent.SUPERSEDE), cause, "superseded")})',
            'noted_superseded AS ({noting_state(named(NotificationEvent.SUPERSEDE), cause, "superseded")} WHERE false)',
            "test_a_notification_that_is_superseded_is_in_the_ledger[booking] "
            "test_a_notification_that_is_superseded_is_in_the_ledger[insert]",
        ),
    ),
    *guards(
        "storage/notifications_delivery.py",
        "test_event_ledger.py",
        (
            "noted-ends",
            "FROM moved WHERE event = ANY($15)",
            "FROM moved WHERE event = ANY($15) AND false",
            "test_the_end_of_a_notification_is_in_the_ledger_and_a_failed_delivery_is_not "
            "test_a_notification_that_is_superseded_is_in_the_ledger[delivery]",
        ),
        (
            "noted-only-ends",
            "FROM moved WHERE event = ANY($15)",
            "FROM moved WHERE $15::text[] IS NOT NULL",
            "test_the_end_of_a_notification_is_in_the_ledger_and_a_failed_delivery_is_not",
        ),
    ),
    *guards(
        "services/notifications_delivery.py",
        "test_event_ledger.py",
        (
            "delivery-actor",
            "                with acting(_JOB):",
            "                if True:",
            "test_the_end_of_a_notification_is_in_the_ledger_and_a_failed_delivery_is_not",
        ),
    ),
    *guards(
        "services/cases.py",
        "test_event_ledger.py",
        (
            "surplus-own-url",
            "reason=_REASON, notification_url=order.notification_url,",
            'reason=_REASON, notification_url="",',
            "test_the_notification_of_surplus_goes_where_those_of_its_order_go",
        ),
    ),
    *guards(
        "services/attempts.py",
        "test_event_ledger.py",
        (
            "noted-refused-query",
            "        await self.note(attempt, QUERIED, with_verdict(cause(outcome.call), why))",
            "        pass",
            "test_a_query_whose_answer_is_not_used_is_in_the_ledger[other-merchant] "
            "test_a_query_whose_answer_is_not_used_is_in_the_ledger[being-cancelled] "
            "test_lying_answers.py::test_an_answer_about_another_trade_closes_nothing[wx_native-?mchid=]",
        ),
    ),
    *guards(
        "services/refunds_settlement.py",
        "test_event_ledger.py",
        (
            "noted-repeated-refund-callback",
            "                await self._note_event(refund, CALLBACK_REPEATED, cause, False if ended else None)",
            "                pass",
            "test_repeated_and_refused_callbacks_of_refunds_are_in_the_ledger",
        ),
        (
            "noted-repeated-only",
            "            if not await self.apply(configured, refund, outcome, cause):",
            "            if not await self.apply(configured, refund, outcome, cause) or True:",
            "test_a_callback_that_opens_a_case_is_repeated_only_then",
        ),
        (
            "noted-refused-refund-callback",
            "            await self._note_event(refund, CALLBACK_REFUSED, with_verdict(cause, str(error)), knows(refund, outcome))",
            "            pass",
            "test_repeated_and_refused_callbacks_of_refunds_are_in_the_ledger",
        ),
        (
            "noted-received-refund-callback",
            "            await self._note_event(refund, CALLBACK_RECEIVED, cause, knows(refund, outcome))",
            "            pass",
            "test_repeated_and_refused_callbacks_of_refunds_are_in_the_ledger",
        ),
        (
            "noted-unclear-look",
            "            await self._note_query(refund, outcome)\n"
            "            raise channels_errors.channel_unclear(refund.channel_code)",
            "            raise channels_errors.channel_unclear(refund.channel_code)",
            "test_an_unclear_look_before_a_refund_is_sent_again_is_in_the_ledger",
        ),
    ),
    *guards(
        "services/refunds_numbers.py",
        "test_event_ledger.py",
        (
            "noted-confirmation",
            "            await self._note_query(refund, outcome)\n        else:",
            "            pass\n        else:",
            "test_the_messages_about_a_failed_refund_are_in_the_ledger",
        ),
        (
            "noted-of-trade",
            "            await self._attempts.note(attempt, event, because)",
            "            pass",
            "test_the_messages_about_a_failed_refund_are_in_the_ledger",
        ),
    ),
    *guards(
        "services/callbacks.py",
        "test_event_ledger.py",
        (
            "noted-repeated-callback",
            "                await self._note(payment.out_trade_no, CALLBACK_REPEATED, cause)",
            "                pass",
            "test_a_repeated_and_a_refused_callback_are_in_the_ledger",
        ),
        (
            "noted-refused-callback",
            "            await self._note(payment.out_trade_no, CALLBACK_REFUSED, with_verdict(cause, str(error)))",
            "            pass",
            "test_a_callback_with_other_facts_is_in_the_ledger",
        ),
    ),
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
    Mutant(
        "record-of-a-part",
        "server/paycenter_server/channels/records.py",
        "read = answer[:_READ]",
        "read = answer",
        ("tests/unit/test_records.py::test_no_more_of_an_answer_is_read_than_can_be_kept",),
    ),
    Mutant(
        "record-read-once",
        "server/paycenter_server/channels/records.py",
        "(?:(?!</\\2>).)*",
        ".*?</\\2>",
        ("tests/unit/test_records.py::test_no_more_of_an_answer_is_read_than_can_be_kept",),
    ),
]
