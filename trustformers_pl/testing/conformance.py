"""The checks that every plugin is run through, ours and a stranger's: subclass `Conformance` and name the plugin."""

from __future__ import annotations

import copy
import math
import pickle
from typing import TYPE_CHECKING, Any, ClassVar

from trustformers_pl.errors import PluginError

try:
    import jsonschema  # noqa: F401
    import pytest
except ImportError as error:
    raise PluginError(f"the conformance kit needs {error.name}; pip install 'trustformers-pl[testing]'") from error

from torch.distributed.tensor import DTensor

from trustformers_pl.compose import user_class
from trustformers_pl.plugins import discover
from trustformers_pl.testing import declarations
from trustformers_pl.testing.leftovers import changed_settings, left_behind, settings, traces
from trustformers_pl.testing.on_ranks import train_and_die, train_on_rank
from trustformers_pl.testing.pairs import try_pair
from trustformers_pl.testing.ranks import Ranks
from trustformers_pl.testing.sections import STEPS, Sections
from trustformers_pl.testing.subject import Subject, refused
from trustformers_pl.testing.trial import DeliberateError, Fail, Trial, differences, digest, finite, train
from trustformers_pl.traits import Trait

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lightning import LightningModule

    from trustformers_pl.testing.on_ranks import RankTrial

KILLED_AFTER = 5
"""Steps: in the second epoch, after a validation, between two checkpoints."""


