"""Accounts: their identity, routing of callbacks by account, and taking an account away."""

from __future__ import annotations

from guards import Mutant, guards

_CALLBACKS = "test_account_callbacks.py::"
_SWITCH = "test_account_switch.py::"
_WAY = "[wx_native-v3]"

ACCOUNTS: list[Mutant] = [
    *guards(
        "services/accounts.py",
        "test_accounts.py",
        (
            "account-identity-fixed",
            "        if fixed:\n            raise accounts_errors.account_identity_fixed(account, fixed)\n",
            "",
            "test_the_identity_of_an_account_never_changes[wx_native-mchid] "
            "test_the_identity_of_an_account_never_changes[alipay_qr-app_id]",
        ),
        (
            "account-disable-unsettled",
            "if account.enabled and not wanted.enabled:",
            "if False:",
            "test_an_account_with_unsettled_money_stays[disable]",
        ),
        (
            "account-disable-lock",
            "            await account_rows.lock_account(connection, account.id)\n            if account.enabled",
            "            if account.enabled",
            "test_an_account_is_not_disabled_while_a_submit_is_being_stored",
        ),
        (
            "account-delete-unsettled",
            "                await self._refuse_unsettled(connection, account)\n                await account_rows.delete",
            "                await account_rows.delete",
            "test_an_account_with_unsettled_money_stays[delete]",
        ),
        (
            "account-fits-channels",
            "            if own is not None:\n",
            "            if False:\n",
            "test_a_change_of_an_account_must_fit_its_channels",
        ),
    ),
    *guards(
        "services/accounts_keys.py",
        "test_accounts.py",
        (
            "channel-identity-moves",
            "if current is not None and identity == current.identity:",
            "if current is not None:",
            f"{_SWITCH}test_an_open_attempt_is_paid_after_the_switch_by_its_callback{_WAY} "
            f"{_SWITCH}test_a_refund_after_the_switch_goes_to_the_account_of_the_payment{_WAY}",
        ),
        (
            "channel-keys-of-others",
            "if current is None or account.id != current[0].id:",
            "if False:",
            "test_a_new_channel_changes_no_keys_of_an_account",
        ),
        (
            "channel-identity-fixed",
            "elif fixed := [name for name in changed if name in spec.identity_fields]:",
            "elif fixed := []:",
            "test_the_identity_of_an_account_never_changes[wx_native-mchid]",
        ),
        (
            "account-overlap",
            "        if not replaces and overlap:\n",
            "        if overlap:\n",
            f"{_CALLBACKS}test_a_callback_with_the_keys_before_a_rotation_is_booked{_WAY}",
        ),
    ),
    Mutant(
        "earlier-keys-ended",
        "server/paycenter_server/domain/accounts.py",
        "kept[:MOST_EARLIER_KEYS] if until > now else []",
        "kept[:MOST_EARLIER_KEYS]",
        ("tests/unit/test_account_values.py::test_an_overlap_of_nothing_ends_all_earlier_keys",),
    ),
    *guards(
        "services/channels.py",
        "test_account_switch.py",
        (
            "binding-of-the-account",
            "if binding.account_id == plan.account.id and spec.of_scope(clear, Scope.ATTEMPT) == kept:",
            "if spec.of_scope(clear, Scope.ATTEMPT) == spec.of_scope(clear, Scope.ATTEMPT):",
            f"test_new_payments_are_made_at_the_new_account{_WAY}",
        ),
        (
            "binding-kept-values",
            "if binding.account_id == plan.account.id and spec.of_scope(clear, Scope.ATTEMPT) == kept:",
            "if binding.account_id == plan.account.id:",
            f"{_CALLBACKS}test_a_callback_for_the_appid_of_the_attempt_is_booked_after_the_appid_has_changed",
        ),
    ),
    *guards(
        "services/channels_gateway.py",
        "test_account_callbacks.py",
        (
            "earlier-keys-until",
            "            if now < until:\n",
            "            if True:\n",
            "test_earlier_keys_end_with_the_overlap",
        ),
        (
            "earlier-keys-of-answers",
            "            if remake is not None and self._context.now() < until:\n",
            "            if False:\n",
            "test_answers_with_the_key_before_a_change_are_read[wx_native-public_key] "
            "test_answers_with_the_key_before_a_change_are_read[alipay_qr-alipay_public_key]",
        ),
    ),
    *guards(
        "services/channels_configured.py",
        "test_account_callbacks.py",
        (
            "callback-all-accounts",
            "for binding_id in bindings:",
            "for binding_id in bindings[:1]:",
            f"{_SWITCH}test_an_open_attempt_is_paid_after_the_switch_by_its_callback{_WAY}",
        ),
        (
            "binding-unusable",
            "                failure = failure or error",
            "                raise",
            "test_callbacks_are_booked_although_the_keys_of_an_earlier_account_are_lost",
        ),
        (
            "facts-of-earlier-keys",
            "if differing and any(now < until and",
            "if False and any(now < until and",
            "test_the_seller_id_before_a_change_is_accepted_while_the_earlier_keys_are_valid",
        ),
        (
            "facts-of-ended-keys",
            "any(now < until and not self._differing_fact",
            "any(not self._differing_fact",
            "test_the_seller_id_before_a_change_is_accepted_while_the_earlier_keys_are_valid",
        ),
    ),
    *guards(
        "storage/accounts.py",
        "test_accounts.py",
        (
            "account-open-cases",
            "AND resolve_time IS NULL AND kind = ANY($4)",
            "AND false AND kind = ANY($4)",
            "test_an_account_with_unsettled_money_stays[disable]",
        ),
    ),
    *guards(
        "services/accounts.py",
        "test_accounts.py",
        (
            "account-keys-of-all-channels",
            "uses = await channel_rows.list_account_bindings(connection, account.id)",
            "uses = [(c.code, b) for c, b in await channel_rows.list_current_bindings(connection, account.id)]",
            "test_keys_stay_complete_for_channels_that_had_the_account",
        ),
    ),
    *guards(
        "services/channels_gateway.py",
        "test_channel_keys.py",
        (
            "callback-keys-due",
            "None if configured.codec.keys_due(now) else _read(",
            "_read(",
            "test_a_callback_fetches_certificates_that_are_due",
        ),
    ),
    *guards(
        "services/callbacks.py",
        "test_account_callbacks.py",
        (
            "callback-kept-accounts",
            "            if {one.binding.id for one in present} == {one.binding.id for one in candidates}:\n",
            "            if present:\n",
            "test_a_callback_of_an_account_that_another_process_gave_the_channel_is_booked",
        ),
        (
            "callback-booked-once-at-most",
            "if callback is not read and await",
            "if await",
            "test_statement_budgets.py::test_payments",
        ),
        (
            "callback-names-account",
            "        except FactsMismatchError:\n            return False",
            "        except FactsMismatchError:\n            return True",
            "test_an_earlier_account_with_the_same_platform_key_is_found[alipay_qr-app_id-2021000000000077] "
            "test_an_earlier_account_with_the_same_platform_key_is_found[wx_native-mchid-1900000109]",
        ),
        (
            "callback-merchant",
            "        self._compare_merchant(signer, callback)\n        return signer, callback\n",
            "        return signer, callback\n",
            "test_a_refund_of_another_merchant_with_the_same_keys_is_refused_without_a_case",
        ),
        (
            "callback-owner",
            "configured, known = await self._owner(signer, callback)",
            "configured, known = signer, None",
            "test_a_callback_is_booked_although_the_sibling_has_another_appid",
        ),
        (
            "callback-owner-account",
            "if known is not None and known.attempt.account_id == signer.account.id:",
            "if known is not None:",
            "test_a_payment_of_an_account_under_the_number_of_another_is_a_case",
        ),
        (
            "callback-owner-reads",
            "            callback = await self._gateway.parse_callback(configured, request)\n",
            "            pass\n",
            "test_a_callback_is_booked_although_the_sibling_has_another_appid",
        ),
    ),
    *guards(
        "services/channels_probe.py",
        "test_channel_probe.py",
        (
            "probe-present-keys",
            "configured = replace(await self._gateway.channels.get(channel.id), earlier=[])",
            "configured = await self._gateway.channels.get(channel.id)",
            "test_what_is_wrong_is_described",
        ),
    ),
    *guards(
        "services/payments.py",
        "test_account_callbacks.py",
        (
            "unknown-number-merchant",
            "            compare_identity(configured, payment.account, self._context.now())\n",
            "",
            "test_an_unknown_number_of_another_merchant_is_no_case",
        ),
    ),
    *guards(
        "services/attempts_submission.py",
        "test_accounts.py",
        (
            "submit-account-named",
            "            if tries:\n                await self._refuse_disabled(configured)\n",
            "",
            "test_a_submit_waits_for_the_account_that_is_being_disabled",
        ),
        (
            "submit-other-account",
            "and here == (attempt.channel_id, attempt.account_id):",
            "and attempt.channel_id == configured.channel.id:",
            f"{_SWITCH}test_a_blocked_account_does_not_stop_new_payments",
        ),
    ),
    *guards(
        "services/refunds.py",
        "test_accounts.py",
        (
            "refund-account-enabled",
            "        if not await account_rows.hold_enabled(transaction, account_id):\n",
            "        if False:\n",
            "test_a_refund_waits_for_the_account_that_is_being_disabled test_a_disabled_account_takes_nothing_new",
        ),
        (
            "refund-again-account-enabled",
            "            await self._hold_account(connection, refund.account_id)\n            next_check",
            "            next_check",
            "test_a_disabled_account_takes_nothing_new",
        ),
    ),
    *guards(
        "services/refunds_numbers.py",
        "test_account_callbacks.py",
        (
            "refund-elsewhere-account",
            "if attempt is not None and attempt.account_id != configured.account.id:",
            "if False:",
            "test_a_refund_of_an_account_under_the_number_of_another_names_no_attempt",
        ),
    ),
    *guards(
        "storage/accounts.py",
        "test_accounts.py",
        (
            "account-hold",
            "WHERE id = {place} AND enabled FOR SHARE{skip}",
            "WHERE id = {place} AND enabled",
            "test_a_submit_waits_for_the_account_that_is_being_disabled "
            "test_an_account_is_not_disabled_while_a_submit_is_being_stored",
        ),
        (
            "account-hold-enabled",
            "WHERE id = {place} AND enabled FOR SHARE{skip}",
            "WHERE id = {place} FOR SHARE{skip}",
            "test_a_submit_waits_for_the_account_that_is_being_disabled test_a_refund_waits_for_the_account_that_is_being_disabled",
        ),
        (
            "account-version",
            "update_time = $8 WHERE id = $1 AND version = $2 RETURNING id",
            "update_time = $8 WHERE id = $1 AND $2::int IS NOT NULL RETURNING id",
            "test_an_account_that_was_changed_meanwhile_is_not_overwritten",
        ),
        (
            "account-create-once",
            "ON CONFLICT (family, identity) DO NOTHING RETURNING id",
            "RETURNING id",
            "test_racing_creates_of_one_account test_an_identity_is_one_account",
        ),
    ),
]
