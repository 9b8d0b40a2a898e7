"""Weights that are made where they lie: recorded on the meta device, replayed after sharding, with the same bits."""

from trustformers_pl.deferred.building import build_deferred, deferred, is_deferring, still_deferred
from trustformers_pl.deferred.filling import Recorded, fill
from trustformers_pl.deferred.mixin import DeferredModule
from trustformers_pl.deferred.modules import deferred_record, note_values
from trustformers_pl.deferred.placing import Source, Whole
from trustformers_pl.deferred.recorder import CannotRecordError

__all__ = [
    "CannotRecordError",
    "DeferredModule",
    "Recorded",
    "Source",
    "Whole",
    "build_deferred",
    "deferred",
    "deferred_record",
    "fill",
    "is_deferring",
    "note_values",
    "still_deferred",
]
