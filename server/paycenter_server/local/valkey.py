"""The embedded Valkey (or Redis): an empty, password-protected server in memory. It may lose everything by design."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path

from paycenter_server.local.binaries import find_valkey
from paycenter_server.local.errors import LocalError
from paycenter_server.local.place import Place, reachable_program
from paycenter_server.local.ports import HOST, LEFTOVER_SECONDS, choose_port, free_port, wait_free
from paycenter_server.local.process import exited, spawn, stop, tail

START_TIMEOUT = 20.0  # seconds


class Valkey:
    """The server; port and password stay the same when it is stopped and started again."""

    def __init__(self, place: Place, log: Path, port: int | None) -> None:
        self._place = place
        self._log = log
        self._log_from = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._program: Path | None = None
        # Without one, any local user and any web page that can make the browser send bytes to a port could run commands.
        self._password = secrets.token_hex(16)
        self.port = port or 0

    @property
    def pid(self) -> int | None:
        """The server's pid, or None if it does not run."""
        return None if self._process is None or exited(self._process) else self._process.pid

    @property
    def url(self) -> str:
        """Address with password, database 0."""
        return f"redis://:{self._password}@{HOST}:{self.port}/0"

    def begin(self) -> None:
        """Start the server and return at once. Raises LocalError if no program is found."""
        if self.pid is not None:
            return
        self._program = reachable_program(find_valkey(), self._place.user)
        if self.port:
            wait_free(self.port, LEFTOVER_SECONDS)
        self.port, _ = choose_port(self.port)
        self._launch()

    def wait_ready(self) -> None:
        """Wait until our own process answers. Raises LocalError with the end of the log."""
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self.pid is None:
                said = self._said()
                if "in use" not in said or time.monotonic() > deadline:
                    raise LocalError(f"Valkey ended while starting. Its log, {self._log}, ends:\n{said}")
                self.port = free_port()
                self._launch()
            if time.monotonic() > deadline:
                raise LocalError(
                    f"Valkey did not become ready in {START_TIMEOUT:.0f} s. Its log, {self._log}, ends:\n{tail(self._log)}"
                )
            time.sleep(0.003)

    def stop(self) -> None:
        """Stop the server; there is nothing to save."""
        if self._process is not None:
            stop(self._process, ((signal.SIGTERM, 3.0),))
            self._process = None

    def _launch(self) -> None:
        settings = (
            f"bind {HOST}",
            f"port {self.port}",
            f"requirepass {self._password}",
            'save ""',
            "appendonly no",
            "daemonize no",
            "pidfile valkey.pid",
        )
        with self._log.open("ab") as log:
            self._log_from = log.tell()
            # The configuration goes through stdin: the password would show in the list of processes.
            self._process = spawn(
                [str(self._program), "-"],
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
                output=log,
                user=self._place.user,
                cwd=self._place.valkey,
                stdin=subprocess.PIPE,
            )
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                pipe.write("\n".join(settings).encode() + b"\n")

    def _answers(self) -> bool:
        """Whether the process that answers on the port is ours: it takes our password and names our pid."""
        try:
            with socket.create_connection((HOST, self.port), 1.0) as connection:
                connection.sendall(f"AUTH {self._password}\r\nINFO server\r\nQUIT\r\n".encode())
                answer = b""
                while chunk := connection.recv(65536):
                    answer += chunk
        except OSError:
            return False
        return self._process is not None and f"process_id:{self._process.pid}\r\n".encode() in answer

    def _said(self) -> str:
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            log.seek(self._log_from)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-20:])
        return tail(self._log)
