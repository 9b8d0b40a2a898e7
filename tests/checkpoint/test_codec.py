"""The codec gives back the same types and the same bits, or says which part of the state it cannot store."""

import argparse
import enum
import json
import math
import pathlib
import random
import struct
from collections import Counter, OrderedDict, defaultdict, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trustformers_pl.checkpoint.codec import decode, encode
from trustformers_pl.checkpoint.tensorfile import DTYPES
from trustformers_pl.errors import CheckpointError

torch.set_num_threads(1)


def again(tree):
    """There and back through JSON's text and copies. The expected value of every round trip is the input itself."""
    json_tree, tensors = encode(tree)
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    return decode(json.loads(json.dumps(json_tree, allow_nan=False)), copies)


def bits(x):
    """All that makes a value what it is, comparable with ==, so that 1 and True, NaNs and dtypes differ."""
    if isinstance(x, torch.Tensor):
        raw = x.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return type(x), x.dtype, x.shape, x.requires_grad, raw
    if isinstance(x, np.ndarray | np.generic):
        return type(x), x.dtype.str, x.shape, x.tobytes()
    if isinstance(x, float):
        return float, struct.pack("<d", x)
    if isinstance(x, dict):
        return type(x), [(bits(key), bits(value)) for key, value in x.items()]
    if isinstance(x, set | frozenset):
        return type(x), sorted((bits(item) for item in x), key=repr)
    if isinstance(x, list | tuple):
        return type(x), [bits(item) for item in x]
    return type(x), x


