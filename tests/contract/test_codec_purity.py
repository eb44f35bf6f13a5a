"""Codecs are sans-IO: no codec module can reach the network, the clock, the environment or a source of randomness."""

from __future__ import annotations

import ast
from pathlib import Path

import paycenter_server.channels
import pytest

FOLDER = Path(paycenter_server.channels.__file__).parent
MODULES = sorted(file for file in FOLDER.rglob("*.py") if file.name not in ("transport.py",))
FORBIDDEN = {
    "socket", "ssl", "aiohttp", "asyncio", "asyncpg", "time", "os", "random", "secrets", "uuid", "subprocess", "threading", "yarl",
    "http", "urllib.request", "requests", "pathlib", "io", "tempfile", "logging", "structlog", "sqlalchemy", "grpc",
}  # fmt: skip
IN_MEMORY = {"io", "io.BytesIO"}
CALLS = {"now", "utcnow", "today", "fromtimestamp", "open", "print", "input", "eval", "exec", "urandom"}


def _imports(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _calls(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
            found.add(name)
    return found


@pytest.mark.parametrize("file", MODULES, ids=[str(file.relative_to(FOLDER)) for file in MODULES])
def test_a_codec_does_no_io(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imports = _imports(tree)
    if "io.BytesIO" in imports:
        imports -= IN_MEMORY  # `from io import BytesIO` reaches nothing; `import io`, or more of it, stays forbidden
    assert not {name for name in imports if name in FORBIDDEN or name.split(".")[0] in FORBIDDEN}
    assert not CALLS & _calls(tree)
    inside = {name for name in imports if name.startswith("paycenter_server.")}
    allowed = ("paycenter_server.channels.", "paycenter_server.domain.", "paycenter_server.version")  # the last: a constant
    assert not {name for name in inside if not name.startswith(allowed)}


@pytest.mark.parametrize("family", ["alipay", "wechatpay", "mock"])
def test_channels_do_not_know_each_other(family: str) -> None:
    others = {"alipay", "wechatpay", "mock"} - {family}
    for file in (FOLDER / family).rglob("*.py"):
        imports = _imports(ast.parse(file.read_text(encoding="utf-8")))
        assert not {name for name in imports for other in others if name.startswith(f"paycenter_server.channels.{other}")}


def test_the_modules_were_found() -> None:
    assert {"crypto.py", "protocol.py", "v3.py", "gateway.py", "trade.py"} <= {file.name for file in MODULES}
