"""Any Hugging Face sequence classifier, from a local folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.models.classification import Classification
from trustformers_pl.models.pretrained import DType, PretrainedModule

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


class HFSequenceClassifier(Classification, PretrainedModule):
    """A model that `transformers.AutoModelForSequenceClassification` can read, composable with every feature.

    A batch is a mapping with `input_ids` (B, T) int64, `attention_mask` (B, T), true or 1 where there is a token (left
    out: everywhere), `token_type_ids` (B, T) if the model knows them, and `labels` (B,) int64 in [0, num_labels), -100
    to be ignored. What stands at padded positions has no influence. Evaluations log `val_accuracy` and
    `test_accuracy`.

    A folder without a classification head, such as that of an encoder, gets a new one, which follows from the run's
    seed. Weights are read once: see `PretrainedModule`. Nothing is downloaded and no code of the folder is run. No
    optimizer is configured here.

    Args:
        path: The folder with `config.json` and safetensors, or a `.gguf` file, whose weights are dequantised.
        num_labels: Number of classes C, at least 2.
        gguf_file: Name of such a file in the folder.
        dtype: Of the weights. Train in float32, with the Trainer's precision for what is computed in 16 bits.
        config: Values of the model's configuration to change, such as `{hidden_dropout_prob: 0.0}`.

    Raises:
        ValueError: There are fewer than two classes.
        RecipeError: There is no such model at `path`, or its configuration has no value of that name.
        RefusedError: `transformers` is not installed.
    """

    auto_class = "AutoModelForSequenceClassification"
    classes_argument = "num_labels"

    def __init__(
        self,
        *,
        path: str,
        num_labels: int,
        gguf_file: str | None = None,
        dtype: DType = "float32",
        config: dict[str, Any] | None = None,
    ) -> None:
        if num_labels < 2:
            raise ValueError(f"num_labels {num_labels} must be at least 2")
        super().__init__(path, gguf_file, dtype, config or {}, num_labels=num_labels)
        self.save_hyperparameters()
        self.n_classes = num_labels
        if self.model.config.pad_token_id is None:  # decoders find a text's last token by it
            self.model.config.pad_token_id = 0

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, C) of the sequences `input_ids` (B, T)."""
        inputs = self._inputs(batch)
        if "attention_mask" in inputs:
            padding = inputs["attention_mask"] == 0
            inputs["input_ids"] = inputs["input_ids"].masked_fill(padding, self.model.config.pad_token_id)
        return self.model(**inputs).logits  # type: ignore[no-any-return]

    def save_pretrained(self, folder: str | Path, data: Any = None) -> None:
        """Write the model, its tokenizer, and the classes' names if the data module has `classes`."""
        names = self.class_names() if data is None else getattr(data, "classes", None)
        if names:
            self.model.config.id2label = {number: str(name) for number, name in enumerate(names)}
            self.model.config.label2id = {str(name): number for number, name in enumerate(names)}
        super().save_pretrained(folder, data)
