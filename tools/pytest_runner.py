"""Runs pytest many times without loading the libraries each time: for each line of its input it forks, and the child runs pytest.

A line is a JSON object: `cwd`, `environment`, `path` (folders that come first in sys.path), `arguments`, `output` (a file). The
answers are two lines, the pid of the child at once, and its wait status when it has ended. The child leads a process group.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from contextlib import suppress

# What the tests load, without the code of this repository and without gRPC, which must not be loaded before a fork.
_LIBRARIES = (
    "_pytest.assertion.rewrite", "aiohttp.test_utils", "aiohttp.web", "alembic", "arq", "asyncpg", "click", "cryptography.x509",
    "cryptography.hazmat.primitives.asymmetric.rsa", "hypothesis", "jinja2", "jsonschema", "pydantic_settings", "pytest",
    "pytest_asyncio", "pytest_timeout", "redis.asyncio", "rich", "segno", "sqlalchemy.ext.asyncio", "structlog",
    "structlog.testing",
)  # fmt: skip


def main() -> None:
    """Fork for each line."""
    for name in _LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    # The folders of the editable installation: their code must come from `path`.
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
    gc.freeze()
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(job)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(status, flush=True)


def _run(job: dict[str, object]) -> None:
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
    gc.set_threshold(50_000)  # a run is short, and imports make many objects that stay
    import pytest

    code = int(pytest.main(arguments))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
