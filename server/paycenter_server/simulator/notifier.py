"""Sends notifications and sends them again, on each channel's ladder, until the merchant accepts them."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, Protocol

import aiohttp
from yarl import URL

from paycenter_server.simulator.agenda import Agenda
from paycenter_server.simulator.clock import Clock
from paycenter_server.simulator.faults import FaultPlan, FaultRule
from paycenter_server.simulator.model import Notice, Trade
from paycenter_server.simulator.store import Store
from paycenter_server.simulator.wire_log import WireLog

__all__ = ["NoticeForm", "Notifier"]

_TIMEOUT_SECONDS = 5
_ANSWER_BYTES = 65536
_HELD = ("late", "reordered")


class NoticeForm(Protocol):
    """How one protocol notifies. ladder: seconds between one send and the next."""

    ladder: tuple[int, ...]

    def encode(self, notice: Notice, how: str, rule: FaultRule | None) -> tuple[dict[str, str], bytes]:
        """Headers and body of a send; how is "" or the name of a signature fault."""

    def accepted(self, status: int, body: bytes) -> bool:
        """Whether the merchant's answer ends the ladder."""


class Notifier:
    """All notifications, pending and past."""

    def __init__(self, store: Store, clock: Clock, agenda: Agenda, faults: FaultPlan, log: WireLog) -> None:
        self._store, self._clock, self._agenda, self._faults, self._log = store, clock, agenda, faults, log
        self._forms: dict[str, tuple[str, NoticeForm]] = {}
        self._notices: dict[str, Notice] = {}
        self._of_trade: dict[str, list[Notice]] = {}
        self._overtaken: list[Notice] = []
        self._session: aiohttp.ClientSession | None = None

    def register(self, protocol: str, api: str, form: NoticeForm) -> None:
        """Teach a protocol; api is the call's name for fault rules, with what form it has behind a slash."""
        self._forms[protocol] = (api, form)

    async def start(self) -> None:
        """Open the one client session and take up what was pending."""
        # A connection per send: a receiver that restarted must not cost a step of the ladder.
        connector = aiohttp.TCPConnector(limit=100, force_close=True)
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False, trust_env=False)

    def load(self) -> None:
        """Read the store."""
        for document in sorted(self._store.all("notice"), key=lambda item: float(item["created"])):
            notice = Notice(**document)
            self._index(notice)
            if notice.state == "WAITING":
                self._schedule(notice)

    async def stop(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    def clear(self) -> None:
        """Forget all."""
        self._notices.clear()
        self._of_trade.clear()
        self._overtaken.clear()

    def forget_unstored(self, trade: Trade) -> None:
        """After a rollback: what was queued for this trade and is not in the store."""
        for notice in list(self.of(trade)):
            if self._store.get("notice", notice.id) is None:
                self._of_trade[trade.key].remove(notice)
                del self._notices[notice.id]

    def of(self, trade: Trade) -> list[Notice]:
        """A trade's notifications, oldest first."""
        return self._of_trade.get(trade.key, [])

    def send(
        self,
        trade: Trade,
        event: str,
        url: str,
        payload: dict[str, Any],
        signer: str,
        *,
        delay: float = 0.0,
        copies: int = 1,
        wrong_signatures: int = 0,
        form: str = "",
    ) -> Notice | None:
        """Queue a notification (None without an address); copies are sends of the same one, as a channel repeats itself.

        form: another registered protocol than the trade's own.
        """
        if not url:
            return None
        now = self._clock.now()
        notice = Notice(
            str(uuid.uuid4()),
            form or trade.protocol,
            trade.key,
            event,
            url,
            payload,
            signer,
            now,
            now + delay,
            wrong_signatures=wrong_signatures,
        )
        self._index(notice)
        self._save(notice)
        self._schedule(notice)
        for _ in range(copies - 1):
            self._agenda.at(notice.due, lambda: self._repeat(notice))
        return notice

    def resend(self, notice: Notice) -> None:
        """Send once more now, outside the ladder."""
        self._agenda.at(self._clock.now(), lambda: self._repeat(notice))

    def _index(self, notice: Notice) -> None:
        self._notices[notice.id] = notice
        self._of_trade.setdefault(notice.trade_key, []).append(notice)

    def _save(self, notice: Notice) -> None:
        self._store.put("notice", notice.id, notice.document())

    def _schedule(self, notice: Notice) -> None:
        due = notice.due
        self._agenda.at(due, lambda: self._climb(notice, due))

    async def _repeat(self, notice: Notice, *, held: bool = False) -> None:
        if notice.id not in self._notices:
            return
        rule = self._rule(notice, held=held)
        if rule is not None and rule.fault in _HELD:
            self._agenda.at(self._clock.now() + rule.seconds, lambda: self._repeat(notice, held=True))
            return
        if await self._attempt(notice, "again", rule):
            notice.state = "DONE"
        if notice.id in self._notices:  # a reset may have come in between
            self._save(notice)

    def _postpone(self, notice: Notice, rule: FaultRule) -> None:
        """Send later: by the clock, or once another notification of the trade has gone out."""
        notice.due, notice.held = max(notice.due, self._clock.now()) + rule.seconds, True
        self._note(notice, f"step {notice.step}", 0, False, rule.fault)
        if rule.fault == "reordered":
            self._overtaken.append(notice)
        self._schedule(notice)
        self._save(notice)

    def _let_go(self, after: Notice) -> None:
        """Send what was held back until another notification of its trade had gone out."""
        for notice in [held for held in self._overtaken if held.trade_key == after.trade_key and held is not after]:
            self._overtaken.remove(notice)
            notice.due = self._clock.now()
            self._schedule(notice)

    async def _climb(self, notice: Notice, due: float) -> None:
        """One step of the ladder: the next is counted from when this one was due, as if the clock had run through it."""
        if notice.state != "WAITING" or notice.id not in self._notices or notice.due != due:
            return
        rule = self._rule(notice, held=notice.held)
        notice.held = False
        if rule is not None and rule.fault in _HELD:
            self._postpone(notice, rule)
            return
        if notice in self._overtaken:
            self._overtaken.remove(notice)
        accepted = await self._attempt(notice, f"step {notice.step}", rule)
        ladder = self._forms[notice.protocol][1].ladder
        if notice.id not in self._notices:
            return
        if accepted or notice.state == "DONE":
            notice.state = "DONE"
        elif notice.step >= len(ladder):
            notice.state = "GAVE_UP"
        else:
            notice.due += ladder[notice.step]
            notice.step += 1
            self._schedule(notice)
        self._save(notice)

    def _rule(self, notice: Notice, *, held: bool) -> FaultRule | None:
        # What was held back once goes out when it is due, however many times a rule is to strike.
        without = _HELD if held else ()
        return self._faults.take(self._forms[notice.protocol][0], (notice.trade_key.partition(":")[2],), without=without)

    async def _attempt(self, notice: Notice, label: str, rule: FaultRule | None) -> bool:
        form = self._forms[notice.protocol][1]
        fault = rule.fault if rule else ""
        if fault == "drop":
            self._note(notice, label, 0, False, "lost on the way")
            return False
        if rule is not None and fault == "slow":
            await asyncio.sleep(rule.seconds)
        if fault == "signtest":
            await self._post(notice, form, label + ", probe", "signtest", rule)
        how = fault if fault in ("bad_signature", "unsigned", "other_key") else ""
        if not how and notice.wrong_signatures > 0:
            notice.wrong_signatures -= 1
            how = "bad_signature"
        accepted = await self._post(notice, form, label, how, rule)
        if fault == "duplicate":
            accepted = await self._post(notice, form, label + ", duplicate", how, rule) or accepted
        return accepted

    async def _post(self, notice: Notice, form: NoticeForm, label: str, how: str, rule: FaultRule | None) -> bool:
        assert self._session is not None
        headers, body = form.encode(notice, how, rule)
        number = notice.trade_key.partition(":")[2]
        api = self._forms[notice.protocol][0].partition("/")[0]
        entry = self._log.add(self._clock.now(), "out", notice.protocol, api, number, "POST", notice.url)
        entry.request_headers, entry.request_body = headers, WireLog.text(body)
        entry.verdict, entry.fault = how or "rightly signed", rule.fault if rule else ""
        try:
            url = URL(notice.url, encoded=True)
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                said = b""
                async for chunk in answer.content.iter_chunked(_ANSWER_BYTES):
                    said += chunk
                    if len(said) >= _ANSWER_BYTES:
                        break
                entry.answered(answer.status, answer.headers, said)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            entry.answer_body = f"{type(error).__name__}: {error}"
            self._note(notice, label, 0, False, entry.answer_body)
            return False
        accepted = form.accepted(entry.status, said)
        self._note(notice, label, entry.status, accepted, how)
        self._let_go(notice)
        return accepted

    def _note(self, notice: Notice, label: str, status: int, accepted: bool, remark: str) -> None:
        notice.attempts.append({"time": self._clock.now(), "send": label, "status": status, "accepted": accepted, "remark": remark})
