"""The in-memory homeserver and Synapse 1.163.2 do the same: one file, both servers, one table.

Each `row` says a behaviour in words, what this server did, and what it must do. The facts behind the rows:
MSC4140 (delayed events), MSC4354 (sticky events) and what Synapse makes of them.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from rtcfoci.matrix.http import Response

if TYPE_CHECKING:
    from tests.parity.conftest import Client, Down, Row, Server

pytestmark = pytest.mark.system

DELAY = "org.matrix.msc4140.delay"
STICKY = "org.matrix.msc4354.sticky_duration_ms"
DELAYED = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
MEMBER = "org.matrix.msc3401.call.member"
RTC = "org.matrix.msc4143.rtc.member"
KEYED = {"msc4354_sticky_key": "k"}
TABLE = Path(__file__).parents[2] / "docs" / "reference" / "homeserver-parity.md"


def part(text: str) -> str:
    return quote(text, safe="")


def brief(answer: Response) -> str:
    """Say an answer in a few words: status, and the error code or the keys of the body."""
    if not isinstance(answer.body, dict):
        return f"{answer.status} list"
    code = answer.body.get("errcode")
    if code is not None:
        return f"{answer.status} {code}"
    return f"{answer.status} {{{', '.join(sorted(answer.body))}}}"


def events(sync: dict, room: str, section: str = "timeline", kind: str | None = None) -> list[dict]:
    joined = sync.get("rooms", {}).get("join", {}).get(room, {})
    found = joined.get(section, {}).get("events", [])
    return [e for e in found if kind in (None, e["type"])]


async def arrives(client: Client, room: str, kind: str, since: str, within_s: float) -> dict | None:
    """Wait for an event of a type in the timeline."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + within_s
    while (left_s := end_s - loop.time()) > 0:
        sync = await client.sync(since, ms=int(left_s * 1000))
        if found := events(sync, room, kind=kind):
            return found[0]
        since = sync["next_batch"]
    return None


# --- who and what ---------------------------------------------------------------------------------


async def test_what_it_says_it_is(server: Server, row: Row) -> None:
    alice = await server.user()
    versions = (await server.ask("GET", "/_matrix/client/versions")).body
    flags = versions["unstable_features"]
    names = ("msc4140", "msc4143", "msc4354")
    seen = ", ".join(f"{n} {flags.get(f'org.matrix.{n}')}" for n in names)
    row("flags in `/versions`", seen, "msc4140 True, msc4143 True, msc4354 True")
    body = (await alice.ask("GET", "/capabilities")).body
    limits = body["capabilities"]["org.matrix.msc4140.delayed_events"]
    row(
        "capability for delayed events",
        str(dict(sorted(limits.items()))),
        "{'max_delay_ms': 86400000, 'max_scheduled': 5}",
    )
    default = body["capabilities"]["m.room_versions"]["default"]
    row("default room version", default, "12")


async def test_what_a_default_homeserver_says(plain_server: Server, row: Row) -> None:
    alice = await plain_server.user()
    room = await plain_server.room(alice)
    versions = (await plain_server.ask("GET", "/_matrix/client/versions")).body
    flags = versions["unstable_features"]
    names = ("msc4140", "msc4143", "msc4354")
    seen = ", ".join(f"{n} {flags.get(f'org.matrix.{n}')}" for n in names)
    row("all three switched off: flags", seen, "msc4140 False, msc4143 False, msc4354 False")
    body = (await alice.ask("GET", "/capabilities")).body
    limits = body["capabilities"]["org.matrix.msc4140.delayed_events"]
    row(
        "delayed events off: capability is still there",
        str(dict(sorted(limits.items()))),
        "{'max_delay_ms': 0, 'max_scheduled': 100}",
    )
    row("delayed events off: schedule", brief(await alice.hold(room, 1000)), "403 M_FORBIDDEN")
    answer = await alice.send(room, RTC, KEYED, {STICKY: "60000"})
    row("sticky events off: send with a duration", brief(answer), "200 {event_id}")
    sent = events(await alice.sync(), room, kind=RTC)[0]
    row("sticky events off: the event", str("msc4354_sticky" in sent), "False")
    path = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"
    row("transports off", brief(await alice.ask("GET", path, v3=False)), "404 M_UNRECOGNIZED")
    row("no TURN configured", brief(await alice.ask("GET", "/voip/turnServer")), "200 {}")


async def test_tokens(server: Server, row: Row) -> None:
    alice = await server.user()
    whoami = "/_matrix/client/v3/account/whoami"
    row("no token", brief(await server.ask("GET", whoami)), "401 M_MISSING_TOKEN")
    answer = await server.ask("GET", whoami, token="wrong")
    row("an unknown token", brief(answer), "401 M_UNKNOWN_TOKEN")
    row("...with soft_logout", str(answer.body["soft_logout"]), "False")
    answer = await alice.ask("GET", "/account/whoami")
    row("whoami", brief(answer), "200 {device_id, is_guest, user_id}")
    await alice.ask("POST", "/logout", {})
    row("a token after logout", brief(await alice.ask("GET", "/sync")), "401 M_UNKNOWN_TOKEN")
    row("an unknown endpoint", brief(await alice.ask("GET", "/nothing")), "404 M_UNRECOGNIZED")
    row("a wrong method", brief(await alice.ask("DELETE", "/joined_rooms")), "405 M_UNRECOGNIZED")


