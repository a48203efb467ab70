from example_terse import TERSE

from rtcfoci.testing.dialect_suite import DialectConformance, received

KEY = "_@alice:example.org_DEVICE_m.call#ROOM"
LIVEKIT = {"type": "livekit", "livekit_service_url": "https://sfu.example.org"}
JOIN = {"slot": "m.call#ROOM", "device": "DEVICE", "app": {"type": "m.call"}, "on": [LIVEKIT]}


class TestTerse(DialectConformance):
    dialect = TERSE
    joins = (received("org.example.terse.member", JOIN, state_key=KEY),)
    leaves = (received("org.example.terse.member", {}, state_key=KEY),)
