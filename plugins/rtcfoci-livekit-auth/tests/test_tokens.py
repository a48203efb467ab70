"""Our tokens are livekit-api's, grant by grant."""

import json
from base64 import urlsafe_b64decode
from datetime import timedelta
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from livekit import api
from rtcfoci_livekit_auth.tokens import Grants, Minter
from settings_of import SECRET

NOW_S = 1_800_000_000
texts = st.text(min_size=1, max_size=40)
grants = st.builds(
    Grants,
    can_publish=st.booleans(),
    can_update_own_metadata=st.booleans(),
    room_create_shown=st.booleans(),
)


def claims_of(token):
    return json.loads(urlsafe_b64decode(token.split(".")[1] + "=="))


def understood(token, key):
    """Read a token as LiveKit's library does, whatever the time."""
    with patch("jwt.api_jwt.PyJWT._validate_claims"):
        return api.TokenVerifier(key, SECRET).verify(token)


@settings(max_examples=60, deadline=None)
@given(grants=grants, key=texts, room=texts, identity=texts, ttl_s=st.integers(1, 86_400))
def test_a_participants_token_is_livekits_grant_by_grant(grants, key, room, identity, ttl_s):
    ours = Minter(key, SECRET).participant(
        grants, room=room, identity=identity, now_s=NOW_S, ttl_s=ttl_s
    )
    theirs = (
        api.AccessToken(key, SECRET)
        .with_identity(identity)
        .with_ttl(timedelta(seconds=ttl_s))
        .with_grants(
            api.VideoGrants(
                room_join=True,
                room=room,
                can_publish=grants.can_publish,
                can_publish_data=grants.can_publish,
                can_subscribe=True,
                can_update_own_metadata=grants.can_update_own_metadata,
                room_create=False if grants.room_create_shown else None,
            )
        )
        .to_jwt()
    )
    assert understood(ours, key) == understood(theirs, key)
    claims = claims_of(ours)
    assert (claims["iss"], claims["sub"], claims["identity"]) == (key, identity, identity)
    assert (claims["iat"], claims["nbf"], claims["exp"]) == (NOW_S, NOW_S, NOW_S + ttl_s)
    assert set(claims) == {"iss", "sub", "exp", "nbf", "iat", "identity", "video"}
    assert ours.split(".")[0] == theirs.split(".")[0]


@settings(max_examples=30, deadline=None)
@given(room=texts)
def test_our_own_tokens_are_livekits_grant_by_grant(room):
    minter = Minter("key", SECRET)
    for ours, wanted in (
        (minter.room_creator(now_s=NOW_S), api.VideoGrants(room_create=True)),
        (minter.room_admin(room, now_s=NOW_S), api.VideoGrants(room_admin=True, room=room)),
        (minter.room_lister(now_s=NOW_S), api.VideoGrants(room_list=True)),
    ):
        theirs = api.AccessToken("key", SECRET).with_grants(wanted).to_jwt()
        assert understood(ours, "key") == understood(theirs, "key")


def test_what_the_original_grants_is_all_that_is_in_its_token():
    grants = Grants(can_publish=True, can_update_own_metadata=True, room_create_shown=False)
    token = Minter("key", SECRET).participant(
        grants, room="r", identity="i", now_s=NOW_S, ttl_s=3600
    )
    assert claims_of(token)["video"] == {
        "roomJoin": True,
        "room": "r",
        "canPublish": True,
        "canSubscribe": True,
        "canUpdateOwnMetadata": True,
    }


def test_the_creators_token_is_used_again_for_half_its_life_and_never_before_its_time():
    minter = Minter("key", SECRET)
    first = minter.room_creator(now_s=NOW_S)
    assert minter.room_creator(now_s=NOW_S + 299) == first
    assert minter.room_creator(now_s=NOW_S + 300) != first
    assert claims_of(minter.room_creator(now_s=NOW_S - 3600))["nbf"] == NOW_S - 3600


def test_a_signature_is_checked():
    minter = Minter("key", SECRET)
    token = minter.room_admin("r", now_s=NOW_S)
    with pytest.raises(ValueError, match="not yet valid"):
        minter.verify(token)
    with pytest.raises(ValueError, match="Signature"):
        Minter("key", SECRET + "x").verify(token)


def test_no_secret_shows():
    minter = Minter("key", SECRET)
    assert SECRET not in repr(minter)
    assert minter.derived("one") != minter.derived("two")
    assert minter.derived("one") == Minter("key", SECRET).derived("one")