async def test_openid_transports_turn(server: Server, row: Row) -> None:
    alice, bob = await server.user(), await server.user()
    path = f"/user/{part(alice.user_id)}/openid/request_token"
    answer = await alice.ask("POST", path, {})
    fields = "200 {access_token, expires_in, matrix_server_name, token_type}"
    row("OpenID token", brief(answer), fields)
    info = "/_matrix/federation/v1/openid/userinfo"
    found = await server.ask("GET", info, query={"access_token": answer.body["access_token"]})
    row("...who it stands for", str(found.body == {"sub": alice.user_id}), "True")
    found = await server.ask("GET", info, query={"access_token": "wrong"})
    row("...an unknown one", brief(found), "401 M_UNKNOWN_TOKEN")
    row("OpenID token for another user", brief(await bob.ask("POST", path, {})), "403 M_FORBIDDEN")
    path = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"
    answer = await alice.ask("GET", path, v3=False)
    row("transports, unstable", brief(answer), "200 {rtc_transports}")
    row("...without a token", brief(await server.ask("GET", path)), "401 M_MISSING_TOKEN")
    stable = await alice.ask("GET", "/_matrix/client/v1/rtc/transports", v3=False)
    row("transports, stable", brief(stable), "404 M_UNRECOGNIZED")
    answer = await alice.ask("GET", "/voip/turnServer")
    row("TURN servers", brief(answer), "200 {password, ttl, uris, username}")


# --- rooms and state ------------------------------------------------------------------------------


async def test_state(server: Server, row: Row) -> None:
    alice, bob, eve = await server.user(), await server.user(), await server.user()
    room = await server.room(alice, bob)
    answer = await alice.state(room, "org.example.thing", "k", {"a": 1})
    row("set state", brief(answer), "200 {event_id}")
    again = await alice.state(room, "org.example.thing", "k", {"a": 1})
    same = str(again.body == answer.body)
    row("set the same state again: the same event", same, "True")
    row("read state", str(await bob.read(room, "org.example.thing", "k")), "{'a': 1}")
    path = f"/rooms/{part(room)}/state"
    row(
        "read absent state",
        brief(await bob.ask("GET", f"{path}/org.example.no/")),
        "404 M_NOT_FOUND",
    )
    row("read all state", brief(await bob.ask("GET", path)), "200 list")
    row("read state from outside", brief(await eve.ask("GET", path)), "403 M_FORBIDDEN")
    answer = await bob.state(room, "org.example.thing", "k", {})
    row("set state below state_default", brief(answer), "403 M_FORBIDDEN")
    answer = await bob.state(room, MEMBER, f"_{bob.user_id}_D_m.call", {"x": 1})
    row("member event where the level is 0", brief(answer), "200 {event_id}")
    answer = await bob.state(room, MEMBER, alice.user_id, {"x": 1})
    row("a state key that is another's user id", brief(answer), "403 M_FORBIDDEN")
    answer = await bob.state(room, MEMBER, f"_{alice.user_id}_D_m.call", {"x": 1})
    row("a state key that begins with _ and names another", brief(answer), "200 {event_id}")
    closed = await server.room(alice, bob, calls=False)
    answer = await bob.state(closed, MEMBER, f"_{bob.user_id}_D_m.call", {})
    row("member event in a room with default levels", brief(answer), "403 M_FORBIDDEN")
    answer = await bob.send(closed, RTC, KEYED, {STICKY: "60000"})
    row("sticky event in a room with default levels", brief(answer), "200 {event_id}")
    row(
        "an event in a room one is not in",
        brief(await eve.send(room, "m.x", {})),
        "403 M_FORBIDDEN",
    )
    row(
        "an event in a room that is none",
        brief(await eve.send("!no", "m.x", {})),
        "403 M_FORBIDDEN",
    )
    row(
        "a fraction in an event", brief(await alice.send(room, "m.x", {"a": 1.5})), "400 M_BAD_JSON"
    )
    answer = await alice.send(room, "m.x", {"a": "x" * 66_000})
    row("an event above 64 KiB", brief(answer), "413 M_TOO_LARGE")


async def test_default_power_levels(server: Server, row: Row) -> None:
    alice = await server.user()
    fields = "state_default, events_default, users_default, invite, kick, ban, redact"
    for public in (True, False):
        room = await server.room(alice, public=public, calls=False)
        levels = await alice.read(room, "m.room.power_levels", "")
        seen = ", ".join(str(levels[f]) for f in fields.split(", "))
        name = "public" if public else "private"
        row(f"{name} room: {fields}", seen, f"50, 0, 0, {50 if public else 0}, 50, 50, 50")
        row(f"{name} room: listed users", str(len(levels["users"])), "0")
    room = await server.room(alice)
    levels = await alice.read(room, "m.room.power_levels", "")
    row("an override of `events` replaces the map", str(len(levels["events"])), "2")
    old = await server.room(alice, version="11")
    levels = await alice.read(old, "m.room.power_levels", "")
    row("room version 11: its creator's level", str(levels["users"][alice.user_id]), "100")


