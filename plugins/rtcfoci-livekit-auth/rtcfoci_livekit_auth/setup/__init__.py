"""Writes the configuration of everything around a call, and says what is wrong in one.

`plan` is what an operator decides; `fragments` turns it into files; `command` asks and writes (`init`);
`check` reads configuration that is there (`check-config`).
"""