NUMPY_DTYPES = st.one_of(
    hnp.boolean_dtypes(), hnp.integer_dtypes(endianness="?"), hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"), hnp.complex_number_dtypes(), hnp.datetime64_dtypes(), hnp.timedelta64_dtypes(),
)  # fmt: skip
KEYS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.just("$"), st.binary(),
    st.tuples(st.integers(), st.text()), st.frozensets(st.integers()), st.builds(pathlib.Path, st.just("a/b")),
)  # fmt: skip


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(sorted(DTYPES.values(), key=str)))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = math.prod(shape) * dtype.itemsize
    raw = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype is torch.bool:
        raw = bytearray(byte & 1 for byte in raw)
    flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    made = flat.reshape(shape)
    return made.movedim(0, -1) if shape and draw(st.booleans()) else made


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), tensors(),
    hnp.arrays(NUMPY_DTYPES, hnp.array_shapes(min_dims=0, min_side=0, max_side=3)),
    NUMPY_DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, ()).map(lambda array: array[()])),
    st.sampled_from([torch.bfloat16, torch.bool, torch.device("cpu"), torch.device("cuda:1"), torch.Size([2, 0])]),
    st.sampled_from([pathlib.Path("a") / "b", pathlib.PurePosixPath("/x"), pathlib.PureWindowsPath("c:\\x")]),
    st.sets(st.one_of(st.integers(), st.text())), st.frozensets(st.text()),
)  # fmt: skip
TREES = st.recursive(
    LEAVES,
    lambda child: st.one_of(
        st.lists(child, max_size=4),
        st.lists(child, max_size=3).map(tuple),
        st.dictionaries(KEYS, child, max_size=4),
        st.dictionaries(KEYS, child, max_size=3).map(OrderedDict),
        st.dictionaries(st.text(), child, max_size=3).map(lambda x: defaultdict(list, x)),
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(TREES)
def test_any_state_comes_back_with_the_same_types_and_bits(tree):
    assert bits(again(tree)) == bits(tree)


@pytest.mark.parametrize(
    "value", [0.1, -0.0, 5e-324, math.inf, -math.inf, math.nan, struct.unpack("<d", b"\1\2\3\4\5\6\xf8\xff")[0]]
)
def test_floats_keep_every_bit(value):
    assert struct.pack("<d", again(value)) == struct.pack("<d", value)


def test_whole_numbers_of_any_size():
    values = [2**63 - 1, 2**63, -(2**63), 2**64 - 1, 10**6000, -(10**6000)]
    assert again(values) == values


@pytest.mark.parametrize("tree", [{"$": 1}, {"$": "Tensor", "v": "x"}, {"a": {"$": {"$": "tuple", "v": []}}}])
def test_a_key_that_looks_like_a_tag_is_only_a_key(tree):
    assert again(tree) == tree


@pytest.mark.parametrize("tree", [{1: "a", "1": "b"}, {(1, ("x", None)): 2}, {True: 1, "true": 2}, {None: 0, 1.5: 1}])
def test_keys_that_json_would_merge_stay_apart(tree):
    assert bits(again(tree)) == bits(tree)


def test_order_of_a_dict_is_kept():
    assert list(again({"b": 1, "a": 2, "c": 3})) == ["b", "a", "c"]


def test_equal_views_are_stored_once_and_shared_again():
    weight = torch.arange(6.0)
    json_tree, stored = encode({"embedding": weight, "head": weight.view(6), "other": weight[1:]})
    back = decode(json_tree, stored)
    assert len(stored) == 2
    back["embedding"][0] = 7.0
    assert back["head"][0] == 7.0
    assert back["other"].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_views_that_differ_only_in_where_they_begin_are_not_taken_for_one_another():
    matrix = torch.arange(4).view(2, 2)
    assert [row.tolist() for row in again([matrix[0], matrix[1], matrix.t()[0]])] == [[0, 1], [2, 3], [0, 2]]


def test_a_conjugated_view_is_not_taken_for_what_it_views():
    value = torch.tensor([1 + 2j])
    back = again([value, value.conj()])
    assert [item.tolist() for item in back] == [[1 + 2j], [1 - 2j]]  # complex conjugate by definition


def test_stored_tensors_are_contiguous_and_detached():
    parameter = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
    _, stored = encode({"w": parameter, "t": parameter.t()})
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in stored.values())
    back = again({"w": parameter, "frozen": torch.nn.Parameter(torch.ones(1), requires_grad=False)})
    assert isinstance(back["w"], torch.nn.Parameter)
    assert [back["w"].requires_grad, back["frozen"].requires_grad] == [True, False]


def test_names_of_tensors_are_their_paths_and_never_collide():
    one, two, three = torch.zeros(1), torch.ones(1), torch.full((1,), 2.0)
    tree = {"a.b": one, "a": {"b": two}, "__metadata__": three, "\ud800": torch.full((1,), 3.0)}
    _, stored = encode(tree)
    assert list(stored) == ["a.b", "a.b#2", "__metadata__#2", "?"]
    assert bits(again(tree)) == bits(tree)
    assert list(encode(one)[1]) == ["tensor"]
    assert list(encode({"b": one}, where="callbacks.EMA")[1]) == ["callbacks.EMA.b"]


def test_module_state_dict_keeps_the_versions_of_its_modules():
    state = torch.nn.BatchNorm1d(2).state_dict()
    back = again(state)
    assert bits(back) == bits(state)
    assert back._metadata == state._metadata == OrderedDict({"": {"version": 2}})  # BatchNorm's `_version` is 2


def test_optimizer_and_schedules_continue_as_if_never_stored():
    def make():
        parameter = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([parameter], lr=0.1)
        return parameter, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))

    def step(parameter, optimizer, schedule):
        parameter.grad = parameter.detach() ** 2
        optimizer.step()
        schedule.step()

    one, two = make(), make()
    step(*one)
    for source, target in zip(one[1:], two[1:], strict=True):
        target.load_state_dict(again(source.state_dict()))
    with torch.no_grad():
        two[0].copy_(one[0])
    step(*one)
    step(*two)
    assert torch.equal(one[0], two[0])  # the run that was never stored is the reference
    assert one[2].get_last_lr() == two[2].get_last_lr() == [0.1 / 3]  # LambdaLR: lr0 * f(2)


def test_milestones_of_multi_step_lr_are_a_counter():
    schedule = torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD([torch.zeros(1)]), [2, 2, 5])
    assert bits(again(schedule.state_dict())["milestones"]) == bits(Counter({2: 2, 5: 1}))


