"""What one record of a file from elsewhere is: a document, a conversation, a comparison, a problem, or of no use.

The idea: people write the same few things under many names, and a record is taken for what its *filled* fields say. A
field that is null or not a finite number is not there: that is how tables are padded. Names are compared without
capitals, dashes and spaces. In this order:

- `chosen` and `rejected`: a comparison. Where a prompt stands beside them, texts are answers, whatever they quote;
  where none does, they are dialogues ("\\n\\nHuman: …\\n\\nAssistant: …") or message lists. What both begin with is the
  context, and the answers are the turns at which they part. Votes of ours carry their `outcome`;
- `messages`, `conversations` and the like: a conversation, in OpenAI's or ShareGPT's notation;
- `instruction` (with `input` or `context`), `prompt`, `question`, `query` or `input` beside `output`, `response` or
  `completion`: a conversation of one exchange, after the `history` if there is one;
- a problem, which says how an answer to it is checked (tasks/problem.py), by the first of these that stands beside
  `question` or `problem` (or `prompt`, `query` and `instruction`):
    - `choices` or `options` (texts, "A) text", texts by letter, or objects with `label` and `text`; at most ten) with
      the right one in `answerKey`, `correct`, `gold`, `answer` or `label`: a letter, a number from 0, or its text,
    - `accept`: a text, or a list of texts that are all right,
    - `pattern`: a regular expression that a right answer contains,
    - `answer` or `final`, SVAMP's `Body`, and `context` beside `continuation`: a number or fraction.
  How hard it is: `difficulty` or `level` (1 or more, "Level 3", or easy, medium, hard), else the number of steps where
  it has any; else the model finds out;
- `text`, `content` or `document`: a document.

A `system` text that stands beside them becomes the first turn. An answer of weight 0 is read and not learnt from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from trainer.asked import Message
from trainer.data.preferences import OUTCOMES, Comparison, one_line_end, whole_characters
from trainer.tasks.choice import LETTERS, letter_of, listed
from trainer.tasks.final import gold_number, named_number
from trainer.tasks.numbers import stated_answer
from trainer.tasks.patterns import check_pattern
from trainer.tasks.problem import CHOICE, LONGEST_GRADED, NUMBER, PATTERN, TEXT, UNKNOWN, Problem, judge
from trainer.tasks.words import plain_text

DOCUMENT, CONVERSATION, COMPARISON, PROBLEM = "document", "conversation", "comparison", "problem"

LONGEST_PROMPT_BYTES: Final = 500
"""Longest problem, question or prompt to vote on, about 80 words of English. In bytes, because not every script has
spaces between its words, and because a text has no more tokens than bytes."""

_USERS: Final = ("user", "human", "prompter")
_ASSISTANTS: Final = ("assistant", "gpt", "bot", "chatbot", "chatgpt", "model", "ai")
_SYSTEMS: Final = ("system", "developer")
_TOOLS: Final = ("tool", "function", "ipython", "observation", "function_call", "tool_call", "function_response",
                 "tool_response", "tool_result")  # fmt: skip
_ROLES: Final = {
    **dict.fromkeys(_USERS, "user"),
    **dict.fromkeys(_ASSISTANTS, "assistant"),
    **dict.fromkeys(_SYSTEMS, "system"),
}
_SPEAKERS: Final = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")

_CHOSEN: Final = ("chosen", "chosen_response", "response_chosen", "answer_chosen")
_REJECTED: Final = ("rejected", "rejected_response", "response_rejected", "answer_rejected")
_TALK: Final = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "chat")
_SYSTEM: Final = ("system", "system_prompt", "system_message")
_ASKED: Final = ("instruction", "prompt", "question", "query", "input")
_MORE: Final = ("input", "context")
"""What an instruction is about, where that stands in a field of its own."""
_ANSWER: Final = ("output", "response", "completion")
_PROBLEM: Final = ("question", "problem")
_RESULT: Final = ("final", "final_answer")
_CHOICES: Final = ("choices", "options")
_RIGHT_CHOICE: Final = ("answer_key", "correct", "gold", "answer_index", "answer", "label")
_ACCEPT: Final = ("accept", "accepted", "accepted_answers")
_PATTERN: Final = ("pattern", "regex")
_CHECKED: Final = ("question", "problem", "prompt", "query", "instruction")
"""What is asked, where the record says how the answer is checked."""
_DIFFICULTY: Final = ("difficulty", "level")
_WORDS_OF_DIFFICULTY: Final = {"easy": 1, "medium": 2, "intermediate": 2, "hard": 3}
MOST_DIFFICULT: Final = 100
_TEXT: Final = ("text", "content", "document")
_ROLE: Final = ("role", "from", "speaker")
_SAID: Final = ("content", "value", "text")
_LEARNT: Final = ("weight", "train")
"""Whether an answer is to be learnt from, in a field of its message."""

Fields = Mapping[str, Any]


class LeftOut(ValueError):
    """Why a record is left out, as it reads in the log."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a record is."""

    kind: str
    value: str | list[Message] | Comparison | Problem
    note: str = ""
    """What was done to it that its writer may not expect."""


