"""One word for one thing (docs/glossary.md): names that point in one direction, and no metaphors."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "server" / "paycenter_server"
TEXTS = [
    *(path for folder in ("server/paycenter_server", "client/paycenter", "migrations") for path in (ROOT / folder).rglob("*.*")),
    *(path for folder in ("tools", "tests", "docs", "benchmarks") for path in (ROOT / folder).rglob("*.*")),
    *(ROOT / "protos").rglob("*.proto"),
    *ROOT.glob("*.md"), ROOT / "client" / "README.md", ROOT / "Makefile",
]  # fmt: skip
# What these stood for has a word of the field: notification sender, wake-up, point of sale, retry schedule, overdue jobs,
# claim loop, delivery in progress, number of a delivery, operation.
METAPHORS = re.compile(
    r"\b(couriers?|doorbells?|bells?|tills?|ladders?|pumps?|pumping|flights?|shelf|shelves|how-manieth|deeds?|on the dot|"
    r"channel sheet|sheet says|safety net|heart of|worlds?)\b",
    re.IGNORECASE,
)
# The reference system's names of tables, columns and jobs, which operators know.
REFERENCE = {"pay_notify_task", "pay_notify_log", "pay_notify_job", "notify_times", "max_notify_times", "next_notify_time"}
# The channels' own names on the wire.
WIRE = {"notify_url", "notify_type", "notify_id"}


# Words of names, and whole names, that were replaced by a noun of the field.
_NAME_PARTS = {"world", "bench", "notice", "notices", "courier", "bell", "doorbell", "till", "ladder", "pump", "flight", "shelf"}
_NAMES = {"Stage", "Asked", "Moment", "Closing", "Configured", "Submit", "_told", "_carry", "_quietly"}


def parts_of(name: str) -> set[str]:
    """The words of a name: `at_the_till` and `TestWorld` have three and two."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def names(path: Path) -> Iterator[tuple[str, int]]:
    """Every identifier of a module with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        for field in ("id", "attr", "name", "arg", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value, getattr(node, "lineno", 0)


def modules(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((SERVER / folder).rglob("*.py"))]


def test_no_metaphors() -> None:
    found = []
    for path in TEXTS:
        if path.suffix not in {".py", ".md", ".proto", ".html", ""} or path.name == "test_vocabulary.py" or "baseline" in path.name:
            continue
        if path.name == "glossary.md":  # says which words the glossary's replace
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if METAPHORS.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_no_metaphors_in_names() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in TEXTS
        if path.suffix == ".py" and "v1" not in path.parts and path.name != "test_vocabulary.py"
        for name, line in names(path)
        if name in _NAMES or parts_of(name) & _NAME_PARTS
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("folder", ["channels", "http_callback"])
def test_what_channels_send_is_a_callback(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in modules(folder)
        for name, line in names(path)
        if "notif" in name.lower() and name not in WIRE
    ]
    assert not found, "\n".join(found)


def test_what_apps_get_is_a_notification() -> None:
    paths = [path for path in modules(".") if "notification" in path.name and "simulator" not in path.parts]
    assert len(paths) >= 5
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in paths
        for name, line in names(path)
        if "callback" in name.lower() and name != "add_done_callback"
    ]
    assert not found, "\n".join(found)


def test_notify_is_a_name_of_the_reference_only() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in modules("domain", "storage", "services", "grpc_server", "workers", "cli", "local")
        for name, line in names(path)
        if "notify" in name.lower() and name not in REFERENCE and name not in WIRE
    ]
    assert not found, "\n".join(found)
