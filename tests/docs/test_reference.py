"""The generated reference says what the code says: every feature, key, argument, command, hook and public name."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lightning import Trainer

from docs_site import api, checkout, commands, contract, features, root_pages, trainer_section
from trustformers_pl.cli.main import COMMANDS, main
from trustformers_pl.plugins import discover
from trustformers_pl.recipe.marked_yaml import read_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STRANGER = """
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from trustformers_pl import LossTerm, Plugin, Refusal, Traits, hookimpl


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int = 3
    '''How deep, in layers | blocks.'''


class Shine(Plugin):
    '''Shines.

    Longer than a line.
    '''

    example = {"where": "window"}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        where: Path
        '''Where
        it shines.'''
        how: Literal["bright", "dim"] = "dim"
        mark: str = "a|b"
        tags: list[str] = field(default_factory=lambda: ["a", "b"])
        inner: Inner = Inner()

    @classmethod
    def traits(cls, config):
        refusal = Refusal(trait="mesh", reason="light does not split", mend="remove ddp")
        return Traits(claims=frozenset({"progress"}), provides=frozenset({"stranger:light"}), refuses=(refusal,))

    @hookimpl
    def loss_terms(self, plan):
        return []
"""


@pytest.fixture
def stranger(install: Callable[..., None]) -> Iterator[str]:
    """The page of another package's feature."""
    install("stranger", STRANGER, version="2.1", trustformers_pl={"shine": "Shine"})
    features.features.cache_clear()
    yield features.pages()["reference/recipe/stranger.md"]
    features.features.cache_clear()


def test_a_feature_of_another_package_is_described_whole(stranger: str) -> None:
    assert "## `shine` {#shine}" in stranger
    assert "Shines.\n\nLonger than a line." in stranger
    assert "```yaml\nshine:\n  where: window\n```" in stranger
    assert "| `where`<br><small>a path</small> | **required** | Where it shines. |" in stranger
    assert '| `how`<br><small>one of bright, dim</small> | `"dim"` |  |' in stranger
    assert '| `mark`<br><small>a string</small> | `"a|b"` |  |' in stranger
    assert '| `tags`<br><small>a list of strings</small> | `["a", "b"]` |  |' in stranger
    assert r"| `inner.depth`<br><small>an integer</small> | `3` | How deep, in layers \| blocks. |" in stranger
    assert "| claims | [`progress`](../traits.md#slot-progress) |" in stranger
    assert "| provides | `stranger:light` |" in stranger
    assert "| requires | [`decomposed-loss`](../traits.md#trait-decomposed-loss) |" in stranger
    assert "| refuses | [`mesh`](../traits.md#trait-mesh): light does not split; remove ddp |" in stranger
    assert "`stranger:Shine` of stranger 2.1" in stranger


def test_every_installed_feature_and_key_is_there() -> None:
    reference = "\n".join(features.pages().values())
    for name, offer in discover().items():
        keys = re.findall(r"^\| `([\w.]+)`<br>", section(reference, name.replace(".", "-")), re.MULTILINE)
        own = [field.name for field in dataclasses.fields(offer.load().Config)]
        assert list(dict.fromkeys(key.partition(".")[0] for key in keys)) == own


def test_examples_can_be_read_as_sections() -> None:
    examples = re.findall(r"^```yaml\n(.*?)^```", "\n".join(features.pages().values()), re.MULTILINE | re.DOTALL)
    assert len(examples) == len(discover())
    for example in examples:
        Path("example.yaml").write_text(example, encoding="utf-8")
        assert len(read_file(Path("example.yaml")).entries) == 1


def test_every_argument_of_the_trainer_is_there() -> None:
    rows = {re.findall(r"`(\w+)`", row[0])[0]: row for row in trainer_section.table_rows()}
    assert list(rows) == [name for name in inspect.signature(Trainer.__init__).parameters if name != "self"]
    assert "checkpoint" in rows["enable_checkpointing"][2]
    assert rows["max_steps"] == ["`max_steps`<br><small>an integer</small>", "`-1`", "here"]


def test_every_command_and_option_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    reference = commands.reference()
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        help_, _, _ = capsys.readouterr().out.partition("A recipe's values")
        table = re.sub(r"```text.*?```", "", section(reference, name), flags=re.DOTALL)
        options = re.findall(r"^  (--[a-z-]+)", help_, re.MULTILINE)
        assert options == re.findall(r"^\| `(--[a-z-]+)", table, re.MULTILINE)


def section(text: str, anchor: str) -> str:
    """What stands under a heading."""
    return text.partition(f"{{#{anchor}}}")[2].partition("\n## ")[0]


def test_a_command_inside_a_command_has_its_own_section() -> None:
    parser = argparse.ArgumentParser(prog="p new")
    inner = parser.add_subparsers().add_parser("recipe", description="Write one.")
    inner.add_argument("--path", metavar="DIR", help="where to")
    text = commands._section("new", parser, "write things")
    assert "## `new recipe` {#new-recipe}" in text
    assert "| `--path=DIR` | where to |" in text


def test_hooks_are_in_the_order_of_the_contract() -> None:
    source = (checkout.ROOT / "trustformers_pl" / "hookspecs.py").read_text(encoding="utf-8")
    assert re.findall(r"^## `(\w+)`", contract.hooks(), re.MULTILINE) == re.findall(r"^    def (\w+)\(", source, re.M)
    assert "Claim [`optimizer`](traits.md#slot-optimizer)" in contract.hooks()


def test_words_and_phases_have_a_meaning() -> None:
    for text in (contract.slots(), contract.traits()):
        sections = text.split("\n### ")
        assert not [section for section in sections if len(section.split("\n\n")[1]) < 20]
    empty = re.findall(r"^\| `\w+` \|  \|$", contract.phases(), re.MULTILINE)
    assert not empty


def test_every_public_name_is_there_and_imports() -> None:
    found = set()
    for page, text in api.pages().items():
        for path in re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE):
            module, _, name = path.rpartition(".")
            assert hasattr(importlib.import_module(module), name), page
            found.add(path)
    top = importlib.import_module("trustformers_pl")
    assert {f"trustformers_pl.{name}" for name in top.__all__} <= found


def test_links_of_the_pages_of_the_root_are_mended() -> None:
    text = (
        "[a](docs/concepts.md#order) [b](SECURITY.md) [c](https://x.org/a.md) [d](#here) [e](docs/decisions/README.md)"
    )
    mended = "[a](concepts.md#order) [b](security.md) [c](https://x.org/a.md) [d](#here) [e](decisions/README.md)"
    assert root_pages.mended(text, "CHANGELOG.md") == mended
    assert root_pages.mended("[a](../docs/concepts.md)", "benchmarks/README.md") == "[a](concepts.md)"


def test_a_checkout_is_seen_before_what_is_installed(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "3"\n[project.entry-points.trustformers_pl]\nshine = "mine:Shine"\n'
    )
    found = checkout.Checkout(tmp_path)
    assert (found.name, found.version) == ("mine", "3")
    assert [(point.group, point.name, point.value) for point in found.entry_points] == [
        ("trustformers_pl", "shine", "mine:Shine")
    ]
