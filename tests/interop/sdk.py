"""matrix-js-sdk 43 and our session, given the same events, and what the policy `deployed` does otherwise.

The SDK's answer is taken as it is, save for what the policy does otherwise on purpose. Each of those is
applied to the events that the SDK is given, or to its answer, and predicts ours; nothing is excused:

1. what is of an invalid type is no membership (`lawful`);
2. the whole slot id is compared (`expected`);
3. MSC4354 says which sticky event is current and until when, and either name of the sticky key is its name
   (`lawful`, and `Map4354` in `js/members.mjs`);
4. members who joined at the same time are sorted by their ids (`expected`).
"""

import contextlib
import json
import queue
import subprocess
import threading
from dataclasses import replace

from rtcfoci.core.dialects.d2 import D2
from rtcfoci.core.dialects.d3 import D3
from rtcfoci.core.dialects.d5 import D5
from rtcfoci.core.dialects.superset import Superset
from rtcfoci.core.identity import backend_identity
from rtcfoci.core.model import Now, Slot
from rtcfoci.core.policies import DEPLOYED
from rtcfoci.core.session import Session
from rtcfoci.matrix.sync import read_event
from tests.interop.sequences import HOUR_MS, STATE, STICKY
from tests.interop.tools import JS_SDK, SCRIPTS, npm_folder

CALL = {"application": "m.call", "id": "ROOM"}
DIALECTS = (D2(), D3(), D5(), Superset())
MAX_INTEGER = 2**53 - 1


class Sdk:
    """The SDK in Node."""

    def __init__(self):
        command = ["node", str(SCRIPTS / "members.mjs"), str(npm_folder(JS_SDK))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self.lines = queue.SimpleQueue()
        # It answers while we still ask: neither may wait for the other.
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put('{"error": "it ended"}')

    def put(self, do, **fields):
        self.process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
        self.process.stdin.flush()

    def get(self):
        answer = json.loads(self.lines.get(timeout=60))
        assert "error" not in answer, answer["error"]
        return answer

    def ask(self, do, **fields):
        self.put(do, **fields)
        return self.get()

    def fold(self, slot, steps):
        return self.ask("fold", slot=slot, steps=[lawful(step) for step in steps])["answers"]

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


# What the policy does otherwise


def lawful(step):
    """Give a step as the SDK has to see it in order to come to what the policy is to say."""
    if "decrypted" in step:
        decrypted = step["decrypted"]
        clear = {**decrypted["clear"], "content": lawful_content(decrypted["clear"])}
        return {**step, "decrypted": {**decrypted, "clear": clear}}
    event = step.get("event")
    if event is None or event["type"] not in (STATE, STICKY, "m.room.encrypted"):
        return step
    event = {**event, "content": lawful_content(event)}
    duration = event.get("msc4354_sticky", {}).get("duration_ms")
    if not is_integer(duration) or duration < 0:
        event.pop("msc4354_sticky", None)  # 1, 3: it is not sticky then
    remaining = event.get("unsigned", {}).get("msc4354_sticky_duration_ttl_ms")
    if remaining == 0:
        event.pop("msc4354_sticky", None)  # 3: nothing remains, where the SDK takes 0 for unsaid
    elif remaining is not None:
        event["unsigned"] = {"msc4354_sticky_duration_ttl_ms": min(remaining, HOUR_MS)}  # 3
    return {**step, "event": event}


def lawful_content(event):
    content = event["content"]
    if event["type"] == STATE:
        wrong = any(
            name in content and not is_integer(content[name]) for name in ("expires", "created_ts")
        ) or not isinstance(content.get("membershipID", ""), str)
        return {} if wrong else content  # 1
    content = dict(content)
    if isinstance(content.get("sticky_key"), str):
        content.setdefault("msc4354_sticky_key", content["sticky_key"])  # 3
    member = content.get("member")
    if isinstance(member, dict) and not isinstance(member.get("membership", ""), str):
        del content["member"]  # 1
    return content


def is_integer(value):
    """Tell an integer of Matrix's JSON, where the SDK has numbers of all kinds, or looks at none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INTEGER


def expected(slot, members):
    """Give the SDK's members as the policy is to list them."""
    created = [member[3] for member in members]
    assert created == sorted(created)
    slot_id = f"{slot['application']}#{slot['id']}"
    ours = [member[:7] for member in members if member[7] == slot_id]  # 2
    return sorted(ours, key=place)  # 4


def place(member):
    user, device, member_id, created = member[:4]
    return created, user.encode(), device.encode(), member_id.encode()


# What we say


class Ours:
    """Our session, given the same steps."""

    def __init__(self, slot, policy=DEPLOYED):
        slot = Slot(room_id="!room:hs", application=slot["application"], name=slot["id"])
        self.session = Session(slot, DIALECTS, policy=policy)
        self.came = {}

    def take(self, step):
        now = Now(step["now"] / 1000, step["now"])
        if "event" in step:
            event = read_event(step["event"], step["now"])
            self.came.setdefault(event.event_id, event)
            self.session.receive(event, now)
        elif "decrypted" in step:
            clear = step["decrypted"]["clear"]
            member = clear["content"].get("member")
            device = member.get("device_id") if isinstance(member, dict) else None
            event = replace(
                self.came[step["decrypted"]["event_id"]],
                type=clear["type"],
                content=clear["content"],
                encrypted=True,
                encrypted_by_device_id=device if isinstance(device, str) else None,
            )
            self.session.receive(event, now)
        else:
            self.session.handle_timer(now)
        return self.members

    @property
    def members(self):
        return [
            [
                m.member.user_id,
                m.member.device_id,
                m.member.member_id,
                m.created_ts_ms,
                backend_identity(m.member, sticky=m.dialect not in ("D2", "D3")),
                [transport.raw for transport in m.published],
                m.event_id,
            ]
            for m in self.session.members
        ]
