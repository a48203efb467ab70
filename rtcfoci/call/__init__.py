"""The public face: join a call, publish, subscribe, leave; and the asyncio driver of the core.

`join` brings a call up, `call` is what the application holds, `presence` keeps our membership,
`foci` and `link` keep the connections, `context` and `trust` bound what backends may do.
"""
