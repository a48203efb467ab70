"""Checks a deployment from outside, hop by hop, as a client meets it.

`verdicts` says what a hop may find; `web` asks and tells a refusal from silence; `matrix`, `service`,
`behind`, `sfu` and `leave` are the hops; `run` puts them in order; `command` prints. Each hop is a function
of a `Case`, so that other programs may run the hops they need.
"""
