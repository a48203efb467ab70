"""Media keys between ours and matrix-js-sdk 43 in Node: each takes what the other writes, and for whom."""

import time

import pytest

from rtcfoci.core.dialects import OwnMembership
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.dialects.state import state_member_id
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.identity import backend_identity
from rtcfoci.core.key_messages import KEY_TYPES, WRITTEN_KEY_TYPE, write_key
from rtcfoci.core.keys import Key, SendKey
from rtcfoci.core.model import Member, Transport
from rtcfoci.matrix.sync import read_event
from tests.core.keying import SLOT, Desk, theirs
from tests.interop.tools import JS_SDK, Driver, npm_folder

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

SFU = Transport("livekit", {"type": "livekit", "livekit_service_url": "https://sfu.example.org"})
FORMS = {"state": D3(), "sticky": Superset()}


class Side:
    """Ours and the SDK's client in one room with a third, whose memberships both are given."""

    def __init__(self, driver, dialect, key_member_id):
        self.driver = driver
        self.dialect = dialect
        self.us, self.sdk, self.cem = [self.member(name) for name in ("us", "sdk", "cem")]
        self.key_member_id = key_member_id or self.sdk.member_id
        """What the SDK's client names in its keys."""
        self.desk = Desk(own=self.us)
        self.began_ms = time.time_ns() // 1_000_000

    def member(self, name):
        user, device = f"@{name}:hs", f"{name.upper()}DEVICE"
        member_id = f"id-{name}" if self.dialect.sticky else state_member_id(user, device)
        return Member(user_id=user, device_id=device, member_id=member_id)

    def event(self, member):
        own = OwnMembership(slot=SLOT, member=member, transports=(SFU,))
        event = self.dialect.join(own)
        raw = {
            "type": event.type,
            "sender": member.user_id,
            "event_id": f"${member.device_id}",
            "origin_server_ts": self.began_ms,
            "content": dict(event.content),
        }
        if event.state_key is None:
            raw["msc4354_sticky"] = {"duration_ms": event.sticky_duration_ms}
        else:
            raw["state_key"] = event.state_key
        return raw

    async def begin(self):
        names = zip(("userId", "deviceId", "memberId"), self.sdk.order, strict=True)
        own = {**dict(names), "memberId": self.key_member_id}
        await self.driver.ask("join", room=SLOT.room_id, own=own, isSticky=self.dialect.sticky)

    def we_see(self, *members):
        """Tell our machine who is there; give what it asks for."""
        read = [read_event(self.event(member), self.began_ms) for member in members]
        memberships = [self.dialect.parse(event, SLOT.room_id) for event in read]
        return self.desk.there(*memberships)

    async def sdk_sees(self, *members):
        answer = await self.driver.ask("members", events=[self.event(m) for m in members])
        assert answer["count"] == len(members)

    def we_start(self):
        return self.desk.do(self.desk.machine.start(self.desk.now))

    async def carry(self, outputs):
        """Bring what our machine sends to the SDK's client; give which keys."""
        brought = []
        for effect in outputs:
            if isinstance(effect, SendKey) and effect.to == self.sdk:
                ts_ms = time.time_ns() // 1_000_000
                content = write_key(SLOT, self.us, effect.index, effect.key, sent_ts_ms=ts_ms)
                event = {"type": WRITTEN_KEY_TYPE, "sender": self.us.user_id, "content": content}
                await self.driver.ask("receive", event=event)
                brought.append((effect.index, effect.key.reveal().hex()))
        self.desk.deliver(outputs)
        return brought

    async def sent(self, count):
        """Wait until the SDK's client has sent so many messages, and uses the key of the last."""
        seen = await self.driver.until(
            lambda s: (
                len(s["sent"]) == count
                and [k["index"] for k in s["keys"] if k["userId"] == self.sdk.user_id][-1:]
                == [s["sent"][-1]["content"]["keys"]["index"]]
            ),
            f"{count} messages",
        )
        return seen["sent"]

    def take(self, message):
        """Give our machine what the SDK's client sent."""
        return self.desk.take(self.sdk, message["content"], kind=message["type"])

    async def told(self, member):
        """Which keys of a member the SDK gave to its media layer, and that they are that member's."""
        keys = (await self.driver.ask("look"))["keys"]
        found = [key for key in keys if key["userId"] == member.user_id]
        member_id = self.key_member_id if member is self.sdk else member.member_id
        for key in found:
            assert (key["deviceId"], key["memberId"]) == (member.device_id, member_id)
            if member is self.us:
                assert key["identity"] == backend_identity(member, sticky=self.dialect.sticky)
        return [(key["index"], key["key"]) for key in found]


