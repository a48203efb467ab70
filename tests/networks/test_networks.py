"""Two members of a mesh in networks as they are: NAT, TURN, IPv6, firewalls, cables that are pulled."""

import asyncio
import contextlib

import pytest
from namespaces import networks
from stage import SECRET, certificate, credentials, pair, turnserver

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

TURN = "203.0.113.10"
TLS = f"turns:{TURN}:5349?transport=tcp"
UDP, TCP = f"turn:{TURN}:3478?transport=udp", f"turn:{TURN}:3478?transport=tcp"
STUN = {"ice_servers": [{"urls": [f"stun:{TURN}:3478"]}]}


@contextlib.asynccontextmanager
async def cable():
    """Ann and bob on one cable."""
    async with networks() as nets:
        nets.add("ann", "bob")
        nets.cable("ann", "10.1.0.1/24", "bob", "10.1.0.2/24")
        yield nets


@contextlib.asynccontextmanager
async def internet(ann=None, bob=None):
    """Both behind a router and the internet between; None is a plain host, else whether symmetric."""
    async with networks() as nets:
        nets.add("ann", "bob", "net", "void")
        nets.forward("net")
        # As in the internet, what is for a private address gets lost further on.
        nets.cable("net", "198.51.99.1/24", "void", "198.51.99.2/24")
        nets.route("net", "198.51.99.2")
        nets.address("net", "lo", f"{TURN}/32")
        for number, (name, nat) in enumerate((("ann", ann), ("bob", bob)), start=1):
            outer = name
            if nat is not None:
                outer = f"{name}-r"
                nets.add(outer)
                nets.forward(outer)
                nets.cable(name, f"192.168.{number}.2/24", outer, f"192.168.{number}.1/24")
                nets.route(name, f"192.168.{number}.1")
            nets.cable(outer, f"198.51.{number}.2/24", "net", f"198.51.{number}.1/24")
            nets.route(outer, f"198.51.{number}.1")
            if nat is not None:
                nets.nat(outer, "to-net", symmetric=nat)
        yield nets


async def both_hear(ann, bob):
    await asyncio.gather(ann.hears(), bob.hears())


async def a_cable():
    async with cable() as nets, pair(nets, "ann", "bob") as (ann, bob):
        await both_hear(ann, bob)
        assert ann.now["path"] == "over host 10.1.0.1 -> host 10.1.0.2"
        assert not ann.told


async def relay_only_over_udp():
    await relay_only(UDP)


async def relay_only_over_tcp():
    await relay_only(TCP)


async def relay_only(url):
    async with internet() as nets:
        await turnserver(nets, "net", TURN)
        servers = credentials(url)
        async with pair(nets, "ann", "bob", relay_only=True, turn=servers) as (ann, bob):
            await both_hear(ann, bob)
            for one in (ann, bob):
                assert one.now["path"] == f"over relay {TURN} -> relay {TURN}"


async def relay_only_without_a_turn_server():
    async with cable() as nets, pair(nets, "ann", "bob", relay_only=True) as (ann, _):
        await ann.until(lambda: ann.conditions("no_candidates"), "says that there is none")
        said = ann.conditions("no_candidates")[0]
        assert "no TURN server" in said["cause"]
        assert "turn_uris" in said["remedy"]


async def relay_only_over_tls():
    async with internet() as nets:
        files = certificate(nets.folder, TURN)
        await turnserver(nets, "net", TURN, secured=files)
        options = {"relay_only": True, "turn": credentials(TLS)}
        async with pair(nets, "ann", "bob", trusted=files[0], **options) as (ann, bob):
            await both_hear(ann, bob)
            assert ann.now["path"] == f"over relay {TURN} -> relay {TURN}"


