"""Credentials, the configuration of channels, and requests that were not sent."""

from __future__ import annotations

from guards import Mutant, guards

ACCESS: list[Mutant] = [
    *guards(
        "services/attempts_submission.py",
        "test_limits.py",
        (
            "overload-waiting-for-payer",
            "            with waiting_outside():\n",
            "            if True:\n",
            "test_a_call_that_waits_for_a_payer_takes_no_place",
        ),
    ),
    *guards(
        "grpc_server/calls.py",
        "test_limits.py",
        (
            "refusal-late-before-deadline",
            "min(seconds, remaining / 2)",
            "seconds",
            "test_a_late_refusal_comes_before_the_deadline_of_its_caller",
        ),
        (
            "overload-refused-gives-back",
            "            taken.end()\n            raise",
            "            raise",
            "test_a_refused_call_is_answered_before_its_message_is_read",
        ),
        (
            "overload-before-the-message",
            "                self._admission.charge(taken, known.app_id)",
            "                pass",
            "test_a_refused_call_is_answered_before_its_message_is_read",
        ),
        (
            "overload-turns",
            "                if many_rows:\n",
            "                if False:\n",
            "test_the_lists_of_an_app_leave_the_connections_to_others",
        ),
        (
            "overload-caller-gone",
            "        task.add_done_callback(taken.end)",
            "        task.add_done_callback(lambda _: None)",
            "test_a_call_whose_message_does_not_come_gives_its_place_back",
        ),
    ),
    *guards(
        "grpc_server/server.py",
        "test_limits.py",
        (
            "overload-of-a-connection",
            '("grpc.max_concurrent_streams", connection_calls)',
            '("grpc.so_reuseport", int(shared_port))',
            "test_the_client_of_a_connection_holds_back_more_calls_than_it_may_have",
        ),
    ),
    *guards(
        "services/limits.py",
        "test_limits.py",
        (
            "overload-pause-of-a-turn",
            "            if known.users > self._each:",
            "            if False:",
            "test_a_turn_is_free_after_a_pause_while_others_of_the_app_wait",
        ),
        (
            "overload-cancelled-turn",
            "        except BaseException:\n            self._leave(app_id, known)\n",
            "        except BaseException:\n",
            "test_a_turn_is_free_after_a_pause_while_others_of_the_app_wait",
        ),
        (
            "refusal-late",
            "            yield LATE_SECONDS if late else 0.0",
            "            yield 0.0",
            "test_who_repeats_refused_calls_at_once_is_answered_late "
            "test_a_late_refusal_comes_before_the_deadline_of_its_caller",
        ),
        (
            "refusal-late-of-an-app",
            "            return (self._apps.get(app_id) or self._known(app_id)).refusals",
            "            pass",
            "test_who_repeats_refused_calls_at_once_is_answered_late",
        ),
        (
            "refusal-late-at-most",
            " and self._late < MOST_LATE",
            "",
            "test_who_repeats_refused_calls_at_once_is_answered_late",
        ),
        (
            "overload-place-once",
            "            if self._waits == 0:\n                self._admission._add(self._app, -1)",
            "            self._admission._add(self._app, -1)",
            "test_a_call_that_ends_while_its_work_waits_gives_its_place_back_once",
        ),
        (
            "overload-two-waits",
            "if self._waits == 1 and not self._ended:",
            "if not self._ended:",
            "test_a_call_that_waits_for_two_answers_gives_back_one_place",
        ),
        (
            "overload-calls",
            "        if self._calls >= self._limits.calls:",
            "        if False:",
            "test_calls_beyond_the_limit_are_refused_at_once",
        ),
        (
            "overload-app-calls",
            "            if app.calls >= self._limits.app_calls:",
            "            if False:",
            "test_an_app_cannot_take_the_places_of_another",
        ),
        (
            "overload-app-rate",
            "        if rate and not app.tokens.take(rate, 2 * rate):",
            "        if False:",
            "test_calls_of_an_app_in_a_second_are_limited",
        ),
        (
            "overload-waiting-outside",
            "    taken.pause()\n",
            "    pass\n",
            "test_calls_that_wait_for_a_channel_take_no_places",
        ),
        (
            "overload-ended-place",
            "        if self._waits == 0 and not self._ended:",
            "        if self._waits == 0:",
            "test_a_call_that_ends_while_its_work_waits_gives_its_place_back_once",
        ),
    ),
    *guards(
        "services/identity.py",
        "test_roles.py",
        (
            "disabled-app-may",
            "if not caller.is_operator and not disabled_app_may_call(method):",
            "if False:",
            "test_what_a_disabled_app_may_call",
        ),
    ),
    *guards(
        "storage/credentials.py",
        "test_grpc_credentials.py",
        (
            "credential-last-usable",
            "AND t.enabled AND o.enabled AND (t.expire_time IS NULL OR t.expire_time > now())",
            "AND t.enabled",
            "test_a_credential_that_cannot_be_used_does_not_count",
        ),
    ),
    *guards(
        "http_connect/app.py",
        "test_connect.py",
        (
            "connect-origin",
            "if origin is not None and origin in origins:",
            "if origin is not None:",
            "test_pages_of_other_sites",
        ),
        (
            "connect-body-limit",
            "web.Application(client_max_size=MAX_BODY,",
            "web.Application(client_max_size=16 * MAX_BODY,",
            "test_limits_and_headers",
        ),
    ),
    *guards(
        "grpc_server/calls.py",
        "test_connect.py",
        (
            "nul-in-json",
            'if (b"\\0" in raw or b"\\\\u0000" in raw) and',
            'if b"\\0" in raw and',
            "test_what_is_not_a_message",
        ),
    ),
    *guards(
        "grpc_server/unary.py",
        "test_connect.py",
        (
            "connect-deadline",
            "async with asyncio.timeout(timeout):",
            "async with asyncio.timeout(None):",
            "test_the_deadline",
        ),
    ),
    *guards(
        "services/credentials.py",
        "test_grpc_credentials.py",
        (
            "last-operator",
            "if found.enabled and not await credential_rows.another_is_usable(transaction, key_id):",
            "if False:",
            "test_the_last_operator_cannot_disable_itself test_two_operators_cannot_disable_each_other_at_once",
        ),
        (
            "operator-forgotten",
            "        self._identity.forget(key_id)\n        return OperatorCredential(disabled, names",
            "        return OperatorCredential(disabled, names",
            "test_a_disabled_operator_is_out_at_once_and_stays_in_the_list",
        ),
    ),
    *guards(
        "storage/credentials.py",
        "test_grpc_credentials.py",
        (
            "operators-lock",
            "ORDER BY t.key_id FOR NO KEY UPDATE OF t",
            "ORDER BY t.key_id",
            "test_two_operators_cannot_disable_each_other_at_once",
        ),
        (
            "disable-own-kind",
            "WHERE key_id = $1 AND app_id IS NOT DISTINCT FROM $2 RETURNING key_id",
            "WHERE key_id = $1 AND $2::uuid IS NOT DISTINCT FROM $2 RETURNING key_id",
            "test_grpc_apps.py::test_a_credential_is_disabled_only_through_its_own_app",
        ),
    ),
    *guards(
        "services/attempts_submission.py",
        "test_submit.py",
        (
            "not-sent-closes",
            "            if work.fresh:\n                await self._close_unsent(attempt, outcome)",
            "            if False:\n                await self._close_unsent(attempt, outcome)",
            "test_a_channel_that_cannot_be_reached_decides_at_once",
        ),
        (
            "not-sent-repeat",
            "            if work.fresh:\n                await self._close_unsent(attempt, outcome)",
            "            if True:\n                await self._close_unsent(attempt, outcome)",
            "test_a_repeat_of_what_was_not_shown_yet_is_not_closed_when_it_was_not_sent",
        ),
    ),
    *guards(
        "services/attempts.py",
        "test_bar_cancel_races.py",
        (
            "cancel-not-sent",
            "if closed.not_sent or closed.status in (CloseStatus.CLOSED, CloseStatus.PAID):",
            "if closed.status in (CloseStatus.CLOSED, CloseStatus.PAID):",
            "test_a_cancellation_that_was_not_sent_is_over",
        ),
    ),
    *guards(
        "services/orders_errors.py",
        "test_submit.py",
        (
            "expired-after-close",
            "return order_expired() if order.expire_time <= now else order_closed()",
            "return order_closed()",
            "test_an_expired_order_is_order_expired_before_and_after_its_close",
        ),
    ),
    *guards(
        "services/accounts_keys.py",
        "test_grpc_channels.py",
        (
            "gateway-public",
            "if self._context.options.production and gateway and not is_public_gateway(gateway):",
            "if False:",
            "test_mock_is_refused_in_production",
        ),
        (
            "gateway-shown",
            "without_credentials(value) if name == GATEWAY_FIELD else value",
            "value",
            "test_a_password_in_a_stored_gateway_is_not_shown",
        ),
    ),
    *guards(
        "services/channels.py",
        "test_grpc_channels.py",
        (
            "channel-forgotten",
            "        await self._planned(store)\n        self._gateway.channels.forget(channel.id)\n",
            "        await self._planned(store)\n",
            "test_submit.py::test_a_changed_channel_is_used_at_once_by_the_process_that_changed_it",
        ),
    ),
    Mutant(
        "callback-sign-type",
        "server/paycenter_server/channels/wechatpay/v2_xml.py",
        ' or sign_type not in ("", kind):',
        ":",
        ("tests/unit/test_wechat_v2.py::test_a_callback_is_signed_in_the_way_that_is_configured[HMAC-SHA256-MD5-False]",),
    ),
    *guards(
        "services/notifications_delivery.py",
        "test_delivery_schedule.py",
        (
            "schedule-start",
            "step = task.notify_times + 1 - task.schedule_start_times",
            "step = task.notify_times + 1",
            "test_the_schedule_may_change_while_a_notification_is_in_it[3]",
        ),
    ),
    *guards(
        "services/cases.py",
        "test_guards_settlement.py",
        (
            "unknown-payment-number",
            ":{payment.out_trade_no}:{payment.channel_order_no}",
            ":{payment.out_trade_no}",
            "test_two_payments_under_one_unknown_number_are_two_cases",
        ),
    ),
    Mutant(
        "stop-refuses",
        "server/paycenter_server/grpc_server/calls.py",
        "                if self._refusing:\n",
        "                if False:\n",
        ("tests/integration/test_grpc_server.py::test_a_running_call_ends_before_the_server_does",),
    ),
    Mutant(
        "calls-held-back-by-the-client",
        "server/paycenter_server/grpc_server/server.py",
        '("grpc.http.overload_protection", 0),',
        '("grpc.http.overload_protection", 1),',
        ("tests/integration/test_limits.py::test_more_calls_than_a_connection_may_have_are_all_answered",),
    ),
    Mutant(
        "stop-refuses-when-full",
        "server/paycenter_server/grpc_server/calls.py",
        "if wrapped is None or self._refusing:\n",
        "if wrapped is None:\n",
        ("tests/integration/test_limits.py::test_a_full_server_that_stops_refuses_and_counts_what_arrives",),
    ),
    Mutant(
        "conflict-reason",
        "server/paycenter_server/storage/database.py",
        "    if isinstance(error, Conflict):\n",
        "    if False:\n",
        (
            "tests/integration/test_database_conflicts.py::test_a_deadlock_is_a_conflict_that_can_be_repeated",
            "tests/integration/test_database_conflicts.py::test_which_refusals_of_the_database_are_worth_a_repetition",
        ),
    ),
    Mutant(
        "health-next-probe",
        "server/paycenter_server/services/health.py",
        "            report = probe.result()",
        "            report = self._running.result()",
        ("tests/integration/test_health.py::test_a_check_that_starts_while_another_ends",),
    ),
    Mutant(
        "health-schema",
        "server/paycenter_server/services/health.py",
        "if self._schema.is_older(revision):",
        "if False:",
        ("tests/integration/test_health.py::test_the_schema_of_an_older_version[0000]",),
    ),
    Mutant(
        "health-write",
        "server/paycenter_server/services/health.py",
        "                await health_rows.write_probe(connection)\n",
        '                await connection.fetchval("SELECT 1")\n',
        ("tests/integration/test_health.py::test_a_read_only_database",),
    ),
    Mutant(
        "health-keys",
        "server/paycenter_server/services/health.py",
        "        if self._missing_keys:\n            failures",
        "        if False:\n            failures",
        ("tests/integration/test_health.py::test_a_master_key_that_is_missing",),
    ),
    Mutant(
        "special-addresses",
        "server/paycenter_server/domain/addresses.py",
        "return reached.is_global and not reached.is_multicast and not special",
        "return reached.is_global and not reached.is_multicast",
        ("tests/unit/test_addresses.py::test_not_public[5f00::1]",),
    ),
]