class Conformance:
    """Nine checks of one plugin; pytest runs them in every subclass whose name starts with `Test`.

        class TestEWC(Conformance):
            plugin = "ewc"
            neutral = {"strength": 0.0}

    Every check trains a GPT of three thousand weights for eight steps, on one or two gloo ranks of the CPU.

    Attributes:
        plugin: The entry point's name.
        section: The section that switches it on; by default the plugin's own `example`.
        neutral: A section with which it must not change one bit of the weights; None where there is none.
        beside: Other sections of the recipe that it needs, or that replace the small run's own.
        measured: Columns of `metrics.csv` that it fills with times, or whatever else differs from run to run.
    """

    plugin: ClassVar[str]
    section: ClassVar[Sections | None] = None
    neutral: ClassVar[Sections | None] = None
    beside: ClassVar[Sections] = {}
    measured: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def under_test(cls) -> Subject:
        """The plugin with its sections."""
        values = Subject(cls.plugin, {}).plugin.example if cls.section is None else cls.section
        return Subject(cls.plugin, values, cls.beside, tuple(cls.measured))

    @pytest.fixture
    def subject(self) -> Subject:
        """The plugin with its sections."""
        return self.under_test()

    # 1. It is what it says

    def test_its_name_entry_point_and_section_agree(self, subject: Subject) -> None:
        """The entry point gives a documented plugin, and its name is a section that switches that plugin on."""
        declarations.check_names(subject)

    def test_importing_it_takes_and_does_nothing(self, subject: Subject) -> None:
        """Its import needs neither torch nor any library but its own package, and leaves no trace outside of itself."""
        declarations.check_import(subject)

    # 2. Its keys

    def test_its_keys_are_typed_documented_and_survive_a_round_trip(self, subject: Subject, tmp_path: Path) -> None:
        """Every key has a type that the reader knows, a docstring and, if it has one, a valid default.

        Written as YAML and read again, the section gives the same values; `explain` shows each of them.
        """
        declarations.check_config(subject, tmp_path)

    # 3. Its declarations

    def test_its_hooks_and_traits_are_of_the_contract(self, subject: Subject) -> None:
        """Hooks, their arguments and the words of its traits exist; asking for them changes nothing."""
        declarations.check_hooks(subject)

    # 4. Off is off

    def test_switched_off_it_changes_nothing(self, subject: Subject, tmp_path: Path) -> None:
        """A plain run after a run with it has the bits of a plain run before; its probe sees nothing in it."""
        before = self._train(subject, subject.plain(), tmp_path / "before")
        self._train(subject, subject.on(), tmp_path / "with")
        after = self._train(subject, subject.plain(), tmp_path / "after")
        changed = differences(before.state | before.logged, after.state | after.logged)
        assert not changed, f"a plain run after one with {subject.name} differs: {_listed(changed)}"
        if subject.name not in after.evidence:
            seen = _probe(subject, after)
            assert seen is None, f"{subject.name}'s probe sees {seen!r} in a run without it"

    def test_its_neutral_setting_changes_nothing(self, subject: Subject, tmp_path: Path) -> None:
        """With its neutral section, weights and optimizer state have the bits of the plain run's."""
        if self.neutral is None:
            pytest.skip(f"{subject.name} has no neutral setting")
        plain = self._train(subject, subject.plain(), tmp_path / "plain")
        neutral = self._train(subject, subject.on(self.neutral), tmp_path / "neutral")
        changed = differences(plain.state, neutral.state, only=plain.state)
        assert not changed, f"{subject.name} with {dict(self.neutral)} changes {_listed(changed)}"

    # 5. On is on, and resumes

    def test_it_trains_and_takes_part(self, subject: Subject, tmp_path: Path) -> None:
        """A run with it makes its steps, stays finite, and its probe tells what it did."""
        trial = self._train(subject, subject.on(), tmp_path)
        assert trial.run.trainer.global_step == STEPS
        assert not (bad := finite(trial.run.module)), f"not finite: {_listed(bad)}"
        logged = {name: float(value) for name, value in trial.run.trainer.callback_metrics.items()}
        assert not (bad := [name for name, value in logged.items() if not math.isfinite(value)]), f"not finite: {bad}"
        found = trial.evidence.get(subject.name)
        assert found, f"{subject.name}: its probe gives no evidence that it took part (implement the hook `probe`)"

    def test_a_killed_run_resumes_bit_for_bit(self, subject: Subject, tmp_path: Path) -> None:
        """Killed by SIGKILL between two checkpoints and started again, it ends with the bits of a run that was not."""
        whole = self._train(subject, subject.on(), tmp_path / "whole")
        Ranks().run_until_killed(1, train_and_die, subject.on(), str(tmp_path / "killed"), KILLED_AFTER)
        resumed = self._train(subject, subject.on(), tmp_path / "killed")
        changed = differences(whole.state | whole.logged, resumed.state | resumed.logged)
        assert not changed, f"killed after step {KILLED_AFTER} and resumed, it differs: {_listed(changed)}"

    # 6. The module stays the user's

    def test_the_module_stays_the_users(self, subject: Subject, tmp_path: Path) -> None:
        """The composed module pickles and deep-copies, and its `state_dict` loads into the user's own class.

        One whose weights are shards need not: torch makes no copies of those, and there is nobody to send them to.
        """
        module = self._train(subject, subject.on(), tmp_path).run.module
        weights = module.state_dict()
        if not any(isinstance(value, DTensor) for value in weights.values()):
            _check_copies(module)
        if Trait.MODULE_STRUCTURE in subject.traits.provides:
            return  # its state is another than the user's, and says so
        users = user_class(type(module))(**module.hparams)
        lost = sorted(users.state_dict().keys() ^ weights.keys())
        assert not lost, f"the composed module's state_dict differs from {type(users).__name__}'s: {_listed(lost)}"
        users.load_state_dict({name: _on_this_rank(value) for name, value in weights.items()})

    # 7. Ranks

    def test_two_ranks_end_with_equal_weights(self, subject: Subject, tmp_path: Path) -> None:
        """Two gloo ranks end with the same weights, and write every file once; or it is refused beside ranks."""
        if _refused_on_ranks(subject):
            return
        ranks = _two(subject, subject.on(devices=2), tmp_path)
        changed = [name for name in differences(ranks[0].state, ranks[1].state) if name.startswith("weights.")]
        assert not changed, f"the ranks end with different weights: {_listed(changed)}"
        twice = sorted(set(ranks[0].written) & set(ranks[1].written))
        assert not twice, f"written by both ranks: {_listed(twice)}; write on rank zero, or one file a rank"
        assert ranks[0].evidence.get(subject.name), f"{subject.name} left no evidence on two ranks"

    def test_on_two_ranks_its_neutral_setting_changes_nothing(self, subject: Subject, tmp_path: Path) -> None:
        """As on one rank."""
        if self.neutral is None:
            pytest.skip(f"{subject.name} has no neutral setting")
        if _refused_on_ranks(subject):
            return
        plain = _two(subject, subject.plain(devices=2), tmp_path / "plain")[0]
        neutral = _two(subject, subject.on(self.neutral, devices=2), tmp_path / "neutral")[0]
        changed = differences(plain.state, neutral.state, only=plain.state)
        assert not changed, f"on two ranks, {subject.name} with {dict(self.neutral)} changes {_listed(changed)}"

    def test_two_killed_ranks_resume_bit_for_bit(self, subject: Subject, tmp_path: Path) -> None:
        """As on one rank."""
        if _refused_on_ranks(subject):
            return
        sections = subject.on(devices=2)
        whole = _two(subject, sections, tmp_path / "whole")[0]
        Ranks().run_until_killed(2, train_and_die, sections, str(tmp_path / "killed"), KILLED_AFTER)
        resumed = _two(subject, sections, tmp_path / "killed")[0]
        changed = differences(whole.state | whole.logged, resumed.state | resumed.logged)
        assert not changed, f"two ranks, killed after step {KILLED_AFTER} and resumed, differ: {_listed(changed)}"

    # 8. Company

    def test_beside_another_feature(self, subject: Subject, other: str, tmp_path: Path) -> None:
        """Beside each installed feature it takes part, as that one does, or the two are refused with a reason."""
        outcome = try_pair(subject.name, other, tmp_path, subject.around, subject.section)
        assert outcome.reason or all(outcome.evidence.values())

    # 9. Leaving

    def test_an_exception_leaves_nothing_open(self, subject: Subject, tmp_path: Path) -> None:
        """A run that raises leaves no file, thread, process or setting behind, and can be taken up again."""
        sections, settings_before = subject.on(), settings()
        self._train(subject, sections, tmp_path / "warm-up")
        before = traces()  # what stays from a first run, and never grows, is not a leak
        with pytest.raises(DeliberateError):
            train(sections, tmp_path / "raises", also=[Fail(KILLED_AFTER)])
        left = [*left_behind(before), *changed_settings(settings_before)]
        assert not left, f"left after an exception: {'; '.join(left)}"
        again = self._train(subject, sections, tmp_path / "raises")
        assert again.run.trainer.global_step == STEPS

    @staticmethod
    def _train(subject: Subject, sections: Sections, folder: Path) -> Trial:
        return train(sections, folder, measured=subject.measured)


