"""Data that participants send each other in a run: to whom each message is promised, and what came.

In: reliable messages between members who stay arrive once and in order, whatever broke in between. Out: when
they are sent (`faults`), everything else that must hold (`rules`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtcfoci.call.call import Call
from rtcfoci.errors import BackendError, UsageError

if TYPE_CHECKING:
    from rtcfoci.testing.simulation.device import Device, Process
    from rtcfoci.testing.simulation.world import World

__all__ = ["Messages"]


@dataclass(frozen=True, slots=True)
class _Promise:
    """One message on its way from one to another."""

    sender: Process
    receiver: Process
    calls: tuple[Call, Call]
    text: str
    at_s: float

    @property
    def holds(self) -> bool:
        """Whether both are still in the same calls, and neither missed the other meanwhile."""
        ends = (self.sender, self.receiver)
        members = [call.member for call in self.calls]
        return all(
            process.stays and process.call is call and process.missed_s.get(other, -1.0) < self.at_s
            for process, call, other in zip(ends, self.calls, reversed(members), strict=True)
        )


class Messages:
    """Every message of a run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._promises: list[_Promise] = []
        self._count = 0

    def send(self, device: Device) -> None:
        """Have a device send a message to everybody, if it can."""
        process = device.process
        if process is not None and process.call is not None:
            self._world.spawn(self.say(process))

    async def say(self, process: Process) -> None:
        """Send a message to everybody."""
        call, world = process.call, self._world
        if call is None:
            return
        self._count += 1
        text, at_s = f"{process.device.name}{self._count}", world.now_s
        receivers = [(other, other.call) for other in self._within_reach(process)]
        try:
            await call.send_data(text.encode())
        except (BackendError, UsageError) as error:
            world.note(process.device.name, "cannot send", error.what)
            return
        for receiver, far in receivers:
            if far is not None:
                self._promises.append(_Promise(process, receiver, (call, far), text, at_s))

    def broken(self) -> Iterator[tuple[str, str]]:
        """Compare what came with what was promised; give rules and what broke them."""
        pairs: dict[tuple[Process, Process], list[str]] = {}
        for promise in self._promises:
            if promise.holds:
                pairs.setdefault((promise.sender, promise.receiver), []).append(promise.text)
        for (sender, receiver), promised in pairs.items():
            known = set(promised)
            came = [text for text in receiver.received if text in known]
            names = f"{receiver.device.name} of {sender.device.name}: {' '.join(came)}"
            if len(came) > len(set(came)):
                yield "data came twice", names
            elif set(came) != known:
                yield "data lost", f"{names}, not {' '.join(sorted(known - set(came)))}"
            elif came != promised:
                yield "data out of order", names

    def _within_reach(self, process: Process) -> Iterator[Process]:
        """Give those to whom a message sent now must come: both see each other, and fit.

        Where there are more than fit, the sender may not have heard yet who moved up.
        """
        assert process.call is not None
        rules = self._world.rules
        seated = rules.seated()
        all_fit = len(self._world.devices) <= self._world.script.seats
        for device in self._world.devices:
            other = device.process
            if other is None or other is process or other.call is None:
                continue
            both = {process.call.member, other.call.member}
            seen = all(
                there in {p.member for p in call.participants}
                for call, there in (
                    (process.call, other.call.member),
                    (other.call, process.call.member),
                )
            )
            if seen and both <= seated and (all_fit or rules.connected(process, other)):
                yield other
