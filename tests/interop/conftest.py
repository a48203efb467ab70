"""What interop tests need is built before any test's timeout runs; it takes minutes once."""

import contextlib

import pytest

from tests.interop import capture, tools


def pytest_collection_finish(session):
    if session.config.option.collectonly:
        return
    wanted = {item.path.name for item in session.items if item.path.parent.name == "interop"}
    # A missing tool is the business of the test that asks for it.
    with contextlib.suppress(pytest.skip.Exception, pytest.fail.Exception):
        if wanted & {"test_matrix_js_sdk.py", "test_notifications.py", "test_written_dialects.py"}:
            tools.npm_folder(tools.JS_SDK)
            tools.npm_folder({"matrix-js-sdk": "42.0.0"})
        if "test_livekit_keys.py" in wanted:
            tools.npm_folder(tools.LIVEKIT_CLIENT)
        if wanted & {"test_differential.py", "test_media_keys.py"}:
            tools.npm_folder(tools.JS_SDK)
        if "test_readers.py" in wanted:
            tools.npm_folder(tools.JS_SDK)
            tools.ruma_reader()
        if "test_captured.py" in wanted:
            for sender in capture.SENDERS.values():
                tools.npm_folder(sender.packages)
            tools.livekit_server()
        if "test_element_call.py" in wanted:
            tools.npm_folder(tools.ELEMENT_CALL)
            tools.livekit_server()
