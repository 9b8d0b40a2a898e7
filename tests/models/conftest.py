"""A GPT small enough for float64 arithmetic by hand, and batches for it."""

import pytest
import torch

from trustformers_pl.models import GPT

torch.set_num_threads(1)


@pytest.fixture
def small_gpt():
    def make(**arguments):
        torch.manual_seed(0)
        sizes = {"vocab_size": 11, "d_model": 16, "n_layers": 2, "n_heads": 2, "context_length": 8}
        return GPT(**(sizes | arguments))

    return make


@pytest.fixture
def spread_out():
    """Make weights large, and norms uneven, enough for a wrong term to show."""

    def add_noise(gpt):
        generator = torch.Generator().manual_seed(2)
        for parameter in gpt.parameters():
            parameter.data += 0.4 * torch.randn(parameter.shape, generator=generator)
        return gpt

    return add_noise


@pytest.fixture
def random_batch():
    def draw(gpt, length=8, rows=3):
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(gpt.hparams["vocab_size"], (rows, length + 1), generator=generator)
        return {"input_ids": tokens[:, :-1].clone(), "labels": tokens[:, 1:].clone()}

    return draw


@pytest.fixture
def prompts(random_batch):
    return lambda gpt, length=3: random_batch(gpt, length=length)["input_ids"]
