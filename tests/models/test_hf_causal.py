"""HFCausalLM against transformers' own model, loss and generation, from folders that transformers has saved."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny_hf import gguf_llama, llama, ragged, transformers

from trustformers_pl.data import ByteTokenizer
from trustformers_pl.errors import RecipeError, RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.models import HFCausalLM
from trustformers_pl.models.hf_causal import next_tokens, positions_in

if TYPE_CHECKING:
    from collections.abc import Callable

pytest.importorskip("transformers")
torch.set_num_threads(1)


def stock(folder: str) -> Any:
    return transformers().AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture
def model() -> HFCausalLM:
    return HFCausalLM(path=llama()).double().eval()


def test_the_loss_is_transformers_own(model: HFCausalLM) -> None:
    batch = ragged(256)
    labels = batch["input_ids"].masked_fill(~batch["attention_mask"], -100)
    theirs = stock("llama").double().eval()
    # Source: transformers' mean over the valid labels, which it shifts by itself.
    expected = theirs(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"].long(), labels=labels).loss
    loss_sum, count = model.loss(model(batch), batch)
    torch.testing.assert_close((loss_sum / count).float(), expected, rtol=0, atol=1e-6)  # theirs is in float32
    assert int(count) == int(model.loss_count(batch)) == 4 + 11 + 1 + 6
    # The same with labels that are given, aligned: decision 0005.
    aligned = {**batch, "labels": torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)}
    torch.testing.assert_close(model.loss(model(aligned), aligned)[0], loss_sum, rtol=0, atol=1e-12)


def test_padding_changes_nothing(model: HFCausalLM) -> None:
    batch = ragged(256)
    together = model(batch)
    other = {**batch, "input_ids": batch["input_ids"].where(batch["attention_mask"], torch.tensor(9))}
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        # Source: the sequence alone, in float64.
        alone = model({"input_ids": batch["input_ids"][row : row + 1, :length]})
        torch.testing.assert_close(together[row : row + 1, :length], alone, rtol=0, atol=1e-10)
        torch.testing.assert_close(model(other)[row : row + 1, :length], alone, rtol=0, atol=1e-10)
    assert torch.equal(model.labels(batch), model.labels(other))


def gradients(model: HFCausalLM, parts: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
    """Of the loss's sum over all parts, divided once by the count of all."""
    model.zero_grad()
    count = sum(model.loss_count(part) for part in parts)
    for part in parts:
        (model.loss(model(part), part)[0] / count).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("sizes", [[1, 3], [2, 2], [1, 1, 2]])
def test_any_split_of_a_batch_gives_the_same_gradient(model: HFCausalLM, sizes: list[int]) -> None:
    batch = ragged(256)
    whole = gradients(model, [batch])
    pieces = zip(*(value.split(sizes) for value in batch.values()), strict=True)
    split = gradients(model, [dict(zip(batch, piece, strict=True)) for piece in pieces])
    for found, expected in zip(split, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_packed_documents_are_as_if_alone(model: HFCausalLM) -> None:
    tokens = torch.randint(4, 200, (1, 12), generator=torch.Generator().manual_seed(2))
    document_ids = torch.tensor([[0] * 5 + [1] * 4 + [2] * 3])
    together = model({"input_ids": tokens, "document_ids": document_ids})
    # Source: each document by itself.
    alone = [model({"input_ids": part}) for part in tokens.split([5, 4, 3], dim=1)]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), rtol=0, atol=1e-10)
    assert not torch.allclose(together, model({"input_ids": tokens}))
    assert positions_in(document_ids).tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2]]


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "GPTNeoX": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
    "Mistral": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 4},
    "OPT": {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "word_embed_proj_dim": 16},
    "Bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_that_look_across_documents_are_refused(name: str) -> None:
    """OPT and BLOOM ignore positions that start again; a leak would make the loss too low and say nothing."""
    hf = transformers()
    torch.manual_seed(0)
    config = getattr(hf, f"{name}Config")(vocab_size=64, bos_token_id=1, eos_token_id=2, **ARCHITECTURES[name])
    theirs = hf.AutoModelForCausalLM.from_config(config)
    for parameter in theirs.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    theirs.save_pretrained("other")
    model = HFCausalLM(path="other").double().eval()
    tokens, document_ids = torch.randint(4, 60, (1, 9)), torch.tensor([[0] * 5 + [1] * 4])
    if name in ("OPT", "Bloom"):
        with pytest.raises(
            RefusedError, match=rf"{name}ForCausalLM looks across documents in a row; use packing: conc"
        ):
            model({"input_ids": tokens, "document_ids": document_ids})
        return
    # Source: each document by itself.
    alone = [model({"input_ids": part}) for part in tokens.split([5, 4], dim=1)]
    together = model({"input_ids": tokens, "document_ids": document_ids})
    torch.testing.assert_close(together, torch.cat(alone, dim=1), rtol=0, atol=1e-10)
    # Source: transformers' own generate.
    theirs.generation_config.eos_token_id = None
    expected = theirs.double().eval().generate(tokens, max_new_tokens=4, do_sample=False)
    assert torch.equal(model.generate(tokens, max_new_tokens=4, temperature=0, stop=False), expected)


