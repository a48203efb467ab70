"""Participants and tracks against hand-made links: who stays, for how long, and as whom."""

import asyncio

from rtcfoci.call import events as ev
from rtcfoci.call.remotes import Remotes
from rtcfoci.core.model import FocusSelection, Member, Membership
from rtcfoci.media.frames import Kind
from rtcfoci.media.tracks import FrameHub, TrackId
from rtcfoci.plugin import events as pe
from rtcfoci.testing import run

LINK = object()


def membership(member_id, device_id="DEV"):
    return Membership(
        member=Member(user_id="@bob:hs", device_id=device_id, member_id=member_id),
        slot_id="m.call#ROOM",
        transports=(),
        can_subscribe=None,
        focus_selection=FocusSelection.OWN,
        application={},
        created_ts_ms=0,
        expires_ts_ms=10**13,
        dialect="D6/D7",
        event_id=f"${member_id}",
        room_id="!room:hs",
    )


def publishing(told, followed, first):
    remotes = Remotes(
        asyncio.get_running_loop(), told.append, lambda: followed.append(1), lambda *_: None
    )
    remotes.joined(first)
    track_id = TrackId(first.member, "microphone", "0")
    remotes.take(LINK, pe.TrackAdded(track_id, FrameHub(Kind.AUDIO)))
    return remotes, track_id


def names(told):
    return [type(event).__name__ for event in told]


def test_another_join_of_a_device_replaces_the_one_that_lingers():
    async def main():
        told = []
        remotes, _ = publishing(told, [], membership("first"))
        remotes.left(membership("first").member, "left", may_linger=True)
        assert list(remotes.lingering) == [membership("first").member]
        remotes.joined(membership("second"))
        assert names(told) == [
            "ParticipantJoined",
            "TrackAdded",
            "TrackRemoved",
            "ParticipantLeft",
            "ParticipantJoined",
        ]
        assert told[3].reason == "replaced"
        assert not remotes.lingering
        await asyncio.sleep(60)
        assert len(remotes.participants) == 1
        remotes.close()

    run(main())


def test_another_device_of_the_user_replaces_nobody():
    async def main():
        told = []
        remotes, _ = publishing(told, [], membership("first"))
        remotes.left(membership("first").member, "left", may_linger=True)
        remotes.joined(membership("second", "OTHER"))
        assert len(remotes.participants) == 2
        remotes.close()

    run(main())


def test_who_comes_back_was_never_away():
    async def main():
        told = []
        remotes, _ = publishing(told, [], membership("first"))
        remotes.left(membership("first").member, "left", may_linger=True)
        await asyncio.sleep(20)
        remotes.joined(membership("first"))
        await asyncio.sleep(60)
        assert names(told) == ["ParticipantJoined", "TrackAdded", "ParticipantChanged"]
        remotes.close()

    run(main())


def test_who_stays_away_is_given_up_when_media_ends_or_patience_does():
    async def main():
        for ends in (True, False):
            told, followed = [], []
            remotes, track_id = publishing(told, followed, membership("first"))
            remotes.left(membership("first").member, "left", may_linger=True)
            await asyncio.sleep(5)
            assert not followed
            if ends:
                remotes.take(LINK, pe.TrackRemoved(track_id))
            await asyncio.sleep(1 if ends else 26)
            assert names(told)[-1] == "ParticipantLeft"
            assert followed
            assert remotes.participants == {}

    run(main())


def test_what_came_early_and_went_is_not_given_to_a_late_member():
    async def main():
        told, other = [], object()
        remotes = Remotes(asyncio.get_running_loop(), told.append, lambda: None, lambda *_: None)
        late = membership("late")
        ids = [TrackId(late.member, "microphone", name) for name in ("kept", "ended", "lost")]
        for track_id, link in zip(ids, (LINK, LINK, other), strict=True):
            remotes.take(link, pe.TrackAdded(track_id, FrameHub(Kind.AUDIO)))
        remotes.take(LINK, pe.TrackRemoved(ids[1]))
        remotes.link_gone(other)
        remotes.joined(late)
        assert list(remotes.participants[late.member].tracks) == [ids[0]]
        remotes.close()

    run(main())


def test_who_was_put_out_leaves_at_once():
    async def main():
        told = []
        remotes, _ = publishing(told, [], membership("first"))
        remotes.left(membership("first").member, "not_in_room", may_linger=False)
        assert isinstance(told[-1], ev.ParticipantLeft)
        assert not remotes.lingering

    run(main())


def test_a_track_whose_frames_have_not_ended_is_waited_for():
    async def main():
        for ended, patience_s in ((False, 30), (True, 1)):
            told = []
            remotes = Remotes(
                asyncio.get_running_loop(), told.append, lambda: None, lambda *_: None
            )
            remotes.joined(membership("one"))
            track_id, hub = (
                TrackId(membership("one").member, "microphone", "0"),
                FrameHub(Kind.AUDIO),
            )
            remotes.take(LINK, pe.TrackAdded(track_id, hub))
            track = told[-1].track
            if ended:
                hub.end()
            remotes.take(LINK, pe.TrackRemoved(track_id))
            await asyncio.sleep(patience_s - 0.5)
            assert not track.ended
            if not ended:  # the rebuilt connection brings it back: the same track
                remotes.take(LINK, pe.TrackAdded(track_id, hub))
                assert track.live
                remotes.take(LINK, pe.TrackRemoved(track_id))
                await asyncio.sleep(patience_s - 0.5)
                assert not track.ended
            await asyncio.sleep(1)
            assert track.ended
            assert names(told) == ["ParticipantJoined", "TrackAdded", "TrackRemoved"]

    run(main())
