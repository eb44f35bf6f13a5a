"""Who may do what: roles, limits to apps, operators, sessions, and the audit."""

from __future__ import annotations

from guards import Mutant, guards

OPERATORS: list[Mutant] = [
    *guards(
        "grpc_server/calls.py",
        "test_roles.py",
        (
            "role-checked",
            "                    await self._identity.require(caller, name)\n",
            "                    pass\n",
            "test_every_method_with_every_role test_every_method_with_an_app_and_with_nobody",
        ),
        (
            "caller-of-the-message",
            "                caller = known or await self._identity.authenticate(headers.authorization)\n",
            "                known = self._wrapped.setdefault(f'caller {headers.authorization}', None)\n"
            "                caller = known or await self._identity.authenticate(headers.authorization)\n"
            "                self._wrapped[f'caller {headers.authorization}'] = caller\n",
            "test_grpc_credentials.py::test_a_call_whose_message_comes_after_the_revocation_is_refused",
        ),
    ),
    *guards(
        "domain/roles.py",
        "test_roles.py",
        (
            "method-unknown",
            "    if row is None or role not in row.roles:\n        return False\n",
            "    if row is None:\n        return True\n    if role not in row.roles:\n        return False\n",
            "test_a_method_that_is_not_in_the_table_is_for_nobody",
        ),
        (
            "role-limited-to-apps",
            "return (row.limited or not limited) and",
            "return",
            "test_every_method_with_every_role",
        ),
        (
            "must-change-password",
            " and (row.always or not must_change_password)",
            "",
            "test_operators.py::test_a_reset_password_ends_sessions_and_must_be_changed",
        ),
        (
            "credential-role",
            "if other is None or other.covers(self):",
            "if True:",
            "test_a_credential_may_do_at_most_what_it_is_limited_to",
        ),
    ),
    *guards(
        "domain/callers.py",
        "test_operator_scope.py",
        (
            "scope-of-objects",
            "return self.scope is None or app_id in self.scope",
            "return True",
            "test_each_method_with_an_object_of_another_app",
        ),
    ),
    *guards(
        "services/identity.py",
        "test_operator_scope.py",
        (
            "scope-of-lists",
            "            if caller.scope is None:\n                return None\n",
            "            return None\n",
            "test_lists_have_what_belongs_to_the_apps",
        ),
        (
            "operator-disabled",
            "if operator is not None and operator.enabled:",
            "if operator is not None:",
            "test_operators.py::test_a_disabled_operator_is_out",
        ),
        (
            "credential-expired",
            "if credential.expire_time is not None and await",
            "if False and await",
            "test_operators.py::test_a_credential_ends_and_so_do_those_that_it_makes",
        ),
    ),
    *guards(
        "services/cases_desk.py",
        "test_operator_scope.py",
        (
            "scope-of-cases",
            "if case is None or not self._identity.owns(caller, case.app_id):",
            "if case is None:",
            "test_each_method_with_an_object_of_another_app",
        ),
    ),
    *guards(
        "services/accounts_keys.py",
        "test_operator_scope.py",
        (
            "scope-of-accounts",
            "if not apps or not apps <= set(scope):",
            "if False:",
            "test_an_account_of_another_app_is_not_used_or_changed",
        ),
    ),
    *guards(
        "services/cases_decisions.py",
        "test_audit.py",
        (
            "second-person",
            "Decided(decision, reason, caller.person)",
            "Decided(decision, reason, caller.key_id)",
            "test_the_second_operator_of_a_case_is_another_person",
        ),
    ),
    *guards(
        "services/operators.py",
        "test_operators.py",
        (
            "last-admin",
            "if not _is_admin(wanted) and {one.id for one in admins} == {operator.id}:",
            "if False:",
            "test_the_last_admin_of_all_apps_keeps_the_role",
        ),
        (
            "still-admin",
            "if caller.operator_id is not None and caller.operator_id not in {one.id for one in admins}:",
            "if False:",
            "test_two_admins_demote_each_other_at_once[1]",
        ),
        (
            "disabled-sessions",
            "            if not wanted.enabled:\n                await session_rows.revoke_sessions(transaction, operator.id)\n",
            "",
            "test_a_disabled_operator_is_out",
        ),
        (
            "changed-password-sessions",
            "            await session_rows.revoke_sessions(transaction, operator.id)\n"
            '            act = Act(f"{_SERVICE}/ChangeOwnPassword"',
            '            act = Act(f"{_SERVICE}/ChangeOwnPassword"',
            "test_a_password_is_changed_by_its_owner_only",
        ),
    ),
    *guards(
        "storage/operators.py",
        "test_operators.py",
        (
            "admins-lock",
            "AND t.app_keys = '[]' ORDER BY t.id FOR NO KEY UPDATE OF t",
            "AND t.app_keys = '[]' ORDER BY t.id",
            "test_two_admins_demote_each_other_at_once[1]",
        ),
        (
            "totp-replay",
            "WHERE id = $1 AND totp_step < $2 RETURNING id",
            "WHERE id = $1 RETURNING id",
            "test_sessions.py::test_a_code_is_valid_once",
        ),
    ),
    *guards(
        "services/credentials.py",
        "test_operators.py",
        (
            "own-credential-role",
            "if limits.role is not None and not caller.role.covers(limits.role):",
            "if False:",
            "test_an_own_credential_has_at_most_the_rights_of_its_maker",
        ),
        (
            "own-credential-apps",
            "if caller.scope is not None and (beyond := [key for key in limits.app_keys if key not in caller.scope_keys]):",
            "if beyond := []:",
            "test_an_own_credential_has_at_most_the_rights_of_its_maker",
        ),
        (
            "own-credential-end",
            "for end in (limits.expire_time, caller.expire_time)",
            "for end in (limits.expire_time,)",
            "test_a_credential_ends_and_so_do_those_that_it_makes",
        ),
        (
            "own-credential-owner",
            "if key_id not in {one.credential.key_id for one in await self.list_own(caller)}:",
            "if False:",
            "test_an_own_credential_has_at_most_the_rights_of_its_maker",
        ),
    ),
    *guards(
        "services/sessions.py",
        "test_sessions.py",
        (
            "login-changed-meanwhile",
            "if operator is None or not operator.enabled or operator.password_hash != known.password_hash:",
            "if operator is None:",
            "test_operators.py::test_a_login_that_waits_for_the_operator_to_be_disabled_fails",
        ),
        (
            "login-code",
            "if operator.totp_secret is not None and not await self.code_is_right(transaction, operator, code):",
            "if False:",
            "test_a_code_is_valid_once",
        ),
    ),
    *guards(
        "storage/sessions.py",
        "test_sessions.py",
        (
            "session-revoked",
            "t.revoke_time IS NULL AND t.used_time",
            "t.used_time",
            "test_a_session_that_is_revoked_in_another_process",
        ),
        (
            "session-idle",
            "t.used_time > now() - interval '{IDLE_SECONDS} seconds' ",
            "true ",
            "test_a_session_ends[idle]",
        ),
        (
            "session-life",
            "AND t.create_time > now() - interval '{LIFE_SECONDS} seconds'",
            "",
            "test_a_session_ends[old]",
        ),
        (
            "session-owner",
            "AND ($2::uuid IS NULL OR t.operator_id = $2) ",
            "AND $2::uuid IS NOT DISTINCT FROM $2 ",
            "test_a_session_that_is_revoked_in_another_process",
        ),
        (
            "login-delays",
            "           WHERE t.blocked_until <= now()\n",
            "",
            "test_brute_force_from_many_tasks test_guesses_of_many_names_from_one_peer",
        ),
    ),
    *guards(
        "services/passwords.py",
        "test_sessions.py",
        (
            "unknown-name-work",
            "same = await self._run(",
            "same = stored is not None and await self._run(",
            "test_an_unknown_name_costs_as_much_as_a_known_one",
        ),
        (
            "password-guesses",
            "if not attempt.allowed:\n            raise invalid(",
            "if False:\n            raise invalid(",
            "test_operators.py::test_the_current_password_cannot_be_guessed_in_a_stolen_session",
        ),
    ),
    *guards(
        "services/audit.py",
        "test_audit.py",
        (
            "refusals-limited",
            "        if not self._recorded.permits():\n            return\n",
            "",
            "test_refused_attempts_cannot_fill_the_audit",
        ),
        ("audit-numbers", "if row.id != last + 1:", "if False:", "test_a_forged_audit_is_found[large-middle]"),
        (
            "audit-hash",
            "if row.computed_hash() != row.hash:",
            "if False:",
            "test_a_forged_audit_is_found[large-operator] test_a_forged_audit_is_found[small-time]",
        ),
        ("audit-follows", "if row.previous_hash != previous:", "if False:", "test_a_forged_audit_is_found[large-previous]"),
        (
            "audit-tail",
            "if not broken and len(rows) < batch and last < head.last_id:",
            "if False:",
            "test_a_forged_audit_is_found[large-tail] test_a_forged_audit_is_found[small-all]",
        ),
        (
            "audit-head",
            "if not broken and hashes.get(head.last_id, head.last_hash) != head.last_hash:",
            "if False:",
            "test_a_forged_audit_is_found[large-head] test_a_forged_audit_is_found[small-head]",
        ),
        (
            "audit-anchor",
            "    if row.hash != hashed:\n",
            "    if False:\n",
            "test_an_anchor_finds_a_tail_that_was_removed_with_its_head",
        ),
    ),
    *guards(
        "storage/audit.py",
        "test_audit.py",
        (
            "audit-lock",
            "FROM pay_audit_head WHERE id = 1 FOR NO KEY UPDATE",
            "FROM pay_audit_head WHERE id = 1",
            "test_acts_at_the_same_time_make_one_chain",
        ),
    ),
]
