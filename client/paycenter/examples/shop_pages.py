"""What the demo shop shows, in English and Chinese. Every value is escaped by `_e`."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from typing import Any

from paycenter.examples.shop_store import Store
from paycenter.money import fen_to_yuan

LANGUAGES = {"en": "English", "zh": "中文"}


@dataclass(frozen=True, slots=True)
class Product:
    """`price` in fen."""

    english: str
    chinese: str
    price: int

    def title(self, language: str) -> str:
        """Its name."""
        return self.chinese if language == "zh" else self.english


PRODUCTS = {
    "1": Product("Huawei phone", "华为手机", 1),
    "2": Product("Xiaomi television", "小米电视", 10),
    "3": Product("Apple watch", "苹果手表", 100),
    "4": Product("Asus laptop", "华硕笔记本", 1_000),
    "5": Product("NIO car", "蔚来汽车", 200_000),
}
_CHINESE = {
    "Demo shop": "演示商店",
    "Language": "语言",
    "Products": "商品",
    "Every order is paid at the simulator: no real money moves.": "所有订单都在模拟器上支付，不会产生真实的资金往来。",
    "Buy": "购买",
    "Orders": "订单",
    "Order": "订单",
    "Product": "商品",
    "Price": "价格",
    "Paid": "已付",
    "Refunded": "已退",
    "State": "状态",
    "No orders yet. Buy something.": "还没有订单，买点什么吧。",
    "not paid yet": "待支付",
    "paid": "已支付",
    "closed": "已关闭",
    "refunded": "已退款",
    "partly refunded": "部分退款",
    "Pay": "去支付",
    "Pay order": "支付单",
    "Thank you. The payment has arrived at PayCenter.": "谢谢，支付中心已收到付款。",
    "The order was closed without a payment.": "订单未支付，已关闭。",
    "The payment has not arrived yet. This page shows it as soon as it does.": "尚未收到付款，到账后本页会自动更新。",
    "The shop delivers when the signed notification arrives.": "商店在收到签名通知后发货。",
    "Refund": "退款",
    "Refunds": "退款",
    "Amount in yuan": "金额（元）",
    "Reason": "原因",
    "Changed my mind": "不想要了",
    "Message": "说明",
    "Number": "编号",
    "Send again": "重新发送",
    "in progress": "退款中",
    "success": "成功",
    "failed": "失败",
    "call failed": "调用失败",
    "Withdrawals": "提现",
    "Withdrawals come with transfers, which PayCenter does not have yet.": "提现依赖转账功能，支付中心目前尚未提供。",
    "Break the shop": "弄坏商店",
    "Repair the shop": "修好商店",
    "While it is broken, the shop answers every notification with 500, and PayCenter sends it again later.":
        "商店损坏期间，对每条通知都返回 500，支付中心稍后会重新发送。",
    "The shop is broken. Notifications answered with 500: {}.": "商店已损坏。以 500 拒绝的通知数：{}。",
    "Notifications": "通知",
    "What PayCenter told this shop, newest first. The signature of each was checked.":
        "支付中心发给本商店的通知，最新的在前。每条都校验了签名。",
    "Nothing yet.": "暂无。",
    "verified": "签名有效",
    "refused": "已拒绝",
    "came {} times": "收到 {} 次",
    "no id": "无编号",
    "Body": "内容",
    "That did not work": "操作未成功",
    "Back to the shop": "返回商店",
}  # fmt: skip
_STATES = {"WAITING": ("not paid yet", "wait"), "PAID": ("paid", "good"), "CLOSED": ("closed", "muted")}
_REFUND_STATES = {
    "WAITING": ("in progress", "wait"), "SUCCESS": ("success", "good"), "FAILURE": ("failed", "bad"),
    "ERROR": ("call failed", "bad"),
}  # fmt: skip
_RETURNED = {
    "SUCCESS": ("Thank you. The payment has arrived at PayCenter.", "good"),
    "REFUND": ("Thank you. The payment has arrived at PayCenter.", "good"),
    "CLOSED": ("The order was closed without a payment.", "bad"),
}


class _Texts:
    def __init__(self, language: str) -> None:
        self.language = language

    def __call__(self, text: str, *values: object) -> str:
        """The text in the language, with values in the places of `{}`, escaped."""
        return _e((_CHINESE[text] if self.language == "zh" else text).format(*values))


def home(language: str, store: Store) -> str:
    """The first page."""
    t = _Texts(language)
    products = "".join(
        f'<li class="card"><span class="tile" aria-hidden="true">{_e(one.title(language)[0])}</span>'
        f"<h3>{_e(one.title(language))}</h3>"
        f'<span class="price">{_yuan(one.price)}</span><form method="post" action="/orders">'
        f'<button name="product" value="{key}" aria-label="{t("Buy")}: {_e(one.title(language))}">{t("Buy")}</button></form></li>'
        for key, one in PRODUCTS.items()
    )
    rows = "".join(_order_row(t, store, one) for one in store.orders())
    heads = (t("Order"), t("Product"), (t("Price"),), (t("Refunded"),), t("State"))
    orders = _table(t("Orders"), heads, rows) if rows else f'<p class="muted">{t("No orders yet. Buy something.")}</p>'
    return _page(
        t,
        store.mark,
        t("Demo shop"),
        f'<h1>{t("Products")}</h1><p class="muted">{t("Every order is paid at the simulator: no real money moves.")}</p>'
        f'<ul class="products">{products}</ul><h2>{t("Orders")}</h2>{orders}'
        f"<h2>{t('Withdrawals')}</h2>"
        f'<p class="muted">{t("Withdrawals come with transfers, which PayCenter does not have yet.")}</p>'
        f"<h2>{t('Notifications')}</h2>{_switch(t, store)}{_notifications(t, store.notifications()[:50])}",
    )


def order(language: str, store: Store, order: dict[str, Any], *, returned: str = "", problem: str = "") -> str:
    """One order. `returned`: its state by the cashier's address; `problem`: why an act failed."""
    t = _Texts(language)
    number = _e(order["number"])
    refunds = store.refunds(order["number"])
    text, kind = _state(order, refunds)
    facts = [
        (t("Product"), _e(order["subject"])), (t("Price"), f"{_yuan(order['amount'])}"),
        (t("State"), f'<span class="state {kind}">{t(text)}</span>'), (t("Paid"), f"{_yuan(order['paid'])}"),
        (t("Refunded"), f"{_yuan(_refunded(refunds))}"),
        (t("Pay order"), f'<span class="number">{_e(order["pay_order_id"]) or "–"}</span>'),
    ]  # fmt: skip
    parts = [f'<h1>{t("Order")} <span class="number">{number}</span></h1>']
    if problem:
        parts.append(f'<p class="card notice bad" role="alert">{_e(problem)}</p>')
    if returned:
        thanks, tone = _RETURNED.get(returned, ("The payment has not arrived yet. This page shows it as soon as it does.", "wait"))
        more = t("The shop delivers when the signed notification arrives.") if tone == "good" else ""
        parts.append(f'<p class="card notice {tone}" role="status">{t(thanks)} {more}</p>')
    parts.append(f'<div class="card"><dl>{"".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)}</dl></div>')
    if order["state"] == "WAITING":
        parts.append(f'<h2>{t("Pay")}</h2><form method="post" action="/orders/{number}/pay"><button>{t("Pay")}</button></form>')
    parts.append(_refunds(t, order, refunds))
    parts.append(f"<h2>{t('Notifications')}</h2>{_notifications(t, store.notifications(order_number=order['number']))}")
    return _page(t, store.mark, f"{t('Order')} {number}", "".join(parts))


