"""A session and the list of its members that its diffs make, for tests of sessions."""

from __future__ import annotations

from rtcfoci.core.session import MemberChanged, MemberJoined, MemberLeft, MemberRefreshed, Session


class Driven:
    """A session with what a test needs around it: it keeps its own list of members by the diffs."""

    def __init__(self, room, **more):
        self.room = room
        self.session = Session(room.slot, room.dialects, **more)
        self.by_diffs = {}

    def take(self, event, at_ms=None):
        at_ms = event.received_ts_ms if at_ms is None else at_ms
        return self._check(self.session.receive(event, self.room.now(at_ms)))

    def timer(self, at_ms):
        return self._check(self.session.handle_timer(self.room.now(at_ms)))

    def in_room(self, *users):
        for user in users:
            self.take(self.room.presence(user), 0)
        return self

    def _check(self, diffs):
        for diff in diffs:
            match diff:
                case MemberJoined(membership):
                    assert membership.member not in self.by_diffs
                    self.by_diffs[membership.member] = membership
                case MemberLeft(membership, _):
                    assert self.by_diffs.pop(membership.member) == membership
                case MemberChanged(old, new) | MemberRefreshed(old, new):
                    assert old.member == new.member
                    assert self.by_diffs[old.member] == old
                    self.by_diffs[new.member] = new
        members = self.session.members
        assert len(members) == len(self.session)
        assert {m.member: m for m in members} == self.by_diffs
        assert list(members) == sorted(members, key=lambda m: (m.created_ts_ms, m.member.order))
        devices = [(m.member.user_id, m.member.device_id) for m in members if m.member.device_id]
        assert len(devices) == len(set(devices))
        return diffs


def kinds(diffs):
    return [type(diff).__name__ for diff in diffs]
