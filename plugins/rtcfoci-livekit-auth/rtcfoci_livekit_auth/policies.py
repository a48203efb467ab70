"""What the generations of the service decide differently, as a table of values.

In: `Policy` and the table `POLICIES`. Out: any branch on a policy's name: code asks for values. What an
operator may change on top of a policy is in `settings`.

`go-0.5` is lk-jwt-service of July 2026 (v0.5.0), `rust-0.7` its successor v0.7.0 of September 2026, and
`msc4195` the MSC as of September 2026 with every protection on.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["POLICIES", "Policy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The values of one generation."""

    name: str

    # What a token grants.
    restricted_may_publish: bool
    """Whether users of servers without full access, or of other servers, may publish."""
    may_update_own_metadata: bool
    """Whether participants may change their own metadata."""
    room_create_shown: bool
    """Whether a token says `roomCreate: false` aloud instead of leaving it out. It is never true: the
    grant would also allow deleting rooms."""
    token_ttl_s: int
    """How long a token lets somebody connect; who is connected stays."""

    # Names on the SFU.
    salted_alias: bool
    """Whether only this service can compute the alias of a room."""
    identity_with_device: bool
    """Whether the homeserver's endpoints put the device into the identity, where a client claims one."""

    # Who is served.
    rooms_for_remote_members: bool
    """Whether rooms are created for members of other servers, whose membership is proved."""
    look_up_delay: bool
    """Whether the delay is always asked of the homeserver, never believed of the client."""

    # Protections that a client could notice; each is a setting too.
    refuse_private_addresses: bool
    """Whether servers that nobody listed must have public addresses."""
    rate_limits: bool
    """Whether requests are limited per address, server and user."""
    webhook_refusals_shown: bool
    """Whether a webhook with a bad signature is answered with 401 instead of 200."""
    lookup_tries: int
    """How often a homeserver that cannot say whose a token is gets asked."""
    check_membership: bool
    """Whether every member must be joined to the Matrix room, wherever the homeserver lets us ask."""
    careful_leaves: bool
    """Whether a leave is sent only for the session that really ended, at once where it is certain."""
    kick_leavers: bool
    """Whether who left the Matrix room is removed from the SFU."""


POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy(
            name="go-0.5",
            restricted_may_publish=True,
            may_update_own_metadata=True,
            room_create_shown=False,
            token_ttl_s=3600,
            salted_alias=False,
            identity_with_device=True,
            rooms_for_remote_members=False,
            look_up_delay=True,
            refuse_private_addresses=False,
            rate_limits=False,
            webhook_refusals_shown=False,
            lookup_tries=1,
            check_membership=False,
            careful_leaves=False,
            kick_leavers=False,
        ),
        Policy(
            name="rust-0.7",
            restricted_may_publish=False,
            may_update_own_metadata=True,
            room_create_shown=True,
            token_ttl_s=3600,
            salted_alias=False,
            identity_with_device=True,
            rooms_for_remote_members=False,
            look_up_delay=False,
            refuse_private_addresses=False,
            rate_limits=False,
            webhook_refusals_shown=False,
            lookup_tries=1,
            check_membership=False,
            careful_leaves=False,
            kick_leavers=False,
        ),
        Policy(
            name="msc4195",
            restricted_may_publish=False,
            may_update_own_metadata=False,
            room_create_shown=True,
            token_ttl_s=600,
            salted_alias=True,
            identity_with_device=False,
            rooms_for_remote_members=True,
            look_up_delay=True,
            refuse_private_addresses=True,
            rate_limits=True,
            webhook_refusals_shown=True,
            lookup_tries=3,
            check_membership=True,
            careful_leaves=True,
            kick_leavers=True,
        ),
    )
}
"""Every policy by its name."""
