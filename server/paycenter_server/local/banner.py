"""The box that `paycenter dev` prints when all is up."""

import json
from collections.abc import Iterator
from pathlib import Path

from rich.box import ROUNDED
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from paycenter_server.local.ports import HOST
from paycenter_server.local.session import Session

_LONGEST_VALUE = 200
_PLAIN_SHOWN = ("_url", "_address", "address", "url")


def print_banner(console: Console, session: Session) -> None:
    """Print addresses, keys, where the data is and how to stop. The keys are development keys: they are meant to be seen."""
    ports, table = session.ports, _table()
    _row(table, "gRPC API", f"{HOST}:{ports.grpc}")
    _row(table, "Channel callbacks", ports.url("callback"))
    _row(table, "Simulator", ports.url("simulator"))
    _row(table, "Example merchant", ports.url("merchant"))
    _row(table, "PostgreSQL", session.services.database_url)
    _row(table, "Valkey", session.services.redis_url)
    keys = _table()
    for name, value in _leaves(session.data_file):
        _row(keys, name, value)
    places = _table()
    if session.data.ephemeral:
        _row(places, "Data", f"{session.data.path} (ephemeral: removed at the end)")
    else:
        _row(places, "Data", str(session.data.path))
    if session.database_dir is not None:
        _row(places, "Database", f"{session.database_dir} (the server's user cannot reach the data folder)")
    _row(places, "Logs", str(session.data.logs))
    _row(places, "Stop", "Ctrl-C")
    warning = Text(
        "Development mode: not for production. Keys and passwords below are known to everybody who sees this.", "bold yellow"
    )
    parts: list[Text | Table] = [warning, Text(), table]
    if keys.row_count:
        parts += [Text(), Text(f"Keys ({session.data_file.name})", "bold"), keys]
    console.print(Panel(Group(*parts, Text(), places), title="PayCenter is running", box=ROUNDED, expand=False))


def _table() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    # Folded and not cut: people copy these.
    table.add_column(overflow="fold")
    return table


def _row(table: Table, name: str, value: str) -> None:
    table.add_row(name, Text(value))


def _leaves(data_file: Path) -> Iterator[tuple[str, str]]:
    """The values of dev.json with dotted names, without addresses (shown already) and without what is too long to read."""
    try:
        data = json.loads(data_file.read_text())
    except (OSError, ValueError):
        return
    stack: list[tuple[str, object]] = [("", data)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, dict):
            stack += [(f"{name}.{key}" if name else str(key), item) for key, item in reversed(value.items())]
        elif isinstance(value, list):
            stack += [(f"{name}.{index}", item) for index, item in reversed(list(enumerate(value)))]
        elif (
            value is not None and len(str(value)) <= _LONGEST_VALUE and not name.endswith(_PLAIN_SHOWN) and "addresses" not in name
        ):
            yield name, str(value)
