"""The common part of the fuzzers. A fuzzer is a function over bytes that may raise the parser's own errors only.

`python fuzz_….py [libFuzzer options]`. Inputs are at most 4 KiB and must be done within a second: what is not linear in time shows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import atheris  # type: ignore[import-not-found,unused-ignore]

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
OPTIONS = ["-max_len=4096", "-timeout=1", "-rss_limit_mb=1024", "-print_final_stats=0", "-verbosity=0"]


def fuzz(target: Callable[[bytes], None], allowed: tuple[type[Exception], ...]) -> None:
    """Run until a time limit in the options, or the first finding."""

    def one(data: bytes) -> None:
        try:
            target(data)
        except allowed:
            pass

    atheris.Setup([sys.argv[0], *OPTIONS, *sys.argv[1:]], one)
    atheris.Fuzz()
