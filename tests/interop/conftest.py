"""What interop tests need is built before any test's timeout runs; it takes minutes once."""

import contextlib

import pytest

from tests.interop import tools


def pytest_collection_finish(session):
    if session.config.option.collectonly:
        return
    wanted = {item.path.name for item in session.items if item.path.parent.name == "interop"}
    # A missing tool is the business of the test that asks for it.
    with contextlib.suppress(pytest.skip.Exception, pytest.fail.Exception):
        if "test_matrix_js_sdk.py" in wanted:
            tools.npm_folder(tools.JS_SDK)
        if "test_element_call.py" in wanted:
            tools.npm_folder(tools.ELEMENT_CALL)
            tools.livekit_server()
