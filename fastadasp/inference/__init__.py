"""One model on some clips."""
