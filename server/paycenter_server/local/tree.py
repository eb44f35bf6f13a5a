"""The process tree of `paycenter dev`: started together, watched, stopped in order."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from urllib.parse import urlsplit

from paycenter_server.local.errors import LocalError
from paycenter_server.local.logs import LogWatch, open_log
from paycenter_server.local.ports import accepts, holder, is_free, listens
from paycenter_server.local.process import exited, spawn, tail

_BACK_OFF = (0.3, 1.0, 2.0, 5.0, 10.0)  # seconds before the 1st, 2nd, ... restart
_RESTARTS_BEFORE_READY = 2  # a server may lose a race against a migration; more than that is a fault to show
_STEADY_AFTER = 60.0  # seconds of running after which earlier crashes are forgotten


class TreeError(LocalError):
    """A child did not become ready; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Child:
    """A program of the tree.

    Ready when it listens on its port itself and `ready_url` answers 2xx or `ready_port` accepts a connection; without either, when
    it runs. A `once` child is ready when it has ended with 0. Children stop from the lowest `stop_order` up, those with the same
    one together. Times in seconds.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    ready_url: str | None = None
    ready_port: int | None = None
    stop_order: int = 0
    once: bool = False
    ready_timeout: float = 60.0
    stop_timeout: float = 10.0
    max_restarts: int = 5


class _Running:
    """One child's life: its process, whether it was ready, its crashes."""

    def __init__(self, child: Child, log: Path) -> None:
        self.child = child
        self.log = log
        self.watch = LogWatch(log)
        self.process: subprocess.Popen[bytes] | None = None
        self.ready = False
        self.deadline = time.monotonic() + child.ready_timeout
        self.began = 0.0
        self.restarts = 0
        self.start_at: float | None = None
        self.given_up = False

    def launch(self) -> None:
        with open_log(self.log) as log:
            self.process = spawn(self.child.argv, env=self.child.env, output=log.fileno())
        self.began, self.start_at = time.monotonic(), None

    def answers(self) -> bool:
        if self.child.once:
            return False
        port = self.port
        if port is None:
            return True
        answered = _get_ok(self.child.ready_url) if self.child.ready_url is not None else accepts(port)
        # Another process on the port answers too.
        return answered and self.process is not None and listens(self.process.pid, port)

    @property
    def port(self) -> int | None:
        """The port that the child listens on when it is ready."""
        return urlsplit(self.child.ready_url).port if self.child.ready_url is not None else self.child.ready_port


