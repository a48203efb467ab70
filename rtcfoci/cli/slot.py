"""`rtcfoci slot`: open or close a slot, and let ordinary members take part in calls.

In: the slot event, and the power levels of the membership events. Out: joining (`join`).
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from rtcfoci.call.preflight import inspect_room, require_power
from rtcfoci.cli.account import add_account_options, connect_account
from rtcfoci.cli.options import EXIT_OK, Parser
from rtcfoci.core.model import Slot
from rtcfoci.core.slots import SLOT_EVENT_TYPES, close_slot, open_slot
from rtcfoci.matrix.rooms import resolve_alias

if TYPE_CHECKING:
    import argparse

    from rtcfoci.matrix.client import MatrixClient

__all__ = ["run"]

_MEMBER_EVENT_TYPES = (
    "org.matrix.msc3401.call.member",
    "org.matrix.msc4143.rtc.member",
)


def run(arguments: list[str]) -> int:
    """Run the command."""
    parser = Parser(prog="rtcfoci slot", description="Open or close the slot of a call.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in (
        ("open", "open a slot, creating it where there is none"),
        ("close", "close a slot"),
        ("permit", "let ordinary members of the room take part in calls"),
    ):
        action = actions.add_parser(name, help=summary, description=summary)
        action.add_argument("room", metavar="ROOM", help="room id or alias")
        add_account_options(action)
        action.add_argument("--application", default="m.call", help="application type of the slot")
        action.add_argument("--slot", default="ROOM", help="name of the slot (default: ROOM)")
    return asyncio.run(_slot(parser.parse_args(arguments)))


async def _slot(options: argparse.Namespace) -> int:
    client = await connect_account(options, encrypted=False)
    try:
        room_id = await resolve_alias(client, options.room)
        if options.action == "permit":
            await _permit(client, room_id)
            return EXIT_OK
        slot = Slot(room_id=room_id, application=options.application, name=options.slot)
        facts = await inspect_room(client, room_id)
        require_power(facts, client.user_id, SLOT_EVENT_TYPES[0], state=True)
        current = facts.find(SLOT_EVENT_TYPES[0], slot.slot_id)
        event = (
            open_slot(slot, room_encrypted=facts.encrypted, current=current)
            if options.action == "open"
            else close_slot(slot, current=current)
        )
        await client.send_state(room_id, event.type, slot.slot_id, event.content)
        word = "open" if options.action == "open" else "closed"
        sys.stdout.write(f"{slot.slot_id} in {room_id} is {word}\n")
        return EXIT_OK
    finally:
        await client.aclose()


async def _permit(client: MatrixClient, room_id: str) -> None:
    facts = await inspect_room(client, room_id)
    require_power(facts, client.user_id, "m.room.power_levels", state=True)
    events = facts.power_levels.get("events")
    content = {
        **facts.power_levels,
        "events": {
            **(events if isinstance(events, dict) else {}),
            **dict.fromkeys(_MEMBER_EVENT_TYPES, 0),
        },
    }
    await client.send_state(room_id, "m.room.power_levels", "", content)
    sys.stdout.write(f"ordinary members of {room_id} may take part in calls now\n")
