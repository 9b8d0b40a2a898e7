"""Our own features through the kit that strangers' go through."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from trustformers_pl.testing import Conformance

if TYPE_CHECKING:
    from trustformers_pl.testing.sections import Sections


class TestSGD(Conformance):
    plugin = "optimizer.sgd"


class TestAdam(Conformance):
    plugin = "optimizer.adam"


class TestAdamW(Conformance):
    plugin = "optimizer.adamw"
    neutral: ClassVar[Sections] = {"lr": 0.01, "groups": [{"match": "*norm*", "weight_decay": 0.0}]}


class TestLAMB(Conformance):
    plugin = "optimizer.lamb"


class TestAdafactor(Conformance):
    plugin = "optimizer.adafactor"


class TestConstant(Conformance):
    plugin = "schedule.constant"
    neutral: ClassVar[Sections] = {}


class TestLinear(Conformance):
    plugin = "schedule.linear"
    neutral: ClassVar[Sections] = {"min_ratio": 1.0}


class TestCosine(Conformance):
    plugin = "schedule.cosine"
    neutral: ClassVar[Sections] = {"min_ratio": 1.0}


class TestPolynomial(Conformance):
    plugin = "schedule.polynomial"
    neutral: ClassVar[Sections] = {"power": 0.0}


class TestExponential(Conformance):
    plugin = "schedule.exponential"
    neutral: ClassVar[Sections] = {"gamma": 1.0}


class TestStep(Conformance):
    plugin = "schedule.step"
    neutral: ClassVar[Sections] = {"step_size": 1, "gamma": 1.0}


class TestWSD(Conformance):
    plugin = "schedule.wsd"
    neutral: ClassVar[Sections] = {"min_ratio": 1.0}


class TestUnfreeze(Conformance):
    plugin = "unfreeze"
    neutral: ClassVar[Sections] = {"stages": [{"match": "*norm*", "step": 0}]}


class TestAccumulate(Conformance):
    plugin = "accumulate"
    neutral: ClassVar[Sections] = {"batches": 1}


class TestClip(Conformance):
    plugin = "clip"
    neutral: ClassVar[Sections] = {"norm": 1e30}


class TestEarlyStopping(Conformance):
    plugin = "early_stopping"
    neutral: ClassVar[Sections] = {"patience": 1000}


class TestEMA(Conformance):
    plugin = "ema"
    neutral: ClassVar[Sections] = {"decay": 0.0, "warmup": False}


class TestFinite(Conformance):
    plugin = "finite"
    neutral: ClassVar[Sections] = {"policy": "stop"}


class TestPrecision(Conformance):
    plugin = "precision"
    neutral: ClassVar[Sections] = {"dtype": "fp32"}


class TestFloat16(Conformance):
    plugin = "precision"
    section: ClassVar[Sections] = {"dtype": "fp16", "opt_level": "O2", "loss_scale": "dynamic", "initial_scale": 1024.0}
