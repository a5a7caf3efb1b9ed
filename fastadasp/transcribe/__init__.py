"""Text from recordings of any length: windows cut at silence, a model, transcripts."""
