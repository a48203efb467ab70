from rtcfoci.plugin import ReadingPolicyInfo, hookimpl

MODERN = ReadingPolicyInfo(
    name="modern",
    policy="example_modern.policy:MODERN",
    summary="sticky memberships only, each device once",
)


@hookimpl
def rtcfoci_reading_policies():
    return [MODERN]
