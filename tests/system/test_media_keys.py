"""Media keys in whole calls on a real Synapse: real olm, and frames that open with the right key alone."""

import asyncio
import contextlib
import secrets

import pytest

import rtcfoci
from rtcfoci.core.key_messages import KEY_TYPES
from rtcfoci.core.lifecycle import LifecycleConfig
from rtcfoci.media.frames import Kind
from rtcfoci.plugin.manager import PluginManager
from rtcfoci.testing import MemoryWorld, Peer, Synapse, SynapseOptions
from tests.matrix.identities import PublishedKeys

pytestmark = [pytest.mark.system, pytest.mark.timeout(150)]

WAIT_S = 30
# No leave may fire while a homeserver is down: it would rotate keys by itself.
LIFECYCLE = LifecycleConfig(leave_delay_ms=60_000)


class Guest(Peer):
    """A call in this very process, with the client that it uses and what it hears of whom."""

    def __init__(self, call, client):
        super().__init__(call, None)
        self.client = client
        self.frames = {}
        self.security = []
        """How the keys came that it was given."""
        receive = call.keys.receive

        def spy(message):
            if message.type in KEY_TYPES:
                self.security.append(message.security)
            receive(message)

        call.keys.receive = spy

    @property
    def connection(self):
        (link,) = self.call.foci.links
        return link.connection

    @property
    def key(self):
        """What it encrypts with."""
        return self.connection.keys[self.call.member, self.connection.index]

    async def hears(self, other, more=20):
        """Wait until so many more frames of another have come, and opened."""
        member = other.call.member
        if member not in self.frames:
            await self.until(lambda: self._tracks_of(member), timeout_s=WAIT_S)
            (track,) = self._tracks_of(member)
            frames = self.frames[member] = []
            track.consume(lambda frame: frames.append(frame) if frame else None)
        frames, count = self.frames[member], len(self.frames[member])
        await self.until(lambda: len(frames) >= count + more, timeout_s=WAIT_S)

    def holds(self, other):
        """Tell whether it has the key that another encrypts with."""
        held = self.connection.keys.get((other.call.member, other.connection.index))
        return held is not None and held == other.key

    async def is_well(self):
        await self.until(lambda: self.call.conditions == (), timeout_s=WAIT_S)
        assert not [k for k, v in self.call.metrics.items() if "refused" in k and v]

    def _tracks_of(self, member):
        return [t for t in self.call.tracks if t.track_id.member == member]


class Party:
    """An encrypted room, and people who come into its call one by one."""

    def __init__(self, server):
        self.server = server
        self.name = secrets.token_hex(4)
        self.plugins = PluginManager.load(plugins=("rtcfoci.testing.memory_types",))
        self.focus = ("memory.elected", {"world": self.name, "focus": "a"})
        self.room_id = None
        self.stack = contextlib.AsyncExitStack()
        MemoryWorld.named(self.name, fresh=True)

    async def come(self, name, dialect=None, *, signed=False, require_trusted=False):
        """Join; with a device that an identity of its user has signed before, if it is to be."""
        person = await self.server.register(f"{name}-{self.name}", "password")
        token = person.access_token
        if self.room_id is None:
            self.room_id = await self.server.create_room(token, encrypted=True)
        else:
            await self.server.join_room(token, self.room_id)
        client = await rtcfoci.connect(self.server.base_url, token=token, encrypted=True)
        self.stack.push_async_callback(client.aclose)
        if signed:
            identity = PublishedKeys(person.user_id)
            await identity.publish(self.server, person, "password")
            await identity.sign_device(self.server, person)
        call = await self.stack.enter_async_context(
            rtcfoci.join(
                client,
                self.room_id,
                foci=[self.focus],
                dialect=dialect,
                lifecycle=LIFECYCLE,
                require_trusted=require_trusted,
                plugins=self.plugins,
            )
        )
        guest = Guest(call, client)
        self.stack.push_async_callback(guest._stop)
        await guest.publish(Kind.AUDIO)
        return guest

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.stack.aclose()


