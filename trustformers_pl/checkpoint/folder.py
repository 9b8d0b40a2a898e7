"""All that can be done with checkpoint folders, for those who work with several of these at once."""

from trustformers_pl.checkpoint.reading import load, read_folder
from trustformers_pl.checkpoint.series import newest, remove, step_name, steps
from trustformers_pl.checkpoint.unfinished import clean
from trustformers_pl.checkpoint.verification import verify
from trustformers_pl.checkpoint.writing import state_files, write_folder, write_state

__all__ = [
    "clean",
    "load",
    "newest",
    "read_folder",
    "remove",
    "state_files",
    "step_name",
    "steps",
    "verify",
    "write_folder",
    "write_state",
]
