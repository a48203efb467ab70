"""Who fits: the longest beginning of the order, the same for everybody, and nobody is put out for it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshes import CONFIG, FakeContext, Station, Wire, member, membership, stations, until
from rtcfoci_mesh.backend import MeshBackend
from rtcfoci_mesh.roster import Seat, read_seat, seated

from rtcfoci.core.model import Member, Membership, Transport
from rtcfoci.media.frames import Kind
from rtcfoci.plugin import ConditionCleared, ConditionRaised, TrackRemoved


def seat(number: int, *, video: bool = False, at_ms: int | None = None) -> Seat:
    return Seat(member(f"u{number:02}"), number if at_ms is None else at_ms, video)


def fits(seats: list[Seat], max_video: int = 8, max_audio: int = 16) -> list[bool]:
    """For each in the order of joining, whether it fits."""
    taken = seated(seats, max_video=max_video, max_audio=max_audio)
    return [s.member in taken for s in sorted(seats, key=lambda s: s.order)]


def test_sixteen_with_sound_or_eight_with_a_picture_among_them() -> None:
    sound = [seat(n) for n in range(20)]
    assert fits(sound) == [True] * 16 + [False] * 4
    for first in range(8):
        shown = [replace(s, video=s.joined_ts_ms == first) for s in sound]
        assert fits(shown) == [True] * 8 + [False] * 12


def test_a_picture_that_comes_ninth_or_later_ends_the_mesh_and_those_behind_it_do_not_pass() -> (
    None
):
    for first in range(8, 20):
        shown = [seat(n, video=n == first) for n in range(20)]
        assert fits(shown) == [n < min(first, 16) for n in range(20)]


def test_who_leaves_lets_the_next_move_up_in_order() -> None:
    seats = [seat(n, video=n == 9) for n in range(12)]
    assert fits(seats) == [True] * 9 + [False] * 3
    del seats[0]  # eight with sound, then the picture
    assert fits(seats) == [True] * 8 + [False] * 3
    del seats[0]
    assert fits(seats) == [True] * 8 + [False] * 2
    assert fits([s for s in seats if not s.video]) == [True] * 9


seats_of_all = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=24).map(
    lambda said: [seat(n, at_ms=at, video=video) for n, (at, video) in enumerate(said)]
)


@given(seats_of_all, st.integers(2, 9), st.integers(2, 18), st.randoms())
def test_it_is_the_longest_beginning_whatever_order_the_news_came_in(
    seats: list[Seat], max_video: int, max_audio: int, random: object
) -> None:
    ordered = sorted(seats, key=lambda s: s.order)
    shuffled = list(seats)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    taken = seated(shuffled, max_video=max_video, max_audio=max_audio)

    def allowed(length: int) -> bool:
        video = any(s.video for s in ordered[:length])
        return length <= max_video or (length <= max_audio and not video)

    longest = max(n for n in range(len(seats) + 1) if allowed(n))
    assert taken == {s.member for s in ordered[:longest]}


@given(seats_of_all, st.data())
def test_who_leaves_puts_nobody_out_that_fits(seats: list[Seat], data: st.DataObject) -> None:
    before = seated(seats, max_video=3, max_audio=6)
    gone = data.draw(st.sampled_from(seats))
    after = seated([s for s in seats if s is not gone], max_video=3, max_audio=6)
    assert before - {gone.member} <= after


def test_a_claim_to_the_future_is_cut_to_the_time_of_the_event() -> None:
    late = replace(membership(member("eve"), joined_ts_ms=10**15), created_ts_ms=5000)
    assert read_seat(late, ["rtcfoci.mesh"]).joined_ts_ms == 5000
    raw = {"type": "mesh", "joined_ts_ms": True, "video": "x"}
    odd = replace(late, transports=(Transport("mesh", raw),))
    assert read_seat(odd, ["mesh"]) == Seat(odd.member, 5000, video=True)
    assert read_seat(late, ["rtcfoci.mesh"]).claimed_ts_ms == 10**15


async def test_what_is_announced_stays_as_it_was_at_the_join() -> None:
    """So that who reads it later comes to the answer of those who read it then."""
    context = FakeContext(member("alice"), Wire())
    context.announced = frozenset((Kind.AUDIO,))
    backend = MeshBackend(context, CONFIG)
    (before,) = await backend.local_transports(())
    context.announced = frozenset(Kind)  # a camera went on
    assert await backend.local_transports(()) == (before,)
    assert before.raw["video"] is False


# In a call


def full(station: Station) -> set[str]:
    """Of whom a participant says now that they do not fit."""
    held: set[str] = set()
    for event in station.events:
        if isinstance(event, ConditionRaised) and event.code == "mesh_full":
            assert event.what
            assert event.cause
            assert event.remedy
            held.add(event.subject)
        elif isinstance(event, ConditionCleared) and event.code == "mesh_full":
            held.discard(event.subject)
    return held


def video_is(shown: Membership, value: bool) -> Membership:
    raw = {**shown.transports[0].raw, "video": value}
    return replace(shown, transports=(Transport("rtcfoci.mesh", raw),))


async def everybody_meets(all_: list[Station], joined: dict[Member, Membership]) -> None:
    for one in all_:
        await one.connection.set_own(joined[one.member])
    await asyncio.gather(
        *(
            one.connection.set_members([joined[o.member] for o in all_ if o is not one], [], [])
            for one in all_
        )
    )


async def test_who_does_not_fit_is_named_by_all_and_moves_up_when_somebody_leaves() -> None:
    config = CONFIG.model_copy(update={"max_video_members": 2})
    async with stations("alice", "bob", "carol", config=config) as all_:
        alice, bob, carol = all_
        joined = {s.member: membership(s.member, joined_ts_ms=n) for n, s in enumerate(all_)}
        await everybody_meets(all_, joined)
        await until(lambda: alice.reaches() and bob.reaches())
        for one in all_:
            await until(lambda one=one: full(one) == {str(carol.member)})
        assert not carol.connection._peers

        await alice.connection.aclose()
        for one in (bob, carol):
            await one.connection.set_members([], [], [joined[alice.member]])
        await until(lambda: bob.reaches() and carol.reaches())
        assert not full(bob)
        assert not full(carol)


async def test_a_camera_that_goes_on_puts_nobody_out() -> None:
    """Not even where a member rewrites what it announced, which ours never does."""
    config = CONFIG.model_copy(update={"max_video_members": 2, "max_audio_members": 4})
    async with stations("alice", "bob", "carol", config=config) as all_:
        alice, bob, carol = all_
        joined = {s.member: membership(s.member, n, video=False) for n, s in enumerate(all_)}
        await everybody_meets(all_, joined)
        for one in all_:
            await until(one.reaches)
        track = await alice.publish("camera", Kind.VIDEO)
        changed = video_is(joined[alice.member], True)
        await asyncio.gather(
            alice.connection.set_own(changed),
            bob.connection.set_members([], [changed], []),
            carol.connection.set_members([], [changed], []),
        )
        await until(lambda: carol.frames[track.track_id] > 3)
        for one in all_:
            assert one.reaches()
            assert len(one.connection._peers) == 2
            assert not one.saw(TrackRemoved)
            assert not full(one)


async def test_where_our_clock_is_ahead_we_take_the_place_that_the_others_give_us() -> None:
    config = CONFIG.model_copy(update={"max_video_members": 2})
    async with stations("alice", "bob", "carol", config=config) as all_:
        alice, bob, carol = all_
        # Alice came second, and claims to have come last; the homeserver's time puts that right.
        ahead = replace(membership(alice.member, joined_ts_ms=9_000_000), created_ts_ms=2)
        shown = (membership(bob.member, 1), ahead, membership(carol.member, 3))
        joined = {m.member: m for m in shown}
        await everybody_meets(all_, joined)
        await until(lambda: alice.reaches() and bob.reaches())
        for one in all_:
            await until(lambda one=one: full(one) == {str(carol.member)})


async def test_a_pair_without_a_place_stops_trying_when_it_was_apart_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Maybe the connection stood on one side alone, and the other has dropped us at once."""
    monkeypatch.setattr("rtcfoci_mesh.peer._APART_S", 0.3)
    config = CONFIG.model_copy(update={"max_video_members": 2})
    async with stations("alice", "bob", "carol", config=config) as all_:
        alice, bob, carol = all_
        joined = {s.member: membership(s.member, joined_ts_ms=n) for n, s in enumerate(all_)}
        both = {s.member: joined[s.member] for s in (alice, bob)}
        await everybody_meets([alice, bob], both)
        await until(lambda: alice.reaches() and bob.reaches())
        first = replace(membership(carol.member, joined_ts_ms=0), created_ts_ms=0)
        await alice.connection.set_own(joined[alice.member])
        await alice.connection.set_members([], [membership(bob.member, 9)], [])
        await alice.connection.set_members([first], [], [])
        assert bob.member in alice.connection._peers
        assert full(alice) == set()
        await bob.connection.set_members([], [], [joined[alice.member]])
        await until(lambda: full(alice) == {str(bob.member)})
        assert bob.member not in alice.connection._peers
