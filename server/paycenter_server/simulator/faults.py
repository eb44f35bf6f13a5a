"""The fault script: rules that make the simulated channels misbehave, a counted number of times.

A rule is JSON: {"api": "wx.native", "fault": "timeout_after_commit", "out_trade_no": "…", "times": 1, "skip": 0, "seconds": 5,
"amount": 1, "code": "…", "queries": 2}. Only api and fault are needed; see fault_names for both. `notify` are all notifications,
`*` everything, as far as the fault applies to it. out_trade_no may be a refund's number too. times below zero means for ever. skip
lets that many matching calls pass first. code: of `decline`. queries: after so many queries the payer of a bar payment has paid;
never by itself without it. An `id` is given to each rule; one that is sent is ignored.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any

from paycenter_server.simulator.fault_names import APIS, FAULTS, applies, places, possible
from paycenter_server.simulator.inputs import MOST_FEN, clean, finite, whole

__all__ = ["APIS", "FAULTS", "FaultPlan", "FaultRule", "InvalidFaultError"]

_MOST_SECONDS = 10**7
_MOST_TIMES = 10**6
_LONGEST_TEXT = 128
_TEXTS = ("api", "fault", "out_trade_no", "code")


class InvalidFaultError(ValueError):
    """A rule that cannot be understood; the text says why."""


def _near(word: str, words: Collection[str]) -> str:
    near = difflib.get_close_matches(word, list(words), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(words)}"


@dataclass(slots=True)
class FaultRule:
    """One rule; `times` counts down, a negative one lasts for ever."""

    api: str
    fault: str
    out_trade_no: str = ""
    times: int = 1
    skip: int = 0
    seconds: float = 30.0
    amount: int | None = None
    code: str = ""
    queries: int | None = None
    id: int = 0

    @classmethod
    def parse(cls, document: object) -> FaultRule:
        """From JSON; InvalidFaultError says what is wrong."""
        if not isinstance(document, dict):
            raise InvalidFaultError("a rule must be a JSON object")
        given = {name: value for name, value in document.items() if name != "id"}
        unknown = set(given) - set(cls.__slots__)
        if unknown:
            raise InvalidFaultError(f"unknown fields: {', '.join(sorted(unknown))}")
        for name in _TEXTS:
            text = given.get(name, "")
            if not isinstance(text, str) or len(text) > _LONGEST_TEXT or not clean(text):
                raise InvalidFaultError(f"{name} must be a text of at most {_LONGEST_TEXT} characters")
        if not given.get("api"):
            raise InvalidFaultError("api is required")
        try:
            rule = cls(**{"fault": "", **given})
            rule._check_numbers()
        except InvalidFaultError:
            raise
        except ValueError as error:
            raise InvalidFaultError(str(error)) from error
        rule._check_names()
        return rule

    def _check_numbers(self) -> None:
        if whole(self.times, "times", -_MOST_TIMES, _MOST_TIMES) == 0:
            raise InvalidFaultError("times must not be 0; below zero means for ever")
        whole(self.skip, "skip", 0, _MOST_TIMES)
        finite(self.seconds, "seconds", 0, _MOST_SECONDS)
        if self.amount is not None:
            whole(self.amount, "amount", 0, MOST_FEN)
        if self.queries is not None:
            whole(self.queries, "queries", 0, _MOST_TIMES)

    def _check_names(self) -> None:
        if self.fault not in FAULTS:
            raise InvalidFaultError(f"no fault is called {self.fault!r}; {_near(self.fault, FAULTS)}")
        if self.api not in APIS:
            raise InvalidFaultError(f"no api is called {self.api!r}; {_near(self.api, APIS)}")
        if not possible(self.fault, self.api):
            raise InvalidFaultError(f"{self.fault} cannot happen at {self.api}; it applies to {', '.join(places(self.fault))}")

    def matches(self, call: str, numbers: Collection[str]) -> bool:
        """Whether the rule is about this call, and its fault possible there."""
        api = call.partition("/")[0]
        if self.api not in (api, "*") and not (self.api == "notify" and api.endswith(".notify")):
            return False
        return applies(self.fault, call) and (not self.out_trade_no or self.out_trade_no in numbers)


class FaultPlan:
    """The rules that are still to strike, first come first served."""

    def __init__(self) -> None:
        self.rules: list[FaultRule] = []
        self._ids = itertools.count(1)

    def add(self, documents: object) -> list[FaultRule]:
        """Append rules from a JSON list (or one object); all or none."""
        rules = [FaultRule.parse(item) for item in (documents if isinstance(documents, list) else [documents])]
        for rule in rules:
            rule.id = next(self._ids)
        self.rules.extend(rules)
        return rules

    def remove(self, chosen: Callable[[FaultRule], bool]) -> int:
        """Take rules away; how many there were."""
        kept = [rule for rule in self.rules if not chosen(rule)]
        gone = len(self.rules) - len(kept)
        self.rules[:] = kept
        return gone

    def clear(self) -> None:
        """Behave well again."""
        self.rules.clear()

    def take(self, call: str, numbers: Collection[str] = (), *, without: Collection[str] = ()) -> FaultRule | None:
        """The rule that strikes this call, one of its times used up; without: faults that it has had already."""
        for rule in self.rules:
            if rule.fault in without or not rule.matches(call, numbers):
                continue
            if rule.skip > 0:
                rule.skip -= 1
                continue
            rule.times -= 1
            if rule.times == 0:
                self.rules.remove(rule)
            return rule
        return None

    def documents(self) -> list[dict[str, Any]]:
        """The rules as JSON."""
        return [asdict(rule) for rule in self.rules]
