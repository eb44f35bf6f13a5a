"""The two wheels, built, installed with only the dependencies that they declare outside the tree, and run without the tree."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from paycenter import __version__
from paycenter_server.distribution import migrations_folder, protos_folder
from paycenter_server.local import place
from support.waiting import eventually_sync

from .conftest import START_SECONDS, only_start, plain_environment, wait_ready

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "server", "client", "migrations", "protos")
NOT_IN_A_CLONE = shutil.ignore_patterns("*.egg-info", "__pycache__", "build", "dist", ".*")
KEPT = ("PATH", "HOME", "TMPDIR", "LANG")


def call(*argv: str | Path, folder: Path, **environment: str) -> str:
    """Standard output of a program that must succeed, with nothing of this checkout in its environment."""
    kept = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(("PIP_", "LC_"))}
    done = subprocess.run(
        [str(word) for word in argv], cwd=folder, env={**kept, **environment}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def sources() -> Iterator[Path]:
    """A copy of what a clone holds, so that nothing is written to the tree and nothing of an earlier build is used."""
    folder = Path(tempfile.mkdtemp(prefix="paycenter-wheels-"))
    folder.chmod(0o755)
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / "source" / name, ignore=NOT_IN_A_CLONE)
        else:
            (folder / "source").mkdir(exist_ok=True)
            shutil.copyfile(source, folder / "source" / name)
    try:
        yield folder / "source"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def wheels(sources: Path) -> Path:
    folder = sources.parent / "wheels"
    # As an earlier build left it: this module is not in the tree any more.
    stale = sources / "build" / "lib" / "paycenter_server" / "removed.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    options = ("--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", folder)
    call(sys.executable, "-m", "pip", "wheel", *options, sources, sources / "client", folder=sources)
    return folder


@pytest.fixture(scope="module")
def installed(wheels: Path) -> Path:
    """`bin` of an environment with the wheels and the dependencies that they declare, in the versions of this checkout."""
    folder = wheels.parent / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install")
    client, server = sorted(wheels.iterdir())
    call(*pip, "--quiet", "--no-compile", "--constraint", ROOT / "constraints.txt", client, f"{server}[local]", folder=wheels)
    script = "import paycenter, paycenter_server; print(paycenter.__file__); print(paycenter_server.__file__)"
    for line in call(folder / "bin" / "python", "-c", script, folder=wheels).splitlines():
        assert Path(line).is_relative_to(folder), line
    found = json.loads(call(*pip[:-1], "list", "--format", "json", folder=wheels))
    assert not {"pytest", "mypy", "ruff", "setuptools"} & {package["name"] for package in found}
    return folder / "bin"


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheels_hold_every_file(wheels: Path) -> None:
    """Every module, template, migration and proto of the tree, and one version."""
    client, server = sorted(wheels.iterdir())
    assert [wheel.name.split("-")[:2] for wheel in (client, server)] == [
        ["paycenter_client", __version__],
        ["paycenter_server", __version__],
    ]
    for wheel, top, package in ((client, ROOT / "client", "paycenter"), (server, ROOT / "server", "paycenter_server")):
        tree = {
            str(path.relative_to(top))
            for path in (top / package).rglob("*")
            if path.suffix in (".py", ".pyi", ".html", ".typed", ".css", ".js", ".svg", ".txt") and "__pycache__" not in path.parts
        }
        tree |= {f"{package}/py.typed"}
        assert tree <= names(wheel)
    assert "paycenter_server/removed.py" not in names(server)
    contract = {f"paycenter/protos/{path.relative_to(protos_folder())}" for path in protos_folder().rglob("*.proto")}
    assert contract <= names(client)
    for folder, suffix in ((migrations_folder(), ".py"), (protos_folder(), ".proto")):
        wanted = {f"paycenter_server/{folder.name}/{path.relative_to(folder)}" for path in folder.rglob(f"*{suffix}")}
        assert wanted
        assert wanted <= names(server)
    with zipfile.ZipFile(server) as archive:
        metadata = archive.read(f"paycenter_server-{__version__}.dist-info/METADATA").decode()
    assert f"Requires-Dist: paycenter-client=={__version__}\n" in metadata


def test_a_source_distribution_builds_the_same_wheel(sources: Path, wheels: Path) -> None:
    for project, prefix in ((sources, "paycenter_server"), (sources / "client", "paycenter_client")):
        out = sources.parent / "again" / prefix
        out.mkdir(parents=True)
        script = "import sys; from setuptools.build_meta import build_sdist; print(build_sdist(sys.argv[1]))"
        call(sys.executable, "-c", script, out, folder=project)
        archive = next(out.glob("*.tar.gz"))
        call(
            sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", out,
            archive, folder=out,
        )  # fmt: skip
        assert names(next(out.glob("*.whl"))) == names(next(wheels.glob(f"{prefix}-*.whl")))


def test_protos_are_written(installed: Path, tmp_path: Path) -> None:
    call(installed / "paycenter", "protos", "--out", tmp_path / "contract", folder=tmp_path)
    written = {str(path.relative_to(tmp_path / "contract")) for path in tmp_path.rglob("*.proto")}
    assert written == {str(path.relative_to(protos_folder())) for path in protos_folder().rglob("*.proto")}


def test_every_command_runs_and_a_payment_succeeds(installed: Path) -> None:
    """`dev` runs `serve`, `callback`, `worker`, `simulator`, `shop` and `seed` as processes of the same installation."""
    folder = Path(tempfile.mkdtemp(prefix="paycenter-e2e-"))
    folder.chmod(0o755)
    assert call(installed / "paycenter", "--version", folder=folder).strip().endswith(__version__)
    log = folder / "output.log"
    argv = [str(installed / "paycenter"), "dev", "--data-dir", "data", "--no-demo"]
    environment = {name: value for name, value in plain_environment().items() if name in KEPT}
    with log.open("wb") as output, only_start():
        dev = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=folder)
        try:
            running = wait_ready(dev, folder / "data" / "dev.json", log)
        except BaseException:
            dev.kill()
            raise
    try:
        for child in psutil.Process(dev.pid).children():
            words = " ".join(child.cmdline())
            assert str(ROOT / "server") not in words
            if "paycenter_server" in words:
                assert child.exe() and words.startswith(str(installed.parent)), words
        kept = folder / "data" / "secrets" / "settings.json"  # written when everything is up, not only the API
        assert eventually_sync(lambda: kept.is_file() or None, START_SECONDS)
        settings = json.loads(kept.read_text())
        assert "Already at" in call(installed / "paycenter", "migrate", folder=folder, **settings)
        assert "secret" in call(installed / "paycenter", "operator", "anne", folder=folder, **settings)
        demo = (installed / "paycenter", "demo", "--running", "--data-file", running.file, "--json")
        steps = [json.loads(line) for line in call(*demo, folder=folder).splitlines()]
        assert len(steps) == 18
        assert all(step["ok"] for step in steps)
        dev.send_signal(signal.SIGTERM)
        assert dev.wait(30) == 0
        assert all(json.loads(line)["ok"] for line in call(installed / "paycenter", "demo", "--json", folder=folder).splitlines())
    finally:
        if dev.poll() is None:
            dev.kill()
            dev.wait()
        place.remove_place(folder / "data")
        shutil.rmtree(folder, ignore_errors=True)
