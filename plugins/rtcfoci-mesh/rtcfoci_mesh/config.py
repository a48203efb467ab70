"""What crosses the edges of the mesh as JSON: its configuration and its transport descriptor.

In: pydantic models and their limits. Out: signals between members (`wire`).
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["IceServer", "MeshConfig", "MeshTransport"]


class IceServer(BaseModel):
    """One STUN or TURN server."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = Field(default=None, repr=False)


class MeshConfig(BaseModel):
    """How this participant takes part in a mesh."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    ice_servers: tuple[IceServer, ...] | None = None
    """None: ask the homeserver (`/voip/turnServer`); empty: use none. There is no public default."""
    loopback: bool = False
    """Offer 127.0.0.1 and nothing else: for tests and demos on one machine."""
    relay_only: bool = False
    """Reach members through TURN servers alone, so that they do not learn our addresses."""
    video: bool | None = None
    """Whether we mean to send video: others count it against the cap. None: what the application said."""
    max_video_members: int = Field(default=8, ge=2)
    """Members of a mesh in which somebody sends video. The same number for everybody in a call."""
    max_audio_members: int = Field(default=16, ge=2)
    """Members of a mesh without video. The same number for everybody in a call."""
    connect_timeout_s: float = Field(default=12.0, gt=0)
    """How long one attempt to reach a member may take before the next one."""
    gather_timeout_s: float = Field(default=2.0, gt=0)
    """How long STUN and TURN servers may take to answer."""
    resend_s: float = Field(default=2.0, gt=0)
    """After how long a signal that nobody answered is sent again."""
    stall_s: float = Field(default=3.0, gt=0)
    """Silence after which a member's connection is given up and rebuilt."""
    ping_s: float = Field(default=1.0, gt=0)
    """How often each member is asked for a sign of life."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.loopback and self.relay_only:
            raise ValueError(
                "loopback and relay_only exclude each other, for no TURN server reaches a loopback "
                "address; leave one of them out"
            )
        return self


class MeshTransport(BaseModel):
    """The wire descriptor: `{"type": "rtcfoci.mesh", "joined_ts_ms": ..., "video": ...}`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", frozen=True)

    type: Literal["rtcfoci.mesh"] = "rtcfoci.mesh"
    joined_ts_ms: int = Field(ge=0, le=2**53)
    video: bool = True