def problem(language: str, message: str) -> str:
    """An act that did not succeed."""
    t = _Texts(language)
    content = f'<h1>{t("That did not work")}</h1><p class="card notice bad" role="alert">{_e(message)}</p>'
    return _page(t, "", t("That did not work"), f'{content}<p><a href="/">{t("Back to the shop")}</a></p>')


def _order_row(t: _Texts, store: Store, order: dict[str, Any]) -> str:
    refunds = store.refunds(order["number"])
    text, kind = _state(order, refunds)
    return (
        f'<tr><td><a class="number" href="/orders/{_e(order["number"])}">{_e(order["number"])}</a></td>'
        f"<td>{_e(order['subject'])}</td>"
        f'<td class="amount">{_yuan(order["amount"])}</td><td class="amount">{_yuan(_refunded(refunds))}</td>'
        f'<td><span class="state {kind}">{t(text)}</span></td></tr>'
    )


def _refunds(t: _Texts, order: dict[str, Any], refunds: list[dict[str, Any]]) -> str:
    if order["state"] != "PAID":
        return ""
    action = f"/orders/{_e(order['number'])}/refunds"
    rows = ""
    for one in refunds:
        text, kind = _REFUND_STATES[one["state"]]
        again = ""
        if one["state"] in ("ERROR", "FAILURE"):
            again = (
                f'<form method="post" action="{action}"><button class="plain" name="number" value="{_e(one["number"])}">'
                f"{t('Send again')}</button></form>"
            )
        rows += (
            f'<tr><td class="number">{_e(one["number"])}</td><td class="amount">{_yuan(one["amount"])}</td>'
            f'<td><span class="state {kind}">{t(text)}</span></td>'
            f"<td>{_e(one['reason'])}</td><td>{_e(one['message'])} {again}</td></tr>"
        )
    heads = (t("Number"), (t("Refunded"),), t("State"), t("Reason"), t("Message"))
    left = order["paid"] - sum(one["amount"] for one in refunds if one["state"] in ("WAITING", "SUCCESS"))
    form = ""
    if left > 0:
        form = (
            f'<form class="inline" method="post" action="{action}">'
            f"<label>{t('Amount in yuan')}<br>"
            f'<input name="amount" inputmode="decimal" required value="{fen_to_yuan(left)}"></label>'
            f'<label>{t("Reason")}<br><input name="reason" maxlength="80" value="{t("Changed my mind")}"></label>'
            f"<button>{t('Refund')}</button></form>"
        )
    return f"<h2>{t('Refunds')}</h2>{_table(t('Refunds'), heads, rows) if rows else ''}<p></p>{form}"