@pytest.fixture(params=["state", "state, own id in keys", "sticky"])
async def side(request, tmp_path):
    form, _, other = request.param.partition(", ")
    modules = npm_folder(JS_SDK)
    async with Driver.started(tmp_path / "log.txt", "media_keys.mjs", modules) as driver:
        made = Side(driver, FORMS[form], "of-this-join" if other else None)
        await made.begin()
        yield made


async def test_the_sdk_takes_the_keys_that_we_write(side):
    us, sdk, cem = side.us, side.sdk, side.cem
    await side.sdk_sees(us, sdk, cem)
    side.we_see(us, sdk, cem)
    first = await side.carry(side.we_start())
    assert [index for index, _ in first] == [0]
    assert len(bytes.fromhex(first[0][1])) == 32
    assert await side.told(us) == first
    second = await side.carry(side.we_see(us, sdk))  # cem has left
    assert [index for index, _ in second] == [1]
    assert second[0][1] != first[0][1]
    assert await side.told(us) == first + second


async def test_the_sdk_keeps_our_key_until_it_sees_our_membership(side):
    await side.sdk_sees(side.sdk)
    side.we_see(side.us, side.sdk)
    early = await side.carry(side.we_start())
    assert len(early) == 1
    assert await side.told(side.us) == []
    await side.sdk_sees(side.us, side.sdk)
    assert await side.told(side.us) == early


async def test_the_sdk_gets_the_very_bytes(side):
    await side.sdk_sees(side.us, side.sdk)
    carried = []
    for index, length in ((0, 16), (1, 32), (255, 32)):
        key = Key(bytes(256 - length + n for n in range(length)))
        carried += await side.carry([SendKey(id=1, to=side.sdk, index=index, key=key)])
        assert await side.told(side.us) == carried
        assert carried[-1] == (index, key.reveal().hex())


async def test_the_sdk_reads_no_key_in_the_form_of_the_msc(side):
    await side.sdk_sees(side.us, side.sdk)
    message = {
        "room_id": SLOT.room_id,
        "member_id": side.us.member_id,
        "media_key": {"index": 0, "key": "k" * 43, "format": 0},
    }
    for kind in KEY_TYPES:
        event = {"type": kind, "sender": side.us.user_id, "content": message}
        await side.driver.ask("receive", event=event)
    assert await side.told(side.us) == []
    carried = await side.carry([SendKey(id=1, to=side.sdk, index=0, key=Key(b"k" * 32))])
    assert await side.told(side.us) == carried


async def test_we_take_the_keys_that_the_sdk_writes(side):
    us, sdk, cem = side.us, side.sdk, side.cem
    side.we_see(us, sdk, cem)
    side.we_start()
    await side.sdk_sees(us, sdk, cem)
    (first,) = await side.sent(1)
    assert [t["userId"] for t in first["targets"]] == [us.user_id, cem.user_id]
    assert first["content"]["member"]["id"] == side.key_member_id
    taken = theirs(side.take(first))
    assert [(who, index, len(key)) for who, index, key in taken] == [(sdk, 0, 16)]
    await side.sdk_sees(us, sdk)  # cem has left
    _, second = await side.sent(2)
    assert [t["deviceId"] for t in second["targets"]] == [us.device_id]
    taken += theirs(side.take(second))
    assert [(who, index) for who, index, _ in taken] == [(sdk, 0), (sdk, 1)]
    used = [(index, key.hex()) for _, index, key in taken]
    assert await side.told(sdk) == used, "it encrypts with other keys"
    assert [k for k in side.desk.machine.counters if k.startswith("keys_refused")] == []


async def test_we_keep_the_sdks_key_until_we_see_its_membership(side):
    await side.sdk_sees(side.us, side.sdk)
    (message,) = await side.sent(1)
    side.we_see(side.us)
    side.we_start()
    assert side.take(message) == []
    (taken,) = theirs(side.we_see(side.us, side.sdk))
    assert taken[:2] == (side.sdk, 0)
    assert await side.told(side.sdk) == [(0, taken[2].hex())]
