"""Money is whole minor units (fen) and an ISO currency; never a float."""

from __future__ import annotations

MAX_AMOUNT = 10_000_000_000  # 100,000,000.00 yuan: the largest amount that Alipay accepts in one trade
CURRENCIES = frozenset({"CNY"})
PPM = 1_000_000


def fee(amount: int, rate_ppm: int) -> int:
    """The channel's fee in minor units: amount times rate, rounded half up.

    >>> fee(10_000, 6_000), fee(50, 10_000)
    (60, 1)
    """
    return (amount * rate_ppm * 2 + PPM) // (2 * PPM)
