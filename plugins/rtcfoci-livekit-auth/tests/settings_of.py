"""Settings for unit tests: the least that is needed, and what a test says on top."""

from __future__ import annotations

from rtcfoci_livekit_auth.settings import Settings

SECRET = "a-secret-of-at-least-32-characters-long"

LEAST = {
    "LIVEKIT_URL": "wss://sfu.example.org",
    "LIVEKIT_KEY": "key",
    "LIVEKIT_SECRET": SECRET,
    "LIVEKIT_FULL_ACCESS_HOMESERVERS": "example.org",
    "RTCFOCI_AUTH_STATE_FILE": "none",
}


def settings_of(**more: str) -> Settings:
    return Settings.read(LEAST | more)
