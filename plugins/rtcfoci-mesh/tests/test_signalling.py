"""The negotiation machine: its table, its care with hostile input, and that two of them converge."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rtcfoci_mesh.signalling import TABLE, Negotiation, State
from rtcfoci_mesh.steps import (
    Applied,
    Apply,
    Begin,
    Close,
    Connected,
    Described,
    Effect,
    Failed,
    Input,
    MakeAnswer,
    MakeOffer,
    Open,
    Received,
    Restarted,
    Send,
    Tick,
    TracksChanged,
    Unreachable,
)
from rtcfoci_mesh.wire import Answer, Lines, Offer, Want, read_signal, write_signal

from rtcfoci.core.model import JsonObject

SDP = (
    "v=0\nm=audio 9\na=fingerprint:sha-256 AA\nm=application 9\na=candidate:1 1 udp 1 127.0.0.1 9\n"
)


def negotiation(offerer: bool, instance: str = "", **options: float) -> Negotiation:
    return Negotiation(
        instance or ("off" if offerer else "ans"), offerer=offerer, need=Lines(1, 0), **options
    )


def sent(effects: list[Effect]) -> list[Offer | Answer | Want]:
    return [e.signal for e in effects if isinstance(e, Send)]


def described(machine: Negotiation, now_s: float = 0.0, lines: Lines = Lines(1, 1)) -> list[Effect]:  # noqa: B008
    return machine.handle(Described(machine.attempt, SDP, (), lines), now_s)


def offered(now_s: float = 0.0) -> tuple[Negotiation, Offer]:
    machine = negotiation(True)
    machine.handle(Begin(), now_s)
    (offer,) = sent(described(machine, now_s))
    assert isinstance(offer, Offer)
    return machine, offer


def answered() -> tuple[Negotiation, Negotiation, Answer]:
    offerer, offer = offered()
    answerer = negotiation(False)
    answerer.handle(Begin(), 0.0)
    answerer.handle(Received(write_signal(offer)), 0.0)
    (answer,) = sent(described(answerer, lines=Lines(1, 0)))
    assert isinstance(answer, Answer)
    return offerer, answerer, answer


def connected() -> tuple[Negotiation, Negotiation]:
    offerer, answerer, answer = answered()
    offerer.handle(Received(write_signal(answer)), 0.0)
    offerer.handle(Applied(offerer.attempt), 0.0)
    offerer.handle(Connected(offerer.attempt), 0.1)
    answerer.handle(Connected(answerer.attempt), 0.1)
    return offerer, answerer


def test_the_table_names_every_state() -> None:
    assert {state for state, _ in TABLE} == set(State)
    for state in State:
        assert (state, Received) in TABLE
        assert (state, Tick) in TABLE


def test_a_pair_is_set_up_with_one_offer_and_one_answer() -> None:
    offerer, answerer, answer = answered()
    assert answer.attempt == offerer.attempt == answerer.attempt == "off.1"
    assert [type(e) for e in offerer.handle(Received(write_signal(answer)), 0.0)] == [Apply]
    assert offerer.handle(Applied(offerer.attempt), 0.0) == []
    offerer.handle(Connected(offerer.attempt), 0.1)
    assert offerer.state is answerer.state is State.STABLE
    assert offerer.timer is None


def test_the_answerer_gets_more_sections_when_it_needs_them() -> None:
    offerer, _, answer = answered()
    offerer.handle(Received(write_signal(replace(answer, need=Lines(3, 2)))), 0.0)
    assert offerer.handle(Applied(offerer.attempt), 0.0) == [MakeOffer("off.1", Lines(3, 2))]


def test_changed_tracks_are_offered_or_asked_for() -> None:
    offerer, answerer = connected()
    assert offerer.handle(TracksChanged(Lines(2, 0)), 1.0) == [MakeOffer("off.1", Lines(2, 0))]
    (want,) = sent(answerer.handle(TracksChanged(Lines(0, 2)), 1.0))
    assert want == Want(instance="ans", attempt="off.1", seq=2, need=Lines(0, 2), rebuild=False)


def test_what_changes_during_a_negotiation_is_offered_after_it() -> None:
    offerer, _, answer = answered()
    assert offerer.handle(TracksChanged(Lines(1, 1)), 0.0) == []
    offerer.handle(Received(write_signal(answer)), 0.0)
    assert offerer.handle(Applied(offerer.attempt), 0.0) == [MakeOffer("off.1", Lines(1, 1))]


def test_an_offer_is_sent_again_until_the_deadline() -> None:
    machine, offer = offered()
    again = []
    while (due_s := machine.timer) is not None and due_s < 12.0:
        again += sent(machine.handle(Tick(), due_s))
    assert again == [offer] * 5
    assert machine.handle(Tick(), 12.0) == [Close("off.1"), Unreachable("no answer within 12 s")]
    assert machine.timer == 13.0
    # Under another name: should the member take this one for its past, the next is new to it.
    assert machine.handle(Tick(), 13.0) == [Open("off-1.2"), MakeOffer("off-1.2", Lines(1, 0))]


def test_while_media_flows_an_unanswered_offer_gives_nothing_up() -> None:
    offerer, _ = connected()
    offerer.handle(TracksChanged(Lines(2, 0)), 1.0)
    (offer,) = sent(described(offerer, 1.0))
    for tick in range(100):
        due_s = offerer.timer
        assert due_s is not None
        assert sent(offerer.handle(Tick(), due_s)) == [offer], tick
    assert offerer.attempt == "off.1"
    answer = Answer(
        instance="ans", attempt="off.1", seq=offer.seq, sdp=SDP, tracks=(), need=Lines()
    )
    assert len(offerer.handle(Received(write_signal(answer)), 300.0)) == 1
    assert offerer.timer is not None  # the engine, however, must come to an end
    offerer.handle(Applied("off.1"), 300.0)
    assert offerer.timer is None


def test_attempts_back_off_to_half_a_minute() -> None:
    machine, _ = offered()
    waits = []
    now_s = 0.0
    for _ in range(8):
        machine.handle(Failed(machine.attempt, "no"), now_s)
        assert machine.timer is not None
        waits.append(machine.timer - now_s)
        now_s = machine.timer
        machine.handle(Tick(), now_s)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_lost_connection_is_rebuilt_at_once() -> None:
    offerer, answerer = connected()
    assert offerer.handle(Failed("off.1", "silence"), 5.0) == [
        Close("off.1"),
        Unreachable("silence"),
        Open("off.2"),
        MakeOffer("off.2", Lines(1, 0)),
    ]
    (want,) = sent(answerer.handle(Failed("off.1", "silence"), 5.0))
    assert isinstance(want, Want)
    assert (want.rebuild, want.attempt) == (True, "off.1")
    # The offerer is at its next attempt already: the wish is of the past.
    offerer.handle(Received(write_signal(want)), 5.1)
    assert offerer.dropped == {"foreign_attempt": 1}


def test_a_wish_to_rebuild_is_granted() -> None:
    offerer, answerer = connected()
    (want,) = sent(answerer.handle(Failed("off.1", "silence"), 5.0))
    effects = offerer.handle(Received(write_signal(want)), 5.0)
    assert effects == [Close("off.1"), Open("off.2"), MakeOffer("off.2", Lines(1, 0))]


def test_an_answerer_without_an_offer_asks_for_one() -> None:
    machine = negotiation(False)
    machine.handle(Begin(), 0.0)
    assert machine.timer == 1.5
    (hello,) = sent(machine.handle(Tick(), 1.5))
    assert isinstance(hello, Want)
    assert (hello.attempt, hello.rebuild) == ("", True)
    offerer, offer = offered()
    assert sent(offerer.handle(Received(write_signal(hello)), 1.6)) == [offer]


def test_a_restarted_answerer_is_offered_a_new_connection() -> None:
    offerer, _ = connected()
    fresh = negotiation(False, "new")
    fresh.handle(Begin(), 6.0)
    (hello,) = sent(fresh.handle(Tick(), 7.5))
    effects = offerer.handle(Received(write_signal(hello)), 7.6)
    assert [type(e) for e in effects] == [Close, Open, MakeOffer]


def test_a_restarted_offerer_is_answered_and_its_past_is_not() -> None:
    _, answerer = connected()
    fresh = negotiation(True, "fresh")
    fresh.handle(Begin(), 9.0)
    (offer,) = sent(described(fresh, 9.0))
    effects = answerer.handle(Received(write_signal(offer)), 9.1)
    assert [type(e) for e in effects] == [Close, Open, MakeAnswer]
    past = Offer(instance="off", attempt="off.7", seq=1, sdp=SDP, tracks=())
    assert answerer.handle(Received(write_signal(past)), 9.2) == []
    assert answerer.dropped == {"late": 1}


def test_late_signals_of_an_earlier_life_do_not_make_the_present_one_the_past() -> None:
    offerer, offer = offered()
    past = Want(instance="ans", attempt="", seq=1, need=Lines(), rebuild=True)
    now = replace(past, instance="ans-1")
    for want in (now, past):  # they were reordered on their way
        offerer.handle(Received(write_signal(want)), 0.1)
    (offer,) = sent(described(offerer, 0.2))
    answer = Answer(
        instance="ans-1",
        attempt=offer.attempt,
        seq=offer.seq,
        sdp=SDP,
        tracks=(),
        need=Lines(),
    )
    assert [type(e) for e in offerer.handle(Received(write_signal(answer)), 0.3)] == [Apply]
    offerer.handle(Received(write_signal(replace(past, seq=2))), 0.4)
    assert offerer.dropped == {"late": 1}
    assert offerer.state is State.APPLYING


def test_a_past_that_repeats_its_offer_is_the_present() -> None:
    """The offer of the life before came late: the present one is taken for the past by mistake."""
    machine = negotiation(False)
    machine.handle(Begin(), 0.0)
    lives = [
        Offer(instance=name, attempt=f"{name}.1", seq=1, sdp=SDP, tracks=())
        for name in ("now", "before")
    ]
    for offer in lives:
        machine.handle(Received(write_signal(offer)), 0.1)
        described(machine, 0.2)
    assert machine.attempt == "before.1"
    assert machine.handle(Received(write_signal(lives[0])), 2.1) == []
    effects = machine.handle(Received(write_signal(lives[0])), 4.1)
    assert [type(e) for e in effects] == [Close, Open, MakeAnswer]
    described(machine, 4.2)
    machine.handle(Connected("now.1"), 4.3)
    for at_s in (5.0, 7.0, 9.0):  # whom we are connected to is the present
        assert machine.handle(Received(write_signal(lives[1])), at_s) == []


def test_news_of_a_restart_rebuilds_unless_that_has_happened() -> None:
    offerer, answerer = connected()
    assert offerer.handle(Restarted(), 2.0) == []
    assert [type(e) for e in offerer.handle(Restarted(), 10.0)] == [Close, Open, MakeOffer]
    assert answerer.handle(Restarted(), 10.0) == []


def test_doubles_late_and_foreign_signals_are_dropped_and_counted() -> None:
    offerer, answerer, answer = answered()
    offer = Offer(instance="off", attempt="off.1", seq=1, sdp=SDP, tracks=())
    assert sent(answerer.handle(Received(write_signal(offer)), 0.1)) == [answer]  # may be lost
    assert offerer.handle(Received(write_signal(replace(answer, attempt="off.9"))), 0.1) == []
    offerer.handle(Received(write_signal(answer)), 0.1)
    assert offerer.handle(Received(write_signal(answer)), 0.2) == []
    assert offerer.handle(Received(write_signal(offer)), 0.2) == []
    assert offerer.handle(Received({"kind": "offer"}), 0.2) == []
    assert answerer.dropped == {"duplicate": 1}
    assert offerer.dropped == {
        "foreign_attempt": 1,
        "duplicate": 1,
        "unexpected": 1,
        "malformed": 1,
    }


def test_what_belongs_to_a_past_attempt_of_the_engine_changes_nothing() -> None:
    machine, _ = offered()
    machine.handle(Failed("off.1", "no"), 0.0)
    machine.handle(Tick(), 1.0)
    before = machine.state
    for event in (Described("off.1", SDP, (), Lines()), Applied("off.1"), Connected("off.1")):
        assert machine.handle(event, 1.0) == []
    assert machine.handle(Failed("off.1", "no"), 1.0) == []
    assert machine.state is before


def test_a_member_cannot_make_us_work_without_end() -> None:
    machine = negotiation(False)
    machine.handle(Begin(), 0.0)
    opened = 0
    for number in range(1000):
        offer = Offer(instance="off", attempt=f"off.{number + 1}", seq=number, sdp=SDP, tracks=())
        effects = machine.handle(Received(write_signal(offer)), number / 1000)
        opened += sum(isinstance(e, Open) for e in effects)
    assert opened == 6
    assert machine.dropped["too_many"] > 900


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)


def _signals() -> list[JsonObject]:
    offerer, offer = offered()
    want = Want(instance="ans", attempt="", seq=1, need=Lines(), rebuild=True)
    answer = Answer(
        instance="ans", attempt=offerer.attempt, seq=1, sdp=SDP, tracks=(), need=Lines()
    )
    return [write_signal(s) for s in (offer, answer, want)]


@given(
    st.lists(
        st.one_of(
            json_values,
            st.tuples(
                st.sampled_from(_signals()),
                st.dictionaries(
                    st.sampled_from(
                        ["kind", "instance", "attempt", "seq", "sdp", "tracks", "need", "rebuild"]
                    ),
                    json_values,
                    max_size=3,
                ),
            ).map(lambda pair: {**pair[0], **pair[1]}),
        ),
        max_size=20,
    ),
    st.booleans(),
)
def test_hostile_payloads_never_raise(payloads: list[object], offerer: bool) -> None:
    machine = negotiation(offerer)
    machine.handle(Begin(), 0.0)
    for number, payload in enumerate(payloads):
        for effect in machine.handle(Received(payload), number * 0.5):
            if isinstance(effect, MakeAnswer | MakeOffer):
                described(machine, number * 0.5)


def test_signals_come_back_as_they_were_written() -> None:
    for payload in _signals():
        assert write_signal(read_signal(payload)) == payload


class World:
    """Two machines, a bad wire, and an engine that does what it is told after a while."""

    def __init__(self, faults: list[int]) -> None:
        self.sides = {True: negotiation(True), False: negotiation(False)}
        self._faults = iter(faults)
        self._queue: list[tuple[float, int, bool, Input]] = []
        self._order = itertools.count()
        self._answered: set[str] = set()
        self._applied: set[str] = set()
        self._closed: set[tuple[bool, str]] = set()
        self._live: set[str] = set()
        self.now_s = 0.0
        self.effects = 0

    def post(self, side: bool, event: Input, delay_s: float) -> None:
        heapq.heappush(self._queue, (self.now_s + delay_s, next(self._order), side, event))

    def run(self, until_s: float) -> None:
        while self.now_s < until_s:
            timers = [(m.timer, side) for side, m in self.sides.items() if m.timer is not None]
            due_s, side = min(timers, default=(until_s, True))
            if self._queue and self._queue[0][0] <= due_s:
                at_s, _, side, event = heapq.heappop(self._queue)
            elif due_s >= until_s:
                self.now_s = until_s
                return
            else:
                at_s, event = due_s, Tick()
            self.now_s = max(self.now_s, at_s)
            for effect in self.sides[side].handle(event, self.now_s):
                self._do(side, effect)

    def _do(self, side: bool, effect: Effect) -> None:
        self.effects += 1
        match effect:
            case Send(signal):
                fault = next(self._faults, 1)  # 0: lost; 2: twice; 3: late
                for _ in range(2 if fault == 2 else min(fault, 1)):
                    self.post(not side, Received(write_signal(signal)), 2.5 if fault == 3 else 0.02)
            case MakeOffer(attempt, lines):
                self.post(side, Described(attempt, SDP, (), lines), 0.01)
            case MakeAnswer(attempt):
                self._answered.add(attempt)
                self.post(side, Described(attempt, SDP, (), Lines(2, 1)), 0.01)
                self._maybe_connect(attempt)
            case Apply(attempt):
                self._applied.add(attempt)
                self.post(side, Applied(attempt), 0.01)
                self._maybe_connect(attempt)
            case Close(attempt):
                self._closed.add((side, attempt))
                # A live connection that one side closes is closed for the other.
                if attempt in self._live:
                    self.post(not side, Failed(attempt, "closed", 2.0), 0.01)

    def _maybe_connect(self, attempt: str) -> None:
        if (
            attempt in self._answered & self._applied
            and not {
                (True, attempt),
                (False, attempt),
            }
            & self._closed
        ):
            self._live.add(attempt)
            for side in (True, False):
                self.post(side, Connected(attempt), 0.05)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 3), max_size=40),
    st.lists(
        st.tuples(st.floats(0, 20), st.booleans(), st.sampled_from(["tracks", "lost", "again"])),
        max_size=6,
    ),
)
def test_two_machines_agree_once_the_wire_is_good(
    faults: list[int], shocks: list[tuple[float, bool, str]]
) -> None:
    world = World(faults)
    for side in (True, False):
        world.post(side, Begin(), 0.0)
    for at_s, side, what in sorted(shocks):
        world.run(at_s)
        machine = world.sides[side]
        if what == "tracks":
            world.post(side, TracksChanged(Lines(2, 2)), 0.0)
        elif what == "lost" and machine.connected:
            world.post(side, Failed(machine.attempt, "lost"), 0.0)
        elif what == "again":  # this side's process starts anew
            if machine.connected:
                world.post(not side, Failed(machine.attempt, "silence"), 3.5)
            world.sides[side] = negotiation(side, f"life{at_s}".replace(".", "-"))
            world.post(side, Begin(), 0.0)
    world.run(world.now_s + 400.0)
    offerer, answerer = world.sides[True], world.sides[False]
    assert offerer.state is answerer.state is State.STABLE
    assert offerer.connected
    assert answerer.connected
    assert offerer.attempt == answerer.attempt
    assert world.effects < 3000


@pytest.mark.parametrize("side", [True, False])
def test_nothing_is_planned_in_a_settled_pair(side: bool) -> None:
    world = World([])
    for other in (True, False):
        world.post(other, Begin(), 0.0)
    world.run(60.0)
    assert world.sides[side].timer is None
    assert cast("int", world.effects) < 20
