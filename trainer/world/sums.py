"""Sums without a story: bare ("8 plus 6", "3 less than 10") or told in a sentence or three, whose change is no event.

What is gained and lost stands in themes.py. Here is what else people ask: how much warmer, how many are missing, how
old she is in three years, what was there before, what the rest is.

A template gives the numbers as {a}, {b} and {c}, and stands under what is done to them: (1, -1) is a + b - c. They need
not come in that order: who is asked to take 3 from 10 starts with 10.
"""

from __future__ import annotations

import random
import re
from typing import Final

from trainer.world.english import pick, raw, typed
from trainer.world.telling import NUMBER_WORDS, Person

_ASKS: Final = (
    "[What is|What's|How much is|Work out|Calculate|Solve|Tell me|Please work out|Find|Can you solve|Do you "
    "know|Give me|I need] {sum}[?|.]",
    "{Sum}[?| = ?|=| =| is what?| makes what?| makes how much?| equals]",
    "[What do you get for|What do I get for|What number is|What is the answer to|What is the result of] "
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
_ROW_SIGNS: Final = (
    (" + ", " - "), (" + ", " - "), ("+", "-"), (" plus ", " minus "), (" plus ", " take away "), (" plus ", " less "),
)  # fmt: skip
"""How a row of numbers is joined, where more is added and where it is taken away."""

_ONE_UP: Final = (
    # Older, longer, warmer, later, higher
    "{p} is {a} years old. How old will {he} be in {b} years?",
    "{f} is {a} years old, and {p} is {b} years older. How old is {p}?",
    "In {b} years, how old will {p} be if {he} is {a} now?",
    "{p} is {b} years older than {f}, [who|and {f}] is {a}. How old is {p}?",
    "[A rope|A table|A ribbon|A boat] is {a} [metres|feet] long. Another one is {b} longer. How long is it?",
    "[My|The] [tree|plant|flower] was {a} [feet|inches] high and [grew|has grown] {b} more. How high is it [now|]?",
    "It is {a} degrees [in the morning|outside]. It gets {b} degrees warmer. How warm is it [now|then]?",
    "A [cat|bag|parcel|dog] weighs {a} [kilos|pounds]. It [gets|becomes] {b} heavier. How heavy is it [now|then]?",
    "A [bag|parcel] weighs {a} kilos, a [box|trunk] {b} kilos more. How heavy is the [second|other] one?",
    "{p} [stands|is] on [step|stair|floor] {a} and goes up {b} [more|]. [Where is {he} now|Which one is that]?",
    "[School|The lesson|The film] starts in {a} minutes and [lasts|takes] {b} minutes. In how many minutes [is it "
    "over|does it end]?",
    "The [train|bus] comes in {a} minutes, the [boat|tram] {b} minutes later. In how many minutes does the second one "
    "come?",
    # Two parts of a whole
    "{p} reads {a} pages [in the morning|on Monday] and {b} [in the evening|on Tuesday]. How many pages [is "
    "that|does {he} read]?",
    "{p} [walks|runs|swims|drives] {a} miles [and then|, then|on Monday and] {b} more. How far is that [in "
    "total|altogether|]?",
    "[It is|I walk] {a} miles to the [lake|town] and {b} [from there|more] to the [hill|sea]. How far is [it|that] "
    "[in all|altogether|]?",
    "A [cake|pen|ball] costs {a} [coins|dollars|euros] and a [pie|book|kite] costs {b}. [What do both cost|How much is "
    "that together|How much do I pay]?",
    "There are {a} boys and {b} girls [in a class|in the room|on a team|at the party]. How many children [is "
    "that|are there|are there in all]?",
    "[In a box|In a bag|On the table] are {a} red and {b} blue [balls|pens|cups|books]. How many are there [in "
    "total|altogether|in all|together]?",
    "[A box|A jar|This bag] holds {a} [white|big] and {b} [black|small] [stones|nuts|beads]. How many [is that|is it "
    "in all|are in it]?",
    "[It rains|The fair lasts|A guest stays] for {a} days and then {b} [more|more days]. How many days is that?",
    "{p} [sleeps|works|plays] for {a} hours, and {f} {b} hours longer. How long is that for {f}?",
    "{p} [sang|worked|played] for {a} minutes yesterday and {b} today. How long is that [together|in all]?",
    "{p} [reads|plays|walks] for {a} minutes before lunch and {b} after it. How many minutes is that?",
    "{p} scores {a} points and {f} scores {b}. How many points [do they have|is that] [together|in total|in all]?",
    "[We|Our team|They] won {a} games and lost {b}. How many games [were played|is that]?",
    "{a} [cars|people|birds] are here and {b} are there. How many [is that|are there in all|altogether]?",
    "[One|The first] [shelf|box|tree] has {a} [books|nuts|birds], the other [has|] {b}. How many are there "
    "[together|in all|in total]?",
    "{p} picks {a} [apples|flowers], {f} picks {b}. What is the total?",
    "{p} [wrote|got|sent] {a} [letters|mails|cards] last week and {b} this week. How many [were there|is that] in all?",
    "{a} [eggs|nuts] in one nest, {b} in another: how many [in total|altogether|in all]?",
    # What was there before, and whoever has more
    "{p} [gave away|lost|sold|ate] {b} [apples|cards|cakes] and has {a} left. How many [did {he} have at first|were "
    "there before|were there at the start]?",
    "After {b} [went home|left|flew away], there are {a} left. How many were there [before|at first|at the start]?",
    "Some [birds|people|children] were there. {b} [left|went away], and {a} [stayed|are still there]. How many were "
    "there [before|at first|to start with]?",
    "{p} put [cookies|cakes|nuts] on a plate. {b} were eaten, and {a} are [left|still there]. How many did {he} put "
    "there?",
    "{p} lost {b} [cards|coins|stones]. Now {he} has {a}. [What|How many] did {he} have before?",
    "{p} spent {b} [coins|dollars|euros] and has {a} left. How much did {he} have?",
    "{p} has {a} [books|pens|coins]. {f} has {b} more than {p}. How many does {f} have?",
    "{f} has {b} more [cards|eggs|toys] than {p}, who has {a}. How many has {f}?",
    "{p} has {a} [cards|nuts|books]. That is {b} less than {f} has. How many has {f}?",
    "{p} has {b} [cards|nuts|toys] fewer than {f}. {p} has {a}. How many does {f} have?",
    "Yesterday {p} [found|bought] {a} [shells|stones|cards], today {b} more than that. How many is it today?",
    "Last week {p} did {a} [sums|jumps], this week {b} more. How many is that this week?",
)  # fmt: skip
_ONE_DOWN: Final = (
    # What is left, and the rest
    "A book has {a} pages. {p} has read {b}. How many pages [are left|remain|must {he} still read]?",
    "[A rope|A ribbon|A plank] is {a} [metres|feet] long. {p} cuts off {b}. How long is it [now|then]?",
    "[A bus|A boat|A room|A cinema] has {a} seats, and {b} are taken. How many are [free|empty]?",
    "{b} of {a} [seats|chairs|beds] are taken. How many are free?",
    "There are {a} candles, and {b} go out. How many still burn?",
    "The way is {a} miles long. {p} has walked {b}. How far is it [still|to go]?",
    "There are {a} children. {b} of them are boys. How many are girls?",
    "{b} of the {a} [balls|cups|birds|flowers] are red. How many are not?",
    "{p} has {a} [pens|hats|beads]. {b} are blue, the rest are red. How many are red?",
    "{p} has {a} [pens|books|cups]. {b} are new, the others are old. How many are old?",
    "[Out of|Of] {a} [letters|cards|gifts] {b} are for {f}. How many are for the others?",
    "[The test|The quiz] has {a} questions. {p} gets {b} right. How many [are wrong|does {he} get wrong]?",
    "There are {a} [fish|birds|cats]. {b} are [white|asleep], the others are not. How many is that?",
    "{a} children, {b} of them [ill|away]. How many are [here|at school]?",
    "[The shop|The baker|The stand] has {a} [cakes|rolls|pies]. {b} are sold. How many are left?",
    "Of {a} eggs, {b} break. How many are whole?",
    "{a} [balloons|bubbles], {b} [burst|pop]. How many are left?",
    "I must do {a} sums and have done {b}. How many are left to do?",
    "The race is {a} [laps|miles]. {b} are done. How many [are left|to go]?",
    "{p} [has|had] {a} [sweets|cherries] [until|but then] {f} [eats|ate] {b}. What is left?",
    "{p} gives {b} of {his} {a} [cards|pens|nuts] to {f}. How many does {he} keep?",
    # What is missing
    "{p} needs {a} [eggs|nails|coins|chairs] and has {b}. How many more does {he} need?",
    "{p} has {b} [eggs|nails|coins|cups] but needs {a}. How many are missing?",
    "A [toy|ticket|ball] costs {a} [coins|dollars|euros]. {p} has {b}. How much is missing?",
    "{p} wants a [kite|doll|drum] for {a} [coins|dollars|euros]. {He} has saved {b}. How much more does {he} need?",
    "There are {b} [chairs|plates|beds] for {a} guests. How many [more are needed|are missing]?",
    "[You win|The game ends] with {a} points. {p} has {b}. How many [does {he} still need|are missing|to go]?",
    "{p} pays with {a} [coins|dollars|euros]. The [cake|book] costs {b}. [How much does {he} get back|What is the "
    "change|How much change is there]?",
    "A [hat|pen|pie] is {b} [coins|euros|dollars]. I pay with {a}. [How much do I get back|What is my change]?",
    # Younger, colder, earlier, lower
    "{p} is {a} years old. {f} is {b} years younger. How old is {f}?",
    "{p} is {a} years old [now|]. How old was {he} {b} years ago?", "How old was {p} {b} years ago if {he} is {a} now?",
    "It is {a} degrees. It gets {b} degrees colder. How warm is it [now|then]?",
    "The [bus|train] leaves in {a} minutes, the tram {b} minutes earlier. In how many minutes does the tram leave?",
    "{p} [stands|is] on [step|stair|floor] {a} and goes down {b}. [Where is {he} now|Which one is that]?",
    "{f} has {b} [books|pens|cards] less than {p}. {p} has {a}. How many does {f} have?",
    "{p} has {a} [books|toys|nuts]. {f} has {b} fewer. How many does {f} have?",
    "{p} finds {a} [shells|nuts|plums], {f} {b} fewer. How many [is that for {f}|does {f} have]?",
    "{p} has {a} [cards|nuts|toys], [which is|and that is] {b} more than {f}. How many has {f}?",
    # How much it changed, and how far apart two numbers are
    "There were {b} [birds|children|cars], now there are {a}. How many came [along|to them|]?",
    "In the [morning|evening] there were {a} [eggs|cakes|rolls], now there are {b}. How many [are gone|were eaten]?",
    "{p} had {b} [coins|cards|stones] and now has {a}. How many did {he} get?",
    "{p} had {a} [coins|cards|stones] and now has only {b}. How many [did {he} lose|are gone|are missing]?",
    "It was {b} degrees and now it is {a}. By how many degrees did it get warmer?",
    "It was {a} degrees and now it is {b}. By how many degrees did it get colder?",
    "The [train|bus] leaves in {a} minutes. It takes {p} {b} minutes to get there. How many minutes are left?",
    "The [film|lesson|trip] begins after {b} hours and ends after {a} hours. How many hours does it take?",
    "{p} is {a} and {f} is {b}. [How many years are between them|How much older is {p}|How much younger is {f}]?",
    "The red box weighs {a} kilos, the green one {b}. How much heavier is the red one?",
    "A bag weighs {a} kilos and a basket {b}. How much heavier is the bag?",
    "One [rope|stick] is {a} [feet|inches] long and the other {b}. How much [longer|shorter] is one of them?",
    "{p} did {b} [sums|jumps] yesterday and {a} today. How many more is that?",
    "One tower has {a} blocks, another {b}. How many must be taken off the taller one so that both are the same?",
    # What was there before
    "{p} gets {b} [cards|coins|shells] and then has {a}. How many [had {he} before|did {he} have first]?",
    "Some [people|children] were on the [bus|boat]. {b} more got on, and then there were {a}. How many were there at "
    "first?",
    "[After|With] {b} more there are {a} [birds|cats|cups]. How many were there before?",
    "In {b} years {p} will be {a}. How old is {he} [now|today]?",
)  # fmt: skip
TOLD: Final[dict[tuple[int, ...], tuple[str, ...]]] = {
    (1,): _ONE_UP,
    (-1,): _ONE_DOWN,
    (1, 1): (
        "{p} is {a}. {f} is {b} years older, and {g} is {c} years older than {f}. How old is {g}?",
        "{p} [runs|walks|swims] {a} miles on Monday, {b} on Tuesday and {c} on Sunday. How far is that [in all|]?",
        "A [pen|cake] costs {a}, a [book|pie] {b} and a [hat|kite] {c} [coins|euros]. How much is that together?",
        "[We|They] scored {a} points, then {b}, then {c}. How many points is that [so far|in all]?",
        "One bag weighs {a} kilos, another {b} and a third {c}. What do they weigh together?",
        "{p} lost {b} [cards|coins] on Monday and {c} on Tuesday and has {a} left. How many did {he} have at first?",
        "On the plate there are {a} [pears|nuts], {b} [plums|figs] and {c} [grapes|cherries]. How many fruits is "
        "that?",
        "{p} has {a} [cards|stamps]. {f} has {b} more than {p}, and {g} has {c} more than {f}. How many has {g}?",
    ),
    (1, -1): (
        "{p} is {a}. {f} is {b} years older, and {g} is {c} years younger than {f}. How old is {g}?",
        "In the garden are {a} [tulips|roses] and {b} [lilies|daisies]. {c} are picked. How many are left?",
        "{p} has {a} red and {b} blue [cards|beads|pens]. {f} has {c}. How many more does {p} have?",
        "A [cake|lunch] costs {a} [euros|coins] and a [drink|pie] {b}. {f} pays {c} of it. How much does {p} pay?",
        "Some people are on a [bus|boat|train]. {c} get on, {b} get off, and then there are {a}. How many were there "
        "at first?",
        "{p} found {c} [cards|coins], lost {b}, and now has {a}. How many did {he} have at first?",
        "{p} picks {a} and {f} {b} [apples|plums]. They eat {c}. How many [are left|do they still have]?",
        "It was {a} degrees, then {b} more, then {c} less. How warm is it [now|]?",
        "{p} [stands|is] on [floor|step] {a}, goes up {b} and down {c}. Where is {he} [now|]?",
        "There were {a} [boys|cats] and {b} [girls|dogs]. {c} of them went home. How many stayed?",
    ),
    (-1, 1): (
        "{p} is {a}. {f} is {b} years younger, and {g} is {c} years older than {f}. How old is {g}?",
        "It was {a} degrees, then it fell by {b} and rose by {c}. How warm is it [now|]?",
        "{p} [stands|is] on [floor|step] {a}, goes down {b} and up {c}. Where is {he} [now|]?",
        "{p} found {b} [cards|coins], lost {c}, and now has {a}. How many did {he} have at first?",
        "Some people were in a [room|shop]. {b} came in, {c} went out, and then there were {a}. How many were there "
        "before?",
        "{p} had {a} points, lost {b} in one round and won {c} in the next. How many [is that|has {he} now]?",
    ),
    (-1, -1): (
        "[Of|Out of] {a} [balloons|balls|hats], {b} are red, {c} are green and the rest [is|are] white. How many are "
        "white?",
        "{p} has {a} [beads|cups|pens]. {b} are blue, {c} are red, the others black. How many are black?",
        "There are {a} children. {b} are ill and {c} are [away|late]. How many are here?",
        "{p} needs {a} [coins|eggs|nails]. {He} has {b}, and {f} gives {him} {c}. How many [more does {he} need|are "
        "still missing]?",
        "{p} wants to sell {a} [pies|hats|cups]. {He} sells {b} in the morning and {c} at noon. How many are still "
        "there?",
        "{p} has {a} [coins|euros|dollars]. A [pen|roll] costs {b} and a [book|cake] {c}. [What is left|How much is "
        "left] after that?",
        "{p} pays with {a} [coins|euros]. The [bread|tea] is {b}, the [cheese|jam] {c}. How much does {he} get back?",
        "A [kite|drum] costs {a} [euros|coins]. It is {b} cheaper today, and {p} has {c}. How much is missing?",
        "{p} is {a}. {f} is {b} years younger, and {g} is {c} years younger than {f}. How old is {g}?",
        "A rope is {a} feet long. {p} cuts off {b}, then {c}. How long is the rest?",
        "The way is {a} miles. {p} walks {b} on Monday and {c} on Tuesday. How far is it to go?",
        "{p} [finds|gets] {b} [nuts|cards], then {c}, and has {a} then. How many had {he} at first?",
    ),
}  # fmt: skip
"""What is told, by what is done to {a}."""


_SENTENCE_START: Final = re.compile(r"(?<=[.?] )[a-z]")


def _numbers(rng: random.Random, values: tuple[int, ...], *, words: float) -> dict[str, str]:
    in_words = rng.random() < words
    return {name: NUMBER_WORDS[value] if in_words else str(value) for name, value in zip("abcd", values, strict=False)}


def bare(rng: random.Random, values: tuple[int, ...], signs: tuple[int, ...]) -> str:
    """The sum of `values[0]`, then each further value with its sign, as a question without a story."""
    slots = _numbers(rng, values, words=0.2)
    asks = _ASKS if signs == (1,) else _ASKS[:-1]
    if len(signs) > 1:
        up, down = pick(rng, _ROW_SIGNS)
        first, *others = slots.values()
        core = first + "".join(
            f"{up if sign > 0 else down}{number}" for sign, number in zip(signs, others, strict=True)
        )
    else:
        adds = signs[0] > 0
        if rng.random() < 0.35:
            return typed(rng, raw(rng, pick(rng, WHOLE_PLUS if adds else WHOLE_MINUS), slots))
        core = raw(rng, pick(rng, PLUS if adds else MINUS), slots)
    return typed(rng, raw(rng, pick(rng, asks), {"sum": core, "Sum": core[0].upper() + core[1:]}))


def told(
    rng: random.Random, values: tuple[int, ...], signs: tuple[int, ...], person: Person, friend: str, other: str
) -> str:
    """The same as a few sentences about `person`."""
    slots = _numbers(rng, values, words=0.12)
    slots |= {"p": person.name, "he": person.he, "He": person.he.capitalize(), "him": person.him, "his": person.his}
    slots |= {"f": friend, "g": other}
    text = raw(rng, pick(rng, TOLD[signs]), slots)
    return typed(rng, _SENTENCE_START.sub(lambda start: start[0].upper(), text))  # it may be a number's word
