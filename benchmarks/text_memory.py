"""How much memory a long text takes: the peak while it is tokenised, and what reading it at random keeps.

    python benchmarks/text_memory.py [--megabytes 120] [--tokenizer bpe]

Each figure is a process of its own; the first one imports all that the others do, and reads nothing. The text is the
standard library's, repeated with other names. Pages of the mapped file count as resident too while there is room; they
are the system's cache, and not counted in the last figure (`RssAnon` of Linux).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

CHILD = """
import itertools, json, re, resource, sys, time
import torch
from trustformers_pl.data import TextData, resumable
torch.set_num_threads(1)
task, options = json.loads(sys.argv[1])
begun = time.perf_counter()
data = TextData(context_length=256, batch_size=16, **options)
if task != "import":
    data.prepare_data()
def own():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
if task == "read":
    loader = resumable(data.train_dataloader(), seed=0)
    for _ in itertools.islice(loader, 2000):
        pass
print(peak, own(), time.perf_counter() - begun)
"""
TASKS = {"import": "imports alone", "tokenise": "tokenise", "read": "2,000 random batches"}


def main() -> None:
    """Print a line for each process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--megabytes", type=int, default=120)
    parser.add_argument("--tokenizer", default="byte")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = written(Path(folder) / "text.txt", options.megabytes * 10**6)
        data = {"source": str(source), "tokenizer": options.tokenizer, "cache": f"{folder}/cache"}
        print(f"text: {source.stat().st_size / 1e6:.0f} MB, tokenizer: {options.tokenizer}")
        for task, name in TASKS.items():
            done = subprocess.run(
                [sys.executable, "-c", CHILD, json.dumps([task, data])], capture_output=True, text=True, check=True
            )
            peak, own, seconds = map(float, done.stdout.split())
            print(
                f"{name}: peak before reading {peak:.0f} MiB, own at the end {own:.0f} MiB, {seconds:.1f} s", flush=True
            )


def written(path: Path, size: int) -> Path:
    """A text of at least `size` bytes, made of different lines."""
    from trustformers_pl.data.text_files import text_bytes

    library = text_bytes(None, None).numpy().tobytes()
    with path.open("wb") as file:
        number = 0
        while file.tell() < size:
            file.write(library.replace(b"self", f"self{number}".encode()))
            number += 1
    return path


if __name__ == "__main__":
    main()
