"""A pytest plugin: the configuration of this family for tests/contract/test_codec_contract.py (`pytest -p contract_config`)."""

from __future__ import annotations

from importlib import import_module

import_module("test_codec_contract").CONFIGS["samplepay"] = lambda: {
    "merchant": "M1", "mch_key": "0123456789abcdef", "gateway_url": "https://samplepay.test",
}  # fmt: skip