async def test_membership(server: Server, row: Row) -> None:
    alice, bob, eve = await server.user(), await server.user(), await server.user()
    room = await server.room(alice, bob)
    begin = await bob.token()

    def act(who: Client, verb: str, **body: object):
        return who.ask("POST", f"/rooms/{part(room)}/{verb}", body)

    row("join twice", brief(await act(bob, "join")), "200 {room_id}")
    row(
        "kick without power",
        brief(await act(bob, "kick", user_id=alice.user_id)),
        "403 M_FORBIDDEN",
    )
    row("kick", brief(await act(alice, "kick", user_id=bob.user_id)), "200 {}")
    sync = await bob.sync(begin, ms=2000)
    left = sync["rooms"]["leave"][room]["timeline"]["events"][-1]
    seen = f"{left['content']['membership']} by other: {left['sender'] == alice.user_id}"
    row("the kicked one's sync", seen, "leave by other: True")
    answer = await bob.state(room, MEMBER, f"_{bob.user_id}_D_m.call", {})
    row("member event after a kick", brief(answer), "403 M_FORBIDDEN")
    row("join again", brief(await act(bob, "join")), "200 {room_id}")
    row("ban", brief(await act(alice, "ban", user_id=bob.user_id)), "200 {}")
    row("join when banned", brief(await act(bob, "join")), "403 M_BAD_STATE")
    row(
        "invite when banned",
        brief(await act(alice, "invite", user_id=bob.user_id)),
        "403 M_BAD_STATE",
    )
    row("unban", brief(await act(alice, "unban", user_id=bob.user_id)), "200 {}")
    room = await server.room(alice, public=False)
    row("join a private room", brief(await act(eve, "join")), "403 M_FORBIDDEN")
    begin = await eve.token()
    row("invite", brief(await act(alice, "invite", user_id=eve.user_id)), "200 {}")
    sync = await eve.sync(begin, ms=2000)
    row("the invited one's sync", str(room in sync["rooms"]["invite"]), "True")
    row("join after an invitation", brief(await act(eve, "join")), "200 {room_id}")
    row("leave", brief(await act(eve, "leave")), "200 {}")
    row("leave twice", brief(await act(eve, "leave")), "200 {}")
    row("join an unknown room", brief(await eve.ask("POST", "/join/!no", {})), "400 M_UNKNOWN")
    alias = part(f"#no:{eve.user_id.split(':', 1)[1]}")
    row(
        "join an unknown alias",
        brief(await eve.ask("POST", f"/join/{alias}", {})),
        "404 M_NOT_FOUND",
    )


async def test_upgrade(server: Server, row: Row) -> None:
    alice, bob = await server.user(), await server.user()
    room = await server.room(alice, bob)
    path = f"/rooms/{part(room)}/upgrade"
    answer = await bob.ask("POST", path, {"new_version": "12"})
    row("upgrade without power", brief(answer), "403 M_FORBIDDEN")
    answer = await alice.ask("POST", path, {"new_version": "12"})
    row("upgrade", brief(answer), "200 {replacement_room}")
    tombstone = await bob.read(room, "m.room.tombstone", "")
    same = tombstone["replacement_room"] == answer.body["replacement_room"]
    row("the tombstone names the new room", str(same), "True")
    answer = await bob.send(room, "m.x", {})
    row("an ordinary member in the old room: a message", brief(answer), "403 M_FORBIDDEN")
    answer = await bob.state(room, MEMBER, f"_{bob.user_id}_D_m.call", {"a": 1})
    row("...a member event whose level is named", brief(answer), "200 {event_id}")


async def test_redaction_and_transactions(server: Server, row: Row) -> None:
    alice, bob = await server.user(), await server.user()
    room = await server.room(alice, bob)
    first = await bob.send(room, "m.x", {"a": 1}, txn="once")
    again = await bob.send(room, "m.x", {"a": 2}, txn="once")
    row("one transaction id twice: one event", str(first.body == again.body), "True")
    sync = await bob.sync()
    own = events(sync, room, kind="m.x")
    row(
        "...seen once by the sender, with its id",
        str([e["unsigned"]["transaction_id"] for e in own]),
        "['once']",
    )
    other = events(await alice.sync(), room, kind="m.x")[0]
    row("...and by others without", str("transaction_id" in other["unsigned"]), "False")
    sticky = await bob.send(room, RTC, {"a": 1, **KEYED}, {STICKY: "60000"})
    event_id = part(sticky.body["event_id"])
    answer = await alice.ask("PUT", f"/rooms/{part(room)}/redact/{event_id}/t1", {})
    row("redact another's event, with power", brief(answer), "200 {event_id}")
    shown = (await alice.ask("GET", f"/rooms/{part(room)}/event/{event_id}")).body
    row("redacted: content", str(shown["content"]), "{}")
    row("redacted sticky event: still sticky", str("msc4354_sticky" in shown), "False")
    message = await alice.send(room, "m.x", {})
    path = f"/rooms/{part(room)}/redact/{part(message.body['event_id'])}/t2"
    row("redact without power", brief(await bob.ask("PUT", path, {})), "403 M_FORBIDDEN")


# --- sync -----------------------------------------------------------------------------------------


async def test_sync(server: Server, row: Row) -> None:
    alice, bob = await server.user(), await server.user()
    room = await server.room(alice, bob)
    sync = await bob.sync()
    keys = {
        (e["type"], e["state_key"])
        for s in ("state", "timeline")
        for e in events(sync, room, s)
        if "state_key" in e
    }
    row(
        "first sync: all state, in state or timeline",
        str(("m.room.create", "") in keys and ("m.room.member", bob.user_id) in keys),
        "True",
    )
    since = sync["next_batch"]
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    sync = await bob.sync(since, ms=600)
    waited = "waited" if loop.time() - began_s >= 0.55 else "came at once"
    row(
        "nothing new: waits for the timeout",
        f"{waited}, {sorted(sync.get('rooms', {}))}",
        "waited, []",
    )
    asking = asyncio.create_task(bob.sync(since, ms=10_000))
    await asyncio.sleep(0.1)
    await alice.state(room, "org.example.thing", "", {"a": 1})
    sync = await asyncio.wait_for(asking, 5)
    row("an event ends the wait", str(len(events(sync, room, kind="org.example.thing"))), "1")
    row("...and state in the timeline is not repeated", str(len(events(sync, room, "state"))), "0")
    since = sync["next_batch"]
    await alice.state(room, "org.example.other", "", {"a": 1})
    for number in range(12):
        await alice.send(room, "m.x", {"n": number})
    sync = await bob.sync(since)
    entry = sync["rooms"]["join"][room]
    seen = f"{len(entry['timeline']['events'])}, limited {entry['timeline']['limited']}"
    row("a gap: timeline", seen, "10, limited True")
    row(
        "a gap: state holds what it hides",
        str([e["type"] for e in events(sync, room, "state")]),
        "['org.example.other']",
    )
    only = '{"room":{"rooms":[],"timeline":{"limit":1}}}'
    sync = await bob.sync(since, filter=only)
    row("a filter for no room", str(sorted(sync.get("rooms", {}).get("join", {}))), "[]")
    answer = await bob.ask("GET", "/sync", query={"since": "nonsense"})
    row("an unknown since", str(answer.status), "400")


