"""A folder of a Hugging Face model: its architecture, its weights and its tokenizer. Nothing is downloaded."""

from __future__ import annotations

import importlib
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustformers_pl.errors import RecipeError, RefusedError
from trustformers_pl.names import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")


@dataclass(frozen=True)
class ModelFolder:
    """Where a model lies.

    Attributes:
        folder: With `config.json` and weights in safetensors, or with a GGUF file.
        gguf_file: Its name in the folder, or None.
    """

    folder: Path
    gguf_file: str | None = None

    @classmethod
    def at(cls, path: str, gguf_file: str | None = None) -> ModelFolder:
        """The model at a path.

        Args:
            path: A folder, or a `.gguf` file.
            gguf_file: A file in the folder.

        Raises:
            RecipeError: Nothing is there, or no model.
        """
        place = Path(path)
        if gguf_file is None and place.suffix == ".gguf":
            place, gguf_file = place.parent, place.name
        wanted = place / (gguf_file or "config.json")
        if not place.is_dir():
            raise RecipeError(
                f"{place}: no such folder; give the folder of a Hugging Face model (nothing is downloaded)"
            )
        if not wanted.is_file():
            raise RecipeError(f"{place}: there is no {wanted.name} in it; give the folder of a Hugging Face model")
        return cls(place, gguf_file)

    def __str__(self) -> str:
        return str(self.folder / self.gguf_file if self.gguf_file else self.folder)

    def skeleton(
        self, auto_class: str, dtype: torch.dtype, changes: Mapping[str, Any], fixed: Mapping[str, Any]
    ) -> Any:
        """The model with weights that are not initialised; on the meta device if that is torch's default.

        Args:
            auto_class: Name of the class in `transformers` that picks the architecture.
            dtype: Of the weights.
            changes: Values of the configuration, which must have them already.
            fixed: Further ones.

        Raises:
            RecipeError: The configuration cannot be read, or lacks a value that is changed.
        """
        with self._errors(auto_class):
            config = transformers().AutoConfig.from_pretrained(self.folder, **self._arguments(), **fixed)
        for name, value in changes.items():
            if not hasattr(config, name):
                raise RecipeError(f"{self}: its configuration has no {name!r}; {nearest(name, config.to_dict())}")
            setattr(config, name, value)
        with self._errors(auto_class), _uninitialised():
            model = getattr(transformers(), auto_class).from_config(config, dtype=dtype)
        model.tie_weights()
        return model

    def load(self, auto_class: str, dtype: torch.dtype, config: Any) -> tuple[Any, list[str]]:
        """The model with its weights, and the names of parameters that were not among them.

        Raises:
            RecipeError: The weights cannot be read.
        """
        with self._errors(auto_class):
            model, found = getattr(transformers(), auto_class).from_pretrained(
                self.folder, config=config, dtype=dtype, output_loading_info=True, **self._arguments()
            )
        return model, sorted(found["missing_keys"])

    def tokenizer(self) -> Any | None:
        """The tokenizer that `transformers` makes of the folder, or None where there is none."""
        if self.gguf_file is None and not any((self.folder / name).exists() for name in TOKENIZER_FILES):
            return None
        with self._errors("AutoTokenizer"):
            return transformers().AutoTokenizer.from_pretrained(self.folder, **self._arguments())

    def _arguments(self) -> dict[str, Any]:
        return {"local_files_only": True, **({"gguf_file": self.gguf_file} if self.gguf_file else {})}

    @contextmanager
    def _errors(self, auto_class: str) -> Iterator[None]:
        """One line for whatever goes wrong, and nothing on the screen while it goes well."""
        try:
            with quiet():
                yield
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError) as error:
            cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise RecipeError(
                f"{self}: {auto_class} cannot read it ({cause}); give the folder of such a model"
            ) from error


def transformers() -> Any:
    """The package `transformers`, imported when it is needed: that takes a second.

    Raises:
        RefusedError: It is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise RefusedError("Hugging Face models need the package transformers; install trustformers-pl[hf]") from error


@contextmanager
def _uninitialised() -> Iterator[None]:
    """Let models be built without drawing weights that are replaced anyway; where that cannot be, they are drawn."""
    import torch

    try:
        skip = importlib.import_module("transformers.initialization").no_init_weights
    except (ImportError, AttributeError):  # its place is not part of transformers' public interface
        skip = torch.random.fork_rng
    with torch.random.fork_rng(devices=[]), skip():
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars, and without the report on weights that are new."""
    log = transformers().utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with redirect_stderr(StringIO()):  # the reader of GGUF has a progress bar that no setting reaches
            yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
