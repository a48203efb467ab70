"""`rtcfoci join`: what its options ask of the call."""

from types import SimpleNamespace

import pytest

from rtcfoci.call import join as joining
from rtcfoci.cli import join as command
from rtcfoci.cli.main import main
from rtcfoci.errors import UsageError

JOIN = (
    "--plugin",
    "rtcfoci.testing.memory_types",
    "join",
    "!room:hs",
    "--focus",
    "memory.pairwise",
)


@pytest.fixture
def asked(monkeypatch):
    """What `rtcfoci.join` was asked for, and whose identities are forgotten."""
    told = {"forgotten": []}

    async def connect(_options):
        async def aclose():
            told["closed"] = True

        store = SimpleNamespace(forget_identity=told["forgotten"].append)
        return SimpleNamespace(store=store, aclose=aclose)

    def join(_client, room, **options):
        told.update(options, room=room)
        raise UsageError("enough is seen", why="this is a test", do="nothing")

    monkeypatch.setattr(command, "connect_account", connect)
    monkeypatch.setattr(joining, "join", join)
    return told


def test_trust_is_required_where_that_is_said(asked, capsys):
    assert main(JOIN) == 2
    assert (asked["require_trusted"], asked["forgotten"]) == (False, [])
    options = ["--require-trusted", "--accept-identity", "@ann:hs", "--accept-identity", "@bob:hs"]
    assert main([*JOIN, *options]) == 2
    assert (asked["require_trusted"], asked["forgotten"]) == (True, ["@ann:hs", "@bob:hs"])
    assert asked["closed"]
    assert "enough is seen" in capsys.readouterr().err
