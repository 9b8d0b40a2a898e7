"""Deferred values against ordinary construction by torch and transformers with the same seed: the same bits."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import tiny_deferred as blocks
import torch
from torch import nn

from trustformers_pl.deferred import CannotRecordError, deferred, deferred_record, fill, note_values
from trustformers_pl.errors import RefusedError
from trustformers_pl.models import GPT, EncoderClassifier

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def initialised(initialise: Callable[[torch.Tensor], Any]) -> Callable[[], nn.Module]:
    return lambda: blocks.Initialised(initialise)


def holding(make: Callable[[], torch.Tensor]) -> Callable[[], nn.Module]:
    return lambda: blocks.Holding(make)


def convolution() -> nn.Module:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose1d(4, 2, 2), nn.PReLU())
    nn.init.dirac_(layers[0].weight)
    return layers


MODULES: dict[str, Callable[[], nn.Module]] = {
    "gpt": lambda: GPT(vocab_size=31, d_model=16, n_layers=2, n_heads=2, context_length=8),
    "encoder": lambda: EncoderClassifier(
        n_classes=3, d_model=16, n_layers=1, n_heads=2, context_length=8, pooling="cls", positions="learned"
    ),
    "transformer": lambda: nn.Transformer(16, 2, 2, 2, 32, batch_first=True),
    "lstm": lambda: nn.LSTM(4, 5, 2, bidirectional=True),
    "attention": lambda: nn.MultiheadAttention(8, 2, kdim=6, add_bias_kv=True),
    "convolution": convolution,
    "tied": blocks.Tied,
    "buffers": blocks.Buffers,
    "slices": blocks.Slices,
    "converted": blocks.Converted,
    "own generator": blocks.GeneratorOfItsOwn,
    "orthogonal": initialised(nn.init.orthogonal_),
    "orthogonal, wide": initialised(lambda weight: nn.init.orthogonal_(weight.view(24, 160))),
    "trunc_normal": initialised(lambda weight: nn.init.trunc_normal_(weight, std=0.02)),
    "trunc_normal, far": initialised(lambda weight: nn.init.trunc_normal_(weight, a=1.5, b=4.0)),
    "kaiming": initialised(nn.init.kaiming_normal_),
    "xavier": initialised(nn.init.xavier_uniform_),
    "sparse": initialised(lambda weight: nn.init.sparse_(weight, 0.3)),
    "eye": initialised(nn.init.eye_),
    "bernoulli": holding(lambda: torch.bernoulli(torch.rand(40))),
    "permuted": holding(lambda: torch.randn(9)[torch.randperm(9)]),
    "chosen": holding(lambda: (lambda drawn: drawn[drawn > 0.5])(torch.rand(20))),
    "multinomial": holding(lambda: torch.multinomial(torch.rand(7), 3).float()),
    "dropped": holding(lambda: nn.functional.dropout(torch.ones(20))),
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)),
    "spectral_norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)),
    "parametrised": lambda: nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)),
}


def built(make: Callable[[], Any], seed: int = 1) -> tuple[Any, Any]:
    """The module as torch builds it, and the deferred one, not filled yet; the generator as torch leaves it."""
    torch.manual_seed(seed)
    ordinary, after = make(), torch.get_rng_state()
    torch.manual_seed(seed)
    with deferred():
        module = make()
    assert torch.equal(torch.get_rng_state(), after)
    assert all(tensor.is_meta for tensor in blocks.named(module).values())
    return ordinary, module


def check(make: Callable[[], Any]) -> None:
    ordinary, module = built(make)
    generator = torch.get_rng_state()
    assert deferred_record(module) is not None
    fill(module)
    assert blocks.differing(blocks.named(module), blocks.named(ordinary)) == []
    assert torch.equal(torch.get_rng_state(), generator)
    assert deferred_record(module) is None
    assert fill(module) == 0


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore:mean is more than 2 std", "ignore:enable_nested_tensor")
def test_filled_is_as_ordinary(name: str) -> None:
    check(MODULES[name])


@pytest.mark.parametrize(
    ("auto", "config"),
    [
        ("AutoModelForCausalLM", "Llama"),
        ("AutoModelForCausalLM", "Mixtral"),
        ("AutoModelForSequenceClassification", "Bert"),
        ("AutoModelForCausalLM", "GPT2"),
        ("AutoModel", "ViT"),
        ("AutoModel", "T5"),
    ],
)
def test_transformers_models_from_their_configuration(auto: str, config: str) -> None:
    hf = pytest.importorskip("transformers")
    sizes: dict[str, Any] = SMALL
    if config == "GPT2":
        sizes = {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
    elif config == "T5":
        sizes = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    check(lambda: getattr(hf, auto).from_config(getattr(hf, f"{config}Config")(**sizes)))


def test_what_is_not_registered_has_its_value_at_once() -> None:
    ordinary, module = built(blocks.Buffers)
    assert (module.rates, module.drawn) == (ordinary.rates, ordinary.drawn)
    assert torch.equal(module.plain, ordinary.plain)
    assert torch.equal(module.listed[0], ordinary.listed[0])
    assert torch.equal(module.listed[1]["deep"], ordinary.listed[1]["deep"])


def test_what_shared_memory_shares_it() -> None:
    _, module = built(blocks.Tied)
    fill(module)
    assert module.head.weight is module.embedding.weight
    _, module = built(blocks.Buffers)
    fill(module)
    module.constant[1] = 7
    assert module.view[0] == 7


def test_parameters_stay_the_objects_that_they_are() -> None:
    _, module = built(lambda: nn.Linear(3, 4))
    before = list(module.parameters())
    before[0].mine = "kept"  # type: ignore[attr-defined]
    fill(module)
    assert all(one is other for one, other in zip(before, module.parameters(), strict=True))
    assert (module.weight.mine, module.weight.requires_grad, module.weight.is_leaf) == ("kept", True, True)


@pytest.mark.parametrize("name", ["gpt", "tied", "buffers", "lstm", "converted"])
def test_memory_that_is_there_is_written_to(name: str) -> None:
    ordinary, module = built(MODULES[name])
    note_values(module)
    module.to_empty(device="cpu")
    fill(module)
    assert blocks.differing(blocks.named(module), blocks.named(ordinary)) == []
    if name == "tied":  # to_empty makes two of one
        assert module.head.weight is module.embedding.weight


def test_a_conversion_after_the_block_converts_the_value() -> None:
    ordinary, module = built(MODULES["gpt"])
    module.half()
    note_values(module)
    fill(module)
    assert blocks.differing(blocks.named(module), blocks.named(ordinary.half())) == []


def test_changes_after_the_block_are_noted() -> None:
    _, module = built(lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    torch.manual_seed(1)
    ordinary = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    inner, new = module[1], nn.Linear(2, 2)
    module[1] = nn.Sequential(inner, new)  # as surgery wraps a layer, with new weights that are there
    note_values(module)
    values = blocks.named(copy.deepcopy(new))
    module.to_empty(device="cpu")
    fill(module)
    assert torch.equal(module[1][0].weight, ordinary[1].weight)
    assert blocks.differing(blocks.named(new), values) == []


def test_a_tensor_that_no_one_knows_is_refused() -> None:
    _, module = built(lambda: nn.Linear(3, 4))
    module.other = nn.Linear(2, 2, device="meta")
    note_values(module)
    with pytest.raises(RefusedError, match=r"Linear: nothing says which values other\.weight, other\.bias should have"):
        fill(module)


def test_another_shape_is_refused() -> None:
    _, module = built(lambda: nn.Linear(3, 4))
    module.weight = nn.Parameter(torch.zeros(4, 5))
    with pytest.raises(RefusedError, match=r"weight: its shape is \(4, 5\) now, and that of its value \(4, 3\)"):
        fill(module)


def test_copies_of_a_deferred_module_have_its_values() -> None:
    ordinary, module = built(MODULES["gpt"])
    other = copy.deepcopy(module)
    fill(module)
    next(module.parameters()).data.zero_()
    fill(other)
    assert blocks.differing(blocks.named(other), blocks.named(ordinary)) == []


def test_a_block_within_a_block_is_the_same_one() -> None:
    def make() -> nn.Module:
        with deferred():
            return nn.Linear(2, 2)

    torch.manual_seed(1)
    ordinary = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    torch.manual_seed(1)
    with deferred():
        module = nn.Sequential(make(), make())
    fill(module)
    assert blocks.differing(blocks.named(module), blocks.named(ordinary)) == []


def test_checkpoints_bring_values_so_that_none_are_made() -> None:
    ordinary, module = built(MODULES["gpt"])
    # The rotation alone is made: it is not in the state_dict. Its largest intermediate is all that takes memory.
    assert fill(module, checkpoint_follows=True) < 5 * module.get_buffer("rotation").nbytes
    module.load_state_dict(ordinary.state_dict())
    assert blocks.differing(blocks.named(module), blocks.named(ordinary)) == []


def test_tensors_can_be_told_apart_by_their_addresses() -> None:
    with deferred():
        first, second = torch.rand(4), torch.rand(4)
        assert first.data_ptr() == first[:2].view(2, 1).data_ptr()
        assert first[1:].data_ptr() - first.data_ptr() == 4
        assert first.data_ptr() != second.data_ptr()
        assert first[:0].data_ptr() == 0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.Linear(2, 2).weight.detach().numpy(), r"it takes the values of weights out of torch \(numpy\)"),
        (lambda: torch.zeros(2).copy_(torch.ones(2)).resize_(5), "changes the size of a tensor in place"),
    ],
)
def test_what_cannot_be_recorded_is_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(CannotRecordError, match=said), deferred():
        make()
    assert not torch.zeros(1).is_meta
