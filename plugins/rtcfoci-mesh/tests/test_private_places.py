"""The places inside aiortc and aioice that the engine reaches: a new version must keep them or be met."""

from __future__ import annotations

import inspect

import aioice
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection
from aiortc.rtcicetransport import RTCIceGatherer
from aiortc.rtcrtpreceiver import RTCRtpReceiver
from aiortc.stats import RTCTransportStats


async def test_the_transport_is_where_we_look_for_it() -> None:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
    try:
        transceiver = pc.addTransceiver("audio", direction="recvonly")
        channel = pc.createDataChannel("x", negotiated=True, id=0)
        assert channel.bufferedAmount == 0
        assert pc.sctp is not None
        dtls = pc.sctp.transport
        assert dtls is transceiver.receiver.transport, "media and data are not bundled"
        ice = dtls.transport
        assert inspect.iscoroutinefunction(ice._send)
        assert isinstance(ice._connection, aioice.Connection)
        (totals,) = dtls._get_stats().values()
        assert isinstance(totals, RTCTransportStats)
        assert totals.packetsReceived == 0
    finally:
        await pc.close()


def test_packets_are_sent_through_the_attribute_that_drills_replace() -> None:
    source = inspect.getsource(inspect.getmodule(RTCIceGatherer.__mro__[0].gather) or object)
    assert "self._send = self._connection.send" in source
    from aiortc.rtcdtlstransport import RTCDtlsTransport

    assert "self.transport._send(" in inspect.getsource(RTCDtlsTransport)


def test_gathering_takes_addresses_and_a_timeout() -> None:
    parameters = inspect.signature(aioice.Connection.get_component_candidates).parameters
    assert list(parameters) == ["self", "component", "addresses", "timeout"]
    source = inspect.getsource(aioice.Connection.gather_candidates)
    assert "self.get_component_candidates(component=component, addresses=addresses)" in source


def test_the_default_servers_are_public_which_is_why_we_never_leave_them_out() -> None:
    assert RTCIceGatherer.getDefaultIceServers()


def test_decoder_threads_take_after_the_thread_that_starts_them() -> None:
    source = inspect.getsource(RTCRtpReceiver.receive)
    assert "threading.Thread(" in source
    assert "daemon" not in source
