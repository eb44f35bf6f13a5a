"""The values of a submit request, and their check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paycenter_server.channels.specs import ChannelSpec
from paycenter_server.domain.validation import Check

EXTRAS_MAX = 16


@dataclass(frozen=True, slots=True)
class NewSubmission:
    """The values of a submit request."""

    order_number: str
    channel_code: str
    extras: Mapping[str, str]
    display_mode: str
    return_url: str
    user_ip: str


def check_submission(new: NewSubmission, spec: ChannelSpec) -> None:
    """INVALID_FIELD names every field that is wrong, whatever the order."""
    check = Check()
    modes = spec.display_modes
    if new.display_mode and new.display_mode not in modes:
        offered = ", ".join(mode for mode in modes if mode) or "none"
        check.fail("display_mode", f"the channel {new.channel_code!r} offers: {offered}")
    for required in spec.required_extras:
        if not any(new.extras.get(name) for name in required.names):
            wanted = " or ".join(required.names)
            check.fail(f"channel_extras.{required.names[0]}", f"the channel {new.channel_code!r} needs {wanted}")
    if len(new.extras) > EXTRAS_MAX:
        check.fail("channel_extras", f"has {len(new.extras)} entries; the most is {EXTRAS_MAX}")
    else:  # a request may hold 30,000 of them
        for name, value in new.extras.items():
            check.text(f"channel_extras.{name}"[:100], value, 512)
            check.text("channel_extras", name, 64, minimum=1)
    check.url("return_url", new.return_url)
    if new.user_ip:
        check.ip("user_ip", new.user_ip)
    check.done()
