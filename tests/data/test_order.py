"""The order of samples: a pure function of its arguments."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from trustformers_pl.data import counter_seed, epoch_order
from trustformers_pl.data.order import counter_uniform, split_mix

torch.set_num_threads(1)


def test_seeds_are_equal_in_every_process():
    # Source: RFC 7693's BLAKE2b with an 8-byte digest of "(0, 'order', 3)", by coreutils' b2sum -l 64, little-endian:
    # printf "(0, 'order', 3)" | b2sum -l 64
    expected = int.from_bytes(bytes.fromhex("0ab773f00dadd2e4"), "little")
    assert counter_seed(0, "order", 3) == expected
    code = "from trustformers_pl.data import counter_seed; print(counter_seed(0, 'order', 3))"
    environment = {"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path)}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(other.stdout) == expected


def test_seeds_of_a_hundred_thousand_coordinates_differ():
    seeds = {counter_seed(seed, epoch, index) for seed in range(10) for epoch in range(10) for index in range(1000)}
    # The birthday bound: 64 bits make a repeat among 1e5 less likely than 3e-10.
    assert len(seeds) == 100_000
    assert min(seeds) >= 0
    assert 2**63 < max(seeds) < 2**64


@pytest.mark.parametrize("length", [0, 1, 7, 1000])
def test_each_sample_comes_once(length):
    order = epoch_order(length, seed=0, epoch=2, shuffle=True)
    assert order.dtype == torch.int64
    # By the definition of a permutation.
    assert order.sort().values.tolist() == list(range(length))


def test_unshuffled_is_in_order():
    assert epoch_order(5, seed=3, epoch=2, shuffle=False).tolist() == [0, 1, 2, 3, 4]


def test_seed_and_epoch_decide_and_nothing_else():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = epoch_order(100, seed=0, epoch=1, shuffle=True)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(epoch_order(100, seed=0, epoch=1, shuffle=True), first)
    assert not torch.equal(epoch_order(100, seed=0, epoch=2, shuffle=True), first)
    assert not torch.equal(epoch_order(100, seed=1, epoch=1, shuffle=True), first)


def test_positions_are_uniform():
    counts = torch.zeros(5, 5)
    for epoch in range(2000):
        counts[torch.arange(5), epoch_order(5, seed=0, epoch=epoch, shuffle=True)] += 1
    # Each cell is binomial with mean 400 and standard deviation sqrt(2000 * 0.2 * 0.8) = 18; five of them.
    assert (counts - 400).abs().max() < 90


def test_numbers_of_counters_are_those_of_splitmix64():
    """The first five outputs for seed 1234567, as published with the generator's C code (Vigna, prng.di.unimi.it)."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert split_mix(1234567, np.arange(5)).tolist() == published
    numbers = counter_uniform(1234567, torch.arange(6).view(2, 3))
    assert numbers.shape == (2, 3)
    assert numbers.flatten()[:5].tolist() == [(bits >> 11) / 2**53 for bits in published]
    many = counter_uniform(2**64 - 1, torch.arange(100_000) << 32)
    assert abs(float(many.mean()) - 0.5) < 4 * (1 / 12 / 100_000) ** 0.5  # four standard errors
