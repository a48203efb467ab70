"""Why a pair has no path, in words: which candidates were tried, and what became of each.

In: the check list of a connection, and what gathering met. Out: gathering itself (`aiortc_gather`), who
is told (`peer`).

The words name addresses of both sides and of servers, never a user name or credential.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import aioice
from aioice.ice import CandidatePair

from rtcfoci_mesh.aiortc_gather import Gathering
from rtcfoci_mesh.engine import Diagnosis

__all__ = ["diagnose"]

_MAX_PAIRS = 6
_MAX_SERVERS = 4
_State = CandidatePair.State
_WORDS = {
    _State.FROZEN: "not tried",
    _State.WAITING: "not tried",
    _State.IN_PROGRESS: "no answer",
    _State.FAILED: "no answer",
    _State.SUCCEEDED: "answered",
}


def diagnose(
    ice: aioice.Connection,
    gathering: Gathering,
    local: Iterable[aioice.Candidate],
    heard: Iterable[tuple[str, int]],
) -> Diagnosis:
    """Say what was tried.

    :param local: our candidates as gathered.
    :param heard: where checks of the member came from.
    """
    ours, theirs, pairs = list(local), list(ice._remote_candidates), list(ice._check_list)
    selected = ice._nominated.get(1)
    if selected is not None:
        return Diagnosis(f"over {_pair(selected)}", refused=gathering.refused)
    sources = set(heard)
    parts = [f"{_pair(p)}: {_state(p, sources)}" for p in pairs[:_MAX_PAIRS]]
    if len(pairs) > _MAX_PAIRS:
        parts.append(f"{len(pairs) - _MAX_PAIRS} more pairs")
    if not theirs:
        parts.append("the member named no address")
    elif not pairs and ours:
        parts.append(f"no pair: ours are {_families(ours)}, the member's {_families(theirs)}")
    kinds, other = Counter(c.type for c in ours), Counter(c.type for c in theirs)
    parts.append(f"ours: {_count(kinds)}; the member's: {_count(other)}")
    parts += _servers(gathering, relayed="relay" in kinds)
    relays = "relay" in kinds or "relay" in other
    one_way = any(p.remote_addr in sources and p.state is not _State.SUCCEEDED for p in pairs)
    return Diagnosis(
        "; ".join(parts),
        _remedy(gathering, bool(ours), bool(theirs), relays=relays, one_way=one_way),
        gathering.refused,
    )


def _pair(pair: CandidatePair) -> str:
    local, remote = pair.local_candidate, pair.remote_candidate
    # The name of a member that hides its address stays a name.
    return f"{local.type} {local.host} -> {remote.type} {remote.host[:64]}"


def _state(pair: CandidatePair, heard: set[tuple[str, int]]) -> str:
    if pair.state is not _State.SUCCEEDED and pair.remote_addr in heard:
        return "heard from there, but no answer: one way is blocked"
    return _WORDS[pair.state]


def _count(kinds: Counter[str]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items())) or "none"


def _families(candidates: Iterable[aioice.Candidate]) -> str:
    found = {"IPv6" if ":" in c._network_host else "IPv4" for c in candidates}
    return " and ".join(sorted(found))


def _servers(gathering: Gathering, *, relayed: bool) -> list[str]:
    parts = [f"{server}: {why}" for server, why in gathering.failures.items()][:_MAX_SERVERS]
    if not relayed:
        parts.append("no relay of ours" + ("" if gathering.turn else ": no TURN server"))
    return parts


def _remedy(gathering: Gathering, ours: bool, theirs: bool, *, relays: bool, one_way: bool) -> str:
    """Say what to do; nothing where it is what the condition says anyway."""
    if gathering.refused:
        return (
            "Make the TURN server's shared secret and the homeserver's turn_shared_secret the same."
        )
    if gathering.untrusted:
        return (
            "Give the TURN server a certificate for the host in its address, from an authority that this "
            "machine trusts; SSL_CERT_FILE names others."
        )
    if any(server.kind == "TURN" for server in gathering.failures):
        return "Check that the TURN server runs, and that this machine may reach its port."
    if one_way:
        return "Look for a firewall that lets packets through in one direction only."
    if gathering.relay_only and not ours:
        return "Give the homeserver a TURN server (turn_uris), or do without relay_only."
    if ours and theirs and not relays:
        return (
            "Give the homeserver a TURN server (turn_uris): a NAT that uses another port for each "
            "destination, or a firewall, needs one. Or use a focus type with a server."
        )
    return ""
