"""Changing JSON as JSON: most changes of its bytes would only make it none.

In: a few random changes of one value. Out: choosing what is changed, and what is kept (`run`).
"""

from __future__ import annotations

import json
from pathlib import Path
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
    "keys", "index", "key", "media_key", "format", "version", "sent_ts", "scope", "m.mentions", "user_ids",
    "room", "notify_type", "notification_type", "lifetime", "sender_ts", "m.call.intent", "users",
    "users_default", "events_default", "state_default", "notifications", "room_version",
    "additional_creators", "livekit_service_url", "livekit_alias", "focus", "method", "versions",
    "instance", "sdp", "tracks", "mid", "kind", "source", "name", "muted", "need", "audio", "video",
    "rebuild", "joined_ts_ms", "uris", "ttl", "username", "password", "next_batch", "pos", "timeline",
    "state", "limited", "to_device", "device_lists", "changed", "left", "delay_id", "delay_ms",
    "base_url", "access_token", "capabilities", "unstable_features", "saved_ts_ms", "machine", "input",
    "effect", "raised", "end", "now", "is", "effect_id", "result", "outcome", "policy", "config",
)  # fmt: skip
MARKS = (
    "a=candidate:", "a=end-of-candidates", "a=fingerprint:sha-256 ", "a=max-message-size:", "m=audio 9 ",
    "m=video 9 ", "m=application 9 ", "v=0", ".local", " typ host", "://", "https://", "wss://",
    "[::ffff:", "127.0.0.1", "10.0.0.1", "%25", "xn--", '{"stream": [', '{"acknowledged": ', '{"ping": ',
    '{"pong": ', '{"mute": [',
)  # fmt: skip
"""Words of what is no JSON."""


def write_dictionary(path: Path) -> None:
    """Write the words above as libFuzzer reads them."""
    words = [
        *NAMES,
        *(word for word in ODD if isinstance(word, str) and 0 < len(word) < 64),
        *MARKS,
    ]
    quoted = (
        word.replace("\\", "\\\\").replace('"', '\\"') for word in words if word.isprintable()
    )
    path.write_text("".join(f'"{word}"\n' for word in dict.fromkeys(quoted)), encoding="utf-8")


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