async def a_turn_server_with_an_untrusted_certificate():
    async with internet() as nets:
        await turnserver(nets, "net", TURN, secured=certificate(nets.folder, TURN))
        options = {"relay_only": True, "turn": credentials(TLS)}
        async with pair(nets, "ann", "bob", **options) as (ann, _):
            await ann.until(lambda: ann.conditions("no_candidates"), "says why")
            said = ann.conditions("no_candidates")[0]
            assert f"TURN {TURN}:5349 (tls): its certificate is not trusted: self" in said["cause"]
            assert "SSL_CERT_FILE" in said["remedy"]


async def symmetric_nat_on_both_sides_without_turn():
    async with internet(ann=True, bob=True) as nets:
        await turnserver(nets, "net", TURN)
        async with pair(nets, "ann", "bob", connect_timeout_s=6.0, **STUN) as (ann, bob):
            await ann.until(
                lambda: ann.conditions("peer_unreachable"), "says that there is no path"
            )
            said = ann.conditions("peer_unreachable")[0]
            assert "host 192.168.1.2 -> srflx 198.51.2.2: no answer" in said["cause"]
            assert "ours: 1 host, 1 srflx; the member's: 1 host, 1 srflx" in said["cause"]
            assert "no TURN server" in said["cause"]
            assert "turn_uris" in said["remedy"]
            assert not bob.now["frames"]


async def symmetric_nat_on_both_sides_with_turn():
    async with internet(ann=True, bob=True) as nets:
        await turnserver(nets, "net", TURN)
        async with pair(nets, "ann", "bob", turn=credentials(UDP)) as (ann, bob):
            await both_hear(ann, bob)
            assert "relay" in ann.now["path"]


async def symmetric_nat_against_a_plain_host():
    async with internet(ann=True) as nets, pair(nets, "ann", "bob") as (ann, bob):
        await both_hear(ann, bob)
        assert "-> prflx 198.51.1.2" in bob.now["path"]


async def ipv6_alone():
    async with networks() as nets:
        nets.add("ann", "bob")
        nets.cable("ann", "2001:db8::1/64", "bob", "2001:db8::2/64")
        async with pair(nets, "ann", "bob") as (ann, bob):
            await both_hear(ann, bob)
            assert ann.now["path"] == "over host 2001:db8::1 -> host 2001:db8::2"


async def ipv6_alone_over_turn():
    """Nothing passes packets on between the two but the TURN server."""
    async with networks() as nets:
        nets.add("ann", "bob", "net")
        server = "2001:db8:9::1"
        nets.address("net", "lo", f"{server}/128")
        for number, name in enumerate(("ann", "bob"), start=1):
            nets.cable(name, f"2001:db8:{number}::2/64", "net", f"2001:db8:{number}::1/64")
            nets.route(name, f"2001:db8:{number}::1")
        await turnserver(nets, "net", server, "--allocation-default-address-family=keep")
        servers = credentials(f"turn:[{server}]:3478")
        async with pair(nets, "ann", "bob", turn=servers) as (ann, bob):
            await both_hear(ann, bob)
            assert f"relay {server}" in ann.now["path"]


async def dual_stack_where_ipv4_leads_nowhere():
    async with networks() as nets:
        nets.add("ann", "bob")
        nets.cable("ann", "10.1.0.1/24", "bob", "10.1.0.2/24", "2001:db8::1/64", "2001:db8::2/64")
        nets.cut("bob", match="meta nfproto ipv4")
        async with pair(nets, "ann", "bob") as (ann, bob):
            await both_hear(ann, bob)
            assert ann.now["path"] == "over host 2001:db8::1 -> host 2001:db8::2"


async def different_families():
    async with networks() as nets:
        nets.add("ann", "bob")
        nets.cable("ann", "10.1.0.1/24", "bob", "2001:db8::2/64")
        async with pair(nets, "ann", "bob", connect_timeout_s=4.0) as (ann, _):
            await ann.until(lambda: ann.conditions("peer_unreachable"), "says why")
            cause = ann.conditions("peer_unreachable")[0]["cause"]
            assert "no pair: ours are IPv4, the member's IPv6" in cause


