"""Calls that are recorded, and replayed byte for byte."""

import asyncio
import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcfoci.call.handles import Handles, as_key
from rtcfoci.call.join import join
from rtcfoci.call.ringing import decline
from rtcfoci.cli.main import main
from rtcfoci.core.key_messages import KEY_TYPES, Key, KeyMessage, read_key, write_key
from rtcfoci.core.model import Member, Now
from rtcfoci.core.notifications import NotificationStarted
from rtcfoci.media.frames import Kind
from rtcfoci.testing import run
from rtcfoci.testing.lobby import Lobby

PLUGIN = ("--plugin", "rtcfoci.testing.memory_types")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The recording of a call with a peer, an outage and a guest who vanishes, and the secrets of it."""
    path, secrets = tmp_path_factory.mktemp("recorded") / "call.jsonl", []

    async def main():
        async with Lobby() as lobby:
            client, line = await lobby.client("me")
            schedule = client.schedule_delayed

            async def noted(*args, **kwargs):
                secrets.append(await schedule(*args, **kwargs))
                return secrets[-1]

            client.schedule_delayed = noted
            secrets.append(lobby._people["me"].access_token)
            async with join(
                client,
                lobby.room_id,
                foci=lobby.foci,
                plugins=lobby.plugins,
                now=lobby.now,
                trace=path,
            ) as call:
                ann = await lobby.peer("ann")
                await ann.publish(Kind.AUDIO)
                await ann.until(lambda: call.tracks)
                await client.send_event(
                    lobby.room_id, "m.room.message", {"body": "a private word"}, txn_id="1"
                )
                line.cut = True
                await asyncio.sleep(40)
                line.cut = False
                await asyncio.sleep(10)
                await ann.vanish()
                await asyncio.sleep(30)

    run(main())
    return path, secrets


def replayed(path, capsys, code=0):
    assert main([*PLUGIN, "--json", "replay", str(path)]) == code
    return json.loads(capsys.readouterr().out)


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_recorded_call_has_the_same_effects_again(recorded, capsys):
    path, secrets = recorded
    found = replayed(path, capsys)
    last = records(path)[-1]
    assert found["equal"]
    assert found["complete"]
    assert last["end"] == {"inputs": found["inputs"], "effects": found["effects"]}
    kinds = {record["effect"]["is"] for record in records(path) if "effect" in record}
    assert {
        "ScheduleLeave", "SendMembership", "RestartLeave", "MemberJoined", "MemberLeft", "RaiseCondition",
        "Condition",
    } <= kinds  # fmt: skip
    text = path.read_text()
    assert len(secrets) >= 2
    assert not [secret for secret in secrets if secret in text]
    assert '"delay_id":"delay-1"' in text
    assert "a private word" not in text
    assert main([*PLUGIN, "replay", str(path)]) == 0
    said = f"{found['inputs']} inputs, {found['effects']} effects, equal\n"
    assert capsys.readouterr().out == said


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """The recording of an encrypted call that rings, with media keys of four; and all of these keys."""
    pytest.importorskip("nio")
    path, keys = tmp_path_factory.mktemp("keyed") / "keyed.jsonl", set()

    async def hears_and_declines(client, room_id, now):
        from rtcfoci.call.ringing import listen

        async for news in listen(client, room_id, now=now):
            if isinstance(news, NotificationStarted):
                await decline(client, news.notification)
                break

    async def main():
        async with Lobby(encrypted=True) as lobby:
            client, _ = await lobby.client("me")
            ann = await lobby.peer("ann")
            dan, _ = await lobby.client("dan")
            async with join(
                client,
                lobby.room_id,
                foci=lobby.foci,
                plugins=lobby.plugins,
                now=lobby.now,
                trace=path,
            ) as call:
                listening = asyncio.create_task(hears_and_declines(dan, lobby.room_id, lobby.now))
                await ann.publish(Kind.AUDIO)
                await call.ring(["@dan:" + lobby.homeserver.server_name])
                await listening
                bob = await lobby.peer("bob")
                await asyncio.sleep(15)
                cem = await lobby.peer("cem")
                for peer in (ann, bob, cem):
                    await peer.until(lambda peer=peer: peer.call.metrics["keys_received"] >= 3)
                clear = Member(user_id=dan.user_id, device_id=dan.device_id, member_id="m")
                keys.add(b"a key of nobody's that came clear")
                await dan.send_to_device(
                    KEY_TYPES[0],
                    call.member.user_id,
                    call.member.device_id,
                    write_key(call.slot, clear, 0, Key(max(keys)), sent_ts_ms=1),
                    encrypt=False,
                )
                await bob.leave()
                await asyncio.sleep(10)
                for peer in (ann, cem):
                    for link in peer.call.foci.links:
                        keys.update(link.connection.keys.values())
                assert call.metrics["keys_rotated"] >= 2
                assert call.metrics["keys_refused.not_encrypted"] == 1

    run(main())
    return path, keys


def test_media_keys_and_rings_have_the_same_effects_again(keyed, capsys):
    path, _ = keyed
    found = replayed(path, capsys)
    assert (found["equal"], found["complete"]) == (True, True)
    inputs = {record["input"] for record in records(path) if "input" in record}
    assert {
        "keys.start", "keys.set_members", "keys.receive", "keys.sent", "keys.timer",
        "notifications.receive", "notifications.handle_timer",
    } <= inputs  # fmt: skip
    kinds = {record["effect"]["is"] for record in records(path) if "effect" in record}
    assert {"SendKey", "SetKey", "UseKey", "NotificationIgnored", "NotificationDeclined"} <= kinds


def test_of_media_keys_a_recording_holds_handles_alone(keyed):
    path, keys = keyed
    text = path.read_text()
    assert len(keys) >= 6
    for key in keys:
        for form in (key.hex(), base64.b64encode(key).decode().rstrip("="), repr(key)[2:-1]):
            assert form not in text
    assert '"key":"own-2"' in text
    assert base64.b64encode(as_key("key-1", 32)).decode() in text


def test_a_replay_that_makes_another_key_is_not_equal(keyed, capsys, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(keyed[0].read_text().replace('"key":"own-2"', '"key":"own-3"'))
    found = replayed(other, capsys, 1)
    assert found["difference"]["input"].startswith("keys.")


TEXTS = st.one_of(
    st.binary(max_size=100).map(lambda key: base64.b64encode(key).decode()),
    st.sampled_from(["", "=", "*", "a", "é", "a" * 129, "a" * 41, None, 7, ["key"], {"key": 1}]),
)


@given(st.sampled_from(KEY_TYPES), TEXTS, st.sampled_from([0, 255, 256, True, "0", None, []]))
def test_what_is_kept_of_a_key_is_read_as_the_key_was(kind, text, index):
    content = {
        "room_id": "!room:hs",
        "member_id": "m",
        "member": {"id": "m", "claimed_device_id": "DEV"},
        "session": {"application": "m.call", "call_id": "side", "more": "x"},
        "keys": {"index": index, "key": text},
        "media_key": {"index": index, "key": text, "format": 0},
        "sent_ts": 5,
        "more": text,
    }
    kept = Handles().key_message(content)
    read, again = read_key(kind, content), read_key(kind, kept)
    if isinstance(read, KeyMessage):
        assert again == KeyMessage(
            room_id=read.room_id, index=read.index, member_id=read.member_id,
            device_id=read.device_id, slot_id=read.slot_id, sent_ts_ms=read.sent_ts_ms,
            key=Key(as_key("key-1", len(read.key.reveal()))),
        )  # fmt: skip
    else:
        assert again is read


def test_a_recording_that_breaks_off_is_replayed_as_far_as_it_goes(recorded, capsys, tmp_path):
    whole = recorded[0].read_text()
    cut = tmp_path / "cut.jsonl"
    for share in (0.5, 0.9, 0.999):
        cut.write_text(whole[: int(len(whole) * share)])
        found = replayed(cut, capsys)
        assert (found["equal"], found["complete"]) == (True, False)
        assert found["inputs"] > 0


def test_what_comes_out_otherwise_is_shown(recorded, capsys, tmp_path):
    lines = recorded[0].read_text().splitlines()
    place = next(n for n, line in enumerate(lines) if '"is":"SendMembership"' in line)
    lines[place] = lines[place].replace('"timeout_s":', '"timeout_s":1')
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(lines) + "\n")
    found = replayed(other, capsys, 1)
    assert not found["equal"]
    assert found["difference"]["line"] < place + 2
    assert found["difference"]["recorded"] != found["difference"]["replayed"]
    assert main([*PLUGIN, "replay", str(other)]) == 1
    assert "not equal at line" in capsys.readouterr().out


BEGUN = (
    '{"rtcfoci_trace": 1, "dialects": []}\n{"machine": "session", "policy": "tolerant", '
    '"slot": {"is": "Slot", "room_id": "!room:hs"}}\n'
)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no recording"),
        ("{}\n", "no recording"),
        ('{"rtcfoci_trace": 2}\n', "another version"),
        ('{"rtcfoci_trace": 1, "dialects": ["D99"]}\n', "not installed"),
        ('{"rtcfoci_trace": 1}\n?\n', "line 2 of the recording is damaged"),
        ('{"rtcfoci_trace": 1}\n{"machine": "clock"}\n', "cannot be replayed"),
        ('{"rtcfoci_trace": 1}\n{"machine": "session", "policy": "tolerant"}\n', "damaged"),
        ('{"rtcfoci_trace": 1}\n{"input": "session.receive"}\n', "cannot be replayed"),
        ('{"rtcfoci_trace": 1}\n{"machine": "keys"}\n', "cannot be replayed"),
        (f'{BEGUN}{{"machine": "notifications", "own": null}}\n', "cannot be replayed"),
        (
            f'{BEGUN}{{"machine": "keys"}}\n{{"input": "keys.set_members", "members": 7}}\n',
            "damaged",
        ),
        (
            '{"rtcfoci_trace": 1}\n{"machine": "conditions"}\n{"input": "conditions.clear", "now": 7}\n',
            "damaged",
        ),
    ],
)
def test_a_file_that_is_no_recording_is_refused(tmp_path, capsys, text, what):
    path = tmp_path / "wrong.jsonl"
    path.write_text(text)
    assert main(["--json", "replay", str(path)]) == 2
    assert what in " ".join(json.loads(capsys.readouterr().err)["error"].values())


def test_nothing_is_recorded_over(tmp_path, capsys):
    path = tmp_path / "call.jsonl"
    path.write_text("kept")
    for place in (path, tmp_path / "nowhere" / "call.jsonl"):
        arguments = ["--focus", "memory.pairwise", "--homeserver", "http://127.0.0.1:1"]
        code = main([*PLUGIN, "--json", "join", "!r:hs", *arguments, "--trace", str(place)])
        assert code == 2
        assert str(place) in json.loads(capsys.readouterr().err)["error"]["what"]
    assert path.read_text() == "kept"


@pytest.mark.parametrize("part", [True, False])
def test_a_full_disk_ends_the_recording_and_not_the_call(tmp_path, monkeypatch, caplog, part):
    from rtcfoci.call import trace
    from rtcfoci.core.conditions import Conditions

    conditions, told, write = Conditions(), [], trace.os.write
    recorder = trace.Trace(tmp_path / "t", ())
    recorder.on_failed = told.append
    recorder.watch("conditions", conditions)
    whole = (tmp_path / "t").read_bytes()

    def full(file, data):
        if part:
            return write(file, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trace.os, "write", full)
    assert conditions.raise_("kicked", Now(0.0, 0), cause="x") is not None
    assert conditions.clear("kicked") is not None
    assert "ends early" in caplog.text
    assert len(told) == 1
    recorder.close()
    assert (tmp_path / "t").read_bytes() == whole + (b'{"input":"' if part else b"")
