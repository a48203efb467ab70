from rtcfoci.plugin import DialectInfo, hookimpl

TERSE = DialectInfo(
    name="org.example.terse",
    dialect="example_terse.terse:Terse",
    event_types=("org.example.terse.member",),
)


@hookimpl
def rtcfoci_dialects():
    return [TERSE]
