"""What is taken from transformers for sounds: spectrograms."""

from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

__all__ = ["mel_filter_bank", "spectrogram", "window_function"]
