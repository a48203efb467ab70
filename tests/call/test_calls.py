"""Calls over the in-memory homeserver and focus, in virtual time."""

import asyncio

import pytest

import rtcfoci
from rtcfoci.core.dialects import OwnMembership
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.model import Member, Transport
from rtcfoci.errors import RtcfociError, UsageError
from rtcfoci.media.frames import Kind
from rtcfoci.plugin import Quality
from rtcfoci.testing import run
from rtcfoci.testing.lobby import Lobby
from rtcfoci.testing.synapse_config import SynapseOptions

TWO_FOCI = (
    {"type": "memory.per_member", "focus": "a"},
    {"type": "memory.per_member", "focus": "b"},
)


def kinds(peer, kind):
    return [event for event in peer.events if isinstance(event, kind)]


async def count_frames(track):
    """Count frames of a track from now on; the list grows."""
    seen = []
    track.consume(lambda frame: seen.append(frame) if frame else None)
    return seen


@pytest.mark.parametrize("topology", ["pairwise", "per_member", "elected", "linked"])
def test_two_hear_each_other_on_every_topology(topology):
    async def main():
        async with Lobby(foci=[f"memory.{topology}"]) as lobby:
            ann = await lobby.peer("ann")
            bob = await lobby.peer("bob")
            await ann.publish(Kind.AUDIO)
            await bob.until(lambda: bob.call.tracks)
            frames = await count_frames(bob.call.tracks[0])
            await bob.until(lambda: len(frames) > 20)
            assert bob.call.tracks[0].track_id.member == ann.call.member
            await ann.leave()
            await bob.until(lambda: not bob.call.participants)
            assert bob.call.tracks == ()

    run(main())


def test_a_killed_focus_moves_the_call_and_nobody_leaves():
    """Two in-memory foci in one call; one is killed; tracks keep their identity."""

    async def main():
        options = SynapseOptions(rtc_transports=TWO_FOCI)
        foci = [("memory.per_member", {"focus": "a"})]
        async with Lobby(foci=foci, options=options) as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await ann.publish(Kind.AUDIO)
            await bob.publish(Kind.VIDEO)
            await ann.until(lambda: ann.call.tracks)
            await bob.until(lambda: bob.call.tracks)
            before = {track: track.track_id for peer in (ann, bob) for track in peer.call.tracks}
            frames = {track: await count_frames(track) for track in before}
            unwanted = await bob.publish(Kind.AUDIO)
            await ann.until(lambda: len(ann.call.tracks) == 2)
            (refused,) = [t for t in ann.call.tracks if t.track_id == unwanted.track_id]
            await ann.call.subscribe(refused, Quality.OFF)
            await asyncio.sleep(0.1)
            seen = await count_frames(refused)
            await ann.until(lambda: all(len(f) > 5 for f in frames.values()))

            lobby.world.kill("a")
            counts = {track: len(f) for track, f in frames.items()}
            await ann.until(lambda: all(len(f) > counts[track] + 20 for track, f in frames.items()))

            tracks = {t: t.track_id for p in (ann, bob) for t in p.call.tracks}
            assert tracks == {**before, refused: unwanted.track_id}
            assert len(seen) < 5, "what was not wanted of the former focus came from the new one"
            for peer in (ann, bob):
                assert kinds(peer, rtcfoci.FocusChanged)
                assert not kinds(peer, rtcfoci.ParticipantLeft)
                assert not kinds(peer, rtcfoci.TrackRemoved)
                assert len(kinds(peer, rtcfoci.TrackAdded)) == len(peer.call.tracks)
                own = peer.call.presence.session.find(
                    peer.call.member.user_id, peer.call.member.device_id
                )
                assert own is not None
                assert own.transports[0].raw["focus"] == "b"
            await asyncio.sleep(30)  # the old connections are let go, and nothing else changes
            assert {link.key for link in ann.call.foci.links} == {"b"}
            assert not kinds(ann, rtcfoci.ParticipantLeft)
            assert ann.call.conditions == ()

    run(main())


