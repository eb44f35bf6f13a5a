"""The statements of submits, and the requests to channels."""

from __future__ import annotations

from guards import Mutant, guards

SUBMITS: list[Mutant] = [
    *guards(
        "storage/attempts_submission.py",
        "test_guards_orders.py",
        (
            "intent-state",
            "AND t.state = ANY({listed(sources(ORDER, OrderEvent.PAID))})\n",
            "\n",
            "test_intent_checks_the_state_again",
        ),
        (
            "intent-price",
            "WHERE t.amount = g.amount AND",
            "WHERE",
            "test_intent_checks_the_price_again",
        ),
        (
            "intent-expiry",
            " AND t.expire_time > g.create_time AND",
            " AND",
            "test_intent_needs_an_order_that_has_not_expired",
        ),
        (
            "intent-version",
            " AND t.submit_version = g.submit_version)",
            ")",
            "test_intent_locks_the_order test_intent_checks_the_other_attempts_again test_intent_compares_what_was_read "
            "test_intent_waits_for_a_payment_that_becomes_a_case",
        ),
        (
            "intent-counts",
            "SET submit_version = submit_version + 1 WHERE",
            "SET submit_version = submit_version WHERE",
            "test_intent_locks_the_order test_intent_compares_what_was_read",
        ),
        (
            "intent-held",
            '    AND ({held("t.id")}) IS NULL FOR',
            "    FOR",
            "test_intent_needs_an_order_whose_money_is_not_held",
        ),
        (
            "intent-account",
            "\n  JOIN account ON account.id = g.account_id)",
            ")",
            "test_accounts.py::test_a_submit_waits_for_the_account_that_is_being_disabled",
        ),
        (
            "intent-lock",
            "IS NULL FOR NO KEY UPDATE OF t{skip})",
            "IS NULL)",
            "test_intent_locks_the_order test_intent_checks_the_price_again",
        ),
    ),
    *guards(
        "storage/attempts_submission.py",
        "test_submits_together.py",
        (
            "submits-wait-for-nobody",
            '_SKIP = " SKIP LOCKED"',
            '_SKIP = ""',
            "test_what_is_locked_does_not_hold_up_the_others[order] test_what_is_locked_does_not_hold_up_the_others[account] "
            "test_an_answer_waits_for_nobody_but_by_itself",
        ),
        (
            "intents-of-an-order",
            "_first_of_each([intent.attempt.order_id for intent in intents])",
            "list(range(len(intents)))",
            "test_of_two_intents_of_an_order_the_first_is_stored",
        ),
        (
            "answers-of-an-attempt",
            "stored.pop(answer.attempt_id, None)",
            "stored.get(answer.attempt_id)",
            "test_of_two_answers_of_an_attempt_the_first_is_stored",
        ),
        (
            "answer-state",
            "WHERE id = ANY($1::uuid[]) AND state = ANY({states}) FOR",
            "WHERE id = ANY($1::uuid[]) FOR",
            "test_guards_attempts.py::test_answered_leaves_a_settled_attempt_alone test_an_answer_waits_for_nobody_but_by_itself",
        ),
        (
            "answer-lock",
            "AND state = ANY({states}) FOR NO KEY UPDATE{skip})",
            "AND state = ANY({states}))",
            "test_an_answer_waits_for_nobody_but_by_itself",
        ),
        (
            "answer-own-values",
            "  WHERE t.id = g.id AND",
            "  WHERE",
            "test_each_intent_and_each_answer_is_stored_with_its_own_values",
        ),
        (
            "shown-order-as-it-is",
            "return self.of_order == (state.value, amount, version, submit_version + submits, update_time)",
            "return True",
            "test_an_order_that_has_changed_meanwhile_is_read_again",
        ),
    ),
    *guards(
        "services/attempts_submission.py",
        "test_submit.py",
        (
            "attempts-at-most",
            "            _refuse_too_many(seen)\n            if tries:",
            "            if tries:",
            "test_an_order_that_has_got_its_last_attempt_meanwhile_gets_no_other_one",
        ),
        (
            "attempts-at-most-first",
            "            _refuse_too_many(seen)  # before an attempt that can be paid is closed for nothing\n",
            "            pass\n",
            "test_an_order_has_at_most_so_many_attempts",
        ),
        (
            "attempts-again-at-most",
            "        if len(others) == len(_open(seen)):\n",
            "        if True:\n",
            "test_at_the_limit_the_same_submit_uses_its_attempt_again",
        ),
    ),
    *guards(
        "services/attempts_statements.py",
        "test_submits_together.py",
        (
            "intent-left-out",
            "return await rows.insert_attempt(connection, attempt, order, cause)",
            "return False",
            "test_what_is_locked_does_not_hold_up_the_others[order]",
        ),
        (
            "shown-attempt-without-error",
            ", channel_error_code=None, channel_error_message=None,",
            ",",
            "test_what_is_shown_of_a_repeated_submit_is_what_is_stored",
        ),
    ),
    Mutant(
        "request-unreadable-after-writing",
        "server/paycenter_server/http_requests.py",
        "            if isinstance(error, ValueError):",
        "            if False:",
        ("tests/unit/test_transport.py::test_an_error_after_the_request_was_written_is_unclear[PoolRequests-error0]",),
    ),
    Mutant(
        "request-connections-by-certificate",
        "server/paycenter_server/http_requests.py",
        "        origin = self._origin(server, tls)",
        "        origin = self._origin(server, True)",
        ("tests/integration/test_mutual_tls.py::test_refunds_go_over_mutual_tls",),
    ),
    Mutant(
        "request-repeated-only-to-query",
        "server/paycenter_server/channels/transport.py",
        'if request.method != "GET" or isinstance(error, aiohttp.ClientConnectorError):',
        "if isinstance(error, aiohttp.ClientConnectorError):",
        ("tests/unit/test_transport.py::test_a_query_is_repeated_if_its_idle_connection_was_closed[PoolRequests-POST-2]",),
    ),
    Mutant(
        "query-repeated",
        "server/paycenter_server/channels/transport.py",
        'if request.method != "GET" or isinstance(error, aiohttp.ClientConnectorError):',
        "if True:",
        ("tests/unit/test_transport.py::test_a_query_is_repeated_if_its_idle_connection_was_closed[PoolRequests-GET-3]",),
    ),
    Mutant(
        "query-not-repeated-was-sent",
        "server/paycenter_server/channels/transport.py",
        "        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):",
        "        except ():",
        ("tests/unit/test_transport.py::test_a_query_that_cannot_be_repeated_is_not_one_that_was_not_sent",),
    ),
    Mutant(
        "transport-without-a-limit",
        "server/paycenter_server/channels/transport.py",
        "aiohttp.TCPConnector(limit=0,",
        "aiohttp.TCPConnector(limit=100,",
        ("tests/unit/test_transport.py::test_requests_that_hang_do_not_delay_others_to_the_same_host[PoolRequests]",),
    ),
    Mutant(
        "waiting-calls-of-an-account",
        "server/paycenter_server/services/channels_gateway.py",
        "if self._waiting[account] >= MOST_WAITING:",
        "if False:",
        ("tests/integration/test_bulkheads.py::test_calls_of_an_account_that_wait_for_its_channel_are_limited",),
    ),
    Mutant(
        "waiting-calls-end",
        "server/paycenter_server/services/channels_gateway.py",
        "            self._waiting[account] -= 1\n",
        "            pass\n",
        ("tests/integration/test_bulkheads.py::test_calls_of_an_account_that_wait_for_its_channel_are_limited",),
    ),
]
