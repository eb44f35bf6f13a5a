"""The list of the guards: each text is in its file once, and each name is its own."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from mutants import MUTANTS  # noqa: E402


def test_every_guard_is_in_its_file_once() -> None:
    wrong = [f"{mutant.name}: {mutant.file}" for mutant in MUTANTS if (ROOT / mutant.file).read_text().count(mutant.text) != 1]
    assert not wrong, "\n".join(wrong)


def test_every_guard_has_its_own_name_and_tests_that_exist() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) == len(set(names))
    for mutant in MUTANTS:
        for test in mutant.tests:
            file, _, name = test.partition("::")
            assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(), (mutant.name, test)
