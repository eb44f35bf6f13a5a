"""Every text of the console has both languages, and no translation is left over."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import paycenter_server.http_console as console
import pytest
from paycenter_server.channels.registry import installed
from paycenter_server.cli.console import _checks
from paycenter_server.domain import events, states
from paycenter_server.http_console import (
    approvals,
    cases,
    exports,
    formats,
    login,
    operators,
    orders,
    refunds,
    view,
)
from paycenter_server.http_console.texts import LANGUAGES, catalog, language_of, translated

FOLDER = Path(console.__file__).parent
CHINESE = catalog("zh")
_CALL = re.compile(r"""(?:\b_|\bview\.t|\bself\.t|\btranslate)\(\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)')""")
_CHECK = re.compile(r'Check\("([^"]+)", [^"]+"([^"]+)"\)')
# Literals that a template or a page gives to `_` by a name.
_NAMED = {
    "Light", "Dark", "As the system", "days", "hours", "minutes", "seconds", "merchant_certificate", "platform_certificates",
    "app_cert", "alipay_cert", "earlier_keys", "booked as paid", "kept without booking",
    "closed by an operator", "settled", "expiry", "query", "delivery", "decision of an operator",
}  # fmt: skip
# Names that are the same in both languages.
_SAME = {"Key id", "Native", "JSAPI", "H5", "PC", "WAP"}


def used() -> set[str]:
    """The English texts that pages translate."""
    found = set(_NAMED)
    for path in [*FOLDER.glob("templates/**/*.html"), *FOLDER.glob("*.py")]:
        for double, single in _CALL.findall(path.read_text()):
            found.add((double or single).replace('\\"', '"').replace("\\'", "'"))
    found |= (
        {name for _, _, name in view.NAVIGATION}
        | set(view.DONE.values())
        | set(orders.COLUMNS.values())
        | set(refunds.COLUMNS.values())
    )
    found |= {text for _, text in formats.STATES.values()}
    found |= {text for spec in installed().values() for text in (spec.title, spec.family_title, spec.short_title)}
    found |= {text for _, text in login._PROBLEMS.values()}
    found |= set(formats.CASE_KINDS.values()) | {text for pair in cases.DECISIONS.values() for text in pair}
    found |= {head for head in (*exports.ORDER_HEADS, *exports.REFUND_HEADS) if not head.startswith("out_")}
    found |= set(approvals.KINDS.values())
    found |= {text for pair in operators.ROLES.values() for text in pair}
    for item in (item for spec in installed().values() for item in spec.config_fields):
        found |= {item.label, item.help} - {""}
        found |= {text for _, text in item.choices if " " in text or text in ("Yes", "No")}
    source = (FOLDER / "health.py").read_text() + Path(_checks.__code__.co_filename).read_text()
    found |= {text for pair in _CHECK.findall(source) for text in pair}
    found |= set(re.findall(r'HTTPForbidden\(reason="([^"]+)"\)', (FOLDER / "security.py").read_text()))
    for kind in (events.Subject, events.ActorKind):
        found |= {member.value for member in kind}
    for table in (states.OrderEvent, states.AttemptEvent, states.RefundEvent, states.CaseEvent, states.NotificationEvent):
        found |= {member.value for member in table}
    found |= {value for name, value in vars(events).items() if name.isupper() and isinstance(value, str)}
    # Names of fields and of files are shown as they are.
    return {text for text in found if re.search("[A-Za-z]{2}", text) and not re.search(r"^[A-Za-z_]*\.|\.(pem|crt)$|_…$", text)}


def test_every_text_has_both_languages() -> None:
    missing = sorted(text for text in used() if text not in CHINESE)
    assert not missing
    for english, chinese in CHINESE.items():
        places = [{name for _, name, _, _ in Formatter().parse(text) if name} for text in (english, chinese)]
        if "{" in english and english in used() and '"code"' not in english:
            assert places[0] == places[1], english
        assert re.search("[\u4e00-\u9fff]", chinese) or english in _SAME or chinese == "App", english
        assert chinese.strip() == chinese


def test_a_text_without_translation_stays_english() -> None:
    assert translated("zh", "A sentence of a use case.") == "A sentence of a use case."
    assert translated("en", "Orders") == "Orders"
    assert translated("zh", "Orders") == "支付订单"


@pytest.mark.parametrize(
    ("cookie", "accepted", "expected"),
    [
        ("zh", "en", "zh"), ("xx", "en", "en"), ("", "zh-Hans-CN;q=0.9, en;q=0.1", "zh"), ("", "en;q=0.2,zh;q=0.3", "zh"),
        ("", "*", "en"), ("", ";;;,,,", "en"), ("", "zh;q=9", "en"),
    ],
)  # fmt: skip
def test_the_language_of_a_request(cookie: str, accepted: str, expected: str) -> None:
    assert language_of(cookie, accepted) == expected
    assert expected in LANGUAGES
