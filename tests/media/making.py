"""Recordings and frames that tests make up, faster than they would play."""

import asyncio
import random
from collections.abc import Callable, Iterable
from pathlib import Path

from rtcfoci.media.convert import scaled
from rtcfoci.media.frames import AudioFrame, Frame, Kind, VideoFrame
from rtcfoci.media.pattern import Stamp, draw
from rtcfoci.media.recording import MatroskaWriter
from rtcfoci.media.signature import Signature
from rtcfoci.media.sources import ToneSource

EPOCH_NS = 5_000_000_000


def tone(hz: int, start_s: float, end_s: float) -> list[Frame]:
    source = ToneSource(hz)
    return [
        source._frame(i, EPOCH_NS + i * 20_000_000)
        for i in range(round(start_s * 50), round(end_s * 50))
    ]


def silence(start_s: float, end_s: float) -> list[Frame]:
    return [
        AudioFrame(pcm=bytes(1920), timestamp_ns=EPOCH_NS + i * 20_000_000)
        for i in range(round(start_s * 50), round(end_s * 50))
    ]


def pattern(
    sender_id: int, start_s: float, end_s: float, *, size: tuple[int, int] = (320, 240)
) -> list[Frame]:
    return [
        draw(Stamp(sender_id, i), *size, EPOCH_NS + i * 1_000_000_000 // 15)
        for i in range(round(start_s * 15), round(end_s * 15))
    ]


def record(path: Path, *frames: Iterable[Frame], kinds: Iterable[Kind] = tuple(Kind)) -> Path:
    """Write frames in the order of their times."""
    writer = MatroskaWriter(path, epoch_ns=EPOCH_NS, kinds=tuple(kinds))
    for frame in sorted((f for some in frames for f in some), key=lambda f: f.timestamp_ns):
        writer.write(frame)
    writer.close()
    return path


def record_sender(path: Path, signature: Signature, seconds: float = 2.5) -> Path:
    return record(
        path, tone(signature.tone_hz, 0, seconds), pattern(signature.sender_id, 0, seconds)
    )


def record_damaged(path: Path, good: int = 50, damaged: int = 150) -> Path:
    """Write a film of so many good pictures, and so many behind them that no longer are any."""
    import av

    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuvj420p"
        for i in range(good + damaged):
            picture = av.VideoFrame(160, 120, "yuvj420p")
            for plane in picture.planes:
                plane.update(bytes([i % 256]) * plane.buffer_size)
            picture.pts = i
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    chunk, left = b"00dc", good + damaged
    place = data.index(chunk, data.index(b"movi"))
    while left:
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        if left <= damaged:
            data = data[: place + 8] + bytes(size) + data[place + 8 + size :]
        place, left = place + 8 + size + size % 2, left - 1
    path.write_bytes(data)
    return path


def noisy(frame: VideoFrame, spread: int, seed: int = 1) -> VideoFrame:
    """Add noise of -spread to +spread to every sample."""
    choose = random.Random(seed)
    data = bytes(min(255, max(0, s + choose.randint(-spread, spread))) for s in frame.data)
    return VideoFrame(
        data=data, width=frame.width, height=frame.height, timestamp_ns=frame.timestamp_ns
    )


def mirrored(frame: VideoFrame) -> VideoFrame:
    rows = (
        frame.data[i : i + frame.width] for i in range(0, frame.width * frame.height, frame.width)
    )
    luma = b"".join(row[::-1] for row in rows)
    return VideoFrame(
        data=luma + frame.data[len(luma) :],
        width=frame.width,
        height=frame.height,
        timestamp_ns=frame.timestamp_ns,
    )


def coarse(frame: VideoFrame, factor: int) -> VideoFrame:
    """Blur by scaling down and up again."""
    width, height = frame.width // factor & ~1, frame.height // factor & ~1
    return scaled(scaled(frame, width, height), frame.width, frame.height)


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - polls what is no event
            await asyncio.sleep(0.01)
