"""Signals: what is believed, what is refused and counted, what waits for its sender to join."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcfoci.core import signals
from rtcfoci.core.model import Member, Now, Slot
from rtcfoci.core.signals import Held, Refusal, Refused, Signal, SignalInbox, build_signal
from tests.core.wire import off_the_wire

SLOT = Slot(room_id="!room:hs")
OWN = Member(user_id="@me:hs", device_id="ME", member_id="me")
PEER = Member(user_id="@peer:hs", device_id="PEER", member_id="peer")
SENT_MS = 1_000_000


def at(ts_ms):
    return Now(ts_ms / 1000, ts_ms)


def content(message_id="m1", sender=PEER, to=OWN, slot=SLOT, **more):
    more = {"lifetime_ms": 30_000, "seq": 1, "attempt": "a1", "payload": {"sdp": "v=0"}, **more}
    return build_signal(
        slot,
        sender,
        to,
        focus_type="rtcfoci.mesh",
        message_id=message_id,
        now_ts_ms=SENT_MS,
        **more,
    )


class Inbox:
    def __init__(self, *members):
        self.members = set(members)
        self.inbox = SignalInbox(SLOT, OWN, self.members.__contains__)

    def take(self, content, at_ms=SENT_MS, **more):
        given = {
            "sender": PEER.user_id,
            "sender_device_id": PEER.device_id,
            "security": "bound",
            "encrypted": True,
            **more,
        }
        return self.inbox.receive(off_the_wire(content), at(at_ms), **off_the_wire(given))


def test_a_signal_arrives():
    box = Inbox(PEER)
    assert box.take(content()) == Signal(
        member=PEER,
        focus_type="rtcfoci.mesh",
        attempt="a1",
        seq=1,
        payload={"sdp": "v=0"},
        security="bound",
    )
    assert not box.inbox.refused
    assert "v=0" not in repr(box.take(content("m2")))


def test_in_a_clear_room_a_clear_signal_is_fine():
    box = Inbox(PEER)
    signal = box.take(content(), security="clear", sender_device_id=None, encrypted=False)
    assert isinstance(signal, Signal)
    assert signal.security == "clear"


@pytest.mark.parametrize("security", ["bound", "trusted"])
def test_in_an_encrypted_room_a_signal_of_a_known_device_is_fine(security):
    signal = Inbox(PEER).take(content(), security=security)
    assert isinstance(signal, Signal)
    assert signal.security == security


@pytest.mark.parametrize(
    ("reason", "made", "received"),
    [
        (Refusal.OTHER_ROOM, {"slot": Slot(room_id="!other:hs")}, {}),
        (Refusal.OTHER_ROOM, {"slot": Slot(room_id="!zoo:hs")}, {}),
        (Refusal.OTHER_SLOT, {"slot": Slot(room_id="!room:hs", name="side")}, {}),
        (Refusal.OTHER_SLOT, {"slot": Slot(room_id="!room:hs", name="MAIN")}, {}),
        (Refusal.NOT_FOR_US, {"to": PEER}, {}),
        (
            Refusal.NOT_FOR_US,
            {"to": Member(user_id="@me:hs", device_id="ME", member_id="an earlier join")},
            {},
        ),
        (Refusal.NOT_ENCRYPTED, {}, {"security": "clear"}),
        (Refusal.OTHER_USER, {}, {"sender": "@mallory:hs"}),
        (Refusal.OTHER_USER, {}, {"sender": "@zoe:hs"}),
        (
            Refusal.OTHER_USER,
            {},
            {"sender": "@mallory:hs", "security": "clear", "encrypted": False},
        ),
        (Refusal.OTHER_DEVICE, {}, {"sender_device_id": "OTHER"}),
        (Refusal.OTHER_DEVICE, {}, {"sender_device_id": "ZOO"}),
        (Refusal.OTHER_DEVICE, {}, {"sender_device_id": "OTHER", "security": "trusted"}),
        (Refusal.OTHER_DEVICE, {}, {"sender_device_id": None}),
        (Refusal.OTHER_DEVICE, {}, {"sender_device_id": "OTHER", "encrypted": False}),
        (Refusal.EXPIRED, {}, {"at_ms": SENT_MS + 90_000}),
        (Refusal.EXPIRED, {}, {"at_ms": SENT_MS + 10**9}),
        (Refusal.EXPIRED, {"lifetime_ms": -1}, {}),
        (Refusal.WRONG_CLOCK, {}, {"at_ms": SENT_MS - 60_001}),
    ],
)
def test_refused_and_counted(reason, made, received):
    box = Inbox(PEER)
    refused = box.take(content(**made), **received)
    assert refused == Refused(reason, received.get("sender", PEER.user_id))
    assert box.inbox.refused == {reason: 1}
    assert isinstance(box.take(content()), Signal), "a refused signal spoils no later one"


@pytest.mark.parametrize("at_ms", [SENT_MS - 60_000, SENT_MS + 89_999])
def test_clocks_may_differ_a_little(at_ms):
    assert isinstance(Inbox(PEER).take(content(), at_ms), Signal)


def test_a_signal_lives_half_a_minute_unless_told_otherwise():
    made = build_signal(
        SLOT, PEER, OWN, focus_type="x", payload={}, attempt="a", seq=1, message_id="m", now_ts_ms=5
    )
    assert (made["sent_ts_ms"], made["expires_ts_ms"]) == (5, 30_005)


def test_no_signal_lives_longer_than_allowed():
    long = content(lifetime_ms=10**9)
    assert long["expires_ts_ms"] == SENT_MS + 120_000
    forged = {**long, "expires_ts_ms": 2**53 - 1}
    assert Inbox(PEER).take(forged, SENT_MS + 180_000) == Refused(Refusal.EXPIRED, PEER.user_id)


def test_a_duplicate_is_refused_as_long_as_it_could_be_believed():
    box = Inbox(PEER)
    ahead = content(lifetime_ms=120_000)
    assert isinstance(box.take(ahead, SENT_MS - 60_000), Signal)
    for at_ms in range(SENT_MS - 60_000, SENT_MS + 180_000, 1000):
        assert box.take(ahead, at_ms) == Refused(Refusal.DUPLICATE, PEER.user_id)
    assert box.take(ahead, SENT_MS + 180_000) == Refused(Refusal.EXPIRED, PEER.user_id)


@pytest.mark.parametrize("later_ms", [SENT_MS + 240_000, SENT_MS + 250_000])
def test_remembered_ids_are_bounded_and_forgotten(monkeypatch, later_ms):
    monkeypatch.setattr(signals, "_MAX_SEEN_PER_MEMBER", 300)
    box = Inbox(PEER)
    assert all(isinstance(box.take(content(f"m{n}")), Signal) for n in range(300))
    assert box.take(content("more")) == Refused(Refusal.TOO_MANY, PEER.user_id)
    later = {**content("later"), "sent_ts_ms": later_ms, "expires_ts_ms": later_ms + 30_000}
    assert isinstance(box.take(later, later_ms), Signal)
    assert box.inbox._seen == {PEER: {"later"}}


def at_ms_of(made, ts_ms):
    return {**made, "sent_ts_ms": ts_ms, "expires_ts_ms": ts_ms + 30_000}


def test_what_came_first_is_forgotten_first():
    box = Inbox(PEER)
    for name, after_ms in (("old", 0), ("young", 100_000), ("now", 240_000)):
        made = at_ms_of(content(name), SENT_MS + after_ms)
        assert isinstance(box.take(made, SENT_MS + after_ms), Signal)
    assert box.inbox._seen == {PEER: {"young", "now"}}


def test_of_what_waits_only_what_is_over_makes_room():
    box = Inbox()
    box.take(content("old"))
    box.take(at_ms_of(content("young"), SENT_MS + 20_000), SENT_MS + 20_000)
    box.take(at_ms_of(content("now"), SENT_MS + 30_000), SENT_MS + 30_000)
    assert [waiting.message_id for waiting in box.inbox._held[PEER]] == ["young", "now"]
    assert box.inbox.refused == {Refusal.NOT_A_MEMBER: 1}


def test_a_signal_before_its_sender_waits():
    box = Inbox()
    assert box.take(content("m1")) == Held(PEER)
    assert box.take(content("m2")) == Held(PEER)
    assert box.take(content("m1")) == Held(PEER)
    box.members.add(PEER)
    other = Member(user_id="@o:hs", device_id="O", member_id="o")
    assert box.inbox.member_joined(other, at(SENT_MS)) == ()
    first, second = box.inbox.member_joined(PEER, at(SENT_MS + 1000))
    assert isinstance(first, Signal)
    assert isinstance(second, Signal)
    assert box.inbox.refused == {Refusal.DUPLICATE: 1}
    assert box.inbox.member_joined(PEER, at(SENT_MS + 1000)) == ()


@pytest.mark.parametrize("waited_ms", [30_000, 40_000])
def test_what_waited_too_long_is_not_delivered(waited_ms):
    box = Inbox()
    box.take(content("m1"))
    assert box.inbox.member_joined(PEER, at(SENT_MS + waited_ms)) == ()
    assert box.inbox.refused == {Refusal.EXPIRED: 1}


@pytest.mark.parametrize("later_ms", [SENT_MS + 30_000, SENT_MS + 40_000])
def test_who_never_joins_makes_room(later_ms):
    box = Inbox()
    box.take(content("m1"))
    other = Member(user_id="@peer:hs", device_id="PEER", member_id="other")
    later = {**content("m2", other), "sent_ts_ms": later_ms, "expires_ts_ms": later_ms + 30_000}
    assert box.take(later, later_ms) == Held(other)
    assert box.inbox.refused == {Refusal.NOT_A_MEMBER: 1}
    assert list(box.inbox._held) == [other]


def test_waiting_is_bounded_by_user_and_in_all():
    box = Inbox()

    def fill(user, count):
        sender = Member(user_id=user, device_id="D", member_id="d")
        taken = [
            box.take(content(f"{user}{n}", sender), sender=user, sender_device_id="D")
            for n in range(count)
        ]
        return sum(isinstance(verdict, Held) for verdict in taken)

    assert fill("@a:hs", 100) == 64
    assert [fill(f"@{n}:hs", 64) for n in range(3)] == [64, 64, 64]
    # Full: who comes now gets room from those who hold most, until all hold as much.
    assert fill("@late:hs", 64) == 51
    assert sum(map(len, box.inbox._held.values())) == 256
    per_user = {member.user_id: len(queue) for member, queue in box.inbox._held.items()}
    assert sorted(per_user.values()) == [51, 51, 51, 51, 52]
    assert fill("@a:hs", 1) == 0


def test_who_takes_the_room_with_many_joins_loses_whole_ones(monkeypatch):
    monkeypatch.setattr(signals, "_MAX_HELD", 3)
    box = Inbox()
    for n in range(3):
        assert isinstance(box.take(content(f"m{n}", replace(PEER, member_id=f"p{n}"))), Held)
    late = Member(user_id="@late:hs", device_id="L", member_id="l")
    made = content("late", late)
    assert box.take(made, sender="@late:hs", sender_device_id="L") == Held(late)
    assert sorted(member.user_id for member in box.inbox._held) == ["@late:hs"] + ["@peer:hs"] * 2


def test_who_holds_most_gives_up_its_own_and_gets_no_more(monkeypatch):
    monkeypatch.setattr(signals, "_MAX_HELD", 7)
    box = Inbox()

    def send(user, joins):
        """One signal of each of these joins."""
        for n, join in enumerate(joins):
            sender = Member(user_id=user, device_id="D", member_id=join)
            made = content(f"{user}{join}{n}", sender)
            yield box.take(made, sender=user, sender_device_id="D")

    # The others have longer queues, and fewer signals.
    taken = [*send("@a:hs", "jj"), *send("@m:hs", "123"), *send("@z:hs", "jj")]
    assert all(isinstance(verdict, Held) for verdict in taken)
    assert list(send("@m:hs", "4")) == [Refused(Refusal.TOO_MANY, "@m:hs")]
    assert isinstance(next(send("@late:hs", "j")), Held)
    held = Counter(m.user_id for m, queue in box.inbox._held.items() for _ in queue)
    assert held == {"@a:hs": 2, "@m:hs": 2, "@z:hs": 2, "@late:hs": 1}


JUNK = [None, 7.5, [], {}, "", {"user_id": 1}, -1, "x" * 256]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (field, value)
        for field in sorted(content())
        for value in JUNK
        if field != "payload" or not isinstance(value, dict)  # a payload is any object
    ],
)
def test_malformed(field, value):
    box = Inbox(PEER)
    assert box.take({**content(), field: value}) == Refused(Refusal.MALFORMED, PEER.user_id)


@pytest.mark.parametrize("field", sorted(content()))
def test_every_field_is_needed(field):
    lacking = {name: value for name, value in content().items() if name != field}
    assert Inbox(PEER).take(lacking) == Refused(Refusal.MALFORMED, PEER.user_id)


@pytest.mark.parametrize("whose", ["from", "to"])
@pytest.mark.parametrize("field", ["user_id", "device_id", "member_id"])
def test_of_both_members_everything_is_needed(whose, field):
    made = content()
    lacking = {name: value for name, value in made[whose].items() if name != field}
    assert Inbox(PEER).take({**made, whose: lacking}) == Refused(Refusal.MALFORMED, PEER.user_id)


@pytest.mark.parametrize("whole", JUNK)
def test_malformed_as_a_whole(whole):
    assert Inbox(PEER).take(whole) == Refused(Refusal.MALFORMED, PEER.user_id)


def test_a_payload_without_bottom_is_malformed():
    deep: object = {}
    for _ in range(50_000):
        deep = {"x": deep}
    refused = Inbox(PEER).take({**content(), "payload": deep})
    assert refused == Refused(Refusal.MALFORMED, PEER.user_id)
    while isinstance(deep, dict) and deep:
        deep = deep.pop("x")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    changes=st.dictionaries(st.sampled_from(sorted(content())) | st.text(max_size=4), json_values),
    security=st.sampled_from(["clear", "bound", "trusted"]),
    device=st.none() | st.sampled_from(["PEER", "x"]),
    joined=st.booleans(),
)
def test_nothing_raises(changes, security, device, joined):
    box = Inbox(*([PEER] if joined else []))
    verdict = box.take({**content(), **changes}, security=security, sender_device_id=device)
    if isinstance(verdict, Signal):
        assert joined
        assert (security, device) in (("bound", "PEER"), ("trusted", "PEER"))
        assert verdict.member == PEER
    assert box.inbox.refused.total() == isinstance(verdict, Refused)
