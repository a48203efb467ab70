"""Bodies, read as the original reads them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rtcfoci_livekit_auth.bodies import Refusal, delegate_ask, device_ask, member_ask

TOKEN = {"access_token": "a", "matrix_server_name": "x.org"}
DEVICE = {"room": "!r:x", "openid_token": TOKEN}
MEMBER = {
    "room_id": "!r:x",
    "slot_id": "s",
    "openid_token": TOKEN,
    "member": {"id": "m", "claimed_user_id": "@u:x", "claimed_device_id": "D"},
}


def refused(read, body):
    with pytest.raises(Refusal) as caught:
        read(body if isinstance(body, bytes) else json.dumps(body).encode())
    return caught.value.status, caught.value.errcode


def test_null_leaves_what_an_earlier_key_said():
    body = b'{"room":"!r:x","room":null,"openid_token":{"access_token":"a"},' + (
        b'"openid_token":{"matrix_server_name":"x.org"},"ROOM":null,"member":null}'
    )
    assert refused(device_ask, body) == (400, "M_NOT_JSON")
    ask = device_ask(body.replace(b',"member":null', b""))
    assert (ask.room_id, ask.access_token, ask.server_name) == ("!r:x", "a", "x.org")


def test_keys_fold_as_the_originals_do():
    body = '{"Room":"!r:x","openid_to\u212aen":{"acce\u017f\u017f_token":"a","matrix_server_name":"x"}}'
    assert device_ask(body.encode()).access_token == "a"
    assert refused(device_ask, '{"roo\u00df":"x"}'.encode()) == (400, "M_NOT_JSON")


def test_half_a_surrogate_pair_becomes_a_replacement():
    ask = device_ask(json.dumps(DEVICE | {"room": "!r\ud800:x"}).encode())
    assert ask.room_id == "!r\ufffd:x"
    broken = json.dumps(DEVICE).encode().replace(b"!r:x", b"!r\xff:x")
    assert device_ask(broken).room_id == "!r\ufffd:x"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"x"',
        b"5",
        b"{",
        b"\xef\xbb\xbf{}",
        b'{"room":NaN}',
        b"[" * 100_000,
        b'{"room":{}}',
        b'{"delay_timeout":true}',
        b'{"delay_timeout":1e3}',
        b'{"delay_timeout":1.0}',
        b'{"delay_timeout":9223372036854775808}',
        b'{"openid_token":[]}',
        b'{"openid_token":{"x":1}}',
        b'{"delay_timeout":' + b"9" * 5000 + b"}",
    ],
)
def test_what_does_not_fit_is_no_json(body):
    assert refused(device_ask, body) == (400, "M_NOT_JSON")


def test_a_leave_needs_both_or_neither():
    assert device_ask(json.dumps(DEVICE | {"delay_timeout": 0}).encode()).delay_id == ""
    both = device_ask(json.dumps(DEVICE | {"delay_id": "d", "delay_timeout": 5}).encode())
    assert (both.delay_id, both.delay_ms) == ("d", 5)
    for delay in ({"delay_id": "d"}, {"delay_timeout": 5}, {"delay_id": "d", "delay_timeout": -5}):
        assert refused(member_ask, MEMBER | delay) == (400, "M_BAD_JSON")
    assert refused(delegate_ask, MEMBER) == (400, "M_BAD_JSON")


def test_no_secret_shows():
    body = MEMBER | {"delay_id": "delay-secret", "delay_timeout": 5}
    body["openid_token"] = {"access_token": "token-secret", "matrix_server_name": "x"}
    assert "secret" not in repr(delegate_ask(json.dumps(body).encode()))


jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(
                [*MEMBER, *DEVICE, *TOKEN, *MEMBER["member"], "delay_id", "delay_timeout"]
            )
            | st.text(),
            inner,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=200) | jsons.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_an_ask_or_a_refusal(body):
    for read in (device_ask, member_ask, delegate_ask):
        refusal = None
        try:
            ask = read(body)
        except Refusal as error:
            refusal = error
        if refusal is None:
            assert ask.room_id and ask.access_token and ask.server_name  # noqa: PT018
        else:
            assert refusal.status == 400
            assert json.loads(refusal.body())["errcode"] in ("M_NOT_JSON", "M_BAD_JSON")
