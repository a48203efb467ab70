"""Whose devices are cross-signed: vouched for by the identity of their user, and not by the homeserver alone.

In: verifying what a homeserver says of a user's keys (client-server API 1.18, Cross-signing): the master key,
which is the identity, signs the self-signing key, and that signs a device. Out: asking for keys and binding
messages to a device (`devices`), what becomes of who is not trusted (`rtcfoci.core.keys`).

An identity is believed as it was first seen, and *pinned* in the device store: a homeserver that gives
another one later gains nothing by it, but one that lied from the beginning is believed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import vodozemac

from rtcfoci.core.model import JsonObject
from rtcfoci.matrix.store import DeviceStore

__all__ = ["CrossSigning", "signed"]

_MAX_DEVICES = 1000
"""Of one user; more are not looked at."""


class CrossSigning:
    """Which devices are cross-signed, as far as their users' keys were asked for.

    :param store: where identities are pinned.
    """

    def __init__(self, store: DeviceStore) -> None:
        self._store = store
        self._signed: dict[str, Mapping[str, tuple[str, str]]] = {}
        """By user: the cross-signed devices, with their curve25519 and ed25519 keys."""

    def learn(self, user_id: str, answer: JsonObject) -> None:
        """Take the answer to a request for a user's keys, whoever made it up."""
        identity, signing = _identity(user_id, answer)
        if not signing or self._store.pin_identity(user_id, identity) != identity:
            self._signed[user_id] = {}
            return
        devices = _of(_of(answer, "device_keys"), user_id)
        self._signed[user_id] = {
            device_id: (_key(keys, "curve25519", device_id), _key(keys, "ed25519", device_id))
            for device_id, keys in list(devices.items())[:_MAX_DEVICES]
            if signed(keys, user_id, signing)
        }

    def trusts(self, user_id: str, device_id: str, curve25519: str, ed25519: str) -> bool | None:
        """Tell whether a device with these keys is cross-signed; None: its user was not asked for."""
        devices = self._signed.get(user_id)
        return None if devices is None else devices.get(device_id) == (curve25519, ed25519)


def signed(value: object, user_id: str, public_key: str) -> bool:
    """Tell whether an object has a valid signature of a user's key, under the name of that key."""
    signature = _of(_of(value, "signatures"), user_id).get(f"ed25519:{public_key}")
    if not isinstance(value, dict) or not isinstance(signature, str):
        return False
    bare = {name: part for name, part in value.items() if name not in ("signatures", "unsigned")}
    try:
        text = json.dumps(bare, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        vodozemac.Ed25519PublicKey.from_base64(public_key).verify_signature(
            text.encode(), vodozemac.Ed25519Signature.from_base64(signature)
        )
    except (ValueError, RecursionError, *_REFUSED):
        return False
    return True


_REFUSED = (vodozemac.KeyException, vodozemac.SignatureException)


def _identity(user_id: str, answer: JsonObject) -> tuple[str, str]:
    """Give a user's master key and self-signing key; empty when that is not signed by the first."""
    master = _of(_of(answer, "master_keys"), user_id)
    signing = _of(_of(answer, "self_signing_keys"), user_id)
    identity, public = _public(master, user_id, "master"), _public(signing, user_id, "self_signing")
    return identity, public if identity and signed(signing, user_id, identity) else ""


def _public(key: Mapping[str, object], user_id: str, usage: str) -> str:
    """Give the one public key of an object that says whose it is, and what for."""
    usages, keys = key.get("usage"), _of(key, "keys")
    if key.get("user_id") != user_id or not isinstance(usages, list) or usage not in usages:
        return ""
    for name, public in keys.items():
        if len(keys) == 1 and isinstance(public, str) and name == f"ed25519:{public}":
            return public
    return ""


def _key(device: object, algorithm: str, device_id: str) -> str:
    key = _of(device, "keys").get(f"{algorithm}:{device_id}")
    return key if isinstance(key, str) else ""


def _of(value: object, name: str) -> Mapping[str, object]:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}
