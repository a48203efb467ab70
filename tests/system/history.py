"""What a room remembers of RTC memberships: the homeserver's own word, to judge participants by.

A participant's view is no judge of whether somebody was withdrawn: it keeps showing a member whose
membership is gone for as long as media flows.
"""

import json
from urllib.parse import quote

MEMBER_TYPES = ("org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member")


async def memberships(synapse, token, room_id):
    """Every membership event of the room that the homeserver took, oldest first."""
    answer = await synapse.checked(
        "GET",
        f"/_matrix/client/v3/rooms/{quote(room_id, safe='')}/messages",
        token,
        query={"dir": "b", "limit": "500", "filter": json.dumps({"types": MEMBER_TYPES})},
    )
    return [e for e in reversed(answer["chunk"]) if e["type"] in MEMBER_TYPES]


def key(event):
    """What an event replaces earlier ones by: its state key, or the key of a sticky event."""
    return event.get("state_key", event["content"].get("msc4354_sticky_key"))


def slot_id(event):
    """The slot that a membership is in, however it is written."""
    content = event["content"]
    return content.get("slot_id") or f"{content['application']}#{content['call_id']}"


def is_leave(event):
    member = event["content"].get("member", {})
    return event["content"] == {} or member.get("membership") == "leave"


async def current(synapse, token, room_id):
    """User ids of those whose latest membership event is not a leave, once for each membership."""
    latest = {key(e): e for e in await memberships(synapse, token, room_id)}
    return sorted(e["sender"] for e in latest.values() if not is_leave(e))