def test_a_vanished_member_leaves_by_its_delayed_leave():
    async def main():
        async with Lobby() as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await bob.until(lambda: bob.call.participants)
            await ann.vanish()
            await bob.until(lambda: not bob.call.participants, timeout_s=25)

    run(main())


def test_a_member_on_a_type_that_is_not_accepted_is_named_with_the_remedy():
    async def main():
        async with Lobby() as lobby:
            ann = await lobby.peer("ann")
            bob = await lobby.peer("bob", foci=["memory.pairwise"])
            raw = {"type": "livekit", "livekit_service_url": "https://sfu.example.org"}
            client, _ = await lobby.client("cem")
            own = OwnMembership(
                slot=ann.call.slot,
                member=Member(user_id=client.user_id, device_id=client.device_id, member_id="m"),
                transports=(Transport("livekit", raw),),
            )
            event = D3().join(own)
            await client.send_state(lobby.room_id, event.type, event.state_key, event.content)
            await ann.until(lambda: len(ann.call.conditions) == 2)
            causes = {c.subject.partition("/")[0]: c.cause for c in ann.call.conditions}
            assert causes == {
                bob.call.member.user_id: "memory.pairwise is installed, but not accepted in this call",
                client.user_id: "no installed focus type for livekit (install rtcfoci-livekit)",
            }
            await bob.leave()
            await ann.until(lambda: len(ann.call.conditions) == 1)

    run(main())


def test_data_goes_to_those_it_is_meant_for():
    async def main():
        async with Lobby() as lobby:
            ann, bob, cem = [await lobby.peer(name) for name in ("ann", "bob", "cem")]
            await ann.until(lambda: len(ann.call.participants) == 2)
            await ann.send_data(b"all")
            assert (await bob.next_data()).payload == b"all"
            assert (await cem.next_data()).payload == b"all"
            await ann.call.send_data(b"bob", to=[bob.call.member])
            assert (await bob.next_data()).payload == b"bob"
            with pytest.raises(TimeoutError):
                await cem.next_data(timeout_s=1)

    run(main())


def test_an_application_that_does_not_read_loses_data_and_nothing_else():
    async def main():
        async with Lobby() as lobby:
            ann = await lobby.peer("ann")
            async with lobby.join("deaf") as deaf:
                await ann.until(lambda: ann.call.participants)
                for number in range(1200):
                    await ann.send_data(str(number).encode())
                await ann.publish(Kind.AUDIO)
                await ann.until(lambda: deaf.tracks)
                await asyncio.sleep(1)
                assert deaf.metrics["events_dropped"] > 150
                assert [c.code for c in deaf.conditions] == ["events_dropped"]
                seen = []
                async for event in deaf.events():
                    seen.append(event)
                    if isinstance(event, rtcfoci.ConditionRaised):
                        break
                assert isinstance(seen[0], rtcfoci.ParticipantJoined)
                assert any(isinstance(e, rtcfoci.TrackAdded) for e in seen)

    run(main())


def test_tracks_are_told_apart_and_a_freed_name_is_used_again():
    async def main():
        async with Lobby() as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            first, second = [await ann.publish(Kind.AUDIO) for _ in range(2)]
            await ann.call.unpublish(first)
            third = await ann.publish(Kind.AUDIO)
            assert [t.track_id.name for t in (first, second, third)] == ["0", "1", "0"]
            await bob.until(lambda: len(bob.call.tracks) == 2)
            frames = [await count_frames(track) for track in bob.call.tracks]
            await bob.until(lambda: all(len(f) > 20 for f in frames))
            with pytest.raises(UsageError, match="published already") as caught:
                await ann.publish(Kind.AUDIO, name="0")
            assert caught.value.why
            assert caught.value.do

    run(main())


