from rtcfoci.core.policies import ReadingPolicy
from rtcfoci.errors import Problem

STICKY = {"D5", "D6", "D7", "D6/D7"}


def refuses(membership, event_type, room):
    if membership.dialect in STICKY:
        return None
    return Problem("dialect_not_counted", f"modern does not count {membership.dialect}")


MODERN = ReadingPolicy(name="modern", refuses=refuses)
