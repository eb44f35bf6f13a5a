"""Causes of changes for the event ledger: the actor of the task, with the channel call or the callback as evidence."""

from __future__ import annotations

from dataclasses import replace

from paycenter_server.channels.protocol import Callback, CallbackRequest, CallRecord
from paycenter_server.domain.events import EVIDENCE_MAX, Cause, current_actor


def cause(call: CallRecord | None = None) -> Cause:
    """The cause of a change that this task makes, with the channel call that decided it."""
    return Cause(current_actor(), {"call": call.evidence()} if call is not None else None)


def callback_cause(request: CallbackRequest, callback: Callback) -> Cause:
    """The cause of a change that a verified callback makes. `received`: the body as it was received. `content`: what it says,
    decrypted if it was encrypted, "" if the body says it."""
    received = request.body[: 4 * EVIDENCE_MAX].decode("utf-8", "replace")[:EVIDENCE_MAX]
    content = callback.raw[:EVIDENCE_MAX]
    evidence = {"id": callback.message_id, "verdict": "signature valid", "received": received}
    if content != received:
        evidence["content"] = content
    return Cause(current_actor(), {"callback": evidence})


def with_verdict(cause: Cause, verdict: str) -> Cause:
    """The cause of a callback whose signature is valid, or of an answer to a call, which was refused all the same: `verdict` says
    why."""
    evidence = dict(cause.evidence or {})
    for message in ("callback", "call"):
        if message in evidence:
            evidence[message] = {**evidence[message], "verdict": verdict}
    return replace(cause, evidence=evidence)
