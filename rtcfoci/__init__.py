"""rtcfoci: the pluggable MatrixRTC stack for Python.

An echo bot::

    async with rtcfoci.join(client, "#team:example.org", foci=["mesh"]) as call:
        async for event in call.events():
            if isinstance(event, rtcfoci.DataReceived):
                await call.send_data(event.payload, to=[event.member])

Every name is loaded on first use (PEP 562): importing this package loads no media, Matrix or plugin
library and scans no entry points.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rtcfoci.call.call import Call, Participant
    from rtcfoci.call.events import (
        CallDeclined,
        CallEnded,
        CallEvent,
        ConditionCleared,
        ConditionRaised,
        DataReceived,
        FocusChanged,
        ParticipantChanged,
        ParticipantJoined,
        ParticipantLeft,
        SpeakingChanged,
        TrackAdded,
        TrackMuted,
        TrackRemoved,
    )
    from rtcfoci.call.join import join
    from rtcfoci.call.prometheus import PrometheusExporter
    from rtcfoci.call.ringing import decline, listen
    from rtcfoci.call.stats import FocusStats
    from rtcfoci.call.trust import TrustPolicy
    from rtcfoci.core.conditions import Condition
    from rtcfoci.core.model import Member, Membership, Slot, Transport
    from rtcfoci.core.notifications import (
        Notification,
        NotificationDeclined,
        NotificationEnd,
        NotificationEnded,
        NotificationIgnored,
        NotificationStarted,
    )
    from rtcfoci.errors import RtcfociError
    from rtcfoci.matrix.connect import connect
    from rtcfoci.media.frames import AudioFrame, Kind, VideoFrame
    from rtcfoci.media.tracks import FrameHub, LocalTrack, RemoteTrack, TrackId
    from rtcfoci.plugin.stats import PairStats, PathStats

__all__ = [
    "AudioFrame",
    "Call",
    "CallDeclined",
    "CallEnded",
    "CallEvent",
    "Condition",
    "ConditionCleared",
    "ConditionRaised",
    "DataReceived",
    "FocusChanged",
    "FocusStats",
    "FrameHub",
    "Kind",
    "LocalTrack",
    "Member",
    "Membership",
    "Notification",
    "NotificationDeclined",
    "NotificationEnd",
    "NotificationEnded",
    "NotificationIgnored",
    "NotificationStarted",
    "PairStats",
    "Participant",
    "ParticipantChanged",
    "ParticipantJoined",
    "ParticipantLeft",
    "PathStats",
    "PrometheusExporter",
    "RemoteTrack",
    "RtcfociError",
    "Slot",
    "SpeakingChanged",
    "TrackAdded",
    "TrackId",
    "TrackMuted",
    "TrackRemoved",
    "Transport",
    "TrustPolicy",
    "VideoFrame",
    "connect",
    "decline",
    "join",
    "listen",
]

_HOMES = {
    "rtcfoci.call.call": ("Call", "Participant"),
    "rtcfoci.call.events": (
        "CallDeclined",
        "CallEnded",
        "CallEvent",
        "ConditionCleared",
        "ConditionRaised",
        "DataReceived",
        "FocusChanged",
        "ParticipantChanged",
        "ParticipantJoined",
        "ParticipantLeft",
        "SpeakingChanged",
        "TrackAdded",
        "TrackMuted",
        "TrackRemoved",
    ),
    "rtcfoci.call.join": ("join",),
    "rtcfoci.call.prometheus": ("PrometheusExporter",),
    "rtcfoci.call.ringing": ("decline", "listen"),
    "rtcfoci.call.stats": ("FocusStats",),
    "rtcfoci.call.trust": ("TrustPolicy",),
    "rtcfoci.core.conditions": ("Condition",),
    "rtcfoci.core.model": ("Member", "Membership", "Slot", "Transport"),
    "rtcfoci.core.notifications": (
        "Notification",
        "NotificationDeclined",
        "NotificationEnd",
        "NotificationEnded",
        "NotificationIgnored",
        "NotificationStarted",
    ),
    "rtcfoci.errors": ("RtcfociError",),
    "rtcfoci.matrix.connect": ("connect",),
    "rtcfoci.media.frames": ("AudioFrame", "Kind", "VideoFrame"),
    "rtcfoci.media.tracks": ("FrameHub", "LocalTrack", "RemoteTrack", "TrackId"),
    "rtcfoci.plugin.stats": ("PairStats", "PathStats"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value
