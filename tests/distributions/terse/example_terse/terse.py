from rtcfoci.core.dialects import Leave, OwnEvent, Problems, checked_transports
from rtcfoci.core.dialects.reading import Known, Reading
from rtcfoci.core.dialects.state import is_foreign, lifespan, state_member_id
from rtcfoci.core.model import FocusSelection, Member, Membership

KNOWN = Known("slot", "device", "app", "on", "since_ts", "for_ms")


class Terse:
    name = "org.example.terse"
    event_types = ("org.example.terse.member",)
    sticky = False

    def reads(self, event):
        return event.type in self.event_types and isinstance(event.content, dict)

    def parse(self, event, room_id):
        content, reading = event.content, Reading()
        if event.state_key is None or is_foreign(event):
            reading.problem("foreign_state_key", "the state key is not the sender's")
        elif not content:
            return Leave(dialect=self.name)
        slot_id, device_id = (reading.string(content, key) for key in ("slot", "device"))
        application, transports = reading.mapping(content, "app"), reading.transports(content, "on")
        since_ts_ms, for_ms = (reading.integer(content, key) for key in ("since_ts", "for_ms"))
        if reading.problems:
            return Problems(tuple(reading.problems))
        since_ts_ms = since_ts_ms or event.origin_server_ts_ms
        (began, ends), claims = lifespan(event, since_ts_ms, since_ts_ms + (for_ms or 60_000))
        member_id = state_member_id(event.sender, device_id)
        return Membership(
            member=Member(user_id=event.sender, device_id=device_id, member_id=member_id),
            slot_id=slot_id, application=application, transports=transports, can_subscribe=None,
            focus_selection=FocusSelection.OWN, created_ts_ms=began, expires_ts_ms=ends, claims=claims,
            dialect=self.name, event_id=event.event_id, room_id=room_id, encrypted=event.encrypted,
            more=KNOWN.more(content),
        )  # fmt: skip

    def join(self, own):
        return self._write(own, {"for_ms": own.lifetime_ms})

    def refresh(self, own, *, created_ts_ms, now_ts_ms):
        for_ms = now_ts_ms - created_ts_ms + own.lifetime_ms
        return self._write(own, {"since_ts": created_ts_ms, "for_ms": for_ms})

    def leave(self, own):
        return self._event(own, {})

    def _write(self, own, times):
        application = {**own.application, "type": own.slot.application}
        content = {"slot": own.slot.slot_id, "device": own.member.device_id, "app": application}
        content |= {"on": checked_transports(own), **times}
        return self._event(own, KNOWN.with_more(content, own.more))

    def _event(self, own, content):
        key = f"_{own.member.user_id}_{own.member.device_id}_{own.slot.slot_id}"
        return OwnEvent(type=self.event_types[0], state_key=key, content=content)
