"""The diagonal Fisher information against a loop over samples with autograd, and against its definition."""

from __future__ import annotations

import copy
import logging
from collections import UserDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from per_sample_cases import (
    MAKERS,
    Case,
    Classes,
    Pooled,
    gpt,
    images,
    mlp,
    named_padding,
    odd,
    sequence,
    shared,
    tokens,
    vectors,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trustformers_pl.continual.fisher import diagonal_fisher
from trustformers_pl.continual.likelihood import cross_entropies, empirical, expected, sampled
from trustformers_pl.continual.per_sample import PerSample

Losses = Callable[[Any, Any], Tensor]
of_labels = empirical(lambda batch: batch["labels"])


pytestmark = pytest.mark.usefixtures("double")


def one_by_one(module: nn.Module, batch: Any, losses: Losses, measure: Any = torch.square) -> dict[str, Tensor]:
    """Batches of one sample, and autograd for each loss."""
    module = copy.deepcopy(module).eval()
    totals = {name: torch.zeros_like(p) for name, p in module.named_parameters() if p.requires_grad}
    for sample in range(len(batch["labels"])):
        one = {key: value[sample : sample + 1] for key, value in batch.items()}
        for loss in losses(module(one), one).flatten():
            found = torch.autograd.grad(loss, [*_trainable(module)], retain_graph=True, allow_unused=True)
            for name, gradient in zip(totals, found, strict=True):
                totals[name] += 0 if gradient is None else measure(gradient)
    return totals


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    assert found.keys() == wanted.keys()
    for name, total in found.items():
        assert (total - wanted[name]).abs().max() <= tolerance * wanted[name].abs().max() + 1e-28, name


@pytest.mark.parametrize("limit", [1, 2**25])
@pytest.mark.parametrize("make", MAKERS)
def test_equals_a_loop_over_samples(make: Callable[[], Case], limit: int) -> None:
    module, batch = make()
    wanted = one_by_one(module, batch, of_labels)
    found, samples = diagonal_fisher(module, [batch, batch], of_labels, limit=limit)
    assert samples == 2 * len(batch["labels"])
    assert_equal(found, {name: 2 * total for name, total in wanted.items()})


@pytest.mark.parametrize("make", [mlp, sequence, images, gpt])
def test_absolute_values_too(make: Callable[[], Case]) -> None:
    module, batch = make()
    found = PerSample(module, of_labels, torch.abs)
    found.add(batch)
    assert_equal(found.totals, one_by_one(module, batch, of_labels, torch.abs))


@pytest.mark.parametrize("make", [make for make in MAKERS if make.__name__ != "recurrent"])
def test_only_what_no_rule_covers_is_computed_one_by_one(make: Callable[[], Case]) -> None:
    module, batch = make()
    found = PerSample(module, of_labels, torch.square)
    found.add(batch)
    slow = {"body.0.weight", "body.0.bias"} if make.__name__ == "named_padding" else set()
    assert found.slow == slow


def test_what_has_no_rule_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    module, batch = named_padding()
    with caplog.at_level(logging.INFO):
        diagonal_fisher(module, [batch, batch], of_labels)
    reason = "its per-sample gradients are computed one by one: an operation without a rule uses it"
    assert [record.message for record in caplog.records] == [f"body.0.{name}: {reason}" for name in ("bias", "weight")]


class Adapted(nn.Module):
    """LoRA and weight normalisation: what meets the data is computed of several parameters, one with a dimension of B."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(5, 4).requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(2, 5)), nn.Parameter(torch.randn(4, 2))
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.normed(nn.functional.linear(x, self.frozen.weight + self.b @ self.a).tanh())


@pytest.mark.parametrize("shape", [(4, 5), (6, 3, 5)])
def test_matrices_that_are_computed_of_parameters(shape: tuple[int, ...]) -> None:
    module = Classes(Adapted(), *[Pooled()] * (len(shape) - 2), nn.Linear(4, 3))
    batch = vectors(*shape)
    found = PerSample(module, of_labels, torch.square)
    found.add(batch)
    assert_equal(found.totals, one_by_one(module, batch, of_labels), 1e-10)
    assert found.slow == set()


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2)).double()


def bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 16, "max_position_embeddings": 8}
    return BertForMaskedLM(BertConfig(num_hidden_layers=2, num_attention_heads=2, **sizes)).double()


@pytest.mark.parametrize("make", [gpt2, bert])
def test_hugging_face_models(make: Callable[[], nn.Module]) -> None:
    """Flattened rows, tied embeddings, tables of positions without a batch, fused heads: all by rules."""
    module = make()
    batch = tokens(3, 6, vocabulary=11)

    def forward(one: Any) -> Tensor:
        return module(input_ids=one["input_ids"]).logits  # type: ignore[no-any-return]

    found = PerSample(module, of_labels, torch.square, forward=forward)
    found.add(batch)
    assert found.slow == set()
    module.eval()
    for name, parameter in module.named_parameters():
        wanted = torch.zeros_like(parameter)
        for n in range(3):
            one = {key: value[n : n + 1] for key, value in batch.items()}
            (gradient,) = torch.autograd.grad(of_labels(forward(one), one).sum(), parameter, allow_unused=True)
            wanted += 0 if gradient is None else gradient.square()
        torch.testing.assert_close(found.totals[name], wanted, rtol=1e-9, atol=1e-16)


class Centred(nn.Module):
    """Takes the batch's mean away, so that samples influence each other."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_samples_that_influence_each_other() -> None:
    """The gradient of each sample's loss, through the whole batch; the layer behind the mean keeps its rule."""
    module, batch = Classes(nn.Linear(5, 4), Centred(), nn.Linear(4, 3)), vectors(4, 5)
    found = PerSample(module, of_labels, torch.square)
    found.add(batch)
    for name, parameter in module.named_parameters():
        grads = [torch.autograd.grad(one, parameter, retain_graph=True)[0] for one in of_labels(module(batch), batch)]
        torch.testing.assert_close(found.totals[name], sum(g.square() for g in grads), rtol=1e-10, atol=1e-20)
    assert found.slow == {"body.0.weight", "body.0.bias"}


class Hidden(torch.autograd.Function):
    """A product that no `TorchFunctionMode` sees."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return gradients[0] @ weight.T, x.T @ gradients[0]


class UsesHidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        return Hidden.apply(x, self.weight)  # type: ignore[no-any-return]


def test_a_use_that_is_not_seen_is_found_out() -> None:
    module, batch = Classes(UsesHidden(), nn.Linear(5, 3)), vectors(4, 5)
    found, _ = diagonal_fisher(module, [batch], of_labels)
    assert_equal(found, one_by_one(module, batch, of_labels))


class ChangesItsInput(nn.Module):
    """The table of a look-up takes no copy of the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.shift = nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        y = x + self.shift
        x *= 2
        return (x + y) * self.scale


def test_inputs_that_change_in_place() -> None:
    module, batch = Classes(ChangesItsInput(), nn.Linear(5, 3)), vectors(4, 5)
    found, _ = diagonal_fisher(module, [batch], of_labels)
    assert_equal(found, one_by_one(module, batch, of_labels))


def test_the_first_tensor_of_a_batch_need_not_have_a_row_a_sample() -> None:
    """What met no sample is told by their number, which is that of the losses."""
    module, batch = odd()
    found = PerSample(module, of_labels, torch.square)
    found.add(UserDict({"about": torch.zeros(5, 3)} | batch))
    assert found.slow == set()
    assert_equal(found.totals, one_by_one(module, batch, of_labels))


class Checkpointed(nn.Module):
    """Computes its activations again in the backward pass."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)  # type: ignore[no-any-return]


@pytest.mark.parametrize("losses", [of_labels, expected])
def test_activation_checkpointing_changes_nothing(losses: Losses) -> None:
    module, batch = sequence()
    wanted, _ = diagonal_fisher(module, [batch], losses)
    module.body = nn.Sequential(Checkpointed(module.body[:3]), *module.body[3:])
    found = PerSample(module, losses, torch.square)
    found.add(batch)
    assert found.slow == set()
    for one, other in zip(found.totals.values(), wanted.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=0)


def test_another_shape_may_have_another_layout() -> None:
    """With T = B time-first activations look like batch-first ones: what another batch verified does not hold here."""
    torch.manual_seed(1)
    layer = nn.RNNCell(3, 3)  # only for its weights

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)
            self.inner.load_state_dict({"weight": layer.weight_ih.detach(), "bias": layer.bias_ih.detach()})

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.transpose(0, 1)).tanh().transpose(0, 1)

    module = Classes(Turned(), Pooled())
    batches = [vectors(4, 5, 3), vectors(4, 4, 3), vectors(5, 4, 3), vectors(1, 4, 3)]
    found, samples = diagonal_fisher(module, batches, of_labels)
    each = [one_by_one(module, batch, of_labels) for batch in batches]
    assert samples == 14
    assert_equal(found, {name: sum(one[name] for one in each) for name in found})


def test_frozen_parameters_are_left_out_and_modes_kept() -> None:
    module, batch = sequence()
    module.body[0].weight.requires_grad_(False)
    module.body[1].eval()
    found, _ = diagonal_fisher(module, [batch], of_labels)
    assert_equal(found, one_by_one(module, batch, of_labels))
    assert "body.0.weight" not in found
    assert module.training
    assert not module.body[1].training
    assert all(parameter.grad is None for parameter in module.parameters())


def test_under_autocast_sums_are_float32_and_near_those_of_float32() -> None:
    """bfloat16 keeps 8 bits, a gradient passes some ten roundings: 10 % of the largest entry of a square."""
    torch.set_default_dtype(torch.float32)
    module, batch = sequence()
    wanted = one_by_one(module, batch, of_labels)
    found = PerSample(module, of_labels, torch.square)
    with torch.autocast("cpu", torch.bfloat16):
        found.add(batch)
    assert not found.slow
    assert {total.dtype for total in found.totals.values()} == {torch.float32}
    assert_equal(found.totals, wanted, 0.1)


def test_half_precision_parameters_are_added_in_float32() -> None:
    module, batch = mlp()
    half = copy.deepcopy(module).bfloat16()
    found, _ = diagonal_fisher(half, [batch | {"x": batch["x"].bfloat16()}], of_labels)
    assert {total.dtype for total in found.values()} == {torch.float32}
    assert_equal({k: v.double() for k, v in found.items()}, one_by_one(half.double(), batch, of_labels), 0.1)


@pytest.mark.parametrize("make", [images, mlp, shared])
def test_the_exact_expectation_is_the_sum_over_labels(make: Callable[[], Case]) -> None:
    """E_c[(grad log p(c|x))^2], written out: one gradient for each sample and class, times its probability."""
    module, batch = make()
    found, _ = diagonal_fisher(module, [batch], expected)
    module.eval()
    for name, parameter in module.named_parameters():
        wanted = torch.zeros_like(parameter)
        for row in module(batch).log_softmax(-1):
            for one in row:
                wanted += one.exp().detach() * torch.autograd.grad(one, parameter, retain_graph=True)[0].square()
        torch.testing.assert_close(found[name], wanted, rtol=1e-11, atol=1e-25)


def test_drawn_labels_estimate_the_exact_expectation() -> None:
    """4,000 draws for each of 6 samples: 5 % of the trace is some four standard errors."""
    module, batch = mlp()
    losses = sampled(torch.Generator().manual_seed(0))
    many = {key: value.repeat_interleave(4000, 0) for key, value in batch.items()}
    exact, _ = diagonal_fisher(module, [batch], expected)
    drawn, _ = diagonal_fisher(module, [many], losses)
    for name, total in exact.items():
        torch.testing.assert_close(drawn[name].sum() / 4000, total.sum(), rtol=0.05, atol=0)


def test_drawn_labels_follow_from_the_generator_and_leave_ignored_positions_out() -> None:
    module, batch = gpt()
    runs = [
        diagonal_fisher(module, [batch], sampled(torch.Generator().manual_seed(3), lambda one: one["labels"]))[0]
        for _ in range(2)
    ]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    batch["labels"][:] = -100
    nothing, _ = diagonal_fisher(module, [batch], sampled(torch.Generator(), lambda one: one["labels"]))
    assert all(not total.any() for total in nothing.values())


def test_sequences_have_no_exact_expectation() -> None:
    with pytest.raises(ValueError, match="draw labels instead"):
        expected(torch.zeros(2, 3, 4), None)


def test_losses_must_be_one_a_sample() -> None:
    module, batch = mlp()
    with pytest.raises(ValueError, match="must be"):
        diagonal_fisher(module, [batch], lambda outputs, one: of_labels(outputs, one).sum())


def test_cross_entropies_are_sums_over_positions() -> None:
    logits, labels = torch.randn(3, 4, 5), torch.randint(0, 5, (3, 4))
    labels[0, 1] = labels[2] = -100
    logp = logits.log_softmax(-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(cross_entropies(logits, labels), -(logp * (labels >= 0)).sum(1))
