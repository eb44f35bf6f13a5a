"""The children's log files: opened, kept small, watched for lines that a person should see."""

import re
from pathlib import Path
from typing import IO

ROTATE_AT = 10 * 1024 * 1024  # bytes
_SERIOUS = re.compile(
    r'"level": ?"(?:warning|error|critical)"|\[ *(?:warning|error|critical) *\]|\b(?:WARNING|ERROR|CRITICAL|FATAL|PANIC)\b'
    r"|^Traceback |^[A-Za-z_.]+(?:Error|Exception): "
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LINES_AT_ONCE = 5
_WIDTH = 220


def open_log(path: Path) -> IO[bytes]:
    """Open a log for appending. A big one becomes `<name>.log.1` first, in place of an older one."""
    if path.exists() and path.stat().st_size > ROTATE_AT:
        path.replace(path.with_name(path.name + ".1"))
    return path.open("ab", buffering=0)


class LogWatch:
    """Finds warnings in what is added to one log."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def serious_lines(self) -> list[str]:
        """Warnings and errors since the last call, cut to a terminal's width, at most a few: the rest is in the log."""
        try:
            size = self._path.stat().st_size
            if size <= self._offset:
                self._offset = size
                return []
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(1024 * 1024)
        except OSError:
            return []
        whole = data.rfind(b"\n") + 1
        self._offset += whole if whole else len(data) if len(data) >= 1024 * 1024 else 0
        text = _COLOUR.sub("", data[:whole].decode(errors="replace"))
        found = [line[:_WIDTH] for line in text.splitlines() if _SERIOUS.search(line)]
        if len(found) > _LINES_AT_ONCE:
            found = [*found[:_LINES_AT_ONCE], f"... and {len(found) - _LINES_AT_ONCE} more in {self._path}"]
        return found
