"""The driver of delegated leaves: feeds the jobs, makes their requests, keeps their records.

In: `Delegations`: one clock for all jobs, a queue for each server, a task only for a request under way.
Out: when to do what (`job`), in which order (`lanes`), how it is asked (`delayed_events`) and kept (`store`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from sys import intern
from typing import Any, Protocol

from rtcfoci.core.model import Now
from rtcfoci_livekit_auth.delegation.job import Effect, Finished, Job, Keep, Look, Restart, Send
from rtcfoci_livekit_auth.delegation.lanes import Lane
from rtcfoci_livekit_auth.delegation.model import (
    Answer,
    DelegationRefused,
    DelegationSettings,
    Key,
    Leave,
    NotStored,
    Record,
    ShuttingDown,
    Verdict,
)
from rtcfoci_livekit_auth.delegation.rules import Rules, State
from rtcfoci_livekit_auth.delegation.store import JobStore
from rtcfoci_livekit_auth.room_service import Presence, Sighting
from rtcfoci_livekit_auth.webhooks import ParticipantEvent

__all__ = ["Clock", "Counts", "DelayedEventsApi", "Delegations", "Participants"]

_log = logging.getLogger(__name__)

Request = Look | Restart | Send

LONGEST_DELAY_NS = 2**63 - 1
"""Where the original's arithmetic overflows."""
MOST_BYTES = 4096
"""Of one leave; a Matrix identifier has 255 at most."""
LOOKS_AT_ONCE = 32
CALLS_AT_ONCE = 64
TICK_S = 15.0
"""How often the two clocks are compared at least."""
JUMP_S = 2.0


class Clock(Protocol):
    """Reads both clocks."""

    def now(self) -> Now: ...