def _switch(t: _Texts, store: Store) -> str:
    explained = "While it is broken, the shop answers every notification with 500, and PayCenter sends it again later."
    if store.refused is None:
        button = f'<button class="danger" name="broken" value="1">{t("Break the shop")}</button>'
        return f'<form method="post" action="/broken"><p class="muted">{t(explained)}</p>{button}</form>'
    said = t("The shop is broken. Notifications answered with 500: {}.", store.refused)
    button = f'<button name="broken" value="0">{t("Repair the shop")}</button>'
    return f'<form method="post" action="/broken"><p class="card notice bad" role="status">{said}</p>{button}</form>'


def _notifications(t: _Texts, told: list[dict[str, Any]]) -> str:
    about = f'<p class="muted">{t("What PayCenter told this shop, newest first. The signature of each was checked.")}</p>'
    return about + ("".join(_notification(t, one) for one in told) or f'<p class="muted">{t("Nothing yet.")}</p>')


def _notification(t: _Texts, one: dict[str, Any]) -> str:
    word, kind = ("refused", "bad") if one["refusal"] else ("verified", "good")
    again = f" · {t('came {} times', one['deliveries'])}" if one["deliveries"] > 1 else ""
    why = f'<p class="bad">{_e(one["refusal"])}</p>' if one["refusal"] else ""
    return (
        f'<article class="card"><h3><span>{_e(one["type"] or "?")}</span> <span class="state {kind}">{t(word)}</span></h3>'
        f'<p class="muted"><time datetime="{_e(one["received"])}">{_e(one["received"][11:19])} UTC</time> · '
        f'<span class="number">{_e(one["id"]) or t("no id")}</span>{again}</p>{why}'
        f"<details><summary>{t('Body')}</summary><pre>{_e(_pretty(one['body']))}</pre></details></article>"
    )


def _state(order: dict[str, Any], refunds: list[dict[str, Any]]) -> tuple[str, str]:
    back = _refunded(refunds)
    if order["state"] == "PAID" and back:
        return ("refunded" if back >= order["paid"] else "partly refunded"), "good"
    return _STATES[order["state"]]


def _refunded(refunds: list[dict[str, Any]]) -> int:
    return sum(one["amount"] for one in refunds if one["state"] == "SUCCESS")


def _table(name: str, heads: tuple[str | tuple[str], ...], rows: str) -> str:
    """A head in a tuple is that of amounts. The table can be scrolled, also by keys."""
    cells = "".join(
        f'<th scope="col" class="amount">{one[0]}</th>' if isinstance(one, tuple) else f'<th scope="col">{one}</th>'
        for one in heads
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _pretty(body: str) -> str:
    try:
        return json.dumps(json.loads(body), ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return body


def _yuan(fen: int) -> str:
    return f"¥{fen_to_yuan(fen)}"


def _e(value: object) -> str:
    return html.escape(str(value))


def _page(t: _Texts, mark: str, title: str, content: str) -> str:
    other = next(one for one in LANGUAGES if one != t.language)
    tag = "zh-CN" if t.language == "zh" else "en"
    return f"""<!doctype html>
<html lang="{tag}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="icon" href="data:,"><link rel="stylesheet" href="/static/shop.css">
{'<script src="/static/shop.js" defer></script>' if mark else ""}</head>
<body data-mark="{_e(mark)}"><header><div><a href="/">{t("Demo shop")}</a>
<nav aria-label="{t("Language")}"><a href="/?lang={other}" lang="{other}">{LANGUAGES[other]}</a></nav></div></header>
<main>{content}</main></body></html>
"""
