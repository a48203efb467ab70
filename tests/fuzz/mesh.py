"""The parsers of the mesh: what a peer signals, and what it says on the data channels."""

from __future__ import annotations

from rtcfoci_mesh.data import AppData, pack, unpack
from rtcfoci_mesh.signalling import Negotiation
from rtcfoci_mesh.steps import Begin, Received
from rtcfoci_mesh.wire import MAX_LINES, Lines, read_signal, write_signal

from rtcfoci.errors import RemoteProtocolError
from tests.fuzz import seeds
from tests.fuzz.harness import of_bytes, of_json


@of_json(seeds.mesh_payloads)
def mesh_signal(value):
    """A signal and the description in it; what is read can be written, and read again."""
    for offerer in (True, False):
        machine = Negotiation("i0", offerer=offerer, need=Lines(1, 0))
        machine.handle(Begin(), 0.0)
        assert len(machine.handle(Received(value), 1.0)) < MAX_LINES
    try:
        read = read_signal(value)
    except RemoteProtocolError:
        return
    assert read_signal(write_signal(read)) == read


@of_bytes(seeds.mesh_frames)
def mesh_frame(data):
    """A message of a data channel."""
    message = unpack(data)
    if message is None:
        return
    again = unpack(pack(message))
    if isinstance(message, AppData):
        assert (again.topic, again.payload) == (message.topic, message.payload)
    else:
        assert again == message
