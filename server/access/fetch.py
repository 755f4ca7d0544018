"""Fetches a picture from an address the operator allows, and from nowhere else.

https only; the host must be on the list; its name is resolved once, every answer must be a public address, and the connection goes to
the address that was checked, with the certificate checked against the name. No redirects, no proxies, no cookies, no compressed bodies;
bytes and seconds are bounded. What went wrong is told in fixed words: a fetch must not be a way to look around.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from server.access.addresses import Address, is_public
from server.access.picture_address import BadAddress, PictureAddress, parse_picture_address
from server.errors import ImageTooLarge, InvalidImage

Resolve = Callable[[str], Sequence[Address]]
"""Returns every address of a host name; raises OSError where there is none."""


def resolve(host: str) -> list[Address]:
    """Ask the system's resolver for every address of ``host``."""
    answers = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(answer[4][0])) for answer in answers]


@dataclass(frozen=True, slots=True)
class FetchRules:
    """``allowed_hosts``: names, or ``*.name`` for everything below one. ``timeout_s`` bounds the whole fetch."""

    allowed_hosts: frozenset[str]
    timeout_s: float = 10.0

    def allows(self, host: str) -> bool:
        """Whether ``host`` or a wildcard above it is on the list."""
        parts = host.split(".")
        above = {"*." + ".".join(parts[place:]) for place in range(1, len(parts))}
        return host in self.allowed_hosts or not above.isdisjoint(self.allowed_hosts)


class PictureFetcher:
    """Fetches under ``rules``. ``port`` and ``trust`` (whose certificates count) are other than the default in tests alone."""

    def __init__(self, rules: FetchRules, resolve: Resolve = resolve, port: int = 443, trust: ssl.SSLContext | None = None) -> None:
        self._rules = rules
        self._resolve = resolve
        self._port = port
        self._trust = trust or ssl.create_default_context()

    def __call__(self, url: str, param: str, max_bytes: int) -> bytes:
        """Return the body at ``url``; ``param`` is where it stood in the request. Blocks: call it in a thread.

        Raises:
            InvalidImage: not an address that is fetched, or no answer with a picture there.
            ImageTooLarge: more than ``max_bytes``.
        """
        try:
            address = parse_picture_address(url)
        except BadAddress as error:
            raise InvalidImage(f"{param}: {error}.", param) from error
        if not self._rules.allows(address.host):
            raise InvalidImage(f"{param}: pictures are not fetched from this host; the operator lists those that are allowed.", param)
        checked = self._checked_address(address.host, param)
        try:
            return self._download(address, checked, param, max_bytes)
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            raise InvalidImage(f"{param}: the picture cannot be fetched.", param) from error

    def _checked_address(self, host: str, param: str) -> Address:
        """Resolve once; one address that is not public refuses the host."""
        try:
            addresses = self._resolve(host)
        except OSError as error:
            raise InvalidImage(f"{param}: the picture cannot be fetched.", param) from error
        if not addresses or not all(is_public(address) for address in addresses):
            raise InvalidImage(f"{param}: the picture cannot be fetched.", param)
        return addresses[0]

    def _download(self, address: PictureAddress, checked: Address, param: str, max_bytes: int) -> bytes:
        shown = f"[{checked}]" if checked.version == 6 else str(checked)
        deadline = time.monotonic() + self._rules.timeout_s
        headers = {"host": address.host, "accept": "image/png, image/jpeg, image/webp, image/gif", "accept-encoding": "identity"}
        with (
            httpx.Client(verify=self._trust, trust_env=False, follow_redirects=False, timeout=self._rules.timeout_s) as client,
            client.stream(
                "GET", f"https://{shown}:{self._port}{address.target}", headers=headers, extensions={"sni_hostname": address.host}
            ) as response,
        ):
            if response.status_code != httpx.codes.OK or response.headers.get("content-encoding", "identity") != "identity":
                raise InvalidImage(f"{param}: there is no picture at this address.", param)
            return _bounded(response, param, max_bytes, deadline)


def _bounded(response: httpx.Response, param: str, max_bytes: int, deadline: float) -> bytes:
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise ImageTooLarge(f"{param}: the picture has more than {max_bytes} bytes.", param)
        if time.monotonic() > deadline:
            raise InvalidImage(f"{param}: the picture takes too long to fetch.", param)
    return bytes(body)