def take(record: Any, source: str) -> Taken:
    """What one record is; LeftOut with the reason when it is of no use. `source` is what its comparisons come from."""
    if isinstance(record, list) and record and all(isinstance(turn, dict) and _is_turn(turn) for turn in record):
        record = {"messages": record}
    if not isinstance(record, dict):
        raise LeftOut(f"records that are {_json_name(record)} and no object are of no known kind")
    fields = _filled(record)
    chosen, rejected = _first(fields, _CHOSEN), _first(fields, _REJECTED)
    if chosen and rejected and _says(fields, chosen, rejected):
        comparison, note = _comparison(fields, source)
        return Taken(kind=COMPARISON, value=comparison, note=note)
    if (talk := _first(fields, _TALK)) and _says(fields, talk):
        return Taken(kind=CONVERSATION, value=_conversation(fields, _turns(fields[talk])))
    if problem := _checked(fields, source):
        return Taken(kind=PROBLEM, value=problem)
    asked, answer = _first(fields, _ASKED), _answer_field(fields)
    is_answered = answer is not None and _says(fields, answer)
    if not (asked and is_answered) and (problem := _problem(fields, source)):
        return Taken(kind=PROBLEM, value=problem)
    if asked and answer and _says(fields, asked, answer):
        return Taken(kind=CONVERSATION, value=_conversation(fields, _answered(fields[answer], is_prompted=True)))
    text = _first(fields, _TEXT)
    if text and not _lacks_an_answer(record, fields):
        document = _text(fields, text)
        if not document:
            raise LeftOut("the text is empty")
        return Taken(kind=DOCUMENT, value=document)
    raise LeftOut(_fault(record, fields))


def clean(text: str) -> str:
    """A text as it was meant: one line end, no byte-order marks, nothing around it; LeftOut for half characters."""
    try:
        return whole_characters(one_line_end(text).replace("\ufeff", "").strip())
    except ValueError as error:
        raise LeftOut(str(error)) from error


# --- Fields ------------------------------------------------------------------------------------------


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: null, and in tables also what is not a finite number."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _filled(record: Mapping[Any, Any]) -> dict[str, Any]:
    """The fields with a value, under plain names; the first of several that come to the same name."""
    fields: dict[str, Any] = {}
    for name, value in record.items():
        if not is_missing(value) and value not in ([], {}):
            fields.setdefault(_plain_name(str(name)), value)
    return fields


def _says(fields: Fields, *names: str) -> bool:
    """Whether any of these fields holds more than blanks: tables are padded with those, too."""
    return any(not isinstance(fields[name], str) or fields[name].strip("\ufeff \t\r\n") for name in names)


def _plain_name(name: str) -> str:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip("\ufeff \t"))
    return re.sub(r"[\s-]+", "_", name).lower()


def _first(fields: Fields, names: Iterable[str]) -> str | None:
    """The first of `names` that is there and says something, else the first that is there."""
    there = [name for name in names if name in fields]
    return next((name for name in there if _says(fields, name)), there[0] if there else None)


def _answer_field(fields: Fields) -> str | None:
    """The field with the answer; an instruction's may be called "answer", a question's that is a problem's result."""
    is_instruction = _first(fields, _ASKED) == "instruction"
    return _first(fields, (*_ANSWER, "answer") if is_instruction else _ANSWER)


