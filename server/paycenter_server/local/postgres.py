"""The embedded PostgreSQL: made once, started, watched until it is ready, stopped."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

from paycenter_server.local import pgwire
from paycenter_server.local.binaries import Program, find_postgres
from paycenter_server.local.errors import LocalError
from paycenter_server.local.leftover import end_leftover
from paycenter_server.local.place import Place, reachable_program
from paycenter_server.local.ports import HOST, choose_port, free_port
from paycenter_server.local.process import exited, spawn, stop, tail, wait_exit

ROLE = DATABASE = "paycenter"
START_TIMEOUT = 60.0  # seconds; recovery after a crash takes its time on a slow disk
_SETTINGS = {
    "listen_addresses": HOST,
    # Only loopback TCP: a socket's path may be too long (107 bytes) and its lock file goes stale.
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "jit": "off",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_line_prefix": "%m [%p] ",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
}
_FAST = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0))
_IMMEDIATE = ((signal.SIGQUIT, 5.0),)


class Postgres:
    """One cluster in `place` and the server on it. The password is made at the first start and kept in `secrets_dir`."""

    def __init__(self, place: Place, secrets_dir: Path, log: Path, port: int | None, *, fsync: bool = True) -> None:
        """`fsync` false: commits do not wait for the disk, and survive a crash of the server but not of the machine."""
        self._place = place
        self._password_file = secrets_dir / "postgres.password"
        self._log = log
        self._log_from = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._program: Path | None = None
        self._more = {} if fsync else {"fsync": "off", "full_page_writes": "off"}
        self.port = port or 0

    @property
    def pid(self) -> int | None:
        """The pid of the server's first process, or None if it does not run."""
        return None if self._process is None or exited(self._process) else self._process.pid

    @property
    def url(self) -> str:
        """Address with user and password (which is URL-safe)."""
        return f"postgresql://{ROLE}:{self._password()}@{HOST}:{self.port}/{DATABASE}"

    def begin(self) -> None:
        """Start the server and return at once; a new cluster is made first (about 0.5 s). Raises LocalError."""
        cluster = self._place.cluster
        end_leftover(cluster)
        version = cluster / "PG_VERSION"
        program = find_postgres(int(version.read_text()) if version.exists() else None)
        self._program = reachable_program(program, self._place.user)
        if not version.exists():
            self._make_cluster(program)
        self.port, _ = choose_port(self.port)
        self._launch()

    def wait_ready(self) -> None:
        """Wait until the server answers queries and the database exists. Raises LocalError with the end of the log."""
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self.pid is None:
                self._relaunch_or_fail(deadline)
            if time.monotonic() > deadline:
                raise LocalError(
                    f"PostgreSQL did not become ready in {START_TIMEOUT:.0f} s. Its log, {self._log}, ends:\n{self._said()}"
                )
            time.sleep(0.005)

    def stop(self, *, immediate: bool = False) -> None:
        """Fast shutdown, then an immediate one, then SIGKILL. `immediate` crashes it: the next start recovers."""
        if self._process is not None:
            stop(self._process, _IMMEDIATE if immediate else _FAST)
            self._process = None

    def _launch(self) -> None:
        if self._program is None:
            raise LocalError("PostgreSQL was not begun")
        settings = [f"--{key}={value}" for key, value in {**_SETTINGS, **self._more, "port": str(self.port)}.items()]
        with self._log.open("ab") as log:
            self._log_from = log.tell()
            self._process = spawn(
                [str(self._program), "-D", str(self._place.cluster), *settings],
                env=_environment(),
                output=log,
                # A fast shutdown: a killed supervisor leaves a clean cluster, and clients cannot hold it up.
                death_signal=signal.SIGINT,
                user=self._place.user,
                cwd=self._place.postgres,
            )

    def _relaunch_or_fail(self, deadline: float) -> None:
        said = self._said()
        if time.monotonic() < deadline:
            if "could not bind" in said or "could not create any TCP/IP sockets" in said:
                self.port = free_port()
                return self._launch()
            # The backends of a killed server need a moment to notice.
            if "shared memory block" in said and "still in use" in said:
                time.sleep(0.1)
                return self._launch()
        raise LocalError(f"PostgreSQL ended while starting. Its log, {self._log}, ends:\n{said}")

    def _answers(self) -> bool:
        """Whether our own process accepts queries: the pid file names it, says ready, and it knows our password."""
        process = self._process
        try:
            lines = (self._place.cluster / "postmaster.pid").read_text().split("\n")
        except OSError:
            return False
        if process is None or len(lines) < 8 or lines[0] != str(process.pid) or lines[7].strip() != "ready":
            return False
        try:
            pgwire.query(self.port, ROLE, self._password(), DATABASE, "SELECT 1")
        except pgwire.WireError as error:
            if error.code == "3D000":  # the database does not exist
                with contextlib.suppress(OSError):
                    pgwire.query(self.port, ROLE, self._password(), "postgres", f"CREATE DATABASE {DATABASE}", timeout=30)
            elif error.code[:2] in ("28", ""):
                raise LocalError(
                    f"PostgreSQL on port {self.port} refuses our password ({error}). "
                    f"If {self._password_file} was changed, put it back, or start over with --reset (this deletes the data)."
                ) from error
            return False
        except OSError:
            return False
        return True

    def _make_cluster(self, program: Program) -> None:
        """`initdb` into a folder of another name, then rename: a cluster is complete or not there."""
        place, initdb = self._place, Path(str(self._program)).with_name("initdb")
        for stale in place.postgres.glob("cluster-*"):
            shutil.rmtree(stale)
        new = place.postgres / f"cluster-{os.getpid()}"
        password = place.postgres / "password"
        password.unlink(missing_ok=True)
        descriptor = os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self._password(make=True) + "\n")
            if place.user is not None:
                os.fchown(file.fileno(), place.user.uid, place.user.gid)
        # The built-in provider sorts alike on every system, whatever its C library; older versions take the C library's.
        locale = (
            ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"] if program.major >= 17 else ["--locale=C.UTF-8"]
        )
        try:
            self._run_initdb(initdb, new, password, locale)
        except LocalError:
            if program.major >= 17:
                raise
            shutil.rmtree(new, ignore_errors=True)
            self._run_initdb(initdb, new, password, ["--locale=C"])
        finally:
            password.unlink(missing_ok=True)
        new.rename(place.cluster)

    def _run_initdb(self, initdb: Path, target: Path, password: Path, locale: list[str]) -> None:
        argv = [str(initdb), "-D", str(target), "-U", ROLE, f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8"]
        with self._log.open("ab") as log:
            self._log_from = log.tell()
            process = spawn(
                [*argv, "--no-instructions", *locale],
                env=_environment(),
                output=log,
                user=self._place.user,
                cwd=self._place.postgres,
            )
        try:
            done = wait_exit(process, START_TIMEOUT)
        finally:
            stop(process, ())
        if not done or process.returncode != 0:
            raise LocalError(f"initdb could not make a PostgreSQL cluster in {self._place.postgres}. It said:\n{self._said()}")

    def _password(self, *, make: bool = False) -> str:
        if make:
            descriptor = os.open(self._password_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(12))
        try:
            return self._password_file.read_text().strip()
        except OSError as error:
            raise LocalError(
                f"The database's password, {self._password_file}, cannot be read ({error.strerror}). "
                "Put it back, or start over with --reset (this deletes the data)."
            ) from error

    def _said(self) -> str:
        """What the server wrote to its log since it was started."""
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            log.seek(self._log_from)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-20:])
        return tail(self._log)


def _environment() -> dict[str, str]:
    """Nothing of ours: PGDATA, PGPORT and the like would change what the server does."""
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR") if key in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}
