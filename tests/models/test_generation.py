"""Generation: the cache changes nothing, randomness comes from the generator alone, and training goes on after it."""

import pytest
import torch

from trustformers_pl.models.generation import KVCache, sample_token


@pytest.mark.parametrize(("context_length", "prompt_length", "new"), [(32, 3, 20), (8, 3, 20), (8, 8, 9), (1, 1, 4)])
def test_greedy_generation_is_the_argmax_without_a_cache(
    context_length, prompt_length, new, small_gpt, spread_out, prompts
):
    gpt = spread_out(small_gpt(context_length=context_length))
    tokens = prompts(gpt, prompt_length)
    generated = gpt.generate(tokens, max_new_tokens=new, temperature=0)
    start = 0
    # Source: a forward pass over the whole window for each token, the window halved whenever it is over-full.
    for _ in range(new):
        if tokens.shape[1] - start > context_length:
            start = tokens.shape[1] - max(1, context_length // 2)
        following = gpt({"input_ids": tokens[:, start:]})[:, -1].argmax(dim=-1, keepdim=True)
        tokens = torch.cat([tokens, following], dim=1)
    assert torch.equal(generated, tokens)


@pytest.mark.parametrize("chunks", [[8], [1] * 8, [3, 1, 4], [5, 3]])
def test_reading_in_pieces_gives_the_logits_of_reading_at_once(chunks, small_gpt, spread_out, prompts):
    gpt = spread_out(small_gpt())
    input_ids = prompts(gpt, 8)
    cache = KVCache(2, 8)
    pieces = [gpt.logits(piece, cache) for piece in input_ids.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), gpt({"input_ids": input_ids}), rtol=1e-4, atol=1e-5)
    assert cache.length == 8


def test_the_cache_follows_autocast(small_gpt, spread_out, prompts):
    gpt = spread_out(small_gpt())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gpt.generate(prompts(gpt), max_new_tokens=3).shape == (3, 6)


def test_only_the_generator_is_drawn_from(small_gpt, prompts):
    gpt = small_gpt()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = gpt.generate(prompts(gpt), max_new_tokens=20, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    second = gpt.generate(prompts(gpt), max_new_tokens=20, generator=torch.Generator().manual_seed(3))
    other = gpt.generate(prompts(gpt), max_new_tokens=20, generator=torch.Generator().manual_seed(4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_without_a_generator_the_global_one_decides(small_gpt, prompts):
    gpt = small_gpt()
    torch.manual_seed(5)
    first = gpt.generate(prompts(gpt), max_new_tokens=20)
    torch.manual_seed(5)
    assert torch.equal(gpt.generate(prompts(gpt), max_new_tokens=20), first)


def test_modes_are_put_back_submodule_by_submodule(small_gpt, prompts):
    gpt = small_gpt(dropout=0.5)
    gpt.blocks[0].eval()
    before = [module.training for module in gpt.modules()]
    greedy = [gpt.generate(prompts(gpt), max_new_tokens=5, temperature=0) for _ in range(2)]
    assert [module.training for module in gpt.modules()] == before
    # Dropout in generation would make two greedy runs differ.
    assert torch.equal(*greedy)


def test_generated_tokens_can_be_trained_on(small_gpt, prompts):
    gpt = small_gpt()
    tokens = gpt.generate(prompts(gpt), max_new_tokens=5)
    gpt({"input_ids": tokens}).sum().backward()
    assert gpt.embedding.weight.grad is not None
    assert gpt.generate(tokens, max_new_tokens=0).tolist() == tokens.tolist()


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.5, None), (1.0, 2), (2.0, 99)])
def test_draws_follow_the_tempered_softmax(temperature, top_k):
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0])
    options = {"temperature": temperature, "top_k": top_k, "generator": torch.Generator().manual_seed(0)}
    drawn = sample_token(logits.repeat(20_000, 1), **options)
    kept = logits if top_k != 2 else torch.tensor([-torch.inf, -torch.inf, 2.0, 3.0])
    expected = torch.softmax(kept / temperature, 0)
    # Four standard deviations of a frequency over 20,000 draws are at most 4 * 0.5 / sqrt(20,000) = 0.014.
    torch.testing.assert_close(drawn.flatten().bincount(minlength=4) / 20_000, expected, atol=0.015, rtol=0)


@pytest.mark.parametrize(
    ("length", "options", "message"),
    [
        (0, {}, "at least one token"),
        (9, {}, r"9 tokens is longer than context_length 8; pass its end, input_ids\[:, -8:\]"),
        (3, {"max_new_tokens": -1}, "max_new_tokens -1"),
        (3, {"temperature": -0.5}, "temperature -0.5"),
        (3, {"temperature": float("nan")}, "temperature nan"),
        (3, {"top_k": 0}, "top_k 0"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(length, options, message, small_gpt):
    gpt = small_gpt()
    with pytest.raises(ValueError, match=message):
        gpt.generate(torch.zeros(1, length, dtype=torch.int64), **({"max_new_tokens": 1} | options))


def test_a_single_row_without_batch_dimension_is_refused(small_gpt):
    with pytest.raises(ValueError, match=r"input_ids must be \(B, T\)"):
        small_gpt().generate(torch.zeros(3, dtype=torch.int64), max_new_tokens=1)
