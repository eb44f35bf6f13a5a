"""Notifications to apps, and callbacks of channels."""

from __future__ import annotations

from guards import Mutant, guards

_NO_PAYMENT = """            if callback.payment.payment is None:
"""

_NEWER = "test_of_two_notifications_about_one_object_the_larger_version_is_newer"

NOTIFICATIONS: list[Mutant] = [
    *guards(
        "storage/notifications.py",
        "test_notifications_addresses.py",
        (
            "own-address-first",
            "coalesce(nullif(t.notification_url, ''), CASE t.type",
            "coalesce(CASE t.type",
            "test_a_new_address_moves_what_waits_to_its_endpoint",
        ),
        (
            "address-of-refunds",
            "THEN app.refund_notification_url ELSE app.order_notification_url END)",
            "THEN app.order_notification_url ELSE app.order_notification_url END)",
            "test_a_new_address_moves_what_waits_to_its_endpoint",
        ),
        (
            "moved-endpoint",
            "AND next_notify_time IS NOT NULL AND endpoint <> $3 ORDER BY",
            "AND false AND endpoint <> $3 ORDER BY",
            "test_a_new_address_moves_what_waits_to_its_endpoint",
        ),
        (
            "moved-type",
            "WHERE app_id = $1 AND type = $2 AND notification_url = ''",
            "WHERE app_id = $1 AND $2::text IS NOT NULL AND notification_url = ''",
            "test_a_new_address_moves_what_waits_to_its_endpoint",
        ),
        (
            "moved-own-address",
            "WHERE app_id = $1 AND type = $2 AND notification_url = ''",
            "WHERE app_id = $1 AND type = $2",
            "test_a_new_address_moves_what_waits_to_its_endpoint",
        ),
    ),
    *guards(
        "services/notifications_payloads.py",
        "test_money_rules.py",
        (
            "surplus-type",
            "        event = SURPLUS_REFUNDED if success_time else SURPLUS_REFUND_FAILED",
            "        event = REFUND_SUCCESS if success_time else REFUND_FAILURE",
            "test_rule_7_a_second_payment_through_another_channel_is_refunded",
        ),
    ),
    *(
        Mutant(
            name, "client/paycenter/notifications.py", text, replacement, (f"tests/client/test_client_notifications.py::{_NEWER}",)
        )
        for name, text, replacement in (
            ("newer-than", "        return self.version > seen.version", "        return True"),
            ("newer-than-number", "            return self.version > seen\n", "            return True\n"),
        )
    ),
    *guards(
        "storage/notifications_delivery.py",
        "test_guards_notifications.py",
        (
            "record-delivery",
            "t.notify_times = g.claimed AND t.state = ANY($10)",
            "t.state = ANY($10)",
            "test_a_late_result_does_not_overwrite_a_later_one",
        ),
        (
            "record-state",
            "t.notify_times = g.claimed AND t.state = ANY($10)",
            "t.notify_times = g.claimed AND $10::text[] IS NOT NULL",
            "test_a_result_does_not_reopen_what_has_ended",
        ),
    ),
    *guards(
        "storage/notifications_delivery.py",
        "test_delivery_results.py",
        (
            "record-passes-locked",
            "WHERE id = g.task_id FOR NO KEY UPDATE SKIP LOCKED) t",
            "WHERE id = g.task_id FOR NO KEY UPDATE) t",
            "test_a_statement_leaves_out_what_is_locked",
        ),
        (
            "record-logs-what-it-records",
            "duration_ms, answer, at FROM locked",
            "duration_ms, answer, at FROM given",
            "test_a_statement_leaves_out_what_is_locked",
        ),
        (
            "record-hardly-waits",
            "event, nothing) CROSS JOIN hardly_waiting",
            "event, nothing)",
            "test_a_result_whose_case_waits_does_not_hold_up_the_others",
        ),
    ),
    *guards(
        "services/notifications_delivery.py",
        "test_delivery_results.py",
        (
            "record-locked-later",
            "self._store_later(await self._store(batch))",
            "await self._store(batch)",
            "test_a_locked_notification_waits_alone",
        ),
        (
            "record-each-alone",
            "            if len(batch) > 1:\n                await self._store_each(batch)\n            elif",
            "            if",
            "test_a_result_whose_case_waits_does_not_hold_up_the_others",
        ),
        (
            "record-conflict-later",
            "            elif isinstance(error, Conflict):\n                self._store_later(batch)\n",
            "",
            "test_a_result_whose_case_waits_does_not_hold_up_the_others",
        ),
        (
            "record-lost-once",
            "            if is_connection_loss(error):\n                self._not_stored(batch)\n                return False\n",
            "",
            "test_after_a_lost_connection_nothing_is_recorded_again",
        ),
    ),
    *guards(
        "storage/notifications.py",
        "test_guards_notifications.py",
        (
            "resend-state",
            "WHERE t.id = ANY($1) AND t.state = ANY($4)",
            "WHERE t.id = ANY($1) AND $4::text[] IS NOT NULL",
            "test_only_what_has_ended_is_sent_again",
        ),
    ),
    *guards(
        "storage/notifications_delivery.py",
        "test_notifications_versions.py",
        (
            "claim-superseded",
            "n.data_version > t.data_version) AS superseded",
            "n.data_version > t.data_version AND false) AS superseded",
            "test_an_older_one_that_is_open_all_the_same_is_not_sent",
        ),
    ),
    *guards(
        "storage/notifications.py",
        "test_notifications_versions.py",
        (
            "resend-superseded",
            "n.data_version > t.data_version)\n             ORDER BY id",
            "n.data_version > t.data_version AND false)\n             ORDER BY id",
            "test_an_older_notification_cannot_be_sent_again",
        ),
        (
            "insert-supersedes",
            "WHERE n.data_id = {data} AND n.data_version < {version} AND n.state = ANY(${last + 1})",
            "WHERE n.data_id = {data} AND n.data_version < 0 * {version} AND n.state = ANY(${last + 1})",
            "test_a_receiver_that_was_down_hears_only_the_newest_state",
        ),
        (
            "insert-supersedes-each",
            "    AND n.data_version < (SELECT b.version {of} n.data_id)",
            "    AND n.data_version < 0 * (SELECT b.version {of} n.data_id)",
            "test_a_refund_that_succeeds_supersedes_its_failure",
        ),
        (
            "insert-supersedes-each-open",
            "    AND n.state = ANY({listed(sources(NOTIFICATION, NotificationEvent.SUPERSEDE))})\n    AND n.data_version < (",
            "    AND n.data_version < (",
            "test_what_was_delivered_in_order_counts_up",
        ),
        (
            "insert-supersedes-open",
            "WHERE n.data_id = {data} AND n.data_version < {version} AND n.state = ANY(${last + 1})",
            "WHERE n.data_id = {data} AND n.data_version < {version} AND ${last + 1}::text[] IS NOT NULL",
            "test_what_was_delivered_before_a_late_payment_stays_delivered",
        ),
    ),
    *guards(
        "storage/payments.py",
        "test_notifications_versions.py",
        (
            "booking-version",
            "WHERE id = $1 AND state = ANY($2) AND version = {_VERSION} - 1 FOR NO KEY UPDATE",
            "WHERE id = $1 AND state = ANY($2) FOR NO KEY UPDATE",
            "test_a_payment_is_not_booked_under_a_version_that_has_passed",
        ),
    ),
    *guards(
        "storage/apps.py",
        "test_delivery_schedule.py",
        (
            "rotation-lock",
            "WHERE t.id = $1 FOR NO KEY UPDATE",
            "WHERE t.id = $1",
            "test_two_rotations_at_once_lose_no_secret",
        ),
    ),
    *guards(
        "services/notifications_delivery.py",
        "test_notifications_delivery.py",
        (
            "given-up-recorded",
            "if task.id in recorded.changed:",
            "if recorded is not None:",
            "test_a_result_that_is_not_recorded_opens_no_case",
        ),
        (
            "looks-go-on",
            '        self._first = last or ""\n',
            "",
            "test_a_pass_goes_on_after_the_last_endpoint_of_the_one_before[9]",
        ),
        (
            "looks-begin-again",
            "            if first and last is None:",
            "            if False:",
            "test_after_the_last_endpoint_a_pass_begins_again",
        ),
        (
            "looks-quick",
            "                due.update(await delivery_rows.due_of_endpoints(connection, now, fast))",
            "                pass",
            "test_a_quick_endpoint_does_not_wait_for_its_turn",
        ),
        (
            "looks-longest-due",
            "        return sorted(due, key=due.__getitem__)",
            "        return list(due)",
            "test_what_is_due_longest_comes_first",
        ),
        (
            "give-up-open-long",
            "if since is None or since > now - OPEN_BEFORE_GIVING_UP:",
            "if since is None:",
            "test_a_breaker_that_opened_just_now_ends_nothing",
        ),
        (
            "give-up-batch",
            "dict.fromkeys(names, _GIVE_UP_BATCH // len(names))",
            "dict.fromkeys(names, _GIVE_UP_BATCH)",
            "test_a_pass_gives_up_so_many_at_most",
        ),
        (
            "give-up-endpoints",
            "sorted(noted, key=noted.__getitem__)[:_GIVE_UP_BATCH]",
            "sorted(noted, key=noted.__getitem__)",
            "test_a_pass_gives_up_so_many_at_most",
        ),
        (
            "give-up-due-long",
            "claim_due(connection, now - GIVE_UP_AFTER, now + LEASE",
            "claim_due(connection, now, now + LEASE",
            "test_claims_do_not_wait_for_what_is_given_up",
        ),
    ),
    *(
        Mutant(
            name,
            f"server/paycenter_server/{file}",
            text,
            replacement,
            tuple(f"tests/unit/test_transport.py::{test}" for test in tests),
        )
        for name, file, text, replacement, *tests in (
            (
                "answer-pieces",
                "http_requests.py",
                "        if pieces > _MOST_PIECES:",
                "        if False:",
                "test_an_answer_in_very_many_pieces_is_given_up",
            ),
            (
                "answer-read-in-parts",
                "http_requests.py",
                "protocol.set_response_params(read_until_eof=True, auto_decompress=False, read_bufsize=_BUFFER)",
                "protocol.set_response_params(read_until_eof=True, auto_decompress=False)",
                "test_an_answer_in_very_many_pieces_is_not_read_on[PoolRequests]",
            ),
            (
                "answer-received-in-parts",
                "http_requests.py",
                "        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)\n",
                "",
                "test_a_connection_receives_little_at_a_time",
            ),
            (
                "answer-decompressed-in-parts",
                "http_requests.py",
                ".decompress(body, most)",
                ".decompress(body)",
                "test_a_compressed_answer_is_limited_by_what_it_becomes",
            ),
        )
    ),
    *guards(
        "http_requests.py",
        "test_delivery_session.py",
        (
            "post-other-aiohttp",
            "except (AttributeError, TypeError) as error:",
            "except ZeroDivisionError as error:",
            "test_all_are_sent_and_the_other_way_is_not_tried_again",
        ),
        (
            "post-written-not-again",
            "                self._use_session(error)\n                raise\n",
            "                self._use_session(error)\n",
            "test_what_may_have_been_written_is_not_sent_again_at_once",
        ),
        (
            "post-other-aiohttp-once",
            "        if self._session is None:\n            if self._pool is None:",
            "        if True:\n            if self._pool is None:",
            "test_all_are_sent_and_the_other_way_is_not_tried_again",
        ),
        control=False,
    ),
    *guards(
        "workers/notification_sender.py",
        "test_delivery_sender.py",
        (
            "retry-after-overflow",
            "except (ValueError, TypeError, OverflowError):",
            "except (ValueError, TypeError):",
            "test_a_retry_after_beyond_every_date_is_ignored",
        ),
        control=False,
    ),
    Mutant(
        "names-by-what-they-were",
        "server/paycenter_server/host_names.py",
        "self._places[self._found.get(name)], False",
        "self._places[None], False",
        (
            "tests/unit/test_host_names.py::test_names_that_are_not_answered_stop_none_that_were_found",
            "tests/unit/test_host_names.py::test_names_that_were_not_found_have_few_places",
        ),
    ),
    Mutant(
        "names-not-found",
        "server/paycenter_server/host_names.py",
        "            if asked:\n                self._remember(name, found=False)\n",
        "",
        ("tests/unit/test_host_names.py::test_names_that_were_not_found_have_few_places",),
    ),
    Mutant(
        "names-asked",
        "server/paycenter_server/host_names.py",
        "            if asked:\n",
        "            if True:\n",
        ("tests/unit/test_host_names.py::test_a_name_that_had_no_place_is_still_new",),
    ),
    Mutant(
        "connections-kept-below",
        "server/paycenter_server/http_requests.py",
        "if _descriptor(connection) < self._keep_below:",
        "if True:",
        ("tests/integration/test_delivery_posts.py::test_idle_connections_do_not_use_up_the_descriptors",),
    ),
    Mutant(
        "worker-descriptors",
        "server/paycenter_server/cli/processes.py",
        "    raise_descriptor_limit()\n    other_workers",
        "    other_workers",
        ("tests/integration/test_sidecar_process.py::test_the_other_processes_raise_their_limit_of_descriptors_too[worker]",),
    ),
    *guards(
        "workers/wake_up.py",
        "test_wake_up.py",
        (
            "wake-up-once",
            "                    both.ltrim(WAKE_UPS, 0, 0)\n",
            "",
            "test_wake_ups_that_nobody_has_heard_are_one",
        ),
        (
            "wake-up-after-the-end",
            "        if self._closed:\n            return\n",
            "",
            "test_nothing_is_sent_after_the_end",
        ),
        (
            "wake-up-silent-redis",
            "        async with asyncio.timeout(2 * self._block_seconds):\n            if await cast",
            "        async with asyncio.timeout(None):\n            if await cast",
            "test_a_redis_that_is_silent_is_connected_to_anew",
        ),
        (
            "wake-up-not-cancelled",
            "isinstance(error, asyncio.CancelledError) and _is_cancelled():",
            "isinstance(error, asyncio.CancelledError):",
            "test_a_pass_whose_parts_are_cancelled_is_not_the_last_one",
        ),
        (
            "wake-up-pause",
            "        await asyncio.sleep(max(0.0, begun + SHORTEST_PASS_SECONDS - loop.time()))\n",
            "",
            "test_passes_begin_with_a_pause",
        ),
    ),
    *guards(
        "deadlines.py",
        "test_delivery_posts.py",
        (
            "deadline-cancelled",
            "if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:",
            "if kind is asyncio.CancelledError:",
            "test_a_task_that_is_cancelled_is_no_timeout[False] test_a_task_that_is_cancelled_is_no_timeout[True]",
        ),
        (
            "deadline-both",
            "if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:",
            "if self._expired and kind is asyncio.CancelledError:",
            "test_a_task_that_is_cancelled_is_no_timeout[True]",
        ),
        (
            "deadline-own",
            "            if block.due > now + _TICK:",
            "            if False:",
            "test_the_timer_of_a_block_that_has_ended_ends_the_next_one_in_its_time",
        ),
    ),
    *guards(
        "http_requests.py",
        "test_delivery_sender.py",
        (
            "post-header-lines",
            'if lines.count("\\n") != len(headers) or lines.count("\\r") != len(headers):',
            "if False:",
            "test_a_header_cannot_begin_another_one",
        ),
        (
            "post-answer-to-nothing",
            "while connection.protocol is not None and connection.protocol.should_close:",
            "while False:",
            "test_delivery_posts.py::test_an_answer_to_no_request_is_not_taken_for_the_next_one",
        ),
        (
            "post-greetings",
            "            if unasked > _MOST_UNASKED:",
            "            if unasked > 10 * _MOST_UNASKED:",
            "test_delivery_posts.py::test_a_server_that_greets_is_not_connected_to_again_and_again",
        ),
        (
            "post-early-answers",
            "while 100 <= message.code < 200 and message.code != 101:",
            "while False:",
            "test_delivery_posts.py::test_an_early_answer_is_not_the_answer",
        ),
        (
            "post-interim-answers",
            "        if interim > _MOST_INTERIM:",
            "        if False:",
            "test_delivery_posts.py::test_interim_answers_without_an_answer_end_the_connection",
        ),
        (
            "post-scheme",
            'if parsed.scheme not in ("http", "https") or not parsed.raw_host:',
            "if not parsed.raw_host:",
            "test_only_http_is_spoken",
        ),
        (
            "post-answer-in-parts",
            "content.read_nowait(most) if content.is_eof() else await",
            "content.read_nowait(most) if True else await",
            "test_an_answer_in_parts_is_read_to_its_end",
        ),
        control=False,
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
            _NO_PAYMENT + "                return configured, callback\n",
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
        "services/notifications_signing.py",
        "test_reference_security.py",
        (
            "notification-signed",
            'f"{number}.{timestamp}.".encode() + body',
            'f"{number}.{timestamp}.".encode()',
            "test_S4_notifications_are_signed_and_state_the_event",
        ),
        control=False,
    ),
    *guards(
        "domain/apps.py",
        "test_reference_security.py",
        (
            "notification-old-secret",
            """return [item["sealed"] for item in previous if datetime.fromisoformat(item["until"]) > now]""",
            """return [item["sealed"] for item in previous]""",
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
    *guards(
        "services/refunds_booking.py",
        "test_notification_locks.py",
        (
            "case-refund-notification-locks",
            "lock_notifications(transaction, refund.id, refund.case_id)",
            "lock_notifications(transaction, refund.id)",
            "test_the_refund_of_a_case",
        ),
    ),
    *guards(
        "services/cases_decisions.py",
        "test_notification_locks.py",
        (
            "accept-notification-locks",
            "lock_notifications(transaction, order.id, case.id)",
            "lock_notifications(transaction, order.id)",
            "test_a_late_payment_that_is_accepted",
        ),
    ),
]
