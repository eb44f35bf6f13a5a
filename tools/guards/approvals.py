"""Acts that need a second operator."""

from __future__ import annotations

from guards import Mutant, guards

_DESK, _STORE = "services/approvals_desk.py", "services/approvals.py"
_TEST = "test_approvals.py"

_OF_APPS = "test_approvals_apps.py"

APPROVALS: list[Mutant] = [
    *guards(
        "services/apps.py",
        _OF_APPS,
        (
            "loosened-needs-second",
            "            if approved is None and loosened(before, changes):\n                raise _NeedsApprovalError(before)\n",
            "",
            "test_a_limit_is_raised_or_removed_by_two test_the_protection_of_channels_is_ended_by_two",
        ),
        (
            "loosened-before-locked",
            "app = before = await app_rows.lock_app(connection, app.id) or app\n            if approved is None",
            "before = app\n            if approved is None",
            "test_a_limit_that_is_set_at_the_same_moment_is_not_removed",
        ),
        (
            "app-as-it-was-shown",
            "                self._refuse_changed(before, approved)\n",
            "                pass\n",
            "test_a_change_of_what_has_changed_since_the_request_is_not_carried_out",
        ),
        (
            "app-takes-approval",
            """            if approved is not None:
                await self._approvals.take(connection, approved)
            app = before""",
            "            app = before",
            "test_a_limit_is_raised_or_removed_by_two",
        ),
        (
            "app-only-what-is-shown",
            '{"changes": after}',
            '{"changes": dict(changes)}',
            "test_an_approval_carries_out_what_was_shown_and_nothing_else",
        ),
    ),
    *guards(
        "storage/apps.py",
        _OF_APPS,
        (
            "channel-approval-locked",
            "           ) ORDER BY id FOR NO KEY UPDATE",
            "           ) ORDER BY id",
            "test_keys_do_not_change_while_an_app_begins_to_ask_for_a_second_operator",
        ),
    ),
    *guards(
        "domain/approvals.py",
        _OF_APPS,
        (
            "loosened-higher",
            "if limit is not None and (wanted is None or wanted > limit):",
            "if limit is not None and wanted is None:",
            "test_a_limit_is_raised_or_removed_by_two",
        ),
        (
            "loosened-channel-approval",
            '    return before.channel_approval and not changes.get("channel_approval", True)',
            "    return False",
            "test_the_protection_of_channels_is_ended_by_two",
        ),
    ),
    *guards(
        "services/channels_approval.py",
        _OF_APPS,
        (
            "channel-account-as-shown",
            """    if found_account(account) != approved.approval.request.get("found"):""",
            "    if False:",
            "test_an_approval_gives_a_channel_the_account_that_was_shown",
        ),
        (
            "keys-of-apps-need-second",
            "plan.account.id if _other_keys(plan) else None)",
            "None)",
            "test_a_new_channel_does_not_bring_keys_to_a_protected_account[app] "
            "test_keys_of_the_channels_of_such_an_app_change_with_a_second_operator[channel]",
        ),
    ),
    *guards(
        "services/channels.py",
        _OF_APPS,
        (
            "channel-of-app-needs-second",
            "                if approved is None and other and plan is not None and await app_needs_approval("
            "connection, channel.app_id, plan):\n                    raise NeedsApprovalError(after, found_account(plan.stored))\n",
            "",
            "test_channels_of_an_app_that_asks_for_it_change_with_a_second_operator",
        ),
        (
            "new-channel-needs-second",
            "(account_needs_approval(None, plan) or await app_needs_approval(connection, app.id, plan))",
            "account_needs_approval(None, plan)",
            "test_a_new_channel_of_such_an_app_waits_with_its_secrets_sealed",
        ),
        (
            "new-channel-brings-no-keys",
            "account_needs_approval(None, plan) or await",
            "await",
            "test_a_new_channel_does_not_bring_keys_to_a_protected_account[account]",
        ),
    ),
    *guards(
        "services/accounts.py",
        _OF_APPS,
        (
            "account-of-app-needs-second",
            "approved is None and other_keys and await app_rows.lock_channel_approval(connection, None, account.id)",
            "False",
            "test_keys_of_the_channels_of_such_an_app_change_with_a_second_operator[account]",
        ),
    ),
    *guards(
        "services/refunds.py",
        _TEST,
        (
            "refund-needs-second",
            "                await self._refuse_alone(connection, work, order.id)\n",
            "",
            "test_a_refund_at_the_limit_waits_for_a_second_operator test_two_small_refunds_at_the_same_moment_count_together",
        ),
        (
            "refund-again-needs-second",
            "            await self._refuse_alone(connection, work, refund.order_id)\n",
            "",
            "test_a_failed_refund_is_not_sent_again_by_one_operator",
        ),
        (
            "refund-of-operator",
            "alone = not work.caller.is_operator and work.approved is None",
            "alone = work.approved is None",
            "test_a_refund_at_the_limit_waits_for_a_second_operator test_two_small_refunds_at_the_same_moment_count_together",
        ),
        (
            "refund-takes-approval",
            """                if work.approved is not None:
                    await self._approvals.take(connection, work.approved)
                await self._hold_account""",
            "                await self._hold_account",
            "test_an_approval_and_a_refusal_at_the_same_moment "
            "test_it_is_not_carried_out_after_its_end_although_it_was_read_before",
        ),
    ),
    *guards(
        "domain/approvals.py",
        _TEST,
        (
            "refunds-count-together",
            "    return bool(limit) and refunded + reserved >= (limit or 0)",
            "    return bool(limit) and reserved >= (limit or 0) and not refunded",
            "test_small_refunds_count_together",
        ),
    ),
    *guards(
        _STORE,
        _TEST,
        (
            "approval-waits",
            "        if current.state is not ApprovalState.PENDING or current.expire_time <= now:",
            "        if current.state is not ApprovalState.PENDING:",
            "test_it_is_not_carried_out_after_its_end_although_it_was_read_before",
        ),
        (
            "approval-own",
            "        if current.requested_by == approved.by.person:",
            "        if False:",
            "test_a_refund_at_the_limit_waits_for_a_second_operator "
            "test_keys_of_a_protected_account_change_with_a_second_operator "
            "test_a_channel_moves_from_or_to_a_protected_account_with_a_second_operator",
        ),
        (
            "approval-sealed",
            "_place(key, name))} if name in wanted.secrets else value",
            "_place(key, name))} if not name else value",
            "test_keys_of_a_protected_account_change_with_a_second_operator",
        ),
    ),
    *guards(
        _DESK,
        _TEST,
        (
            "approval-role",
            "        await self._identity.require(caller, approval.method)\n",
            "",
            "test_only_who_may_do_the_act_may_approve_it",
        ),
        (
            "approval-scope",
            "        if approval is None or not caller.may_access(approval.app_id):",
            "        if approval is None:",
            "test_only_who_may_do_the_act_may_approve_it",
        ),
    ),
    *guards(
        "services/accounts.py",
        _TEST,
        (
            "account-needs-second",
            "            elif account.change_approval and _guarded(account) != _guarded(wanted):",
            "            elif False:",
            "test_keys_of_a_protected_account_change_with_a_second_operator",
        ),
        (
            "account-switch-needs-second",
            "    return *_keys_of(account), account.enabled, account.change_approval",
            "    return *_keys_of(account), account.enabled",
            "test_every_switch_of_a_protected_account_needs_a_second_operator",
        ),
        (
            "account-same-version",
            "        if version is not None and account.version != version:",
            "        if False:",
            "test_an_account_that_has_changed_since_the_request_is_not_changed",
        ),
    ),
    *guards(
        "services/channels_approval.py",
        _TEST,
        (
            "channel-account-needs-second",
            "    return stored.change_approval or plan.account.change_approval",
            "    return stored.change_approval",
            "test_a_channel_moves_from_or_to_a_protected_account_with_a_second_operator",
        ),
        (
            "channel-keys-need-second",
            "        return plan.account.change_approval and _other_keys(plan)",
            "        return False",
            "test_a_channel_moves_from_or_to_a_protected_account_with_a_second_operator",
        ),
    ),
]
