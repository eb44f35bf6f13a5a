"""The console: sessions, forms and roles."""

from __future__ import annotations

from guards import Mutant

_FILE = "server/paycenter_server/http_console/security.py"
_ROLES, _SECURITY = "tests/console/test_console_roles.py", "tests/console/test_console_security.py"

CONSOLE: list[Mutant] = [
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
]