def test_labels_are_the_next_tokens_where_both_are_there() -> None:
    tokens, mask = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 8]]), torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    # By hand: nothing is predicted from or at padding, on either side.
    assert next_tokens(tokens, mask).tolist() == [[6, 7, -100, -100], [-100, 7, 8, -100]]
    assert next_tokens(tokens, None).tolist() == [[6, 7, 8, -100]] * 2


def test_greedy_generation_is_transformers_own() -> None:
    model, prompts = HFCausalLM(path=llama()), ragged(256)["input_ids"][:3, :4]
    theirs = stock("llama")
    # Source: transformers' generate.
    expected = theirs.generate(prompts, max_new_tokens=10, do_sample=False, pad_token_id=255)
    found = model.generate(prompts, max_new_tokens=10, temperature=0)
    assert torch.equal(found, expected[:, : found.shape[1]])
    assert model.generate(prompts, max_new_tokens=30, temperature=0, stop=False).shape == (3, 34)  # context: 16
    assert model.training


def test_a_row_ends_at_the_end_of_sequence_token() -> None:
    model = HFCausalLM(path=llama())
    prompts = ragged(256)["input_ids"][:2, :4]
    free = model.generate(prompts, max_new_tokens=8, temperature=0, stop=False)
    model.model.generation_config.eos_token_id = [int(free[0, 6])]
    found = model.generate(prompts, max_new_tokens=8, temperature=0)
    end = free[0, 6]
    first = free[0, 4:].tolist().index(int(end)) + 4
    assert torch.equal(found[0, : first + 1], free[0, : first + 1])
    assert bool((found[0, first:] == end).all())


def test_sampling_follows_from_the_generator_alone() -> None:
    model, prompt = HFCausalLM(path=llama()), torch.tensor([[1, 2]])
    texts = []
    for seed in (0, 0, 1):
        before = torch.get_rng_state()
        generator = torch.Generator().manual_seed(seed)
        texts.append(model.generate(prompt, max_new_tokens=9, generator=generator, stop=False))
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


