"""Addresses that look fetchable and must not be: written to be read one way by a check and another by a client."""

from __future__ import annotations

import pytest

from server.access.picture_address import BadAddress, PictureAddress, parse_picture_address

HOSTILE = [
    "http://images.example.com/a.png",
    "ftp://images.example.com/a.png",
    "file:///etc/passwd",
    "gopher://images.example.com/",
    "https:/images.example.com/",
    "https:images.example.com",
    "https:///images.example.com/",
    "https://",
    "https:// images.example.com/",
    "https://images.example.com /",
    "https://127.0.0.1/",
    "https://127.1/",
    "https://2130706433/",
    "https://0177.0.0.1/",
    "https://0x7f.0.0.1/",
    "https://0x7f000001/",
    "https://017700000001/",
    "https://127.0.0.1.:443/",
    "https://1.2.3/",
    "https://169.254.169.254/latest/meta-data/",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[fe80::1%25eth0]/",
    "https://0/",
    "https://0.0.0.0/",
    "https://localhost/",
    "https://metadata/",
    "https://images.example.com./a.png",
    "https://images..example.com/",
    "https://.example.com/",
    "https://-a.example.com/",
    "https://a_b.example.com/",
    "https://images.example.com:80/",
    "https://images.example.com:8443/",
    "https://images.example.com:0443x/",
    "https://images.example.com:99999/",
    "https://images.example.com:/",
    "https://user@images.example.com/",
    "https://user:password@images.example.com/",
    "https://images.example.com@127.0.0.1/",
    "https://images.example.com:443@127.0.0.1/",
    "https://images.example.com\\@127.0.0.1/",
    "https://127.0.0.1\\@images.example.com/",
    "https://images.example.com#@127.0.0.1/",
    "https://127.0.0.1#images.example.com/",
    "https://images.example.com/#",
    "https://images.example.com?@127.0.0.1/",
    "https://images.example.com;127.0.0.1/",
    "https://images.example.com,127.0.0.1/",
    "https://images.example.com%2f@127.0.0.1/",
    "https://images.example.com%00.evil.test/",
    "https://127.0.0.1%2eexample.com/",
    "https://images.example.com\t/",
    "https://images.example.com\n/",
    "https://images.example.com\r\nHost: x/",
    "https://images.example.com/a\r\nX: y",
    "https://images.example.com/a b",
    "https://images.example.com/\x00",
    "https://ima\u2024ges.example.com/",
    "https://\u2460\u2461\u2466.0.0.1/",
    "https://images.example\u3002com/",
    "https://ex\u00e4mple.com/",
    "https://images.example.com/\u202e",
    "//images.example.com/a.png",
    "HTTPS://images.example.com/a.png",
    "https://" + "a" * 300 + ".com/",
    "https://images.example.com/" + "a" * 3000,
    "javascript:alert(1)",
    "jar:https://images.example.com/!/",
]


@pytest.mark.parametrize("url", HOSTILE)
def test_a_hostile_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BadAddress) as caught:
        parse_picture_address(url)
    assert "127.0.0.1" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://images.example.com/a.png", PictureAddress("images.example.com", "/a.png")),
        ("https://Images.Example.COM:443/a.png?size=2&x=@", PictureAddress("images.example.com", "/a.png?size=2&x=@")),
        ("https://example.com", PictureAddress("example.com", "/")),
        ("https://xn--exmple-cua.com/%C3%A4.webp", PictureAddress("xn--exmple-cua.com", "/%C3%A4.webp")),
    ],
)
def test_a_plain_address_is_taken_apart(url: str, address: PictureAddress) -> None:
    assert parse_picture_address(url) == address
