"""The published vectors: which files are exercised, and which are elsewhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.vectors import VECTORS

WECHAT_FILES = ("wechat_v3_sign.json", "wechat_v3_go.json", "wechat_v3_java.json", "wechat_v3_yansongda.json")
ALIPAY_FILES = ("alipay.json",)
# In tests/unit/test_wechat_v2.py; in tests/unit/test_bills.py and tests/simulator/test_bills.py.
ELSEWHERE = ("wechat_v2.json", "wechat_bill_ALL.csv")

Vector = dict[str, Any]
needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason=f"the published vectors are not at {VECTORS}")


def load(files: tuple[str, ...]) -> list[Vector]:
    """All vectors of some files; none where the folder is missing."""
    if not VECTORS.is_dir():
        return []
    return [vector for name in files for vector in json.loads((VECTORS / name).read_text(encoding="utf-8"))["vectors"]]


def cases(files: tuple[str, ...]) -> list[Any]:
    """The same as test parameters."""
    return [pytest.param(vector, id=vector["id"]) for vector in load(files)]