async def test_sync_answers_are_kept(server: Server, row: Row) -> None:
    alice, bob = await server.user(), await server.user()
    room = await server.room(alice, bob)

    async def seen(**query: str) -> int:
        answer = await bob.ask("GET", "/sync", query=query)
        return len(events(answer.body, room, kind="m.x"))

    await seen(timeout="7")
    await alice.send(room, "m.x", {})
    row(
        "TRAP the same first sync again within two minutes: the old answer",
        str(await seen(timeout="7")),
        "0",
    )
    row("...with another timeout: a new one", str(await seen(timeout="8")), "1")


# --- to-device ------------------------------------------------------------------------------------


def messages(sync: dict) -> list[tuple[str, object]]:
    return [(e["type"], e["content"]) for e in sync.get("to_device", {}).get("events", [])]


async def test_to_device(server: Server, row: Row) -> None:
    alice, bob = await server.user("a"), await server.user("b")
    name = bob.user_id[1:].split(":")[0]
    tablet = await server.device(name, "TABLET")
    phone_since, tablet_since = await bob.token(), await tablet.token()

    async def pass_on(txn: str, device: str, content: object) -> str:
        body = {"messages": {bob.user_id: {device: content}}}
        return brief(await alice.ask("PUT", f"/sendToDevice/org.example.signal/{txn}", body))

    row("send to a device", await pass_on("t1", "TABLET", {"n": 1}), "200 {}")
    sync = await tablet.sync(tablet_since, ms=2000)
    row("...it arrives there", str(messages(sync)), "[('org.example.signal', {'n': 1})]")
    fields = str(sorted(sync["to_device"]["events"][0]))
    row("...with these fields", fields, "['content', 'sender', 'type']")
    row("...not elsewhere", str(messages(await bob.sync(phone_since))), "[]")
    again = messages(await tablet.sync(tablet_since))
    row("the same since again: it comes again", str(again), "[('org.example.signal', {'n': 1})]")
    later = await tablet.sync(sync["next_batch"])
    row("the next since: it is gone", str(messages(later)), "[]")
    row("...also for the old since", str(messages(await tablet.sync(tablet_since))), "[]")
    await pass_on("t1", "TABLET", {"n": 2})
    row(
        "one transaction id twice: sent once",
        str(messages(await tablet.sync(later["next_batch"]))),
        "[]",
    )
    await pass_on("t2", "*", {"n": 3})
    row(
        "to `*`: all devices",
        str(
            messages(await tablet.sync(later["next_batch"]))
            == messages(await bob.sync(phone_since))
            != []
        ),
        "True",
    )
    row("to an unknown device", await pass_on("t3", "NOBODY", {}), "200 {}")
    row(
        "no messages field",
        brief(await alice.ask("PUT", "/sendToDevice/x/t4", {})),
        "400 M_MISSING_PARAM",
    )
    for number in range(110):
        await pass_on(f"many{number}", "TABLET", {"n": number})
    first = await tablet.sync(later["next_batch"])
    second = await tablet.sync(first["next_batch"])
    numbers = [c["n"] for _, c in (*messages(first), *messages(second))]
    row(
        "111 messages: 100 and the rest, in order",
        f"{len(messages(first))}, {numbers == [3, *range(110)]}",
        "100, True",
    )


async def test_keys(server: Server, row: Row) -> None:
    alice, bob = await server.user(), await server.user()
    await server.room(alice, bob)
    begin = await alice.token()
    device = {
        "user_id": bob.user_id,
        "device_id": bob.own.device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": {
            f"ed25519:{bob.own.device_id}": "a" * 43,
            f"curve25519:{bob.own.device_id}": "b" * 43,
        },
        "signatures": {},
    }
    one_time = {f"signed_curve25519:AAAA{n}": {"key": "c" * 43, "signatures": {}} for n in range(2)}
    answer = await bob.ask(
        "POST", "/keys/upload", {"device_keys": device, "one_time_keys": one_time}
    )
    row("upload keys", str(answer.body), "{'one_time_key_counts': {'signed_curve25519': 2}}")
    sync = await alice.sync(begin, ms=2000)
    row("...others are told", str(bob.user_id in sync["device_lists"]["changed"]), "True")
    found = (await alice.ask("POST", "/keys/query", {"device_keys": {bob.user_id: []}})).body
    got = found["device_keys"][bob.user_id][bob.own.device_id]
    row("query keys", str(got["keys"] == device["keys"]), "True")
    asked = {"one_time_keys": {bob.user_id: {bob.own.device_id: "signed_curve25519"}}}
    claimed = [
        (await alice.ask("POST", "/keys/claim", asked)).body["one_time_keys"].get(bob.user_id, {})
        for _ in range(3)
    ]
    names = [next(iter(c[bob.own.device_id])) if c else None for c in claimed]
    row(
        "claim: each one-time key once", str(len(set(names))) + f", then {names[2]}", "3, then None"
    )
    sync = await bob.sync()
    row(
        "...and the sync counts them",
        str(sync["device_one_time_keys_count"]["signed_curve25519"]),
        "0",
    )
    fallback = {"signed_curve25519:FFFF": {"key": "d" * 43, "fallback": True, "signatures": {}}}
    await bob.ask("POST", "/keys/upload", {"fallback_keys": fallback})
    twice = [
        next(
            iter(
                (await alice.ask("POST", "/keys/claim", asked)).body["one_time_keys"][bob.user_id][
                    bob.own.device_id
                ]
            )
        )
        for _ in range(2)
    ]
    row(
        "a fallback key is claimed again and again",
        str(twice),
        "['signed_curve25519:FFFF', 'signed_curve25519:FFFF']",
    )


