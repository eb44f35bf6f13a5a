"""Awaits of services/ that no operation of the crash matrix is killed at, with the reason.

A key is a module, a module and a function, or a module, a function and the beginning of the source of the await. A module or a
function is named whole only if nothing in it moves money, or the state of an order, an attempt, a refund, a case or a notification.
"""

from __future__ import annotations

from faults.crash.points import KillPoint

_READS = "it only reads"
_ADMINISTRATION = "administration: one transaction, no channel call that moves money"
_OTHERS = "it calls what others call too, and stores nothing before that"
_WAITS = "a wait for tasks that are stepped themselves"

EXEMPT: dict[str, str] = {
    **dict.fromkeys(("apps", "channels_probe", "credentials"), _ADMINISTRATION),
    **dict.fromkeys(
        (
            "accounts Accounts.create",
            "accounts Accounts.delete",
            "channels Channels.create",
            "channels Channels.create.store",
            "channels Channels.delete",
            "cases_desk CaseDesk.comment",
            "cases_desk CaseDesk.assign",
        ),
        _ADMINISTRATION,
    ),
    **dict.fromkeys(
        (
            "accounts Accounts._refuse_unsettled",
            "accounts Accounts.get",
            "accounts Accounts.search",
            "accounts Accounts._store: await self._refuse_unsettled",
            "accounts Accounts._store: if approved is None",
            "accounts Accounts.uses",
            "accounts_keys Keys._account_of",
            "accounts_keys Keys._refuse_of_others",
            "accounts_keys Keys.plan",
            "approvals Approvals.request: waiting",
            "cases_desk CaseDesk.search",
            "cases_desk CaseDesk.timeline",
            "cashier Cashier._read",
            "cashier Cashier.state",
            "cashier Cashier.view",
            "channels Channels.enabled_codes",
            "channels Channels.search",
            "notifications Notifications._by_object",
            "notifications Notifications._refuse_superseded",
            "notifications Notifications.resend: await self._refuse_superseded",
            "notifications Notifications.resend_matching: remaining",
            "notifications Notifications.resend_matching: counted",
            "notifications Notifications.resend_matching: page",
            "notifications Notifications.resend_matching: where",
            "notifications Notifications.search",
            "notifications Notifications.send_now: await self._refuse_superseded",
        ),
        _READS,
    ),
    **dict.fromkeys(("audit", "operators", "operators_totp", "passwords", "sessions", "views"), _ADMINISTRATION),
    "exports": "it only reads, and records how much",
    "books": "it reads; its generator is not stepped, and what it does for a difference is an operation",
    **dict.fromkeys(("health", "identity", "overview", "search", "timeline"), _READS),
    "turns": _WAITS,
    "context": _WAITS,
    "apps_cache": _READS,
    **dict.fromkeys(
        (
            "gathering Gathering._write",
            "gathering Gathering._wait_for_more",
            "gathering Gathering._share",
            "gathering Gathering.add: return await (",
            "orders_insert _insert: made",
            "notifications_delivery NotificationDelivery._store_all: await self._store_each",
            "notifications_delivery NotificationDelivery._store_each",
        ),
        "one statement with the rows of several calls: committed or not, as the statement of one call",
    ),
    "callbacks Callbacks._store: if callback is not read and await": "the statement that `receive` is killed at",
    "partitions": "one transaction of DDL, which the next pass of the job repeats",
    "notifications_trial": "a test notification, which is stored nowhere",
    "channels_configured ConfiguredChannels.bound: async with self._building": "a lock in memory",
    "notifications_delivery NotificationDelivery._record: await asyncio.sleep": "a wait for more results",
    "notifications_delivery NotificationDelivery._wait_for_locks": "a wait for a lock of another transaction",
    "claims Claims._claim_backlog": "a claim for places that became free: the kill points of _claim",
    **dict.fromkeys(
        (
            "refunds Refunds._reserve_and_send_again: await self._approvals",
            "accounts Accounts.update: raise await self._approvals",
            "accounts_keys Keys.store",
            "approvals_desk ApprovalDesk._carry_out: await self._channels",
            "approvals_desk ApprovalDesk._carry_out: await self._apps",
            "channels Channels._change: await self._approvals",
            "channels Channels._change: await self._keys.store",
            "channels Channels._change: raise await self._request",
            "channels Channels._change: await refuse_another_account",
            "channels_approval refuse_another_account",
            "channels Channels._change: await channel_rows.update_binding",
            "channels Channels._request",
            "approvals_desk ApprovalDesk._end: await self._approvals",
        ),
        "one transaction, which moves no money, or a branch of one whose other awaits are kill points",
    ),
    # Keys of channels are fetched into memory.
    **dict.fromkeys(
        (
            "channels_gateway ChannelGateway._fetch",
            "channels_gateway ChannelGateway.fetch_keys",
            "channels_gateway ChannelGateway._refresh_keys",
            "channels_gateway ChannelGateway._read_with_earlier_keys",
            "channels_gateway ChannelGateway._read",
            "channels_configured ConfiguredChannels.get",
            "channels_gateway ChannelGateway.parse_callback",
            "channels_gateway ChannelGateway.verify_callback",
            "channels_gateway ChannelGateway._send: outcome",
            "channels_gateway ChannelGateway.perform: await self._refresh_keys",
            "callbacks Callbacks._store: present = await self._gateway",
            "callbacks Callbacks._store: signer",
            "callbacks Callbacks._verified: signer",
            "callbacks Callbacks._store: callback = await self._gateway",
            "callbacks Callbacks._owner: return await self._gateway",
        ),
        "keys in memory",
    ),
    **dict.fromkeys(
        (
            "attempts AttemptSettlement.pending",
            "attempts AttemptSettlement.found_paid",
            "attempts AttemptSettlement.close_all: raise await self.found_paid",
            "cases_authority CaseAuthority._read",
            "cases_decisions CaseDecisions._decide_surplus: raise",
            "cases_decisions CaseDecisions._apply: await self._lock_failed",
            "cases_decisions CaseDecisions.book: await self._lock_failed",
            "cases_decisions CaseDecisions.refund: account = await",
            "attempts AttemptSettlement.close_all: raise await self.pending",
            "attempts_submission Submission._close: raise",
            "attempts_submission Submission._payable",
            "attempts_submission Submission.submit: await self._payable",
            "attempts_submission Submission._read_again",
            "attempts_submission Submission._refuse_disabled",
            "attempts_submission Submission._intent: await self._refuse_disabled",
            "attempts_submission Submission._intent: seen = await self._read_again",
            "orders Orders.attempts",
            "orders Orders.read",
            "orders Orders.load_by_merchant_id",
            "orders Orders.marks",
            "refunds Refunds.of_order",
            "orders Orders.search",
            "orders Orders.create: existing",
            "orders Orders.create: async with",
            "orders Orders.sync_order: attempts = await attempt_rows.list",
            "refunds Refunds.load",
            "refunds Refunds.load_by_merchant_no",
            "refunds Refunds.search",
            "paging bounded",
            "refunds Refunds._hold_account: account",
            "refunds Refunds._reserve_and_send_again: await self._refuse_alone",
            "approvals_desk ApprovalDesk._decidable: await self._identity",
            "approvals_desk ApprovalDesk.search",
            "approvals_desk ApprovalDesk.waiting_for",
            "approvals_desk ApprovalDesk.count",
            "approvals_desk ApprovalDesk.approve: current",
            "refunds Refunds._create: existing = await self._existing",
            "refunds Refunds._reserve_and_insert: raise",
            "refunds Refunds._reserve_and_send_again: order",
            "refunds_settlement RefundSettlement._all_went_back",
            "refunds_numbers RefundNumbers._went_back_before",
            "refunds_settlement RefundSettlement._check_current: if await self._went_back_before",
        ),
        _READS,
    ),
    **dict.fromkeys(
        (
            "attempts AttemptSettlement.query_number",
            "payments Payments.book: await self._cases.another_amount",
            "payments Payments._surplus: await self._cases.another_amount",
            "cases_decisions CaseDecisions._decide_surplus: await self._apply",
            "attempts AttemptSettlement._after: again",
            "attempts AttemptSettlement.settle_or_close: configured",
            "attempts_answers SubmitAnswers._refused_again",
            "attempts_answers SubmitAnswers.store: await self._accepted_too_late",
            "attempts_answers SubmitAnswers.store: await self._refused_again",
            "callbacks Callbacks._book",
            "cases_decisions CaseDecisions._decide: await self._retry",
            "cases_decisions CaseDecisions._settled: compared",
            "cases_decisions CaseDecisions._settled: await self._refunds.check(refund)  # which moves the case",
            "cashier Cashier.submit",
            "refunds Refunds.sync",
            "refunds_settlement RefundSettlement._check_current: if outcome.status is RefundStatus.TRADE",
            "refunds_settlement RefundSettlement._check_current: last",
            "refunds_settlement RefundSettlement._check_current: await self._note_query(refund, last)",
            "refunds_settlement RefundSettlement.send: configured",
            "refunds_settlement RefundSettlement.receive_callback: confirmed",
            "refunds_settlement RefundSettlement.receive_callback: await self.apply(configured, refund, confirmed",
            "refunds_numbers RefundNumbers._not_ours: await self._attempts.query",
            "refunds_numbers RefundNumbers._not_ours: attempt = await self._attempts",
        ),
        _OTHERS,
    ),
    # The simulator's callbacks name their refunds. Nothing is stored before the one transaction, and the callback comes again.
    **dict.fromkeys(
        (
            "callbacks Callbacks._store: await self._refunds.compare_refunded",
            "cases Cases.refunded_elsewhere: await self._whole_attempt",
            "refunds_numbers RefundNumbers.compare_refunded: attempt",
            "refunds_numbers RefundNumbers.compare_refunded: async with self._context.database.transaction",
            "refunds_numbers RefundNumbers.compare_refunded: ours",
            "refunds_numbers RefundNumbers.compare_refunded: await self._cases.refunded_elsewhere",
        ),
        "one transaction, before an acknowledgement",
    ),
    # One statement each, after which the row is looked at again; the rest is another row's.
    **dict.fromkeys(
        (
            "attempts AttemptSettlement._book: await self.look_again",
            "attempts_answers SubmitAnswers.ask",
            "attempts_answers SubmitAnswers.store: await self._store_unclear",
            "attempts_answers SubmitAnswers.store: await self._attempts.look_again",
            "attempts_statements SubmitStatements.insert: return await",
            "orders_insert OrderInserts.insert: return await order_rows.insert_order",
            "refunds_statements RefundStatements.reserve_and_insert: return await",
            "refunds_statements RefundStatements.succeed: done = await",
            "refunds_booking RefundBooking._apply_or_note: await self._note",
            "refunds_booking RefundBooking._fail: await self._note",
            "refunds_booking RefundBooking._note: await self._set_known",
            'refunds_settlement RefundSettlement._check_current: await self._note(refund, "REFUND_UNDER_REVIEW"',
        ),
        "one statement",
    ),
    **dict.fromkeys(
        (
            "attempts AttemptSettlement._refused",
            "attempts AttemptSettlement._book: return await self._refused",
            "attempts AttemptSettlement.query: return await self._refused",
            "refunds_numbers RefundNumbers._confirm: await self._note_query",
            "refunds_settlement RefundSettlement._apply_callback: await self._note_event",
            "refunds_settlement RefundSettlement.look_at_failed: await self._note_query",
        ),
        "a message that changes nothing is noted by one statement",
    ),
    **dict.fromkeys(
        (
            "attempts AttemptSettlement._close_here: await self._cases",
            "cases Cases.closed_after_booking",
            "cases Cases._whole_attempt: async with",
            "cases Cases._whole_attempt: transaction",
            "cases Cases.another_amount",
            "cases Cases.notification_given_up: about",
            "cases Cases.refund_settled: case = await",
            "cases Cases.refund_settled: await self._mismatch",
            "cases Cases.stale_refund: if refund.case_id is not None",
            "cases Cases.notification_given_up: refund",
            "refunds_booking RefundBooking._fail: if certainty.final",
            "cases_decisions CaseDecisions._end_refund: await number_rows.set_known",
            "payments Payments._surplus: if event",
        ),
        "a branch of a transaction whose other awaits are kill points, and which the channel or the operator repeats",
    ),
    **dict.fromkeys(
        (
            "claims Claims.settle",
            "claims Claims.start_due: async with self._looking",
            "jobs Jobs.settle",
            "jobs Jobs._settle_orders",
            "jobs Jobs._settle_refunds",
            "jobs_stale StaleRounds.settle",
            "jobs Jobs._close_each",
            "jobs Jobs._close_each.close",
            "jobs Jobs.start_order_expiry: await self._close_each",
        ),
        _WAITS,
    ),
    # What is behind an open breaker is only read, and a case is opened by one statement.
    **dict.fromkeys(
        (
            "jobs Jobs._page_of_attempts",
            "jobs Jobs._page_of_refunds",
            "jobs_stale StaleRounds.go_on",
            "jobs_stale StaleRounds._run",
            "notifications_delivery NotificationDelivery._due",
            "notifications_delivery NotificationDelivery._give_up_overdue",
            "notifications_delivery NotificationDelivery.deliver_due: await self._give_up_overdue",
        ),
        "rows behind an open breaker: a case by one statement",
    ),
}


def exempt(point: KillPoint) -> bool:
    """Whether an await needs no operation."""
    if point.text.startswith("async with self._context.database.connection()"):
        # It waits only while all connections are in use, and nothing is begun by it: as the await before or after it.
        return True
    module = point.module.removesuffix(".py")
    names = (module, f"{module} {point.function}")
    return any(name in EXEMPT for name in names) or any(
        f"{names[1]}: {point.text}".startswith(key) for key in EXEMPT if ": " in key
    )