def _lacks_an_answer(record: Mapping[Any, Any], fields: Fields) -> bool:
    """Whether something is asked and the answer's field is empty: a text beside it is a template's, no document."""
    names = {_plain_name(str(name)) for name in record}
    asked = _first(fields, _ASKED)
    is_asked = asked is not None and _says(fields, asked) and not names.isdisjoint((*_ANSWER, "answer"))
    compared = [_first(fields, names) for names in (_CHOSEN, _REJECTED)]
    return is_asked or any(name is not None and _says(fields, name) for name in compared)


def _fault(record: Mapping[Any, Any], fields: Fields) -> str:
    """Why a record is of no kind: a field that should say something does not, or none of them is known."""
    known = {*_CHOSEN, *_REJECTED, *_TALK, *_ASKED, *_ANSWER, *_PROBLEM, *_RESULT, *_TEXT, "answer", "continuation"}
    known |= {*_CHOICES, *_ACCEPT, *_PATTERN}
    known.remove("input")  # most instructions have none
    empty = [
        name
        for name in map(str, record)
        if (plain := _plain_name(name)) in known and not (plain in fields and _says(fields, plain))
    ]
    if empty:
        return f"there is no value in {', '.join(sorted(empty))}"
    names = ", ".join(map(str, record)) or "no fields"
    return f"records with {names:.200} are of no known kind"