class SystemClock:
    """The clocks of this machine."""

    def now(self) -> Now:
        return Now(time.monotonic(), time.time_ns() // 1_000_000)


class Participants(Protocol):
    """Knows who is on the SFU."""

    async def is_there(self, room: str, identity: str) -> Sighting: ...


class DelayedEventsApi(Protocol):
    """Asks homeservers about delayed events."""

    def speaks_for(self, leave: Leave) -> bool: ...

    async def restart(self, leave: Leave) -> Answer: ...

    async def send(self, leave: Leave) -> Answer: ...


@dataclass(slots=True)
class Counts:
    """What has happened since the start, for metrics."""

    added: int = 0
    restored: int = 0
    adopted: int = 0
    """Taken up from a replica that is gone."""
    left: int = 0
    lapsed: int = 0
    replaced: int = 0
    restarts: int = 0
    sends: int = 0
    refusals: int = 0
    """Calls that the homeserver wants later, or that it did not answer."""
    unstored: int = 0
    """Leaves that the store did not take."""


class Delegations:
    """All leaves that we watch over.

    `start` before anything else; `add` and `handle` from then on; `stop` in the end.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        delayed_events: DelayedEventsApi,
        sfus: Participants,
        settings: DelegationSettings,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.counts: Counts = Counts()
        self._store = store
        self._delayed_events = delayed_events
        self._sfus = sfus
        self._settings = settings
        self._rules = Rules(settings)
        self._clock = clock or SystemClock()
        self._chance = chance
        self._jobs: dict[Key, Job] = {}
        self._arriving: dict[Key, int] = {}
        """Keys whose new job is being stored: what becomes of the old one must not be written any more."""
        self._due: list[tuple[float, int, Job]] = []
        self._order = count()
        self._looks: Lane[tuple[Job, Request]] = Lane(at_once=LOOKS_AT_ONCE)
        self._lanes: dict[tuple[str, bool], Lane[tuple[Job, Request]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._turn_s = inf
        self._offset_s = 0.0
        self._stopping = False
        self._settled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._jobs)

    async def start(self) -> None:
        """Take up what an earlier process left; it may be called healthy afterwards.

        :raises rtcfoci.errors.UsageError: the store cannot be used.
        """
        now = self._clock.now()
        self._offset_s = now.ts_ms / 1000 - now.s
        records = await self._store.open(self)
        self._restore(records)
        self.counts.restored = len(self._jobs)

    async def add(self, leave: Leave) -> None:
        """Watch over a leave; it is stored when this returns.

        :raises DelegationRefused: it cannot be watched over.
        :raises NotStored: the store did not take it.
        :raises ShuttingDown: no more are taken.
        """
        if self._stopping:
            raise ShuttingDown
        leave = _checked(leave)
        if 0 < self._settings.most_leaves <= len(self._jobs) and leave.key not in self._jobs:
            raise DelegationRefused("too many leaves are delegated already")
        key = leave.key
        job = Job(self._rules, leave, self._clock.now())
        self._arriving[key] = self._arriving.get(key, 0) + 1
        try:
            await self._store.save(job.record, new=True)
        except OSError:
            self.counts.unstored += 1
            if self._settings.refuse_unstored:
                self._unadd(key)
                raise NotStored from None
            self._store.keep(job.record)
        finally:
            self._arriving[key] -= 1
            if not self._arriving[key]:
                del self._arriving[key]
        now = self._clock.now()
        if (old := self._jobs.get(key)) is not None:
            self._do(old, old.replace(now))
        self.counts.added += 1
        self._jobs[key] = job
        self._do(job, job.timer(now))

    def handle(self, event: ParticipantEvent) -> None:
        """Take an event of the SFU."""
        if self._store.shared:
            self._store.tell(asdict(event))
        self._take(event)

    async def stop(self, *, drain_s: float) -> None:
        """Send what is being sent, for so long; keep the rest for the next process. Idempotent."""
        self._stopping = True
        if any(job.settling for job in self._jobs.values()):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._settled.wait(), drain_s)
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._turn_s = None, -inf
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._store.close()

    # What the store says.

    def adopt(self, records: Sequence[Record]) -> None:
        new = [record for record in records if not self._has(record.leave)]
        self.lost([record.leave.key for record in new])  # What we had there was older.
        self._restore(new)
        self.counts.adopted += len(new)

    def lost(self, keys: Sequence[Key] | None) -> None:
        now = self._clock.now()
        for key in tuple(self._jobs) if keys is None else keys:
            if (job := self._jobs.get(key)) is not None:
                self._do(job, job.replace(now))

    def heard(self, message: dict[str, Any]) -> None:
        try:
            event = ParticipantEvent(**message)
        except TypeError:
            _log.warning("another replica passed on what is no event; do all run the same version?")
            return
        self._take(event)

    def kept_again(self) -> Sequence[Record]:
        return [job.record for key, job in self._jobs.items() if key not in self._arriving]

    # The jobs.

    def _has(self, leave: Leave) -> bool:
        job = self._jobs.get(leave.key)
        return job is not None and job.leave.delay_id == leave.delay_id

    def _restore(self, records: Sequence[Record]) -> None:
        now = self._clock.now()
        for record in records:
            job = Job.restored(self._rules, record, now)
            if job is None:
                self._store.delete(record.leave.key)
                continue
            self._jobs[record.leave.key] = job
            self._do(job, job.timer(now))

    def _unadd(self, key: Key) -> None:
        """The write may have been made although its answer was lost."""
        if (old := self._jobs.get(key)) is not None:
            self._store.keep(old.record)
        else:
            self._store.delete(key)

    def _take(self, event: ParticipantEvent) -> None:
        now = self._clock.now()
        if event.kind == "room_finished":
            if self._settings.rooms_finish:
                for job in [j for j in self._jobs.values() if j.leave.room == event.room]:
                    self._do(job, job.room_finished(now))
        elif (found := self._jobs.get((event.room, event.identity))) is not None:
            if event.kind == "joined":
                effects = found.joined(now, event.sid)
            else:
                effects = found.left(
                    now, sid=event.sid, reason=event.reason, created_ts_ms=event.created_ts_ms
                )
            self._do(found, effects)

    def _do(self, job: Job, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Look():
                    self._looks.put((job, effect))
                case Restart():
                    self._lane(job.leave).put((job, effect), urgent_s=effect.urgent_s)
                case Send():
                    self._lane(job.leave).put((job, effect))
                case Keep():
                    if job.leave.key not in self._arriving:
                        self._store.keep(job.record)
                case Finished():
                    self._drop(job, effect.state)
        self._arm(job)
        self._wake(-inf)
        if self._stopping and not any(job.settling for job in self._jobs.values()):
            self._settled.set()

    def _drop(self, job: Job, state: State) -> None:
        key = job.leave.key
        setattr(self.counts, state.value, getattr(self.counts, state.value) + 1)
        _log.debug("%r is over", job)
        if self._jobs.get(key) is job:
            del self._jobs[key]
            if state is not State.REPLACED and key not in self._arriving:
                self._store.delete(key)

    # The clock of all jobs.

    def _arm(self, job: Job) -> None:
        due_s = job.next_timer_s
        if due_s < job.armed_s:
            job.armed_s = due_s
            heappush(self._due, (due_s, next(self._order), job))
            if len(self._due) > 64 + 2 * len(self._jobs):
                self._compact()

    def _compact(self) -> None:
        """Leave one entry for each job: timers that were brought forward stay behind."""
        armed = [job for job in self._jobs.values() if job.armed_s < inf]
        self._due = [(job.armed_s, next(self._order), job) for job in armed]
        heapify(self._due)

    def _wake(self, at_s: float) -> None:
        """Have the next turn no later than then."""
        if at_s >= self._turn_s:
            return
        self._turn_s = at_s
        if self._timer is not None:
            self._timer.cancel()
        wait_s = max(0.0, at_s - self._clock.now().s)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._turn)

    def _turn(self) -> None:
        """Do what is due, start what may start, and say when to come again."""
        self._timer, self._turn_s = None, -inf  # What happens in here needs no turn of its own.
        next_s = self._clock.now().s + 1.0
        try:
            next_s = self._run_due()
        finally:
            self._turn_s = inf
            if next_s < inf:
                self._wake(next_s)

    def _run_due(self) -> float:
        now = self._clock.now()
        self._compare_clocks(now)
        while self._due and self._due[0][0] <= now.s:
            due_s, _, job = heappop(self._due)
            if due_s == job.armed_s:
                job.armed_s = inf
                self._do(job, job.timer(now))
        ready_s = self._start(self._looks, now.s)
        for name, lane in tuple(self._lanes.items()):
            ready_s = min(ready_s, self._start(lane, now.s))
            if lane.idle(now.s):
                del self._lanes[name]
        if self._due:
            ready_s = min(ready_s, self._due[0][0], now.s + TICK_S)
        return ready_s

    def _compare_clocks(self, now: Now) -> None:
        before_s, self._offset_s = self._offset_s, now.ts_ms / 1000 - now.s
        if abs(self._offset_s - before_s) > JUMP_S:
            # Somebody set the wall clock, or this machine slept, and homeservers went on meanwhile.
            _log.warning("the clock jumped by %.0f s", self._offset_s - before_s)
            for job in tuple(self._jobs.values()):
                self._do(job, job.clock_jumped(now))

    # Requests.

    def _lane(self, leave: Leave) -> Lane[tuple[Job, Request]]:
        as_user = self._delayed_events.speaks_for(leave)
        name = leave.server_name, as_user
        lane = self._lanes.get(name)
        if lane is None:
            per_s = 0.0 if as_user else self._settings.calls_per_s
            lane = self._lanes[name] = Lane(
                at_once=CALLS_AT_ONCE, per_s=per_s, burst=self._settings.calls_burst
            )
        return lane

    def _start(self, lane: Lane[tuple[Job, Request]], now_s: float) -> float:
        while (call := lane.take(now_s)) is not None:
            job, request = call
            if not job.wants(request.id):
                lane.unused()
                continue
            task = asyncio.create_task(self._request(lane, job, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return lane.ready_s(now_s)

    async def _request(self, lane: Lane[tuple[Job, Request]], job: Job, request: Request) -> None:
        try:
            if isinstance(request, Look):
                found, sid = await self._look(job.leave)
                now, chance = self._clock.now(), self._chance()
                self._do(job, job.looked(now, request.id, found, sid=sid, chance=chance))
            else:
                answer = await self._call(job, request)
                now = self._clock.now()
                if answer.retry_after_s is not None and lane.paced:
                    lane.hold(now.s + min(60.0, answer.retry_after_s))
                self._do(job, job.answered(now, request.id, answer, chance=self._chance()))
        finally:
            lane.done()
            self._wake(-inf)

    async def _look(self, leave: Leave) -> tuple[bool | None, str]:
        try:
            async with asyncio.timeout(self._settings.call_timeout_s):
                sighting = await self._sfus.is_there(leave.room, leave.identity)
        except TimeoutError:
            return None, ""
        except Exception as error:  # Whatever it is, it is no answer, and no end of us.
            _log.error("a look-up on the SFU failed: %s", type(error).__name__)
            return None, ""
        if sighting.presence is Presence.UNKNOWN:
            return None, ""
        return sighting.presence is Presence.PRESENT, sighting.sid

    async def _call(self, job: Job, request: Restart | Send) -> Answer:
        try:
            if isinstance(request, Restart):
                self.counts.restarts += 1
                answer = await self._delayed_events.restart(job.leave)
            else:
                if not await self._still_ours(job):
                    self._do(job, job.replace(self._clock.now()))
                if not job.wants(request.id):
                    return Answer(Verdict.LATER)
                self.counts.sends += 1
                answer = await self._delayed_events.send(job.leave)
        except Exception as error:  # As above. Its text may hold the delay id.
            _log.error("a call to a homeserver failed: %s", type(error).__name__)
            answer = Answer(Verdict.LATER)
        self.counts.refusals += answer.verdict is Verdict.LATER
        return answer

    async def _still_ours(self, job: Job) -> bool:
        """Write that the participant is gone, before anybody learns it; false if another has the job."""
        if not self._store.shared:
            return True
        try:
            return await self._store.save(job.record)
        except OSError:
            return True  # Better twice than never: the homeserver sends it once.


def _checked(leave: Leave) -> Leave:
    """Refuse what could not be kept.

    :raises DelegationRefused: saying why.
    """
    if not 0 < leave.delay_ms * 1_000_000 <= LONGEST_DELAY_NS:
        raise DelegationRefused("the delay is out of range")
    texts = (leave.room, leave.identity, leave.delay_id, leave.server_name)
    try:
        size = sum(len(text.encode()) for text in texts)
    except UnicodeEncodeError:
        raise DelegationRefused("the delay id or the identity is no text") from None
    if size > MOST_BYTES:
        raise DelegationRefused("the delay id or the identity is too long")
    return Leave(
        room=leave.room,
        identity=leave.identity,
        delay_id=leave.delay_id,
        delay_ms=leave.delay_ms,
        server_name=intern(leave.server_name),
        user_id=leave.user_id,
    )
