"""Reliable messages across connections: each arrives once and in order, whatever breaks in between.

In: numbering, what waits to be acknowledged, telling a repetition from news, when to acknowledge.
Out: the frames (`data`), the connection that carries them (`peer`).

A data channel is reliable while its connection lives. When that is rebuilt, whatever had not arrived is
lost with it, and the sender cannot tell what that was. So messages are numbered, and kept until the other
side acknowledges them; a new connection begins with the name of the stream and the first number to come,
then everything that was kept is sent again, and what had arrived after all is dropped by its number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from rtcfoci_mesh.data import Acknowledged, Stream, numbered, pack

__all__ = ["WINDOW_BYTES", "Delivery", "Receiving", "Sending"]

WINDOW_BYTES = 1 << 20
"""What is kept for one member at most; the sender waits beyond."""
_COST_BYTES = 128
"""What keeping even an empty message costs."""
_ACKNOWLEDGE_S = 0.05
"""So long several messages are gathered into one acknowledgement, unless they are many."""
_ACKNOWLEDGE_BYTES = WINDOW_BYTES // 16


class Sending:
    """Our messages to one member. :param stream: a word that nobody used for another stream."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._first = 0
        """The number of the oldest that is kept."""
        self._kept: deque[bytes] = deque()
        self._bytes = 0

    def take(self, frame: bytes) -> bytes | None:
        """Keep a message and give it with its number; None when too much is kept already."""
        cost = len(frame) + _COST_BYTES
        if self._bytes + cost > WINDOW_BYTES:
            return None
        self._bytes += cost
        self._kept.append(frame)
        return numbered(frame, self._first + len(self._kept) - 1)

    def again(self) -> tuple[Stream, Iterator[bytes]]:
        """Give what a new connection begins with: the stream, then all that is kept."""
        frames = (numbered(frame, self._first + i) for i, frame in enumerate(tuple(self._kept)))
        return Stream(self._stream, self._first), frames

    def acknowledged(self, below: int) -> bool:
        """Forget the messages with lower numbers; False when there never were so many."""
        if below > self._first + len(self._kept):
            return False
        while self._first < below:
            self._bytes -= len(self._kept.popleft()) + _COST_BYTES
            self._first += 1
        return True


class Receiving:
    """One member's messages to us."""

    def __init__(self) -> None:
        self._stream = ""
        self._next = 0

    def begin(self, stream: Stream) -> None:
        """Take note of what a connection brings; a stream that goes on is taken up where it was."""
        if stream.name != self._stream:
            self._stream, self._next = stream.name, stream.first

    def take(self, number: int) -> bool:
        """Tell whether a message is the next; others came before, or never will be."""
        if number != self._next or not self._stream:
            return False
        self._next += 1
        return True

    @property
    def acknowledgement(self) -> Acknowledged:
        """Say how far we are."""
        return Acknowledged(self._next)


class Timer(Protocol):
    """What waits."""

    def cancel(self) -> None: ...


class Delivery:
    """The reliable messages of one pair, both ways.

    :param stream: a word that nobody used for another stream.
    :param transmit: sends a frame in order on the connection of now; False when that is not possible.
    :param later: has something called after so many seconds.
    """

    def __init__(
        self,
        stream: str,
        transmit: Callable[[bytes], bool],
        later: Callable[[float, Callable[[], None]], Timer],
    ) -> None:
        self.sending: Sending = Sending(stream)
        self.receiving: Receiving = Receiving()
        self.open: bool = False
        """Whether there is a connection whose data channels can be used."""
        self._transmit = transmit
        self._later = later
        self._acknowledging: Timer | None = None
        self._unacknowledged_bytes = 0

    def opened(self) -> None:
        """Begin on a new connection."""
        stream, kept = self.sending.again()
        self.open = all(map(self._transmit, (pack(stream), *kept)))

    def ended(self) -> None:
        """Wait for another connection; what is acknowledged here is not meant for it."""
        self.open = False
        self._rest()

    def send(self, frame: bytes) -> bool:
        """Send a message, now or once there is a connection; False when too many are kept."""
        frame_now = self.sending.take(frame)
        if frame_now is not None and self.open:
            # After a failure nothing more may go out here: it would overtake what failed.
            self.open = self._transmit(frame_now)
        return frame_now is not None

    def is_next(self, number: int, size: int) -> bool:
        """Tell whether a message that came is the next; it is acknowledged either way."""
        news = self.receiving.take(number)
        self._unacknowledged_bytes += size
        if self._unacknowledged_bytes > _ACKNOWLEDGE_BYTES:
            self._acknowledge()
        elif self._acknowledging is None:
            self._acknowledging = self._later(_ACKNOWLEDGE_S, self._acknowledge)
        return news

    def take(self, told: Stream | Acknowledged) -> bool:
        """Take what the other side says of the streams; False when it cannot be so."""
        if isinstance(told, Acknowledged):
            return self.sending.acknowledged(told.below)
        self.receiving.begin(told)
        return True

    def _acknowledge(self) -> None:
        self._rest()
        self._transmit(pack(self.receiving.acknowledgement))

    def _rest(self) -> None:
        self._unacknowledged_bytes = 0
        if self._acknowledging is not None:
            self._acknowledging.cancel()
            self._acknowledging = None
