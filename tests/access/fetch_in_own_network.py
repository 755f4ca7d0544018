"""Run under ``unshare --net``: a network that holds one public address, which is this process, and fetches from it in every way.

Prints a JSON object: for each case the length of what was fetched, or the message it was refused with. A network of its own is the only
honest way to try this: every address on a test machine's own network is one that the fetcher must refuse.
"""

from __future__ import annotations

import http.server
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Sequence
from ipaddress import ip_address

import trustme

from server.access.addresses import Address
from server.access.fetch import FetchRules, PictureFetcher, Resolve
from server.errors import PlaitError
from tests.server.picture_files import encoded_picture

PUBLIC = "8.8.4.4"
HOST = "images.example.com"
MAX_BYTES = 50_000


class Pictures(http.server.BaseHTTPRequestHandler):
    """What a picture server might answer, well- and ill-meant."""

    seen: list[str] = []  # noqa: RUF012 -- the handler is made anew for each request; this is the log of all

    def do_GET(self) -> None:
        self.seen.append(f"{self.headers['host']} {self.path}")
        match self.path.partition("?")[0]:
            case "/picture.png":
                self._answer(200, encoded_picture(16, 16))
            case "/redirect":
                self._answer(302, b"", location=f"https://{HOST}/picture.png")
            case "/compressed":
                self._answer(200, b"x" * 10, **{"content-encoding": "gzip"})
            case "/huge":
                self._answer(200, b"x" * (MAX_BYTES + 1))
            case "/slow":
                self._answer(200, b"")
                for _ in range(40):
                    self.wfile.write(b"x")
                    time.sleep(0.1)
            case _:
                self._answer(404, b"root:x:0:0")

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep standard error for what went wrong."""


def main() -> None:
    for command in (["ip", "link", "set", "lo", "up"], ["ip", "addr", "add", f"{PUBLIC}/32", "dev", "lo"]):
        subprocess.run(command, check=True)
    authority = trustme.CA()
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    port = serve_pictures(authority)
    local_port = serve_pictures(authority, "127.0.0.1")
    results: dict[str, object] = {}

    def fetch(case: str, path: str, resolve: Resolve | None = None, host: str = HOST, to_port: int = port) -> None:
        rules = FetchRules(frozenset({HOST, "*.example.org"}), timeout_s=1.0)
        fetcher = PictureFetcher(rules, resolve or resolver([PUBLIC]), to_port, trust)
        started = time.monotonic()
        try:
            results[case] = len(fetcher(f"https://{host}{path}", "messages[0]", MAX_BYTES))
        except PlaitError as error:
            results[case] = error.message
        assert time.monotonic() - started < 5, f"{case} took too long"

    fetch("picture", "/picture.png?x=1")
    fetch("redirect", "/redirect")
    fetch("compressed", "/compressed")
    fetch("huge", "/huge")
    fetch("slow", "/slow")
    fetch("missing", "/none")
    fetch("not allowed", "/picture.png", host="www.example.com")
    fetch("below a wildcard, with another's certificate", "/picture.png", host="a.example.org")
    fetch("private", "/picture.png", resolver(["127.0.0.1"]), to_port=local_port)
    fetch("one of several is private", "/picture.png", resolver([PUBLIC, "10.0.0.1"]))
    fetch("mapped", "/picture.png", resolver(["::ffff:127.0.0.1"]), to_port=local_port)
    fetch("NAT64", "/picture.png", resolver(["64:ff9b::7f00:1"]), to_port=local_port)
    fetch("rebinding", "/picture.png", resolver([PUBLIC], later=["127.0.0.1"]))
    fetch("no such name", "/picture.png", resolver([]))
    print(json.dumps({"results": results, "seen": Pictures.seen}))


def resolver(answers: Sequence[str], later: Sequence[str] = ()) -> Resolve:
    """Return a resolver that gives ``answers``, and from the second time on ``later``, if there are any."""
    rounds = iter([answers])

    def resolve(host: str) -> list[Address]:
        addresses = [ip_address(answer) for answer in next(rounds, later or answers)]
        if not addresses:
            raise socket.gaierror("no such name")
        return addresses

    return resolve


def serve_pictures(authority: trustme.CA, address: str = PUBLIC) -> int:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    server = http.server.ThreadingHTTPServer((address, 0), Pictures)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_address[1])


if __name__ == "__main__":
    main()
