"""What a running call looks like from outside: who is received, how much, what is not well.

In: counting frames of every remote track, a live table for people, JSON lines for programs.
Out: recording, and running the call (`join`).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

from rtcfoci.call import events as ev
from rtcfoci.cli.figures import figures_json, figures_table
from rtcfoci.cli.options import printable
from rtcfoci.media.frames import AudioFrame

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from rtcfoci.call.call import Call, Participant
    from rtcfoci.call.stats import FocusStats
    from rtcfoci.core.conditions import Condition
    from rtcfoci.media.frames import Frame
    from rtcfoci.media.tracks import RemoteTrack, TrackId

__all__ = ["JsonReporter", "Reporter", "TableReporter", "TrackCounter", "describe"]


class TrackCounter:
    """Counts what arrives on one remote track."""

    def __init__(self, track: RemoteTrack) -> None:
        self.track = track
        self.frames: int = 0
        self.concealed: int = 0
        self.rate_per_s: float = 0.0
        self._last = (time.monotonic(), 0)
        self.last_frame_s: float | None = None
        self.stop: Callable[[], None] = track.consume(self._take)

    def _take(self, frame: Frame | None) -> None:
        if frame is not None:
            self.frames += 1
            self.concealed += isinstance(frame, AudioFrame) and frame.concealed
            self.last_frame_s = time.monotonic()

    def tick(self) -> None:
        """Compute the rate since the last tick."""
        now_s = time.monotonic()
        before_s, frames = self._last
        if now_s > before_s:
            self.rate_per_s = (self.frames - frames) / (now_s - before_s)
        self._last = (now_s, self.frames)

    @property
    def silent_s(self) -> float | None:
        """Seconds since the last frame; None before the first."""
        return None if self.last_frame_s is None else time.monotonic() - self.last_frame_s


class Reporter:
    """Follows a call; subclasses show it.

    :param call: the call to follow.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self.stats: Sequence[FocusStats] = ()
        """The newest figures; whoever drives this asks the call for them."""
        self.counters: dict[TrackId, TrackCounter] = {}

    def on_event(self, event: ev.CallEvent) -> None:
        """Take note of an event."""
        match event:
            case ev.TrackAdded(track):
                self.counters[track.track_id] = TrackCounter(track)
            case ev.TrackRemoved(track):
                counter = self.counters.pop(track.track_id, None)
                if counter is not None:
                    counter.stop()

    def tick(self) -> None:
        """Refresh; once a second."""
        for counter in self.counters.values():
            counter.tick()

    def close(self) -> None:
        """Stop counting."""
        for counter in self.counters.values():
            counter.stop()


