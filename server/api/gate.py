"""The door: where keys are set, everything but a short public list needs one, decided on the path exactly as the client sent it.

Outside the router, so that no route can be forgotten and no spelling of a path gets round it: whatever is not byte for byte on the list
is closed, existing or not.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from server.access.keys import ANYONE, KeyRing, Tenant
from server.api.errors import error_response
from server.errors import BadKey

PUBLIC_PATHS = frozenset({"/livez", "/readyz", "/health"})
"""Open to everybody: what a load balancer asks."""

MAX_SECRET_CHARS = 512
TENANT = "tenant"


class Gate:
    """Lets requests in that carry a key, and says whose they are. ``public_paths`` are open besides `PUBLIC_PATHS`."""

    def __init__(self, app: ASGIApp, keys: KeyRing, public_paths: Iterable[str] = ()) -> None:
        self._app = app
        self._keys = keys
        self._public = {path.encode("ascii") for path in PUBLIC_PATHS | set(public_paths)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tenant = ANYONE if self._keys.is_empty else self._holder(scope)
        if tenant is None and scope.get("raw_path") not in self._public:
            await error_response(BadKey(MESSAGE))(scope, receive, send)
            return
        scope.setdefault("state", {})[TENANT] = tenant or ANYONE
        await self._app(scope, receive, send)

    def _holder(self, scope: Scope) -> Tenant | None:
        """Return who sent this request; None without a key, with a wrong one, or with several."""
        given = Headers(scope=scope).getlist("authorization")
        scheme, _, secret = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not 0 < len(secret) <= MAX_SECRET_CHARS:
            return None
        return self._keys.tenant_of(secret.strip())


MESSAGE = "This server needs a key: send the header Authorization: Bearer KEY with one that it knows."


def tenant_of(request: Request) -> Tenant:
    """Return who sent a request that has passed the gate."""
    tenant = request.scope["state"][TENANT]
    assert isinstance(tenant, Tenant)
    return tenant
