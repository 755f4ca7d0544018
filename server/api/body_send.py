"""The short way out for the body of a stream: past the layers round the application, none of which has a use for it.

Each of them wraps ``send`` to see how an answer begins. A stream of words passes them once for every token, with every client.
"""

from __future__ import annotations

from typing import cast

from starlette.types import Scope, Send

_KEY = "plait.send"


def keep_send(scope: Scope, send: Send) -> None:
    """Note the server's own ``send``; the outermost layer to call it is heard."""
    scope.setdefault(_KEY, send)


def body_send(scope: Scope, send: Send) -> Send:
    """Return what body messages may be sent with, once the answer has begun through ``send``."""
    return cast("Send", scope.get(_KEY, send))
