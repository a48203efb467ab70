"""The files of a deployment, written from its plan.

In: text for LiveKit, Synapse, the reverse proxy, server discovery and this service. Out: where it goes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from rtcfoci_livekit_auth.appservice.registration import registration
from rtcfoci_livekit_auth.setup.plan import Plan

__all__ = ["REGISTRATION", "Fragment", "fragments"]

REGISTRATION = "livekit-auth-registration.yaml"
"""Name of the file that introduces the service to the homeserver."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """One file."""

    name: str
    text: str
    use: str
    """What to do with it, one line."""
    secret: bool = False


def fragments(plan: Plan) -> Iterator[Fragment]:
    """Give every file."""
    yield Fragment(
        "livekit.yaml", _livekit(plan), "livekit-server --config livekit.yaml", secret=True
    )
    yield Fragment(
        "livekit-auth.env",
        _environment(plan),
        "the environment of `rtcfoci-livekit-auth serve` (systemd: EnvironmentFile=)",
        secret=True,
    )
    yield Fragment(
        "synapse-rtc.yaml",
        _synapse(plan),
        "another --config-path of Synapse, or a file in its conf.d; the keys are top-level ones",
    )
    if plan.registration_file:
        yield Fragment(
            REGISTRATION,
            registration(
                proxy_url=f"http://{plan.service_bind}",
                as_token=plan.as_token,
                hs_token=plan.hs_token,
            ),
            f"Synapse reads it as {plan.registration_file}; let it, and nobody else",
            secret=True,
        )
    if plan.proxy == "caddy":
        yield Fragment("Caddyfile", _caddy(plan), "import it from your Caddyfile")
    else:
        yield Fragment("rtc-site.conf", _nginx(plan), "include it in nginx's http section")
    client = {"m.homeserver": {"base_url": plan.public_homeserver}}
    yield Fragment(
        "well-known-client.json",
        json.dumps(client) + "\n",
        f"what https://{plan.server_name}/.well-known/matrix/client answers; "
        "the site above serves it where it is for that host",
    )


def _livekit(plan: Plan) -> str:
    return f"""\
port: {plan.livekit_port}
bind_addresses: ["127.0.0.1"]
keys:
  {plan.key}: {plan.secret}
rtc:
{_reached_at(plan)}  udp_port: {plan.rtc_udp_port}
  tcp_port: {plan.rtc_tcp_port}
room:
  # The service makes the rooms, for those who may.
  auto_create: false
webhook:
  # How the service hears that somebody has gone.
  api_key: {plan.key}
  urls: ["http://{plan.service_bind}/sfu_webhook"]
"""


def _reached_at(plan: Plan) -> str:
    if not plan.node_ip:
        return "  use_external_ip: true\n"
    if not plan.node_ip.startswith("127."):
        return f"  node_ip: {plan.node_ip}\n"
    # A machine that nobody else reaches: LiveKit would leave its loopback out, and ask public servers.
    return f"""\
  node_ip: {plan.node_ip}
  enable_loopback_candidate: true
  interfaces: {{includes: [lo]}}
  stun_servers: ["127.0.0.1:9"]
"""


def _environment(plan: Plan) -> str:
    lines = {
        "LIVEKIT_URL": plan.sfu_url,
        "RTCFOCI_AUTH_LIVEKIT_INTERNAL_URL": f"ws://127.0.0.1:{plan.livekit_port}",
        "LIVEKIT_KEY": plan.key,
        "LIVEKIT_SECRET": plan.secret,
        "LIVEKIT_FULL_ACCESS_HOMESERVERS": plan.server_name,
        "LIVEKIT_JWT_BIND": plan.service_bind,
        "LIVEKIT_CS_API_URL_OVERRIDES": f"{plan.server_name}={plan.synapse}",
        "RTCFOCI_AUTH_FEDERATION_URL_OVERRIDES": f"{plan.server_name}={plan.synapse}",
        "RTCFOCI_AUTH_CA_FILE": plan.ca_file,
        "LIVEKIT_REDIS_URL": plan.redis_url,
    }
    if plan.registration_file:
        lines |= {
            "LIVEKIT_AS_TOKEN": plan.as_token,
            "LIVEKIT_HS_TOKEN": plan.hs_token,
            "LIVEKIT_HS_SERVER_NAME": plan.server_name,
            "RTCFOCI_AUTH_HOMESERVER_URL": plan.synapse,
        }
    return "".join(f"{name}={value}\n" for name, value in lines.items() if value)


def _synapse(plan: Plan) -> str:
    service, features = "", ["msc4143_enabled", "msc4354_enabled"]
    transport = f"livekit_service_url: {plan.service_url}"
    if plan.registration_file:
        features += ["msc4502_enabled", "msc4512_enabled"]
        transport += f"\n      url: {plan.sfu_url}"
        service = f"app_service_config_files: [{json.dumps(plan.registration_file)}]\n"
    switches = "".join(f"  {name}: true\n" for name in features)
    return f"""\
# Of two files that name a key, the later one counts: a list or table of yours belongs in here too.
# The listener for clients needs the resources client and openid (or federation).
max_event_delay_duration: 24h
{service}matrix_rtc:
  transports:
    - type: livekit
      {transport}
experimental_features:
{switches}# Calls restart their leaves and share keys often.
rc_message:
  per_second: 2
  burst_count: 30
rc_delayed_event_mgmt:
  per_second: 2
  burst_count: 20
"""


def _nginx(plan: Plan) -> str:
    listen = urlsplit(f"//{plan.host}").port or 443
    cert = ""
    if plan.certificate:
        cert = f"    ssl_certificate {plan.certificate};\n    ssl_certificate_key {plan.certificate_key};\n"
    homeserver = f"""
    location /_matrix/ {{
        proxy_pass {plan.synapse};
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme;
        client_max_body_size 50m;
    }}

    location = /.well-known/matrix/client {{
        default_type application/json;
        add_header Access-Control-Allow-Origin *;
        return 200 '{json.dumps({"m.homeserver": {"base_url": plan.public_homeserver}})}';
    }}
"""
    return f"""\
server {{
    listen {listen} ssl;
    server_name {plan.host.partition(":")[0]};
{cert}
    location /livekit/jwt/ {{
        # The slash at the end strips the prefix.
        proxy_pass http://{plan.service_bind}/;
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $remote_addr;
    }}

    location /livekit/sfu/ {{
        proxy_pass http://127.0.0.1:{plan.livekit_port}/;
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection "upgrade";
        proxy_set_header Host $http_host;
        proxy_buffering off;
        proxy_read_timeout 120s;
    }}
{homeserver if plan.one_site else ""}}}
"""


def _caddy(plan: Plan) -> str:
    tls = f"\ttls {plan.certificate} {plan.certificate_key}\n" if plan.certificate else ""
    client = json.dumps({"m.homeserver": {"base_url": plan.public_homeserver}})
    homeserver = f"""
	handle /.well-known/matrix/client {{
		header Content-Type application/json
		header Access-Control-Allow-Origin *
		respond `{client}`
	}}
	handle /_matrix/* {{
		reverse_proxy {plan.synapse.removeprefix("http://")}
	}}
"""
    return f"""\
{plan.host} {{
{tls}	handle_path /livekit/jwt/* {{
		reverse_proxy {plan.service_bind}
	}}
	handle_path /livekit/sfu/* {{
		reverse_proxy 127.0.0.1:{plan.livekit_port}
	}}
{homeserver if plan.one_site else ""}}}
"""
