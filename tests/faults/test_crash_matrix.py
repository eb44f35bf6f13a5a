"""The crash matrix: a process is ended with SIGKILL at each await of each operation. Another one finishes the work exactly once.

The kill points are found by running: `crash/process.py` steps every task of the process and ends it at its n-th suspension.
`test_every_await_is_a_kill_point` compares them with the source, so a new await without a kill point fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta

import pytest
from faults.crash import cases, money, operators, orders
from faults.crash.exempt import exempt
from faults.crash.killer import Killer, check, finish, receiving
from faults.crash.points import KillPoint, static_points
from support.system import PayCenterSystem

# Every suspension with FAULTS=all (`make faults`). Otherwise some, at a distance that is prime to what repeats in an operation, and
# shorter than most operations are.
STEP = 1 if os.environ.get("FAULTS") == "all" else 13
OPERATIONS = {**orders.OPERATIONS, **money.OPERATIONS, **cases.OPERATIONS, **operators.OPERATIONS}


_PASSED: dict[str, set[KillPoint]] = {}
_KILLS: dict[str, int] = {}


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    made = Killer()
    yield made
    made.end()


@pytest.mark.parametrize("name", list(OPERATIONS))
@pytest.mark.timeout(600 if STEP > 1 else 3600)
async def test_killed_anywhere(system: PayCenterSystem, killer: Killer, name: str) -> None:
    at, killed = 2, True
    async with receiving(system):
        while killed:
            prepared = await OPERATIONS[name](system)
            killed, points = await killer.perform(system, prepared, at)
            assert killed or at > 2, "it was never killed"
            _PASSED.setdefault(name, set()).update(points)
            if prepared.repeat is not None:
                await prepared.repeat()
            system.clock.offset = timedelta()
            await finish(system, prepared)
            await check(system, prepared, at)
            _KILLS[name] = _KILLS.get(name, 0) + killed
            at += STEP


def test_every_await_is_a_kill_point() -> None:
    """The operations above have passed them: at their kills, and in their last round, in which nothing was killed."""
    if _PASSED.keys() != OPERATIONS.keys():
        pytest.skip("this needs the whole file in one process")
    passed = set().union(*_PASSED.values())
    missing = [point for point in sorted(static_points() - passed) if not exempt(point)]
    assert not missing, "no operation of faults/crash is killed there:\n" + "\n".join(map(str, missing))


def test_most_operations_are_killed_in_their_midst() -> None:
    """Not only at their first read, at which nothing is changed yet."""
    if _KILLS.keys() != OPERATIONS.keys():
        pytest.skip("this needs the whole file in one process")
    assert sum(kills > 1 for kills in _KILLS.values()) > 0.8 * len(OPERATIONS), _KILLS