def test_muting_is_seen_and_nothing_is_sent_meanwhile():
    async def main():
        async with Lobby() as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            track = await ann.publish(Kind.AUDIO)
            await bob.until(lambda: bob.call.tracks)
            frames = await count_frames(bob.call.tracks[0])
            await bob.until(lambda: frames)
            await ann.call.mute(track)
            await bob.until(lambda: bob.call.tracks[0].muted)
            count = len(frames)
            await asyncio.sleep(1)
            assert len(frames) == count
            await ann.call.mute(track, False)
            await bob.until(lambda: len(frames) > count)
            assert len(kinds(bob, rtcfoci.TrackMuted)) == 2

    run(main())


def test_an_outage_of_the_homeserver_costs_no_media_and_no_membership():
    async def main():
        async with Lobby() as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await ann.publish(Kind.AUDIO)
            await bob.until(lambda: bob.call.tracks)
            frames = await count_frames(bob.call.tracks[0])
            with lobby.homeserver.outage():
                await asyncio.sleep(8)
                assert any(c.code == "homeserver_unreachable" for c in bob.call.conditions)
                assert len(frames) > 300
            await asyncio.sleep(20)
            assert bob.call.conditions == ()
            assert not kinds(bob, rtcfoci.ParticipantLeft)

    run(main())


def test_who_was_withdrawn_by_an_outage_stays_while_media_flows():
    """The delayed leaves fire at the homeserver's return; nobody is seen leaving."""

    async def main():
        async with Lobby() as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await ann.publish(Kind.AUDIO)
            await bob.publish(Kind.AUDIO)
            await bob.until(lambda: bob.call.tracks and ann.call.tracks)
            frames = await count_frames(bob.call.tracks[0])
            with lobby.homeserver.outage():
                await asyncio.sleep(40)
            count = len(frames)
            await asyncio.sleep(5)
            assert len(bob.call.presence.session.members) == 2
            assert len(frames) > count + 200
            for peer in (ann, bob):
                assert not kinds(peer, rtcfoci.ParticipantLeft)
                assert not kinds(peer, rtcfoci.TrackRemoved)
                assert peer.call.conditions == ()

    run(main())


def test_leaving_is_idempotent_and_ends_the_events():
    async def main():
        async with Lobby() as lobby:
            ann = await lobby.peer("ann")
            await asyncio.gather(ann.call.leave(), ann.call.leave())
            await ann.call.leave()
            await ann.until(lambda: kinds(ann, rtcfoci.CallEnded))
            with pytest.raises(UsageError, match="over"):
                await ann.call.send_data(b"late")

    run(main())


def test_a_cancelled_join_leaves_nothing_behind():
    async def main():
        async with Lobby() as lobby:
            watcher = await lobby.peer("watcher")
            client, _ = await lobby.client("ann")
            lobby.homeserver.latency_s = 0.2

            async def take_part():
                async with lobby.join_as(client):
                    await asyncio.sleep(60)

            for delay_s in (0.1, 0.5, 0.9, 1.3, 1.7, 2.1, 5.0):
                task = asyncio.create_task(take_part())
                await asyncio.sleep(delay_s)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await watcher.until(lambda: not watcher.call.participants)
            lobby.homeserver.latency_s = 0.0
            await asyncio.sleep(60)
            assert watcher.call.participants == ()
            assert list(await client.list_delayed()) == []

    run(main())


def test_leaving_goes_on_when_waiting_for_it_is_cancelled():
    async def main():
        async with Lobby() as lobby:
            watcher = await lobby.peer("watcher")
            client, _ = await lobby.client("ann")
            calls = []

            async def take_part():
                async with lobby.join_as(client) as call:
                    calls.append(call)
                    await watcher.until(lambda: watcher.call.participants)

            lobby.homeserver.latency_s = 0.5
            task = asyncio.create_task(take_part())
            await watcher.until(lambda: watcher.call.participants)
            for _ in range(3):
                await asyncio.sleep(0.2)
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not calls[0].foci.links
            running = [t.get_name() for t in asyncio.all_tasks()]
            assert running.count("presence") == 1, "more than the watcher's is left"
            await watcher.until(lambda: not watcher.call.participants)

            bob = await lobby.peer("bob")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await bob.call.leave()
            await bob.until(lambda: kinds(bob, rtcfoci.CallEnded))
            await watcher.until(lambda: not watcher.call.participants)

    run(main())


