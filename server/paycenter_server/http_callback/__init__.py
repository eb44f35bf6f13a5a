"""Transport 2: the aiohttp sidecar that channels call back."""