class Tree:
    """Children under one supervisor. All calls from the main thread. They end with this process, however it ends."""

    def __init__(
        self,
        log_dir: Path,
        *,
        say: Callable[[str], None] = lambda line: None,
        warn: Callable[[str, str], None] = lambda name, line: None,
    ) -> None:
        """`say` is told what the supervisor does; `warn` gets serious lines of a child's log: (child's name, line)."""
        self._log_dir = log_dir
        self._say = say
        self._warn = warn
        self._all: dict[str, _Running] = {}

    def start(self, children: Sequence[Child]) -> None:
        """Start children at the same time and return at once."""
        for child in children:
            self._all[child.name] = running = _Running(child, self._log_dir / f"{child.name}.log")
            running.launch()

    def wait_ready(self) -> None:
        """Wait until all are ready. Raises TreeError with the end of the log of the first that fails or takes too long."""
        while waiting := [running for running in self._all.values() if not running.ready]:
            self._tick()
            for running in waiting:
                if not running.ready and time.monotonic() > running.deadline:
                    raise self._failure(
                        running, f"did not become ready in {running.child.ready_timeout:.0f} s{self._held(running)}"
                    )
            time.sleep(0.02)

    def watch(self, until: Callable[[], bool] = lambda: False) -> None:
        """Keep the children running until `until` is true, or a signal handler raises."""
        while not until():
            self._tick()
            self._forward_warnings()
            time.sleep(0.1)

    def run_foreground(self, child: Child) -> int:
        """Run a program to its end on the terminal, watching the children meanwhile; its exit code (negative: killed by signal)."""
        process = spawn(child.argv, env=child.env, output=None)
        try:
            self.watch(lambda: exited(process))
        finally:
            _end_together([process], child.stop_timeout)
        return process.returncode

    def stop(self) -> None:
        """Stop all in order: SIGTERM, the child's time, then SIGKILL to what is left of its process group."""
        ordered = sorted(self._all.values(), key=lambda running: running.child.stop_order)
        for _, group in groupby(ordered, key=lambda running: running.child.stop_order):
            members = list(group)
            processes = [running.process for running in members if running.process is not None]
            for process in _end_together(processes, max(running.child.stop_timeout for running in members)):
                name = next(running.child.name for running in members if running.process is process)
                self._say(f"{name} did not stop in time and was killed")
        self._all.clear()

    def pid(self, name: str) -> int | None:
        """The pid of a child, None if it does not run."""
        running = self._all.get(name)
        process = running.process if running is not None else None
        return None if process is None or exited(process) else process.pid

    def _tick(self) -> None:
        """Look at each child once."""
        for running in self._all.values():
            if running.given_up or (running.child.once and running.ready):
                continue
            if running.start_at is not None:
                if time.monotonic() >= running.start_at:
                    running.launch()
            elif running.process is not None and exited(running.process):
                self._ended(running, running.process.returncode)
            elif not running.ready:
                running.ready = running.answers()
            elif running.restarts and time.monotonic() - running.began > _STEADY_AFTER:
                running.restarts = 0

    def _ended(self, running: _Running, code: int) -> None:
        child = running.child
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        if child.once:
            if code != 0:
                raise self._failure(running, how)
            running.ready = True
            return
        taken = self._taken(running)
        if not running.ready and taken:
            raise TreeError(f"{child.name} {how}{taken}. Start `paycenter dev` again.")
        if not running.ready and running.restarts >= _RESTARTS_BEFORE_READY:
            raise self._failure(running, how)
        if running.restarts >= child.max_restarts:
            running.given_up = True
            self._say(f"{child.name} {how} and is not started again after {running.restarts} restarts; its log: {running.log}")
            return
        how += taken
        delay = _BACK_OFF[min(running.restarts, len(_BACK_OFF) - 1)]
        running.restarts += 1
        running.start_at = time.monotonic() + delay
        self._say(f"{child.name} {how}; restart {running.restarts} of {child.max_restarts} in {delay:g} s; its log: {running.log}")

    def _taken(self, running: _Running) -> str:
        """Who has the port of a child that has ended, as the end of a sentence; empty if nobody has."""
        if running.port is None or is_free(running.port):
            return ""
        return f", and its port {running.port} is taken by {holder(running.port)}"

    def _held(self, running: _Running) -> str:
        """The same for a child that runs and does not listen."""
        process, port = running.process, running.port
        return "" if port is None or process is None or listens(process.pid, port) else self._taken(running)

    def _failure(self, running: _Running, how: str) -> TreeError:
        return TreeError(f"{running.child.name} {how}. Its log, {running.log}, ends:\n{tail(running.log)}")

    def _forward_warnings(self) -> None:
        for name, running in self._all.items():
            for line in running.watch.serious_lines():
                self._warn(name, line)


def _end_together(processes: Sequence["subprocess.Popen[bytes]"], timeout: float) -> list["subprocess.Popen[bytes]"]:
    """End several processes at the same time; those that had to be killed."""
    for process in processes:
        if not exited(process):
            process.terminate()
    deadline = time.monotonic() + timeout
    while (left := [process for process in processes if not exited(process)]) and time.monotonic() < deadline:
        time.sleep(0.005)
    for process in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    while any(not exited(process) for process in left):
        time.sleep(0.005)
    return left


def _get_ok(url: str) -> bool:
    """Whether a GET of a plain HTTP address is answered with 2xx. Written out: http.client costs more to import than to do."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 80), 1.0) as connection:
            connection.sendall(f"GET {target} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
            answer = connection.recv(64)
    except OSError:
        return False
    return answer.startswith(b"HTTP/1.") and answer[8:10] == b" 2"
