"""What each kind of step does to a call.

In: the table from names to what they do; ending what lasts. Out: which steps there are in a run (`script`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from rtcfoci.media.frames import Kind
from rtcfoci.testing.homeserver_devices import DeviceMessage
from rtcfoci.testing.simulation.script import REPEATS_S, Step

if TYPE_CHECKING:
    from rtcfoci.testing.simulation.world import World

__all__ = ["FAULTS", "Mail", "apply"]

Undo = Callable[[], None]


def apply(world: World, step: Step) -> None:
    """Do a step now, and see to it that it ends."""
    world.note(_whose(world, step), step.do, str(step))
    undo = FAULTS[step.do](world, step)
    world.recovery.begins(world.devices[step.who])
    if undo is not None:
        world.loop.call_later(step.for_s, _end, world, step, undo)


def _end(world: World, step: Step, undo: Undo) -> None:
    undo()
    world.note(_whose(world, step), f"{step.do} ends")


def _whose(world: World, step: Step) -> str:
    return "homeserver" if step.do == "outage" else world.devices[step.who].name


class Mail:
    """To-device messages on their way, as the steps of the run mistreat them."""

    def __init__(self, world: World) -> None:
        self.steps: dict[int, list[tuple[Step, int]]] = {}
        """By the number of the receiving device: what is done to messages, and to how many more."""
        self.held: dict[int, list[DeviceMessage]] = {}
        self._world = world

    def __call__(self, message: DeviceMessage) -> Iterable[DeviceMessage]:
        """Give what is delivered now in place of a message."""
        number = next(d.number for d in self._world.devices if d.person.user_id == message.user_id)
        waiting = self.steps.get(number)
        if not waiting:
            return (message,)
        step, left = waiting.pop(0)
        if left > 1:
            waiting.insert(0, (step, left - 1))
        deliver = self._world.homeserver.devices.deliver
        match step.do:
            case "lose to-device":
                return ()
            case "repeat to-device":
                for late_s in REPEATS_S:
                    self._world.loop.call_later(late_s, deliver, message)
                return (message,)
            case "delay to-device":
                self._world.loop.call_later(step.amount, deliver, message)
                return ()
            case _:
                self.held.setdefault(number, []).append(message)
                return ()

    def begin(self, step: Step) -> Undo:
        """Mistreat the next messages to a device."""
        entry = (step, step.count)
        self.steps.setdefault(step.who, []).append(entry)

        def end() -> None:
            left = self.steps[step.who]
            left[:] = [one for one in left if one[0] is not step]
            for message in reversed(self.held.pop(step.who, [])):
                self._world.homeserver.devices.deliver(message)

        return end


def _join(world: World, step: Step) -> None:
    world.devices[step.who].join()


def _leave(world: World, step: Step) -> None:
    world.devices[step.who].leave()


def _kill(world: World, step: Step) -> None:
    world.devices[step.who].kill()


def _cut(world: World, paths: Iterable[tuple[str, str]]) -> Undo:
    cut = tuple(paths)
    world.network.cuts.update(cut)
    return lambda: world.network.cuts.subtract(cut)


def _cut_pair(world: World, step: Step) -> Undo:
    one, other = world.devices[step.who].name, world.devices[step.to].name
    both = [(other, one)] if step.how == "both" else []
    return _cut(world, [(one, other), *both])


def _cut_member(world: World, step: Step) -> Undo:
    one = world.devices[step.who].name
    others = [d.name for d in world.devices if d.name != one]
    paths = [(one, o) for o in others] if step.how in ("both", "out") else []
    return _cut(world, paths + ([(o, one) for o in others] if step.how in ("both", "in") else []))


def _cut_server(world: World, step: Step) -> Undo:
    device = world.devices[step.who]

    def count(by: int) -> None:
        if step.how == "silent":
            device.weather.silent += by
        else:
            device.weather.refused += by
        device.changed()

    count(1)
    return lambda: count(-1)


def _outage(world: World, step: Step) -> Undo:
    world.outages += 1
    world.homeserver.go_down()

    def end() -> None:
        world.outages -= 1
        if not world.outages:
            world.homeserver.come_up()

    return end


def _mistreat(world: World, step: Step) -> Undo:
    return world.mail.begin(step)


def _limit(world: World, step: Step) -> Undo:
    weather = world.devices[step.who].weather
    weather.limited = step.count
    weather.retry_after_ms = round(step.amount * 1000) if step.how == "says when" else None

    def end() -> None:
        weather.limited = 0

    return end


def _lose_answers(world: World, step: Step) -> Undo:
    weather = world.devices[step.who].weather
    weather.lost, weather.lost_silently = step.count, step.how == "silent"

    def end() -> None:
        weather.lost = 0

    return end


def _slow(world: World, step: Step) -> Undo:
    weather = world.devices[step.who].weather
    weather.late_s += step.amount

    def end() -> None:
        weather.late_s -= step.amount

    return end


def _clock_jump(world: World, step: Step) -> None:
    world.devices[step.who].clock_ms += round(step.amount * 1000)


def _media(change: Callable[[dict[Kind, bool], Kind], None]) -> Callable[[World, Step], None]:
    def do(world: World, step: Step) -> None:
        device = world.devices[step.who]
        change(device.media, Kind(step.how))
        if device.process is not None:
            world.spawn(device.process.show())

    return do


def _mute(media: dict[Kind, bool], kind: Kind) -> None:
    if kind in media:
        media[kind] = True


def _unmute(media: dict[Kind, bool], kind: Kind) -> None:
    if kind in media:
        media[kind] = False


def _publish(media: dict[Kind, bool], kind: Kind) -> None:
    media.setdefault(kind, False)


def _unpublish(media: dict[Kind, bool], kind: Kind) -> None:
    media.pop(kind, None)


def _send(world: World, step: Step) -> Undo:
    every_s = step.for_s / max(1, step.count)
    for number in range(step.count):
        world.loop.call_later(number * every_s, world.messages.send, world.devices[step.who])
    return lambda: None


FAULTS: Mapping[str, Callable[[World, Step], Undo | None]] = MappingProxyType(
    {
        "join": _join,
        "leave": _leave,
        "kill": _kill,
        "cut pair": _cut_pair,
        "cut member": _cut_member,
        "cut server": _cut_server,
        "outage": _outage,
        "lose to-device": _mistreat,
        "repeat to-device": _mistreat,
        "reorder to-device": _mistreat,
        "delay to-device": _mistreat,
        "rate limit": _limit,
        "lose answers": _lose_answers,
        "slow answers": _slow,
        "clock jump": _clock_jump,
        "publish": _media(_publish),
        "unpublish": _media(_unpublish),
        "mute": _media(_mute),
        "unmute": _media(_unmute),
        "send data": _send,
    }
)
"""What a step does; what it gives back ends it."""
