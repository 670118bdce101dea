"""One sum, without a story or in a single sentence: "8 plus 6", "3 less than 10", "a book of 12 pages, 5 are read".

Each template gives the numbers as {a} and {b} (and {c}), and stands under what is done to them: a + b, a - b, or a row
of three. {b} may come first: who is asked to take 3 from 10 starts with 10.
"""

from __future__ import annotations

import random
from typing import Final

from trainer.world.english import pick, raw, typed
from trainer.world.telling import NUMBER_WORDS, Person

_ASKS: Final = (
    "[What is|What's|How much is|Work out|Calculate|Solve|Tell me|Please work out|Find|Can you solve|Do you "
    "know|Give me|I need] {sum}[?|.]",
    "{Sum}[?| = ?|=| =| is what?| makes what?| makes how much?| equals]",
    "[What do you get for|What do I get for|What does|What number is|What is the answer to|What is the result of] "
    "{sum}?",
    "[How much does|What does] {sum} [make|give|come to|equal]?",
    "{Sum}, [please|what is it|how much is that|can you do that][?|.]",
    "[My homework|The question|The sum|Quick sum|Maths|Next sum|Easy one] is {sum}[.|?|. Help!]",
    "[Hey|Hi|Hello], [what is|how much is] {sum}?", "{Sum}", "{sum}?", "[Compute|Add up|Count] {sum}[.|]",
)  # fmt: skip
"""How a bare sum is asked for; "Add up" only fits what adds, which is seen to below."""

PLUS: Final = (
    "{a} + {b}",
    "{a}+{b}",
    "{a} plus {b}",
    "{a} and {b}",
    "{a} added to {b}",
    "the sum of {a} and {b}",
    "{b} more than {a}",
    "{a} and {b} together",
)
MINUS: Final = (
    "{a} - {b}",
    "{a}-{b}",
    "{a} minus {b}",
    "{a} less {b}",
    "{a} take away {b}",
    "{b} less than {a}",
    "{a} without {b}",
    "{b} from {a}",
    "the difference between {a} and {b}",
)
WHOLE_PLUS: Final = (
    "[Add|Please add|Can you add] {a} [and|to] {b}[.|?]",
    "[If I add|If you add] {b} to {a}, what [do I get|is it|comes out]?",
    "[I think of|Take|Start with] {a}[. I add|. Add|, and add] {b}. [What do I get|What is it|What now]?",
    "Which number is {b} [more|greater|higher|bigger] than {a}?",
    "Count on {b} from {a}.",
    "Put {a} and {b} together. How much is it?",
)
WHOLE_MINUS: Final = (
    "[Subtract|Take|Take away] {b} from {a}[.|. What is left?]",
    "[If I take|If you take] {b} [away from|from] {a}, what [is left|do I get|remains]?",
    "[I think of|Take|Start with] {a}[. I take away|. Take away|, and subtract] {b}. [What do I get|What is "
    "left|What now]?",
    "Which number is {b} [less|smaller|lower] than {a}?",
    "Count back {b} from {a}.",
    "What must I add to {b} to [get|reach] {a}?",
    "How much is missing from {b} to {a}?",
    "How far is it from {b} to {a}?",
    "{b} plus what is {a}?",
    "{b} + what = {a}?",
    "[How many|How much] more is {a} than {b}?",
)
ROW: Final = {
    (1, 1): ("{a} + {b} + {c}", "{a} plus {b} plus {c}", "{a}+{b}+{c}", "{a} and {b} and {c}",
    "the sum of {a}, {b} and {c}"),
    (1, -1): ("{a} + {b} - {c}", "{a} plus {b} minus {c}", "{a}+{b}-{c}", "{a} and {b} take away {c}"),
    (-1, 1): ("{a} - {b} + {c}", "{a} minus {b} plus {c}", "{a}-{b}+{c}", "{a} take away {b} plus {c}"),
    (-1, -1): ("{a} - {b} - {c}", "{a} minus {b} minus {c}", "{a}-{b}-{c}", "{a} take away {b} take away {c}"),
}  # fmt: skip