async def a_change_of_interface():
    async with cable() as nets:
        nets.cable("ann", "10.2.0.1/24", "bob", "10.2.0.2/24", label="-2")
        nets.address("ann", "to-bob-2", "10.2.0.1/24", "del")
        async with pair(nets, "ann", "bob") as (ann, bob):
            await both_hear(ann, bob)
            nets.address("ann", "to-bob", "10.1.0.1/24", "del")
            nets.run("ann", "ip", "link", "set", "to-bob", "down")
            nets.address("ann", "to-bob-2", "10.2.0.1/24")
            await ann.until(lambda: ann.now["rebuilt"] and ann.now["connected"], "is back")
            await both_hear(ann, bob)
            assert ann.now["path"] == "over host 10.2.0.1 -> host 10.2.0.2"
            (said,) = ann.conditions("peer_unreachable")
            assert said["cause"].startswith("10.1.0.1 is no longer an address of this machine")


async def one_way_blocked_from_the_start():
    async with cable() as nets:
        nets.cut("ann", direction="in")
        async with pair(nets, "ann", "bob", connect_timeout_s=4.0) as (ann, bob):
            await bob.until(lambda: bob.conditions("peer_unreachable"), "says why")
            said = bob.conditions("peer_unreachable")[0]
            assert "heard from there, but no answer: one way is blocked" in said["cause"]
            assert "one direction" in said["remedy"]
            nets.mend("ann")
            await both_hear(ann, bob)


async def one_way_blocked_in_a_call():
    async with cable() as nets, pair(nets, "ann", "bob") as (ann, bob):
        await both_hear(ann, bob)
        nets.cut("bob", direction="out")
        # Of itself aiortc takes half a minute.
        await ann.until(lambda: ann.conditions("media_stalled"), "notices", 12.0)
        cause = ann.conditions("media_stalled")[0]["cause"]
        assert "over host 10.1.0.1 -> host 10.1.0.2" in cause
        nets.mend("bob")
        await both_hear(ann, bob)


async def cut_for_ten_seconds_and_back():
    async with cable() as nets, pair(nets, "ann", "bob") as (ann, bob):
        await both_hear(ann, bob)
        nets.cut("ann")
        await asyncio.sleep(10.0)
        # Whoever notices first tells the other to rebuild, and the other need not notice at all.
        first = next(one for one in (ann, bob) if one.conditions("media_stalled"))
        nets.mend("ann")
        await both_hear(ann, bob)
        await first.until(lambda: any("cleared" in line for _, line in first.told), "is well again")


async def servers_that_do_not_answer():
    async with internet() as nets:
        dead = credentials("turn:203.0.113.99:3478", "turns:203.0.113.99:5349")
        nets.rule("net", "hole", "forward", "ip daddr 203.0.113.99 drop")
        async with pair(nets, "ann", "bob", turn=dead) as (ann, bob):
            await both_hear(ann, bob)
            assert not ann.told, "they held the first attempt up until it was given up"
        async with pair(nets, "ann", "bob", turn=dead, relay_only=True) as (ann, _):
            await ann.until(lambda: ann.conditions("no_candidates"), "says which do not answer")
            said = ann.conditions("no_candidates")[0]
            assert "TURN 203.0.113.99:3478 (udp): no answer within" in said["cause"]
            assert "TURN server runs" in said["remedy"]


async def the_next_server_where_one_is_dead():
    async with internet() as nets:
        await turnserver(nets, "net", TURN)
        nets.rule("net", "hole", "input", "udp dport 3478 drop")
        servers = credentials(UDP, TCP)
        async with pair(nets, "ann", "bob", relay_only=True, turn=servers) as (ann, bob):
            await both_hear(ann, bob)


