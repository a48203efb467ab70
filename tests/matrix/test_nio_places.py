"""The places of matrix-nio that the adapter relies on still exist, with the parameters it uses."""

from __future__ import annotations

import importlib.metadata
import inspect
import pydoc

import pytest

from rtcfoci.matrix.nio_places import NIO_PLACES

PINNED = "0.26.0"


@pytest.mark.parametrize("place", NIO_PLACES)
def test_place_exists(place):
    version = importlib.metadata.version("matrix-nio")
    found = pydoc.locate(place)
    assert found is not None, (
        f"matrix-nio {version} has no {place}: rtcfoci.matrix needs another hook"
    )
    parameters = tuple(inspect.signature(inspect.unwrap(found)).parameters)
    assert parameters == NIO_PLACES[place], (
        f"{place} of matrix-nio {version} takes {parameters}: rtcfoci.matrix expects {NIO_PLACES[place]}"
    )


def test_nio_still_hands_olm_plaintext_to_the_hook():
    from nio.crypto import Olm

    source = inspect.getsource(Olm.decrypt)
    assert "self._handle_olm_event(sender, sender_key, parsed_payload)" in source
    assert "self._verify_olm_payload(sender, parsed_payload)" in source


def test_nio_still_begins_a_sync_in_handle_sync():
    from nio import AsyncClient

    assert "self._handle_sync(response)" in inspect.getsource(AsyncClient.receive_response)


def test_nio_is_the_pinned_version():
    assert importlib.metadata.version("matrix-nio") == PINNED
