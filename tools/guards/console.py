"""The console: sessions, forms and roles."""

from __future__ import annotations

from guards import Mutant

_FILE = "server/paycenter_server/http_console/security.py"
_EXPORTS = "tests/console/test_console_exports.py"
_OVERVIEW = "tests/integration/test_overview_reads.py"
_ROLES, _SECURITY = "tests/console/test_console_roles.py", "tests/console/test_console_security.py"

CONSOLE: list[Mutant] = [
    Mutant(
        "console-compressed-form",
        _FILE,
        '    if request.headers.get("Content-Encoding", "identity") != "identity":',
        "    if False:",
        (f"{_SECURITY}::test_a_body_that_is_no_form_is_refused[headers0-abc-415]",),
    ),
    Mutant(
        "console-form-without-session",
        _FILE,
        "    if view.session is None and request.can_read_body and (size is None or size > MAX_LOGIN):",
        "    if False:",
        (
            f"{_SECURITY}::test_without_a_session_no_large_form_is_read[/login-20000-413]",
            f"{_SECURITY}::test_without_a_session_no_large_form_is_read[/preferences--413]",
        ),
    ),
    Mutant(
        "console-form-before-the-login",
        _FILE,
        " and (view.session is not None or request.path in _WITHOUT_SESSION):\n",
        ":\n",
        (f"{_SECURITY}::test_without_a_session_no_large_form_is_read[/apps/shop/secret-1000000-303]",),
    ),
    Mutant(
        "console-connections",
        "server/paycenter_server/http_console/app.py",
        "    table = Connections(limit) if connections is None else connections",
        "    table = Connections(limit)",
        (f"{_SECURITY}::test_connections_that_send_nothing_make_room_for_others",),
    ),
    Mutant(
        "console-role",
        _FILE,
        "        await view.parts.identity.require(view.caller, method)",
        "        assert view.caller",
        (f"{_ROLES}::test_every_route_with_every_role[viewer]",),
    ),
    Mutant(
        "console-route-without-role",
        _FILE,
        '        raise web.HTTPForbidden(reason="This page has no roles.")',
        "        return None",
        (f"{_ROLES}::test_a_route_that_is_not_in_the_table_is_refused",),
    ),
    Mutant(
        "console-must-change-password",
        _FILE,
        "    if method and view.caller.must_change_password:",
        "    if False:",
        (f"{_ROLES}::test_every_route_with_every_role[viewer]",),
    ),
    Mutant(
        "console-overview-of-all-apps",
        "server/paycenter_server/domain/roles.py",
        '    "Console/Search": Permission(_ALL, limited=False),',
        '    "Console/Search": Permission(_ALL),',
        (f"{_ROLES}::test_an_operator_who_is_limited_to_an_app_sees_no_other",),
    ),
    Mutant(
        "console-export-role",
        "server/paycenter_server/domain/roles.py",
        '    "Console/ExportOrders": Permission(_FINANCE),',
        '    "Console/ExportOrders": Permission(_ALL),',
        (f"{_EXPORTS}::test_who_may_export_and_what[viewer-403]",),
    ),
    Mutant(
        "console-export-formulas",
        "server/paycenter_server/http_console/sheets.py",
        """    return f"'{text}" if text.startswith(_FORMULA) else text""",
        "    return text",
        (f"{_EXPORTS}::test_formulas_are_texts", f"{_EXPORTS}::test_a_workbook_of_refunds"),
    ),
    Mutant(
        "console-export-audited",
        "server/paycenter_server/services/exports.py",
        "            await self._context.run_to_completion(self._record(caller, act, rows, whole=whole))",
        "            assert act",
        (f"{_EXPORTS}::test_an_export_that_is_left_is_in_the_audit_too", f"{_EXPORTS}::test_a_workbook_of_refunds"),
    ),
    Mutant(
        "console-exports-of-an-operator",
        "server/paycenter_server/services/exports.py",
        "if of_yours >= MOST_OF_ONE or of_all >= MOST:",
        "if of_all >= MOST:",
        (f"{_EXPORTS}::test_so_many_exports_are_in_progress_at_most", f"{_EXPORTS}::test_a_refused_export_is_a_page"),
    ),
    Mutant(
        "console-exports-of-all",
        "server/paycenter_server/services/exports.py",
        "if of_yours >= MOST_OF_ONE or of_all >= MOST:",
        "if of_yours >= MOST_OF_ONE:",
        (f"{_EXPORTS}::test_so_many_exports_are_in_progress_at_most",),
    ),
    Mutant(
        "console-export-that-is-not-read",
        "server/paycenter_server/http_console/exports.py",
        "        async with asyncio.timeout(PIECE_SECONDS):",
        "        async with asyncio.timeout(None):",
        (f"{_EXPORTS}::test_a_reader_that_does_not_read_is_cut_off",),
    ),
    Mutant(
        "console-own-views",
        "server/paycenter_server/storage/views.py",
        "DELETE FROM pay_operator_view WHERE id = $1 AND operator_id = $2",
        "DELETE FROM pay_operator_view WHERE id = $1 AND $2::uuid IS NOT NULL",
        ("tests/console/test_console_views.py::test_a_view_is_saved_shown_replaced_and_deleted",),
    ),
    Mutant(
        "console-failing-limit-is-unknown-to-the-planner",
        "server/paycenter_server/storage/overview.py",
        "ORDER BY t.next_notify_time DESC LIMIT $3) q",
        "ORDER BY t.next_notify_time DESC LIMIT 3000) q",
        (f"{_OVERVIEW}::test_statistics_that_know_of_no_backlog_do_not_make_it_be_read",),
    ),
    Mutant(
        "console-failing-more",
        "server/paycenter_server/storage/overview.py",
        "    count(*) >= $3 OR (SELECT count(*) FROM looked_at) >= $1 AS more",
        "    count(*) >= $3 AS more",
        (f"{_OVERVIEW}::test_an_endpoint_with_many_notifications_leaves_the_others_to_be_found",),
    ),
]
