"""A job of one delegated leave, played step by step.

In: making one, giving it what happens, and what it then wants. Out: what it should want.
"""

from rtcfoci_livekit_auth.delegation.job import Job, Look, Restart, Send
from rtcfoci_livekit_auth.delegation.model import (
    Answer,
    DelegationSettings,
    Leave,
    Verdict,
)
from rtcfoci_livekit_auth.delegation.rules import Rules

from rtcfoci.core.model import Now

EPOCH_MS = 1_800_000_000_000
ORIGINAL = DelegationSettings()
CAREFUL = DelegationSettings.careful(sanity_interval_s=0)
DONE, MISSING, LATER = (Answer(v) for v in (Verdict.DONE, Verdict.MISSING, Verdict.LATER))


def leave_of(delay_s=100.0):
    return Leave(
        room="alias",
        identity="@a:example.org:DEV",
        delay_id="syd_secret",
        delay_ms=int(delay_s * 1000),
        server_name="example.org",
    )


class Play:
    """One job, its clock, and what it asked for last."""

    def __init__(self, settings=ORIGINAL, *, delay_s=100.0, record=None, wall_ahead_s=0.0):
        self.s, self.wall_ahead_s = 1000.0, wall_ahead_s
        rules = Rules(settings)
        if record is None:
            self.job = Job(rules, leave_of(delay_s), self.now)
        else:
            self.job = Job.restored(rules, record, self.now)
        self.effects = ()
        if self.job:
            self.take(self.job.timer(self.now))

    @property
    def now(self):
        return Now(self.s, EPOCH_MS + int((self.s - 1000 + self.wall_ahead_s) * 1000))

    @property
    def kinds(self):
        return [type(effect) for effect in self.effects]

    @property
    def state(self):
        return self.job.state

    def take(self, effects):
        self.effects = effects
        for effect in effects:
            if isinstance(effect, Look):
                self.look = effect
            elif isinstance(effect, (Restart, Send)):
                self.call = effect

    def joined(self, sid="PA_1"):
        self.take(self.job.joined(self.now, sid))

    def left(self, reason="CLIENT_INITIATED", sid="PA_1", **more):
        self.take(self.job.left(self.now, sid=sid, reason=reason, **more))

    def looked(self, found, sid=""):
        self.take(self.job.looked(self.now, self.look.id, found, sid=sid))

    def answered(self, answer):
        self.take(self.job.answered(self.now, self.call.id, answer))

    def to(self, s):
        """Let time pass, doing what is due on the way."""
        end_s, seen = 1000.0 + s, []
        while self.job.next_timer_s <= end_s:
            self.s = max(self.s, self.job.next_timer_s)
            self.take(self.job.timer(self.now))
            seen += self.effects
        self.s = end_s
        self.effects = tuple(seen)

    def connect(self):
        self.joined()
        self.answered(DONE)
        return self