# --- delayed events (MSC4140) ---------------------------------------------------------------------


async def test_delayed_schedule(server: Server, row: Row) -> None:
    alice, bob = await server.user(), await server.user()
    room = await server.room(alice, bob)
    begin = await bob.token()
    answer = await alice.hold(room, 400, n=1)
    row("schedule on `/send`", brief(answer), "200 {delay_id}")
    row("...its id begins with", answer.body["delay_id"][:4], "syd_")
    row(
        "...it fires",
        str((await arrives(bob, room, "org.example.held", begin, 4)) is not None),
        "True",
    )
    held = events(await alice.sync(), room, kind="org.example.held")[0]
    row(
        "the sender's copy names the delay id",
        str(held["unsigned"].get("org.matrix.msc4140.delay_id") == answer.body["delay_id"]),
        "True",
    )
    other = events(await bob.sync(), room, kind="org.example.held")[0]
    row("others' copies do not", str("org.matrix.msc4140.delay_id" in other["unsigned"]), "False")
    for action in ("restart", "cancel", "send"):
        gone = await alice.manage(answer.body["delay_id"], action)
        row(f"after it fired: {action}", brief(gone), "404 M_NOT_FOUND")
    gone = await alice.ask("GET", f"{DELAYED}/{answer.body['delay_id']}", v3=False)
    row("after it fired: look it up", brief(gone), "404 M_NOT_FOUND")
    row("a delay of 0", brief(await alice.hold(room, 0)), "200 {delay_id}")
    row("a negative delay", brief(await alice.hold(room, -1)), "400 M_INVALID_PARAM")
    answer = await alice.send(room, "m.x", {}, {DELAY: "soon"})
    row("a delay that is no number", brief(answer), "400 M_INVALID_PARAM")
    answer = await alice.hold(room, 86_400_001)
    row("above the maximum", brief(answer), "400 ORG.MATRIX.MSC4140_DELAY_TOO_LARGE")
    row("in an unknown room", brief(await alice.hold("!no", 1000)), "404 M_NOT_FOUND")
    first = await alice.send(room, "org.example.twice", {}, {DELAY: "60000"}, txn="d1")
    again = await alice.send(room, "org.example.twice", {}, {DELAY: "60000"}, txn="d1")
    row("one transaction id twice: one delayed event", str(first.body == again.body), "True")
    await alice.manage(first.body["delay_id"], "cancel")


async def test_delayed_traps_of_the_names(server: Server, row: Row) -> None:
    alice, bob = await server.user(), await server.user()
    room = await server.room(alice, bob)
    answer = await alice.send(room, "m.x", {}, {"delay": "60000"})
    row("TRAP `?delay=` on `/send`: sent at once", brief(answer), "200 {event_id}")
    key = f"_{alice.user_id}_D_m.call"
    await alice.state(room, MEMBER, key, {"joined": True})
    answer = await alice.ask(
        "PUT", f"/rooms/{part(room)}/state/{MEMBER}/{part(key)}", {}, {"delay": "60000"}
    )
    row(
        "TRAP `?delay=` on `/state`: a leave fires at the join",
        f"{brief(answer)}, {await bob.read(room, MEMBER, key)}",
        "200 {event_id}, {}",
    )
    for prefix in (
        "/_matrix/client/unstable/org.matrix.msc4140",
        "/_matrix/client/v3",
        "/_matrix/client/v1",
    ):
        path = f"{prefix}/rooms/{part(room)}/delayed_event/m.x/t1"
        answer = await alice.ask("PUT", path, {"delay_ms": 1000, "content": {}}, v3=False)
        row(f"the dedicated PUT under {prefix.split('/')[3]}", brief(answer), "404 M_UNRECOGNIZED")
    answer = await alice.ask("GET", "/_matrix/client/v1/delayed_events", v3=False)
    row("`/v1/delayed_events`", brief(answer), "404 M_UNRECOGNIZED")


