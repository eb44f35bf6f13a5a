"""The guards that `tools/mutants.py` removes, as data, with a module per noun."""

from __future__ import annotations

from dataclasses import dataclass

_SERVER = "server/paycenter_server"
_TESTS = "tests/integration"


@dataclass(frozen=True)
class Mutant:
    """The removal of a guard: in `file`, `text` (which is there exactly once) becomes `replacement`. Each of `tests` must fail.

    `control`: a payment with a refund from end to end does not need this guard, and must pass.
    """

    name: str
    file: str
    text: str
    replacement: str
    tests: tuple[str, ...]
    control: bool = True


def guards(file: str, test_file: str, *rows: tuple[str, str, str, str], control: bool = True) -> list[Mutant]:
    """Entries of one file and one test file: (name, text, replacement, tests separated by blanks)."""
    return [
        Mutant(
            name,
            f"{_SERVER}/{file}",
            text,
            replacement,
            tuple(f"{_TESTS}/{test}" if "::" in test else f"{_TESTS}/{test_file}::{test}" for test in tests.split()),
            control,
        )
        for name, text, replacement, tests in rows
    ]
