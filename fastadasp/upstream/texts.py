"""What is taken from transformers for texts: Whisper's normalisers, and the letters of byte-level tokenizers."""

from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

__all__ = ["BasicTextNormalizer", "EnglishTextNormalizer", "bytes_to_unicode"]
