"""The laboratory: what spec experimenters ask of events that were kept.

In: files of events, and what the core makes of them. Out: live rooms (`rtcfoci.call`).
"""
