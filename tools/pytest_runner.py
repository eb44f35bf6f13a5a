"""Runs pytest many times without loading the libraries and the program each time: it forks, and the child runs pytest.

    python tools/pytest_runner.py BASE

BASE is a copy of the tree, whose program is loaded once. Each line of the input is a JSON object: `cwd` (BASE, or another copy),
`module` (the module that is different there, or ""), `environment`, `path` (folders that come first in sys.path), `arguments`,
`output` (a file). In the child, `module` and every module that imports it, also indirectly, are forgotten, and so loaded from
the other copy. The answers are two lines, the pid of the child at once, and its wait status when it has ended. The child leads a
process group.
"""

from __future__ import annotations

import ast
import gc
import importlib
import json
import os
import sys
from contextlib import suppress
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType

# What the tests load. gRPC is only loaded: it starts its threads with the first channel or server, which is in the child.
_LIBRARIES = (
    "_pytest.assertion.rewrite", "aiohttp.test_utils", "aiohttp.web", "alembic", "arq", "asyncpg", "click", "cryptography.x509",
    "cryptography.hazmat.primitives.asymmetric.rsa", "hypothesis", "jinja2", "jsonschema", "pydantic_settings", "pytest",
    "pytest_asyncio", "pytest_timeout", "redis.asyncio", "rich", "segno", "sqlalchemy.ext.asyncio", "structlog",
    "structlog.testing", "grpc.aio", "grpc_health.v1.health", "grpc_reflection.v1alpha.reflection", "grpc_status.rpc_status",
    "uvloop", "sqlite3", "xml.etree.ElementTree", "standardwebhooks", "google.protobuf.json_format",
)  # fmt: skip
# What of the program most tests use. The other modules are loaded when they are needed.
_PROGRAM = (
    "paycenter_server.bootstrap", "paycenter_server.simulator.app", "paycenter_server.simulator.control",
    "paycenter_server.http_cashier.app", "paycenter_server.local", "paycenter_server.workers",
)  # fmt: skip
_PACKAGES = ("paycenter", "paycenter_server")


def main() -> None:
    """Load, and fork for each line."""
    base = Path(sys.argv[1])
    for name in _LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    # The folders of the editable installation: their code must come from `path`.
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
    folders = [str(base / "server"), str(base / "client")]
    sys.path[:0] = folders
    for name in _PROGRAM:
        importlib.import_module(name)
    sys.path[:] = [folder for folder in sys.path if folder not in folders]
    importers = _importers()
    gc.freeze()
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(job, base, importers)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(status, flush=True)


def _ours() -> dict[str, ModuleType]:
    """The loaded modules of the program, by name."""
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in _PACKAGES}


def _importers() -> dict[str, set[str]]:
    """The modules that import a module of the program, anywhere in their text, by the name of that module."""
    found: dict[str, set[str]] = {}
    for name, module in _ours().items():
        assert module.__file__ is not None, name
        for node in ast.walk(ast.parse(Path(module.__file__).read_bytes())):
            imported: list[str] = []
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                source = (
                    resolve_name("." * node.level + (node.module or ""), str(module.__package__)) if node.level else node.module
                )
                imported = [str(source), *(f"{source}.{alias.name}" for alias in node.names)]
            for one in imported:
                found.setdefault(one, set()).add(name)
    return found


def _load_from(tree: Path, base: Path, changed: str, importers: dict[str, set[str]]) -> None:
    """Forget the changed module and all that depend on it, and let every later import read the other copy."""
    ours = _ours()
    affected, waiting = set[str](), [changed] if changed in ours else list(ours) if changed.startswith("migrations/") else []
    while waiting:
        name = waiting.pop()
        if name not in affected:
            affected.add(name)
            waiting += importers.get(name, ())
            if hasattr(ours[name], "__path__"):  # a package: its modules are imported through it
                waiting += [other for other in ours if other.startswith(f"{name}.")]
    for name in affected:
        module = sys.modules.pop(name)
        parent, _, short = name.rpartition(".")
        if parent in sys.modules and getattr(sys.modules[parent], short, None) is module:
            delattr(sys.modules[parent], short)
    for name, module in ours.items():
        if name not in affected and hasattr(module, "__path__"):
            module.__path__ = [folder.replace(str(base), str(tree), 1) for folder in module.__path__]


def _run(job: dict[str, object], base: Path, importers: dict[str, set[str]]) -> None:
    os.setsid()
    output = os.open(str(job["output"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(str(job["cwd"]))
    environment, path, arguments = job["environment"], job["path"], job["arguments"]
    assert isinstance(environment, dict)
    assert isinstance(path, list)
    assert isinstance(arguments, list)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = path
    _load_from(Path(str(job["cwd"])), base, str(job["module"]), importers)
    gc.set_threshold(50_000)  # a run is short, and imports make many objects that stay
    import pytest

    code = int(pytest.main(arguments))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
