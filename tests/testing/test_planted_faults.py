"""The kit catches what is wrong, and says it where it is wrong: each fault fails in the named checks and in no other."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

import pytest
import torch

from trustformers_pl.models import GPT
from trustformers_pl.testing import Conformance
from trustformers_pl.testing.conformance import others

if TYPE_CHECKING:
    from pathlib import Path

SOUND = '''
    """A package with a plugin."""
    import os
    from dataclasses import dataclass
    from trustformers_pl import Plugin, Traits, hookimpl, part

    COUNT = 0

    {before}
    class Faulty(Plugin):
        """{summary}"""
        @dataclass(frozen=True, kw_only=True)
        class Config:
            """Its keys."""
            strength: float = 1.0
            """How much."""
            {field}
        @classmethod
        def traits(cls, config):
            {traits}
            return Traits()
        @hookimpl
        def callbacks(self, plan):
            return [part("fault_parts:Scale", self.config.strength, folder=str(plan.folder))]
        @hookimpl
        def module_mixins(self, plan):
            return ["fault_parts:Mixed"]
        @hookimpl
        def probe(self, run):
            found = [c for c in run.trainer.callbacks if type(c).__name__ == "Scale"]
            return f"scaled {{found[0].count}} gradients" if found and found[0].count else None
'''
PARTS = '''
    """Its parts."""
    import threading
    from pathlib import Path
    import torch
    from lightning import Callback
    from trustformers_pl.errors import RefusedError

    KEPT = []

    class Mixed:
        def on_fit_start(self):
            super().on_fit_start()
            {mixed}

    class Scale(Callback):
        "Shrinks gradients the more steps it has seen; strength 0 leaves them alone."
        def __init__(self, strength, folder):
            self.strength, self.folder, self.count = strength, folder, 0
        def state(self):
            return {state}
        def load_state(self, state):
            {load}
        def setup(self, trainer, module, stage):
            {setup}
        def on_before_optimizer_step(self, trainer, module, optimizer):
            {step}
            self.count += 1
            {always}
            if self.strength:
                for p in module.parameters():
                    p.grad.mul_(1.0 / (1.0 + self.strength * self.count))
        def on_train_end(self, trainer, module):
            pass
            {end}
        def on_exception(self, trainer, module, exception):
            pass
            {exception}
'''
BEFORE = {"before": "", "summary": "Scales gradients.", "field": "", "traits": ""}
INSIDE = {
    "mixed": "pass",
    "state": "State({'count': self.count})",
    "load": "self.count = state.value['count']",
    "setup": "pass",
    "step": "pass",
    "always": "pass",
    "end": "",
    "exception": "",
}

FAULTS: dict[str, tuple[dict[str, str], set[str]]] = {
    "sound": ({}, set()),
    "no docstring": ({"summary": ""}, {"its_name_entry_point_and_section_agree"}),
    "imports torch": ({"before": "import torch"}, {"importing_it_takes_and_does_nothing"}),
    "imports an optional library": ({"before": "import numpy"}, {"importing_it_takes_and_does_nothing"}),
    "writes when imported": (
        {"before": "open('/tmp/trustformers-pl-planted-fault', 'w').close()"},
        {"importing_it_takes_and_does_nothing"},
    ),
    "undocumented key": ({"field": "other: int = 3"}, {"its_keys_are_typed_documented_and_survive_a_round_trip"}),
    "key of no type": (
        {"field": "other: range | None = None\n            'Of no type that YAML has.'"},
        {"its_keys_are_typed_documented_and_survive_a_round_trip"},
    ),
    "traits that change": (
        {"traits": "global COUNT; COUNT += 1; return Traits(provides=frozenset({f'own:word{COUNT}'}))"},
        {"its_hooks_and_traits_are_of_the_contract"},
    ),
    "traits with an effect": (
        {"traits": "os.environ['PLANTED_FAULT'] = '1'"},
        {"its_hooks_and_traits_are_of_the_contract"},
    ),
    "leaves something switched on": (
        {"end": "double_the_next_initialisation()"},
        {"switched_off_it_changes_nothing"},
    ),
    "neutral draws random numbers": (
        {"always": "torch.rand(1)"},
        {"its_neutral_setting_changes_nothing", "on_two_ranks_its_neutral_setting_changes_nothing"},
    ),
    "logs infinity": (
        {"end": "trainer.callback_metrics['ratio'] = torch.tensor(float('inf'))"},
        {"it_trains_and_takes_part"},
    ),
    "forgets its state": (
        {"load": "pass"},
        {"a_killed_run_resumes_bit_for_bit", "two_killed_ranks_resume_bit_for_bit"},
    ),
    "forgets its state on ranks": (
        {"load": "self.count = 0 if torch.distributed.is_initialized() else state.value['count']"},
        {"two_killed_ranks_resume_bit_for_bit"},
    ),
    "cannot be pickled": ({"mixed": "self.function = lambda: None"}, {"the_module_stays_the_users"}),
    "weights by rank": (
        {"end": "module.norm.weight.data.add_(trainer.global_rank)"},
        {"two_ranks_end_with_equal_weights"},
    ),
    "a file of all ranks": (
        {"end": "Path(self.folder, 'notes.txt').write_text('mine')"},
        {"two_ranks_end_with_equal_weights"},
    ),
    "ignored beside the bar": (
        {"step": "if trainer.progress_bar_callback: return"},
        {"beside_another_feature[progress]"},
    ),
    "refuses the bar and does not say so": (
        {"setup": "if trainer.progress_bar_callback: raise RefusedError('no bars')"},
        {"beside_another_feature[progress]"},
    ),
    "leaves a file open": (
        {"exception": "KEPT.append(Path(self.folder, 'left').open('w'))"},
        {"an_exception_leaves_nothing_open"},
    ),
    "leaves a thread": (
        {"exception": "threading.Thread(target=threading.Event().wait, daemon=True).start()"},
        {"an_exception_leaves_nothing_open"},
    ),
    "leaves a setting": (
        {"exception": "torch.use_deterministic_algorithms(True)"},
        {"an_exception_leaves_nothing_open"},
    ),
}
LEAVES_SOMETHING_ON = """

    def double_the_next_initialisation():
        from trustformers_pl.models import GPT
        original = GPT.initialize_weights
        def once(self, part):
            GPT.initialize_weights = original
            original(self, part)
            self.embedding.weight.data.mul_(2)
        GPT.initialize_weights = once
