"""Verify that every guard has a test: remove each guard and run its tests, which must fail.

Each mutant replaces one text of one file in a copy of the tree, and runs the tests that its entry names. It is killed only
if every one of them is collected and fails in its call, and the control (a payment and a refund from end to end) still
passes. A text that is not in its file exactly once, a collection error, a programming error, or a hang is a fault of the
entry and not a kill. Before that, the same tests must pass in an unchanged copy.

The database of a run is migrated once, from the unchanged tree. The test of a guard in a migration migrates a database of its own.

    python tools/mutants.py [--list] [--only PART_OF_A_NAME]... [--jobs 2]

The exit code is 0 only if every mutant is killed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Timer
from uuid import uuid4

from guards import Mutant
from guards.access import ACCESS
from guards.accounts import ACCOUNTS
from guards.approvals import APPROVALS
from guards.cases import CASES
from guards.console import CONSOLE
from guards.jobs import JOBS
from guards.ledger import LEDGER
from guards.looks import LOOKS
from guards.notifications import NOTIFICATIONS
from guards.operators import OPERATORS
from guards.orders import ORDERS
from guards.refunds import REFUNDS
from guards.rules import RULES
from guards.settlement import SETTLEMENT
from guards.submits import SUBMITS
from paycenter_server.local import Embedded
from paycenter_server.simulator.keys import generate_keys
from paycenter_server.storage.migrate import ensure

MUTANTS = [
    *SETTLEMENT,
    *SUBMITS,
    *ORDERS,
    *REFUNDS,
    *NOTIFICATIONS,
    *RULES,
    *ACCESS,
    *ACCOUNTS,
    *CASES,
    *APPROVALS,
    *CONSOLE,
    *OPERATORS,
    *LEDGER,
    *LOOKS,
    *JOBS,
]
ROOT = Path(__file__).resolve().parent.parent
CONTROL = "tests/integration/test_spine.py::test_payment_end_to_end[wx_native-v3]"
_SKIPPED = (
    ".git",
    ".venv",
    ".e2e",
    "docs",
    "benchmarks",
    ".paycenter",
    ".interop",
    "build",
    "dist",
    "*.egg-info",
    ".*_cache",
    "__pycache__",
    ".coverage*",
)
_SECONDS = 180
# The errors of a broken program, in a test or in the server's log. They do not count as a kill.
_BROKEN = re.compile(
    r"\b(SyntaxError|IndentationError|ImportError|ModuleNotFoundError|NameError|UnboundLocalError|AttributeError|TypeError"
    r"|PostgresSyntaxError|IndeterminateDatatypeError|AmbiguousParameterError|DatatypeMismatchError|UndefinedColumnError"
    r"|UndefinedTableError|UndefinedParameterError|UndefinedFunctionError|AmbiguousColumnError|InvalidColumnReferenceError"
    r"|the server expects \d+ arguments?|GroupingError|could not determine data type|invalid input for query argument"
    r"|InvalidTextRepresentationError|NotNullViolationError|Address already in use)\b"
)
# In the log of a test that failed this is no fault: its system ends while calls are running.
_DISCONNECTED = "ConnectionDoesNotExistError"
# Loaded into each run by `-p`. It reports from where the code was loaded, and the result of each test.
_PLUGIN = """
import importlib, json, os, pathlib
import pytest

OUT = pathlib.Path(os.environ["MUTANT_REPORT"])
result = {"collected": [], "outcomes": {}, "loaded": "", "errors": []}

def pytest_collection_finish(session):
    result["collected"] = [item.nodeid for item in session.items]
    module = os.environ["MUTANT_MODULE"]
    if module.startswith("migrations/"):
        from paycenter_server.distribution import migrations_folder
        result["loaded"] = os.path.realpath(migrations_folder().parent / module)
    elif module:
        try:
            result["loaded"] = os.path.realpath(importlib.import_module(module).__file__)
        except Exception as error:
            result["errors"].append(f"{module} does not load: {type(error).__name__}: {error}")

def pytest_collectreport(report):
    if report.failed:
        result["errors"].append(f"{report.nodeid} is not collected: {str(report.longrepr)[-300:]}")

def pytest_runtest_logreport(report):
    kept = result["outcomes"].setdefault(report.nodeid, {})
    kept[report.when] = report.outcome
    if report.outcome == "failed":
        crash = getattr(report.longrepr, "reprcrash", None)
        kept["message"] = crash.message if crash else str(report.longrepr)[-2000:]
        kept["output"] = report.capstdout + report.capstderr + report.caplog

def pytest_sessionfinish(session, exitstatus):
    result["exit"] = int(exitstatus)
    OUT.write_text(json.dumps(result))
