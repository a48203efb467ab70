"""The parser of URLs, which members name in their transports."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from rtcfoci.call.trust import TrustedHttp, TrustPolicy
from rtcfoci.errors import BackendError
from tests.fuzz import seeds
from tests.fuzz.harness import of_bytes

TRUST = TrustedHttp(TrustPolicy())


@of_bytes(seeds.urls)
def url(data):
    """A URL that a member named: what is let through leads to no private address."""
    text = data.decode("utf-8", "replace")
    try:
        trusted = TRUST.check_url(text)
    except BackendError:
        return
    assert not trusted
    host = urlsplit(text).hostname
    assert host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    assert address.is_global
