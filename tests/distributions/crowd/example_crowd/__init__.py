from rtcfoci.plugin import SelectionPolicyInfo, hookimpl

CROWD = SelectionPolicyInfo(
    name="crowd",
    policy="example_crowd.crowd:Crowd",
    summary="everybody publishes where most members are",
)


@hookimpl
def rtcfoci_selection_policies():
    return [CROWD]
