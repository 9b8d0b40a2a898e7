"""The documented snippet reads our folder where neither this package nor Lightning can be imported."""

from __future__ import annotations

import subprocess
import sys

from shown import ROOT, blocks_of

from trustformers_pl.factory import assemble

RECIPE = """
version: 1
model: {class_path: trustformers_pl.models.GPT, init_args: {d_model: 8, n_layers: 1, n_heads: 2, context_length: 8}}
data: {class_path: trustformers_pl.testing.TinyText}
trainer: {max_steps: 20, accelerator: cpu, limit_val_batches: 0}
optimizer: {name: adamw}
checkpoint: {every_n_steps: 20}
"""
FORBIDDEN = "import sys\nfor name in ('trustformers_pl', 'lightning', 'pluggy'): sys.modules[name] = None\n"
# The bits of a float32 are compared as its exact decimal value.
SAY = "\nprint({name: w.double().flatten().tolist() for name, w in weights.items()})\n"


def test_the_snippet_needs_safetensors_and_json_alone(write: object) -> None:
    run = assemble(write(RECIPE))  # type: ignore[operator]
    run.fit()
    page = ROOT / "docs" / "features" / "checkpoints.md"
    (snippet,) = (block.text for block in blocks_of(page) if "load_file" in block.text)
    done = subprocess.run([sys.executable, "-c", FORBIDDEN + snippet + SAY], capture_output=True, text=True, check=True)
    expected = {name: w.double().flatten().tolist() for name, w in run.module.state_dict().items()}
    assert done.stdout.splitlines()[-1] == str(expected)
