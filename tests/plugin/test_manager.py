"""The guarded manager: what it finds, what it refuses, and that nothing stops the others."""

import subprocess
import sys
import types
from dataclasses import dataclass

import pytest

from rtcfoci.errors import UsageError
from rtcfoci.plugin import (
    Capabilities,
    DialectInfo,
    FocusType,
    SelectionPolicyInfo,
    Topology,
    hookimpl,
)
from rtcfoci.plugin.manager import PluginInfo, PluginManager
from tests.plugin.offering import (
    focus_type,
    nothing,
    plugin_of,
    with_hook,
    with_plugins,
)

PLUGIN = """
from rtcfoci.plugin import Capabilities, FocusType, Topology, hookimpl

@hookimpl
def rtcfoci_focus_types():
    return [FocusType(type="{type}", aliases=("{alias}",), backend="nowhere:Backend",
        topology=Topology.ELECTED, capabilities=Capabilities(data=True), contract={contract})]
"""


def source(type: str = "org.example.one", alias: str = "one", contract: int = 1) -> str:
    return PLUGIN.format(type=type, alias=alias, contract=contract)


def only(manager: PluginManager):
    (failure,) = manager.report.failures
    return failure


def test_builtins_come_through_the_hooks(load) -> None:
    report = load().report
    assert [offer.descriptor.name for offer in report.dialects][:7] == [
        "D0",
        "D1",
        "D2",
        "D3",
        "D4",
        "D5",
        "D6/D7",
    ]
    assert {"oldest_membership", "each_its_own"} <= {
        offer.descriptor.name for offer in report.selection_policies
    }
    commands = {offer.descriptor.name: offer.plugin for offer in report.cli_commands}
    assert {"demo", "join", "plugins", "slot", "watch"} <= set(commands)
    assert commands["plugins"].distribution == "rtcfoci"
    assert commands["plugins"].version


def test_an_installed_plugin_is_found_with_its_distribution(install, load) -> None:
    install("example-one", "example_one", source(), version="3.4")
    manager = load()
    (offer,) = [o for o in manager.report.focus_types if o.descriptor.type == "org.example.one"]
    assert offer.plugin == PluginInfo("example_one", "example-one", "3.4")
    assert manager.focus_type("one").type == "org.example.one"


def test_a_plugin_that_fails_to_import_is_told_and_stops_nobody(install, load) -> None:
    install("example-bad", "example_bad", "import surely_not_installed", version="0.9")
    install("example-one", "example_one", source())
    manager = load()
    assert "org.example.one" in [kind.type for kind in manager.focus_types]
    failure = only(manager)
    assert failure.plugin == PluginInfo("example_bad", "example-bad", "0.9")
    assert failure.error.distribution == "example-bad"
    assert "surely_not_installed" in failure.error.why
    assert "example-bad" in failure.error.do


@pytest.mark.parametrize("name", ["example_one", "example-one"])
def test_the_block_list_takes_plugins_and_distributions(install, load, name) -> None:
    install("example-one", "example_one", "raise SystemError('it was imported')")
    for manager in (load(block=[name]), load(environ={"RTCFOCI_BLOCK_PLUGINS": f"x, {name}"})):
        assert not manager.report.failures


def test_an_unpackaged_plugin_is_loaded_by_reference(load, tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "workbench.py").write_text(
        source("org.example.bench", "bench") + "\nclass Inner:\n    pass\n"
    )
    assert load(plugins=["workbench"]).focus_type("bench").type == "org.example.bench"
    manager = load(plugins=["workbench", "workbench:Nothing"])
    assert manager.focus_type("bench")
    assert "Nothing" in only(manager).error.why


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("rtcfoci_focus_type", "rtcfoci_focus_types"),
        ("rtcfoci_dialekts", "rtcfoci_dialects"),
        ("something_else", "the hooks are"),
    ],
)
def test_misspelt_hooks_are_refused(name, meant) -> None:
    manager = with_hook(name, nothing)
    failure = only(manager)
    assert f"no hook {name}" in failure.error.what
    assert meant in failure.error.do
    assert manager.report.plugins == ()


def test_a_forgotten_marker_is_refused() -> None:
    def rtcfoci_dialects():
        return []

    manager = with_plugins(
        (PluginInfo("x"), types.SimpleNamespace(rtcfoci_dialects=rtcfoci_dialects))
    )
    assert "not marked" in only(manager).error.what
    assert "@hookimpl" in only(manager).error.do


def test_an_optional_hook_of_a_later_version_is_allowed() -> None:
    plugin = types.SimpleNamespace(rtcfoci_later=hookimpl(nothing, optionalhook=True))
    assert with_plugins((PluginInfo("x"), plugin)).report.failures == ()


def test_a_hook_with_arguments_that_do_not_exist_is_refused() -> None:
    manager = with_hook("rtcfoci_dialects", lambda config: [])
    assert "does not fit" in only(manager).error.what
    assert manager.report.plugins == ()


