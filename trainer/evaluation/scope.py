"""What a figure is a claim about, and how much it stands on. Site and report card say the same; needs no torch.

The idea: "97 % solved" sounds like arithmetic, and is of one hundred stories by the generator that wrote the practice.
So what a figure is of stands beside it wherever it is shown, in a sentence, with the number of cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

STRANGERS: Final[dict[str, tuple[str, str]]] = {
    "visitor_facts": ("visitor_facts_asked", "questions"),
    "visitor_talk": ("visitor_talk_asked", "messages"),
    "visitor_problems": ("visitor_problems_asked", "problems"),
}
"""As COUNTS, of the figures that are of strangers' wording."""

COUNTS: Final[dict[str, tuple[str, str]]] = {
    **STRANGERS,
    "instruction_accuracy": ("held_out_questions", "questions"),
    "pass_at_1": ("held_out_problems", "problems"),
    "pass_at_8": ("held_out_problems", "problems"),
    "agreement": ("held_out_comparisons", "votes"),
    "length_only_agreement": ("held_out_comparisons", "votes"),
    "held_out_win_rate": ("held_out_prompts", "questions"),
    "win_rate_vs_parent": ("sampled_answers", "answers"),
    "solved": ("answers", "attempts"),
    "worked": ("answers", "attempts"),
    "ended": ("answers", "answers"),
}
"""Which figure of the same step or checkpoint says what a share is of, and what those are."""

SHIPPED: Final[dict[str, str]] = {
    "visitors": (
        "Written by hand in wording that no generator of this project produces, by somebody who had not read them: "
        "what a stranger may expect who asks about this small world."
    ),
    "bits_per_byte": (
        "Documents kept away from training, by the generators that wrote what it reads: one small world. "
        "It says little about other text."
    ),
    "instruction_accuracy": (
        "Questions of the generator that wrote the training conversations, in phrasings used in none of them and about "
        "its one small world; a fifth are about facts no conversation mentions. Not questions in a stranger’s words."
    ),
    "agreement": "Comparisons on questions kept away from training: what these voters like, in answers like these.",
    "win_rate": (
        "Two answers to each of some held-out questions of the same generator, compared by the simulated taste itself. "
        "What people prefer only votes can say."
    ),
    "problems": (
        "Problems of the generator that wrote the practice, told plainly, in stories and with names that no practice "
        "has: two steps, in orders that were practised, plus and minus, numbers up to 20. Not sums in a stranger’s "
        "words, with more steps or larger numbers."
    ),
}
"""Of the corpus the project ships, which a site trains on."""

PLAIN: Final[dict[str, str]] = {
    "bits_per_byte": "Six short texts in plain English: enough to see whether a model still reads it, and no more.",
    "instruction_accuracy": "None: there are no questions with one right answer in plain English here.",
    "agreement": SHIPPED["agreement"],
    "win_rate": (
        "Two answers to each of some everyday requests kept away from training, compared by the simulated taste "
        "itself. What people prefer only votes can say."
    ),
    "problems": (
        "Word problems of one step in plain English, in situations, words and with names that no practice has: plus "
        "and minus, numbers up to 50. Not sums with more steps or larger numbers."
    ),
}
"""Of the plain English the project ships for models from elsewhere."""

OWN: Final[dict[str, str]] = {
    "bits_per_byte": "Documents of this data kept away from training. It says little about other text.",
    "instruction_accuracy": (
        "Questions of this data kept away from training; an answer is right if it is the recorded one, word for word."
    ),
    "agreement": SHIPPED["agreement"],
    "win_rate": (
        "Two answers to each of some held-out questions of this data, compared by the simulated taste itself. "
        "What people prefer only votes can say."
    ),
    "problems": "Problems of this data kept away from training, and of the kinds it holds.",
}
"""Of text brought along with --data."""


def count_of(name: str, figures: Mapping[str, Any]) -> str:
    """ "of 200 questions" for a share whose number of cases is among these figures; otherwise nothing."""
    counted, what = COUNTS.get(name, ("", ""))
    count = figures.get(counted)
    if not isinstance(count, int | float) or isinstance(count, bool):
        return ""
    return f"of {count:.0f} {what.removesuffix('s') if count == 1 else what}"
