"""Generate the committed stubs of the contract (client/paycenter/v1) from protos/.

They are generated in a separate virtual environment with a pinned older grpcio-tools: code from 1.76.0 loads under protobuf
6.33 and 7.x, code from 1.85 refuses older runtimes. `--check` compares with the committed stubs and changes nothing.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STUBS = ROOT / "client" / "paycenter" / "v1"
TOOLS = ("grpcio-tools==1.76.0", "protobuf==6.33.6", "mypy-protobuf==5.0.0", "setuptools<81", "types-protobuf")
CACHE = ROOT / ".venv" / "stub-tools"


def tool_python() -> Path:
    """The Python of the separate environment, which is kept until the list of tools changes."""
    stamp = CACHE / "tools.txt"
    python = CACHE / "bin" / "python"
    if not (stamp.exists() and stamp.read_text() == "\n".join(TOOLS)):
        shutil.rmtree(CACHE, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(CACHE)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *TOOLS], check=True)
        stamp.write_text("\n".join(TOOLS))
    return python


def generate(target: Path) -> None:
    """Generate the stubs in `target`/paycenter/v1."""
    python = tool_python()
    protos = sorted(str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos" / "paycenter").rglob("*.proto"))
    subprocess.run(
        [
            str(python), "-m", "grpc_tools.protoc", f"--proto_path={ROOT / 'protos'}", f"--python_out={target}",
            f"--grpc_python_out={target}", f"--mypy_out={target}", f"--mypy_grpc_out={target}", *protos,
        ],
        check=True,
        env={**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip


def main() -> int:
    """Generate, or with --check compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        made = Path(folder) / "paycenter" / "v1"
        names = sorted(path.name for path in made.iterdir())
        kept = sorted(path.name for path in STUBS.iterdir() if "_pb2" in path.name)
        if not check:
            for name in kept:
                (STUBS / name).unlink()
            for name in names:
                shutil.copy(made / name, STUBS / name)
            print(f"{len(names)} stubs written to {STUBS.relative_to(ROOT)}")
            return 0
        _, different, missing = filecmp.cmpfiles(made, STUBS, names, shallow=False)
        wrong = sorted({*different, *missing, *(set(kept) - set(names))})
        print("stubs match the protos" if not wrong else f"stubs differ from the protos: {', '.join(wrong)}; run make stubs")
        return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
