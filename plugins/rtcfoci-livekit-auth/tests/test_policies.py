"""Each generation, value by value; and each value as a setting of its own."""

from dataclasses import asdict

import pytest
from rtcfoci_livekit_auth.policies import POLICIES
from rtcfoci_livekit_auth.settings import SettingsError
from settings_of import settings_of

VALUES = {
    #                          go-0.5, rust-0.7, msc4195
    "restricted_may_publish": (True, False, False),
    "may_update_own_metadata": (True, True, False),
    "room_create_shown": (False, True, True),
    "token_ttl_s": (3600, 3600, 600),
    "salted_alias": (False, False, True),
    "identity_with_device": (True, True, False),
    "rooms_for_remote_members": (False, False, True),
    "look_up_delay": (True, False, True),
    "refuse_private_addresses": (False, False, True),
    "rate_limits": (False, False, True),
    "webhook_refusals_shown": (False, False, True),
    "lookup_tries": (1, 1, 3),
    "check_membership": (False, False, True),
    "careful_leaves": (False, False, True),
    "kick_leavers": (False, False, True),
}


def test_the_table_value_by_value():
    names = ("go-0.5", "rust-0.7", "msc4195")
    assert tuple(POLICIES) == names
    for index, name in enumerate(names):
        row = {value: of_all[index] for value, of_all in VALUES.items()}
        assert asdict(POLICIES[name]) == {"name": name} | row


def test_the_original_is_the_default():
    assert settings_of().policy == POLICIES["go-0.5"]


@pytest.mark.parametrize("value", VALUES)
def test_every_value_can_be_set_by_itself(value):
    now = getattr(POLICIES["msc4195"], value)
    given = str(not now).lower() if isinstance(now, bool) else str(now + 1)
    policy = settings_of(
        RTCFOCI_AUTH_POLICY="msc4195", **{f"RTCFOCI_AUTH_{value.upper()}": given}
    ).policy
    changed = {k for k, v in asdict(policy).items() if v != asdict(POLICIES["msc4195"])[k]}
    assert changed == {value}


def test_a_policy_that_is_none_is_refused():
    with pytest.raises(SettingsError) as caught:
        settings_of(RTCFOCI_AUTH_POLICY="go-0.6")
    assert caught.value.variable == "RTCFOCI_AUTH_POLICY"
    assert "go-0.5, rust-0.7, msc4195" in caught.value.do
    with pytest.raises(SettingsError, match="TOKEN_TTL_S"):
        settings_of(RTCFOCI_AUTH_TOKEN_TTL_S="ten")


def test_the_successors_own_metadata_setting_counts_only_when_it_is_true():
    def may(**more):
        return settings_of(**more).policy.may_update_own_metadata

    assert may(RTCFOCI_AUTH_POLICY="msc4195", LIVEKIT_CAN_UPDATE_OWN_METADATA="true")
    assert not may(LIVEKIT_CAN_UPDATE_OWN_METADATA="yes")
    assert may(LIVEKIT_CAN_UPDATE_OWN_METADATA="")
