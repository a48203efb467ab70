"""The pictures of one's own membership, drawn from the tables of the machine.

`python docs/_ext/lifecycle_diagram.py` writes them into the page; a test says when that is due.
"""

import re
from pathlib import Path

from rtcfoci.core.beliefs import DUTIES, OUTCOMES
from rtcfoci.core.effects import Outcome
from rtcfoci.core.phases import BUDGETS, INPUTS, Goal, State

PAGE = Path(__file__).parent.parent / "explanation" / "lifecycle.md"
RESTING = (State.LEFT, State.LEAVE_FAILED)


def _words(function: object) -> str:
    name: str = function.__name__  # type: ignore[attr-defined]
    return name.strip("_").replace("_", " ")


def diagram() -> str:
    """Draw goals as boxes with their duties in order, and the inputs between them."""
    lines = ["stateDiagram-v2", "    [*] --> NONE"]
    for goal in Goal:
        duties = DUTIES.get(goal, ())
        if goal is Goal.ENDED:
            states = [(state, "") for state in RESTING]
        else:
            states = [(state, _words(due)) for state, due in duties]
        if not states:
            continue
        lines.append(f"    state {goal.name} {{")
        choice = f"choose_{goal.value}"
        if goal is not Goal.ENDED:
            lines += [f"        state {choice} <<choice>>", f"        [*] --> {choice}"]
        for number, (state, due) in enumerate(states, 1):
            name = f"{goal.value}_{state.value}"
            if goal is Goal.OUT and state in RESTING:
                lines.append(f"        {choice} --> [*] : {number} {due} ({state.value})")
                continue
            lines.append(f"        state {state.value!r} as {name}".replace("'", '"'))
            if due:
                lines.append(f"        {choice} --> {name} : {number} {due}")
            if state in OUTCOMES:
                lines.append(f"        {name} --> {choice} : result")
        lines.append("    }")
    for goal, inputs in INPUTS.items():
        for target in dict.fromkeys(inputs.values()):
            names = ", ".join(given.value for given, to in inputs.items() if to is target)
            lines.append(f"    {goal.name} --> {target.name} : {names}")
    lines += ["    IN --> OUT : membership refused", "    OUT --> ENDED : left, leave_failed"]
    lines.append("    IN --> REVOKED : any request says so")
    lines.append("    OUT --> REVOKED : any request says so")
    return "\n".join(lines)


def outcomes() -> str:
    """Tabulate what each result of each request makes the machine believe."""
    head = ["request", "limit", *(outcome.value for outcome in Outcome)]
    rows = [
        [state.value, f"`{BUDGETS[state].value}`", *(_words(row[outcome]) for outcome in Outcome)]
        for state, row in OUTCOMES.items()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def filled(page: str) -> str:
    """Put the present pictures between their marks."""
    parts = {"diagram": f"```mermaid\n{diagram()}\n```", "outcomes": outcomes()}
    for name, text in parts.items():
        between = re.compile(f"(<!-- begin of {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        page, count = between.subn(lambda mark, text=text: f"{mark[1]}\n{text}\n\n{mark[2]}", page)
        assert count == 1, f"the page has no place for {name}"
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
