"""Hugging Face folders read by parts into deferred models: the values of `from_pretrained`, and no more bytes than needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deferred_shards
import phased
import pytest
import tiny_deferred as blocks
import torch
from tiny_hf import bert, gguf_llama, llama, ragged, transformers

from trustformers_pl import ModulePhases
from trustformers_pl.deferred import deferred, deferred_record, fill
from trustformers_pl.errors import RecipeError
from trustformers_pl.models import HFCausalLM, HFSequenceClassifier
from trustformers_pl.testing import Ranks

if TYPE_CHECKING:
    from collections.abc import Callable

pytest.importorskip("transformers")


def built(make: Callable[[], Any]) -> tuple[Any, Any]:
    """The model whose weights `from_pretrained` has read, and the deferred one, not filled yet."""
    torch.manual_seed(2)
    ordinary, after = make(), torch.get_rng_state()
    ordinary.read_weights()
    torch.manual_seed(2)
    with deferred():
        module = make()
    assert torch.equal(torch.get_rng_state(), after)
    assert all(parameter.is_meta for parameter in module.parameters())
    return ordinary, module


def check(make: Callable[[], Any]) -> Any:
    ordinary, module = built(make)
    fill(module)
    assert blocks.differing(blocks.named(module), blocks.named(ordinary)) == []
    assert deferred_record(module) is None
    return module


def tensor_bytes(folder: str) -> int:
    """The file without its header."""
    content = Path(folder, "model.safetensors").read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_under_their_own_names(dtype: Any) -> None:
    llama()
    module = check(lambda: HFCausalLM(path="llama", dtype=dtype))
    assert module.files.bytes_read == tensor_bytes("llama")


def test_tied_weights() -> None:
    llama(tie_word_embeddings=True)
    module = check(lambda: HFCausalLM(path="llama"))
    assert module.model.lm_head.weight is module.model.model.embed_tokens.weight
    assert module.files.bytes_read == tensor_bytes("llama")


def test_several_files() -> None:
    llama()
    whole = transformers().AutoModelForCausalLM.from_pretrained("llama")
    whole.save_pretrained("pieces", max_shard_size="20KB")
    assert len(set(json.loads(Path("pieces/model.safetensors.index.json").read_text())["weight_map"].values())) > 1
    check(lambda: HFCausalLM(path="pieces"))


def test_a_classifier_that_has_its_head() -> None:
    bert()
    check(lambda: HFSequenceClassifier(path="bert", num_labels=3))


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_new_head_is_drawn_as_ever(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    bert("encoder", head=False)
    llama("decoder")
    caplog.set_level("INFO")
    check(lambda: HFSequenceClassifier(path=kind, num_labels=3))
    told = [record.message for record in caplog.records if "so they start anew" in record.message]
    assert len(told) == 2
    assert told[0] == told[1]


def test_old_names_are_read_as_transformers_does() -> None:
    from safetensors.torch import load_file, save_file

    bert()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma"): t
        for name, t in load_file("bert/model.safetensors").items()
    }
    assert any(name.endswith("gamma") for name in old)
    save_file(old, "bert/model.safetensors", {"format": "pt"})
    module = check(lambda: HFSequenceClassifier(path="bert", num_labels=3))
    assert module.files is not None


@pytest.mark.parametrize("kind", ["gguf", "bin", "experts"])
def test_what_cannot_be_read_by_parts_is_read_whole(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    path, said = "model", "there is neither model.safetensors nor"
    if kind == "gguf":
        pytest.importorskip("gguf")
        path, said = "model.gguf", "it is a GGUF file"
        gguf_llama(path)
    elif kind == "experts":
        said = "must be converted"
        hf = transformers()
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        hf.MixtralForCausalLM(hf.MixtralConfig(vocab_size=64, num_local_experts=2, **sizes)).save_pretrained(path)
    else:
        llama(path)
        torch.save(transformers().AutoModelForCausalLM.from_pretrained(path).state_dict(), f"{path}/pytorch_model.bin")
        Path(path, "model.safetensors").unlink()
    module = check(lambda: HFCausalLM(path=path))
    assert module.files is None
    (told,) = [record.message for record in caplog.records if "each process reads all" in record.message]
    assert said in told


@pytest.mark.parametrize("kind", ["causal", "classifier"])
def test_ranks_read_what_they_hold(kind: str) -> None:
    folder = bert(head=False) if kind == "classifier" else llama()
    for wrong, read, held in Ranks().run(2, deferred_shards.slices_of, str(Path(folder).resolve()), kind):
        assert wrong == []
        head = 2 * 16 * 4 + 2 * 4 if kind == "classifier" else 0  # of 3 classes on 2 ranks: drawn, not read
        assert held - head <= read <= held
        assert read < 0.6 * tensor_bytes(folder)


def test_a_forward_pass_fills_what_was_not_filled() -> None:
    llama()
    ordinary, module = built(lambda: HFCausalLM(path="llama"))
    assert torch.equal(module(ragged(256)), ordinary(ragged(256)))
    _, other = built(lambda: HFCausalLM(path="llama"))
    other.save_pretrained("saved")
    assert tensor_bytes("saved") == tensor_bytes("llama")


def test_layers_that_were_wrapped_and_weights_that_were_changed() -> None:
    llama()
    ordinary, module = built(lambda: HFCausalLM(path="llama"))
    for model in (ordinary, module):
        phases = ModulePhases({"surgery": [phased.adapt, phased.Scale(2.0)]})
        phases.run(model, None)
    fill(module)
    assert blocks.differing(blocks.named(module), blocks.named(ordinary)) == []
    assert module.files.bytes_read == tensor_bytes("llama")


def larger_vocabulary(module: Any, context: Any) -> None:
    """New rows beside the pretrained ones, as for added tokens, and a layer that begins as a copy of another."""
    old = module.model.model.embed_tokens
    new = torch.nn.Embedding(300, old.embedding_dim)
    with torch.no_grad():
        new.weight[:256] = old.weight
        module.copied = torch.nn.Linear(16, 16, bias=False)
        module.copied.weight.copy_(module.model.model.layers[0].self_attn.q_proj.weight * 2)
    module.model.model.embed_tokens = new


def test_new_weights_that_are_made_of_pretrained_ones() -> None:
    llama()
    ordinary, module = built(lambda: HFCausalLM(path="llama"))
    for model in (ordinary, module):
        ModulePhases({"surgery": [larger_vocabulary]}).run(model, None)
    fill(module)
    assert blocks.differing(blocks.named(module), blocks.named(ordinary)) == []
    query = module.model.model.layers[0].self_attn.q_proj.weight
    assert torch.equal(module.copied.weight, 2 * query)


def test_a_checkpoint_brings_the_weights_and_nothing_is_read() -> None:
    llama()
    ordinary, module = built(lambda: HFCausalLM(path="llama"))
    Path("llama/model.safetensors").unlink()
    fill(module, checkpoint_follows=True)
    module.load_state_dict(ordinary.state_dict())
    assert blocks.differing(blocks.named(module), blocks.named(ordinary)) == []


def test_lost_weights_are_named() -> None:
    llama()
    _, module = built(lambda: HFCausalLM(path="llama"))
    Path("llama/model.safetensors").unlink()
    with pytest.raises(RecipeError, match="llama: AutoModelForCausalLM cannot read it"):
        fill(module)