async def test_delayed_manage(server: Server, row: Row) -> None:
    alice, bob = await server.user(), await server.user()
    room = await server.room(alice, bob)

    async def held() -> str:
        return (await alice.hold(room, 60_000, n=1)).body["delay_id"]

    delay_id = await held()
    row("action in the path, empty body", brief(await alice.manage(delay_id, "restart")), "200 {}")
    answer = await alice.ask("POST", f"{DELAYED}/{delay_id}/restart", v3=False)
    row("...and none at all", brief(answer), "200 {}")
    answer = await alice.ask("POST", f"{DELAYED}/{delay_id}", {"action": "restart"}, v3=False)
    row("action in the body", brief(answer), "200 {}")
    answer = await alice.ask("POST", f"{DELAYED}/{delay_id}", {}, v3=False)
    row("no action", brief(answer), "400 M_MISSING_PARAM")
    answer = await alice.ask("POST", f"{DELAYED}/{delay_id}", {"action": "explode"}, v3=False)
    row("an unknown action", brief(answer), "400 M_INVALID_PARAM")
    answer = await alice.ask("GET", f"{DELAYED}/{delay_id}", v3=False)
    row(
        "look one up",
        brief(answer),
        "200 {content, delay_id, delay_ms, delayed_since_ts, room_id, type}",
    )
    answer = await bob.ask("GET", f"{DELAYED}/{delay_id}", v3=False)
    row("look up another's", brief(answer), "404 M_NOT_FOUND")
    answer = await server.ask("GET", f"{DELAYED}/{delay_id}")
    row("look one up without a token", brief(answer), "401 M_MISSING_TOKEN")
    answer = await alice.ask("GET", DELAYED, v3=False)
    fields = ", ".join(sorted(answer.body["delayed_events"][0]))
    row(
        "list: fields, with older names",
        fields,
        "content, delay, delay_id, delay_ms, delayed_since_ts, room_id, running_since, type",
    )
    row("list without a token", brief(await server.ask("GET", DELAYED)), "401 M_MISSING_TOKEN")
    answer = await bob.ask("GET", DELAYED, v3=False)
    row("list as another user", str(answer.body), "{'delayed_events': []}")
    answer = await server.ask("POST", f"{DELAYED}/{delay_id}/restart", {})
    row("TRAP manage without a token", brief(answer), "200 {}")
    row(
        "TRAP manage with another user's token",
        brief(await bob.manage(delay_id, "cancel")),
        "200 {}",
    )
    row("after cancel: restart", brief(await alice.manage(delay_id, "restart")), "404 M_NOT_FOUND")
    delay_id = await held()
    begin = await bob.token()
    row("send now", brief(await alice.manage(delay_id, "send")), "200 {}")
    row(
        "...it is there",
        str((await arrives(bob, room, "org.example.held", begin, 3)) is not None),
        "True",
    )
    row("an unknown id", brief(await alice.manage("syd_nothing", "cancel")), "404 M_NOT_FOUND")
    ids = [await held() for _ in range(5)]
    answer = await alice.hold(room, 60_000)
    row("more than max_scheduled", brief(answer), "429 M_LIMIT_EXCEEDED")
    row(
        "...with retry_after_ms and Retry-After",
        f"{'retry_after_ms' in answer.body}, {'retry-after' in answer.headers}",
        "True, True",
    )
    row(
        "...near the time the first fires",
        str(50_000 < answer.body["retry_after_ms"] <= 60_000),
        "True",
    )
    for delay_id in ids:
        await alice.manage(delay_id, "cancel")


async def test_delayed_restart_moves_the_time(server: Server, row: Row) -> None:
    alice, bob = await server.user(), await server.user()
    room = await server.room(alice, bob)
    begin = await bob.token()
    delay_id = (await alice.hold(room, 4000)).body["delay_id"]
    for _ in range(3):
        await asyncio.sleep(1.5)
        assert (await alice.manage(delay_id, "restart")).status == 200
    early = events(await bob.sync(begin), room, kind="org.example.held")
    row("restarted in time: does not fire", str(len(early)), "0")
    row(
        "no longer restarted: fires",
        str((await arrives(bob, room, "org.example.held", begin, 8)) is not None),
        "True",
    )


async def test_delayed_state(server: Server, row: Row) -> None:
    alice, bob = await server.user(), await server.user()
    room = await server.room(alice, bob)
    key = "shared"
    await alice.state(room, MEMBER, key, {"joined": 1})
    answer = await alice.hold(room, 60_000, key=key, kind=MEMBER)
    row("schedule on `/state`", brief(answer), "200 {delay_id}")
    await alice.state(room, MEMBER, key, {"joined": 2})
    await asyncio.sleep(0.3)
    answer = await alice.manage(answer.body["delay_id"], "restart")
    row("one's own new state keeps it", brief(answer), "200 {}")
    listed = (await alice.ask("GET", DELAYED, v3=False)).body["delayed_events"]
    row(
        "...and it is listed with its state key",
        str([e.get("state_key") for e in listed]),
        "['shared']",
    )
    await bob.state(room, MEMBER, key, {"joined": 3})
    await asyncio.sleep(0.3)
    answer = await alice.manage(listed[0]["delay_id"], "restart")
    row("TRAP another sender's state cancels it", brief(answer), "404 M_NOT_FOUND")
    begin = await bob.token()
    await alice.hold(room, 300, key=key, kind=MEMBER)
    fired = await arrives(bob, room, MEMBER, begin, 4)
    row(
        "it fires as state",
        str(fired is not None and fired["state_key"] == key and fired["content"] == {}),
        "True",
    )
    plain = await server.room(alice, bob, calls=False)
    answer = await bob.hold(plain, 300, key="x", kind=MEMBER)
    row("TRAP without the power: accepted", brief(answer), "200 {delay_id}")
    begin = await alice.token()
    fired = await arrives(alice, plain, MEMBER, begin, 2)
    gone = await bob.manage(answer.body["delay_id"], "restart")
    row("TRAP ...and lost when it fires", f"{fired}, {brief(gone)}", "None, 404 M_NOT_FOUND")
    answer = await bob.hold(room, 2000, key="kicked", kind=MEMBER, n=1)
    begin = await alice.token()
    await alice.ask("POST", f"/rooms/{part(room)}/kick", {"user_id": bob.user_id})
    fired = await arrives(alice, room, MEMBER, begin, 3.5)
    row("TRAP kicked before it fires: lost", str(fired), "None")


async def test_down_when_it_is_due(mortal_server: tuple[Server, Down], row: Row) -> None:
    server, down = mortal_server
    alice, bob = await server.user(), await server.user()
    room = await server.room(alice, bob)
    begin = await bob.token()
    await alice.hold(room, 1000, key="k", kind=MEMBER, left=True)
    later = (await alice.hold(room, 600_000, n=1)).body["delay_id"]
    sent = await alice.send(room, RTC, KEYED, {STICKY: "60000"})
    await down(1.2)
    fired = await arrives(bob, room, MEMBER, begin, 5)
    row("down when a delayed event is due: fires on return", str(fired is not None), "True")
    row("...one due later still waits", brief(await alice.manage(later, "restart")), "200 {}")
    shown = (await bob.ask("GET", f"/rooms/{part(room)}/event/{part(sent.body['event_id'])}")).body
    row("...sticky events stay sticky", str("msc4354_sticky" in shown), "True")


# --- sticky events (MSC4354) ----------------------------------------------------------------------


