"""The static files: read and compressed once, served under a path that contains a hash of their content."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from aiohttp import web

FOLDER = Path(__file__).parent / "static"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
# The vendored files name source maps, which are not served.
_FOREVER = "public, max-age=31536000, immutable"


@dataclass
class Asset:
    """A file. It is compressed when it is first asked for."""

    name: str
    body: bytes
    content_type: str

    @cached_property
    def compressed(self) -> bytes:
        """The body as gzip, the same bytes each time."""
        return gzip.compress(self.body, 9, mtime=0)


class Assets:
    """All files of the folder. `version`: a hash of all of them, which is part of their path."""

    def __init__(self, folder: Path = FOLDER) -> None:
        files = sorted(path for path in folder.iterdir() if path.suffix in _TYPES)
        self.files = {path.name: Asset(path.name, path.read_bytes(), _TYPES[path.suffix]) for path in files}
        digest = hashlib.sha256()
        for asset in self.files.values():
            digest.update(asset.name.encode() + b"\0" + asset.body)
        self.version = digest.hexdigest()[:16]

    def path(self, name: str) -> str:
        """Where a file is served. KeyError if there is none."""
        return f"/static/{self.version}/{self.files[name].name}"

    async def serve(self, request: web.Request) -> web.Response:
        """The file; 404 for an unknown name. A path of another version gets the present file, which is not to be kept."""
        asset = self.files.get(request.match_info["name"])
        if asset is None:
            raise web.HTTPNotFound
        current = request.match_info["version"] == self.version
        headers = {"Cache-Control": _FOREVER if current else "no-cache", "Vary": "Accept-Encoding"}
        body = asset.body
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"], body = "gzip", asset.compressed
        return web.Response(body=body, headers={**headers, "Content-Type": asset.content_type})
