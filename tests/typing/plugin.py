"""How the author of a focus type sees the types: checked by mypy, never run."""

from collections.abc import Sequence
from typing import assert_type

from rtcfoci.core.model import Membership, Transport
from rtcfoci.plugin import (
    Backend,
    Capabilities,
    Connection,
    Context,
    DataReceived,
    FocusType,
    Health,
    Role,
    Topology,
    hookimpl,
)


@hookimpl
def rtcfoci_focus_types() -> list[FocusType]:
    return [
        FocusType(
            type="org.example.post",
            backend="example:PostBackend",
            topology=Topology.ELECTED,
            capabilities=Capabilities(data=True),
        )
    ]


class PostConnection(Connection):
    async def set_members(
        self,
        added: Sequence[Membership],
        changed: Sequence[Membership],
        removed: Sequence[Membership],
    ) -> None:
        for membership in added:
            self.emit(DataReceived(membership.member, b"hello", "greeting", True))

    def health(self) -> Health:
        return Health(connected=True, last_media_s=self.context.now().s)

    async def _close(self) -> None: ...


class PostBackend(Backend):
    async def local_transports(self, advertised: Sequence[Transport]) -> Sequence[Transport]:
        assert_type(self.context, Context)
        return [transport for transport in advertised if transport.type == "org.example.post"]

    async def connect(self, key: str, transport: Transport, roles: frozenset[Role]) -> Connection:
        return PostConnection(self.context)


class Misspelt(Backend):
    async def local_transports(self, advertised: Sequence[Transport]) -> Sequence[Transport]:
        return advertised

    async def connect(self, key: str, transport: str, roles: frozenset[Role]) -> Connection:  # type: ignore[override]
        return PostConnection(self.context)
