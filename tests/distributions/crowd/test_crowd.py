from example_crowd import CROWD

from rtcfoci.testing import SelectionConformance


class TestCrowd(SelectionConformance):
    policy = CROWD