async def test_sticky_sending(server: Server, row: Row) -> None:
    alice, bob = await server.user(), await server.user()
    room = await server.room(alice, bob)
    begin = await bob.token()
    answer = await alice.send(room, RTC, KEYED, {STICKY: "60000"})
    row("send a sticky event", brief(answer), "200 {event_id}")
    event = events(await bob.sync(begin, ms=2000), room, kind=RTC)[0]
    row("...its duration", str(event["msc4354_sticky"]), "{'duration_ms': 60000}")
    ttl = event["unsigned"]["msc4354_sticky_duration_ttl_ms"]
    row("...its time to live", str(55_000 < ttl <= 60_000), "True")
    answer = await alice.send(room, RTC, KEYED, {"sticky_duration_ms": "60000"})
    shown = (
        await alice.ask("GET", f"/rooms/{part(room)}/event/{part(answer.body['event_id'])}")
    ).body
    row("TRAP the stable parameter is ignored", str("msc4354_sticky" in shown), "False")
    answer = await alice.state(room, MEMBER, "k", {"a": 1}, **{STICKY: "60000"})
    shown = (
        await alice.ask("GET", f"/rooms/{part(room)}/event/{part(answer.body['event_id'])}")
    ).body
    row(
        "TRAP `/state` takes the parameter and ignores it",
        f"{brief(answer)}, {'msc4354_sticky' in shown}",
        "200 {event_id}, False",
    )
    answer = await alice.send(room, RTC, KEYED, {STICKY: "-1"})
    row("a negative duration", brief(answer), "400 M_INVALID_PARAM")
    begin = await bob.token()
    answer = await alice.send(room, RTC, KEYED, {STICKY: "7200000"})
    event = events(await bob.sync(begin, ms=2000), room, kind=RTC)[0]
    ttl = event["unsigned"]["msc4354_sticky_duration_ttl_ms"]
    row("TRAP two hours: stored as sent", str(event["msc4354_sticky"]["duration_ms"]), "7200000")
    row("...but its time to live is capped at one", str(3_590_000 < ttl <= 3_600_000), "True")
    begin = await bob.token()
    await alice.send(room, RTC, KEYED, {DELAY: "300", STICKY: "60000"})
    event = await arrives(bob, room, RTC, begin, 4)
    row(
        "delayed and sticky: sticky when it fires",
        str(event and event.get("msc4354_sticky")),
        "{'duration_ms': 60000}",
    )


async def test_sticky_syncing(server: Server, row: Row) -> None:
    alice, bob, eve = await server.user(), await server.user(), await server.user()
    room = await server.room(alice, bob)
    before = await eve.token()
    await alice.send(room, RTC, KEYED, {STICKY: "60000"})
    await alice.send(room, RTC, {"msc4354_sticky_key": "short"}, {STICKY: "500"})
    first = await bob.sync()
    row(
        "in the timeline: not in the section too",
        f"{len(events(first, room, kind=RTC))}, {len(events(first, room, 'msc4354_sticky'))}",
        "2, 0",
    )
    for number in range(12):
        await alice.send(room, "m.x", {"n": number})
    await asyncio.sleep(0.6)
    found = events(await bob.sync(), room, "msc4354_sticky")
    keys = str([e["content"]["msc4354_sticky_key"] for e in found])
    row("out of the timeline: in the section, unless expired", keys, "['k']")
    row(
        "...with its time to live",
        str("msc4354_sticky_duration_ttl_ms" in found[0]["unsigned"]),
        "True",
    )
    row(
        "...and not again under the next token",
        str(len(events(await bob.sync(first["next_batch"]), room, "msc4354_sticky"))),
        "0",
    )
    await server.house.join_room(eve.own.access_token, room)
    joined = await eve.sync(before, ms=2000)
    keys = str([e["content"]["msc4354_sticky_key"] for e in events(joined, room, "msc4354_sticky")])
    row("who joins later gets what is still sticky", keys, "['k']")


async def test_sticky_sliding(server: Server, row: Row) -> None:
    alice, bob = await server.user(), await server.user()
    room = await server.room(alice, bob)
    for number in range(3):
        await alice.send(room, RTC, {"msc4354_sticky_key": str(number)}, {STICKY: "60000"})
    for number in range(3):
        await alice.send(room, "m.x", {"n": number})
    path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
    name = "org.matrix.msc4354.sticky_events"

    async def slide(pos: str | None, **extension: object) -> dict:
        body = {
            "conn_id": "c",
            "room_subscriptions": {room: {"timeline_limit": 1, "required_state": []}},
            "extensions": {name: {"enabled": True, **extension}},
        }
        query = {"timeout": "0"} | ({"pos": pos} if pos else {})
        answer = await bob.ask("POST", path, body, query, v3=False)
        assert answer.status == 200, brief(answer)
        return answer.body

    first = await slide(None, limit=2)
    page = first["extensions"][name]
    keys = [e["content"]["msc4354_sticky_key"] for e in page["rooms"][room]["events"]]
    row("sliding sync: sticky extension, a page of 2", str(keys), "['0', '1']")
    row("...its token begins with", page["next_batch"].split("_")[0], "sticky")
    second = await slide(first["pos"], limit=2, since=page["next_batch"])
    keys = [
        e["content"]["msc4354_sticky_key"]
        for e in second["extensions"][name]["rooms"][room]["events"]
    ]
    row("...the next page", str(keys), "['2']")
    timeline = [e["type"] for e in first["rooms"][room]["timeline"]]
    row("...timeline as asked", str(timeline), "['m.x']")


