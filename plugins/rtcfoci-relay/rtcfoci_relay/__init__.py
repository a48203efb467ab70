"""A data-only focus for rtcfoci: a relay of game state over WebSocket, and its server."""

from rtcfoci.plugin import Capabilities, CliCommand, FocusType, Security, Topology, hookimpl


@hookimpl
def rtcfoci_focus_types() -> list[FocusType]:
    """Offer the relay."""
    can, code = Capabilities(data=True, needs_server=True), "rtcfoci_relay.backend:"
    return [FocusType(type="rtcfoci.relay", aliases=("relay",), topology=Topology.ELECTED,
                      backend=code + "RelayBackend", config_model=code + "Config",
                      capabilities=can, data_security=Security.HOP)]  # fmt: skip


@hookimpl
def rtcfoci_cli_commands() -> list[CliCommand]:
    """Offer the server."""
    return [CliCommand(name="relay", summary="serve a game relay", run="rtcfoci_relay.server:run")]
