"""The captured events of `tests/core/dialects/captured` are still what their senders send."""

import json
import re

import pytest

from tests.interop.capture import FOLDER, MEMBER_TYPES, SENDERS, capture

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

_OF_ITS_TIME = {"created_ts", "expires_ts"}


def outline(content):
    """The membership events of a capture, without ids and times."""
    events = [
        {key: event.get(key) for key in ("type", "state_key", "content", "msc4354_sticky")}
        for event in content["events"]
        if event["type"] in MEMBER_TYPES
    ]
    text = json.dumps(events)
    for device_id in {*re.findall(r'"device_id": "(\w+)"', text)}:
        text = text.replace(device_id, "DEVICE")
    text = re.sub(r"@sender\d+:localhost", "@", re.sub(r'"\$[\w-]+"', '"$"', text))
    text = re.sub(r'"membershipID": "\w{5}"', '"membershipID": "random"', text)
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "uuid", text)
    text = re.sub(r'"livekit_alias": "![\w-]+"', '"livekit_alias": "!"', text)
    text = re.sub(r"http://127\.0\.0\.1:\d+", "http://127.0.0.1", text)
    return [timeless(event) for event in json.loads(text)]


def timeless(value):
    if isinstance(value, dict):
        return {key: 0 if key in _OF_ITS_TIME else timeless(held) for key, held in value.items()}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def test_every_file_has_a_sender():
    assert sorted(file.stem for file in FOLDER.glob("*.json")) == sorted(SENDERS)


@pytest.mark.parametrize("name", SENDERS)
async def test_a_sender_still_sends_what_was_captured(synapse, name, tmp_path):
    kept = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    content = await capture(synapse, name, tmp_path)
    assert outline(content) == outline(kept)
    for key in ("captured_from", "dialect", "says"):
        assert content[key] == kept[key]
