"""Notifications: the list, one of them, sending again, and the test notification of an app."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from paycenter_server.services import notifications, paging
from paycenter_server.services.notifications_delivery import DeliveryResponse
from support.console_rig import Browser


async def test_the_list_by_state_endpoint_and_app(console: Browser) -> None:
    system = console.system
    system.sender.default = DeliveryResponse(500, "broken")
    await system.paid("mock", merchant_order_id="N-1")
    await system.deliver()
    (path,) = (await console.get("/notifications")).links("/notifications/N")
    for query in (
        "state=failing", "state=REQUEST_SUCCESS", "app=shop", "merchant_order_id=N-1", "endpoint=http://merchant.test:80",
        "type=ORDER", "range=all",
    ):  # fmt: skip
        assert (await console.get(f"/notifications?{query}")).links("/notifications/N") == [path], query
    for query in (
        "state=SUCCESS",
        "state=WAITING",
        "merchant_order_id=x",
        "endpoint=http://x:80",
        "type=REFUND",
        "merchant_refund_no=x",
    ):
        assert (await console.get(f"/notifications?{query}")).links("/notifications/N") == [], query
    page = (await console.get(path)).check()
    for text in ("HTTP 500: broken", "1 / 18", "500", "Send now"):
        assert text in page.text, text
    assert '"type":"pay_order.success"' in page.html.replace("&#34;", '"')


async def test_send_now_and_again(console: Browser) -> None:
    system = console.system
    system.sender.answers = [DeliveryResponse(500, "")]
    await system.paid("mock")
    await system.deliver()
    (path,) = (await console.get("/notifications")).links("/notifications/N")
    assert (await console.post(f"{path}/resend")).status == 409  # it is not finished
    assert (await console.post(f"{path}/now")).url == f"{path}?done=send-now"
    assert len(await system.deliver()) == 1
    assert (await console.post(f"{path}/now")).status == 409
    assert (await console.post(f"{path}/resend")).url == f"{path}?done=resent"
    assert len(await system.deliver()) == 1


async def test_a_resend_that_finds_none_among_the_newest_says_so(console: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "SCANNED", 1)
    monkeypatch.setattr(notifications, "COUNT_LIMIT", 1)
    await console.system.paid("mock")
    await console.system.deliver()
    for _ in range(5):
        await console.system.paid("mock")
    page = (await console.get("/notifications/resend?state=SUCCESS&app=shop")).check()
    assert "Older ones were not searched yet" in page.text
    assert "0 notifications match" not in page.text
    assert "Send the next 200 again" in page.text


async def test_resend_by_filter_counts_first(console: Browser) -> None:
    system = console.system
    for _ in range(3):
        await system.paid("mock")
    await system.deliver()
    listed = await console.get("/notifications?state=SUCCESS&app=shop")
    (link,) = listed.links("/notifications/resend?")
    counted = (await console.get(link)).check()
    assert "3 notifications match" in counted.text
    assert await system.deliver() == []
    values = {
        values["name"]: values["value"] for tag, values in counted.elements if tag == "input" and values.get("type") == "hidden"
    }
    values.pop("csrf")
    values.pop("next", "")
    sent = (await console.post("/notifications/resend", **values)).check()
    assert "3 notifications are sent again now." in sent.text
    assert len(await system.deliver()) == 3
    assert (
        "0 notifications are sent again now."
        in (await console.post("/notifications/resend", **{**values, "app": "shop", "state": "FAILURE"})).text
    )
    assert (await console.get("/notifications/resend?state=WAITING")).status == 400


async def test_a_test_notification_is_signed_and_stored_nowhere(console: Browser) -> None:
    system = console.system
    system.sender.answers = [DeliveryResponse(200, "<b>fine</b>"), DeliveryResponse(0, "no route")]
    page = (await console.post("/apps/shop/test", type="REFUND")).check()
    assert "The test notification was received." in page.text
    (sent,) = system.sender.sent
    assert sent.url == "http://merchant.test/shop/refund"
    assert sent.json["type"] == "paycenter.test"
    assert sent.json["data"] == {}
    signed = f"{sent.headers['webhook-id']}.{sent.headers['webhook-timestamp']}.".encode() + sent.body
    key = base64.b64decode(system.secrets["shop"].removeprefix("whsec_"))
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert expected in sent.headers["webhook-signature"].split()
    refused = (await console.post("/apps/shop/test", type="ORDER")).check()
    assert "The test notification was not confirmed." in refused.text
    assert "no route" in refused.text
    assert await system.value("SELECT count(*) FROM pay_notify_task") == 0
    assert await system.value("SELECT count(*) FROM pay_notify_log") == 0