def _json_name(value: Any) -> str:
    names = {list: "lists", str: "texts", bool: "true or false", int: "numbers", float: "numbers"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def _said(value: Any, what: str) -> str:
    """The text in a value: itself, a number as it is written, or OpenAI's list of parts, joined; LeftOut for others."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        parts = [_part(part) for part in value]
        joined = parts[0]
        for part in parts[1:]:
            joined += part if joined[-1:].isspace() or part[:1].isspace() else f"\n{part}"
        return clean(joined)
    raise LeftOut(f"{what} should be a text")


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str) and str(part.get("type", "text")).endswith("text"):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else None
    raise LeftOut(f"a message has a part that is no text ({kind!s:.40})")


def _text(fields: Fields, name: str) -> str:
    return _said(fields[name], repr(name))


def _joined(fields: Fields, names: Iterable[str]) -> str:
    """The texts of these fields, as paragraphs."""
    return "\n\n".join(text for name in names if name in fields and (text := _text(fields, name)))


# --- Conversations -----------------------------------------------------------------------------------


def _turns(value: Any) -> list[Message]:
    """Messages in either notation, roles put into ours; without what is empty and says nothing."""
    if isinstance(value, str):
        turns = _dialogue(value)
        if not turns:
            raise LeftOut("the conversation should be a list of messages")
        return turns
    if not isinstance(value, list) or not value:
        raise LeftOut("the conversation should be a list of messages")
    turns = [_message(item) for item in value]
    return [turn for turn in turns if turn["content"] or turn["role"] != "system"]


def _message(item: Any) -> Message:
    if not isinstance(item, dict):
        raise LeftOut("every message should be an object")
    fields = _filled(item)
    name = str(fields.get(_first(fields, _ROLE) or "", None)).strip().casefold()
    if name in _TOOLS or fields.get("tool_calls") or fields.get("function_call"):
        raise LeftOut("it calls tools, which is not taught here")
    if name not in _ROLES:
        raise LeftOut(f"unknown role {name!r:.40} in a message")
    said = _first(fields, _SAID)
    message: Message = {"role": _ROLES[name], "content": _said(fields[said], "a message") if said else ""}
    if message["role"] == "assistant" and not _is_learnt(fields):
        message["weight"] = 0
    return message


def _is_learnt(fields: Fields) -> bool:
    name = _first(fields, _LEARNT)
    weight = fields[name] if name else 1
    if not isinstance(weight, int | float) or weight not in (0, 1):
        raise LeftOut(f"the {name} of a message should be 0 or 1, not {weight!r:.40}")
    return bool(weight)


def _dialogue(text: str) -> list[Message]:
    """ "\\n\\nHuman: …\\n\\nAssistant: …" as messages; nothing for a text that does not begin so."""
    before, *parts = _SPEAKERS.split(one_line_end(text).replace("\ufeff", "").rstrip())
    if before.strip():
        return []
    roles = ("user" if speaker == "Human" else "assistant" for speaker in parts[::2])
    return [{"role": role, "content": clean(said)} for role, said in zip(roles, parts[1::2], strict=True)]


def _answered(value: Any, *, is_prompted: bool) -> list[Message]:
    """A chosen or rejected value or a completion, in any notation, as turns; just the answer if it stands alone.

    A text beside a prompt is the answer, whatever it quotes; alone it is a dialogue.
    """
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list) and value and all(isinstance(item, dict) and _is_turn(item) for item in value):
        return _turns(value)
    if not is_prompted and isinstance(value, str) and (turns := _dialogue(value)):
        return turns
    return [{"role": "assistant", "content": _said(value, "an answer")}]


def _is_turn(item: Mapping[Any, Any]) -> bool:
    """Whether an object is a message, and no part of one."""
    return any(_plain_name(str(name)) in _ROLE for name in item)


def _opening(fields: Fields) -> list[Message]:
    """System text and history, where they stand beside the question."""
    turns: list[Message] = []
    if (name := _first(fields, _SYSTEM)) and (system := _text(fields, name)):
        turns.append({"role": "system", "content": system})
    history = fields["history"] if "history" in fields and _says(fields, "history") else []
    if not isinstance(history, list):
        raise LeftOut("'history' should be a list of questions with their answers")
    for item in history:
        if isinstance(item, dict):
            turns.append(_message(item))
        elif isinstance(item, list | tuple) and len(item) == 2:
            turns += [
                {"role": "user", "content": _said(item[0], "a question in 'history'")},
                {"role": "assistant", "content": _said(item[1], "an answer in 'history'")},
            ]
        else:
            raise LeftOut("'history' should be a list of questions with their answers")
    return turns


def _beside(fields: Fields) -> list[Message]:
    """What stands before an answer of its own field: system text, history and question; or nothing."""
    opening = _opening(fields)
    if (talk := _first(fields, _TALK)) and _says(fields, talk):
        return _behind(opening, _turns(fields[talk]))
    asked = _first(fields, _ASKED)
    if asked is None:
        return opening
    if asked == "instruction":
        more = (name for name in _MORE if isinstance(fields.get(name), str) and fields[name].strip())
        return [*opening, {"role": "user", "content": _joined(fields, ("instruction", *list(more)[:1]))}]
    value = fields[asked]
    if isinstance(value, list) and all(isinstance(item, dict) and _is_turn(item) for item in value):
        return _behind(opening, _turns(value))
    if isinstance(value, str) and re.search(r"\n\nAssistant: ?$", value.rstrip("\n")) and (turns := _dialogue(value)):
        return _behind(opening, turns[:-1])
    context = ["context"] if asked in ("question", "query") else []
    return [*opening, {"role": "user", "content": _joined(fields, (*context, asked))}]


def _behind(opening: list[Message], turns: list[Message]) -> list[Message]:
    """The turns behind what stands beside them, with one system text: both, where they differ."""
    systems = [turn["content"] for turn in (*opening, *turns[:1]) if turn["role"] == "system"]
    rest = [turn for turn in opening if turn["role"] != "system"]
    if turns and turns[0]["role"] == "system":
        turns = turns[1:]
    system = "\n\n".join(dict.fromkeys(systems))
    return [*([{"role": "system", "content": system}] if system else []), *rest, *turns]


def _conversation(fields: Fields, turns: list[Message]) -> list[Message]:
    """All turns up to the last answer that is learnt from; LeftOut where nothing is asked or answered."""
    label = fields.get("label")
    if label is False or str(label).casefold() == "false":  # KTO data
        raise LeftOut("the answer is marked as a bad one")
    talk = _first(fields, _TALK)
    is_talk = talk is not None and _says(fields, talk)
    turns = _behind(_opening(fields), turns) if is_talk else [*_beside(fields), *turns]
    answers = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    learnt = [index for index in answers if turns[index].get("weight") != 0]
    if answers and not learnt:
        raise LeftOut("every answer has weight 0, so there is nothing to learn")
    turns = turns[: learnt[-1] + 1] if learnt else []
    if not any(turn["role"] == "user" for turn in turns):
        raise LeftOut("the conversation has no question with an answer")
    _check_said(turns)
    return turns


def _check_said(turns: Iterable[Message]) -> None:
    for turn in turns:
        if not turn["content"]:
            raise LeftOut("an answer is empty" if turn["role"] == "assistant" else "a question is empty")


# --- Comparisons -------------------------------------------------------------------------------------


def _comparison(fields: Fields, source: str) -> tuple[Comparison, str]:
    """The comparison, and a note when its conversations went on after the answers that are compared."""
    before = _beside(fields)
    is_prompted = any(turn["role"] == "user" for turn in before)
    values = [fields[str(_first(fields, names))] for names in (_CHOSEN, _REJECTED)]
    chosen, rejected = (
        _whole(before, _answered(value, is_prompted=is_prompted and not _repeats(value, fields.get("prompt"))))
        for value in values
    )
    count = 0
    while count < min(len(chosen), len(rejected)) and chosen[count] == rejected[count]:
        count += 1
    is_same = count == len(chosen) == len(rejected)
    if is_same:
        count = max((index for index, turn in enumerate(chosen) if turn["role"] == "assistant"), default=0)
    elif count == min(len(chosen), len(rejected)):
        raise LeftOut("one of the two conversations is the beginning of the other")
    context, better, worse = chosen[:count], chosen[count], rejected[count]
    if {better["role"], worse["role"]} != {"assistant"}:
        raise LeftOut("the two conversations part at a question, so their answers are not to the same one")
    if not context or context[-1]["role"] != "user":
        raise LeftOut("a comparison needs an 'instruction', a 'prompt' or a conversation that ends with the user")
    _check_said([*context, better, worse])
    outcome = fields.get("outcome", "win")  # votes of ours say so; both texts are there in a tie too
    if outcome not in OUTCOMES:
        raise LeftOut(f"Unknown outcome {outcome!r:.40}; choose one of {', '.join(OUTCOMES)}.".rstrip("."))
    if outcome == "win" and is_same:
        outcome = "tie"
    is_cut = max(len(chosen), len(rejected)) > count + 1
    note = "the conversations went on after the answers at which they part, and were cut there" if is_cut else ""
    comparison = Comparison(
        messages=context, chosen=better["content"], rejected=worse["content"], outcome=outcome, source=source
    )
    return comparison, note


def _repeats(value: Any, prompt: Any) -> bool:
    """Whether a dialogue begins with the dialogue that stands beside it as its prompt."""
    are_texts = isinstance(value, str) and isinstance(prompt, str)
    return are_texts and value.startswith(prompt) and bool(_dialogue(prompt))


def _whole(before: list[Message], turns: list[Message]) -> list[Message]:
    """A conversation from its beginning, answers in a row joined; what stands before it may be told in it, too."""
    bare = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    if bare[0]["role"] != "assistant":
        told = [turn for turn in bare if turn["role"] != "system"]
        wanted = [{"role": turn["role"], "content": turn["content"]} for turn in before if turn["role"] != "system"]
        if told[: len(wanted)] != wanted and not (len(wanted) == 1 and wanted[0] in told):
            raise LeftOut("the prompt beside the answers is not what they begin with")
        bare = _behind([turn for turn in before if turn["role"] == "system"], bare)
    elif before and before[-1]["role"] == "assistant":
        raise LeftOut("the prompt beside the answers ends with an answer")
    else:
        bare = [*({"role": turn["role"], "content": turn["content"]} for turn in before), *bare]
    whole: list[Message] = []
    for turn in bare:
        if whole and whole[-1]["role"] == turn["role"] == "assistant":
            whole[-1] = {"role": "assistant", "content": f"{whole[-1]['content']}\n\n{turn['content']}".strip()}
        else:
            whole.append(turn)
    return whole


# --- Problems ----------------------------------------------------------------------------------------

_TERM = re.compile(r"(?<![\d)])-?\d+|[-+*]")


def work_expression(expression: str) -> str | None:
    """ "25+3*2" worked step by step (products first), or None if it is not such an expression."""
    expression = re.sub(r"[\s=?]", "", expression)
    if not re.fullmatch(r"-?\d+([-+*]-?\d+)+", expression):
        return None
    terms = _TERM.findall(expression)
    steps = []
    while len(terms) > 1:
        at = terms.index("*") if "*" in terms else 1
        a, operator, b = int(terms[at - 1]), terms[at], int(terms[at + 1])
        result = a * b if operator == "*" else a + b if operator == "+" else a - b
        steps.append(f"{a} {operator} {b} = {result}.")
        terms[at - 1 : at + 2] = [str(result)]
    return " ".join([*steps, f"The answer is {terms[0]}."])


def _worked(prompt: str, answer: str, steps: str) -> str:
    """A model answer that ends with the result: the steps shown with the problem, else our own, else none."""
    steps = re.sub(r"<<[^<>]*>>", "", steps)
    steps = steps.partition("####")[0].strip()
    own = work_expression(prompt)
    if not steps and own is not None and stated_answer(own) == answer:
        return own
    return steps if stated_answer(steps[-LONGEST_GRADED:]) == answer else f"{steps} The answer is {answer}.".strip()


def _checked(fields: Fields, source: str) -> Problem | None:
    """The problem in a record that says how an answer to it is checked, other than by a number; None for any other."""
    question = _first(fields, _CHECKED)
    if question is None:
        return None
    value = fields[question]
    if isinstance(value, dict):  # AI2's own files: the choices stand in the question
        fields = {**value, **fields}
        question = "stem" if isinstance(value.get("stem"), str) else question
    if not _says(fields, question):
        return None
    names = [_first(fields, names) for names in (_CHOICES, _ACCEPT, _PATTERN)]
    choices, accept, pattern = (name if name is not None and _says(fields, name) else None for name in names)
    if choices and (right := _first(fields, _RIGHT_CHOICE)) and isinstance(fields[choices], list | dict):
        return _choice(fields, question, _options(fields[choices]), fields[right], source)
    if accept:
        given = fields[accept] if isinstance(fields[accept], list) else [fields[accept]]
        texts = tuple(dict.fromkeys(text for one in given if (text := _said(one, f"an entry of {accept!r}"))))
        if not texts:
            raise LeftOut(f"there is no text in {accept}")
        return _finished(fields, _asked(fields, question), texts[0], source, kind=TEXT, worked=texts[0], accept=texts)
    if pattern:
        expression = fields[pattern]
        if not isinstance(expression, str):
            raise LeftOut("its pattern should be a text")
        try:
            check_pattern(expression)
        except ValueError as error:
            raise LeftOut(str(error)) from error
        return _pattern(fields, _asked(fields, question), expression, source)
    return None


def _asked(fields: Fields, question: str) -> str:
    return _joined(fields, ("context", question))


def _options(value: Any) -> list[str]:
    """The texts to choose from, in order, without letters before them."""
    if isinstance(value, dict):
        texts = value.get("text", value.get("texts"))
        value = texts if isinstance(texts, list) else [value[letter] for letter in sorted(value)]
    options = []
    for place, one in enumerate(value):
        text = _said(one.get("text") if isinstance(one, dict) else one, "a choice")
        letter = LETTERS[place : place + 1]
        options.append(re.sub(rf"^\(?{letter}[).:] *(?=\S)", "", text) if letter else text)
    if not 2 <= len(options) <= len(LETTERS):
        raise LeftOut(f"a choice is between 2 and {len(LETTERS)} options, not {len(options)}")
    if not all(options) or len({plain_text(option) for option in options}) < len(options):
        raise LeftOut("an option is empty or repeats another one")
    return options


def _choice(fields: Fields, question: str, options: list[str], right: Any, source: str) -> Problem:
    letter = _right_letter(right, options)
    prompt = _asked(fields, question)
    if options != list(LETTERS[: len(options)]):  # else the question lists them, and these are their letters
        prompt += f"\n{listed(options)}"
    steps = clean(fields["rationale"]) if isinstance(fields.get("rationale"), str) else ""
    return _finished(
        fields,
        prompt,
        letter,
        source,
        kind=CHOICE,
        worked=f"{steps}\nThe answer is ({letter}).".strip(),
        options=tuple(options),
    )


def _right_letter(value: Any, options: list[str]) -> str:
    """The letter of the right option: named by its letter, its place from 0, or its text."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value in range(len(options)):
        return letter_of(int(value))
    if isinstance(value, str):
        name = value.strip().strip("().:").strip()
        if len(name) == 1 and name.upper() in LETTERS[: len(options)]:
            return name.upper()
        texts = [plain_text(option) for option in options]
        if plain_text(value) in texts:
            return letter_of(texts.index(plain_text(value)))
        if name.isdecimal() and 1 <= int(name) <= len(options):  # ARC counts some choices from 1, in texts
            return letter_of(int(name) - 1)
    raise LeftOut("the right choice is none of the options")


def _pattern(fields: Fields, prompt: str, pattern: str, source: str) -> Problem:
    """A problem checked by a pattern; its model answer is the record's own, if that is right."""
    problem = _finished(fields, prompt, pattern, source, kind=PATTERN, worked="")
    shown = clean(fields["answer"]) if isinstance(fields.get("answer"), str) else ""
    return replace(problem, worked=shown) if shown and judge(problem, shown).correct else problem


def _problem(fields: Fields, source: str) -> Problem | None:
    """The problem in a record whose answer is a number, or None if it is none."""
    question = _first(fields, _PROBLEM)
    result = _first(fields, (*_RESULT, "answer"))
    if not all(_says(fields, name) for name in (question, result) if name):
        return None
    if {"body", "question", "answer"} <= fields.keys():
        prompt = f"{_text(fields, 'body').rstrip('.')}. {_text(fields, 'question')}"
        return _make_problem(fields, prompt, _text(fields, "answer"), "", source)
    if question and result:
        shown = fields["answer"] if isinstance(fields.get("answer"), str) else ""
        steps = clean(shown) if result in _RESULT or "####" in shown else ""
        if isinstance(solution := fields.get("solution"), str) and not steps:
            steps = clean(solution)
        prompt = _joined(fields, ("context", question))
        return _make_problem(fields, prompt, _text(fields, result), steps, source)
    if {"context", "continuation"} <= fields.keys():
        return _make_problem(fields, _text(fields, "context"), _text(fields, "continuation"), "", source)
    return None


def _make_problem(fields: Fields, prompt: str, answer_text: str, steps: str, source: str) -> Problem:
    """A problem; with `steps`, the answer may be a text that names its number."""
    answer = gold_number(answer_text) or (named_number(answer_text[-LONGEST_GRADED:]) if steps else None)
    if answer is None:
        raise LeftOut("the answer is no number")
    return _finished(fields, prompt, answer, source, kind=NUMBER, worked=_worked(prompt, answer, steps))


def _finished(fields: Fields, prompt: str, answer: str, source: str, *, kind: str, worked: str, **more: Any) -> Problem:
    """A problem that can be asked alone, and how hard it is."""
    if not fits(prompt, LONGEST_PROMPT_BYTES):
        raise LeftOut(f"the problem is empty or longer than {LONGEST_PROMPT_BYTES} bytes")
    opening = _opening(fields)
    if any(turn["role"] != "system" for turn in opening):
        raise LeftOut("the problem comes after other turns, and problems are asked alone")
    difficulty = _said_difficulty(fields)
    if kind == NUMBER and not difficulty:
        difficulty = counted_difficulty(prompt, worked, str(fields.get("equation", "")))
    return Problem(
        prompt=prompt,
        answer=answer,
        family=source,
        difficulty=difficulty,
        worked=worked,
        system=opening[0]["content"] if opening else "",
        kind=kind,
        **more,
    )


def _said_difficulty(fields: Fields) -> int:
    """The difficulty a record says, or UNKNOWN."""
    name = _first(fields, _DIFFICULTY)
    value = fields[name] if name else None
    if isinstance(value, str):
        word = value.strip().casefold()
        if word in _WORDS_OF_DIFFICULTY:
            return _WORDS_OF_DIFFICULTY[word]
        found = re.fullmatch(r"(?:level |difficulty )?(\d{1,3})", word)
        value = int(found[1]) if found else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 1 <= value <= MOST_DIFFICULT:
        return UNKNOWN
    return int(value)


def counted_difficulty(prompt: str, worked: str, equation: str = "") -> int:
    """1 to 4 by how many steps a problem with numbers has and how long those are; UNKNOWN where it shows no step."""
    operators = len(re.findall(r"(?<=[\d)])\s*[-+*/x×÷]", equation or prompt)) or worked.count("=")
    if not operators:
        return UNKNOWN
    size = max((len(number) for number in re.findall(r"\d+", prompt)), default=1)
    return min(4, max(1, operators + (size > 1) + (size > 2) - 1))


def fits(text: str, longest_bytes: int) -> bool:
    """Whether a text says something, and in no more than `longest_bytes` of UTF-8."""
    return bool(text.strip()) and len(text.encode()) <= longest_bytes