def test_what_is_saved_transformers_alone_loads(model: HFCausalLM) -> None:
    model = HFCausalLM(path=llama())
    with torch.no_grad():
        model.model.lm_head.weight += 0.5
    model.save_pretrained("saved")
    batch = ragged(256)
    again = stock("saved").eval()
    # Source: transformers' from_pretrained of what was written.
    logits = again(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"].long()).logits
    assert torch.equal(logits, model.eval()(batch))
    assert {"config.json", "model.safetensors"} <= {file.name for file in Path("saved").iterdir()}
    with pytest.raises(RefusedError, match="saved: is there already; give the name of a new folder"):
        model.save_pretrained("saved")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How often transformers reads weights, from here on."""
    reads: list[str] = []
    auto = transformers().AutoModelForCausalLM
    original = auto.from_pretrained
    monkeypatch.setattr(auto, "from_pretrained", lambda *a, **k: reads.append(str(a[0])) or original(*a, **k))
    return reads


def test_weights_are_read_when_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = counted(monkeypatch)
    model = HFCausalLM(path=llama())
    parameters = list(model.parameters())
    assert not reads
    other = copy.deepcopy(model)
    weights = model.state_dict()
    assert reads == ["llama"]
    assert all(mine is now for mine, now in zip(parameters, model.parameters(), strict=True))
    for name, value in stock("llama").state_dict().items():
        assert torch.equal(weights[f"model.{name}"], value)
    reads.clear()
    other.load_state_dict(weights)  # everything is there: nothing is read
    assert not reads
    assert torch.equal(other(ragged(256)), model(ragged(256)))
    partial = HFCausalLM(path="llama")
    partial.load_state_dict({"model.lm_head.weight": weights["model.lm_head.weight"] + 1}, strict=False)
    assert reads == ["llama"]
    torch.testing.assert_close(partial.model.model.norm.weight, weights["model.model.norm.weight"])
    assert torch.equal(partial.model.lm_head.weight, weights["model.lm_head.weight"] + 1)


RECIPE = """\
model: {class_path: trustformers_pl.models.HFCausalLM, init_args: {path: llama}}
data:
  class_path: trustformers_pl.data.TextData
  init_args: {source: text.txt, context_length: 12, batch_size: 4, val_fraction: 0.2}
trainer: {max_steps: 8, accelerator: cpu, log_every_n_steps: 1, val_check_interval: 4, check_val_every_n_epoch: null}
optimizer: {name: adamw, lr: 0.01}
checkpoint: {every_n_steps: 4, keep_last: 5}
csv: {}
metrics: {tokens_per_second: false}
samples: {prompts: ["a"], max_new_tokens: 4}
"""


def test_a_run_resumes_exports_and_reads_the_weights_once(
    write: Callable[..., str], command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    llama()
    reads = counted(monkeypatch)
    recipe = write(RECIPE)
    assemble(recipe).fit()
    assert reads == ["llama"]
    checkpoints = Path("runs/recipe/checkpoints")
    expected = {file.name: file.read_bytes() for file in (checkpoints / "step-00000008").iterdir()}
    rows = [json.loads(line) for line in Path("runs/recipe/samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8]
    reads.clear()
    for file in (checkpoints / "step-00000008").iterdir():
        file.unlink()
    (checkpoints / "step-00000008").rmdir()
    assemble(recipe).fit()
    assert {file.name: file.read_bytes() for file in (checkpoints / "step-00000008").iterdir()} == expected
    assert command("validate", recipe)[0] == 0
    assert command("generate", recipe, "--max-new-tokens=3")[0] == 0
    code, out, _ = command("export", recipe, "--out=given")
    assert (code, out) == (0, "exported: given\n")
    assert not reads  # the checkpoint brings all weights
    trained = assemble(recipe)
    trained.load_weights()
    batch = {"input_ids": torch.tensor([list(b"the quick")])}
    assert torch.equal(stock("given")(**batch).logits, trained.module(batch))


def test_a_gguf_file_becomes_a_folder(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    Path("small").mkdir()
    model = HFCausalLM(path=gguf_llama("small/model.gguf")).eval()
    batch = {"input_ids": torch.arange(8)[None]}
    # Source: transformers' own reading of the file.
    theirs = transformers().AutoModelForCausalLM.from_pretrained("small", gguf_file="model.gguf", dtype=torch.float32)
    assert torch.equal(model(batch), theirs(**batch).logits)
    assert torch.equal(HFCausalLM(path="small", gguf_file="model.gguf").eval()(batch), model(batch))
    model.save_pretrained("saved")
    assert "no tokenizer is written: small/model.gguf: AutoTokenizer cannot read it (" in caplog.text
    assert torch.equal(stock("saved")(**batch).logits, model(batch))


def test_export_of_another_model_is_refused(write: Callable[..., str], command: Callable[..., Any]) -> None:
    code, _, err = command("export", write(), "--out=given")
    assert code == 2
    assert "Composable has no save_pretrained(); its checkpoints are folders of safetensors" in err


def test_it_is_built_on_the_meta_device() -> None:
    llama()
    with torch.device("meta"):
        model = HFCausalLM(path="llama")
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.state_dict()["model.lm_head.weight"].is_meta


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"path": "nowhere"}, "nowhere: no such folder; give the folder of a Hugging Face model (nothing is downloaded)"),
        ({"path": "empty"}, "empty: there is no config.json in it; give the folder of a Hugging Face model"),
        ({"path": "llama", "gguf_file": "x.gguf"}, "llama: there is no x.gguf in it"),
        ({"path": "llama", "config": {"attention_dropuot": 0.1}}, "no 'attention_dropuot'; did you mean 'attention_dropout'?"),
        ({"path": "broken"}, "broken: AutoModelForCausalLM cannot read it ("),
    ],
)  # fmt: skip
def test_folders_that_hold_no_such_model(arguments: dict[str, Any], said: str) -> None:
    llama()
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(RecipeError) as caught:
        HFCausalLM(**arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lost_weights_are_named_when_they_are_read() -> None:
    llama()
    Path("llama/model.safetensors").unlink()
    model = HFCausalLM(path="llama")
    with pytest.raises(RecipeError, match="llama: AutoModelForCausalLM cannot read it"):
        model.configure_model()


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    llama()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RefusedError, match=r"install trustformers-pl\[hf\]"):
        HFCausalLM(path="llama")


def test_values_of_the_configuration_can_be_changed() -> None:
    model = HFCausalLM(path=llama(), config={"attention_dropout": 0.25})
    assert model.model.model.layers[0].self_attn.attention_dropout == 0.25
    assert HFCausalLM(path="llama", dtype="bfloat16").model.dtype == torch.bfloat16


def test_data_with_more_tokens_than_the_model_are_refused(write: Callable[..., str]) -> None:
    Path("text.txt").write_text("the quick brown fox\n" * 30)
    llama(vocab_size=255, eos_token_id=1)
    assert ByteTokenizer().vocab_size == 256
    with pytest.raises(RefusedError, match=r"it knows 255 tokens, and the data's tokenizer 256; set data\.init_args"):
        assemble(write(RECIPE)).fit()
