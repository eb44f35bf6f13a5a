"""What `paycenter dev` prints when everything runs: addresses, keys, folders, and the next step.

One `name=value` a line, without a frame, so that a line can be copied whole.
"""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from paycenter_server.local.datadir import default_data_dir
from paycenter_server.local.ports import HOST
from paycenter_server.local.session import Session

_LONGEST_VALUE = 200
_NOT_SHOWN = ("addresses.",)


def banner_lines(session: Session) -> list[str]:
    """Addresses, keys and folders. The keys are development keys: they are meant to be seen."""
    ports, services = session.ports, session.services
    lines = [
        "",
        "PayCenter is running. This is for development and not for production:",
        "everybody who sees these keys can use them.",
        "",
        f"console={ports.url('console')}",
        "Log in with console.name and console.password (below), and choose your own",
        "password. A lost one is replaced by: paycenter operator dev --password",
        "",
        f"grpc={HOST}:{ports.grpc}",
        *(f"{name}={ports.url(name)}" for name in ("connect", "callback", "simulator", "shop")),
        f"database={services.database_url}",
        f"redis={services.redis_url}",
        "",
        *(f"{name}={value}" for name, value in _leaves(session.data_file)),
        "",
        f"data={_short(session.data.path)}",
    ]
    if session.database_dir is not None:
        lines.append(f"database_folder={session.database_dir}")
    lines.append(f"logs={_short(session.data.logs)}")
    if session.data.ephemeral:
        lines += ["", "The data folder is removed at the end."]
    lines += next_step_lines(session)
    return lines


def next_step_lines(session: Session) -> list[str]:
    """What to do next, as the last lines."""
    command = [f"  {shlex.quote(_program())} demo --running"]
    if session.data.path != default_data_dir().resolve():
        # Two lines that a shell reads as one: folders may have long names.
        command = [f"{command[0]} \\", f"    --data-file {shlex.quote(_short(session.data_file))}"]
    return [
        "",
        "Ctrl-C stops everything. Next, buy something in the demo shop:",
        f"  {session.ports.url('shop')}",
        "pay and refund at the simulator:",
        f"  {session.ports.url('simulator')}",
        "look at what happened in the console:",
        f"  {session.ports.url('console')}",
        "or make the demonstration payments from another terminal:",
        *command,
    ]


def _program() -> str:
    """How the command that runs now is typed in this folder."""
    program = Path(sys.executable).with_name("paycenter")
    if shutil.which("paycenter") == str(program):
        return "paycenter"
    return _short(program)


def _short(path: Path) -> str:
    """Relative to the current folder where that is below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (OSError, ValueError):
        return os.fspath(path)


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
        elif value is not None and len(str(value)) <= _LONGEST_VALUE and not name.startswith(_NOT_SHOWN):
            yield name, str(value)
