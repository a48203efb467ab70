"""Which IP addresses somebody else may make us reach: public ones, and networks that are allowed by name.

In: the rule for an address, and what is neither address nor name. Out: resolving names, and whose word needs
the rule (`rtcfoci.call.trust`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

__all__ = ["Network", "is_misshapen", "permits"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_HOLDING_IPV4 = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0/96", "64:ff9b::/96")))
"""IPv6 networks whose last 32 bits are the IPv4 address they lead to: compatible, mapped, NAT64."""


def permits(address: str, allow: Iterable[Network] = ()) -> bool:
    """Tell whether this IP address may be reached on somebody else's word.

    :param allow: private networks that may be reached all the same.
    :raises ValueError: when it is no IP address.
    """
    named = ipaddress.ip_address(address.partition("%")[0])
    ip = _led_to(named)
    if any(one in network for network in allow for one in (named, ip)):
        return True
    site_local = isinstance(ip, ipaddress.IPv6Address) and ip.is_site_local
    return ip.is_global and not ip.is_multicast and not site_local


def is_misshapen(host: str) -> bool:
    """Tell whether a host that is no IP address is no name either, though resolvers may take it for one.

    Such are 2130706433 and 0177.0.0.1; and what is not ASCII, since full-width digits and dots become an
    address after all (UTS 46), and names of other scripts are sent as xn--.
    """
    return not host.isascii() or host.rstrip(".").rpartition(".")[2].isdigit()


def _led_to(ip: _Address) -> _Address:
    """Give the IPv4 address that an IPv6 address stands for, where it does."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if any(ip in network for network in _HOLDING_IPV4):
        return ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip.sixtofour or ip
