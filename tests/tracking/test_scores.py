"""Scores against scikit-learn, against e to the loss, and against BLEU and ROUGE counted by hand."""

from __future__ import annotations

import ast
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from score_job import Points
from sklearn import metrics as sklearn
from torch import Tensor

from trustformers_pl.errors import DataError, RecipeError, RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.testing.on_ranks import train_and_die, train_on_rank
from trustformers_pl.testing.ranks import Ranks
from trustformers_pl.testing.subject import Subject
from trustformers_pl.tracking import Scores

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FOUR = {"accuracy": {}, "f1": {"average": "macro"}, "recall": {"average": "weighted"}, "matthews": {}}


def sections(model: str = "Classifier", data: str = "PointData", devices: int = 1, **scores: Any) -> dict[str, Any]:
    return {
        "model": {"class_path": f"score_job.{model}"},
        "data": {"class_path": f"score_job.{data}"},
        "trainer": {"max_steps": 4, "val_check_interval": 2, "check_val_every_n_epoch": None, "accelerator": "cpu", "devices": devices, "log_every_n_steps": 1},
        "optimizer": {"name": "sgd", "lr": 0.0},
        "csv": {},
        "scores": {"metrics": FOUR, **scores},
        **({"ddp": {}} if devices > 1 else {}),
    }  # fmt: skip


def expected(labels: Tensor, found: Tensor) -> dict[str, float]:
    return {
        "accuracy": sklearn.accuracy_score(labels, found),
        "f1": sklearn.f1_score(labels, found, average="macro"),
        "recall": sklearn.recall_score(labels, found, average="weighted"),
        "matthews": sklearn.matthews_corrcoef(labels, found),
    }


def logged(trial: Any, name: str) -> list[float]:
    return [float(value) for value in ast.literal_eval(trial.logged[f"logged.{name}"]) if value]


def test_they_are_scikit_learns_in_validation_and_test(tmp_path: Path) -> None:
    run = assemble({**sections(), "checkpoint": {}, "optimizer": {"name": "sgd", "lr": 0.1}})
    run.fit()
    for stage, points in (("val", Points(9, 1)), ("test", Points(7, 2))):
        values = run.validate() if stage == "val" else run.test()
        with torch.no_grad():
            found = run.module({"x": points.x}).argmax(-1)
        for name, value in expected(points.labels, found).items():
            assert values[f"{stage}_{name}"] == pytest.approx(value, abs=1e-6), (stage, name)


@pytest.mark.parametrize("count", [9, 11])
def test_over_ranks_each_sample_counts_once(tmp_path: Path, count: int) -> None:
    """Batches of two: on two ranks the last batch has one sample for both, or three for them to share unevenly."""

    def trained(ranks: int) -> Any:
        asked = sections(devices=ranks)
        asked["data"]["init_args"] = {"val_count": count}
        return Ranks().run(ranks, train_on_rank, asked, str(tmp_path / str(ranks)))[0]

    one = trained(1)
    for ranks in (2, 4):
        more = trained(ranks)
        for name in (*FOUR, "loss"):
            assert logged(more, f"val_{name}") == pytest.approx(logged(one, f"val_{name}"), rel=1e-6), (ranks, name)


def test_perplexity_is_e_to_the_loss_and_ignores_what_is_not_predicted() -> None:
    run = assemble(Subject("scores", {"metrics": {"token_perplexity": {"metric": "perplexity"}, "accuracy": {}}}).on())
    run.fit()
    values = {name: float(value) for name, value in run.trainer.callback_metrics.items()}
    assert values["val_token_perplexity"] == pytest.approx(math.exp(values["val_loss"]), rel=1e-5)
    assert 0 <= values["val_accuracy"] <= 1