async def wrong_turn_credentials():
    async with internet(ann=True, bob=True) as nets:
        await turnserver(nets, "net", TURN)
        wrong = credentials(UDP, secret="another")
        async with pair(nets, "ann", "bob", turn=wrong, connect_timeout_s=5.0) as (ann, _):
            await ann.until(lambda: ann.conditions("peer_unreachable"), "says why")
            said = ann.conditions("peer_unreachable")[0]
            assert f"TURN {TURN}:3478 (udp): 401" in said["cause"]
            assert "turn_shared_secret" in said["remedy"]
            assert wrong["password"] not in str(ann.told)
            assert wrong["username"] not in str(ann.told)
        async with pair(nets, "ann", "bob", turn=wrong, relay_only=True) as (ann, _):
            await ann.until(lambda: ann.conditions("no_candidates"), "says why")
            said = ann.conditions("no_candidates")[0]
            assert f"TURN {TURN}:3478 (udp): 401" in said["cause"]
            assert "turn_shared_secret" in said["remedy"]


async def credentials_that_expire_in_a_call():
    """What was allocated with them goes on; a connection after their end is made with fresh ones."""
    async with internet(ann=True, bob=True) as nets:
        await turnserver(nets, "net", TURN, "--max-allocate-lifetime=6")
        ttl_s = 8.0
        async with pair(
            nets, "ann", "bob", turn=lambda: credentials(UDP, ttl_s=ttl_s), relay_only=True
        ) as (ann, bob):
            await both_hear(ann, bob)
            for one in (ann, bob):
                one.order(turn=credentials(UDP))
            await asyncio.sleep(
                ttl_s + 6.0
            )  # past their end, and past what was allocated with them
            await both_hear(ann, bob)
            assert ann.now["asked"] == 1
            assert not ann.told
            nets.cut("ann")
            await ann.until(lambda: ann.told, "notices")
            nets.mend("ann")
            await both_hear(ann, bob)
            assert ann.now["asked"] == 2


async def a_turn_server_with_a_new_secret():
    async with internet(ann=True, bob=True) as nets:
        first = await turnserver(nets, "net", TURN)
        old = credentials(UDP)
        async with pair(nets, "ann", "bob", turn=old, relay_only=True) as (ann, bob):
            await both_hear(ann, bob)
            await asyncio.sleep(5.0)  # the homeserver is not asked more often
            first.kill()
            await first.wait()
            await turnserver(nets, "net", TURN, secret=SECRET[::-1])
            for one in (ann, bob):
                one.order(turn=credentials(UDP, secret=SECRET[::-1]))
            await ann.until(lambda: ann.now["asked"] > 1, "asks for fresh ones")
            await both_hear(ann, bob)


async def no_network_at_all():
    async with networks() as nets:
        nets.add("ann", "bob")
        async with pair(nets, "ann", "bob") as (ann, _):
            await ann.until(lambda: ann.conditions("no_candidates"), "says so")
            assert not ann.conditions("no_candidates")[0]["remedy"]  # the general one


CASES = [
    symmetric_nat_on_both_sides_without_turn, one_way_blocked_from_the_start,
    credentials_that_expire_in_a_call, a_turn_server_with_a_new_secret, cut_for_ten_seconds_and_back,
    one_way_blocked_in_a_call, servers_that_do_not_answer, wrong_turn_credentials, a_cable,
    relay_only_over_udp, relay_only_over_tcp, relay_only_without_a_turn_server,
    symmetric_nat_on_both_sides_with_turn, symmetric_nat_against_a_plain_host, ipv6_alone,
    ipv6_alone_over_turn, relay_only_over_tls, a_turn_server_with_an_untrusted_certificate,
    dual_stack_where_ipv4_leads_nowhere, different_families, a_change_of_interface,
    the_next_server_where_one_is_dead, no_network_at_all,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_two_members(case, outcomes):
    problem = outcomes[case.__name__]
    if problem is not None:
        raise problem
