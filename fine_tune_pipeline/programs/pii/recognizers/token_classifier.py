"""A token-classification model of transformers as a Presidio recogniser: weights in safetensors, at a pinned commit, no code of others."""

from presidio_analyzer import RecognizerResult
from presidio_analyzer.predefined_recognizers.ner import HuggingFaceNerRecognizer
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline


class TokenClassifier(HuggingFaceNerRecognizer):
    """Presidio's recogniser for such models; the loading differs, and a model that fails is an error instead of a text without findings."""

    def __init__(self, model: str, *, revision: str | None, labels: dict[str, str]) -> None:
        self._revision = revision
        super().__init__(
            model_name=model,
            name=f"transformers {model}",
            label_mapping={**self.DEFAULT_LABEL_MAPPING, **labels},
            # Words whose pieces disagree are one finding.
            aggregation_strategy="max",
            threshold=0.3,
        )

    def load(self) -> None:
        """Read the weights.

        Raises:
            OSError: they are not there.
        """
        pinned = {} if self._revision is None else {"revision": self._revision}
        tokenizer = AutoTokenizer.from_pretrained(self.model_name, trust_remote_code=False, **pinned)
        model = AutoModelForTokenClassification.from_pretrained(self.model_name, trust_remote_code=False, use_safetensors=True, **pinned)
        self.ner_pipeline = pipeline(
            self.DEFAULT_HF_TASK, model=model, tokenizer=tokenizer, aggregation_strategy=self.aggregation_strategy, device=self.device
        )

    def _predict_chunk(self, chunk_text: str) -> list[RecognizerResult]:
        rows = [(self.label_mapping.get(self._normalize_label(row["entity_group"])), row) for row in self.ner_pipeline(chunk_text)]
        return [
            RecognizerResult(entity, row["start"], row["end"], float(row["score"]))
            for entity, row in rows
            if entity is not None and row["score"] >= self.threshold
        ]
