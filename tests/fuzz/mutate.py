"""Changing JSON as JSON: most changes of its bytes would only make it none.

In: a few random changes of one value. Out: choosing what is changed, and what is kept (`run`).
"""

from __future__ import annotations

import json
from random import Random

from tests.fuzz.harness import encoded

MAX_BYTES = 64 * 1024
ODD = (
    None, True, False, 0, 1, -1, 2**53 - 1, 2**53, -(2**63), 10**400, 1.5, 1e300, float("inf"),
    float("nan"), "", "a", "\ud800", "\x00", "x" * 256, "x" * 2000, [], {}, [[]], [{}], {"": {}},
    "join", "leave", "ban", "m.call", "m.call#ROOM", "open", "closed", "livekit", "multi_sfu",
    "oldest_membership", "m.reference", "org.matrix.msc4143.rtc.member", "m.rtc.member",
    "org.matrix.msc3401.call.member", "m.call.member", "m.room.redaction", "m.room.encrypted",
    {"type": "livekit"}, {"type": "m.call"}, {"id": "a"}, {"event_id": "$a"},
)  # fmt: skip
NAMES = (
    "membership", "memberships", "m.calls", "session", "call_id", "slot_id", "application", "member",
    "transports", "published", "can_subscribe", "rtc_transports", "foci_preferred", "foci_active",
    "focus_active", "focus_selection", "versions", "expires", "expires_ts", "created_ts", "sticky_key",
    "msc4354_sticky_key", "sticky", "msc4354_sticky", "duration_ms", "unsigned", "redacts", "state_key",
    "sticky_duration_ttl_ms", "device_id", "user_id", "claimed_user_id", "claimed_device_id", "id", "type",
    "leave_reason", "m.relates_to", "rel_type", "event_id", "sender", "origin_server_ts", "content",
    "rtcfoci.transports", "encryption", "sender_device_id", "bound", "received_ts_ms", "room_id", "events",
    "status", "payload", "seq", "sent_ts_ms", "expires_ts_ms", "attempt", "message_id", "retry_after_ms",
)  # fmt: skip


def containers(value):
    """Every object and array in a value, itself included."""
    found, level = [], [value]
    while level:
        level = [item for item in level if isinstance(item, (dict, list))]
        found += level
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return found


def places(value):
    """Every place in a value that holds another: container and key."""
    return [
        (container, key)
        for container in containers(value)
        for key in (list(container) if isinstance(container, dict) else range(len(container)))
    ]


def copied(value):
    return json.loads(json.dumps(value))


def odd(random):
    """Something unexpected."""
    value = copied(random.choice(ODD))
    if random.random() < 0.1:
        for _ in range(random.choice((3, 40, 120))):
            value = [value] if random.random() < 0.5 else {random.choice(NAMES): value}
    return value


def change(value, random):
    """Change one place; gives the value, which is another when it was the whole that changed."""
    found = places(value)
    if not found or random.random() < 0.02:
        return odd(random)
    container, key = random.choice(found)
    way = random.randrange(8)
    if way == 0:
        container[key] = odd(random)
    elif way == 1:
        del container[key]
    elif way == 2:
        other, there = random.choice(found)
        container[key] = copied(other[there]) if there_is(other, there) else None
    elif way == 3 and isinstance(container, dict):
        container[random.choice(NAMES)] = odd(random)
    elif way == 4 and isinstance(container, list):
        container.insert(random.randrange(len(container) + 1), copied(container[key]))
    elif way == 5 and isinstance(container[key], str):
        text = container[key]
        at = random.randrange(len(text) + 1)
        container[key] = (
            text[:at] + random.choice(("", "#", ":", "_", "\n", "é", "0")) + text[at + 1 :]
        )
    elif way == 6 and type(container[key]) is int:
        container[key] += random.choice((-1, 1, -1000, 3_600_000, 2**31, -(2**40)))
    elif way == 7 and isinstance(container[key], list):
        container[key] = copied(container[key]) * random.choice((2, 5, 33))
    else:
        container[key] = odd(random)
    return value


def there_is(container, key):
    return key in container if isinstance(container, dict) else key < len(container)


def mutated(data, seed):
    """Change an input in one to four places; None when it is not JSON, or became too large."""
    random = Random(seed)
    try:
        value = json.loads(data)
        for _ in range(random.randint(1, 4)):
            value = change(value, random)
        changed = encoded(value)
    except (ValueError, RecursionError):
        return None
    return changed if len(changed) <= MAX_BYTES else None
