"""A browser, a whole PayCenter, and people who log in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import pytest
from e2e.conftest import RunningPayCenter, running_paycenter
from paycenter import PayCenter
from paycenter.v1 import pay_operator_service_pb2 as operators
from playwright.sync_api import Browser, sync_playwright
from support.waiting import eventually_sync

from .person import FLAGS, Person

__all__ = ["running_paycenter"]
CHROMIUM = "/usr/bin/chromium"
PASSWORD = "a long own password"
_numbers = count(1)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@dataclass
class LiveSystem:
    """The running system and who may log in to it."""

    running: RunningPayCenter
    _printed: str | None

    @property
    def console(self) -> str:
        found = re.search(r"^console=(\S+)", self.running.log.read_text(), re.MULTILINE)
        assert found is not None
        return found[1]

    def address(self, name: str) -> str:
        return self.running.addresses[name]

    def administrator(self) -> PayCenter:
        """gRPC with the operator's credential."""
        return PayCenter(self.address("grpc"), **self.running.data["operator"])

    def operator(self, role: str = "ADMIN", apps: tuple[str, ...] = ()) -> tuple[str, str]:
        """Name and one-time password: those that `dev` prints for the first admin, and then those of new operators."""
        if self._printed is not None and role == "ADMIN" and not apps:
            found, self._printed = ("dev", self._printed), None
            return found
        name = f"{role.lower()}{next(_numbers)}"
        request = operators.CreatePayOperatorRequest(
            name=name, role=operators.OperatorRole.Value(f"OPERATOR_ROLE_{role}"), app_keys=apps
        )
        with self.administrator() as pay:
            return name, pay.operators.CreatePayOperator(request).password

    def log_in(self, person: Person, role: str = "ADMIN", *, look: bool = False) -> str:
        """As a person does it the first time: with the one-time password, which must be changed. The name."""
        name, password = self.operator(role)
        person.go(f"{self.console}/")
        if look:
            person.look("login")
        person.fill(name=name, password=password)
        person.press("main form button")
        person.see("[name=new_again]")
        if look:
            person.look("password")
        person.fill(current_password=password, new_password=PASSWORD, new_again=PASSWORD)
        person.press("main form button")
        person.fill(name=name, password=PASSWORD)
        person.press("main form button")
        person.see("#search")
        return name


@pytest.fixture(scope="session")
def live(running_paycenter: RunningPayCenter) -> LiveSystem:
    # `dev` prints it when everything answers.
    found = eventually_sync(lambda: re.findall(r"^console.password=(\S+)\n", running_paycenter.log.read_text(), re.MULTILINE))
    return LiveSystem(running_paycenter, found[0])
