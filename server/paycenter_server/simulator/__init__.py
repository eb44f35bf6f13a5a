"""A server that speaks the protocols of WeChat Pay (APIv3 and v2) and of the Alipay gateway, for development and tests.

It verifies requests, signs answers, sends notifications and retries them as the channels do. A person (`GET /`) or a script
(`POST /simulator/pay/{out_trade_no}`) acts as the payer. It has no access control and must never be reachable from the internet.

The package does not depend on the rest of the server, except on `paycenter_server.channels.crypto`.
"""
