"""Cross-signing identities: made, signed with, and given to a homeserver in memory."""

import json

import vodozemac


def key_object(account, user_id, usage):
    public = account.ed25519_key.to_base64()
    return {"user_id": user_id, "usage": [usage], "keys": {f"ed25519:{public}": public}}


def sign(account, user_id, value):
    """Sign an object under the name of the key itself."""
    bare = {name: part for name, part in value.items() if name not in ("signatures", "unsigned")}
    text = json.dumps(bare, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    public = account.ed25519_key.to_base64()
    signature = account.sign(text.encode()).to_base64()
    by_user = value.get("signatures", {}).get(user_id, {})
    signatures = {**by_user, f"ed25519:{public}": signature}
    return {**value, "signatures": {**value.get("signatures", {}), user_id: signatures}}


class Keys:
    """The master and the self-signing key of a user."""

    def __init__(self, user_id):
        self.user_id = user_id
        self.master, self.signing = vodozemac.Account(), vodozemac.Account()
        self.master_key = key_object(self.master, user_id, "master")
        self.signing_key = sign(
            self.master, user_id, key_object(self.signing, user_id, "self_signing")
        )

    def signs(self, device_keys):
        return sign(self.signing, self.user_id, device_keys)


class PublishedKeys(Keys):
    """The same, published on a real homeserver; it asks for the password unless they are the first."""

    async def publish(self, server, person, password):
        body = {"master_key": self.master_key, "self_signing_key": self.signing_key}
        path = "/_matrix/client/v3/keys/device_signing/upload"
        reply = await server.request("POST", path, token=person.access_token, body=body)
        if reply.status == 401:
            auth = {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": person.user_id},
                "password": password,
                "session": reply.body["session"],
            }
            body = {**body, "auth": auth}
            reply = await server.request("POST", path, token=person.access_token, body=body)
        assert reply.status == 200, reply

    async def sign_device(self, server, person):
        token, user, device = person.access_token, person.user_id, person.device_id
        path = "/_matrix/client/v3/keys"
        asked = {"device_keys": {user: [device]}}
        known = await server.checked("POST", f"{path}/query", token=token, body=asked)
        signed = self.signs(known["device_keys"][user][device])
        signed.pop("unsigned", None)
        body = {user: {device: signed}}
        reply = await server.checked("POST", f"{path}/signatures/upload", token=token, body=body)
        assert not reply.get("failures"), reply


class Identity(Keys):
    """The same, given to a homeserver in memory."""

    def __init__(self, homeserver, user_id):
        super().__init__(user_id)
        self.devices = homeserver.devices
        self.devices.cross_sign(user_id, self.master_key, self.signing_key)

    def sign(self, device_id):
        self.devices.sign(self.user_id, device_id, self.signs)
