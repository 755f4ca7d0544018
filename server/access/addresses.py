"""Which network addresses a picture may be fetched from: public ones alone, whatever way they are written."""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

EMBEDS_IPV4_AT_THE_END = (
    ipaddress.ip_network("64:ff9b::/96"),  # NAT64, RFC 6052
    ipaddress.ip_network("::ffff:0:0/96"),  # IPv4-mapped
    ipaddress.ip_network("::ffff:0:0:0/96"),  # IPv4-translated, RFC 2765
    ipaddress.ip_network("::/96"),  # IPv4-compatible, deprecated
)
NEVER = (
    ipaddress.ip_network("64:ff9b:1::/48"),  # NAT64 of local use, RFC 8215
    ipaddress.ip_network("2001::/32"),  # Teredo
    ipaddress.ip_network("2002::/16"),  # 6to4
    ipaddress.ip_network("fec0::/10"),  # site-local, deprecated
    ipaddress.ip_network("5f00::/16"),  # segment routing
    ipaddress.ip_network("100.64.0.0/10"),  # carrier-grade NAT
    ipaddress.ip_network("192.88.99.0/24"),  # 6to4 relays
    ipaddress.ip_network("0.0.0.0/8"),
    ipaddress.ip_network("224.0.0.0/4"),
    ipaddress.ip_network("240.0.0.0/4"),
    ipaddress.ip_network("ff00::/8"),
)
"""Ranges that lead somewhere else than they say, or that no web server has."""


def is_public(address: Address) -> bool:
    """Whether a server on the open internet can have this address.

    An IPv6 address that carries an IPv4 address is as public as that one; tunnels that carry one elsewhere are refused whole.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        for network in EMBEDS_IPV4_AT_THE_END:
            if address in network:
                return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    if any(address.version == network.version and address in network for network in NEVER):
        return False
    return address.is_global and not address.is_multicast
