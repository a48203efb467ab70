"""What a focus type names: its backend, its configuration, its transports; what is wrong with them."""

import pytest

from rtcfoci.errors import PluginError, RemoteProtocolError, UsageError
from rtcfoci.plugin import (
    CliCommand,
)
from tests.plugin.offering import Config, focus_type, with_hook


def test_backends_are_created_with_their_configuration() -> None:
    manager = with_hook("rtcfoci_focus_types", lambda: [focus_type(aliases=("here",))])
    context = object()
    backend = manager.create_backend("here", context, {"port": 7})
    assert isinstance(backend.config, Config)
    assert backend.config.port == 7
    assert backend.context is context


def test_a_wrong_configuration_is_told_without_its_values() -> None:
    manager = with_hook("rtcfoci_focus_types", lambda: [focus_type()])
    with pytest.raises(UsageError) as told:
        manager.create_backend("org.example.here", object(), {"port": "hunter2", "prot": "hunter2"})
    assert "port: " in told.value.why
    assert "prot: " in told.value.why
    assert told.value.do
    assert "hunter2" not in str(told.value)


def test_a_type_without_configuration_takes_none() -> None:
    manager = with_hook("rtcfoci_focus_types", lambda: [focus_type(config_model="")])
    assert manager.create_backend("org.example.here", object()).config is None
    with pytest.raises(UsageError, match="takes no configuration"):
        manager.create_backend("org.example.here", object(), {"port": 7})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"backend": "surely_not_installed:Backend"}, "cannot be loaded"),
        ({"backend": "tests.plugin.offering:Missing"}, "cannot be loaded"),
        ({"backend": "tests.plugin.offering:NotABackend"}, "not a subclass"),
        ({"config_model": "tests.plugin.offering:NotABackend"}, "not a pydantic model"),
    ],
)
def test_broken_references_are_the_plugins_fault(changes, told) -> None:
    manager = with_hook("rtcfoci_focus_types", lambda: [focus_type(**changes)], "example-dist")
    with pytest.raises(PluginError, match=told) as error:
        manager.create_backend("org.example.here", object(), {"port": 7})
    assert error.value.distribution == "example-dist"
    checked = manager.check()
    assert bool(checked.failures) == (told == "cannot be loaded")


def test_a_missing_extra_is_named(tmp_path, monkeypatch) -> None:
    manager = with_hook(
        "rtcfoci_cli_commands",
        lambda: [CliCommand(name="x", summary="", run="needs_rich:run")],
    )
    (tmp_path / "needs_rich.py").write_text("raise ModuleNotFoundError('none', name='rich.table')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError) as told:
        manager.command("x")
    assert told.value.do == "pip install 'rtcfoci[cli]'"


def test_transports_keep_every_key_and_unknown_types_pass() -> None:
    manager = with_hook("rtcfoci_focus_types", lambda: [focus_type()])
    raw = {"type": "org.example.here", "url": "x", "org.example.more": [1, {"a": None}]}
    assert manager.parse_transport(raw).raw == raw
    foreign = {"type": "org.example.foreign", "anything": 1}
    assert manager.parse_transport(foreign).raw == foreign
    assert manager.recognise("org.example.foreign") is None


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"type": 7},
        {"type": ""},
        {"type": "org.example.here"},
        {"type": "org.example.here", "url": "careless"},
    ],
)
def test_malformed_transports_are_refused_with_every_problem(raw) -> None:
    manager = with_hook("rtcfoci_focus_types", lambda: [focus_type()])
    with pytest.raises(RemoteProtocolError) as told:
        manager.parse_transport(raw)
    assert told.value.problems
