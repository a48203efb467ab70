"""LiveKit's tokens, made fast: JSON Web Tokens signed with HMAC-SHA256.

In: `Minter`, for participants and for our own calls. Out: who may have which grants (`granting`).

A test proves every token equal to livekit-api's, grant by grant. What makes it fast: the signer is
prepared once and copied, and the claims are written without building them first.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from json import dumps

__all__ = ["Grants", "Minter"]

_HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=") + b"."
_SERVICE_TTL_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """What every participant of one kind may do; the room comes with the token."""

    can_publish: bool
    can_update_own_metadata: bool
    room_create_shown: bool
    """Say `roomCreate: false` aloud; leaving it out means the same."""

    def rendered(self) -> str:
        """Give the claims that follow the room's."""
        claims: dict[str, bool] = {"canPublish": self.can_publish, "canSubscribe": True}
        claims["canUpdateOwnMetadata"] = self.can_update_own_metadata
        if not self.can_publish:
            claims["canPublishData"] = False
        if self.room_create_shown:
            claims["roomCreate"] = False
        return dumps(claims, separators=(",", ":"))[1:]


class Minter:
    """Signs tokens with one key pair; the pair never shows."""

    def __init__(self, key: str, secret: str) -> None:
        self.key = key
        self._signer = hmac.new(secret.encode(), digestmod=hashlib.sha256)
        self._issuer = dumps(key)
        self._secret = secret
        self._rendered: dict[Grants, str] = {}
        self._room_create: tuple[int, str] = (0, "")

    def __repr__(self) -> str:
        return f"Minter({self.key!r})"

    def participant(
        self,
        grants: Grants,
        *,
        room: str,
        identity: str,
        now_s: int,
        ttl_s: int,
        attributes: Mapping[str, str] | None = None,
    ) -> str:
        """Make the token with which a client connects.

        :param now_s: wall clock.
        :param attributes: what LiveKit shows with the participant.
        """
        rest = self._rendered.get(grants)
        if rest is None:
            rest = self._rendered[grants] = grants.rendered()
        who = dumps(identity)
        shown = f'"attributes":{dumps(attributes)},' if attributes else ""
        return self._sign(
            f'{{"iss":{self._issuer},"sub":{who},"exp":{now_s + ttl_s},"nbf":{now_s},"iat":{now_s},'
            f'"identity":{who},{shown}"video":{{"roomJoin":true,"room":{dumps(room)},{rest}}}'
        )

    def room_creator(self, *, now_s: int) -> str:
        """Make, or use again for half its life, the token with which we create rooms."""
        until_s, token = self._room_create
        if now_s >= until_s or now_s < until_s - _SERVICE_TTL_S:
            token = self._service('{"roomCreate":true}', now_s)
            self._room_create = (now_s + _SERVICE_TTL_S // 2, token)
        return token

    def room_admin(self, room: str, *, now_s: int) -> str:
        """Make the token with which we look into a room and change it."""
        return self._service(f'{{"roomAdmin":true,"room":{dumps(room)}}}', now_s)

    def room_lister(self, *, now_s: int) -> str:
        """Make the token with which we list rooms."""
        return self._service('{"roomList":true}', now_s)

    def verify(self, token: str, *, leeway_s: int = 60) -> dict[str, object]:
        """Check a token that LiveKit signed with this pair and give its claims.

        :raises ValueError: when it is not to be believed.
        """
        import jwt

        try:
            claims: dict[str, object] = jwt.decode(
                token,
                self._secret,
                algorithms=["HS256"],
                issuer=self.key,
                leeway=leeway_s,
                options={"require": ["exp"]},
            )
        except jwt.InvalidTokenError as error:
            raise ValueError(str(error)) from None
        return claims

    def derived(self, *purpose: str) -> str:
        """Derive a secret of its own for some purpose, the same after every restart."""
        signer = self._signer.copy()
        signer.update(dumps(["rtcfoci", *purpose]).encode())
        return base64.b64encode(signer.digest()).decode()

    def sealed(self, text: str, *context: str) -> str:
        """Write a text so that we can tell later that we wrote it, in this context."""
        return self.derived("seal", text, *context) + " " + text

    def unsealed(self, sealed: str, *context: str) -> str:
        """Read a sealed text.

        :raises ValueError: when we did not write it, or not in this context.
        """
        seal, _, text = sealed.partition(" ")
        ours = self.derived("seal", text, *context)
        if not hmac.compare_digest(seal.encode("utf-8", "replace"), ours.encode()):
            raise ValueError("not sealed by us")
        return text

    def _service(self, grants: str, now_s: int) -> str:
        return self._sign(
            f'{{"iss":{self._issuer},"exp":{now_s + _SERVICE_TTL_S},"nbf":{now_s},"iat":{now_s},'
            f'"video":{grants}}}'
        )

    def _sign(self, claims: str) -> str:
        text = _HEADER + base64.urlsafe_b64encode(claims.encode()).rstrip(b"=")
        signer = self._signer.copy()
        signer.update(text)
        return (text + b"." + base64.urlsafe_b64encode(signer.digest()).rstrip(b"=")).decode()