def test_a_join_whose_call_ends_meanwhile_says_why(monkeypatch):
    async def main():
        async with Lobby() as lobby:
            client, _ = await lobby.client("ann")

            async def broken(_):
                await asyncio.sleep(1)
                raise ZeroDivisionError("a bug")
                yield

            monkeypatch.setattr(client, "updates", broken)
            with pytest.raises(RtcfociError, match="failed unexpectedly") as caught:
                async with asyncio.timeout(60), lobby.join_as(client):
                    pass
            assert "a bug" in caught.value.why
            assert caught.value.do

    run(main())


def test_a_backend_that_never_closes_does_not_hold_us_in_the_call(monkeypatch):
    async def main():
        async with Lobby() as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await bob.until(lambda: any(link.up for link in bob.call.foci.links))

            async def never():
                await asyncio.Event().wait()

            for link in bob.call.foci.links:
                monkeypatch.setattr(link.connection, "aclose", never)
                monkeypatch.setattr(link.offer.backend, "aclose", never)
            began_s = lobby.now().s
            await bob.leave()
            assert lobby.now().s - began_s < 20
            await ann.until(lambda: not ann.call.participants)

    run(main())


def test_a_fault_of_our_own_ends_the_call_and_still_withdraws_us(monkeypatch):
    async def main():
        async with Lobby() as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")

            def broken(*_):
                raise ZeroDivisionError("a bug")

            monkeypatch.setattr(bob.call.presence.session, "receive", broken)
            cem = await lobby.peer("cem")
            await bob.until(lambda: kinds(bob, rtcfoci.CallEnded), timeout_s=30)
            assert kinds(bob, rtcfoci.CallEnded)[0].condition.code == "internal_error"
            for peer in (ann, cem):
                await peer.until(lambda peer=peer: len(peer.call.participants) == 1)

    run(main())


@pytest.mark.parametrize(("action", "code"), [("kick", "kicked"), ("ban", "banned")])
def test_being_removed_ends_the_call_with_the_reason(action, code):
    async def main():
        async with Lobby() as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await ann.call.client.request(
                "POST",
                f"/_matrix/client/v3/rooms/{lobby.room_id}/{action}",
                body={"user_id": bob.call.member.user_id, "reason": "noise"},
            )
            await bob.until(lambda: kinds(bob, rtcfoci.CallEnded))
            (ended,) = kinds(bob, rtcfoci.CallEnded)
            assert ended.condition.code == code
            assert "noise" in ended.condition.cause
            await ann.until(lambda: not ann.call.participants)

    run(main())


def test_an_upgraded_room_ends_the_call():
    async def main():
        async with Lobby() as lobby:
            ann, bob = await lobby.peer("ann"), await lobby.peer("bob")
            await ann.call.client.request(
                "POST",
                f"/_matrix/client/v3/rooms/{lobby.room_id}/upgrade",
                body={"new_version": "10"},
            )
            for peer in (ann, bob):
                await peer.until(lambda peer=peer: kinds(peer, rtcfoci.CallEnded), timeout_s=30)
                assert kinds(peer, rtcfoci.CallEnded)[0].condition.code == "room_upgraded"

    run(main())


def test_a_revoked_token_ends_the_call():
    async def main():
        async with Lobby() as lobby:
            ann = await lobby.peer("ann")
            await ann.call.client.request("POST", "/_matrix/client/v3/logout", body={})
            await ann.until(lambda: kinds(ann, rtcfoci.CallEnded), timeout_s=60)
            assert kinds(ann, rtcfoci.CallEnded)[0].condition.code == "token_revoked"

    run(main())
