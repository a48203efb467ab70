"""The world around an authorisation service: a homeserver, an SFU, Redis, and the service's process.

In: what stands on the other side of its sockets, each in a thread or process of its own and strict
about what it is sent. Out: pytest; tests, benches and fault runs use the same parts.
"""

from fakes.answers import Answer, Ledger, Script
from fakes.authority import Authority
from fakes.client import Reply, call
from fakes.homeserver import Call, DelayedEvent, Homeserver, openid_token
from fakes.hosting import Host
from fakes.redis_server import RedisServer, redis_missing
from fakes.service import Service
from fakes.sfu import Sfu
from fakes.webhooks import Webhook

__all__ = [
    "Answer",
    "Authority",
    "Call",
    "DelayedEvent",
    "Homeserver",
    "Host",
    "Ledger",
    "RedisServer",
    "Reply",
    "Script",
    "Service",
    "Sfu",
    "Webhook",
    "call",
    "openid_token",
    "redis_missing",
]