class JsonReporter(Reporter):
    """One JSON object a line: every event, and the state once a second."""

    def __init__(self, call: Call, out: TextIO | None = None) -> None:
        super().__init__(call)
        self._out = out or sys.stdout

    def on_event(self, event: ev.CallEvent) -> None:
        super().on_event(event)
        self._print({"event": type(event).__name__, **_fields(event)})

    def tick(self) -> None:
        super().tick()
        self._print(
            {
                "event": "Status",
                "focus": self.call.focus_type,
                "participants": [
                    {
                        "user_id": p.user_id,
                        "device_id": p.device_id,
                        "member_id": p.member.member_id,
                        "trusted": p.trusted,
                        "tracks": [
                            {
                                "source": c.track.track_id.source,
                                "name": c.track.track_id.name,
                                "kind": c.track.kind.value,
                                "frames": c.frames,
                                "rate_per_s": round(c.rate_per_s, 1),
                                "silent_s": None if c.silent_s is None else round(c.silent_s, 2),
                                "muted": c.track.muted,
                            }
                            for c in self.counters.values()
                            if c.track.track_id.member == p.member
                        ],
                    }
                    for p in self.call.participants
                ],
                "stats": figures_json(self.stats),
                "conditions": [_condition(c) for c in self.call.conditions],
            }
        )

    def _print(self, record: dict[str, object]) -> None:
        stamped = {"ts_ms": time.time_ns() // 1_000_000, **record}
        # As ASCII: a stranger's lone surrogate could not be written otherwise.
        self._out.write(json.dumps(stamped) + "\n")
        self._out.flush()


class TableReporter(Reporter):
    """A live table on a terminal; plain lines for each event where there is none."""

    def __init__(self, call: Call) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(call)
        self._console = Console()
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(self._table(), console=self._console, auto_refresh=False)
            self._live.start()

    def on_event(self, event: ev.CallEvent) -> None:
        from rich.text import Text

        super().on_event(event)
        line = describe(event)
        if line:
            self._console.print(Text(f"{time.strftime('%H:%M:%S')} {printable(line)}"))

    def tick(self) -> None:
        super().tick()
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def close(self) -> None:
        super().close()
        if self._live is not None:
            self._live.stop()

    def _table(self) -> Group:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table()
        for heading in ("participant", "track", "frames", "per second", "last"):
            words = heading in ("participant", "track")
            table.add_column(
                heading, justify="left" if words else "right", no_wrap=True, overflow="ellipsis"
            )
        for participant in self.call.participants:
            mine = [
                c for c in self.counters.values() if c.track.track_id.member == participant.member
            ]
            if not mine:
                table.add_row(_named(participant), Text("nothing yet", style="dim"), "", "", "")
            for counter in mine:
                silent_s = counter.silent_s
                muted = " (muted)" if counter.track.muted else ""
                table.add_row(
                    _named(participant),
                    Text(printable(counter.track.track_id.source) + muted),
                    str(counter.frames),
                    f"{counter.rate_per_s:.0f}",
                    "never" if silent_s is None else f"{silent_s:.1f} s ago",
                )
        if not self.call.participants:
            table.add_row("nobody else yet", "", "", "", "")
        title = Text(printable(f"{self.call.slot.slot_id} in {self.call.room_id}"), style="bold")
        health = [
            Text(
                printable(f"{c.code}: {c.what} {c.remedy}"), style="red" if c.terminal else "yellow"
            )
            for c in self.call.conditions
        ]
        figures = figures_table(self.stats, self._console.width)
        return Group(title, table, *([figures] if figures else []), *health)


def _named(participant: Participant) -> Text:
    from rich.text import Text

    signed = " (cross-signed)" if participant.trusted else ""
    return Text(printable(str(participant.member)) + signed)


def describe(event: ev.CallEvent) -> str:
    """Say an event in words; empty for those that are too many to print."""
    match event:
        case ev.ParticipantJoined(participant):
            return f"{participant.member} joined"
        case ev.ParticipantLeft(participant, reason):
            return f"{participant.member} left ({reason})"
        case ev.TrackAdded(track):
            return f"{track.track_id.member} publishes {track.track_id.source}"
        case ev.TrackRemoved(track):
            return f"{track.track_id.member} no longer publishes {track.track_id.source}"
        case ev.TrackMuted(track):
            return f"{track.track_id.member} {'muted' if track.muted else 'unmuted'} " + (
                track.track_id.source
            )
        case ev.FocusChanged(focus_type, reason):
            return f"we publish on {focus_type} now: {reason}"
        case ev.ConditionRaised(condition):
            return f"{condition.code}: {condition.what} {condition.cause}. {condition.remedy}"
        case ev.ConditionCleared(condition):
            return f"{condition.code} is over"
        case ev.CallDeclined(user_id, _):
            return f"{user_id} declined our call"
        case ev.CallEnded(condition):
            return f"the call is over{': ' + condition.what if condition else ''}"
    return ""


def _fields(event: ev.CallEvent) -> dict[str, object]:
    match event:
        case ev.ParticipantJoined(p) | ev.ParticipantChanged(p):
            return _member(p.member.user_id, p.device_id, p.member.member_id)
        case ev.ParticipantLeft(p, reason):
            return {**_member(p.user_id, p.device_id, p.member.member_id), "reason": reason}
        case ev.TrackAdded(track) | ev.TrackRemoved(track) | ev.TrackMuted(track):
            member = track.track_id.member
            return {
                **_member(member.user_id, member.device_id, member.member_id),
                "source": track.track_id.source,
                "name": track.track_id.name,
                "kind": track.kind.value,
                "muted": track.muted,
            }
        case ev.DataReceived(member, payload, topic, reliable):
            return {
                **_member(member.user_id, member.device_id, member.member_id),
                "topic": topic,
                "reliable": reliable,
                "size": len(payload),
            }
        case ev.SpeakingChanged(member, level):
            return {
                **_member(member.user_id, member.device_id, member.member_id),
                "level": round(level, 2),
            }
        case ev.FocusChanged(focus_type, reason):
            return {"focus": focus_type, "reason": reason}
        case ev.ConditionRaised(condition) | ev.ConditionCleared(condition):
            return _condition(condition)
        case ev.CallDeclined(user_id, event_id):
            return {"user_id": user_id, "event_id": event_id}
        case ev.CallEnded(condition):
            return _condition(condition) if condition else {}
    return {}


def _member(user_id: str, device_id: str | None, member_id: str) -> dict[str, object]:
    return {"user_id": user_id, "device_id": device_id, "member_id": member_id}


def _condition(condition: Condition) -> dict[str, object]:
    return {
        "code": condition.code,
        "subject": condition.subject,
        "what": condition.what,
        "cause": condition.cause,
        "remedy": condition.remedy,
        "terminal": condition.terminal,
    }
