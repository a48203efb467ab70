"""The parsers of the mesh: what a peer signals, what it says on the data channels, what it sends as media."""

from __future__ import annotations

import re
from contextlib import suppress
from importlib.util import find_spec

from rtcfoci_mesh.assembly import MOST_PARTS, Assembly, Part
from rtcfoci_mesh.data import Acknowledged, AppData, Stream, pack, unpack
from rtcfoci_mesh.delivery import Delivery
from rtcfoci_mesh.ice import read_turn_server
from rtcfoci_mesh.jitter import MOST_HELD, JitterBuffer, Packet
from rtcfoci_mesh.roster import read_seat, seated
from rtcfoci_mesh.signalling import Negotiation
from rtcfoci_mesh.steps import Begin, Received, Tick
from rtcfoci_mesh.wire import MAX_LINES, Lines, check_sdp, read_signal, write_signal

from rtcfoci.core.model import Transport
from rtcfoci.errors import RemoteProtocolError
from tests.fuzz import seeds
from tests.fuzz.harness import items, of_bytes, of_json

INSTANCE = "i0"


@of_json(seeds.mesh_payloads)
def mesh_signal(value):
    """A signal and the description in it; what is read can be written, and read again."""
    for offerer in (True, False):
        machine = Negotiation(INSTANCE, offerer=offerer, need=Lines(1, 0))
        machine.handle(Begin(), 0.0)
        assert len(machine.handle(Received(value), 1.0)) < MAX_LINES
    try:
        read = read_signal(value)
    except RemoteProtocolError:
        return
    assert read_signal(write_signal(read)) == read


@of_json(seeds.mesh_talks, messages=items)
def mesh_talk(value):
    """One signal after the other, and time: what is remembered and done of them is bounded."""
    for offerer in (True, False):
        machine = Negotiation(INSTANCE, offerer=offerer, need=Lines(1, 0))
        now_s = 0.0
        machine.handle(Begin(), now_s)
        for payload in value if isinstance(value, list) else ():
            now_s += 0.5
            assert len(machine.handle(Received(payload), now_s)) < MAX_LINES
            if machine.timer is not None and machine.timer <= now_s:
                machine.handle(Tick(), now_s)
        assert machine.timer is None or machine.timer < now_s + 60


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


class Never:
    """A timer that is never due."""

    def cancel(self):
        pass


@of_bytes(seeds.mesh_streams)
def mesh_stream(data):
    """Messages one after the other, each behind its length: reliable ones come once and in order."""
    sent, taken = [], []
    delivery = Delivery("s", lambda frame: sent.append(frame) or True, lambda _s, _do: Never())
    delivery.opened()
    for _ in range(4):
        delivery.send(pack(AppData("t", b"x")))
    while data:
        frame, data = data[1 : 1 + data[0]], data[1 + data[0] :]
        message = unpack(frame)
        if isinstance(message, Stream | Acknowledged):
            delivery.take(message)
            taken.clear()
        elif (
            isinstance(message, AppData)
            and message.number is not None
            and delivery.is_next(message.number, len(frame))
        ):
            taken.append(message.number)
    assert taken == sorted(set(taken))
    assert len(sent) < 16


@of_bytes(seeds.mesh_descriptions)
def mesh_description(data):
    """A session description: few candidates are left of it, and the engine's reader takes or refuses it."""
    text = data.decode("utf-8", "replace")
    check_sdp(text)
    if not find_spec("aiortc"):
        return
    from aiortc.sdp import SessionDescription
    from rtcfoci_mesh.aiortc_link import bound_candidates

    bounded, names = bound_candidates(text)
    assert len(names) <= 4
    assert len(set(re.findall(r"^a=candidate:(.*)\r?\n", bounded, re.MULTILINE))) <= 64
    assert bound_candidates(bounded)[0] == bounded
    with suppress(Exception):  # the engine's own trouble ends the attempt
        SessionDescription.parse(bounded)


@of_bytes(seeds.mesh_packets, messages=lambda data: len(data) // 6)
def mesh_sound(data):
    """Packets of sound, six bytes each: those that come out are in order, and few wait."""
    buffer, now_s = JitterBuffer(48_000), 0.0
    for number, timestamp, wait in _packets(data):
        now_s += wait / 1000
        buffer.put(Packet(number, timestamp, b"x", now_s))
        assert len(buffer._held) <= MOST_HELD + 1
    buffer.expire(now_s + 1)
    assert buffer.due_s is None


@of_bytes(seeds.mesh_packets, messages=lambda data: len(data) // 6)
def mesh_video(data):
    """Packets of pictures, six bytes each: a picture is whole, and few wait."""
    assembly, now_s = Assembly(), 0.0
    for number, timestamp, flags in _packets(data):
        now_s += (flags >> 2) / 100
        part = Part(
            number=number,
            timestamp=timestamp,
            last=bool(flags & 1),
            key=bool(flags & 2),
            payload=b"x",
            arrival_ns=int(now_s * 1e9),
        )
        for picture in assembly.put(part, now_s):
            assert picture.data
        assert len(assembly._parts) <= MOST_PARTS
        assert len(assembly.requests(now_s).numbers) <= 64


def _packets(data):
    for at in range(0, len(data) - 5, 6):
        yield (
            int.from_bytes(data[at : at + 2], "big"),
            int.from_bytes(data[at + 2 : at + 5], "big"),
            data[at + 5],
        )


@of_json(seeds.mesh_seats)
def mesh_seat(value):
    """Transports of members: everybody has a seat, and few are seated."""
    seats = []
    for number, raw in enumerate(value[:64] if isinstance(value, list) else ()):
        if isinstance(raw, dict) and isinstance(raw.get("type"), str):
            member = seeds.membership(seeds.MEMBERS[number % 2], Transport(raw["type"], raw))
            seats.append(read_seat(member, ("rtcfoci.mesh",)))
    assert all(0 <= seat.joined_ts_ms <= seeds.CREATED_TS_MS for seat in seats)
    assert len(seated(seats, max_video=1, max_audio=2)) <= 2


@of_json(seeds.mesh_turns)
def mesh_turn(value):
    """The homeserver's TURN servers: addresses of one form, kept for a bounded time."""
    servers, keep_s = read_turn_server(value if isinstance(value, dict) else {})
    assert 5 <= keep_s < 1e7
    for server in servers:
        assert all(re.match("(stun|turn)s?:", found) for found in server.urls)