# One step, told in a sentence or two.
TOLD_PLUS: Final = (
    "{p} is {a} years old. How old will {he} be in {b} years?",
    "{f} is {a} years old, and {p} is {b} years older. How old is {p}?",
    "In {b} years, how old will {p} be if {he} is {a} now?",
    "[A rope|A table|A ribbon|A boat] is {a} [metres|feet] long. Another one is {b} longer. How long is it?",
    "It is {a} degrees [in the morning|outside]. It gets {b} degrees warmer. How warm is it [now|then]?",
    "{p} reads {a} pages [in the morning|on Monday] and {b} [in the evening|on Tuesday]. How many pages [is "
    "that|does {he} read]?",
    "{p} [walks|runs|swims|drives] {a} miles [and then|, then|on Monday and] {b} more. How far is that [in "
    "total|altogether|]?",
    "A [cake|pen|ball] costs {a} [coins|dollars] and a [pie|book|kite] costs {b}. [What do both cost|How much is "
    "that together|How much do I pay]?",
    "There are {a} boys and {b} girls [in a class|in the room|on a team|at the party]. How many children [is "
    "that|are there|are there in all]?",
    "[In a box|In a bag|On the table] are {a} red and {b} blue [balls|pens|cups|books]. How many are there [in "
    "total|altogether|in all|together]?",
    "[It rains|The fair lasts|A guest stays] for {a} days and then {b} [more|more days]. How many days is that?",
    "{p} [sleeps|works|plays] for {a} hours, and {f} {b} hours longer. How long is that for {f}?",
    "{p} scores {a} points and {f} scores {b}. How many points [do they have|is that] [together|in total|in all]?",
    "{a} [cars|people|birds] are here and {b} are there. How many [is that|are there in all|altogether]?",
    "[One|The first] [shelf|box|tree] has {a} [books|nuts|birds], the other [has|] {b}. How many are there "
    "[together|in all|in total]?",
    "{p} [gave away|lost|sold|ate] {b} [apples|cards|cakes] and has {a} left. How many [did {he} have at first|were "
    "there before|were there at the start]?",
    "After {b} [went home|left|flew away], there are {a} left. How many were there [before|at first|at the start]?",
    "{p} has {a} [books|pens|coins]. {f} has {b} more than {p}. How many does {f} have?",
    "{f} has {b} more [cards|eggs|toys] than {p}, who has {a}. How many has {f}?",
    "{p} picks {a} [apples|flowers], {f} picks {b}. What is the total?",
    "{a} [eggs|nuts] in one nest, {b} in another: how many [in total|altogether|in all]?",
)  # fmt: skip
TOLD_MINUS: Final = (
    "A book has {a} pages. {p} has read {b}. How many pages [are left|remain|must {he} still read]?",
    "{p} is {a} years old. {f} is {b} years younger. How old is {f}?",
    "{p} is {a} years old [now|]. How old was {he} {b} years ago?", "How old was {p} {b} years ago if {he} is {a} now?",
    "[A rope|A ribbon|A plank] is {a} [metres|feet] long. {p} cuts off {b}. How long is it [now|then]?",
    "[A bus|A boat|A room|A cinema] has {a} seats, and {b} are taken. How many are [free|empty]?",
    "{b} of {a} [seats|chairs|beds] are taken. How many are free?",
    "{p} needs {a} [eggs|nails|coins|chairs] and has {b}. How many more does {he} need?",
    "{p} has {b} [eggs|nails|coins|cups] but needs {a}. How many are missing?",
    "There are {a} candles, and {b} go out. How many still burn?",
    "It is {a} degrees. It gets {b} degrees colder. How warm is it [now|then]?",
    "The way is {a} miles long. {p} has walked {b}. How far is it [still|to go]?",
    "There are {a} children. {b} of them are boys. How many are girls?",
    "{b} of the {a} [balls|cups|birds|flowers] are red. How many are not?",
    "A [toy|ticket|ball] costs {a} coins. {p} has {b}. How much is missing?",
    "{p} pays with {a} [coins|dollars]. The [cake|book] costs {b}. [How much does {he} get back|What is the "
    "change|How much change is there]?",
    "[The shop|The baker|The stand] has {a} [cakes|rolls|pies]. {b} are sold. How many are left?",
    "{f} has {b} [books|pens|cards] less than {p}. {p} has {a}. How many does {f} have?",
    "{p} has {a} [books|toys|nuts]. {f} has {b} fewer. How many does {f} have?",
    "The race is {a} [laps|miles]. {b} are done. How many [are left|to go]?",
    "There were {b} [birds|children|cars], now there are {a}. How many came [along|to them|]?",
    "{p} had {b} [coins|cards|stones] and now has {a}. How many did {he} get?",
    "{p} had {a} [coins|cards|stones] and now has only {b}. How many [did {he} lose|are gone|are missing]?",
    "Of {a} eggs, {b} break. How many are whole?",
    "{a} [balloons|bubbles], {b} [burst|pop]. How many are left?",
    "I must do {a} sums and have done {b}. How many are left to do?",
    "{p} [has|had] {a} [sweets|cherries] [until|but then] {f} [eats|ate] {b}. What is left?",
)  # fmt: skip


def _numbers(rng: random.Random, values: tuple[int, ...], *, words: float) -> dict[str, str]:
    in_words = rng.random() < words
    return {name: NUMBER_WORDS[value] if in_words else str(value) for name, value in zip("abc", values, strict=False)}


def bare(rng: random.Random, values: tuple[int, ...], signs: tuple[int, ...]) -> str:
    """The sum of `values[0]`, then each further value with its sign, as a question without a story."""
    slots = _numbers(rng, values, words=0.2)
    if len(signs) > 1:
        templates: tuple[str, ...] = ROW[signs]  # type: ignore[index]
    else:
        adds = signs[0] > 0
        if rng.random() < 0.35:
            return typed(rng, raw(rng, pick(rng, WHOLE_PLUS if adds else WHOLE_MINUS), slots))
        templates = PLUS if adds else MINUS
    core = raw(rng, pick(rng, templates), slots)
    asks = _ASKS if signs == (1,) else _ASKS[:-1]
    return typed(rng, raw(rng, pick(rng, asks), {"sum": core, "Sum": core[0].upper() + core[1:]}))


def told(rng: random.Random, first: int, change: int, person: Person, friend: str) -> str:
    """One step as a sentence or two about `person`."""
    slots = _numbers(rng, (first, abs(change)), words=0.12)
    slots |= {"p": person.name, "he": person.he, "his": person.his, "f": friend}
    return typed(rng, raw(rng, pick(rng, TOLD_PLUS if change > 0 else TOLD_MINUS), slots))
