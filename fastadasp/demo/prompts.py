"""What the embedded model is asked, and in which form."""

from __future__ import annotations

INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "asr": (
        "Transcribe the numbers.",
        "Write down the digits that you hear.",
        "What is said? Answer in English.",
        "Transcribe the speech into text.",
    ),
    "st": (
        "Translate the numbers into German.",
        "Write the digits in German.",
        "What is said? Answer in German.",
        "Translate the speech into German text.",
    ),
    "er": (
        "How does the speaker feel: angry, happy, neutral or sad?",
        "Which emotion is in the voice?",
        "Name the emotion of the speaker.",
    ),
    "gender": (
        "Is the speaker female or male?",
        "What is the gender of the speaker?",
    ),
}
"""Instructions of each task; the first is the one the task asks, the others vary the training."""

QUESTIONS: dict[str, tuple[str, ...]] = {
    "coffeeDrink": ("Which drink is ordered?", "What drink does the customer want?"),
    "size": ("Which size is ordered?", "What size should the drink have?"),
    "roast": ("Which roast is ordered?", "What roast does the customer want?"),
    "numberOfShots": ("How many shots are ordered?", "How many shots should the drink have?"),
    "milkAmount": ("Which milk is ordered?", "What milk does the customer want?"),
    "sugarAmount": ("Which sweetener is ordered?", "What sugar does the customer want?"),
}
"""Questions about each slot of a coffee order (task ``sqa``); a slot that was not ordered is answered ``none``."""

ABOUT = {
    "asr": "spoken English digits",
    "st": "the same digits in German",
    "er": "angry, happy, neutral or sad in a German voice",
    "gender": "female or male voice",
    "sqa": "six questions about a spoken coffee order",
}
"""What each task is about, for people who ask something else."""

WORDS = {
    "asr": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "st": ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"),
    "er": ("angry", "happy", "neutral", "sad"),
    "gender": ("female", "male"),
}
"""The words that a task's answers are made of; those of ``sqa`` are many."""


def knows() -> dict[str, object]:
    """What the model can be asked, as ``knows.json`` of its folder says it."""
    asked = INSTRUCTIONS | {"sqa": tuple(text for texts in QUESTIONS.values() for text in texts)}
    tasks = {
        name: {"about": about, "instructions": [*asked[name]], "words": [*WORDS.get(name, ())]}
        for name, about in ABOUT.items()
    }
    return {"tasks": tasks}


NOT_ORDERED = "none"
AUDIO_PLACEHOLDER = "<|audio_bos|><|AUDIO|><|audio_eos|>"
ANSWER_MARKER = "<|answer|>"
END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>", ANSWER_MARKER)

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}" + AUDIO_PLACEHOLDER + "{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}" + ANSWER_MARKER + "{% elif message['role'] == 'assistant' %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}" + END_OF_TEXT + "{% endif %}"
    "{% endfor %}"
)
"""Jinja template of the processor; gives `build_prompt` for one user message with one recording."""


def build_prompt(instruction: str) -> str:
    """The whole prompt for one recording; the processor expands the audio placeholder."""
    return f"{AUDIO_PLACEHOLDER}{instruction}{ANSWER_MARKER}"
