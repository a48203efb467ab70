"""What the demo settles before anything starts."""

import argparse
from types import SimpleNamespace

import pytest

from rtcfoci.cli.options import Options, use
from rtcfoci.plugin import Capabilities, FocusType, Topology, hookimpl
from rtcfoci.plugin.manager import PluginInfo, PluginManager


def settled(tmp_path, *focus):
    from rtcfoci.cli.demo import _settle

    def kind(type, *aliases):
        return FocusType(
            type=type,
            aliases=aliases,
            backend="nowhere:Backend",
            topology=Topology.PAIRWISE,
            capabilities=Capabilities(audio=True),
        )

    @hookimpl
    def rtcfoci_focus_types():
        return [kind("org.example.mesh", "mesh"), kind("org.example.other")]

    manager = PluginManager()
    manager.add(PluginInfo("x"), lambda: SimpleNamespace(rtcfoci_focus_types=rtcfoci_focus_types))
    use(Options(manager=manager))
    options = argparse.Namespace(
        focus=list(focus), focus_option=[], out=tmp_path, seed=1, sabotage=None, beside=[]
    )
    try:
        return _settle(options).foci
    finally:
        use(Options())


@pytest.mark.parametrize(
    ("focus", "config"),
    [
        ([], {"loopback": True}),
        (["mesh"], {"loopback": True}),
        (["org.example.mesh"], {"loopback": True}),
        (["org.example.other"], {}),
    ],
)
def test_the_mesh_keeps_to_loopback_however_it_is_named(tmp_path, focus, config):
    assert settled(tmp_path, *focus) == [((focus or ["mesh"])[0], config)]
