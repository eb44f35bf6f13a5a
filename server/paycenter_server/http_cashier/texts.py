"""The texts of the cashier, in Chinese and English. The names of the channels are in their specs (`channels/specs.py`)."""

from __future__ import annotations

from collections.abc import Mapping

LANGUAGES = ("zh", "en")
# The key, then Chinese, then English.
_TEXTS = (
    ("title", "收银台", "Checkout"),
    ("amount", "应付金额", "Amount due"),
    ("paid_amount", "实付金额", "Amount paid"),
    ("merchant", "商户", "Merchant"),
    ("subject", "商品", "Item"),
    ("order", "订单号", "Order"),
    ("expires", "剩余支付时间", "Time left to pay"),
    ("expires_at", "请在此时间前支付", "Pay before"),
    ("choose", "选择支付方式", "Choose how to pay"),
    ("pay", "去支付", "Pay"),
    ("scan_with", "请使用{app}扫一扫", "Scan this code with {app}"),
    ("scan", "请扫码支付", "Scan this code to pay"),
    ("continue", "继续支付", "Continue to payment"),
    ("open_app", "正在打开支付，请在应用中完成", "Finish the payment in the app"),
    ("code", "付款码数字", "Payment code"),
    ("code_help", "扫描或输入顾客手机上的付款码（约 18 位）", "Scan or type the code on the payer's phone (about 18 digits)"),
    ("waiting", "等待支付。支付完成后本页自动更新。", "Waiting for the payment. This page updates by itself."),
    ("another", "换一种支付方式", "Pay in another way"),
    ("success", "支付成功", "Paid"),
    ("refunded", "已退款", "Refunded"),
    ("closed", "订单已关闭", "The order is closed"),
    ("expired", "订单已过期", "The order has expired"),
    ("closed_help", "没有收取任何款项。如需购买，请重新下单。", "Nothing was charged. Order again if you still want it."),
    ("back", "返回商户", "Back to the merchant"),
    ("none", "此浏览器没有可用的支付方式。请换用电脑、手机浏览器、微信或支付宝打开本页。",
     "No way to pay works in this browser. Open this page on a computer, in a phone's browser, in WeChat or in Alipay."),
    ("gone", "链接无效或已结束", "This link is not valid or has ended"),
    ("gone_help", "请回到商户页面重新打开。", "Go back to the merchant and open it again."),
    ("later", "暂时无法处理，请稍后重试", "This is not possible at the moment. Try again shortly."),
    ("refused", "该支付方式暂不可用", "This way to pay is not available now"),
    ("review", "款项正在核对，请联系商户", "The payment is being reviewed. Contact the merchant."),
    ("too_many", "该订单尝试支付的次数过多，请联系商户重新下单",
     "This order was tried too many times. Ask the merchant for a new one."),
    ("bad_code", "付款码不正确，请重新扫描", "The payment code is not right. Scan it again."),
    ("language", "English", "中文"),
)  # fmt: skip
TEXTS: Mapping[str, Mapping[str, str]] = {
    language: {entry[0]: entry[number] for entry in _TEXTS} for number, language in enumerate(LANGUAGES, 1)
}


def language_of(wanted: str, accepted: str) -> str:
    """`zh` or `en`: what the link asks for, else the first that the browser accepts, else Chinese."""
    if wanted in LANGUAGES:
        return wanted
    for item in accepted.lower().split(","):
        if (name := item.strip()[:2]) in LANGUAGES:
            return name
    return "zh"
