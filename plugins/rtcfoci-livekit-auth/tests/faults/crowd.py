"""A crowd that joins, reconnects and leaves while everything around it fails, and what it then complains of.

In: `Person`, who does what a client and LiveKit do together; `Crowd`, which keeps so many of them alive and
judges their leaves. Out: what fails when (`test_faults`).

Everybody plans from a random number of their own, drawn from one seed. A leave is early when it ends while
its person is in the call, missing when it has not ended in time, and doubled when it was sent twice though
nothing failed between.
"""

import asyncio
import random
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, pairwise
from math import inf

import aiohttp
from asking import DELEGATE, Member

DELAY_S = 60.0
DUE_S = 12.0
"""How long before the end of a delay its restart is due."""
NO_SHOW_S = 8.0
"""The delay of those who delegate their leave and never come."""
RETRY_S = 0.2
"""How often a client, or LiveKit with its webhooks, tries again."""
GIVE_UP_S = 30.0
"""When LiveKit drops a webhook."""
STALL_S = 0.5
SLACK_S = 6.0
"""Trouble for so long, in the time that a restart has, is no fault of the service."""
BREAKS = ("DUPLICATE_IDENTITY", "SIGNAL_CLOSE", "MIGRATION", "CLIENT_INITIATED")
ENDS = ("CLIENT_INITIATED", "CLIENT_INITIATED", "SIGNAL_CLOSE", "PARTICIPANT_REMOVED")


@dataclass
class Trouble:
    """When something failed: kills as moments, all else as spans."""

    kills_s: list = field(default_factory=list)
    spans_s: list = field(default_factory=list)

    @contextmanager
    def span(self):
        """Note that something fails in here."""
        span = [time.monotonic(), inf]
        self.spans_s.append(span)
        yield
        span[1] = time.monotonic()

    async def watch_the_machine(self):
        """Note when the machine had no time for us: then it had none for the service either."""
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(STALL_S / 2)
            if time.monotonic() - before_s > STALL_S:
                self.spans_s.append([before_s, time.monotonic()])

    def within(self, from_s, to_s):
        """Give for how long something was failing in a span."""
        return sum(max(0.0, min(end, to_s) - max(start, from_s)) for start, end in self.spans_s)

    def between(self, from_s, to_s):
        """Tell whether anything failed in a span, or shortly before."""
        killed = any(from_s - 1 <= at <= to_s for at in self.kills_s)
        return killed or self.within(from_s - DUE_S, to_s) > 0


class Person:
    """One participant and their delayed leave."""

    def __init__(self, crowd, number, *, stays_s):
        self.crowd = crowd
        self.random = random.Random(f"{crowd.seed}-{number}")
        self.stays_s = stays_s
        self.member = Member(homeserver=crowd.homeserver)
        self.identity = self.member.identity(DELEGATE)
        self.comes = self.random.random() > 0.05
        delay_s = DELAY_S if self.comes else NO_SHOW_S
        self.leave = crowd.homeserver.schedule(int(delay_s * 1000))
        self.delegated_s = inf
        self.left_s = None
        self.sid = ""
        self.history = []
        """What happened when, to explain a complaint."""

    def note(self, what):
        self.history.append((time.monotonic(), what))

    async def live(self):
        await self.try_until(self._delegate)
        self.delegated_s = time.monotonic()
        self.note("delegated")
        self.crowd.delegated += 1
        if self.crowd.delegated == self.crowd.size:
            self.crowd.full.set()
        if not self.comes:
            self.left_s = time.monotonic()
            return
        await asyncio.sleep(self.random.uniform(0.0, 1.0))
        await self._enter()
        until_s = time.monotonic() + self.stays_s
        for _ in range(self.random.choice((0, 0, 1, 2))):
            await asyncio.sleep(self.random.uniform(0.5, 6.0))
            if time.monotonic() < until_s and not self.crowd.closing.is_set():
                await self._reconnect()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.crowd.closing.wait(), max(0.0, until_s - time.monotonic()))
        self.left_s = time.monotonic()
        self.crowd.sfu.leave(self.member.alias, self.identity)
        await self._hook("participant_left", self.random.choice(ENDS))

    async def _delegate(self):
        return await self.crowd.post(DELEGATE, self.member.body(DELEGATE, self.leave))

    async def _enter(self, *, sure=False):
        self.sid = self.crowd.sfu.join(self.member.alias, self.identity)
        self.note("in")
        await self._hook("participant_joined", sure=sure)

    async def _reconnect(self):
        old, reason = self.sid, self.random.choice(BREAKS)
        self.crowd.sfu.leave(self.member.alias, self.identity)
        self.note(reason)
        hook = asyncio.create_task(self._hook("participant_left", reason, sid=old, sure=True))
        await asyncio.sleep(self.random.uniform(0.0, 0.5))
        await self._enter(sure=True)
        await hook

    async def _hook(self, event, reason=None, sid="", *, sure=False):
        # Who is told of an end and not of the return cannot know better.
        if not sure and self.random.random() < 0.1:
            self.note(f"{event} dropped")
            return  # The service has to notice by itself.
        hook = self.crowd.sfu.webhook(
            event, self.member.alias, self.identity, reason=reason, sid=sid or self.sid
        )

        async def send():
            body = hook.body()
            return await self.crowd.post(
                "/sfu_webhook",
                body,
                headers={"Authorization": hook.authorization(body)},
            )

        await self.try_until(send)
        self.note(f"{event} told")

    async def try_until(self, request):
        end_s = time.monotonic() + GIVE_UP_S
        while time.monotonic() < end_s:
            try:
                if await request() == 200:
                    return
            except (aiohttp.ClientError, OSError):
                pass
            await asyncio.sleep(RETRY_S)

    # Afterwards.

    def story(self):
        calls = [(call.at_s, f"{call.action} {call.status}") for call in self.leave.calls.all()]
        end = [(self.leave.ended_at_s or inf, f"ended by {self.leave.ended_by}")]
        told = sorted([*self.history, *calls, *end])
        return ", ".join(f"{at_s - told[0][0]:.2f} {what}" for at_s, what in told)

    def complaint(self, trouble):
        leave = self.leave
        if leave.ended_at_s is None:
            return "its leave never came"
        if leave.ended_by == "cancel":
            return "its leave was cancelled"
        if leave.ended_at_s < self.delegated_s:
            return None  # Nobody watched over it yet.
        if self.left_s is None or leave.ended_at_s < self.left_s:
            excused = trouble.within(leave.ended_at_s - DUE_S, leave.ended_at_s) > SLACK_S
            if leave.ended_by == "send" or not excused:
                return f"its leave came early, by {leave.ended_by}"
            self.crowd.excused.append(f"early: {self.story()}")
            return None
        if leave.ended_by == "timer" and self.comes:
            if not trouble.between(self.left_s, leave.ended_at_s):
                return "its leave was left to the homeserver"
            self.crowd.excused.append(f"by the homeserver: {self.story()}")
        sends = leave.sends.all()
        for before, again in pairwise(sends):
            if not trouble.between(before.at_s, again.at_s):
                return f"its leave was sent again after {again.at_s - before.at_s:.1f} s"
        return None