"""


@dataclass(frozen=True)
class Verdict:
    """The result of a mutant. `fault`: the entry is invalid, which is not a kill."""

    mutant: Mutant
    killed: bool
    why: str
    seconds: float
    fault: bool = False


def copy_tree(source: Path, target: Path) -> None:
    """Copy everything that a run needs, without generated files. A copy of the base has links to its files: that is fast."""
    names = _SKIPPED if source == ROOT else (".mutant",)
    copy = shutil.copy2 if source == ROOT else os.link
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*names), symlinks=True, copy_function=copy)


def mutate(tree: Path, mutant: Mutant) -> str:
    """Replace the text in the copy. Returns what is wrong with the entry, or ""."""
    path = tree / mutant.file
    if not path.is_file():
        return f"there is no {mutant.file}; the entry is out of date"
    source = path.read_text()
    count = source.count(mutant.text)
    if count != 1:
        return f"its text is {count} times in {mutant.file}, not once; the entry is out of date:\n{mutant.text}"
    if mutant.text == mutant.replacement:
        return "the replacement is the text itself"
    path.unlink()  # the file of the base stays as it is
    path.write_text(source.replace(mutant.text, mutant.replacement))
    return ""


def module_of(file: str) -> str:
    """The module name of a file of server/ or client/; a migration is no module, and the run states which file it takes."""
    if file.startswith("migrations/"):
        return file
    relative = Path(file).relative_to(Path(file).parts[0]).with_suffix("")
    return ".".join(part for part in relative.parts if part != "__init__")


class Runner:
    """One run of pytest at a time, by `pytest_runner.py`. `given`: the variables of its own servers (see tests/conftest.py)."""

    def __init__(self, base: Path, given: dict[str, str]) -> None:
        self.given = given
        command = [sys.executable, str(ROOT / "tools" / "pytest_runner.py"), str(base)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")

    def run(self, job: dict[str, object], seconds: float) -> None:
        """Run to the end, or kill the whole group after so many seconds: what a test started would go on in the next run."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        timers = [Timer(seconds, _signal, (pid, signal.SIGTERM)), Timer(seconds + 20, _signal, (pid, signal.SIGKILL))]
        for timer in timers:
            timer.start()
        self._process.stdout.readline()
        for timer in timers:
            timer.cancel()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


@contextmanager
def servers(folder: Path, base: Path, jobs: int) -> Iterator[Queue[Runner]]:
    """Start PostgreSQL, Valkey and keys for so many parallel runs; yields their runners, which have loaded the program of base."""
    runners: Queue[Runner] = Queue()
    with ExitStack() as stack:
        for number in range(jobs):
            keys = folder / f"keys-{number}"
            keys.mkdir()
            generate_keys(keys)
            embedded = Embedded.temporary(fsync=False)
            stack.callback(embedded.stop)
            urls = embedded.start()
            ensure(urls.database_url)
            runner = Runner(
                base,
                {"TESTS_DATABASE_URL": urls.database_url, "TESTS_REDIS_URL": urls.redis_url, "TESTS_KEYS_DIR": str(keys)},
            )
            stack.callback(runner.close)
            runners.put(runner)
        yield runners


def run_tests(tree: Path, tests: Sequence[str], queue: Queue[Runner], module: str = "") -> dict[str, object]:
    """Run pytest on a copy. Returns the report of the plugin, without `exit` if pytest did not finish."""
    plugin = tree / ".mutant"
    plugin.mkdir(exist_ok=True)
    (plugin / "mutant_plugin.py").write_text(_PLUGIN)
    run = uuid4().hex
    report, output_file = plugin / f"report-{run}.json", plugin / f"output-{run}"
    runner = queue.get()
    environment = {
        **os.environ,
        **runner.given,
        "PYTHONPATH": os.pathsep.join(str(tree / part) for part in ("server", "client", ".mutant")),
        "MUTANT_REPORT": str(report),
        "MUTANT_MODULE": module,
    }
    environment.pop("PYTEST_ADDOPTS", None)
    if module:
        # A mutated test often waits for what does not come.
        environment["TESTS_WAIT_SECONDS"] = "5"
    plugins = [word for name in ("mutant_plugin", "no:cacheprovider", "no:xdist", "no:randomly") for word in ("-p", name)]
    job: dict[str, object] = {
        "cwd": str(tree), "module": module, "environment": environment,
        "path": [str(tree), *environment["PYTHONPATH"].split(os.pathsep)],
        "arguments": [*plugins, *tests], "output": str(output_file),
    }  # fmt: skip
    try:
        runner.run(job, _SECONDS + 2 * len(tests))
    finally:
        queue.put(runner)
    found: dict[str, object] = json.loads(report.read_text()) if report.exists() else {}
    found["text"] = output_file.read_text(errors="replace")[-3000:]
    return found


def selected(collected: Iterable[str], name: str) -> list[str]:
    """The collected tests of a name: itself, or all of its parameters."""
    return [item for item in collected if item == name or item.startswith(name + "[")]


