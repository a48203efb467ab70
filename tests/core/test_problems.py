"""Every code that a membership event can be given is in the published table."""

import ast
from pathlib import Path

import rtcfoci
from rtcfoci.core.problems import KINDS

PACKAGE = Path(rtcfoci.__file__).parent


def used():
    """Codes that the code of core and lab gives to problems."""
    for path in [*PACKAGE.joinpath("core").rglob("*.py"), *PACKAGE.joinpath("lab").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Name(id="Problem") | ast.Attribute(attr="problem"),
                    args=[ast.Constant(value=str(code)), *_],
                ):
                    yield code
                case ast.Call(func=ast.Name(id="Problem"), args=[_, *_]):
                    if path.name != "reading.py":  # it hands on the codes that it is given
                        raise AssertionError(
                            f"{path.name}:{node.lineno}: a code made up as it goes"
                        )


def test_the_table_holds_exactly_the_codes_in_use():
    assert sorted(set(used())) == sorted(KINDS)


def test_the_table_is_sound():
    for code, kind in KINDS.items():
        assert kind.code == code
        assert code.replace("_", "").isalpha()
        assert code.islower()
        assert kind.what.endswith(".")
        assert "|" not in kind.what
