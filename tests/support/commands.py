"""Commands of `paycenter` as an operator types them, each in a process of its own, which is forked from one that has loaded the
program. An interpreter of its own would load it again for each command, which takes longer than what most of them do.

    run_command(("case", "list"), env, folder)
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

_COMMANDS = ("approvals", "audit", "cases", "ledger", "operations", "processes")
_LONGEST = 60


def run_command(words: Sequence[str], env: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `paycenter WORDS` to its end, with these variables only. After a minute it is killed."""
    return _forking().run(words, env, folder)


@cache
def _forking() -> _Forking:
    return _Forking()


class _Forking:
    """The process that forks, which ends with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, words: Sequence[str], env: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as made, self._lock:
            out, err = Path(made, "out"), Path(made, "err")
            job = {"words": list(words), "env": dict(env), "folder": str(folder), "out": str(out), "err": str(err)}
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(["paycenter", *words], code, out.read_text(), err.read_text())


def _main() -> None:
    for name in _COMMANDS:
        importlib.import_module(f"paycenter_server.cli.{name}")
    importlib.import_module("paycenter_server.bootstrap")
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _run(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(job: dict[str, Any]) -> NoReturn:
    os.setsid()
    signal.alarm(_LONGEST)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    new = os.O_WRONLY | os.O_CREAT
    for stream, path, flags in ((0, os.devnull, os.O_RDONLY), (1, job["out"], new), (2, job["err"], new)):
        os.dup2(os.open(path, flags, 0o600), stream)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["env"])
    code = 1
    try:
        from paycenter_server.cli import main

        main(job["words"], prog_name="paycenter")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _main()
