"""How an app sees the types: checked by mypy, never run."""

from typing import assert_never, assert_type

import rtcfoci


async def bot(homeserver: str, token: str) -> None:
    client = await rtcfoci.connect(homeserver, token=token)
    focus = ("mesh", {"loopback": True})
    async with rtcfoci.join(client, "#team:example.org", foci=["livekit", focus]) as call:
        assert_type(call, rtcfoci.Call)
        assert_type(call.participants, tuple[rtcfoci.Participant, ...])
        assert_type(call.conditions, tuple[rtcfoci.Condition, ...])
        hub = rtcfoci.FrameHub(rtcfoci.Kind.AUDIO)
        track = await call.publish(hub, source="microphone")
        assert_type(track, rtcfoci.LocalTrack)
        await call.mute(track)
        for measured in await call.stats():
            assert_type(measured, rtcfoci.FocusStats)
            for pair in measured.pairs:
                assert_type(pair, rtcfoci.PairStats)
                assert_type(pair.path, rtcfoci.PathStats | None)
                assert_type(pair.member, rtcfoci.Member | None)
                assert_type(pair.rtt_ms, float | None)
        async for event in call.events():
            assert_type(event, rtcfoci.CallEvent)
            await handle(call, event)


async def handle(call: rtcfoci.Call, event: rtcfoci.CallEvent) -> None:
    match event:
        case rtcfoci.DataReceived(member, payload):
            assert_type(payload, bytes)
            await call.send_data(payload, to=[member], reliable=False)
        case rtcfoci.TrackAdded(track) | rtcfoci.TrackRemoved(track) | rtcfoci.TrackMuted(track):
            assert_type(track, rtcfoci.RemoteTrack)
            await listen(track)
        case (
            rtcfoci.ParticipantJoined(participant)
            | rtcfoci.ParticipantChanged(participant)
            | rtcfoci.ParticipantLeft(participant)
        ):
            assert_type(participant.device_id, str | None)
        case rtcfoci.ConditionRaised(condition) | rtcfoci.ConditionCleared(condition):
            assert_type(condition.remedy, str)
        case rtcfoci.CallDeclined(user_id):
            assert_type(user_id, str)
        case rtcfoci.CallEnded(last):
            assert_type(last, rtcfoci.Condition | None)
        case rtcfoci.SpeakingChanged() | rtcfoci.FocusChanged():
            pass
        case _:
            assert_never(event)


async def listen(track: rtcfoci.RemoteTrack) -> None:
    async with track.frames(sample_rate=16_000, channels=1) as frames:
        async for frame in frames:
            if isinstance(frame, rtcfoci.AudioFrame):
                assert_type(frame.pcm, bytes)
            else:
                assert_type(frame, rtcfoci.VideoFrame)


async def refused(call: rtcfoci.Call) -> None:
    rtcfoci.join(call.client, "!room", foci=[3])  # type: ignore[list-item]
    await call.send_data("text")  # type: ignore[arg-type]
