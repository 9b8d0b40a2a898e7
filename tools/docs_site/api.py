"""The Python API: a page a public module, each with the names in its `__all__`; mkdocstrings fills them in."""

from __future__ import annotations

from functools import cache

import griffe

from docs_site.checkout import ROOT
from docs_site.markdown import code, first_line, table

PACKAGE = "trustformers_pl"
FOLDER = "reference/api"
NOT_FOR_IMPORT = {"cli"}


@cache
def modules() -> dict[str, griffe.Module]:
    """Dotted name -> module, of the package and what lies directly in it, read and not imported; the public ones.

    A module is public if it has an `__all__` that names more than the package itself does, or if the package names it.
    """
    package = _read(PACKAGE)
    top = set(package.exports or ())
    paths = sorted((ROOT / PACKAGE).iterdir())
    inner = [path.stem for path in paths if path.suffix == ".py" or (path / "__init__.py").exists()]
    found = {PACKAGE: package}
    for name in inner:
        module = _read(f"{PACKAGE}.{name}")
        if name in top or (set(module.exports or ()) - top and name not in NOT_FOR_IMPORT):
            found[module.name] = module
    return found


def _read(name: str) -> griffe.Module:
    path = ROOT.joinpath(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return griffe.visit(name, file, file.read_text("utf-8"))


def names(module: griffe.Module) -> list[str]:
    """The public names of a module, without those that the package gives, and without modules."""
    others = set(modules()) if module.name == PACKAGE else set(_read(PACKAGE).exports or ())
    return [str(n) for n in module.exports or () if n not in others and f"{module.name}.{n}" not in modules()]


def overview() -> str:
    """A table of the public modules and their names."""
    rows = [[f"[{code(name)}](api/{_file(name)})", _summary(module)] for name, module in modules().items()]
    return table(["Module", "What it holds"], rows)


def pages() -> dict[str, str]:
    """Path in the site -> text, a page a module."""
    return {f"{FOLDER}/{_file(name)}": _page(module) for name, module in modules().items()}


def _file(name: str) -> str:
    return f"{name.rpartition('.')[2]}.md"


def _page(module: griffe.Module) -> str:
    intro = module.docstring.value if module.docstring else ""
    if module.exports is None:
        return f"# {code(module.name)}\n\n::: {module.name}\n    options: {{show_root_heading: false}}\n"
    blocks = [f"::: {_path(module, name)}" for name in names(module)]
    return "\n\n".join([f"# {code(module.name)}", intro, *blocks]) + "\n"


def _path(module: griffe.Module, name: str) -> str:
    """Where a name is documented: where it is defined, if a submodule has the same name and would be taken for it."""
    member = module.members[name]
    taken = ROOT.joinpath(*module.name.split("."), f"{name}.py").exists()
    return member.target_path if taken and isinstance(member, griffe.Alias) else f"{module.name}.{name}"


def _summary(module: griffe.Module) -> str:
    return first_line(module.docstring.value) if module.docstring else ""
