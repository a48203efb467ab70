"""Which places of matrix-nio this package relies on that nio does not promise.

In: their names and parameters; the tests fail with the names that a nio lacks.
Out: what is done there (`olm`, `megolm`, `nio`).
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["NIO_PLACES"]

NIO_PLACES: Mapping[str, tuple[str, ...]] = {
    "nio.crypto.Olm.__init__": ("self", "user_id", "device_id", "store"),
    "nio.crypto.Olm._handle_olm_event": ("self", "sender", "sender_key", "payload"),
    "nio.crypto.Olm._olm_encrypt": (
        "self",
        "session",
        "recipient_device",
        "message_type",
        "content",
    ),
    "nio.crypto.Olm.handle_to_device_event": ("self", "event"),
    "nio.crypto.Olm.handle_response": ("self", "response"),
    "nio.crypto.Olm.share_keys": ("self",),
    "nio.crypto.Olm.save_account": ("self", "account"),
    "nio.crypto.Olm.get_users_for_key_claiming": ("self",),
    "nio.crypto.DeviceStore.active_user_devices": ("self", "user_id"),
    "nio.crypto.SessionStore.get": ("self", "sender_key"),
    "nio.crypto.Olm.is_device_blacklisted": ("self", "device"),
    "nio.crypto.Olm.create_group_session": (
        "self",
        "sender_key",
        "sender_fp_key",
        "room_id",
        "session_id",
        "session_key",
    ),
    "nio.crypto.OutboundGroupSession.encrypt": ("self", "plaintext"),
    "nio.crypto.OutboundGroupSession.mark_as_shared": ("self",),
    "nio.crypto.GroupSessionStore.__getitem__": ("self", "room_id"),
    "nio.crypto.InboundGroupSession.decrypt": ("self", "message", "unicode_errors"),
    "nio.store.SqliteStore.load_account": ("self",),
    "nio.store.SqliteStore.load_sessions": ("self",),
    "nio.client.AsyncClient._handle_sync": ("self", "response"),
    "nio.client.AsyncClient.send": (
        "self",
        "method",
        "path",
        "data",
        "headers",
        "trace_context",
        "timeout",
    ),
}
"""Places of matrix-nio 0.26.0 that this package relies on, with their parameters."""
