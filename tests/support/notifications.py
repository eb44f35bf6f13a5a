"""Notifications that tests put into the outbox."""

from __future__ import annotations

from paycenter_server.domain.addresses import endpoint_of
from paycenter_server.domain.notifications import NotificationType

from support.system import PayCenterSystem


async def fill(system: PayCenterSystem, url: str, count: int, seconds_ago: float = 0.0) -> None:
    """Due notifications of the app `shop`."""
    await system.rows(
        """INSERT INTO pay_notify_task (id, app_id, type, event, data_id, data_version, merchant_order_id, merchant_refund_no,
             notification_url, endpoint, payload, state, notify_times, next_notify_time, schedule_start_time,
             schedule_start_times, create_time, update_time)
           SELECT gen_random_uuid(), a.id, $3, 'pay_order.success', gen_random_uuid(), 1, 'M' || n, '', $2, $4, '{"type":"x"}',
             'WAITING', 0, now() - make_interval(secs => $5), now(), 0, now(), now()
           FROM pay_app a, generate_series(1, $1) n WHERE a.app_key = 'shop'""",
        count, url, NotificationType.ORDER.value, endpoint_of(url), seconds_ago,
    )  # fmt: skip


async def states(system: PayCenterSystem, url: str) -> dict[str, int]:
    """How many notifications to this URL are in each state."""
    rows = await system.rows("SELECT state, count(*) AS count FROM pay_notify_task WHERE notification_url = $1 GROUP BY 1", url)
    return {row["state"]: row["count"] for row in rows}
