"""The media keys of others: whose is believed, whose is refused, whose is missing."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcfoci.core.effects import RaiseCondition
from rtcfoci.core.key_messages import KEY_TYPES, Key, KeyMessage, read_key
from rtcfoci.core.keys import KeyConfig
from rtcfoci.core.model import Slot
from tests.core.keying import (
    ANN,
    BOB,
    ME,
    SLOT,
    Desk,
    cleared,
    content,
    member,
    raised,
    theirs,
)

K = b"k" * 32
MSC_TYPES = KEY_TYPES[1:]
UUID = member("ann", member_id="uuid")


def msc(member_id="uuid", index=3, key="a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s", **more):
    return {
        "room_id": SLOT.room_id,
        "member_id": member_id,
        "media_key": {"index": index, "key": key},
        "format": 0,
        **more,
    }


def with_(change, **more):
    """A message in the deployed form with one part changed."""
    changed = copy.deepcopy(dict(content(ANN)))
    change(changed)
    return {**changed, **more}


def desk(*members):
    made = Desk()
    made.start(ME, *members)
    return made


def reasons(made):
    return {
        k.removeprefix("keys_refused."): v
        for k, v in made.machine.counters.items()
        if k.startswith("keys_refused.")
    }


def test_what_is_written_can_be_read():
    written = content(ANN, 7, sent_ts_ms=5)
    assert written["session"] == {"application": "m.call", "call_id": "", "scope": "m.room"}
    assert read_key(KEY_TYPES[0], written) == KeyMessage(
        room_id=SLOT.room_id, index=7, key=Key(K), member_id="@ann:hs:ANN", device_id="ANN",
        slot_id=None, sent_ts_ms=5,
    )  # fmt: skip
    side = content(ANN, slot=Slot(room_id="!room:hs", name="side"))
    assert side["session"]["call_id"] == "side"
    assert read_key(KEY_TYPES[0], side).slot_id == "m.call#side"


def test_a_key_of_a_member_is_installed():
    made = desk(ANN)
    assert theirs(made.take(ANN)) == [(ANN, 0, K)]
    assert made.machine.installed[ANN, 0].reveal() == K
    assert made.take(ANN) == [], "the same again"
    assert not reasons(made)
    assert made.machine.counters["keys_received"] == 2


@pytest.mark.parametrize("kind", MSC_TYPES)
@pytest.mark.parametrize(
    "message",
    [
        msc(),
        msc(format="0"),
        msc(version="0"),
        {k: v for k, v in msc().items() if k != "format"},
        {**msc(), "media_key": {**msc()["media_key"], "format": "m.base64"}},
        msc(key="a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="),
    ],
    ids=["0", "text", "version", "none", "inside", "padded"],
)
def test_every_generation_of_the_msc_is_read(kind, message):
    made = desk(UUID)
    assert theirs(made.take(UUID, message, kind=kind)) == [(UUID, 3, K)]


REFUSED = [
    ("malformed", {"message": []}),
    ("malformed", {"message": with_(lambda c: c.pop("room_id"))}),
    ("malformed", {"message": with_(lambda c: c.pop("member"))}),
    ("malformed", {"message": with_(lambda c: c["keys"].update(key=5))}),
    ("malformed", {"message": with_(lambda c: c.update(member={"id": 5, "claimed_device_id": "ANN"}))}),
    ("malformed", {"message": {"room_id": "!room:hs"}, "kind": MSC_TYPES[0]}),
    ("malformed", {"message": with_(lambda c: c.pop("keys"))}),
    ("bad_index", {"message": with_(lambda c: c["keys"].update(index=256))}),
    ("bad_index", {"message": with_(lambda c: c["keys"].update(index=-1))}),
    ("bad_index", {"message": with_(lambda c: c["keys"].update(index=True))}),
    ("bad_index", {"message": with_(lambda c: c["keys"].update(index="0"))}),
    ("bad_key", {"message": with_(lambda c: c["keys"].update(key="*" * 44))}),
    ("bad_key", {"message": with_(lambda c: c["keys"].update(key="é" * 44))}),
    ("bad_key", {"message": with_(lambda c: c["keys"].update(key="a" * 41))}),
    ("wrong_length", {"message": content(ANN, secret=b"k" * 15)}),
    ("wrong_length", {"message": content(ANN, secret=b"k" * 65)}),
    ("wrong_length", {"message": content(ANN, secret=b"k" * 1000)}),
    ("unknown_format", {"message": msc(format=1), "kind": MSC_TYPES[0]}),
    ("unknown_format", {"message": msc(format=False), "kind": MSC_TYPES[0]}),
    ("unknown_format", {"message": msc(format={}), "kind": MSC_TYPES[0]}),
    ("other_room", {"message": with_(lambda c: None, room_id="!other:hs")}),
    ("other_room", {"message": with_(lambda c: None, room_id="!zoo:hs")}),
    ("other_slot", {"message": content(ANN, slot=Slot(room_id="!room:hs", name="side"))}),
    ("not_encrypted", {"encrypted": False}),
    ("other_device", {"device": "ANOTHER"}),
    ("other_device", {"user": "@bob:hs", "device": "BOB"}),
    ("other_device", {"message": msc("@ann:hs:ANN"), "kind": MSC_TYPES[0], "device": "ANOTHER"}),
    ("other_device", {"message": msc(ANN.member_id), "kind": MSC_TYPES[0],
                      "user": "@bob:hs", "device": "BOB"}),
    ("other_device", {"message": content(ME), "user": "@me:hs", "device": "ME"}),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "how"), REFUSED)
def test_refused_and_counted(reason, how):
    made = desk(ANN, BOB)
    out = made.take(ANN, **how)
    assert theirs(out) == []
    assert reasons(made) == {reason: 1}
    suspect = reason in ("not_encrypted", "other_device")
    assert raised(out) == ([("media_key_refused", how.get("user", "@ann:hs"))] if suspect else [])
    assert theirs(made.take(ANN)) == [(ANN, 0, K)], "a refused key spoils no later one"


@pytest.mark.parametrize("lacks", ["application", "call_id"])
def test_a_session_that_is_not_told_is_no_reason(lacks):
    message = with_(lambda c: c["session"].pop(lacks))
    assert theirs(desk(ANN).take(ANN, message)) == [(ANN, 0, K)]
    assert len(theirs(desk(ANN).take(ANN, with_(lambda c: c.pop("session"))))) == 1


@pytest.mark.parametrize("length", [16, 64])
def test_lengths_that_are_taken(length):
    assert len(theirs(desk(ANN).take(ANN, content(ANN, secret=b"k" * length)))) == 1


def test_in_another_slot_the_session_that_the_sdk_always_writes_is_no_reason():
    side = Slot(room_id="!room:hs", name="side")
    made = Desk(slot=side)
    made.start(ME, ANN)
    assert len(theirs(made.take(ANN))) == 1
    assert len(theirs(made.take(ANN, content(ANN, 1, slot=side)))) == 1


def test_a_key_before_its_member_waits_for_it():
    made = desk()
    assert made.take(UUID, content(UUID)) == []
    assert made.machine.counters["keys_early"] == 1
    assert theirs(made.there(ME, member("ann", member_id="another"))) == []
    assert theirs(made.there(ME, UUID)) == [(UUID, 0, K)]


def test_a_key_waits_for_ten_minutes_and_is_then_forgotten():
    made = desk()
    made.take(ANN)
    made.wait(599)
    assert not reasons(made)
    made.wait(1)
    assert reasons(made) == {"not_a_member": 1}
    assert theirs(made.there(ME, ANN)) == []


@pytest.mark.parametrize("name", ["aaron", "mallory"])
def test_who_takes_the_member_id_of_another_does_not_keep_its_early_key_out(name):
    mallory = member(name, member_id=ANN.member_id)
    made = desk(mallory)
    made.take(ANN)
    assert theirs(made.there(ME, mallory, ANN)) == [(ANN, 0, K)]
    assert theirs(made.take(mallory, content(mallory, secret=b"m" * 32))) == [
        (mallory, 0, b"m" * 32)
    ]


def test_keys_of_one_join_do_not_reach_another_of_the_same_device():
    newer = member("ann", member_id="newer")
    made = desk(UUID)
    made.take(UUID, content(UUID, 0))
    assert theirs(made.take(newer, content(newer, 0, b"n" * 32))) == []
    assert theirs(made.there(ME, newer)) == [(newer, 0, b"n" * 32)]
    assert theirs(made.take(UUID, content(UUID, 1))) == [], "a late one of the former join"
    assert set(made.machine.installed) == {(ME, 0), (ME, 1), (newer, 0)} - {(ME, 1)}


def test_a_state_member_may_name_itself_as_it_likes():
    made = desk(ANN)
    assert len(theirs(made.take(ANN, content(member("ann", member_id="uuid"))))) == 1


def test_who_comes_back_has_the_keys_it_had():
    made = desk(ANN)
    made.take(ANN)
    made.there(ME)
    assert (ANN, 0) not in made.machine.installed
    made.wait(60)
    assert theirs(made.there(ME, ANN)) == [(ANN, 0, K)]
    made.there(ME)
    made.wait(600)
    assert not reasons(made)
    assert theirs(made.there(ME, ANN)) == []


def test_who_lingers_is_still_heard():
    made = desk(ANN)
    made.take(ANN)
    assert made.there(ME, lingering=(ANN,))[0].index == 1
    assert (ANN, 0) in made.machine.installed
    assert len(theirs(made.take(ANN, content(ANN, 1)))) == 1


def test_an_outdated_key_is_refused_by_when_it_was_sent():
    made = desk(ANN)
    made.take(ANN, content(ANN, 0, b"2" * 32, sent_ts_ms=2000))
    made.take(ANN, content(ANN, 0, b"1" * 32, sent_ts_ms=1999))
    assert reasons(made) == {"outdated": 1}
    assert made.machine.installed[ANN, 0].reveal() == b"2" * 32
    made.take(ANN, content(ANN, 0, b"3" * 32, sent_ts_ms=2000))
    assert made.machine.installed[ANN, 0].reveal() == b"3" * 32, "then the last to come"
    made.take(ANN, content(ANN, 0, b"6" * 32, sent_ts_ms=2001))
    assert made.machine.installed[ANN, 0].reveal() == b"6" * 32
    made.take(ANN, {**content(ANN, 0, b"4" * 32), "sent_ts": "yesterday"})
    assert made.machine.installed[ANN, 0].reveal() == b"4" * 32
    made.take(ANN, content(ANN, 1, b"5" * 32, sent_ts_ms=1))
    assert (ANN, 1) in made.machine.installed, "another index has another time"


def test_a_key_that_does_not_come_is_told_and_cleared_when_it_does():
    made = desk(ANN, BOB)
    made.take(BOB)
    assert raised(made.wait(9.9)) == []
    assert raised(made.wait(0.1)) == [("media_key_missing", str(ANN))]
    assert cleared(made.take(ANN)) == [("media_key_missing", str(ANN))]
    assert raised(made.there(ME, ANN, BOB, member("cem"))) == []
    made.there(ME, ANN, BOB)
    assert raised(made.wait(20)) == [], "it has left meanwhile"
    made.there(ME, ANN, BOB, member("cem"))
    assert raised(made.wait(20)) == [("media_key_missing", "@cem:hs/CEM")]
    assert cleared(made.there(ME, ANN, BOB)) == [("media_key_missing", "@cem:hs/CEM")]


def test_before_we_are_a_member_nobody_owes_us_a_key():
    made = Desk()
    made.there(ME, ANN)
    assert raised(made.wait(60)) == []
    made.do(made.machine.start(made.now))
    assert raised(made.wait(10)) == [("media_key_missing", str(ANN))]


def problem(made, who, index, kind):
    return made.do(made.machine.problem(made.now, who, index, kind))


def test_a_key_that_a_connection_lacks_is_told_unless_it_comes_or_is_not_needed():
    made = desk(ANN)
    made.take(ANN)
    assert problem(made, ANN, 0, "missing") == [], "it is on its way there"
    for again in range(2):
        assert problem(made, ANN, 1, "missing") == [], again
    assert raised(made.wait(9.9)) == []
    assert raised(made.wait(0.1)) == [("media_key_missing", str(ANN))]
    assert cleared(made.take(ANN, content(ANN, 1))) == [("media_key_missing", str(ANN))]
    problem(made, ANN, 2, "missing")
    assert made.do(made.machine.heard(ANN)) == [], "it uses another by now"
    assert raised(made.wait(20)) == []
    problem(made, ANN, 2, "missing")
    assert raised(made.wait(9.9)) == []
    assert raised(made.wait(0.1)) == [("media_key_missing", str(ANN))]
    assert cleared(made.do(made.machine.heard(ANN))) == [("media_key_missing", str(ANN))]
    for no_index in (-1, 256):
        assert problem(made, ANN, no_index, "missing") == []
    assert raised(made.wait(20)) == []
    assert made.do(made.machine.heard(BOB)) == []


def test_what_is_missing_is_told_though_the_timer_rings_late():
    made = desk(ANN)
    made.now_s += 10.5
    assert raised(made.do(made.machine.timer(made.now))) == [("media_key_missing", str(ANN))]


def test_who_left_keeps_nobody_from_being_missed():
    made = desk(ANN, BOB)
    made.there(ME, BOB)
    assert raised(made.wait(10)) == [("media_key_missing", str(BOB))]


def test_a_stranger_is_forgotten_though_the_timer_rings_late():
    made = desk()
    made.take(ANN)
    made.now_s += 700
    made.do(made.machine.timer(made.now))
    assert reasons(made) == {"not_a_member": 1}


def test_a_key_that_opens_nothing_is_told():
    made = desk(ANN)
    made.take(ANN)
    assert raised(problem(made, ANN, 0, "failed")) == [("media_key_failed", str(ANN))]
    again = member("ann", member_id="again")
    assert cleared(made.there(ME, again)) == [("media_key_failed", str(ANN))]
    assert problem(made, ANN, 0, "failed") == []
    assert problem(made, BOB, 0, "failed") == []


def test_what_strangers_send_is_bounded_and_the_many_of_one_make_room():
    made = desk()
    made.take(ANN)
    for number in range(1000):
        mallory = member("mallory", device=f"D{number}")
        for index in range(40):
            made.take(mallory, content(mallory, index))
    assert len(made.machine._rings._rings) == 256
    assert max(len(ring.keys) for ring in made.machine._rings._rings.values()) == 16
    assert theirs(made.there(ME, ANN)) == [(ANN, 0, K)]
    assert reasons(made)["too_many"] > 0


def test_of_many_users_with_one_device_each_the_first_makes_room():
    made = desk()
    people = [member(f"p{number}") for number in range(257)]
    for person in people:
        made.take(person)
    assert theirs(made.there(ME, people[0])) == []
    assert len(theirs(made.there(ME, *people))) == 256


def test_a_greedy_newcomer_takes_room_from_its_own_user():
    made = desk()
    greedy = [member("mallory", device=f"D{number}") for number in range(200)]
    people = [member(f"p{number}") for number in range(56)]
    for one in (*greedy, *people):
        made.take(one)
    late = member("mallory", device="LATE")
    made.take(late)
    assert reasons(made) == {"too_many": 1}
    assert len(made.machine._rings._rings) == 256
    there = {who for who, *_ in theirs(made.there(ME, *greedy, *people, late))}
    assert there == {*greedy[1:], *people, late}


def test_where_trust_is_required_a_key_of_an_untrusted_device_is_refused():
    made = Desk(config=KeyConfig(require_trusted=True))
    made.start(ME, ANN)
    assert theirs(made.take(ANN)) == []
    assert reasons(made) == {"untrusted": 1}
    (told,) = [o for o in made.wait(10) if isinstance(o, RaiseCondition)]
    assert (told.code, told.cause) == (
        "media_key_missing",
        "none that is believed has come in 10 s",
    )
    assert theirs(made.take(ANN, trusted=True)) == [(ANN, 0, K)]
    assert reasons(made) == {"untrusted": 1}
    assert theirs(desk(ANN).take(ANN)) == [(ANN, 0, K)], "by default it is not required"


def test_suspicion_is_bounded():
    made = desk()
    for number in range(100):
        made.take(member(f"p{number}"), encrypted=False)
    assert len(raised(made.out)) == 16
    assert reasons(made) == {"not_encrypted": 100}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from(KEY_TYPES), JSON, st.data())
def test_nothing_that_is_sent_raises(kind, junk, data):
    made = desk(ANN)
    message = dict(content(ANN)) if kind == KEY_TYPES[0] else msc()
    target = data.draw(
        st.sampled_from([message, *(v for v in message.values() if isinstance(v, dict))])
    )
    target[data.draw(st.sampled_from(sorted(target)))] = junk
    made.take(ANN, message, kind=kind)
    made.take(ANN, junk, kind=kind)
    made.wait(1000)


def test_a_key_is_not_copied_or_shown():
    assert repr(Key(K)) == str(Key(K)) == "<Key>"
    assert Key(K) == Key(b"k" * 32) != Key(b"l" * 32)
    assert Key(K) != K
    assert len({Key(K), Key(K)}) == 1
    with pytest.raises(TypeError, match="not pickled"):
        copy.deepcopy(Key(K))
