"""Names on the SFU, against vectors of deployed services."""

from rtcfoci_livekit_auth import names


def test_names_are_those_of_deployed_services():
    alias = names.room_alias("!roomid:example.com", "slot1234")
    assert alias == "O8437W3+jmzMVjoIP3tNwbm+XxHQk2iKpOA7aqw3qSc"
    device = names.device_identity("@alice:example.com", "DEVICE123", "memberABC")
    assert device == "J+T45tGruxc+HrUOqJJlyQSV33m728Cme4+vt8/SWrU"
    member = names.member_identity("@alice:example.com", "memberABC")
    assert member == "M3VnsLXrkbxIDINXO64u8PZzFyD9ZYFiQULR2dshWYs"
    assert names.plain_identity("@a:b", "DEV") == "@a:b:DEV"


def test_letters_that_html_escapes_are_hashed_as_they_are():
    assert names.room_alias("!a&b:c", "<s>") == names.hashed_identity("!a&b:c", "<s>")
    assert names.room_alias("!a&b:c", "s") != names.room_alias("!a\\u0026b:c", "s")


def test_a_salt_makes_another_alias():
    aliases = {names.room_alias("!r:x", "s", salt=salt) for salt in ("", "one", "two")}
    assert len(aliases) == 3
