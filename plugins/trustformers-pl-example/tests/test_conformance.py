"""What every plugin must hold: the checks are inherited."""

from trustformers_pl.testing import Conformance


class TestGradientNoise(Conformance):
    plugin = "gradient_noise"
    section = {"eta": 0.3}
    neutral = {"eta": 0.0}