def _check_copies(module: LightningModule) -> None:
    for what, other in (("pickled", pickle.loads(pickle.dumps(module))), ("deep-copied", copy.deepcopy(module))):  # noqa: S301
        assert type(other) is type(module), f"{what}, the module is a {type(other).__name__}"
        old, new = module.state_dict(), other.state_dict()
        changed = [name for name in old if name not in new or digest(old[name]) != digest(new[name])]
        assert not changed, f"{what}, the module differs: {_listed(changed)}"


def _on_this_rank(value: Any) -> Any:
    """Of one rank, the whole."""
    return value.to_local() if isinstance(value, DTensor) else value


def others(name: str) -> Iterator[str]:
    """The features to try beside one: all that are installed, but of its own package only those before it."""
    offers = discover()
    own = offers.get(name)
    for other, offer in offers.items():
        if own is None or offer.package != own.package or other < name:
            yield other


def _probe(subject: Subject, trial: Trial) -> str | None:
    assembled = subject.plugin(subject.config, subject.name)
    hook = getattr(assembled, "probe", None)
    return None if hook is None else hook(trial.run)


def _two(subject: Subject, sections: Sections, folder: Path) -> list[RankTrial]:
    return Ranks().run(2, train_on_rank, sections, str(folder), subject.measured)


def _refused_on_ranks(subject: Subject) -> bool:
    """Whether it declares that it cannot live on two ranks, which must come with a reason of its own."""
    reason = refused(subject.on(devices=2))
    assert reason is None or subject.name in reason, f"refused on two ranks, but not by {subject.name}: {reason}"
    return reason is not None


def _listed(names: list[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