async def _coroutine():
    return []


async def _generator():
    yield focus_type()


def _raising():
    raise ValueError("no luck")


def _late():
    yield focus_type()
    raise ValueError("no luck")


def _exiting():
    raise SystemExit(3)


@dataclass(frozen=True, kw_only=True)
class FocusTypeOfTheirs(FocusType):
    weight: object = None


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (_coroutine, "asynchronous"),
        (_generator, "asynchronous"),
        (_raising, "failed"),
        (_late, "failed"),
        (_exiting, "failed"),
        (lambda: focus_type(), "returned FocusType"),
        (lambda: "mesh", "returned str"),
        (lambda: {"type": "mesh"}, "returned dict"),
        (lambda: 7, "returned int"),
        (lambda: ["mesh"], "list with str"),
        (lambda: [DialectInfo(name="x", dialect="a:b", event_types=())], "list with DialectInfo"),
        (lambda: [focus_type(aliases="mesh")], "aliases is str"),
        (lambda: [focus_type(aliases=("",))], "aliases holds"),
        (lambda: [focus_type(aliases=None)], "aliases is NoneType"),
        (lambda: [focus_type(aliases=([],))], "aliases holds"),
        (lambda: [focus_type(type=[])], "type is list"),
        (lambda: [focus_type(type="")], "type is empty"),
        (lambda: [focus_type(topology="elected")], "topology is str"),
        (lambda: [focus_type(backend="no_colon")], "not module:attribute"),
        (lambda: [focus_type(capabilities=Capabilities(data="yes"))], "data is str"),
        (lambda: [focus_type(capabilities=None)], "capabilities is NoneType"),
    ],
)
def test_what_a_hook_may_not_return_is_told(function, told) -> None:
    failure = only(manager := with_hook("rtcfoci_focus_types", function, "example-dist"))
    assert told in f"{failure.error.what} {failure.error.why}"
    assert failure.error.do
    assert failure.error.distribution == "example-dist"
    assert manager.focus_types == []


def test_a_descriptor_may_have_fields_of_its_own() -> None:
    extended = FocusTypeOfTheirs(
        type="x", backend="a:b", topology=Topology.ELECTED, capabilities=Capabilities(data=True)
    )
    manager = with_hook("rtcfoci_focus_types", lambda: [extended])
    assert manager.focus_types == [extended]
    assert not manager.failures


def test_a_plugin_that_exits_or_holds_lazy_objects_stops_nobody(install, load) -> None:
    install("example-exit", "example_exit", "raise SystemExit('run as a script')")
    lazy = "class Lazy:\n    def __getattr__(self, name): raise RuntimeError('not yet')\n"
    install("example-one", "example_one", source() + f"\n{lazy}\nlazy = Lazy()\n")
    manager = load()
    assert manager.focus_type("one")
    assert only(manager).plugin.distribution == "example-exit"


def test_a_bad_descriptor_does_not_take_the_good_ones_along() -> None:
    manager = with_hook("rtcfoci_focus_types", lambda: [focus_type(), "mesh"])
    assert [kind.type for kind in manager.focus_types] == ["org.example.here"]
    assert only(manager)


@pytest.mark.parametrize(
    ("contract", "remedy"),
    [(0, "pip install --upgrade example-dist"), (2, "pip install --upgrade rtcfoci")],
)
def test_a_contract_mismatch_names_what_to_upgrade(contract, remedy) -> None:
    manager = with_hook(
        "rtcfoci_focus_types", lambda: [focus_type(contract=contract)], "example-dist"
    )
    assert only(manager).error.do == remedy
    assert f"contract {contract}" in only(manager).error.why


def rivals(**options: object) -> PluginManager:
    def one():
        return [focus_type("org.example.x"), focus_type("org.example.a")]

    def two():
        return [focus_type("org.example.b", aliases=("org.example.x",))]

    return with_plugins(
        (PluginInfo("one", "dist-one"), plugin_of(rtcfoci_focus_types=one)),
        (PluginInfo("two", options.pop("second", "dist-two")), plugin_of(rtcfoci_focus_types=two)),
        **options,
    )


def test_a_type_claimed_twice_loads_from_neither() -> None:
    manager = rivals()
    assert [kind.type for kind in manager.focus_types] == ["org.example.a"]
    assert {failure.plugin.distribution for failure in manager.failures} == {"dist-one", "dist-two"}
    for failure in manager.failures:
        assert "dist-one and by dist-two" in failure.error.why
        assert "RTCFOCI_PREFER_PLUGINS=org.example.x=" in failure.error.do


