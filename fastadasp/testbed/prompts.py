"""What the test bed is asked, and in which form."""

from __future__ import annotations

TRANSCRIBE = "Transcribe the speech."

INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "asr": (TRANSCRIBE, "Write down what is said.", "Transcribe the speech into text."),
    "first": ("What is the first word?",),
    "last": ("What is the last word?",),
    "spoken": ("Is the word {word} spoken? Answer yes or no.",),
}
"""Instructions of each task; the first is the one to ask. `{word}` stands for a word in lower case."""

ABOUT = {
    "asr": "English speech in lower case without punctuation",
    "first": "its first word",
    "last": "its last word",
}

AUDIO = "<|audio_bos|><|AUDIO|><|audio_eos|>"
BEFORE = "<|im_start|>user\n"
BETWEEN = "<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'audio' %}" + AUDIO + "{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""SmolLM2's own form without its system message; the sound comes before the text."""
