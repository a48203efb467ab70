"""Cross-signed devices: who signed what, and which identity was seen first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcfoci.matrix import store as stores
from rtcfoci.matrix.cross_signing import CrossSigning
from rtcfoci.matrix.store import DeviceStore
from tests.matrix.identities import Keys, key_object, sign

ANN, BOB = "@ann:hs", "@bob:hs"
DEVICE = {
    "user_id": ANN,
    "device_id": "PHONE",
    "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
    "keys": {"curve25519:PHONE": "curve", "ed25519:PHONE": "ed"},
}


@pytest.fixture
def store():
    made = DeviceStore.memory()
    yield made
    made.close()


def answer(keys, *, device=None, master=None, signing=None, user=ANN):
    return {
        "device_keys": {user: {"PHONE": keys.signs(DEVICE) if device is None else device}},
        "master_keys": {user: keys.master_key if master is None else master},
        "self_signing_keys": {user: keys.signing_key if signing is None else signing},
    }


def trusts(store, given_answer, user=ANN, keys=("curve", "ed")):
    known = CrossSigning(store)
    known.learn(user, given_answer)
    return known.trusts(user, "PHONE", *keys)


def test_a_device_that_is_signed_through_the_identity_is_trusted(store):
    assert trusts(store, answer(Keys(ANN))) is True
    assert CrossSigning(store).trusts(ANN, "PHONE", "curve", "ed") is None, "nobody has asked"


def test_what_the_server_adds_unsigned_does_not_matter(store):
    keys = Keys(ANN)
    device = {**keys.signs(DEVICE), "unsigned": {"device_display_name": "a phone"}}
    assert trusts(store, answer(keys, device=device)) is True


KEYS, OTHER = Keys(ANN), Keys(ANN)
FORGED = {
    "not signed": {"device": DEVICE},
    "signed by another's key": {"device": OTHER.signs(DEVICE)},
    "changed after it was signed": {"device": {**KEYS.signs(DEVICE), "algorithms": []}},
    "signed by the master key alone": {"device": sign(KEYS.master, ANN, DEVICE)},
    "no identity": {"master": {}},
    "a self-signing key that the identity did not sign": {"signing": OTHER.signing_key},
    "a self-signing key without a signature": {
        "signing": key_object(KEYS.signing, ANN, "self_signing")
    },
    "an identity of somebody else": {"master": Keys(BOB).master_key},
    "a key for another use": {
        "signing": sign(KEYS.master, ANN, key_object(KEYS.signing, ANN, "user_signing"))
    },
    "two keys in one": {
        "master": {**KEYS.master_key, "keys": {**KEYS.master_key["keys"], "ed25519:x": "x"}}
    },
    "a key of another name": {"master": {**KEYS.master_key, "keys": {"ed25519:x": "y"}}},
    "text that no signature can be of": {"device": {**KEYS.signs(DEVICE), "x": "\ud800"}},
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_nothing_else_is(store, forged):
    assert trusts(store, answer(KEYS, **forged)) is False
    assert trusts(store, answer(KEYS)) is True, "and nothing of it was pinned"


def test_keys_that_are_not_those_of_olm_are_not_trusted(store):
    for keys in (("curve", "other"), ("other", "ed")):
        assert trusts(store, answer(KEYS), keys=keys) is False


def test_the_first_identity_stays_until_it_is_forgotten(tmp_path):
    store = DeviceStore.open(tmp_path)
    assert trusts(store, answer(KEYS)) is True
    assert trusts(store, answer(OTHER)) is False
    store.close()
    store = DeviceStore.open(tmp_path)
    assert trusts(store, answer(OTHER)) is False
    assert trusts(store, answer(KEYS)) is True
    store.forget_identity(ANN)
    assert trusts(store, answer(OTHER)) is True
    store.close()


def test_what_changes_is_learnt_anew(store):
    known = CrossSigning(store)
    known.learn(ANN, answer(KEYS))
    known.learn(ANN, answer(KEYS, device=DEVICE))
    assert known.trusts(ANN, "PHONE", "curve", "ed") is False


def test_strangers_cannot_fill_the_store(store, monkeypatch):
    monkeypatch.setattr(stores, "MAX_IDENTITIES", 1)
    bobs = Keys(BOB)
    device = bobs.signs({**DEVICE, "user_id": BOB})
    assert trusts(store, answer(KEYS)) is True
    assert trusts(store, answer(bobs, device=device, user=BOB), user=BOB) is False
    assert trusts(store, answer(KEYS)) is True


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@given(st.sampled_from(["device_keys", "master_keys", "self_signing_keys"]), JUNK, st.data())
def test_no_answer_raises(part, junk, data):
    given_answer = answer(KEYS)
    place = given_answer[part]
    path = [ANN, "PHONE", "keys"] if part == "device_keys" else [ANN, "keys"]
    for name in path[: data.draw(st.integers(0, len(path) - 1))]:
        place[name] = dict(place[name])
        place = place[name]
    place[path[-1] if data.draw(st.booleans()) else "signatures"] = junk
    store = DeviceStore.memory()
    try:
        assert trusts(store, given_answer) in (True, False)
    finally:
        store.close()
