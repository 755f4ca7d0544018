"""A defect of the server, answered as what it is: a 500 in OpenAI's form that gives nothing away but the id to ask about."""

from __future__ import annotations

import httpx
from fastapi import APIRouter

from server.access.keys import KeyRing
from server.api.app import Door, build_app
from server.metrics import Metrics
from tests.server.api.chats import error_of


async def test_an_error_nobody_expected_is_catalogued_and_keeps_its_secret() -> None:
    async def breaks() -> None:
        raise RuntimeError("secret at 0x7f0000000000")

    router = APIRouter()
    router.add_api_route("/breaks", breaks, methods=["GET"])
    app = build_app([router], Metrics(), "1", 1 << 20, Door(KeyRing()))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://plait") as http:
        response = await http.get("/breaks", headers={"x-request-id": "mine"})

    assert (response.status_code, error_of(response)["code"]) == (500, "server_error")
    assert response.headers["x-request-id"] == "mine" and "secret" not in response.text
