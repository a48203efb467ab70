"""Identities against vectors: those of MSC4195, and those that were computed from the text."""

import pytest

from rtcfoci.core.identity import backend_identity, hashed_identity
from rtcfoci.core.model import Member

PUBLISHED = "J+T45tGruxc+HrUOqJJlyQSV33m728Cme4+vt8/SWrU"
"""MSC4195; also in the tests of matrix-js-sdk and lk-jwt-service."""


@pytest.mark.parametrize(
    ("parts", "hashed"),
    [
        (("@alice:example.com", "DEVICE123", "memberABC"), PUBLISHED),
        # Two parts: the text of 2026-09; computed, not published.
        (("@alice:example.com", "memberABC"), "M3VnsLXrkbxIDINXO64u8PZzFyD9ZYFiQULR2dshWYs"),
        # Of MSC4195, for rooms: the same construction.
        (("!roomid:example.com", "slot1234"), "O8437W3+jmzMVjoIP3tNwbm+XxHQk2iKpOA7aqw3qSc"),
        (("!roomid:example.com", "m.call#ROOM"), "F4oOprKFBq6JHqy2qYpq6UQQmR7hCvxkQQoUrd0+SbI"),
        (
            ("!roomid:example.com", "slot123", "random123"),
            "IMeDd+K3MIqJTI20EXBIrepKkhhORvf3q8fx3rlrhTk",
        ),
    ],
)
def test_hash_vectors(parts, hashed):
    assert hashed_identity(*parts) == hashed


def test_the_form_follows_the_kind_of_event_and_what_is_known():
    alice = Member(user_id="@alice:example.com", device_id="DEVICE123", member_id="memberABC")
    assert backend_identity(alice, sticky=False) == "@alice:example.com:DEVICE123"
    assert backend_identity(alice, sticky=True) == PUBLISHED
    unknown = Member(user_id="@alice:example.com", device_id=None, member_id="memberABC")
    assert backend_identity(unknown, sticky=True) == "M3VnsLXrkbxIDINXO64u8PZzFyD9ZYFiQULR2dshWYs"


def test_text_is_hashed_as_it_is_and_never_escaped():
    # Of `["é<&>","\"\\"]` in UTF-8, by sha256sum: Go would escape <, & and >, Python é.
    assert hashed_identity("é<&>", '"\\') == "gulmMflU93rYfR6K9/OUpjgbeD+ARfv9kK/Uw3pNEX0"


def test_half_a_character_does_not_raise():
    assert hashed_identity("\ud800")
