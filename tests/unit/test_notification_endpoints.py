"""The places of endpoints, and their breakers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from paycenter_server.domain.addresses import endpoint_of
from paycenter_server.services import notifications_endpoints as module
from paycenter_server.services.notifications_endpoints import Endpoints

NOW = datetime(2026, 11, 25, tzinfo=UTC)
A, B = "https://a.test:443", "https://b.test:443"


def answers(endpoints: Endpoints, name: str, seconds: float = 0.01) -> None:
    """Every place that the endpoint has is used and answered."""
    for _ in range(endpoints.places.reserve([name], NOW)[name]):
        endpoints.answered(name, seconds)


def hangs(endpoints: Endpoints, name: str, now: datetime = NOW) -> int:
    """Every place that the endpoint has is used, and none is answered. The number of places."""
    places = endpoints.places.reserve([name], now).get(name, 0)
    for _ in range(places):
        endpoints.unanswered(name, now)
    return places


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://Shop.Test/a?b", "http://shop.test:80"),
        ("https://shop.test", "https://shop.test:443"),
        ("https://shop.test:8443/x", "https://shop.test:8443"),
        ("http://[2001:DB8::1]:81/", "http://[2001:db8::1]:81"),
        ("HTTPS://u@shop.test/", "https://shop.test:443"),
    ],
)
def test_an_endpoint_is_scheme_host_and_port(url: str, endpoint: str) -> None:
    assert endpoint_of(url) == endpoint


@pytest.mark.parametrize("url", ["", "shop.test/a", "http:///a", "http://a:99999/", "ftp://a/"])
def test_other_texts_have_no_endpoint(url: str) -> None:
    with pytest.raises(ValueError):
        endpoint_of(url)


def test_places_grow_with_answers_up_to_a_limit() -> None:
    endpoints = Endpoints()
    assert endpoints.places.reserve([A], NOW) == {A: module.FIRST_PLACES}
    assert endpoints.places.reserve([A], NOW) == {}
    endpoints.places.give_back(A, module.FIRST_PLACES)
    for _ in range(10):
        answers(endpoints, A)
    assert endpoints.places.reserve([A], NOW) == {A: module.ENDPOINT_PLACES}


def test_endpoints_that_hang_leave_places_to_those_that_answer() -> None:
    endpoints = Endpoints()
    for _ in range(10):
        answers(endpoints, A)
    many = [f"http://hanging{number}.test:80" for number in range(200)]
    taken = endpoints.places.reserve(many, NOW)
    assert sum(taken.values()) == module.SLOW_PLACES
    assert len(taken) == 200, "each endpoint gets a place before any gets two"
    assert endpoints.places.reserve([B], NOW) == {}, "a new endpoint shares the places of those that have not answered"
    assert endpoints.places.reserve([A], NOW) == {A: module.ENDPOINT_PLACES}


def test_an_endpoint_that_answers_slowly_has_no_reserved_places() -> None:
    endpoints = Endpoints()
    for _ in range(10):
        answers(endpoints, A, seconds=5)
    assert endpoints.places.reserve([A], NOW) == {A: module.ENDPOINT_PLACES}
    many = [f"http://hanging{number}.test:80" for number in range(400)]
    assert sum(endpoints.places.reserve(many, NOW).values()) == module.SLOW_PLACES - module.ENDPOINT_PLACES


def test_all_places_together_are_limited() -> None:
    endpoints = Endpoints()
    many = [f"http://quick{number}.test:80" for number in range(20)]
    for name in many:
        for _ in range(10):
            answers(endpoints, name)
    assert sum(endpoints.places.reserve(many, NOW).values()) == module.TOTAL_PLACES


def test_the_breaker_opens_and_tries_one_at_a_time() -> None:
    endpoints = Endpoints()
    assert hangs(endpoints, A) == module.FIRST_PLACES
    assert endpoints.places.breakers.is_open(A)
    now, pause = NOW, module.FIRST_PAUSE
    assert hangs(endpoints, A, now) == 0
    for _ in range(6):
        assert hangs(endpoints, A, now + pause - timedelta(seconds=1)) == 0
        now += pause
        assert endpoints.places.reserve([A], now) == {A: 1}
        assert endpoints.places.reserve([A], now) == {}, "one trial at a time"
        endpoints.unanswered(A, now)
        pause = min(2 * pause, module.LONGEST_PAUSE)
    now += module.LONGEST_PAUSE
    assert endpoints.places.reserve([A], now) == {A: 1}
    endpoints.answered(A, 0.1)
    assert not endpoints.places.breakers.is_open(A)
    assert endpoints.places.reserve([A], now)[A] >= module.FIRST_PLACES
    assert endpoints.open_since(B) is None


def test_a_trial_that_nothing_was_claimed_for_is_not_a_failure() -> None:
    endpoints = Endpoints()
    hangs(endpoints, A)
    now = NOW + module.FIRST_PAUSE
    assert endpoints.places.reserve([A], now) == {A: 1}
    endpoints.places.give_back(A)
    assert endpoints.places.reserve([A], now) == {A: 1}


def take_one(endpoints: Endpoints, name: str) -> None:
    """Reserve one place."""
    endpoints.places.give_back(name, endpoints.places.reserve([name], NOW)[name] - 1)


def test_one_answer_among_failures_keeps_the_breaker_closed() -> None:
    endpoints = Endpoints()
    for _ in range(3):
        for _ in range(module.BREAKER_FAILURES - 1):
            take_one(endpoints, A)
            assert not endpoints.unanswered(A, NOW)
        take_one(endpoints, A)
        endpoints.answered(A, 0.1)
    assert not endpoints.places.breakers.is_open(A)


def test_idle_endpoints_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    endpoints = Endpoints()
    hangs(endpoints, A)
    for number in range(10):
        answers(endpoints, f"http://order{number}.test:80")
    assert endpoints.places.breakers.is_open(A)
    assert len(endpoints.places._known) <= 4