def references(path: Path, *rows: tuple[str, Any]) -> str:
    lines = [json.dumps({"prompt": prompt, "reference": reference}) for prompt, reference in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_bleu_and_rouge_are_those_counted_by_hand(tmp_path: Path) -> None:
    """The model says `the cat is on the mat` each time.

    BLEU (Papineni et al. 2002, section 2.3), two grams, of the corpus: against `the cat sat on the mat` 5 of 6 words and
    3 of 5 pairs are right (is: no; cat is, is on: no); against `a cat is here` 2 of 6 and 1 of 5. Together 7/12 and
    4/10; it says 12 words, the references have 6 + 4: no brevity penalty. sqrt(7/12 * 4/10) = 0.48305.

    ROUGE-L (Lin 2004, section 3): longest common subsequences of 5 (P = R = 5/6) and of 2 (P = 2/6, R = 2/4); F is
    5/6 and 0.4, the mean 0.61667. ROUGE-1: 5 of 6; and 2 of 6 and of 4: the same here.
    """
    file = references(tmp_path / "refs.jsonl", ("a", "the cat sat on the mat"), ("b", "a cat is here"))
    asked = sections("Parrot", "Readable", metrics={"bleu": {"n_gram": 2}, "rouge": {}}, references=file)
    run = assemble(asked)
    run.fit()
    values = {name: float(value) for name, value in run.trainer.callback_metrics.items()}
    assert values["val_bleu"] == pytest.approx(math.sqrt(7 / 12 * 4 / 10), abs=1e-5)
    assert values["val_rougeL"] == pytest.approx((5 / 6 + 0.4) / 2, abs=1e-5)
    assert values["val_rouge1"] == pytest.approx((5 / 6 + 0.4) / 2, abs=1e-5)


def test_texts_are_shared_out_among_ranks_and_compared_whole(tmp_path: Path) -> None:
    rows = [("a", "the cat sat on the mat"), ("b", ["a cat is here", "the cat is on a mat"]), ("", "the mat")]
    more = {"metrics": {"bleu": {}, "chrf": {}, "rouge": {}}, "references": references(tmp_path / "r.jsonl", *rows)}
    one = Ranks().run(1, train_on_rank, sections("Parrot", "Readable", **more), str(tmp_path / "1"))[0]
    two = Ranks().run(2, train_on_rank, sections("Parrot", "Readable", 2, **more), str(tmp_path / "2"))[0]
    for name in ("val_bleu", "val_chrf", "val_rouge1", "val_rouge2", "val_rougeL"):
        assert logged(one, name) == logged(two, name)
        assert 0 < logged(one, name)[0] < 1


def test_a_run_killed_in_a_validation_resumes_with_the_same_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {
        **sections("DiesInValidation"),
        "checkpoint": {"every_n_steps": 1},
        "optimizer": {"name": "sgd", "lr": 0.1},
    }
    Ranks().run_until_killed(1, train_and_die, asked, str(tmp_path / "killed"), 100)
    monkeypatch.setenv("SPARED", "1")
    resumed = Ranks().run(1, train_on_rank, asked, str(tmp_path / "killed"))[0]
    whole = Ranks().run(1, train_on_rank, asked, str(tmp_path / "whole"))[0]
    assert resumed.logged == whole.logged
    assert len(logged(resumed, "val_f1")) == 2


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"acuracy": {}}, "metrics.acuracy: no score 'acuracy'; did you mean 'accuracy'"),
        ({"best": {"metric": "accurate"}}, "metrics.best: no score 'accurate'; did you mean 'accuracy'"),
        ({"bleu": {}}, "metrics.bleu compares texts; give a file of prompts in `references`"),
        ({}, "metrics must name a score"),
    ],
)
def test_scores_that_do_not_exist_are_refused(metrics: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        assemble(sections(metrics=metrics))


@pytest.mark.parametrize(
    ("model", "metrics", "message"),
    [
        ("Classifier", {"f1": {"avg": "macro"}}, r"scores\.metrics\.f1: torchmetrics refuses this: .*avg"),
        ("Classifier", {"f1": {"average": "mean"}}, r"scores\.metrics\.f1: torchmetrics refuses this: .*average"),
        ("Classifier", {"loss": {"metric": "accuracy"}}, r"scores\.metrics\.loss: this run logs val_loss already"),
    ],
)
def test_what_cannot_be_computed_is_refused_before_the_first_step(model: str, metrics: Any, message: str) -> None:
    run = assemble(sections(model, metrics=metrics))
    with pytest.raises(RefusedError, match=message):
        run.fit()
    assert run.trainer.global_step == 0


def test_outputs_that_are_no_logits_are_refused(write: Callable[..., str]) -> None:
    run = assemble(write(more="scores: {metrics: {accuracy: {}}}\n"))
    with pytest.raises(RefusedError, match=r"accuracy needs logits \(\.\.\., C\) .* found \(4, 1\) and nothing"):
        run.fit()


def test_what_needs_another_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchmetrics.text.rouge._NLTK_AVAILABLE", False)
    file = references(tmp_path / "refs.jsonl", ("a", "b"))
    run = assemble(sections("Parrot", "Readable", metrics={"rouge": {"use_stemmer": True}}, references=file))
    with pytest.raises(RefusedError, match=r"scores\.metrics\.rouge: .*nltk.* pip install 'trustformers-pl\[scores\]'"):
        run.fit()


@pytest.mark.parametrize(
    "line", ["[]", '{"prompt": "a"}', '{"prompt": 1, "reference": "b"}', '{"prompt": "a", "reference": []}']
)
def test_a_bad_reference_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "refs.jsonl"
    file.write_text('{"prompt": "a", "reference": "b"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"refs\.jsonl:2: expected"):
        Scores({"bleu": {}}, references=file)


def test_in_a_stock_trainer(make_trainer: Any) -> None:
    from score_job import Classifier, PointData

    class Optimized(Classifier):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer, module = make_trainer(callbacks=[Scores({"f1": {}})], max_steps=4), Optimized()
    trainer.fit(module, datamodule=PointData())
    (values,) = trainer.validate(module, datamodule=PointData(), verbose=False)
    points = Points(9, 1)
    with torch.no_grad():
        found = module({"x": points.x}).argmax(-1)
    assert values["val_f1"] == pytest.approx(sklearn.f1_score(points.labels, found, average="macro"), abs=1e-6)
    assert not module._forward_hooks
