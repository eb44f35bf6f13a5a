"""The health service (grpc.health.v1).

Not the servicer of grpcio-health-checking: it sends to a watch while it holds the lock under which states change. A watch that
reads nothing would keep that lock, and the health of the process would stay what it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse


class HealthServicer:
    """Answers with the states of names. Nobody waits for a watch."""

    def __init__(self) -> None:
        self._states: dict[str, HealthCheckResponse.ServingStatus] = {}
        self._changed = asyncio.Event()
        self._ended = False

    def set(self, names: Iterable[str], state: HealthCheckResponse.ServingStatus) -> None:
        """Set the state of these names, and tell those who watch."""
        self._states.update(dict.fromkeys(names, state))
        self._wake()

    def end(self) -> None:
        """End the watches that have been told the last state: a stop would wait for them as for running calls."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Check(
        self, request: HealthCheckRequest, context: grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse]
    ) -> HealthCheckResponse:
        """The state of a name; NOT_FOUND if there is none."""
        state = self._states.get(request.service)
        if state is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return HealthCheckResponse(status=state)

    async def Watch(
        self, request: HealthCheckRequest, context: grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse]
    ) -> None:
        """The state of a name, now and after each change."""
        sent = None
        while True:
            changed, state = self._changed, self._states.get(request.service, HealthCheckResponse.SERVICE_UNKNOWN)
            if state != sent:
                sent = state
                await context.write(HealthCheckResponse(status=state))
            elif self._ended:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "The server stops.")
            else:
                await changed.wait()
