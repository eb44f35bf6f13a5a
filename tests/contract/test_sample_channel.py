"""A channel of another package: registered through its entry point, and used like the built-in ones.

`sample_channel/` is installed without pip: the metadata that pip would write is made from its pyproject.toml, in a folder that only
the child processes of these tests see.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
PACKAGE = HERE / "sample_channel"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = tmp_path / f"{project['name']}-{project['version']}.dist-info"
    folder.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (folder / "METADATA").write_text(metadata, encoding="utf-8")
    groups = project["entry-points"].items()
    lines = [f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items()) for group, points in groups]
    (folder / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    path = [str(tmp_path), str(PACKAGE), str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    return {**ours, "PYTHONPATH": os.pathsep.join(path)}


def run(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=HERE.parents[1], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_it_is_found_through_its_entry_point(environment: dict[str, str]) -> None:
    code = "from paycenter_server.channels.registry import installed; print(*installed())"
    assert "samplepay" in run(environment, "-c", code).split()
    ours = {**environment, "PYTHONPATH": str(HERE.parent)}
    assert "samplepay" not in run(ours, "-c", code).split()


def test_a_payment_from_end_to_end(environment: dict[str, str]) -> None:
    said = run(environment, "-m", "pytest", "-p", "no:cacheprovider", str(PACKAGE / "end_to_end.py"))
    assert "5 passed" in said


def test_the_contract_of_every_codec_holds_for_it(environment: dict[str, str]) -> None:
    options = ["-p", "no:cacheprovider", "-p", "contract_config", "-k", "samplepay"]
    said = run(environment, "-m", "pytest", *options, str(HERE / "test_codec_contract.py"))
    assert " passed" in said
    assert "failed" not in said
