"""Members and messages for the tests of media keys."""

from rtcfoci.core.effects import ClearCondition, RaiseCondition
from rtcfoci.core.key_messages import WRITTEN_KEY_TYPE, Key, write_key
from rtcfoci.core.keys import KeyConfig, KeyMachine, SendKey, SetKey, UseKey
from rtcfoci.core.model import FocusSelection, Member, Membership, Now, Slot
from tests.core.wire import off_the_wire

SLOT = Slot(room_id="!room:hs")


def member(name, device=None, member_id=None):
    device = name.upper() if device is None else device
    user = f"@{name}:hs"
    return Member(user_id=user, device_id=device, member_id=member_id or f"{user}:{device}")


def membership(who, created_ts_ms=0):
    user, device, member_id = map(off_the_wire, (who.user_id, who.device_id, who.member_id))
    who = Member(user_id=user, device_id=device, member_id=member_id)
    return Membership(
        member=who, slot_id=SLOT.slot_id, transports=(), can_subscribe=None,
        focus_selection=FocusSelection.OWN, application={"type": "m.call"},
        created_ts_ms=created_ts_ms, expires_ts_ms=10**12, dialect="D3", event_id="$e",
        room_id=SLOT.room_id,
    )  # fmt: skip


ME, ANN, BOB, CEM = [member(name) for name in ("me", "ann", "bob", "cem")]


def content(sender, index=0, secret=b"k" * 32, sent_ts_ms=1_000, slot=SLOT):
    return write_key(slot, sender, index, Key(secret), sent_ts_ms=sent_ts_ms)


class Desk:
    """One machine, a clock, and everything it asked for."""

    def __init__(self, *, own=ME, slot=SLOT, config=None):
        self.now_s = 1000.0
        self.made = 0
        self.machine = KeyMachine(
            slot, own, random_bytes=self._random, config=config or KeyConfig()
        )
        self.out = []

    def _random(self, length):
        self.made += 1
        return bytes([self.made % 256]) * length

    @property
    def now(self):
        return Now(self.now_s, round(self.now_s * 1000))

    def do(self, outputs):
        self.out += outputs
        return list(outputs)

    def there(self, *members, lingering=()):
        listed = [m if isinstance(m, Membership) else membership(m) for m in members]
        return self.do(
            self.machine.set_members(self.now, listed, lingering=[membership(m) for m in lingering])
        )

    def start(self, *members):
        self.there(*members)
        return self.do(self.machine.start(self.now))

    def wait(self, seconds):
        """Let time pass, timer by timer; every send is answered at once."""
        out, end_s = [], self.now_s + seconds
        while True:
            due_s = self.machine.next_timer_s
            if due_s is None or due_s > end_s:
                break
            self.now_s = max(self.now_s, due_s)
            out += self.do(self.machine.timer(self.now))
        self.now_s = end_s
        return out

    def deliver(self, outputs=None):
        """Answer every send of these, and those that follow, with success; give who got which index."""
        waiting, got = list(self.out if outputs is None else outputs), []
        while waiting:
            effect = waiting.pop(0)
            if isinstance(effect, SendKey):
                got.append((effect.to, effect.index))
                waiting += self.do(self.machine.sent(self.now, effect.id))
        return got

    def take(
        self,
        sender,
        message=None,
        *,
        kind=WRITTEN_KEY_TYPE,
        user=None,
        device=None,
        encrypted=True,
        trusted=False,
    ):
        return self.do(
            self.machine.receive(
                self.now,
                off_the_wire(kind),
                off_the_wire(content(sender) if message is None else message),
                sender=off_the_wire(user or sender.user_id),
                sender_device_id=off_the_wire(device or sender.device_id),
                encrypted=encrypted,
                trusted=trusted,
            )
        )


def sends(outputs):
    return [(o.to, o.index) for o in outputs if isinstance(o, SendKey)]


def uses(outputs):
    return [o.index for o in outputs if isinstance(o, UseKey)]


def sets(outputs):
    return [(o.member, o.index, o.key.reveal()) for o in outputs if isinstance(o, SetKey)]


def theirs(outputs):
    return [item for item in sets(outputs) if item[0] != ME]


def raised(outputs):
    return [(o.code, o.subject) for o in outputs if isinstance(o, RaiseCondition)]


def cleared(outputs):
    return [(o.code, o.subject) for o in outputs if isinstance(o, ClearCondition)]
