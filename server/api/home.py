"""``GET /``: what this is and how to talk to it."""

from __future__ import annotations

import html
from dataclasses import dataclass

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from server.serving.startup_display import curl_line

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Plait</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:3rem auto;padding:0 1rem;color-scheme:light dark}}
pre{{padding:1rem;overflow:auto;border:1px solid;border-radius:.5rem}}</style>
<h1>Plait</h1>
<p>Serving <b>{model}</b>: words and pictures in, words and pictures out, through OpenAI's chat completions.</p>
<pre>{curl}</pre>
<p><a href="/v1/models">models</a> ·
<a href="/readyz">readiness</a> · <a href="/metrics">metrics</a> · <a href="/openapi.json">schema</a></p>
</html>
"""


@dataclass(frozen=True, slots=True)
class HomeRoute:
    model_name: str

    def router(self) -> APIRouter:
        """Return the route."""
        router = APIRouter()
        router.add_api_route("/", self.home, methods=["GET"], response_class=HTMLResponse)
        return router

    async def home(self, request: Request) -> Response:
        """Greet whoever opens the address in a browser."""
        curl = curl_line(str(request.base_url).rstrip("/"), self.model_name)
        return HTMLResponse(PAGE.format(model=html.escape(self.model_name), curl=html.escape(curl)))