def judge(mutant: Mutant, found: dict[str, object], tree: Path) -> tuple[bool, str, bool]:
    """The judgement of a run: (killed, why, fault of the entry)."""
    collected, outcomes, errors = found.get("collected"), found.get("outcomes"), found.get("errors")
    if "exit" not in found or not isinstance(collected, list) or not isinstance(outcomes, dict):
        return False, f"the run did not come to its end:\n{found['text']}", True
    if errors:
        return False, str(errors), True
    if found["loaded"] != os.path.realpath(tree / mutant.file):
        return False, f"another file was loaded: {found['loaded']}", True
    survivors = []
    for name in (*mutant.tests, CONTROL):
        items = selected(collected, name)
        if not items:
            return False, f"there is no test {name}", True
        for item in items:
            outcome = outcomes.get(item, {})
            if name == CONTROL:
                if outcome.get("call") != "passed" and mutant.control:
                    return False, f"the control fails too: {outcome.get('message')}", True
                if broken := _BROKEN.search(f"{outcome.get('message')}"):
                    return False, f"the control fails by a broken program ({broken.group()}): {outcome.get('message')}", True
            elif outcome.get("setup") != "passed":
                return False, f"{item} fails before its call: {outcome.get('message')}", True
            elif outcome.get("call") == "passed":
                survivors.append(item)
            elif outcome.get("call") != "failed":
                return False, f"{item} neither passes nor fails: {outcome.get('call') or 'no result'}", True
            elif broken := _BROKEN.search(f"{outcome.get('message')}\n{outcome.get('output')}"):
                return False, f"{item} fails by a broken program ({broken.group()}): {outcome.get('message')}", True
            elif _DISCONNECTED in str(outcome.get("message")):
                return False, f"{item} fails by a lost connection: {outcome.get('message')}", True
            elif "from pytest-timeout" in str(outcome.get("message")):
                return False, f"{item} hangs instead of failing", True
    if survivors:
        return False, f"not noticed by {', '.join(survivors)}", False
    if found["exit"] != 1:
        return False, f"pytest ended with {found['exit']}", True
    return True, "", False


def try_mutant(mutant: Mutant, base: Path, folder: Path, queue: Queue[Runner]) -> Verdict:
    """Run a mutant in its own copy, which is then removed."""
    started = time.monotonic()
    tree = folder / f"mutant-{mutant.name}"
    copy_tree(base, tree)
    try:
        if wrong := mutate(tree, mutant):
            return Verdict(mutant, False, wrong, 0, fault=True)
        killed, why, fault = judge(mutant, run_tests(tree, [*mutant.tests, CONTROL], queue, module_of(mutant.file)), tree)
        return Verdict(mutant, killed, why, time.monotonic() - started, fault)
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def check_baseline(base: Path, mutants: Sequence[Mutant], jobs: int, queue: Queue[Runner]) -> str:
    """Run the tests of these mutants without a mutation. Returns what is wrong, or ""."""
    wrong = [f"{mutant.name}: {text}" for mutant in mutants if (text := _dry(base, mutant))]
    if wrong:
        return "\n".join(wrong)
    names = sorted({CONTROL, *(test for mutant in mutants for test in mutant.tests)})
    files = sorted({name.partition("::")[0] for name in names})
    parts = [[name for name in names if files.index(name.partition("::")[0]) % jobs == number] for number in range(jobs)]
    # All run in one copy, so that the mutants' copies contain the compiled files.
    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(lambda part: run_tests(base, part, queue), [part for part in parts if part]))
    return "\n".join(str(found["text"]) for found in results if found.get("exit") != 0)


def _dry(base: Path, mutant: Mutant) -> str:
    path = base / mutant.file
    if not path.is_file():
        return f"there is no {mutant.file}; the entry is out of date"
    count = path.read_text().count(mutant.text)
    return "" if count == 1 else f"its text is {count} times in {mutant.file}, not once; the entry is out of date:\n{mutant.text}"


def main() -> int:
    """Run the selected mutants."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="only show the mutants")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="those whose name holds this; may be repeated")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    names = [mutant.name for mutant in MUTANTS]
    if len(set(names)) != len(names):
        print("two mutants have the same name:", *sorted({name for name in names if names.count(name) > 1}))
        return 2
    chosen = [m for m in MUTANTS if not arguments.only or any(part in m.name for part in arguments.only)]
    if arguments.list:
        for mutant in chosen:
            print(f"{mutant.name:45} {mutant.file}")
        return 0
    if not chosen:
        print("no mutant has such a name")
        return 2
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="paycenter-mutants-") as name, ExitStack() as stack:
        folder = Path(name)
        base = folder / "base"
        copy_tree(ROOT, base)
        queue = stack.enter_context(servers(folder, base, arguments.jobs))
        if wrong := check_baseline(base, chosen, arguments.jobs, queue):
            print(f"without any mutation:\n{wrong}")
            return 2
        print(f"the tests of {len(chosen)} mutants pass without them ({time.monotonic() - started:.0f} s)", flush=True)
        verdicts = []
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for verdict in pool.map(lambda mutant: try_mutant(mutant, base, folder, queue), chosen):
                said = "killed" if verdict.killed else "FAULTY" if verdict.fault else "SURVIVED"
                print(f"{said:9}{verdict.mutant.name:45}{verdict.seconds:5.1f} s  {verdict.why}", flush=True)
                verdicts.append(verdict)
    killed = sum(verdict.killed for verdict in verdicts)
    print(f"{killed}/{len(verdicts)} mutants killed in {time.monotonic() - started:.0f} s")
    return 0 if killed == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
