"""WavLLM (Hu et al., 2024): two speech encoders before a LLaMA whose LoRA is scaled by the prompt."""
