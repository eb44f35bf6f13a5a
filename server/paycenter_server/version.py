"""The version of this server, which is the client's, and what it says of itself in HTTP requests."""

from paycenter.version import VERSION

USER_AGENT = f"PayCenter/{VERSION}"