@pytest.mark.parametrize("dialect", ["D3", "D6/D7"])
async def test_media_flows_when_the_keys_have_come_over_olm(synapse, dialect):
    async with Party(synapse) as party:
        ann, bob = [await party.come(name, dialect) for name in ("ann", "bob")]
        await bob.hears(ann)
        await ann.hears(bob)
        assert bob.holds(ann)
        assert ann.holds(bob)
        assert ann.key != bob.key
        for guest in (ann, bob):
            assert len(guest.key) == 32
            # The answer to what was sent may come after the media that it made possible.
            await guest.until(lambda g=guest: g.call.metrics["keys_sent"], timeout_s=WAIT_S)
            assert guest.call.metrics["keys_sent"] == guest.call.metrics["keys_received"] == 1
            await guest.is_well()
        assert ann.security == ["bound"]


async def test_where_trust_is_required_only_cross_signed_devices_get_and_give_keys(synapse):
    async with Party(synapse) as party:
        ann = await party.come("ann", require_trusted=True)
        good = await party.come("bob", signed=True)
        bad = await party.come("cem")
        await ann.hears(good)
        await good.hears(ann)
        await bad.hears(good)

        def told():
            return [(c.code, c.subject) for c in ann.call.conditions]

        expected = ("device_untrusted", str(bad.call.member))
        await ann.until(lambda: expected in told(), timeout_s=WAIT_S)
        await ann.until(lambda: ann.call.metrics["keys_refused.untrusted"], timeout_s=WAIT_S)
        assert ann.security == ["trusted", "bound"]
        assert not ann.holds(bad)
        assert not bad.holds(ann)
        trusted = {p.member: p.trusted for p in ann.call.participants}
        assert trusted == {good.call.member: True, bad.call.member: False}
        await bad.leave()
        await ann.until(lambda: not told(), timeout_s=WAIT_S)
        await good.is_well()


async def test_a_leave_rotates(synapse):
    async with Party(synapse) as party:
        ann, bob, cem = [await party.come(name) for name in ("ann", "bob", "cem")]
        for guest in (bob, cem):
            await guest.hears(ann)
        keys, before = cem.connection.keys, ann.connection.index
        assert ann.key in keys.values()
        await cem.leave()
        for guest in (ann, bob):
            await guest.until(lambda g=guest: g.connection.index > before, timeout_s=WAIT_S)
        assert ann.key not in keys.values(), "who left can open what is said now"
        assert bob.key not in keys.values()
        await bob.hears(ann, 100)
        assert bob.holds(ann)
        for guest in (ann, bob):
            await guest.is_well()


async def test_who_joins_gets_the_key_but_none_that_is_old(synapse):
    async with Party(synapse) as party:
        ann, bob = [await party.come(name) for name in ("ann", "bob")]
        await bob.hears(ann)
        cem = await party.come("cem")
        await cem.hears(ann)
        await cem.hears(bob)
        old = {guest: guest.key for guest in (ann, bob, cem)}
        await asyncio.sleep(11)
        dan = await party.come("dan")
        for guest in old:
            await dan.hears(guest)
            await guest.hears(dan)
            assert guest.key != old[guest]
        assert not set(old.values()) & set(dan.connection.keys.values())
        for guest in (*old, dan):
            await guest.is_well()


async def test_a_homeserver_that_is_away_delays_a_key_and_loses_none(tmp_path):
    async with Synapse(tmp_path / "homeserver", SynapseOptions()) as server, Party(server) as party:
        ann, bob, cem = [await party.come(name) for name in ("ann", "bob", "cem")]
        for guest in (bob, cem):
            await guest.hears(ann)
        await ann.hears(bob)
        left, killed, send = asyncio.Event(), asyncio.Event(), ann.client.send_to_device

        async def into_the_dark(*args, **more):
            await left.wait()
            if not killed.is_set():
                server.kill()
                killed.set()
            return await send(*args, **more)

        ann.client.send_to_device = into_the_dark
        before, rotated = ann.connection.index, ann.call.metrics["keys_rotated"]
        await cem.leave()
        left.set()
        async with asyncio.timeout(WAIT_S):
            await killed.wait()
        await asyncio.sleep(4)
        assert ann.call.metrics["key_sends_failed"] >= 1
        assert not bob.connection.keys.get((ann.call.member, before + 1))
        await server.restart()
        for guest, other in ((ann, bob), (bob, ann)):
            await other.until(lambda o=other: o.connection.index > before, timeout_s=WAIT_S)
            await guest.until(lambda g=guest, o=other: g.holds(o), timeout_s=WAIT_S)
            await guest.hears(other, 100)
        for guest in (ann, bob):
            await guest.is_well()
        assert ann.connection.index == before + 1
        assert ann.call.metrics["keys_rotated"] == rotated + 1
