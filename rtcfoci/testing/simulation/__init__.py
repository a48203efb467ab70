"""Thousands of calls in virtual time, each drawn from a number, broken on purpose, and judged.

In: what is done to a call (`script`), the ground it runs on (`network`, `uplink`), its participants
(`device`), a run (`world`), what must hold (`rules`), finding the fewest steps (`shrink`), the picture
(`picture`). Out: the command (`rtcfoci.testing.simulate`); the focus type, whose own signalling runs over
an engine that pretends, and which is named by who starts a run.
"""
