"""Key machines wired back to back over a network that loses, repeats, delays and reorders.

Devices join, leave and come back; each sees the session when it pleases. Whatever happened, after quiet
everybody opens what everybody sends, and nobody who left opens what is sent later.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rtcfoci.core.key_messages import WRITTEN_KEY_TYPE, write_key
from rtcfoci.core.keys import KeyConfig, KeyMachine, SendKey, SetKey, UseKey
from rtcfoci.core.model import Now
from tests.core.keying import SLOT, member, membership

NAMES = ("ann", "bob", "cem", "dan")
CONFIG = KeyConfig(rotate_every_s=120)
STICKY = frozenset({"cem", "dan"})
"""They have a new member id in each join, the others the same."""


class Side:
    """One join of one device."""

    def __init__(self, world, name, number):
        self.world, self.name = world, name
        who = member(name, member_id=f"{name}-{number}" if name in STICKY else None)
        self.membership = membership(who, created_ts_ms=world.now.ts_ms)
        self.who = who
        self.machine = KeyMachine(SLOT, who, random_bytes=world.random, config=CONFIG)
        self.keys = {}
        """What its connection was given."""
        self.index = None
        self.gone_s = {}
        """When it first saw that somebody had left."""

    def do(self, outputs):
        for output in outputs:
            if isinstance(output, SendKey):
                self.world.sending.append((self, output, self.world.now.ts_ms))
                self.world.told.setdefault(output.to, set()).add(output.key)
            elif isinstance(output, SetKey):
                self.keys[output.member, output.index] = output.key
            elif isinstance(output, UseKey):
                assert (self.who, output.index) in self.keys, "used before it was set"
                self.index = output.index

    @property
    def key(self):
        return self.keys[self.who, self.index]

    def look(self):
        session = [s.membership for s in self.world.sides.values()]
        devices = {(m.member.user_id, m.member.device_id) for m in session}
        for name in NAMES:
            device = (f"@{name}:hs", name.upper())
            if device in devices:
                self.gone_s.pop(name, None)
            else:
                self.gone_s.setdefault(name, self.world.now.s)
        self.do(self.machine.set_members(self.world.now, session))


class World(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.s, self.made, self.number = 1000.0, 0, 0
        self.sides = {}
        self.sending = []
        """What a homeserver has not answered."""
        self.boxes = {name: [] for name in NAMES}
        self.told = {}
        """Every key that was ever on its way to a member."""

    @property
    def now(self):
        return Now(self.s, round(self.s * 1000))

    def random(self, length):
        self.made += 1
        return self.made.to_bytes(length, "big")

    def pass_(self, seconds):
        end_s = self.s + seconds
        while True:
            due = [(s.machine.next_timer_s, n) for n, s in self.sides.items()]
            due = [(at_s, n) for at_s, n in due if at_s is not None and at_s <= end_s]
            if not due:
                break
            at_s, name = min(due)
            self.s = max(self.s, at_s)
            self.sides[name].do(self.sides[name].machine.timer(self.now))
        self.s = end_s

    @rule(name=st.sampled_from(NAMES))
    def joins(self, name):
        self.pass_(0.01)
        self.number += 1
        side = self.sides[name] = Side(self, name, self.number)
        side.look()
        side.do(side.machine.start(self.now))

    @rule(name=st.sampled_from(NAMES))
    def leaves(self, name):
        self.pass_(0.01)
        self.sides.pop(name, None)

    @rule(name=st.sampled_from(NAMES))
    def looks(self, name):
        if name in self.sides:
            self.sides[name].look()

    @rule(seconds=st.sampled_from([0.05, 1.0, 3.0, 6.0, 11.0, 130.0]))
    def waits(self, seconds):
        self.pass_(seconds)

    @rule(
        at=st.integers(0, 7), how=st.sampled_from(["taken", "taken", "lost", "unheard", "refused"])
    )
    def homeserver(self, at, how):
        if not self.sending:
            return
        side, effect, sent_ts_ms = self.sending.pop(at % len(self.sending))
        if how in ("taken", "unheard"):
            content = write_key(SLOT, side.who, effect.index, effect.key, sent_ts_ms=sent_ts_ms)
            self.boxes[effect.to.user_id[1:4]].append((side.who, content))
        if self.sides.get(side.name) is not side:
            return  # a process that is no more learns nothing, and sends nothing else
        if how == "taken":
            side.do(side.machine.sent(self.now, effect.id))
        else:
            server = how != "refused"
            side.do(side.machine.failed(self.now, effect.id, cause=how, server=server))

    @rule(name=st.sampled_from(NAMES), at=st.integers(0, 7), keep=st.booleans())
    def arrives(self, name, at, keep):
        box, side = self.boxes[name], self.sides.get(name)
        if not box or side is None:
            return
        sender, content = box[at % len(box)]
        if not keep:
            box.pop(at % len(box))
        side.do(
            side.machine.receive(
                self.now,
                WRITTEN_KEY_TYPE,
                content,
                sender=sender.user_id,
                sender_device_id=sender.device_id,
                encrypted=True,
            )
        )

    @rule()
    def quiet(self):
        for _ in range(60):
            for name, side in list(self.sides.items()):
                side.look()
                while self.boxes[name]:
                    self.arrives(name, 0, keep=False)
            while self.sending:
                self.homeserver(0, "taken")
            self.pass_(0.5)
        for one in self.sides.values():
            for other in self.sides.values():
                assert other.keys.get((one.who, one.index)) == one.key, f"{other.who} is deaf"
                assert other.machine.installed[one.who, one.index] == one.key

    @invariant()
    def who_left_is_out(self):
        for side in self.sides.values():
            for name, since_s in side.gone_s.items():
                if self.s < since_s + 2 * CONFIG.use_delay_s:
                    continue
                for told, keys in self.told.items():
                    if told.user_id == f"@{name}:hs":
                        assert side.key not in keys, f"{name} left {self.s - since_s} s ago"

    @invariant()
    def only_what_is_needed_is_kept(self):
        for side in self.sides.values():
            assert len(side.machine._sharing.installed) <= 2
            assert len(side.machine._sharing._recipients) < len(NAMES)
            assert all(len(r.owed) <= 2 for r in side.machine._sharing._recipients.values())
            assert all(len(r.keys) <= 16 for r in side.machine._rings._rings.values())

    def teardown(self):
        self.quiet()
        self.who_left_is_out()


World.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestKeyMachines = World.TestCase
