from example_modern import MODERN

from rtcfoci.testing import ReadingPolicyConformance


class TestModern(ReadingPolicyConformance):
    policy = MODERN
