"""Documents: stories, an encyclopaedia, lessons, sums and worked word problems.

Every fact is stated hundreds of times in many wordings, orders and surroundings, because pre-training makes
a fact answerable only when it was seen in many ways. No document is in chat format.

What is held out: a tenth of the stories by combination (plot, hero and animal) and a tenth of the articles by
theirs (entity and order of facts, where it has three facts or more); `is_held_out` keeps these out of the training
documents. Held-out documents of every other kind are only fresh draws from another seed. `shipped` drops those that
repeat a training document, but most of their sentences do occur in training: a half in stories, two thirds in surveys,
nine in ten or more elsewhere. So bits per byte on them say how well this world and its wordings are learnt, and
little about any other text.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from trainer.world.conversations import ADVICE_HELD_OUT, Manner, answer_fact, doubtful_exchange
from trainer.world.english import pick, punctuate, say, sentence, shuffled
from trainer.world.facts import ENTITIES, FACTS, Fact
from trainer.world.forms import few_words, form_request, one_word
from trainer.world.problems import make_problem
from trainer.world.questions import question as question_about
from trainer.world.small_talk import UNKNOWN, outside_question, small_talk_parts
from trainer.world.statements import FRIENDS, fact_slots, state, tell_fact
from trainer.world.stories import choose_cast, write_story
from trainer.world.themes import NAMES
from trainer.world.topics import ADVICE, OPEN
from trainer.world.wordings import MODEL_DETAILS, MODEL_EXAMPLES, REMARKS

HELD_OUT_SHARE: Final = 0.1
_DIFFICULTIES: Final = (1, 1, 1, 2, 2, 3, 3, 4)
"""Of the problems that are read: mostly easy ones, from which a model learns sooner to find the numbers of a story."""


def is_held_out(*key: str) -> bool:
    """Whether a combination belongs to the held-out documents: a fixed tenth, by hash, whatever the seed."""
    return hashlib.sha256("/".join(key).encode()).digest()[0] < 256 * HELD_OUT_SHARE


class Deck:
    """Deals facts in random order, all of them before any comes again, so each is seen equally often."""

    def __init__(self, rng: random.Random, facts: Sequence[Fact]) -> None:
        self._rng, self._facts, self._left = rng, facts, list[Fact]()

    def deal(self) -> Fact:
        if not self._left:
            self._left = shuffled(self._rng, self._facts)
        return self._left.pop()


class Prose:
    """An endless stream of documents, training or held-out."""

    def __init__(self, seed: int, *, held_out: bool) -> None:
        self.rng = random.Random(f"prose/{seed}/{held_out}")
        self.held_out = held_out
        self.deck = Deck(self.rng, FACTS)
        self.by_entity: dict[str, list[Fact]] = {}
        self.by_attribute: dict[str, list[Fact]] = {}
        for fact in FACTS:
            self.by_entity.setdefault(fact.entity.noun, []).append(fact)
            group = fact.attribute if fact.attribute != "meaning" else fact.entity.kind
            self.by_attribute.setdefault(group, []).append(fact)
        kinds: list[tuple[int, Callable[[], str]]] = [
            (5, self.story), (4, self.article), (2, self.survey), (5, self.lesson), (11, self.quiz), (2, self.mixture),
            (2, self.model_page), (2, self.handbook), (10, self.phrase_book), (6, self.sums), (20, self.problems),
        ]  # fmt: skip
        self._kinds = [make for weight, make in kinds for _ in range(weight)]

    def documents(self) -> Iterator[str]:
        while True:
            yield pick(self.rng, self._kinds)()

    def _allowed(self, *key: str) -> bool:
        return is_held_out(*key) == self.held_out

    # --- stories and facts ---

    def story(self) -> str:
        """A story whose plot, hero and animal are not met together in the other split."""
        while True:
            plot, hero, animal = choose_cast(self.rng)
            if self._allowed(plot, hero, animal):
                return write_story(self.rng, plot, hero, animal)

    def article(self) -> str:
        """An encyclopaedia entry: everything about one entity, some of it said twice, in random order."""
        rng = self.rng
        while True:
            noun = self.deck.deal().entity.noun
            facts = self.by_entity[noun]
            order = shuffled(rng, facts * 2)[: max(3, rng.randint(len(facts), 2 * len(facts)))]
            if self._allowed("article", noun, *(fact.attribute for fact in order)) or len(facts) < 3:
                break
        lines = [state(rng, fact) for fact in order]
        entity = ENTITIES[noun]
        if entity.kind == "model":
            lines += [sentence(text) for text in rng.sample(MODEL_DETAILS[noun], 2)]
        else:
            lines += [
                say(rng, text, fact_slots(rng, facts[0]))
                for text in rng.sample(REMARKS[entity.kind], rng.randint(0, 2))
            ]
        return " ".join(lines)

    def survey(self) -> str:
        """One attribute over several entities: "A rabbit eats grass, but a bear eats honey." """
        rng = self.rng
        attribute = pick(rng, tuple(self.by_attribute))
        facts = self.by_attribute[attribute]
        chosen = rng.sample(facts, min(len(facts), rng.randint(4, 8)))
        lines = []
        while chosen:
            first = chosen.pop()
            if chosen and rng.random() < 0.5:
                second = chosen.pop()
                left = state(rng, first, plain=True)[:-1]
                right = state(rng, second, plain=True)
                right = right if second.entity.kind in {"villager", "model"} else right[0].lower() + right[1:]
                lines.append(f"{left}, {pick(rng, ('but', 'and', 'while'))} {right}")
            else:
                lines.append(state(rng, first))
        return " ".join(lines)

    def lesson(self) -> str:
        """People ask and answer, as in a story (no chat format)."""
        rng = self.rng
        child, other = rng.sample(FRIENDS, 2)
        opening = "[at school|in the garden|on the way home|after lunch|in the evening], {c} and {o} [talked|sat down]."
        lines = [say(rng, opening, {"c": child, "o": other})]
        for _ in range(rng.randint(3, 5)):
            fact = self.deck.deal()
            lines.append(self._exchange(fact, child, other))
            child, other = (other, child) if rng.random() < 0.5 else (child, other)
        return " ".join(lines)

    def _exchange(self, fact: Fact, child: str, other: str) -> str:
        rng = self.rng
        question = punctuate(question_about(rng, fact))
        answer = tell_fact(rng, fact)[:-1]
        if question.endswith("."):
            return f'"{question[:-1]}," said {child}. "{answer}," said {other}.'
        return f'"{question}" asked {child}. "{answer}," {pick(rng, ("said", "answered"))} {other}.'

    def quiz(self) -> str:
        """A page of questions with their answers, as in a puzzle book: how a fact comes to answer a question."""
        rng = self.rng
        lines = []
        for _ in range(rng.randint(5, 8)):
            fact = self.deck.deal()
            if rng.random() < 0.12:
                said, answer = pick(rng, (one_word, few_words))(rng, FACTS)
                lines.append(f"{punctuate(said)} {answer}")
                continue
            question = punctuate(question_about(rng, fact))
            manner = Manner(long=rng.random() < 0.15, friendly=False, example=False)
            lines.append(f"{question} {answer_fact(rng, fact, manner)}")
        return "\n".join(lines)

    def phrase_book(self) -> str:
        """A page of what people say and what is said to it: greetings, forms, choices, what nobody here knows."""
        rng = self.rng
        lines: list[str] = []
        for _ in range(rng.randint(5, 9)):
            speak = pick(rng, (self._small_talk, self._form, self._outside, self._small_talk, self._form, self._doubt))
            said, answer = speak()
            # Whoever types "thanks" is understood if that was read, too: small letters are other tokens.
            lines.append(f"{punctuate(said, capital=not lines)} {answer}")
        return "\n".join(lines)

    def _small_talk(self) -> tuple[str, str]:
        said, core, *_ = small_talk_parts(self.rng)
        return said, core

    def _form(self) -> tuple[str, str]:
        return form_request(self.rng, FACTS)

    def _outside(self) -> tuple[str, str]:
        return outside_question(self.rng), pick(self.rng, UNKNOWN.cores)

    def _doubt(self) -> tuple[str, str]:
        """A choice of two values, or whether something is so."""
        return doubtful_exchange(self.rng, self.deck.deal())

    def mixture(self) -> str:
        """Single facts in a row, each in any wording."""
        return " ".join(state(self.rng, self.deck.deal()) for _ in range(self.rng.randint(5, 9)))

    def model_page(self) -> str:
        """How language models are made."""
        rng = self.rng
        facts = rng.sample(self.by_attribute["model"], 3)
        lines = []
        for fact in facts:
            noun = fact.entity.noun
            lines += [state(rng, fact), *map(sentence, rng.sample(MODEL_DETAILS[noun], rng.randint(1, 2)))]
            if rng.random() < 0.4:
                lines.append(say(rng, "[For example|For instance], " + pick(rng, MODEL_EXAMPLES[noun])))
        return " ".join(lines)

    def handbook(self) -> str:
        """Advice on everyday things, and about the village."""
        rng = self.rng
        lines = []
        for name in rng.sample(tuple(ADVICE), 2):
            topic = ADVICE[name]
            if rng.random() < 0.5:
                lines.append(punctuate(pick(rng, topic.questions[:-ADVICE_HELD_OUT])))
            else:
                lines.append(say(rng, "[many|some|all] people want to {vp}.", {"vp": name}))
            lines += [pick(rng, topic.cores), *rng.sample(topic.details, rng.randint(1, 3))]
            if rng.random() < 0.5:
                lines.append(f"{pick(rng, ('For example', 'For instance'))}, {pick(rng, topic.examples)}")
        if rng.random() < 0.3:
            topic = pick(rng, tuple(OPEN.values()))
            lines += [pick(rng, topic.cores), *rng.sample(topic.details, 2)]
        return " ".join(lines)

    # --- arithmetic ---

    def sums(self) -> str:
        """An exercise book page: every sum up to 20 comes many times."""
        rng = self.rng
        lines = []
        total = rng.randint(1, 20)
        style = rng.random()
        for _ in range(rng.randint(10, 20)):
            if style > 0.35:
                total = rng.randint(0, 20)
            up = rng.random() < 0.5
            limit = 20 if rng.random() < 0.9 else 30
            if up and total < limit:
                change = rng.randint(0, min(limit - total, 20))
                lines.append(f"{total} + {change} = {total + change}.")
                total += change
            else:
                change = rng.randint(0, total)
                lines.append(f"{total} - {change} = {total - change}.")
                total -= change
        return " ".join(lines)

    def problems(self) -> str:
        """Word problems worked in steps, in a textbook's words."""
        rng = self.rng
        return " ".join(self._problem(rng) for _ in range(rng.randint(2, 4)))

    def _problem(self, rng: random.Random) -> str:
        problem = make_problem(rng, pick(rng, _DIFFICULTIES))
        style = rng.random()
        if style < 0.75:
            return f"{punctuate(problem.prompt)} {problem.worked}"
        name, pronoun = pick(rng, NAMES)
        item = pick(rng, ("apples", "pears", "nuts", "books", "coins", "cards", "eggs", "stones", "shells"))
        total = rng.randint(2, 15)
        lines = [f"{name} has {total} {item}."]
        for _ in range(rng.randint(1, 3)):
            if (rng.random() < 0.5 or total < 3) and total < 19:
                change = rng.randint(2, min(9, 21 - total))
                verb = pick(rng, ("buys {} more", "finds {} more", "gets {} more", "gets {} from a friend"))
                lines.append(f"{pronoun.capitalize()} {verb.format(change)}. {total} + {change} = {total + change}.")
                total += change
            else:
                change = rng.randint(2, min(9, total))
                verb = pick(rng, ("gives {} away", "loses {}", "sells {}", "gives {} to a friend"))
                lines.append(f"{pronoun.capitalize()} {verb.format(change)}. {total} - {change} = {total - change}.")
                total -= change
            lines.append(f"Now {pronoun} has {total} {item}.")
        return " ".join(lines)


def write_documents(seed: int, size_bytes: int, *, held_out: bool) -> list[str]:
    """About `size_bytes` of documents, no two the same."""
    documents: dict[str, None] = {}
    size = 0
    for document in Prose(seed, held_out=held_out).documents():
        if document in documents:
            continue
        documents[document] = None
        size += len(document.encode())
        if size >= size_bytes:
            break
    return list(documents)
