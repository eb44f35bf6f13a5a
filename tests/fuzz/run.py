"""`python tests/fuzz/run.py SECONDS`: each fuzzer for so long, in an environment of their own (`.interop/fuzz`).

Prints one line a fuzzer and ends with `N passed, N failed`. A finding is an input that made a parser raise something other than its
own error, or take too long; it is kept in `.interop/fuzz-findings/`. What was found interesting stays in `.interop/fuzz-corpus/`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HOME = ROOT / ".interop"


def environment() -> Path:
    """The interpreter with atheris and the project, created if its stamp does not match."""
    folder, wanted = HOME / "fuzz", f"{(HERE / 'requirements.txt').read_text(encoding='utf-8')} {sys.version}"
    stamp, python = folder / "stamp", folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, "-r", str(HERE / "requirements.txt"), "-e", str(ROOT / "client"), "-e", str(ROOT)], check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def run(python: Path, script: Path, seconds: int) -> bool:
    """Run one fuzzer. Whether it found nothing."""
    findings, corpus = HOME / "fuzz-findings", HOME / "fuzz-corpus" / script.stem
    for folder in (findings, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    command = [str(python), str(script), str(corpus), f"-max_total_time={seconds}", f"-artifact_prefix={findings}/{script.stem}-"]
    try:
        done = subprocess.run(
            command, cwd=HERE, capture_output=True, text=True, errors="replace", timeout=seconds + 120, check=False
        )
    except subprocess.TimeoutExpired:
        print(f"FAIL {script.stem}: did not end", flush=True)
        return False
    crashes = sorted(path.name for path in findings.glob(f"{script.stem}-*"))
    if done.returncode or crashes:
        print(f"FAIL {script.stem} (exit {done.returncode}) {crashes}\n{(done.stdout + done.stderr)[-4000:]}", flush=True)
        return False
    print(f"PASS {script.stem}: no finding in {seconds} s", flush=True)
    return True


def main() -> int:
    """All fuzzers; the exit code."""
    parser = argparse.ArgumentParser(description="Fuzz the parsers of what channels send.")
    parser.add_argument("seconds", type=int, nargs="?", default=300, help="for each fuzzer")
    parser.add_argument("--only", default="", help="a part of a fuzzer's name")
    arguments = parser.parse_args()
    HOME.mkdir(exist_ok=True)
    python = environment()
    scripts = [script for script in sorted(HERE.glob("fuzz_*.py")) if arguments.only in script.stem]
    results = [run(python, script, arguments.seconds) for script in scripts]
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
