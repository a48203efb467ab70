"""Who left the Matrix room leaves the SFU, and nobody else does."""

import asyncio
import json

import pytest
from rtcfoci_livekit_auth.appservice.leavers import ATTRIBUTE, Leavers, Seals
from rtcfoci_livekit_auth.guard import Unreachable
from rtcfoci_livekit_auth.room_service import Participant, SfuError
from rtcfoci_livekit_auth.tokens import Minter
from rtcfoci_livekit_auth.webhooks import ParticipantEvent
from settings_of import SECRET

MINTER = Minter("key", SECRET)


class Rooms:
    """Stands for a LiveKit server's room service."""

    def __init__(self):
        self.inside = {}
        self.down = False

    async def rooms(self):
        if self.down:
            raise SfuError("ListRooms", "down")
        return list(self.inside)

    async def participants(self, room):
        return [
            Participant(identity, attributes) for identity, attributes in self.inside[room].items()
        ]

    async def remove_participant(self, room, identity):
        self.inside[room].pop(identity, None)

    async def delete_room(self, room):
        del self.inside[room]


class OneSfu:
    def __init__(self):
        self.minter, self.service = MINTER, Rooms()

    @property
    def all(self):
        return [self]


class Joined:
    """Stands for the homeserver: who is joined, and what it will not say."""

    def __init__(self):
        self.users, self.rooms, self.silent = set(), {"!r:x"}, set()

    async def user_joined(self, user_id, room_id):
        if user_id in self.silent:
            raise Unreachable("silent")
        return (user_id, room_id) in self.users

    async def server_joined(self, room_id):
        if "server" in self.silent:
            raise Unreachable("silent")
        return room_id in self.rooms


class Case:
    def __init__(self):
        self.sfu, self.homeserver, self.seals = OneSfu(), Joined(), Seals()
        self.inside = self.sfu.service.inside
        self.leavers = self.another()

    def another(self):
        """Give a process that was started later, or beside."""
        return Leavers(self.homeserver, self.sfu, Seals(), interval_s=0)

    def connect(self, user_id, *, joined=True, room="alias", room_id="!r:x"):
        identity = f"identity of {user_id}"
        attributes = self.seals.attributes(
            MINTER, room=room, identity=identity, room_id=room_id, user_id=user_id
        )
        self.inside.setdefault(room, {})[identity] = attributes
        if joined:
            self.homeserver.users.add((user_id, room_id))
        return identity

    def who(self, room="alias"):
        return set(self.inside.get(room, {}))


@pytest.fixture
def case():
    return Case()


async def test_who_is_not_joined_is_removed_and_who_is_stays(case):
    alice = case.connect("@alice:x")
    case.connect("@bob:x", joined=False)
    case.connect("@carol:elsewhere.org", joined=False)
    await case.leavers.sweep()
    assert case.who() == {alice}
    assert case.leavers.removed == 2
    case.homeserver.users.clear()
    await case.another().sweep()
    assert case.who() == set()


async def test_a_call_ends_where_the_homeserver_has_left_the_room(case):
    case.connect("@alice:x")
    case.connect("@alice:x", room="other", room_id="!other:x")
    await case.leavers.sweep()
    assert set(case.inside) == {"alias"}


async def test_what_the_homeserver_does_not_say_changes_nothing(case):
    for user_id in ("@alice:x", "@bob:x"):
        case.connect(user_id, joined=False)
    case.homeserver.silent = {"@alice:x"}
    await case.leavers.sweep()
    assert case.who() == {"identity of @alice:x"}
    case.homeserver.rooms.clear()
    case.homeserver.silent = {"@alice:x", "server"}
    await case.leavers.sweep()
    assert case.who() == {"identity of @alice:x"}
    case.sfu.service.down = True
    await case.leavers.sweep()


FORGED = [
    {},
    {ATTRIBUTE: ""},
    {ATTRIBUTE: json.dumps(["!gone:x", "@eve:x"])},
    {ATTRIBUTE: "AAAA " + json.dumps(["!gone:x", "@eve:x"])},
    {ATTRIBUTE: MINTER.sealed(json.dumps(["!gone:x", "@eve:x"]), "alias", "somebody else")},
    {ATTRIBUTE: MINTER.sealed(json.dumps(["!gone:x", "@eve:x"]), "other room", "eve")},
    {
        ATTRIBUTE: Minter("key", SECRET + "x").sealed(
            json.dumps(["!gone:x", "@eve:x"]), "alias", "eve"
        )
    },
    {ATTRIBUTE: "\ud800 x"},
]


@pytest.mark.parametrize("attributes", FORGED)
async def test_nobody_ends_a_call_with_an_attribute_of_their_own(case, attributes):
    alice = case.connect("@alice:x")
    case.inside["alias"]["eve"] = attributes
    await case.leavers.sweep()
    assert case.who() == {alice, "eve"}


async def test_an_attribute_that_was_dropped_is_remembered(case):
    leavers = Leavers(case.homeserver, case.sfu, case.seals, interval_s=0)
    identity = case.connect("@alice:x", joined=False)
    case.inside["alias"][identity] = {}
    await leavers.sweep()
    assert case.who() == set()


def joined(identity, attributes, kind="joined"):
    return ParticipantEvent(
        kind=kind,
        room="alias",
        identity=identity,
        sid="PA_1",
        reason="UNKNOWN_REASON",
        created_ts_ms=0,
        attributes=attributes,
    )


async def until(condition):
    for _ in range(100):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


async def test_who_connects_with_an_old_token_is_removed_at_once(case):
    alice, bob = case.connect("@alice:x"), case.connect("@bob:x", joined=False)
    for identity in (alice, bob):
        case.leavers.handle(joined(identity, case.inside["alias"][identity]))
    case.leavers.handle(joined("stranger", {}))
    case.leavers.handle(joined(alice, case.inside["alias"][alice], kind="left"))
    await until(lambda: case.who() == {alice})
    await case.leavers.stop()


async def test_everybody_is_looked_at_again_and_again_unless_the_interval_is_zero(case):
    await asyncio.wait_for(case.leavers.run(), 1)
    often = Leavers(case.homeserver, case.sfu, case.seals, interval_s=0.02)
    running = asyncio.create_task(often.run())
    for _ in range(2):
        case.connect("@alice:x", joined=False)
        await until(lambda: case.who() == set())
    running.cancel()
