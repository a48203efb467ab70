"""What LiveKit makes of a media key: the published vector, computed here and by livekit-client."""

import hashlib
import hmac
import json
from pathlib import Path

import pytest

from tests.interop.tools import LIVEKIT_CLIENT, Driver, npm_folder

VECTORS = json.loads(Path(__file__).with_name("vectors").joinpath("livekit_keys.json").read_text())
IV = "000102030405060708090a0b"


def hkdf(key, salt, info, length):
    """RFC 5869 for at most one block."""
    extracted = hmac.digest(salt, key, hashlib.sha256)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)[:length]


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["derived_hex"])
def test_the_vector_is_what_hkdf_gives(case):
    info = bytes(VECTORS["info_zero_bytes"])
    derived = hkdf(bytes.fromhex(case["key_hex"]), VECTORS["salt"].encode(), info, 16)
    assert derived.hex() == case["derived_hex"]


@pytest.mark.system
@pytest.mark.timeout(180)
@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["derived_hex"])
@pytest.mark.parametrize("length", [16, 32])
async def test_livekit_client_derives_the_same(case, length, tmp_path):
    aead = pytest.importorskip("cryptography.hazmat.primitives.ciphers.aead")
    key = bytes.fromhex(case["key_hex"])[:length]
    modules = npm_folder(LIVEKIT_CLIENT)
    async with Driver.started(tmp_path / "log.txt", "livekit_keys.mjs", modules) as driver:
        answer = await driver.ask(
            "seal", key=key.hex(), salt=VECTORS["salt"], iv=IV, text="what was said"
        )
    derived = hkdf(key, VECTORS["salt"].encode(), bytes(VECTORS["info_zero_bytes"]), 16)
    assert length < 32 or derived.hex() == case["derived_hex"]
    opened = aead.AESGCM(derived).decrypt(bytes.fromhex(IV), bytes.fromhex(answer["sealed"]), None)
    assert opened == b"what was said"