def test_random_generators_continue_the_same_stream():
    states = again({"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()})
    expected = [random.random(), np.random.rand(), torch.rand(1).item()]  # the streams themselves, undisturbed
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    assert [random.random(), np.random.rand(), torch.rand(1).item()] == expected


def test_namespaces_and_attribute_dicts_become_plain_dicts():
    from lightning.fabric.utilities.data import AttributeDict
    from lightning.pytorch.utilities.parsing import AttributeDict as Hparams

    tree = [AttributeDict(a=1), Hparams(a=1), argparse.Namespace(a=1)]
    assert bits(again(tree)) == bits([{"a": 1}] * 3)


@pytest.mark.parametrize("factory", [None, list, dict, int, set])
def test_a_defaultdict_keeps_its_built_in_factory(factory):
    back = again(defaultdict(factory, a=1))
    assert type(back) is defaultdict
    assert back.default_factory is factory


class Stage(enum.IntEnum):
    FIT = 1


class Thing:
    def method(self):
        """Something bound."""


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (lambda: 0, "a function"),
        (Thing().method, "a method"),
        (len, "a builtin function or method"),
        (Thing, "the class Thing"),
        (Thing(), "an object of type test_codec.Thing"),
        (Stage.FIT, "the enum member Stage.FIT"),
        (Pair(1, 2), "an object of type test_codec.Pair"),
        (np.array([object()]), "a numpy array of dtype object"),
        (np.array(["a"]), "a numpy array of dtype <U1"),
        (np.zeros(1, [("a", "i4")]), "a numpy array of dtype [('a', '<i4')]"),
        (torch.zeros(1, dtype=torch.complex128), "a tensor of torch.complex128"),
        (torch.zeros(2).to_sparse(), "a Tensor of layout torch.sparse_coo on cpu"),
        (torch.zeros(2, device="meta"), "a Tensor of layout torch.strided on meta"),
        (defaultdict(Thing), "a defaultdict of <class 'test_codec.Thing'>"),
        ({torch.zeros(1): 1}, "a tensor as a key"),
        (1j, "an object of type complex"),
    ],
)
def test_what_cannot_be_stored_is_named_with_its_path(value, what):
    with pytest.raises(CheckpointError) as caught:
        encode({"Foo": {"fn": [0, value]}}, where="callbacks")
    assert str(caught.value).startswith(f"callbacks.Foo.fn.1: {what} cannot be stored; ")
    assert "\n" not in str(caught.value)


def test_the_message_of_a_function_is_whole():
    with pytest.raises(CheckpointError) as caught:
        encode({"callbacks": {"Foo": {"fn": print and (lambda: 0)}}})
    assert str(caught.value) == (
        "callbacks.Foo.fn: a function cannot be stored; keep tensors, numbers, strings, lists and dicts in state_dict()"
    )


def test_a_state_that_contains_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(CheckpointError, match="does it contain itself"):
        encode({"loop": loop})


@pytest.mark.parametrize(
    "tree",
    [
        {"$": "pickle", "v": "gASVHwAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAR0cnVllIWUUpQu"},
        {"$": "object", "v": "os.system"},
        {"$": ["Tensor"], "v": "w"},
        {"$": None},
        {"$": "Tensor", "v": "no such tensor"},
        {"$": "Tensor", "v": ["w"]},
        {"$": "dtype", "v": "save"},
        {"$": "device", "v": "moon"},
        {"$": "defaultdict", "v": [], "factory": "eval"},
        {"$": "ndarray", "v": "w", "dtype": "O", "shape": [1]},
        {"$": "ndarray", "v": "w", "dtype": "<i8", "shape": [99]},
        {"$": "numpy", "v": "00", "dtype": "<i8"},
        {"$": "float", "v": "00"},
        {"$": "dict", "v": [[[1], 2]]},
        {"$": "bytes", "v": "not base64!"},
        {"$": "tuple"},
    ],
)
def test_foreign_trees_are_refused_without_being_executed(tree):
    with pytest.raises(CheckpointError, match="the state tree"):
        decode({"a": [tree]}, {"w": torch.zeros(8, dtype=torch.uint8)})


def test_a_tree_as_deep_as_the_stack_is_refused():
    tree = []
    for _ in range(100_000):
        tree = [tree]
    with pytest.raises(CheckpointError, match="RecursionError"):
        decode(tree, {})


def test_tensors_go_to_the_device_asked_for_and_arrays_stay():
    shared = torch.ones(2)
    json_tree, stored = encode({"a": shared, "b": shared, "n": np.ones(2)})
    back = decode(json_tree, stored, device=torch.device("meta"))
    assert back["a"].is_meta
    assert back["a"] is back["b"]
    assert back["n"].tolist() == [1.0, 1.0]
