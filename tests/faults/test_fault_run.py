"""The fault run: real processes under load while everything fails; in the end nothing is lost, doubled or orphaned."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from faults.deployment.run import fault_run

ALL = os.environ.get("FAULTS") == "all"
SEEDS = (1, 2, 3, 4) if ALL else (1,)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_is_lost_doubled_or_orphaned(tmp_path: Path, seed: int) -> None:
    report = await fault_run(tmp_path, seed, 400 if ALL else 30, step=0.5)
    print(report)
    assert report.good, str(report)
