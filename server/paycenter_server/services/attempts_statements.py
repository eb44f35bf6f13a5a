"""The statements of submits: those of submits that arrive together are shared."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from paycenter_server.channels.protocol import PayOutcome
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.events import Cause
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.states import ATTEMPT, AttemptEvent, AttemptState, target
from paycenter_server.services.context import Context
from paycenter_server.services.gathering import WAITS_OF_CHANNEL_CALLS, Gathering
from paycenter_server.storage import attempts_submission as rows
from paycenter_server.storage.attempts_submission import Answer, Intent

_ANSWERED = AttemptState(target(ATTEMPT, AttemptEvent.ANSWERED))


class SubmitStatements:
    """Stores intents and answers. What the shared statement leaves out is stored by a statement of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._intents = Gathering(context, rows.insert_attempts, waits=WAITS_OF_CHANNEL_CALLS)
        self._answers = Gathering(context, rows.store_answers, waits=WAITS_OF_CHANNEL_CALLS)

    async def insert(self, attempt: PayAttempt, order: PayOrder, cause: Cause) -> bool:
        """See `insert_attempt` in storage/attempts_submission.py."""
        if await self._intents.add(Intent(attempt, order.submit_version, cause)):
            return True
        async with self._context.database.connection() as connection:
            return await rows.insert_attempt(connection, attempt, order, cause)

    async def answered(
        self, order: PayOrder, attempt: PayAttempt, outcome: PayOutcome, now: datetime, next_check: datetime, cause: Cause
    ) -> tuple[bool, tuple[PayOrder, PayAttempt] | None]:
        """Store the display content of an attempt. Whether its state still allows it; and order and attempt as they are then (but
        for `submit_version`), unless they must be read. `order`, `attempt`: as they were before, or as this submit has stored them.
        """
        mode, content = outcome.display_mode, outcome.display_content
        stored = await self._answers.add(Answer(attempt.id, mode, content, now, next_check, cause))
        if stored is None:
            async with self._context.database.connection() as connection:
                return await rows.answered(connection, attempt.id, mode, content, now, next_check, cause), None
        if not stored.is_order(order, submits=1):
            return True, None
        shown = replace(
            attempt, state=_ANSWERED, display_mode=mode, display_content=content,
            update_time=now, next_check_time=next_check, channel_error_code=None, channel_error_message=None,
        )  # fmt: skip
        return True, (order, shown)