async def test_sticky_hundred(server: Server, row: Row) -> None:
    alice, bob = await server.user(), await server.user()
    early, late = await server.user(), await server.user()
    room = await server.room(alice, bob)
    begin, before = await bob.token(), await early.token()
    await asyncio.gather(
        *(
            alice.send(room, RTC, {"msc4354_sticky_key": str(n)}, {STICKY: "60000"})
            for n in range(115)
        )
    )
    first = await bob.sync(begin)
    second = await bob.sync(first["next_batch"])
    ids = [
        e["event_id"]
        for s in (first, second)
        for part_ in ("timeline", "msc4354_sticky")
        for e in events(s, room, part_, RTC)
    ]
    in_first = len(events(first, room, kind=RTC)) + len(events(first, room, "msc4354_sticky"))
    row("115 sticky events: two syncs hold them all", str(len(set(ids))), "115")
    row("...the first no more than 100 and the timeline", str(in_first <= 110), "True")
    for joiner, since, behaviour, expected in (
        (late, await late.token(), "...who joins later gets them all at once", "115, 115"),
        (early, before, "TRAP ...but with a token from before them, in two syncs", "108, 115"),
    ):
        await server.house.join_room(joiner.own.access_token, room)
        ids, seen = set(), []
        for _ in range(2):
            sync = await joiner.sync(since, ms=1000)
            since = sync["next_batch"]
            for part_ in ("timeline", "msc4354_sticky"):
                ids |= {e["event_id"] for e in events(sync, room, part_, RTC)}
            seen.append(str(len(ids)))
        row(behaviour, ", ".join(seen), expected)


# --- rate limits ----------------------------------------------------------------------------------


async def test_limits(limited_server: Server, row: Row) -> None:
    server = limited_server
    alice, bob = await server.user(), await server.user()
    room = await server.room(alice)

    async def until_refused(send, most: int = 40) -> tuple[int, object]:
        for number in range(most):
            answer = await send(number)
            if answer.status == 429:
                return number, answer
        raise AssertionError(f"{most} passed")

    passed, answer = await until_refused(lambda n: alice.send(room, "m.x", {"n": n}))
    row("messages before the limit, after creating a room", str(passed), "9")
    row("...the next message", brief(answer), "429 M_LIMIT_EXCEEDED")
    retry_ms = answer.body["retry_after_ms"]
    header = answer.headers.get("retry-after")
    row(
        "...wait, as body and header",
        f"{0 < retry_ms <= 5000}, {header == str(-(-retry_ms // 1000))}",
        "True, True",
    )
    answer = await alice.state(room, MEMBER, "x", {"a": 1})
    row("state counts with messages", brief(answer), "429 M_LIMIT_EXCEEDED")
    row(
        "TRAP so does scheduling a delayed event",
        brief(await alice.hold(room, 1000)),
        "429 M_LIMIT_EXCEEDED",
    )
    body = {"messages": {bob.user_id: {"*": {}}}}
    answer = await alice.ask("PUT", "/sendToDevice/org.example.signal/t1", body)
    row("to-device messages do not", brief(answer), "200 {}")
    own = await server.room(bob)
    delay_id = (await bob.hold(own, 600_000)).body["delay_id"]
    passed, answer = await until_refused(lambda _: bob.manage(delay_id, "restart"))
    row("restarts before the limit", str(5 <= passed <= 12), "True")
    row("...the next restart", brief(answer), "429 M_LIMIT_EXCEEDED")
    passed, answer = await until_refused(
        lambda _: server.ask("POST", f"{DELAYED}/{delay_id}/restart", {})
    )
    row("...without a token: the address has a limit of its own", str(5 <= passed <= 12), "True")
    await until_refused(lambda _: bob.manage(delay_id, "restart"))
    passed, answer = await until_refused(lambda _: bob.ask("GET", DELAYED, v3=False))
    row("listing counts with them", f"{passed <= 3}, {brief(answer)}", "True, 429 M_LIMIT_EXCEEDED")


async def test_limits_when_firing(limited_server: Server, row: Row) -> None:
    alice, bob = await limited_server.user(), await limited_server.user()
    room = await limited_server.room(alice, bob)
    begin = await bob.token()
    delay_id = (await alice.hold(room, 4000, key="k", kind=MEMBER, left=True)).body["delay_id"]
    for number in range(12):
        await alice.send(room, "m.x", {"n": number})
    fired = await arrives(bob, room, MEMBER, begin, 6)
    gone = await alice.manage(delay_id, "restart")
    row(
        "TRAP out of messages when a delayed event fires: it is lost",
        f"{fired is None}, {brief(gone)}",
        "True, 404 M_NOT_FOUND",
    )


# --- the table ------------------------------------------------------------------------------------


def table(rows: dict[str, dict[str, str]]) -> str:
    lines = [
        "# The homeserver in memory and Synapse",
        "",
        "`tests/parity/test_homeserver_parity.py` asks both the same, compares, and writes this table.",
        "`TRAP` marks what a client would not expect.",
        "",
        "| behaviour | memory | Synapse 1.163.2 |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {seen['memory']} | {seen['synapse']} |" for name, seen in rows.items()]
    return "\n".join(lines).replace("<", "&lt;") + "\n"


def test_the_table_in_the_docs_is_this_one(
    request: pytest.FixtureRequest, rows: dict[str, dict[str, str]]
) -> None:
    """Write it with RTCFOCI_WRITE_DOCS=1; a run of some tests, or against one server, has no table."""
    ran = {item.name for item in request.session.items if item.path == request.path}
    names = {name for name, value in globals().items() if name.startswith("test_")}
    whole = {f"{name}[{kind}]" for name in names for kind in ("memory", "synapse")}
    missing = whole - ran - {f"{request.node.name}[{kind}]" for kind in ("memory", "synapse")}
    if missing or request.session.testsfailed or any(len(seen) != 2 for seen in rows.values()):
        pytest.skip("only a whole and green run against both servers has the table")
    if os.environ.get("RTCFOCI_WRITE_DOCS"):
        TABLE.write_text(table(rows))
    assert TABLE.read_text() == table(rows)
