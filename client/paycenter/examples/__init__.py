"""Programs to copy. They use the client and aiohttp: `pip install 'paycenter-client[examples]'`."""