def test_configuration_chooses_between_two_claims() -> None:
    first = rivals(prefer={"org.example.x": "dist-one"})
    assert [kind.type for kind in first.focus_types] == ["org.example.x", "org.example.a"]
    second = rivals(prefer={"org.example.x": "dist-two"})
    assert [kind.type for kind in second.focus_types] == ["org.example.a", "org.example.b"]
    assert not first.failures
    assert not second.failures


def test_the_environment_chooses_too(install, load) -> None:
    install("example-one", "example_one", source())
    install("example-two", "example_two", source())
    assert len(load().report.failures) == 4  # two names, two claimants
    chosen = "org.example.one=example-two,one=example-two"
    manager = load(environ={"RTCFOCI_PREFER_PLUGINS": chosen})
    (offer,) = [o for o in manager.report.focus_types if o.descriptor.type == "org.example.one"]
    assert offer.plugin.distribution == "example-two"
    assert not manager.failures


def test_naming_an_unpackaged_plugin_is_a_choice() -> None:
    manager = rivals(second="")
    assert "org.example.b" in [kind.type for kind in manager.focus_types]
    assert not manager.failures


def test_every_hook_call_can_be_traced(load, capsys) -> None:
    assert load(environ={"RTCFOCI_TRACE_PLUGINS": "1"}).report.dialects
    lines = capsys.readouterr().err.splitlines()
    for hook in ("focus_types", "dialects", "selection_policies", "cli_commands"):
        assert any(f"hook rtcfoci_{hook} ->" in line for line in lines)
    assert any("rtcfoci/builtin" in line for line in lines)
    assert load(environ={"RTCFOCI_TRACE_PLUGINS": "0"}).report.dialects
    assert capsys.readouterr().err == ""


def test_hooks_are_called_in_this_order(install, load, capsys) -> None:
    install("b-dist", "b_plugin", source("org.example.b", "b"))
    install("a-dist", "a_plugin", source("org.example.a", "a"))
    install("z-dist", "z_plugin", source("org.example.z", "z"))
    manager = load(environ={"RTCFOCI_TRACE_PLUGINS": "1"})
    assert capsys.readouterr().err == ""  # loading calls nothing
    assert manager.report == manager.report  # asked once, remembered
    calls = [
        line.removeprefix("rtcfoci: hook rtcfoci_")
        for line in capsys.readouterr().err.splitlines()
        if "->" in line and ("/builtin" in line or "_plugin" in line)
    ]
    assert calls == [
        "focus_types -> a-dist/a_plugin",
        "focus_types -> b-dist/b_plugin",
        "focus_types -> z-dist/z_plugin",
        "dialects -> rtcfoci/builtin",
        "selection_policies -> rtcfoci/builtin",
        "reading_policies -> rtcfoci/builtin",
        "cli_commands -> rtcfoci/builtin",
    ]


def test_an_unknown_type_says_what_to_install_or_what_was_meant() -> None:
    manager = with_hook("rtcfoci_focus_types", lambda: [focus_type(aliases=("here",))])
    with pytest.raises(UsageError) as livekit:
        manager.focus_type("m.livekit")
    assert livekit.value.what == ("no installed focus type for m.livekit (install rtcfoci-livekit)")
    assert livekit.value.do == "pip install rtcfoci-livekit"
    with pytest.raises(UsageError) as typo:
        manager.focus_type("heer")
    assert typo.value.do == "did you mean here?"
    assert "org.example.here" in typo.value.why
    with pytest.raises(UsageError, match="no installed focus type") as unlike:
        manager.focus_type("quite different")
    assert "rtcfoci plugins" in unlike.value.do


def test_a_type_whose_plugin_failed_sends_to_the_report(install, load) -> None:
    install("rtcfoci-livekit", "broken_livekit", "import surely_not_installed")
    with pytest.raises(UsageError) as told:
        load().focus_type("livekit")
    assert "rtcfoci plugins" in told.value.do
    assert "rtcfoci-livekit" in told.value.why


def test_an_unknown_command_suggests(load) -> None:
    with pytest.raises(UsageError) as told:
        load().command("jion")
    assert told.value.do == "did you mean join?"


def test_policies_claimed_twice_load_from_neither() -> None:
    def policy():
        return [SelectionPolicyInfo(name="mine", policy="a:b")]

    manager = with_plugins(
        (PluginInfo("one", "dist-one"), plugin_of(rtcfoci_selection_policies=policy)),
        (PluginInfo("two", "dist-two"), plugin_of(rtcfoci_selection_policies=policy)),
    )
    assert manager.selection_policies == []
    assert len(manager.failures) == 2


@pytest.mark.parametrize(
    "statement", ["import rtcfoci", "from rtcfoci.cli.main import main; main(['--help'])"]
)
def test_starting_loads_nothing_heavy(statement) -> None:
    heavy = "asyncio pydantic aiohttp nio av numpy rich PIL"
    script = f"import sys\n{statement}\nprint([m for m in {heavy!r}.split() if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
