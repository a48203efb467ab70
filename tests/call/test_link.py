"""One connection against a hand-made backend: in step, patient, and never longer than it should be."""

import asyncio
from types import SimpleNamespace

import pytest

from rtcfoci.call.link import Link, Offer
from rtcfoci.core.model import Member, Transport
from rtcfoci.errors import BackendError
from rtcfoci.media.frames import Kind
from rtcfoci.media.tracks import FrameHub, LocalTrack, TrackId
from rtcfoci.plugin import Backend, Capabilities, Connection, FocusType, Health, Role, Topology
from rtcfoci.testing import FakeContext, run

ME = Member(user_id="@ann:hs", device_id="A", member_id="m")
BOTH = frozenset(Role)


class Slow(Connection):
    """Takes a tenth of a second for everything, and writes down what it was told."""

    def __init__(self, context):
        super().__init__(context)
        self.told = []
        self.alive = True

    async def _note(self, *what):
        await asyncio.sleep(0.1)
        self.told.append(what)

    async def set_members(self, added, changed, removed):
        await self._note("members")

    async def set_own(self, membership):
        await self._note("own", membership.created_ts_ms)

    async def publish(self, track):
        await self._note("publish", track)

    async def unpublish(self, track_id):
        await self._note("unpublish", track_id)

    async def set_muted(self, track_id, muted):
        await self._note("muted", muted)

    def health(self):
        return Health(connected=self.alive)

    async def _close(self):
        pass


class SlowBackend(Backend):
    def __init__(self, context, delay_s=0.0):
        super().__init__(context, None)
        self.delay_s = delay_s
        self.made = []
        self.asked_s = []

    async def local_transports(self, advertised):
        return []

    async def connect(self, key, transport, roles):
        self.asked_s.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.delay_s)
        self.made.append(Slow(self.context))
        return self.made[-1]


class Observer:
    def __init__(self):
        self.down = []
        self.ups = 0

    def on_link_event(self, link, event):
        pass

    def on_link_up(self, link):
        self.ups += 1

    def on_link_down(self, link, error):
        self.down.append(error)

    def on_dropped(self, count):
        pass


def track(kind=Kind.AUDIO, name="0"):
    source = "microphone" if kind is Kind.AUDIO else "camera"
    return LocalTrack(TrackId(ME, source, name), FrameHub(kind))


def playing(scene, *, delay_s=0.0, **can):
    """Play a scene with a link, in virtual time."""

    async def main():
        context = FakeContext(ME)
        backend, observer = SlowBackend(context, delay_s), Observer()
        focus_type = FocusType(
            type="x",
            backend="a:b",
            topology=Topology.ELECTED,
            capabilities=Capabilities(**{"audio": True, "video": True, **can}),
        )
        offer = Offer(focus_type, backend, Transport("x", {"type": "x"}))
        link = Link(offer, "key", BOTH, observer, context.spawn, context)
        try:
            await scene(SimpleNamespace(link=link, backend=backend, seen=observer, context=context))
        finally:
            await link.aclose()
            await context.aclose()

    run(main())


def test_a_mute_that_is_undone_while_it_is_told_is_undone_for_the_others():
    async def scene(on):
        one = track()
        on.link.set_tracks([one])
        await asyncio.sleep(1)
        one.muted = True
        on.link.set_tracks([one])
        await asyncio.sleep(0.05)
        one.muted = False
        on.link.set_tracks([one])
        await asyncio.sleep(1)
        assert on.backend.made[0].told == [("publish", one), ("muted", True), ("muted", False)]

    playing(scene)


def test_our_own_membership_is_told_once_and_again_to_a_new_connection():
    async def scene(on):
        await asyncio.sleep(1)
        on.link.set_own(None)
        await asyncio.sleep(0.5)
        for created_ts_ms in (5, 5, 7):
            on.link.set_own(SimpleNamespace(created_ts_ms=created_ts_ms))
            await asyncio.sleep(0.5)
        on.link.set_own(None)  # gone, and soon sent again
        on.backend.made[0].alive = False
        await asyncio.sleep(5)
        assert on.backend.made[0].told == [("own", 5), ("own", 7)]
        assert on.backend.made[1].told == [("own", 7)]

    playing(scene)


def test_another_track_under_the_same_name_takes_its_place():
    async def scene(on):
        one, other = track(), track()
        on.link.set_tracks([one])
        await asyncio.sleep(1)
        on.link.set_tracks([other])
        await asyncio.sleep(1)
        (connection,) = on.backend.made
        assert connection.told == [
            ("publish", one),
            ("unpublish", one.track_id),
            ("publish", other),
        ]

    playing(scene)


def test_a_focus_is_given_only_what_it_can_carry():
    async def scene(on):
        sound, picture = track(), track(Kind.VIDEO)
        on.link.set_tracks([sound, picture])
        await asyncio.sleep(1)
        (connection,) = on.backend.made
        assert connection.told == [("publish", sound)]
        assert on.seen.down == []

    playing(scene, video=False)


def test_a_focus_that_lets_nobody_in_has_failed_and_is_tried_again():
    async def scene(on):
        await asyncio.sleep(15.2)
        (error,) = on.seen.down
        assert isinstance(error, BackendError)
        assert "15 s" in error.why
        assert error.retryable
        on.backend.delay_s = 0.0
        await asyncio.sleep(2)
        assert on.seen.ups == 1

    playing(scene, delay_s=1000.0)


def test_a_focus_that_lets_us_in_and_drops_us_is_asked_ever_more_rarely():
    async def scene(on):
        async def drop(seconds):
            end_s = asyncio.get_running_loop().time() + seconds
            while asyncio.get_running_loop().time() < end_s:
                for connection in on.backend.made:
                    connection.alive = False
                await asyncio.sleep(0.1)

        await drop(60)
        assert 5 <= len(on.backend.asked_s) <= 12
        await asyncio.sleep(30)  # it stands
        count = len(on.backend.asked_s)
        await drop(3)
        assert len(on.backend.asked_s) > count, "after a steady time it is asked at once"

    playing(scene)


@pytest.mark.parametrize("wait_s", [0.0, 0.05])
def test_a_missing_role_connects_anew_at_once(wait_s):
    async def scene(on):
        on.link.roles = frozenset({Role.SUBSCRIBE})
        await asyncio.sleep(1 + wait_s)
        on.link.require(BOTH)
        await asyncio.sleep(0.2)
        assert len(on.backend.made) == 2
        assert on.seen.down == []

    playing(scene)
