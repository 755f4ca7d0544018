"""HEAD, for what can be read whole: the headers of the answer to GET, without its body."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.routing import APIRoute


def answer_heads(router: APIRouter) -> None:
    """Let every GET route of ``router`` take HEAD too. The HTTP protocol leaves the body out; the document names GET alone."""
    for route in list(router.routes):
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            router.add_api_route(route.path, route.endpoint, methods=["HEAD"], response_class=route.response_class, include_in_schema=False)
