"""The page about the lifecycle shows the machine's tables as they are."""

import importlib.util
from pathlib import Path

from rtcfoci.core.beliefs import DUTIES
from rtcfoci.core.phases import INPUTS

EXT = Path(__file__).parents[2] / "docs" / "_ext" / "lifecycle_diagram.py"
spec = importlib.util.spec_from_file_location("lifecycle_diagram", EXT)
drawing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(drawing)


def test_the_page_is_up_to_date():
    page = drawing.PAGE.read_text()
    assert drawing.filled(page) == page, "run: python docs/_ext/lifecycle_diagram.py"


def test_everything_in_the_tables_is_drawn():
    text = drawing.diagram()
    for duties in DUTIES.values():
        for state, due in duties:
            assert state.value in text
            assert due.__name__.strip("_").replace("_", " ") in text
    for goal, inputs in INPUTS.items():
        for given, target in inputs.items():
            arcs = [
                line for line in text.splitlines() if f" {goal.name} --> {target.name} :" in line
            ]
            assert any(given.value in arc for arc in arcs)
