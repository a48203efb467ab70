"""The options by which a command says whose account it uses, and the client made from them.

In: `--homeserver --user --token-file --password-file --device-store`. Out: secrets in arguments,
which everybody on the machine could read: there is no option that takes one.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rtcfoci.errors import UsageError

if TYPE_CHECKING:
    from rtcfoci.matrix.cs import CsClient

__all__ = ["add_account_options", "connect_account"]


def add_account_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name an account; the environment gives their defaults."""
    group = parser.add_argument_group("account")
    group.add_argument(
        "--homeserver",
        metavar="URL",
        default=os.environ.get("RTCFOCI_HOMESERVER"),
        help="server name or base URL (or RTCFOCI_HOMESERVER)",
    )
    group.add_argument(
        "--user",
        metavar="ID",
        default=os.environ.get("RTCFOCI_USER"),
        help="user id, such as @ann:example.org (or RTCFOCI_USER)",
    )
    group.add_argument("--token-file", type=Path, metavar="FILE", help="file with an access token")
    group.add_argument("--password-file", type=Path, metavar="FILE", help="file with a password")
    group.add_argument(
        "--device-store",
        type=Path,
        metavar="DIR",
        help="folder that keeps the device and its keys across runs",
    )
    for name in ("--token", "--password"):
        group.add_argument(name, action=_Refuse, help=argparse.SUPPRESS)


class _Refuse(argparse.Action):
    """Refuse a secret on the command line, without repeating it."""

    def __call__(self, parser: object, namespace: object, values: object, *_: object) -> None:
        name = self.option_strings[0]
        raise UsageError(
            f"there is no option {name}",
            why="everybody on this machine can read the arguments of a command",
            do=f"write the secret into a file and give {name}-file FILE",
        )


async def connect_account(options: argparse.Namespace, *, encrypted: bool = True) -> CsClient:
    """Log in or resume as the options say.

    :raises UsageError: when the options do not name an account.
    """
    from rtcfoci.matrix.connect import connect

    store: Path | None = options.device_store
    if not options.homeserver:
        raise UsageError(
            "no homeserver is named",
            why="neither --homeserver nor RTCFOCI_HOMESERVER is set",
            do="add --homeserver https://matrix.example.org",
        )
    if not (options.token_file or options.password_file or store):
        raise UsageError(
            "no account is named",
            why="there is no --token-file, no --password-file and no --device-store",
            do="add --user @you:server --password-file FILE --device-store DIR",
        )
    return await connect(
        options.homeserver,
        user=options.user,
        token=_secret(options.token_file),
        password=_secret(options.password_file),
        device_store=store,
        encrypted=encrypted,
    )


def _secret(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(
            f"{path} cannot be read", why=str(reason), do="give a readable file with one line"
        ) from None
    if not secret:
        raise UsageError(f"{path} is empty", why="it should hold one secret", do="write it there")
    return secret
