"""WeChat Pay v3 H5: a mobile browser outside WeChat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from paycenter_server.channels.protocol import AnswerError, PayOutcome, PayRequest, PayStatus, RequestContext
from paycenter_server.channels.wechatpay.v3 import WechatV3Codec

H5_TYPES = ("Wap", "iOS", "Android")


def h5_info(request: PayRequest) -> dict[str, str]:
    """The kind of browser, from the extra `h5_type`."""
    return {"type": request.extras.get("h5_type") or H5_TYPES[0]}


def with_way_back(url: str, request: PayRequest) -> str:
    """The URL of WeChat Pay's page, with the return URL as `redirect_url` if there is one."""
    if not request.return_url:
        return url
    return f"{url}{'&' if '?' in url else '?'}redirect_url={quote(request.return_url, safe='')}"


class WechatWapCodec(WechatV3Codec):
    """`POST /v3/pay/transactions/h5`. The answer has `h5_url`, which is valid for five minutes."""

    code = "wx_wap"
    product = "h5"

    def create_fields(self, request: PayRequest) -> dict[str, Any]:
        """`h5_info.type` from the extra `h5_type`; the default is "Wap"."""
        return {"scene_info": {"payer_client_ip": request.user_ip, "h5_info": h5_info(request)}}

    def created(self, answer: Mapping[str, Any], request: PayRequest, context: RequestContext) -> PayOutcome:
        """The URL, with the return URL if there is one."""
        h5_url = answer.get("h5_url")
        if not isinstance(h5_url, str) or not h5_url:
            raise AnswerError("the answer has no h5_url")
        return PayOutcome(PayStatus.WAITING, "url", with_way_back(h5_url, request))
