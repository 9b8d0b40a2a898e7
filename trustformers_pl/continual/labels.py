"""What samples say of themselves: their classes, or another field, without more of them being read than is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

LABELS = "labels"
IGNORED = -100
OTHER_NAMES = ("targets", "y")  # torchvision's, and what many call it
Value = int | str


def column(dataset: Any, field: str = LABELS) -> list[Value]:
    """One field of every sample.

    Taken from an attribute of the dataset of that name (`targets` is the labels too) where there is one, from the
    second tensor of a `TensorDataset`, or else by reading every sample: `sample[field]`, `sample[1]` of a pair.

    Args:
        dataset: Map-style, of N samples.
        field: Its name.

    Returns:
        N whole numbers or texts.

    Raises:
        DataError: A sample has no such field, or something else in it than one number or text.
    """
    if isinstance(dataset, Subset):
        whole = column(dataset.dataset, field)
        return [whole[index] for index in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        return [value for part in dataset.datasets for value in column(part, field)]
    found = _whole_column(dataset, field)
    values = found if found is not None else [_of_sample(dataset[i], field) for i in range(len(dataset))]
    return [_single(value, field) for value in values]


def of_batch(batch: Any, field: str = LABELS) -> Any:
    """A field of a collated batch: (B, ...), or a list of texts.

    Args:
        batch: A mapping, or a pair of inputs and labels.
        field: Its name.

    Raises:
        DataError: The batch has no such field.
    """
    return _of_sample(batch, field)


def _whole_column(dataset: Any, field: str) -> Sequence[Any] | None:
    if isinstance(dataset, TensorDataset) and field == LABELS and len(dataset.tensors) > 1:
        return _listed(dataset.tensors[1])
    for name in (field, *(OTHER_NAMES if field == LABELS else ())):
        values = getattr(dataset, name, None)
        if values is not None and hasattr(values, "__len__") and len(values) == len(dataset):
            return _listed(values)
    return None


def _listed(values: Any) -> list[Any]:
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _of_sample(sample: Any, field: str) -> Any:
    if isinstance(sample, Mapping) and field in sample:
        return sample[field]
    if isinstance(sample, list | tuple) and field == LABELS and len(sample) > 1:
        return sample[1]
    has = f"it has {', '.join(map(str, sample))}" if isinstance(sample, Mapping) else f"it is a {type(sample).__name__}"
    raise DataError(f"tasks: a sample has no {field!r}: {has}; name another `field`, or use `scenario: domain`")


def _single(value: Any, field: str) -> Value:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) or len(getattr(value, "shape", [])) > 0 or int(value) != value:
        raise DataError(
            f"tasks: the samples' {field!r} is not one whole number or text a sample; name another `field`, or use "
            "`scenario: domain`, which without a field takes blocks of the data"
        )
    return int(value)
