"""What counts as one address, wherever something is counted by it."""

from __future__ import annotations

import ipaddress


def party_behind(text: str) -> str:
    """The party an address stands for: an IPv6 host has a whole /64 to itself, so that is one.

    What is no address (a unix socket has none) stands for itself.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    if not isinstance(address, ipaddress.IPv6Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), 64), strict=False))