"""


BESIDE = ["csv", "progress"]


def checks() -> list[str]:
    return [name for name in vars(Conformance) if name.startswith("test_")]


def failing(cls: type[Conformance], folder: Path) -> dict[str, str]:
    """Run every check as pytest would; the names of those that fail, without `test_`, with the first line said."""
    found = {}
    original = GPT.initialize_weights
    for check in checks():
        method = getattr(cls(), check)
        rows = BESIDE if "other" in inspect.signature(method).parameters else [None]
        for row in rows:
            name = check.removeprefix("test_") + (f"[{row}]" if row else "")
            arguments: dict[str, Any] = {"subject": cls.under_test(), "other": row, "tmp_path": folder / name}
            (folder / name).mkdir()
            try:
                method(**{key: arguments[key] for key in inspect.signature(method).parameters})
            except Exception as error:  # whatever pytest would call a failure
                found[name] = str(error).partition("\n")[0]
            finally:
                GPT.initialize_weights = original  # type: ignore[method-assign]
                torch.use_deterministic_algorithms(False)
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_fails_where_it_is(fault: str, install: Any, tmp_path: Path) -> None:
    changes, expected = FAULTS[fault]
    answers = {**BEFORE, **INSIDE, **changes}
    source = PARTS.format(**answers) + LEAVES_SOMETHING_ON
    source = source.replace("import threading", "import threading\n    from trustformers_pl.state import State", 1)
    install("fault-parts", source)
    install("faulty-pack", SOUND.format(**answers), trustformers_pl={"faulty": "Faulty"})

    class Subject(Conformance):
        plugin = "faulty"
        neutral = {"strength": 0.0}  # noqa: RUF012

    found = failing(Subject, tmp_path)
    assert set(found) == expected, found


def test_every_check_has_a_fault() -> None:
    """A check that no fault fails might be one that cannot fail."""
    caught = {re.sub(r"\[.*", "", name) for _, names in FAULTS.values() for name in names}
    assert set(BESIDE) <= set(others("faulty"))
    assert caught == {check.removeprefix("test_") for check in checks()}
