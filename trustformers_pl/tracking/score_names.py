"""Names of scores, and torchmetrics' classes for them: no library is imported for it."""

from __future__ import annotations

CLASSES = {
    "accuracy": "MulticlassAccuracy",
    "precision": "MulticlassPrecision",
    "recall": "MulticlassRecall",
    "f1": "MulticlassF1Score",
    "matthews": "MulticlassMatthewsCorrCoef",
    "calibration_error": "MulticlassCalibrationError",
}
"""Of classes, from logits and labels; of tokens, for a language model."""
TOKENS = {"perplexity": "Perplexity"}
"""Of the tokens of a language model, from logits and labels."""
TEXTS = {"bleu": "BLEUScore", "chrf": "CHRFScore", "rouge": "ROUGEScore"}
"""Of generated texts, beside references."""
KINDS = (*CLASSES, *TOKENS, *TEXTS)
KIND = "metric"
"""The option that says which score it is, where the name is another."""
