"""The data folder of one local installation: made, locked, reset, removed."""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from paycenter_server.local import place
from paycenter_server.local.errors import LocalError
from paycenter_server.local.leftover import end_leftover

DEFAULT_NAME = ".paycenter"
_MARKER = "paycenter.json"
_LOCK = ".lock"
_TEMPORARY = "paycenter-tmp-"
# What may be there before the first start: other commands of ours may have made it.
_BEFORE_MARKER = (_LOCK, "logs", "secrets", "dev.json", "simulator-keys", "simulator.sqlite")


def default_data_dir() -> Path:
    """`PAYCENTER_DATA_DIR`, else `.paycenter` in the current folder."""
    return Path(os.environ.get("PAYCENTER_DATA_DIR") or DEFAULT_NAME)


class DataDir:
    """A data folder (0700) that this process holds the lock of, as a context manager.

    As root the folder is 0711 if the database is inside it: the server's unprivileged user must enter it. Its content is closed.
    """

    def __init__(self, path: Path, *, ephemeral: bool = False) -> None:
        self.path = path
        self.ephemeral = ephemeral
        self._lock: int | None = None

    @classmethod
    def temporary(cls) -> "DataDir":
        """A new folder that `close` removes, with everything of it. Also removes those that killed processes left."""
        parent = Path(tempfile.gettempdir())
        for folder in parent.glob(_TEMPORARY + "*"):
            with contextlib.suppress(OSError, ValueError, LocalError):
                if folder.lstat().st_uid == os.geteuid() and json.loads((folder / _MARKER).read_text()).get("ephemeral"):
                    cls(folder, ephemeral=True).open().close()  # in use: refused
        return cls(Path(tempfile.mkdtemp(prefix=_TEMPORARY)), ephemeral=True)

    @property
    def logs(self) -> Path:
        """Output of the servers and children."""
        return self.path / "logs"

    @property
    def secrets(self) -> Path:
        """Keys and passwords."""
        return self.path / "secrets"

    def ports(self) -> dict[str, int]:
        """The ports of the last start by name (`grpc`, `simulator`, `postgres`, ...); empty before the first start."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            kept = json.loads(self._ports_file.read_text())
            return {name: port for name, port in kept.items() if isinstance(port, int) and 0 < port < 65536}
        return {}

    def keep_ports(self, ports: Mapping[str, int]) -> None:
        """Store these ports for the next start; others stay as they are."""
        new = self._ports_file.with_suffix(".new")
        new.write_text(json.dumps({**self.ports(), **ports}) + "\n")
        new.replace(self._ports_file)

    @property
    def _ports_file(self) -> Path:
        return self.path / "ports.json"

    def open(self) -> "DataDir":
        """Make the folder if needed and lock it. Raises LocalError: in use (with the owner's pid), foreign, or not writable."""
        try:
            self.path = self.path.expanduser().resolve()
            self._make()
            self._lock = _lock(self.path)
            if self.ephemeral:
                # Only now: an ephemeral folder whose lock is free is one that a killed process left.
                self._write_marker()
            for folder in (self.logs, self.secrets):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise LocalError(
                f"The data folder {self.path} cannot be used: {error.strerror or error}. "
                "Give another with --data-dir or PAYCENTER_DATA_DIR."
            ) from error
        return self

    def close(self) -> None:
        """Release the lock; an ephemeral folder is removed first."""
        if self._lock is None:
            return
        if self.ephemeral:
            self._remove_contents(keep_lock=False)
            shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.ftruncate(self._lock, 0)
        os.close(self._lock)
        self._lock = None

    def reset(self) -> None:
        """Delete all data, also the database's outside the folder. The folder must be open (so nobody else uses it)."""
        if self._lock is None:
            raise LocalError("reset needs the data folder's lock")
        self._remove_contents(keep_lock=True)
        self._write_marker()
        for folder in (self.logs, self.secrets):
            folder.mkdir(mode=0o700)

    def __enter__(self) -> "DataDir":
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _make(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        marker = self.path / _MARKER
        if not marker.exists():
            # `--data-dir .` followed by `--reset` must never delete somebody's work.
            foreign = [entry.name for entry in self.path.iterdir() if entry.name not in _BEFORE_MARKER]
            if foreign:
                raise LocalError(
                    f"{self.path} is not empty and not a data folder of PayCenter (it holds {sorted(foreign)[0]}). "
                    "Give a new or empty folder with --data-dir."
                )
            self._write_marker()
            self.path.chmod(0o700)
        owner = self.path.stat().st_uid
        if owner != os.geteuid() and marker.stat().st_uid != os.geteuid():
            raise LocalError(
                f"The data folder {self.path} belongs to another user (uid {owner}). "
                "Run as that user, or give another folder with --data-dir."
            )

    def _write_marker(self) -> None:
        (self.path / _MARKER).write_text(
            json.dumps(
                {"what": "data folder of paycenter dev", "version": 1, "ephemeral": self.ephemeral and self._lock is not None}
            )
            + "\n"
        )

    def _remove_contents(self, *, keep_lock: bool) -> None:
        for base in (self.path, place.existing_place(self.path)):
            if base is not None:
                end_leftover(base / "postgres" / "data")
        place.remove_place(self.path)
        for entry in list(self.path.iterdir()):
            if entry.name == _LOCK and keep_lock:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _lock(folder: Path) -> int:
    """Lock the folder for the life of the returned descriptor; the kernel frees it at the process's end, however it ends."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise LocalError(
            f"The data folder {folder} is in use by process {owner}. "
            f"Stop that one (kill {owner}), or give another folder with --data-dir."
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
