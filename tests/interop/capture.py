"""Membership events as pinned clients send them, taken from a real homeserver.

    python -m tests.interop.capture [NAME...]

writes `tests/core/dialects/captured/NAME.json` again, each in the format that `rtcfoci session` reads, with
what sent them. Ids and times are those of a homeserver that lived for as long as the capture.
`test_captured.py` captures once more and says whether the files still tell the truth.
"""

import asyncio
import itertools
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rtcfoci.testing import SYNAPSE_VERSION, Synapse, SynapseOptions
from tests.interop.element_call import deployment, element_call
from tests.interop.tools import ELEMENT_CALL, Driver, npm_folder

FOLDER = Path(__file__).parent.parent / "core" / "dialects" / "captured"
LIVEKIT = {"type": "livekit", "livekit_service_url": "https://sfu.example.org"}
ALIAS = {**LIVEKIT, "livekit_alias": "!room:example.org"}
_OLDEST = {"type": "livekit", "focus_selection": "oldest_membership"}
_SOON = {"membershipEventExpiryMs": 60_000, "membershipEventExpiryHeadroomMs": 57_000}
"""Refreshes after three seconds instead of an hour."""
MEMBER_TYPES = ("org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Sdk:
    """A session of matrix-js-sdk, and how it is told to join."""

    version: str
    method: str
    args: tuple[object, ...]
    wants: tuple[str, ...] = ("join", "leave")

    @property
    def packages(self):
        return {"matrix-js-sdk": self.version}

    @property
    def told(self):
        return f"{self.method}({', '.join(map(json.dumps, self.args))}), leaveRoomSession(5000)"

    async def drive(self, synapse, caller, room_id, watch, folder):
        modules = npm_folder(self.packages)
        async with Driver.started(folder / "log.txt", "session.mjs", modules) as driver:
            await driver.ask(
                "start",
                baseUrl=synapse.base_url,
                userId=caller.user_id,
                deviceId=caller.device_id,
                accessToken=caller.access_token,
                roomId=room_id,
            )
            args = _named(self.args, caller)
            await driver.ask("call", method=self.method, args=args, wait=False)
            await watch.until(len(self.wants) - 1)
            await asyncio.sleep(
                1
            )  # a session that has not seen its own membership withdraws nothing
            await driver.ask("call", method="leaveRoomSession", args=[5000])
            await watch.until(len(self.wants))


@dataclass(frozen=True)
class ElementCall:
    """Element Call in a browser, in one of its RTC modes."""

    version: str
    mode: str
    wants: tuple[str, ...] = ("join", "leave")

    @property
    def packages(self):
        return {**ELEMENT_CALL, "@element-hq/element-call-embedded": self.version}

    @property
    def told(self):
        return f"matrix-rtc-mode {self.mode}, the buttons that join and leave"

    async def drive(self, synapse, caller, room_id, watch, folder):
        async with (
            deployment(synapse, folder, self.packages) as site,
            element_call(site, caller, room_id, folder, self.mode, self.packages) as page,
        ):
            await watch.until(1, timeout_s=90)
            await page.until(lambda seen: seen["inCall"], "in the call")
            await page.ask("leave")
            await watch.until(2)


def _named(args, caller):
    """Put in what only the homeserver knows: `@` and `DEVICE` stand for it."""
    text = json.dumps(args).replace(
        '"@:DEVICE"', json.dumps(f"{caller.user_id}:{caller.device_id}")
    )
    text = text.replace('"@"', json.dumps(caller.user_id))
    return json.loads(text.replace('"DEVICE"', json.dumps(caller.device_id)))


_ME = {"userId": "@", "deviceId": "DEVICE", "memberId": "@:DEVICE"}
"""Since 40 the caller names itself."""
_REFRESHED = ("join", "refresh", "leave")
_STICKY = {"unstableSendStickyEvents": True, **_SOON}
_LEGACY, _SESSION = {"useLegacyMemberEvents": True}, {"useLegacyMemberEvents": False}
SENDERS = {
    "d1-js-sdk-33.1.0": Sdk("33.1.0", "joinRoomSession", ([ALIAS],)),
    "d1-js-sdk-34.13.0": Sdk("34.13.0", "joinRoomSession", ([ALIAS], _OLDEST, _LEGACY)),
    "d2-js-sdk-34.13.0": Sdk("34.13.0", "joinRoomSession", ([ALIAS], _OLDEST, _SESSION)),
    "d2-js-sdk-37.13.0": Sdk("37.13.0", "joinRoomSession", ([ALIAS], _OLDEST, _SOON), _REFRESHED),
    "d2-js-sdk-43.0.0": Sdk("43.0.0", "joinRTCSession", (_ME, [ALIAS], None, _SOON), _REFRESHED),
    "d3-js-sdk-40.2.0": Sdk("40.2.0", "joinRTCSession", (_ME, [], ALIAS, _SOON), _REFRESHED),
    "d3-js-sdk-43.0.0": Sdk("43.0.0", "joinRTCSession", (_ME, [], ALIAS, _SOON), _REFRESHED),
    "d5-js-sdk-40.2.0": Sdk("40.2.0", "joinRTCSession", (_ME, [], ALIAS, _STICKY), _REFRESHED),
    "d5-js-sdk-42.0.0": Sdk("42.0.0", "joinRTCSession", (_ME, [], ALIAS, _STICKY), _REFRESHED),
    "d6-js-sdk-42.4.0": Sdk("42.4.0", "joinRTCSession", (_ME, [], ALIAS, _STICKY), _REFRESHED),
    "d6-js-sdk-43.0.0": Sdk("43.0.0", "joinRTCSession", (_ME, [], ALIAS, _STICKY), _REFRESHED),
    "d2-element-call-0.24.0": ElementCall("0.24.0", "legacy"),
    "d3-element-call-0.26.1": ElementCall("0.26.1", "compatibility"),
    "d5-element-call-0.19.1": ElementCall("0.19.1", "matrix_2_0"),
    "d5-element-call-0.22.0": ElementCall("0.22.0", "matrix_2_0"),
    "d6-element-call-0.24.0": ElementCall("0.24.0", "matrix_2_0"),
    "d6-element-call-0.26.1": ElementCall("0.26.1", "matrix_2_0"),
}


class Watcher:
    """Collects a room's events as they come, in client format."""

    def __init__(self, synapse, token, room_id):
        self.events = []
        self._synapse, self._token, self._room_id = synapse, token, room_id
        self._since = None

    async def look(self, timeout_s=1.0):
        query = {"timeout": str(int(timeout_s * 1000))}
        if self._since is not None:
            query["since"] = self._since
        path = "/_matrix/client/v3/sync"
        answer = await self._synapse.checked("GET", path, self._token, query=query)
        self._since = answer["next_batch"]
        room = answer.get("rooms", {}).get("join", {}).get(self._room_id, {})
        for section in ("state", "timeline", "msc4354_sticky"):
            for event in room.get(section, {}).get("events", ()):
                if event["event_id"] not in {known["event_id"] for known in self.events}:
                    self.events.append(event)

    def memberships(self):
        return [event for event in self.events if event["type"] in MEMBER_TYPES]

    async def until(self, count, timeout_s=30.0):
        async with asyncio.timeout(timeout_s):
            while len(self.memberships()) < count:
                await self.look()


async def capture(synapse, name, folder):
    """Have one sender join, stay and leave; give the file's content."""
    sender = SENDERS[name]
    number = next(_numbers)
    caller = await synapse.register(f"sender{number}", "password")
    witness = await synapse.register(f"witness{number}", "password")
    room_id = await synapse.create_room(caller.access_token)
    await synapse.join_room(witness.access_token, room_id)
    watch = Watcher(synapse, witness.access_token, room_id)
    await watch.look(0)
    await sender.drive(synapse, caller, room_id, watch, folder)
    people = [event for event in watch.events if event["type"] == "m.room.member"]
    found = [event for event in watch.memberships() if event["sender"] == caller.user_id]
    assert len(found) == len(sender.wants), f"{name} sent {len(found)} membership events"
    package, version = next(iter(sender.packages.items()))
    return {
        "captured_from": {
            "package": f"{package} {version}",
            "homeserver": f"Synapse {SYNAPSE_VERSION}",
            "told": sender.told,
        },
        "dialect": name.split("-")[0].upper(),
        "says": list(sender.wants),
        "room_id": room_id,
        "events": [_trimmed(event) for event in (*people, *found)],
    }


def _trimmed(event):
    """Without what is the watcher's own, and changes with the minute."""
    unsigned = {k: v for k, v in event.get("unsigned", {}).items() if k.startswith("msc4354")}
    event = {key: event[key] for key in sorted(event) if key not in ("unsigned", "user_id", "age")}
    return {**event, "unsigned": unsigned} if unsigned else event


async def main(names):
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        async with Synapse(Path(scratch) / "synapse", SynapseOptions()) as synapse:
            for name in names or SENDERS:
                folder = Path(scratch) / name
                folder.mkdir()
                content = await capture(synapse, name, folder)
                text = json.dumps(content, indent=2, ensure_ascii=False)
                (FOLDER / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
                print(name, len(content["events"]))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
