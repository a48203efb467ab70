"""Everything that would make a join fail, found before anything is sent.

In: reading the room's state and the server's support, naming each finding with its cause and remedy, and
what others will not see of us. Out: mending anything; sources and folders, which `rtcfoci.media` checks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from rtcfoci.core.dialects import OwnEvent
from rtcfoci.core.dialects.ruma import absences
from rtcfoci.core.model import JsonObject, RoomEvent, Slot, SlotStatus
from rtcfoci.core.power import RoomPower, required_power
from rtcfoci.core.slots import SLOT_EVENT_TYPES, read_slot
from rtcfoci.errors import ClientError, PreflightError, RtcfociError
from rtcfoci.matrix.client import MatrixClient
from rtcfoci.matrix.sync import read_sync

__all__ = ["RoomFacts", "inspect_room", "remarks", "require_power"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomFacts:
    """What a call needs to know of its room before joining."""

    room_id: str
    room_version: str
    encrypted: bool
    state: tuple[RoomEvent, ...]
    own_power: float
    power_levels: JsonObject
    own_membership: str
    replaced_by: str | None
    """The room that this one was upgraded to."""

    def may_send(self, event_type: str, *, state: bool = True) -> bool:
        """Whether our own power suffices."""
        return self.own_power >= required_power(self.power_levels, event_type, state=state)

    def find(self, event_type: str, state_key: str = "") -> JsonObject | None:
        """Return the content of a state event, None when the room has none."""
        for event in self.state:
            if event.type == event_type and event.state_key == state_key:
                return event.content
        return None

    def slot_status(self, slot_id: str) -> SlotStatus:
        """What the slot event says; both names of its type are read (MSC4143, Slots)."""
        for event_type in SLOT_EVENT_TYPES:
            content = self.find(event_type, slot_id)
            if content is not None:
                return read_slot(content)
        return SlotStatus.ABSENT


async def inspect_room(
    client: MatrixClient,
    room_id: str,
) -> RoomFacts:
    """Read the room and refuse what cannot work.

    :raises PreflightError: with every finding.
    """
    try:
        state = tuple(await client.room_state(room_id))
    except ClientError as error:
        if error.status not in (401, 403, 404):
            raise  # no answer, or one that says nothing about us
        raise PreflightError([await _why_unreadable(client, room_id, error)]) from None
    facts = _facts(client.user_id, room_id, state)
    findings: list[RtcfociError] = []
    if facts.own_membership != "join":
        # What we may still read ends where we left: a ban that followed is not in it.
        findings.append(_not_joined(room_id, await _own_membership(client, room_id)))
    if facts.replaced_by is not None:
        findings.append(
            RtcfociError(
                "the room was upgraded",
                why=f"{room_id} was replaced by {facts.replaced_by or 'another room'}",
                do=f"join {facts.replaced_by or 'the replacement'} and call there",
            )
        )
    if findings:
        raise PreflightError(findings)
    return facts


def require_power(facts: RoomFacts, user_id: str, event_type: str, *, state: bool) -> None:
    """Refuse what our power level does not let us send.

    :raises PreflightError: with the command that mends it.
    """
    if not facts.may_send(event_type, state=state):
        raise PreflightError([_too_weak(facts, event_type, state, user_id)])


def remarks(event: OwnEvent, slot: Slot) -> tuple[str, ...]:
    """Say where the membership that we are about to write will not show, though it harms nobody."""
    why = absences(event.content, event.type, event.state_key)
    if not why or slot.application != "m.call":  # nobody looks for a game among the calls
        return ()
    return (f"Element X's call indicator will not show this member: {'; '.join(why)}",)


async def _why_unreadable(client: MatrixClient, room_id: str, error: ClientError) -> RtcfociError:
    if error.errcode == "M_UNKNOWN_TOKEN":
        return RtcfociError(
            "the access token is not valid",
            why="the homeserver does not know it: it was revoked, or belongs to another server",
            do="log in again, and check that --homeserver is the server of this account",
        )
    return _not_joined(room_id, await _own_membership(client, room_id))


async def _own_membership(client: MatrixClient, room_id: str) -> str:
    """Ask what we are in a room that we may not read: sync alone tells of bans and invitations."""
    nothing: JsonObject = {"types": []}
    members: JsonObject = {"types": ["m.room.member"]}
    room = {"rooms": [room_id], "include_leave": True, "state": members, "timeline": members}
    wanted = {"room": room, "presence": nothing, "account_data": nothing}
    # The answer's token is thrown away, so that no to-device message counts as received.
    answer = await client.request(
        "GET", "/_matrix/client/v3/sync", query={"filter": json.dumps(wanted), "timeout": "0"}
    )
    membership = "leave"
    for found in read_sync(answer, 0).rooms:
        if found.room_id != room_id:
            continue
        if found.membership == "invite":
            return "invite"
        for event in (*found.state, *found.timeline):
            if event.state_key == client.user_id:
                membership = str(event.content.get("membership", "leave"))
    return membership


def _not_joined(room_id: str, membership: str) -> RtcfociError:
    if membership == "ban":
        return RtcfociError(
            "we are banned from the room",
            why=f"our membership of {room_id} is 'ban'",
            do="ask a moderator of the room",
        )
    return RtcfociError(
        "we are not in the room",
        why=f"our membership of {room_id} is '{membership}'",
        do="accept the invitation, or join the room, with any Matrix client first",
    )


def _too_weak(facts: RoomFacts, event_type: str, is_state: bool, user_id: str) -> RtcfociError:
    required = required_power(facts.power_levels, event_type, state=is_state)
    membership = event_type.endswith(".member") and event_type != "m.room.member"
    return RtcfociError(
        f"our power level is too low for {'the membership event' if membership else event_type}",
        why=(
            f"{event_type} needs {required}, {user_id} has {facts.own_power:g}"
            + (" (state_default is 50 unless the room says otherwise)" if is_state else "")
        ),
        do=(
            "a moderator runs: rtcfoci slot permit "
            f"'{facts.room_id}' --homeserver URL --user MODERATOR --password-file FILE"
            if membership
            else "ask a moderator of the room to do it, or to raise our power level"
        ),
    )


def _facts(user_id: str, room_id: str, state: tuple[RoomEvent, ...]) -> RoomFacts:
    content: dict[tuple[str, str], JsonObject] = {}
    power = RoomPower()
    version = "1"
    for event in state:
        content[event.type, event.state_key or ""] = event.content
        power = power.after(event)
        if event.type == "m.room.create":
            version = str(event.content.get("room_version", "1"))
    tombstone = content.get(("m.room.tombstone", ""))
    replacement = tombstone.get("replacement_room", "") if tombstone else None
    return RoomFacts(
        room_id=room_id,
        room_version=version,
        encrypted=("m.room.encryption", "") in content,
        state=state,
        own_power=power.of(user_id),
        power_levels=power.levels,
        own_membership=str(content.get(("m.room.member", user_id), {}).get("membership", "leave")),
        replaced_by=replacement if isinstance(replacement, str) or replacement is None else "",
    )
