"""From a name and a secret to a client: finding the homeserver, logging in once, being that device again.

In: discovery, login, the saved session, the choice of encryption.
Out: everything after that (`cs`), and bots that bring a client of their own (`nio`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from rtcfoci.errors import ClientError, UnreachableError, UsageError
from rtcfoci.matrix.answers import refused
from rtcfoci.matrix.cs import CsClient
from rtcfoci.matrix.http import AiohttpRequester, Requester
from rtcfoci.matrix.store import DeviceStore, Session, wall_clock_ts_ms

__all__ = ["RequesterFactory", "connect", "resolve_homeserver"]

RequesterFactory: TypeAlias = Callable[[str], Requester]
"""Makes the bottom layer for a base URL."""

_TIMEOUT_S = 15.0
_WELL_KNOWN = "/.well-known/matrix/client"


async def resolve_homeserver(
    name_or_url: str, *, requester: RequesterFactory = AiohttpRequester
) -> str:
    """Find the base URL that clients use.

    :param name_or_url: a server name (`example.org`, looked up by .well-known) or a base URL.
    :raises UnreachableError: nothing there answers.
    :raises ClientError: something answers that is not a homeserver.
    """
    given = name_or_url.strip().rstrip("/")
    is_url = "://" in given
    url = given if is_url else f"https://{given}"
    if not _is_base_url(url):
        raise ClientError(
            f"{name_or_url!r} is no homeserver.",
            status=0,
            why="It is neither a server name nor an http(s) base URL.",
            do="Give a name such as example.org, or a URL such as https://matrix.example.org.",
        )
    silence: UnreachableError | None = None
    if is_url:
        try:
            if await _speaks_matrix(url, requester):
                return url
        except UnreachableError as error:
            silence = error
    parts = urlsplit(url)
    found = await _well_known(f"{parts.scheme}://{parts.netloc}", requester)
    if found is None and silence is not None:
        raise silence
    if found is not None and await _speaks_matrix(found, requester):
        return found
    if not is_url and found is None:
        try:
            if await _speaks_matrix(url, requester):
                return url
        except UnreachableError as error:
            error.do = (
                "Check the name, or give the base URL that clients use, "
                "such as https://matrix.example.org: it can differ from the server name."
            )
            raise
    raise ClientError(
        f"No homeserver was found at {found or url}.",
        status=404,
        why=(
            f"{url}{_WELL_KNOWN} sends clients there, but it does not answer as a homeserver."
            if found
            else "It answers, but not as a homeserver, and it does not say where the homeserver is."
        ),
        do="Ask the operator for the base URL that clients use; it can differ from the server name.",
    )


async def connect(
    homeserver: str,
    *,
    user: str = "",
    token: str | None = None,
    password: str | None = None,
    device_store: Path | None = None,
    encrypted: bool = False,
    device_name: str = "rtcfoci",
    requester: RequesterFactory = AiohttpRequester,
    wall_ts_ms: Callable[[], int] = wall_clock_ts_ms,
) -> CsClient:
    """Log in, or be the device again that the store remembers, and give back a client.

    :param homeserver: server name or base URL.
    :param user: local part or full id; only needed to log in with a password.
    :param token: an access token instead of a password.
    :param device_store: a folder of this device alone; None makes a device that is forgotten at the end.
    :param encrypted: whether messages and sticky events can be encrypted and read; loads matrix-nio.
    :raises ClientError: the login was refused; `UnreachableError`: no homeserver.
    :raises UsageError: the store is in use, damaged, or of somebody else.
    """
    url = await resolve_homeserver(homeserver, requester=requester)
    if device_store is None:
        store = DeviceStore.memory(wall_ts_ms=wall_ts_ms)
    else:
        store = DeviceStore.open(device_store, wall_ts_ms=wall_ts_ms)
    bottom = requester(url)
    try:
        session = await _session(bottom, url, store, user, token, password, device_name)
    except BaseException:
        await bottom.aclose()
        store.close()
        raise
    client = CsClient(
        bottom,
        homeserver_url=url,
        user_id=session.user_id,
        device_id=session.device_id,
        access_token=session.access_token,
        store=store,
        wall_ts_ms=wall_ts_ms,
    )
    if not encrypted:
        return client
    try:
        from rtcfoci.matrix.olm import OlmMachine  # matrix-nio takes a second to import

        machine = OlmMachine.open(client, session.pickle_key)
        client.encrypter = machine
        await machine.start()
    except BaseException:
        await client.aclose()
        raise
    # Keys have to be kept up from now on, whether or not anybody reads a room yet.
    client.start()
    return client


async def _session(
    bottom: Requester,
    url: str,
    store: DeviceStore,
    user: str,
    token: str | None,
    password: str | None,
    device_name: str,
) -> Session:
    saved = store.load_session()
    if saved is not None:
        wanted = user.removeprefix("@").partition(":")
        owner = saved.user_id.removeprefix("@").partition(":")
        if user and (wanted[0] != owner[0] or (wanted[2] and wanted[2] != owner[2])):
            raise _of_another(store, f"It belongs to {saved.user_id}, not to {user}.")
    access = token or (saved.access_token if saved else None)
    identity: tuple[str, str] | None = None
    if access is not None:
        try:
            identity = await _whoami(bottom, access)
        except ClientError as error:
            if error.errcode != "M_UNKNOWN_TOKEN" or password is None or token is not None:
                raise
            access = None  # logged out since: the password makes it the same device again
    if access is None:
        if password is None or not (user or saved):
            raise UsageError(
                "There is no login for the homeserver.",
                why="Neither a token, nor a user with a password, nor a device store with a login was given.",
                do="Give a user and a password, or a token; afterwards the device store is enough.",
            )
        name = saved.user_id if saved else user
        device_id = saved.device_id if saved else None
        access, *found = await _login(bottom, name, password, device_id, device_name)
        identity = (found[0], found[1])
    assert identity is not None
    if saved is not None and identity != (saved.user_id, saved.device_id):
        raise _of_another(
            store,
            f"It holds device {saved.device_id} of {saved.user_id}, "
            f"and this login is device {identity[1]} of {identity[0]}.",
        )
    session = Session(
        homeserver_url=url,
        user_id=identity[0],
        device_id=identity[1],
        access_token=access,
        pickle_key=saved.pickle_key if saved else secrets.token_urlsafe(32),
    )
    if session != saved:
        store.save_session(session)
    return session


def _of_another(store: DeviceStore, why: str) -> UsageError:
    return UsageError(
        f"The device store {store.folder} is of another device.",
        why=why,
        do="Give every device a store of its own.",
    )


async def _whoami(bottom: Requester, token: str) -> tuple[str, str]:
    body = await _call(bottom, "say who this is", "GET", "/_matrix/client/v3/account/whoami", token)
    user_id, device_id = body.get("user_id"), body.get("device_id")
    if not isinstance(user_id, str):
        raise _strange("user_id")
    if not isinstance(device_id, str):
        raise ClientError(
            "This access token belongs to no device.",
            status=200,
            why="Tokens of application services and of administrators have none.",
            do="Log in with a password, or use the token of a login.",
        )
    return user_id, device_id


async def _login(
    bottom: Requester, user: str, password: str, device_id: str | None, device_name: str
) -> tuple[str, str, str]:
    body: dict[str, object] = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user},
        "password": password,
        "initial_device_display_name": device_name,
    }
    if device_id is not None:
        body["device_id"] = device_id
    path = "/_matrix/client/v3/login"
    try:
        answer = await _call(bottom, f"log {user} in", "POST", path, None, body)
    except ClientError as error:
        if error.errcode == "M_FORBIDDEN":
            error.do = "Check the user, the password, and that this is the user's homeserver."
        raise
    found = tuple(answer.get(name) for name in ("access_token", "user_id", "device_id"))
    token, user_id, device = found
    if isinstance(token, str) and isinstance(user_id, str) and isinstance(device, str):
        return token, user_id, device
    raise _strange("access_token, user_id or device_id")


async def _call(
    bottom: Requester,
    what: str,
    method: str,
    path: str,
    token: str | None,
    body: object | None = None,
) -> dict[str, object]:
    answer = await bottom.request(method, path, {}, body, token, timeout_s=_TIMEOUT_S)
    if not 200 <= answer.status < 300:
        raise refused(what, answer, token or "")
    return answer.body if isinstance(answer.body, dict) else {}


async def _speaks_matrix(url: str, requester: RequesterFactory) -> bool:
    """Ask for the versions; False when something else answers.

    :raises UnreachableError: nothing answers.
    """
    bottom = requester(url)
    try:
        path = "/_matrix/client/versions"
        answer = await bottom.request("GET", path, {}, None, None, timeout_s=_TIMEOUT_S)
    finally:
        await bottom.aclose()
    body = answer.body
    if answer.status in (502, 503, 504):
        raise UnreachableError(
            f"The homeserver {url} does not answer.",
            why=f"What stands in front of it says {answer.status}.",
            do="Wait until it runs again.",
        )
    return (
        answer.status == 200 and isinstance(body, dict) and isinstance(body.get("versions"), list)
    )


async def _well_known(origin: str, requester: RequesterFactory) -> str | None:
    bottom = requester(origin)
    try:
        answer = await bottom.request("GET", _WELL_KNOWN, {}, None, None, timeout_s=_TIMEOUT_S)
    except UnreachableError:
        return None
    finally:
        await bottom.aclose()
    body = answer.body if answer.status == 200 and isinstance(answer.body, dict) else {}
    section = body.get("m.homeserver")
    url = section.get("base_url") if isinstance(section, dict) else None
    return url.rstrip("/") if isinstance(url, str) and _is_base_url(url) else None


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and not parts.query
        )
    except ValueError:  # brackets or a port that are none
        return False


def _strange(name: str) -> ClientError:
    return ClientError(
        "The homeserver's answer is not understood.",
        status=200,
        why=f"It holds no {name}.",
        do="Check that the address is a homeserver's.",
    )
