"""The address of a picture, parsed once and strictly: what is checked is what is fetched."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

MAX_ADDRESS_CHARS = 2048
HTTPS_PORT = 443

ADDRESS = re.compile(r"https://(?P<host>[A-Za-z0-9.-]{1,253})(?::(?P<port>[0-9]{1,5}))?(?P<target>/[!-~]*)?", re.ASCII)
"""No user name, no bracket, no backslash, no white space, no fragment with meaning: nothing that two parsers could read in two ways."""
LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
NUMBER = re.compile(r"(?:0[xX])?[0-9a-fA-F]*")


@dataclass(frozen=True, slots=True)
class PictureAddress:
    """Where to fetch from: a lower-case host name, and the path with its query."""

    host: str
    target: str


class BadAddress(Exception):
    """The address is not one that is fetched; the message says why and repeats nothing of it."""


def parse_picture_address(url: str) -> PictureAddress:
    """Parse ``https://host/path``.

    Raises:
        BadAddress: any other scheme, a user name, a port other than 443, a numeric host, a name no certificate can have.
    """
    if len(url) > MAX_ADDRESS_CHARS:
        raise BadAddress(f"an address may have at most {MAX_ADDRESS_CHARS} characters")
    match = ADDRESS.fullmatch(url)
    if match is None or "\\" in url or "@" in url.partition("?")[0] or "#" in url:
        raise BadAddress("expected https://host/path, in ASCII, without user name, fragment or escapes in the host")
    if match["port"] is not None and int(match["port"]) != HTTPS_PORT:
        raise BadAddress(f"only port {HTTPS_PORT} is fetched from")
    host = match["host"].lower()
    labels = host.split(".")
    if len(labels) < 2 or any(LABEL.fullmatch(label) is None for label in labels):
        raise BadAddress("expected a full host name, such as images.example.com")
    if _is_numeric(labels):
        raise BadAddress("expected a host name, not a number")
    return PictureAddress(host, match["target"] or "/")


def _is_numeric(labels: list[str]) -> bool:
    """Whether some resolver would read the host as an IPv4 address: decimal, octal, hexadecimal, or short of parts."""
    last = labels[-1]
    if last.isdigit() or (last.startswith("0x") and NUMBER.fullmatch(last) is not None):
        return True
    try:
        ipaddress.ip_address(".".join(labels))
    except ValueError:
        return False
    return True
