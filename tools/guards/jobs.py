"""Claims of due rows, and the limits of each key: places, tokens, breaker, lease."""

from __future__ import annotations

from guards import Mutant, guards

_LOCK = "LIMIT f.places FOR NO KEY UPDATE SKIP LOCKED) q"
_DUE = "WHERE t.{key} = f.key AND t.{time} <= $1"
_TASKS, _ATTEMPTS, _REFUNDS = "test_guards_notifications.py", "test_guards_attempts.py", "test_guards_refunds.py"
_PASSES_OVER = (
    f"{_TASKS}::test_a_claim_passes_over_what_another_worker_holds "
    f"{_ATTEMPTS}::test_claimed_attempts_are_due_and_not_claimed_by_another "
    f"{_REFUNDS}::test_claimed_refunds_are_due_and_not_claimed_by_another"
)
_TRIALS = "test_behind_an_open_breaker_only_trials_are_made[silent]"

JOBS: list[Mutant] = [
    *guards(
        "services/claims.py",
        "test_places.py",
        (
            "claim-without-a-place",
            "and self._backlog and not self._working:",
            "and False:",
            "test_places_that_a_pass_has_reserved_do_not_stop_the_loop",
        ),
    ),
    *guards(
        "services/claims.py",
        "test_claims_ahead.py",
        (
            "ahead-after-stop",
            "if late or self._places.breakers.is_open(key):",
            "if self._places.breakers.is_open(key):",
            "test_a_while_after_a_stop_nothing_is_begun_any_more",
        ),
        (
            "ahead-age",
            "if self._ahead.oldest(key) < self._clock.now() - AHEAD_TIME or not",
            "if not",
            "test_what_has_waited_too_long_is_left_to_its_lease",
        ),
        (
            "ahead-age-at-a-claim",
            "self._left_to_lease(self._ahead.drop_old(now - AHEAD_TIME))",
            "pass",
            "test_what_has_waited_too_long_is_left_to_its_lease",
        ),
        (
            "ahead-breaker",
            "            self._left_to_lease(self._ahead.drop(key))\n",
            "            pass\n",
            "test_what_waits_for_a_key_whose_breaker_opens_is_left_to_its_lease",
        ),
        (
            "ahead-rows",
            "self._ahead.expected(key), room), 0)",
            "self._ahead.expected(key), AHEAD_ROWS), 0)",
            "test_so_many_rows_wait_in_memory_at_most",
        ),
        (
            "ahead-coming",
            "        return self.of(key) + self.coming[key]",
            "        return self.of(key)",
            "test_two_claims_at_the_same_time_claim_ahead_once",
        ),
        (
            "ahead-first",
            "                while free[key] and (waiting := self._ahead.pop(key)) is not None:",
            "                while False and (waiting := self._ahead.pop(key)) is not None:",
            "test_what_waits_for_a_key_that_is_slow_now_gets_its_places_first",
        ),
        (
            "backlog-keys",
            "elif key in self._backlog or len(self._backlog) < BACKLOG_KEYS or self._places.is_fast(key):",
            "elif True:",
            "test_the_backlog_has_a_limit_and_nothing_is_left_behind_it",
        ),
        (
            "backlog-keys-fast",
            " < BACKLOG_KEYS or self._places.is_fast(key):",
            " < BACKLOG_KEYS:",
            "test_a_key_that_is_fast_has_room_in_the_backlog",
        ),
        (
            "backlog-more-due",
            "                if self._more_due and 2 * len(self._backlog) <= BACKLOG_KEYS:",
            "                if False:",
            "test_the_backlog_has_a_limit_and_nothing_is_left_behind_it",
        ),
        (
            "backlog-shared",
            "        if told:\n            self._share()\n",
            "",
            "test_others_take_part_in_what_is_left test_others_are_not_told_while_a_key_has_no_place",
        ),
        (
            "backlog-shared-without-places",
            "[key for key in due if asked[key] and not left[key] and",
            "[key for key in due if not left[key] and",
            "test_others_are_not_told_while_a_key_has_no_place",
        ),
        (
            "backlog-shared-trial",
            " and not left[key] and not self._places.breakers.is_open(key)]",
            " and not left[key]]",
            "test_others_are_not_told_of_a_trial",
        ),
        (
            "backlog-shared-forgotten",
            "        if len(self._shares) > _SHARES_KEPT:",
            "        if False:",
            "test_the_pauses_of_keys_without_more_are_forgotten",
        ),
        (
            "backlog-shared-less-often",
            "            if now < time <= now + SHARE_LONGEST:",
            "            if False:",
            "test_others_are_told_less_and_less_often",
        ),
        (
            "backlog-shared-clock",
            "            if now < time <= now + SHARE_LONGEST:",
            "            if now < time:",
            "test_others_are_told_less_and_less_often",
        ),
        (
            "backlog-shared-pauses",
            "min(2 * pause, SHARE_LONGEST) if now <",
            "SHARE_FIRST if now <",
            "test_others_are_told_less_and_less_often",
        ),
    ),
    *guards(
        "cli/processes.py",
        "test_wake_up.py",
        (
            "backlog-wakes-others",
            "wake_up=LocalWakeUp(), other_workers=other_workers, ",
            "wake_up=LocalWakeUp(), ",
            "test_a_worker_with_more_than_it_has_places_for_wakes_others",
        ),
    ),
    *guards(
        "services/places.py",
        "test_claims_ahead.py",
        (
            "ahead-places",
            "if known is None or known.in_progress >= known.places or not",
            "if known is None or not",
            "test_a_place_that_becomes_free_is_taken_without_a_claim "
            "test_a_place_is_reserved_again_only_within_the_places_of_a_key",
        ),
        (
            "ahead-fast",
            "return known.fast and 2 * self._in_progress <= self._limits.total",
            "return 2 * self._in_progress <= self._limits.total",
            "test_a_new_key_and_one_that_is_slow_claim_nothing_ahead "
            "test_a_place_is_reserved_again_only_within_the_places_of_a_key",
        ),
        (
            "give-back-unknown",
            "        if known is not None:\n            self._take(key, -places)",
            "        if True:\n            self._take(key, -places)",
            "test_a_key_that_is_not_known_has_nothing_to_give_back",
        ),
        (
            "release-unknown",
            "        if key in self._known:\n            self._take(key, -places)",
            "        if True:\n            self._take(key, -places)",
            "test_a_key_that_is_not_known_has_nothing_to_give_back",
        ),
        (
            "backlog-only-fast",
            "if self.is_fast(key)] if self._slow_in_progress >= self._limits.slow else list(keys)",
            "]",
            "test_while_all_slow_places_are_in_use_only_fast_keys_are_looked_at",
        ),
        (
            "ahead-half",
            "return known.fast and 2 * self._in_progress <= self._limits.total",
            "return known.fast",
            "test_while_places_are_short_nobody_takes_his_own_again",
        ),
    ),
    *guards(
        "services/places.py",
        "test_places.py",
        (
            "slow-half",
            "min(more, total) if known.fast else min(more, total, slow)",
            "min(more, total)",
            "test_keys_that_are_slow_share_their_part_of_the_places",
        ),
        (
            "slow-half-of-failed",
            "                    more = min(more, failed)",
            "                    pass",
            "test_keys_that_have_failed_leave_half_of_the_slow_places_to_others",
        ),
        (
            "slow-failed-in-progress",
            "            self._failed_in_progress += known.in_progress if failed else -known.in_progress",
            "            pass",
            "test_keys_that_have_failed_leave_half_of_the_slow_places_to_others",
        ),
        (
            "slow-failed-last",
            "(True, breaker.turn if breaker is not None else 0) if known.failed else",
            "(False, 0) if known.failed else",
            "test_new_keys_come_before_those_that_have_failed",
        ),
        (
            "slow-failed-in-turn",
            "(True, breaker.turn if breaker is not None else 0) if known.failed else",
            "(True, 0) if known.failed else",
            "test_new_keys_come_before_those_that_have_failed",
        ),
        (
            "slow-failed-and-forgotten",
            "self._limits.burst, now, failed=self.breakers.has_failed(key))",
            "self._limits.burst, now)",
            "test_a_key_that_was_forgotten_has_failed_all_the_same",
        ),
        (
            "slow-few",
            "                if most > _FEW and not known.answers:",
            "                if False:",
            "test_new_keys_get_few_places_while_slow_ones_are_scarce",
        ),
    ),
    *guards(
        "services/jobs.py",
        "test_second_looks.py",
        (
            "verified-after-refund",
            "            stale_time = refund.update_time + VERIFIED_AFTER",
            "            stale_time = refund.update_time + STALE_AFTER",
            "test_looks_at_a_final_state_are_stale_a_day_after_the_last_one[refund]",
        ),
        (
            "verified-after-attempt",
            "max(attempt.update_time, attempt.expire_time) + VERIFIED_AFTER",
            "max(attempt.update_time, attempt.expire_time) + STALE_AFTER",
            "test_looks_at_a_final_state_are_stale_a_day_after_the_last_one[attempt]",
        ),
    ),
    *guards(
        "storage/claims.py",
        _TASKS,
        (
            "claim-due",
            _DUE,
            "WHERE t.{key} = f.key AND $1::timestamptz IS NOT NULL",
            f"{_TASKS}::test_a_claim_takes_only_what_is_due "
            f"{_ATTEMPTS}::test_claimed_attempts_are_due_and_not_claimed_by_another "
            f"{_REFUNDS}::test_claimed_refunds_are_due_and_not_claimed_by_another",
        ),
        control=False,
    ),
    *guards(
        "storage/claims.py",
        _TASKS,
        ("claim-lock", _LOCK, "LIMIT f.places) q", _PASSES_OVER),
        ("claim-skip", _LOCK, "LIMIT f.places FOR NO KEY UPDATE) q", _PASSES_OVER),
        (
            "claim-places",
            _LOCK,
            "LIMIT f.places + 1 FOR NO KEY UPDATE SKIP LOCKED) q",
            "test_a_claim_takes_no_more_of_an_endpoint_than_its_places",
        ),
        (
            "claim-key",
            _DUE,
            "WHERE f.key IS NOT NULL AND t.{time} <= $1",
            "test_a_claim_takes_no_more_of_an_endpoint_than_its_places "
            "test_notifications_delivery.py::test_an_endpoint_that_hangs_delays_no_other "
            "test_bulkheads.py::test_200_attempts_that_hang_do_not_delay_another_account",
        ),
    ),
    *guards(
        "services/places.py",
        "test_bulkheads.py",
        (
            "places-each",
            "        free = known.places - known.in_progress",
            "        free = self._limits.total",
            "test_no_more_is_in_progress_than_there_are_places",
        ),
        (
            "places-breaker",
            "        if breaker is not None and breaker.trial_time is not None:\n            # Open",
            "        if False:\n            # Open",
            f"{_TRIALS} test_the_breaker_of_an_account_is_that_of_both_jobs "
            "test_notifications_delivery.py::test_while_the_breaker_is_open_only_trials_are_sent",
        ),
        (
            "places-one-trial",
            "return 1 if breaker.trial_time <= now and breaker.in_progress == 0 else 0",
            "return 8 if breaker.trial_time <= now else 0",
            _TRIALS,
        ),
        (
            "places-forgotten",
            "            if len(self._known) <= self._limits.remembered:",
            "            if True:",
            "test_places.py::test_open_breakers_are_forgotten_beyond_a_limit "
            "test_places.py::test_all_that_is_remembered_may_be_fast",
        ),
        (
            "places-in-progress-are-kept",
            "            if oldest.in_progress or (oldest.fast and spare_fast):",
            "            if oldest.fast and spare_fast:",
            "test_places.py::test_keys_in_progress_are_never_forgotten",
        ),
        (
            "places-fast-are-kept",
            "            if oldest.in_progress or (oldest.fast and spare_fast):",
            "            if oldest.in_progress:",
            "test_places.py::test_many_keys_that_hang_do_not_make_those_forgotten_that_are_fast",
        ),
        (
            "places-breakers-forgotten",
            "            if oldest.in_progress:\n                self._known[key] = oldest\n",
            "            self._known[key] = oldest\n",
            "test_places.py::test_open_breakers_are_forgotten_beyond_a_limit",
        ),
        (
            "places-breakers-as-new",
            "        if not breaker.in_progress and not breaker.failures:",
            "        if False:",
            "test_places.py::test_breakers_that_are_as_new_ones_are_not_kept",
        ),
        (
            "places-trial-time-clock",
            "            found.trial_time = min(found.trial_time, now + self._limits.longest_pause)",
            "            pass",
            "test_places.py::test_a_clock_that_was_ahead_keeps_no_breaker_shut",
        ),
        (
            "places-open-since-clock",
            "            found.open_since = min(found.open_since, now)",
            "            pass",
            "test_places.py::test_a_clock_that_was_ahead_keeps_no_breaker_shut",
        ),
        (
            "places-trial-of-a-job",
            "if breaker.open_since is not None and not trial:",
            "if False:",
            "test_places.py::test_failing_calls_of_callers_do_not_postpone_the_trial",
        ),
        (
            "places-tokens",
            "min(free, int(self._fill(known, now)))",
            "free",
            "test_calls_a_second_are_limited test_every_call_of_a_row_takes_a_token",
        ),
        (
            "places-token-of-a-call",
            "        self._look(key, now).tokens -= 1",
            "        pass",
            "test_every_call_of_a_row_takes_a_token",
        ),
    ),
    *guards(
        "services/channels_gateway.py",
        "test_bulkheads.py",
        (
            "breaker-no-answer",
            '                self._places.unanswered(configured.account.id)\n            log.warning("channel_unclear"',
            '                pass\n            log.warning("channel_unclear"',
            _TRIALS,
        ),
        (
            "breaker-unreadable",
            '        self._places.unanswered(configured.account.id)\n        log.warning("channel_answer_refused"',
            '        log.warning("channel_answer_refused"',
            "test_behind_an_open_breaker_only_trials_are_made[junk]",
        ),
        (
            "breaker-not-sent",
            '            self._places.unanswered(configured.account.id)\n            log.warning("channel_not_reached"',
            '            log.warning("channel_not_reached"',
            "test_behind_an_open_breaker_only_trials_are_made[unreachable]",
        ),
        (
            "breaker-5xx",
            "        if status >= 500:",
            "        if False:",
            "test_answers_with_a_5xx_open_the_breaker",
        ),
        (
            "breaker-answer",
            "            self._places.answered(configured.account.id, milliseconds / 1000)",
            "            pass",
            "test_callers_are_not_held_up_and_their_answers_close_the_breaker",
        ),
        (
            "breaker-deadline",
            "            if seconds >= self._context.options.channel_timeout:",
            "            if True:",
            "test_a_deadline_of_a_caller_does_not_open_the_breaker",
        ),
    ),
    *guards(
        "cli/processes.py",
        "test_bulkheads.py",
        (
            "call-locks",
            "WORKER_LOCK_SECONDS, CALL_LOCK_SECONDS = 1.0, 2.0",
            "WORKER_LOCK_SECONDS, CALL_LOCK_SECONDS = 1.0, 0.0",
            "test_restart.py::test_calls_whose_orders_somebody_has_locked_do_not_hold_up_others",
        ),
        (
            "worker-locks",
            "lock_wait=WORKER_LOCK_SECONDS",
            "lock_wait=0.0",
            "test_orders_that_somebody_has_locked_do_not_hold_up_a_worker",
        ),
    ),
    *guards(
        "services/accounts_places.py",
        "test_bulkheads.py",
        (
            "places-token-of-a-failure",
            "        if self._calls or self._failed:",
            "        if self._calls:",
            "test_rows_that_fail_without_a_call_take_tokens_too",
        ),
    ),
    *guards(
        "services/jobs.py",
        "test_bulkheads.py",
        (
            "lease-calls",
            "    return CALLS_PER_ROW * timedelta(seconds=options.channel_timeout) + waits",
            "    return timedelta(minutes=2) + waits",
            "test_a_lease_outlives_the_work_on_a_row[60.0]",
        ),
        (
            "lease-waits",
            "    return CALLS_PER_ROW * timedelta(seconds=options.channel_timeout) + waits",
            "    return CALLS_PER_ROW * timedelta(seconds=options.channel_timeout)",
            "test_a_lease_outlives_the_work_on_a_row[5.0] test_a_lease_outlives_the_work_on_a_batch_of_expired_orders",
        ),
        (
            "lease-batch",
            "    waits = max(ROW_WAITS, timedelta(seconds=options.sync_batch))",
            "    waits = ROW_WAITS",
            "test_a_lease_outlives_the_work_on_a_batch_of_expired_orders",
        ),
        (
            "lease-calls-of-a-row",
            "CALLS_PER_ROW = 12",
            "CALLS_PER_ROW = 11",
            "test_the_longest_work_on_a_row_has_as_many_calls_as_its_lease_allows",
        ),
        (
            "stale-beside-the-pass-attempt",
            "        self._waiting_attempts.start(due, now)",
            "        await self._waiting_attempts.go_on(due, now)",
            "test_a_pass_does_not_wait_for_stale_cases[attempt]",
        ),
        (
            "stale-beside-the-pass-refund",
            "        self._waiting_refunds.start(due, now)",
            "        await self._waiting_refunds.go_on(due, now)",
            "test_a_pass_does_not_wait_for_stale_cases[refund]",
        ),
        (
            "stale-while-waiting-attempt",
            "        self._waiting_attempts.start(due, now)",
            "        pass",
            "test_what_waits_for_a_breaker_becomes_stale_by_its_age[attempt]",
        ),
        (
            "stale-while-waiting-refund",
            "        self._waiting_refunds.start(due, now)",
            "        pass",
            "test_what_waits_for_a_breaker_becomes_stale_by_its_age[refund]",
        ),
        (
            "check-at-expiry",
            "when = min(due_after(now, ORDER_SYNC_DELAYS, attempt.check_count), attempt.expire_time)",
            "when = due_after(now, ORDER_SYNC_DELAYS, attempt.check_count)",
            "test_an_attempt_is_checked_at_its_expiry",
        ),
        (
            "expired-order-closes-at-the-end-of-its-attempts",
            "            await self._close_if_expired(order)",
            "            pass",
            "test_the_end_of_the_last_attempt_closes_an_expired_order",
        ),
    ),
    *guards(
        "workers/runner.py",
        "test_workers.py",
        (
            "pass-outlives-arq",
            "        await asyncio.shield(self.passes)",
            "        await self.passes",
            "test_the_time_limit_of_arq_does_not_end_a_pass",
        ),
        (
            "stop-claims-nothing",
            "                working.stop()",
            "                pass",
            "test_a_worker_that_stops_ends_its_rows_or_leaves_them_to_their_lease[ends]",
        ),
    ),
]
