"""Reading settings from environment variables: one value at a time, with errors that a person can act on.

In: `SettingsError`, the typed readers of `Environment`. Out: which settings there are (`settings`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rtcfoci.errors import UsageError

__all__ = ["Environment", "Network", "SettingsError"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_SEPARATORS = re.compile(r"[,\s]+")


class SettingsError(UsageError):
    """A variable of the environment cannot be used.

    :param variable: its name.
    """

    def __init__(self, variable: str, why: str, *, do: str) -> None:
        super().__init__(f"the configuration is wrong: {variable}", why=why, do=do)
        self.variable = variable


@dataclass(frozen=True, slots=True)
class Environment:
    """The variables of a process; one that is empty counts as unset."""

    values: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Environment({len(self.values)} variables)"

    def text(self, name: str, default: str = "") -> str:
        """Give a variable as it stands."""
        return self.values.get(name) or default

    def has(self, name: str) -> bool:
        """Tell whether a variable is set and not empty."""
        return bool(self.values.get(name))

    def file(self, name: str) -> str:
        """Read the file that a variable names.

        :raises SettingsError: when it cannot be read.
        """
        path = Path(self.text(name))
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                name,
                f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}",
                do="name a file that the service may read",
            ) from None

    def secret(self, name: str) -> str:
        """Read a secret from the file that `NAME_FROM_FILE` names, else from the variable; trimmed."""
        file = f"{name}_FROM_FILE"
        return (self.file(file) if self.has(file) else self.text(name)).strip(" \r\n")

    def whole(self, name: str, default: int, *, least: int = 0) -> int:
        """Read a whole number.

        :param least: the smallest that is allowed.
        """
        given = self.text(name)
        if not given:
            return default
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", given) or int(given) < least:
            raise SettingsError(
                name,
                f"{given!r} is not a whole number of at least {least}",
                do=f"set it to such a number, or leave it out for {default}",
            )
        return int(given)

    def number(self, name: str, default: float) -> float:
        """Read a number that is not negative."""
        given = self.text(name)
        if not given:
            return default
        if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", given):
            raise SettingsError(
                name,
                f"{given!r} is not a number of at least 0",
                do=f"set it to such a number, or leave it out for {default:g}",
            )
        return float(given)

    def flag(self, name: str, default: bool) -> bool:
        """Read `true` or `false`."""
        given = self.text(name).lower()
        if given not in ("", "true", "false"):
            raise SettingsError(
                name, f"{given!r} is neither true nor false", do="set it to true or to false"
            )
        return given == "true" if given else default

    def choice(self, name: str, choices: Mapping[str, object]) -> str:
        """Read one of several words; the first is the default."""
        given = self.text(name, next(iter(choices)))
        if given not in choices:
            raise SettingsError(
                name, f"there is no {given!r}", do=f"choose one of: {', '.join(choices)}"
            )
        return given

    def words(self, name: str) -> tuple[str, ...]:
        """Read words that commas or white space separate."""
        return tuple(word for word in _SEPARATORS.split(self.text(name)) if word)

    def networks(self, name: str) -> tuple[Network, ...]:
        """Read addresses and networks."""
        found: list[Network] = []
        for word in self.words(name):
            try:
                found.append(ipaddress.ip_network(word, strict=False))
            except ValueError:
                raise SettingsError(
                    name,
                    f"{word!r} is neither an address nor a network",
                    do="write networks like 10.0.0.0/8 or fd00::/8, with commas between",
                ) from None
        return tuple(found)

    def pairs(self, name: str) -> dict[str, str]:
        """Read `key=value` pairs that commas separate; both sides are trimmed and not empty."""
        found: dict[str, str] = {}
        for entry in self.text(name).split(",") if self.has(name) else ():
            key, equals, value = (part.strip() for part in entry.partition("="))
            if not (key and equals and value):
                raise SettingsError(
                    name,
                    f"{entry.strip()!r} is not of the form server=url",
                    do="write example.org=https://matrix.example.org, with commas between pairs",
                )
            found[key] = value
        return found