class Crowd:
    """So many people at any time.

    :param urls: of the replicas of the service.
    """

    def __init__(self, homeserver, sfu, urls, trouble, *, seed, size):
        self.homeserver, self.sfu, self.urls, self.trouble = homeserver, sfu, urls, trouble
        self.seed, self.size = seed, size
        self.random = random.Random(f"{seed}-crowd")
        self.full, self.closing = asyncio.Event(), asyncio.Event()
        self.people, self.tasks = [], set()
        self.delegated = 0
        self.excused = []
        self._numbers = count()

    async def __aenter__(self):
        self.session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=10), connector=aiohttp.TCPConnector(limit=64)
        )
        self.watching = asyncio.create_task(self.trouble.watch_the_machine())
        for _ in range(self.size):
            self._come()
        return self

    async def __aexit__(self, *exc):
        self.closing.set()
        tasks = [*self.tasks, self.watching]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.session.close()

    def _come(self):
        # Half of them stay long enough for restarts, the others make for coming and going.
        stays_s = self.random.choice((600.0, self.random.uniform(1.0, 12.0)))
        person = Person(self, next(self._numbers), stays_s=stays_s)
        self.people.append(person)
        task = asyncio.create_task(person.live())
        self.tasks.add(task)
        task.add_done_callback(self._gone)

    def _gone(self, task):
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
        if not self.closing.is_set():
            self._come()

    async def post(self, path, body, headers=None):
        url = self.random.choice(self.urls) + path
        how = {"data": body} if isinstance(body, bytes) else {"json": body}
        async with self.session.post(url, headers=headers, **how) as response:
            await response.read()
            return response.status

    async def settled(self):
        """Wait until everybody of the beginning has delegated their leave."""
        await self.full.wait()

    async def go(self, within_s):
        """Have everybody leave, and wait until that has taken effect."""
        self.closing.set()
        end_s = time.monotonic() + within_s
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=within_s)
        while time.monotonic() < end_s:
            now_s = time.monotonic()
            for person in self.people:
                person.leave.settle(now_s)
            if all(person.leave.ended_at_s is not None for person in self.people):
                return
            await asyncio.sleep(0.05)

    def complaints(self):
        found = [(person, person.complaint(self.trouble)) for person in self.people]
        return [f"{text}: {person.story()}" for person, text in found if text]

    def summary(self):
        ends = [person.leave.ended_by or "nothing" for person in self.people]
        sends = sum(len(person.leave.sends) for person in self.people)
        told = ", ".join(f"{ends.count(how)} by {how}" for how in sorted(set(ends)))
        return f"{len(self.people)} people: {told}; {sends} sends"
