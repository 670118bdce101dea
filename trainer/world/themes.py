"""The stories problems are told in: who, what and which verbs, and the names of the people.

Three sets: what documents and conversations tell, what only GRPO practises, and what is held out. `telling.py` says how
the sentences are put together, and what stands in them. Held-out themes are told as they stand here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Theme:
    """How one kind of story tells a start, a gain, a loss and the question; without points at the end."""

    name: str
    items: tuple[str, ...]
    start: tuple[str, ...]
    gain: tuple[str, ...]
    loss: tuple[str, ...]
    question: tuple[str, ...]
    at: tuple[str, ...] = ("",)
    """Where it happens, with its preposition."""
    own: bool = True
    """Whether the things are somebody's."""

    @property
    def is_bent(self) -> bool:
        """Whether its verbs are to be bent; else they are those of "he" and "she", today."""
        return any("<" in line for line in self.gain)


# --- Things ------------------------------------------------------------------------------------------

FOOD: Final = (
    "apples", "pears", "eggs", "plums", "lemons", "nuts", "carrots", "cakes", "sweets", "candies", "biscuits",
    "cookies",
    "muffins", "grapes", "buns", "rolls", "sandwiches", "peaches", "bananas", "oranges", "tomatoes", "potatoes",
    "berries",
    "pancakes", "donuts", "cupcakes", "pumpkins", "lollipops", "raisins", "pizzas", "olives", "beans", "peanuts",
    "figs", "pieces of cake", "crackers", "waffles", "mangoes", "radishes", "cucumbers", "slices of pizza", "tarts",
    "pretzels", "cherries", "dumplings", "melons", "strawberries", "pies", "chocolates", "onions", "sausages",
    "slices of bread",
)  # fmt: skip
THINGS: Final = (
    "books", "pencils", "pens", "toys", "cards", "stamps", "stickers", "shells", "stones", "buttons", "beads", "balls",
    "cups",
    "plates", "candles", "boxes", "hats", "shirts", "socks", "keys", "dolls", "kites", "ribbons", "balloons", "tickets",
    "photos",
    "letters", "flowers", "roses", "coins", "marbles", "bottles", "lamps", "spoons", "nails", "ropes", "pots",
    "magazines", "blocks",
    "pictures", "crayons", "markers", "scarves", "stars", "caps", "mugs", "rings", "forks", "bricks", "feathers",
    "maps", "paper planes", "batteries", "tools", "towels", "notebooks", "plants", "postcards", "flags", "gifts",
    "sticks", "badges", "comics", "tiles", "bags", "chairs", "toy cars",
    "puzzle pieces",
)  # fmt: skip
BREAKABLE: Final = (
    "cups",
    "plates",
    "eggs",
    "glasses",
    "bottles",
    "lamps",
    "pots",
    "bowls",
    "toys",
    "jars",
    "pencils",
    "balloons",
)
ANIMALS: Final = (
    "hens", "ducks", "goats", "cats", "dogs", "rabbits", "fish", "sheep", "horses", "cows", "pigs", "puppies",
    "kittens", "mice",
    "chickens", "hamsters", "geese", "ponies",
)  # fmt: skip
FLYING: Final = (
    "birds",
    "crows",
    "owls",
    "geese",
    "bees",
    "butterflies",
    "pigeons",
    "ducks",
    "swallows",
    "flies",
    "bats",
    "swans",
)
PEOPLE: Final = (
    "children", "people", "guests", "friends", "farmers", "boys", "girls", "players", "visitors", "pupils", "students",
    "passengers",
    "dancers", "men", "women", "workers", "swimmers", "singers",
)  # fmt: skip
VEHICLES: Final = ("cars", "boats", "buses", "bikes", "trucks", "ships", "trains", "carts", "planes", "sledges")
MONEY: Final = ("coins", "dollars", "pounds", "euros", "cents", "coins", "gold coins", "pennies")
LOOKS: Final = (
    "red",
    "blue",
    "green",
    "small",
    "big",
    "old",
    "ripe",
    "shiny",
    "little",
    "yellow",
    "fresh",
    "white",
    "nice",
)

# --- What is somebody's ------------------------------------------------------------------------------

_OWN_START = (
    "{p} <have> {k} {i}", "{p} <have> {k} {i}", "{p} <have> {k} {i}", "{p} <have> got {k} {i}", "{p} <own> {k} {i}",
    "[at home|in the morning|at first|on Monday], {p} <have> {k} {i}",
    "{p} <have> [a bag|a box|a basket|a bowl] [with|of] {k} {i}",
    "there <p:be> {k} {i} in {his} [basket|bag|box|room|kitchen]", "{p} <start> with {k} {i}",
    "{p} <begin> the day with {k} {i}",
    "{p} <buy> {k} {i}", "{p} <get> {k} {i}", "{p} <find> {k} {i}", "{p} <collect> {k} {i}",
    "{p} <keep> {k} {i} in a drawer",
    "{p} <bring> {k} {i} to school", "{p} <carry> {k} {i}", "{f} <3:give> {whom} {k} {i}",
    "{k} {i} <p:be> on {his} [table|shelf|desk]",
)  # fmt: skip
_OWN_GAIN = (
    "{He} <buy> {k} [more|more {i}|{i} at the shop]", "{He} <get> {k} [more|more {i}|{i} from {f}|as a gift]",
    "{He} <find> {k} [more|more {i}|{i} under the bed|{i} on the road]", "{He} <receive> {k} [more|{i}|more from {f}]",
    "{He} <win> {k} [more|{i}|more in a game]", "{He} <collect> {k} [more|{i}]", "{He} <pick> up {k} [more|{i}]",
    "{He} <borrow> {k} [|more|{i}] from {f}", "{He} <take> {k} [more|{i}] from {f}", "{He} <add> {k} [more|{i}]",
    "{He} <gather> {k} [more|{i}]", "{He} <bring> home {k} [more|{i}]", "{He} <be> given {k} [more|{i}|more by {f}]",
    "{f} <3:give> {him} {k} [more|{i}|more {i}]", "{f} <3:bring> {him} {k} [more|{i}]",
    "{f} <3:send> {him} {k} [more|{i}]",
    "{f} <3:hand> {him} {k} [more|{i}|of hers]", "{f} <3:come> and <3:give> {him} {k} [|more]",
    "{f} <3:buy> {him} {k} [more|{i}]",
    "{f} <3:share> {k} [|{i}] with {him}", "{f} <3:lend> {him} {k} [|more|{i}]",
    "{k} more <p:come> [in the post|from {f}]",
    "[for {his} birthday|as a present|at school|at the market], {he} <get> {k} [more|{i}]",
    "{He} <order> {k} [more|{i}]",
    "{f} <3:add> {k} [more|{i}]", "{He} <purchase> {k} [more|{i}]", "{He} <gain> {k} [|more|{i}]",
    "{He} <obtain> {k} [more|{i}]", "{f} <3:mail> {him} {k} [more|{i}]", "{f} <3:deliver> {k} [more|{i}]",
    "{f} <3:drop> off {k} [more|{i}]", "{f} <3:pass> {him} {k} [more|{i}]", "{k} more <p:turn> up",
    "{k} more <p:be> delivered", "{He} <be> handed {k} [more|{i}]", "{He} <dig> up {k} [more|{i}]",
    "{His} collection <3:grow> by {k}", "{He} <grab> {k} more", "{He} <swap> a hat for {k} more",
    "[a neighbour|grandma] <3:offer> {him} {k} [more|{i}]", "{f} <3:put> {k} more into {his} bag",
    "{He} <discover> {k} [more|{i}]",
)  # fmt: skip
_OWN_LOSS = (
    "{He} <give> {k} [away|to {f}|of them to {f}|{i} to {f}|to a friend]", "{He} <give> {f} {k} [|{i}|of them]",
    "{He} <lose> {k} [|of them|{i}|on the way|at school]", "{He} <sell> {k} [|of them|{i}|to {f}|at the market]",
    "{He} <throw> {k} [away|of them away]", "{He} <drop> {k} [of them|{i}|into the river]",
    "{He} <use> {k} [of them|{i}]",
    "{He} <share> {k} [with {f}|of them with {f}]", "{He} <lend> {k} [to {f}|of them to {f}]", "{He} <hand> {k} to {f}",
    "{He} <pass> {k} [on to|to] {f}", "{He} <leave> {k} [at school|on the bus|there|behind]",
    "{He} <forget> {k} [at home|on the bus]",
    "{He} <send> {k} to {f}", "{f} <3:take> {k} [|of them|{i}|away]", "{f} <3:borrow> {k} [|of them|{i}]",
    "{f} <3:get> {k} from {him}",
    "{f} <3:steal> {k} [|of them]", "{k} [of them|] <p:get> lost", "{k} of them <p:be> [stolen|sold|gone|lost|taken]",
    "{He} <put> {k} [back|away]", "{He} <donate> {k} [|of them|{i}]",
    "{He} <return> {k} [|of them] [to {f}|to the shop]",
    "[a dog|the wind|a monkey|the sea] <3:take> {k} [|of them]", "{He} <hide> {k} of them in the wood",
    "{k} <p:fall> [into the water|out]",
    "{He} <trade> {k} for a [hat|ball|cake]", "{He} <swap> {k} for [a kite|a drum]", "{He} <get> rid of {k}",
    "{He} <misplace> {k} [|of them]", "{He} <toss> {k} [away|out|of them]", "{He} <discard> {k} [|of them]",
    "{He} <mail> {k} [|of them] to {f}", "{k} [|of them] <p:go> missing", "{k} [|of them] <p:be> missing",
    "{He} <ruin> {k} [|of them]", "{He} <tear> {k} [|of them]", "{He} <deliver> {k} [|of them] to {f}",
    "{He} <part> with {k} [|of them]", "{He} <let> {f} have {k} [|of them]", "{He} <be> robbed of {k}",
    "{f} <3:walk> off with {k} [|of them]", "{He} <treat> {f} to {k} of them",
)  # fmt: skip
_OWN_QUESTION = (
    "how many {i} <do> {p} have [now|left|in the end|at the end|then|]",
    "how many {i} <do> {he} have [now|left|in the end|then]",
    "how many {i} <p:be> left", "how many {i} [are left|remain|are there now|are there in the end]",
    "how many [are left|remain|now|left]",
    "how many <do> {he} have [now|left|at the end|in the end]", "how many {i} does that [make|leave]",
    "how many {i} <be> {he} left with",
    "what is the number of {i} now", "with how many {i} <do> {p} end [up|the day]", "how many {i} <do> {p} still have",
    "how many {i} does {f} see in {his} bag now", "and how many {i} now",
)  # fmt: skip

# --- What comes and goes -----------------------------------------------------------------------------

_PLACE_START = (
    "there <p:be> {k} {i} {at}", "{k} {i} <p:be> {at}", "{at} there <p:be> {k} {i}", "{p} <see> {k} {i} {at}",
    "{p} <count> {k} {i} {at}",
)  # fmt: skip
_PLACE_GAIN = (
    "{k} more [|{i}] <p:come>", "{k} [more|{i}|more {i}] <p:join> them", "{k} [more|others] <p:arrive>",
    "{k} [more|{i}] <p:appear>",
    "{k} [more|others] <p:come> [along|over|to them]", "{k} new {i} <p:come>",
    "another {k} [|{i}] [<p:come>|<p:arrive>|<p:join> them]",
    "{k} [more|others] <p:follow>", "they <p:be> joined by {k} [more|others|more {i}]",
)  # fmt: skip
_PLACE_LOSS = (
    "{k} [|of them|{i}|of the {i}] <p:leave>", "{k} [|of them|{i}] <p:go> [away|home]",
    "{k} [|of them|{i}] <p:disappear>",
    "{k} [of them|{i}] <p:be> gone", "{k} of the {i} <p:go> somewhere else",
)  # fmt: skip
_PLACE_QUESTION = (
    "how many {i} are there [now|in the end|then|]", "how many {i} are {at} now",
    "how many {i} are [left|left now|left {at}|still there]",
    "how many {i} [remain|stay|are still {at}]", "how many [are left|are there now|remain|stay]",
    "how many {i} does that [make|leave]",
    "how many {i} can {p} [see|count] [now|then]",
)  # fmt: skip


def _place(
    name: str,
    items: tuple[str, ...],
    at: tuple[str, ...],
    *,
    start: tuple[str, ...],
    gain: tuple[str, ...],
    loss: tuple[str, ...],
) -> Theme:
    """A theme of things that come and go: the general ways to say so, and its own ones twice."""
    return Theme(
        name=name,
        items=items,
        at=at,
        own=False,
        start=_PLACE_START + start,
        gain=_PLACE_GAIN + gain * 2,
        loss=_PLACE_LOSS + loss * 2,
        question=_PLACE_QUESTION,
    )


THEMES: Final = (
    Theme(
        name="food",
        items=FOOD,
        start=(*_OWN_START, "{p} <bake> {k} {i}", "{p} <pick> {k} {i}", "{p} <cook> {k} {i}",
        "{k} {i} <p:be> in {his} kitchen"),
        gain=(
            *_OWN_GAIN, "{He} <bake> {k} [more|{i}]", "{He} <pick> {k} [more|{i}|more {i}]",
            "{He} <make> {k} [more|{i}]",
            "{f} <3:bake> {k} [more|for {him}]", "{He} <cook> {k} [more|{i}]", "{f} <3:pick> {k} [more|for {him}]",
        ),
        loss=(
            *_OWN_LOSS, "{He} <eat> {k} [|of them|{i}|for lunch]", "{f} <3:eat> {k} [|of them|{i}]",
            "{He} and {f} <p:eat> {k} of them",
            "{k} [|of them|{i}] <p:be> [eaten|bad|rotten|spoiled]", "{k} [|of them] <p:go> bad",
            "{He} <devour> {k} [|of them]", "{He} <nibble> {k} [of them|]", "{He} <snack> on {k} [of them|]",
            "{f} <3:gobble> up {k} [|of them]", "{k} [of them|] <p:melt>",
            "{He} <have> {k} for [breakfast|supper|dinner]", "{He} <munch> {k} [|of them]",
            "{He} <burn> {k} [of them|]",
            "[a dog|a bird|a mouse|the cat|a fox] <3:eat> {k} [|of them]", "{He} <serve> {k} [of them|{i}]",
            "{He} <swallow> {k}",
            "{He} <feed> {k} of them to the [ducks|pigs|horse]",
        ),
        question=_OWN_QUESTION,
    ),
    Theme(
        name="things", items=THINGS, start=_OWN_START,
        gain=(*_OWN_GAIN, "{He} <make> {k} [more|{i}]", "{f} <3:make> {k} [more|for {him}]"),
        loss=(*_OWN_LOSS, "{He} <break> {k} [|of them]", "{f} <3:break> {k} [|of them]"),
        question=_OWN_QUESTION,
    ),
    Theme(
        name="breaking", items=BREAKABLE, start=_OWN_START, gain=_OWN_GAIN[:12],
        loss=(
            "{He} <break> {k} [|of them|{i}]", "{k} [|of them|{i}] <p:break>", "{k} [|of them] <p:be> broken",
            "{f} <3:break> {k} [|{i}]",
            "{He} <drop> {k} [and they <p:break>|of them]",
            "{k} [of them|] <p:fall> [down|off the table|and <p:break>]",
            "{k} [of them|] <p:burst>", "{k} [of them|] <p:crack>", "{k} [of them|] <p:shatter>",
            "{k} [of them|] <p:snap>", "{k} [of them|] <p:pop>", "{k} [of them|] <p:crumble>", *_OWN_LOSS[:6],
        ),
        question=(*_OWN_QUESTION, "how many {i} are [still|not] whole", "how many {i} are fine now"),
    ),
    Theme(
        name="money", items=MONEY,
        start=(
            "{p} <have> {k} {i}", "{p} <have> {k} {i} in {his} [pocket|purse|bank]", "{p} <own> {k} {i}",
            "{p} <save> {k} {i}",
            "{p} <earn> {k} {i}", "there <p:be> {k} {i} in {his} [pocket|purse|box]", "{f} <3:give> {whom} {k} {i}",
        ),
        gain=(
            "{He} <earn> {k} [more|{i}]", "{He} <get> {k} [more|{i} from {f}|for {his} work]",
            "{He} <find> {k} [more|{i}]",
            "{f} <3:pay> {him} {k} [|{i}|more]", "{f} <3:give> {him} {k} [|{i}|more]", "{He} <save> {k} [more|{i}]",
            "{He} <win> {k} [|{i}|more]",
            "{He} <sell> a [hat|ball|cake|book] for {k} [|{i}]", "{He} <be> paid {k} [|{i}|more]",
            "{He} <make> {k} [more|{i}] by work", "{His} pocket money <3:be> {k} [|{i}]",
            "{f} <3:tip> {him} {k} [|{i}]",
            "{He} <put> {k} more into it", "{f} <3:lend> {him} {k} [|{i}]",
        ),
        loss=(
            "{He} <spend> {k} [|{i}|of them|on a book|at the shop|for food]", "{He} <pay> {k} [|{i}|for a cake|to {f}]",
            "{He} <buy> a [book|ball|cake|hat|pen|kite|toy|ticket] for {k} [|{i}]", "{He} <lose> {k} [|{i}|of them]",
            "{He} <give> {k} [|{i}] to {f}", "a [book|ball|cake|ticket|toy] <3:cost> {him} {k} [|{i}]",
            "{f} <3:take> {k} [|of them]",
            "{He} <use> {k} [|of them] to buy a [hat|present|pie]", "{He} <lend> {f} {k} [|{i}]",
            "the [bus|lunch|film] <3:cost> {him} {k} [|{i}]", "{He} <waste> {k} [|{i}]",
            "{He} <donate> {k} [|{i}]",
        ),
        question=(*_OWN_QUESTION, "how much money <do> {he} have [now|left]", "how much is left",
        "how much <do> {p} have [now|left]"),
    ),
    Theme(
        name="keeper", items=ANIMALS,
        start=("{p} <have> {k} {i}", "{p} <keep> {k} {i}", "{p} <own> {k} {i}", "there <p:be> {k} {i} on {his} farm",
        "{p} <look> after {k} {i}"),
        gain=(*_OWN_GAIN[:4], "{k} more <p:be> born", "{k} [|little] ones <p:be> born", "{He} <catch> {k} [more|{i}]",
        "{k} [more|others] <p:come> to {him}"),
        loss=(
            "{k} [|of them|{i}] <p:run> away", "{k} [|of them] <p:get> lost", "{He} <sell> {k} [|of them|{i}|to {f}]",
            "{k} [|of them] <p:die>",
            "{He} <give> {k} [|of them] to {f}", "a [wolf|fox|bear] <3:take> {k} [|of them]",
            "{k} [of them|] <p:escape>", "{f} <3:buy> {k} [from {him}|of them]",
        ),
        question=_OWN_QUESTION,
    ),
    Theme(
        name="score", items=("points", "goals", "stars", "coins"),
        start=("{p} <have> {k} {i}", "{p} <have> {k} {i} after the first [round|game]", "{p} <start> with {k} {i}",
        "{p} <score> {k} {i}"),
        gain=("{He} <score> {k} [more|{i}]", "{He} <win> {k} [more|{i}]", "{He} <get> {k} [more|{i}|for a good move]",
        "{He} <make> {k} [more|{i}] [|in the next round]", "the next [game|round] <3:bring> {him} {k} [more|]"),
        loss=("{He} <lose> {k} [|of them|{i}|in the next round]", "{f} <3:take> {k} [|of them] from {him}",
        "{k} [|of them] <p:be> taken away", "a mistake <3:cost> {him} {k} [|{i}]", "{He} <use> {k} [|of them]"),
        question=("how many {i} <do> {p} have [now|in the end|then]", "how many {i} <do> {he} have [now|]",
        "how many {i} is that", "what is {his} score [now|]"),
    ),
    Theme(
        name="floors", items=("floors", "steps"), own=False, at=("floor", "step", "stair"),
        start=("{p} <be> on {at} {k}", "{p} <stand> on {at} {k}", "{p} <start> on {at} {k}"),
        gain=("{he} <go> up {k} [|more]", "{he} <climb> {k} [|more|up]", "{he} <walk> up {k} [|more]"),
        loss=("{he} <go> down {k} [|again]", "{he} <climb> down {k}", "{he} <come> down {k}",
        "{he} <walk> down {k} [|again]"),
        question=("where <be> {he} now", "which {at} <be> {he} on [now|then]", "which one <3:be> that",
        "where <do> {p} end up"),
    ),
    Theme(
        name="degrees", items=("degrees",), own=False,
        start=("it <3:be> {k} degrees [outside|in the morning|at first|at noon|]", "the water <3:be> {k} degrees warm"),
        gain=("it <3:get> {k} degrees warmer", "it <3:rise> by {k} [degrees|]", "it <3:go> up [by|] {k} [degrees|]"),
        loss=("it <3:get> {k} degrees colder", "it <3:fall> by {k} [degrees|]", "it <3:go> down [by|] {k} [degrees|]",
        "it <3:drop> {k} [degrees|]"),
        question=("how warm <3:be> it [now|then|in the end]", "how many degrees <3:be> it [now|then]",
        "what is the temperature [now|then]"),
    ),
    _place(
        "birds", FLYING, ("on the roof", "in a tree", "on the wall", "in the field", "on a wire", "over the lake",
        "in the garden", "on the fence"),
        start=("{k} {i} <p:sit> {at}", "{k} {i} <p:rest> {at}"),
        gain=("{k} more [|{i}] <p:fly> [in|to them|there]", "{k} more <p:land> [|there|{at}]",
        "{k} [more|others] <p:sit> down"),
        loss=("{k} [|of them|{i}] <p:fly> [away|off|home]", "{k} [|of them] <p:be> scared away",
        "a cat <3:catch> {k} [of them|]"),
    ),
    _place(
        "people", PEOPLE,
        ("on the bus", "in the room", "at the party", "in the park", "in the hall", "at the table", "on the train",
        "in the shop", "in the pool",
         "at school", "in line", "in the boat", "in the garden"),
        start=("{k} {i} <p:sit> {at}", "{k} {i} <p:stand> {at}", "{k} {i} <p:wait> {at}"),
        gain=(
            "{k} more [|{i}] <p:get> on", "{k} more [|{i}] <p:walk> in", "{k} [more|others] <p:enter>",
            "{k} more <p:board>", "{k} [more|others] <p:show> up", "{k} more <p:turn> up", "{k} more <p:hop> on",
            "{k} more <p:be> invited and <p:come>",
            "{k} more <p:come> in",
            "{k} [more|{i}] <p:step> in", "{k} more <p:sit> down", "{f} <3:bring> {k} more",
        ),
        loss=(
            "{k} [|of them|{i}] <p:get> off", "{k} [|of them|{i}] <p:walk> [out|away]",
            "{k} [|of them|{i}] <p:go> [home|to bed|out]", "{k} [|of them] <p:depart>", "{k} [|of them] <p:exit>",
            "{k} [|of them] <p:drive> home", "{k} [|of them] <p:hop> off", "{k} [|of them] <p:slip> away",
            "{k} [|of them] <p:step> out", "{k} [|of them] <p:say> goodbye", "{k} [|of them] <p:be> sent home",
            "{k} [|of them] <p:run> out",
        ),
    ),
    _place(
        "yard", (*ANIMALS, "frogs", "squirrels", "deer", "snails", "monkeys"),
        ("in the yard", "in the field", "near the river", "on the hill", "on the farm", "in the barn", "by the pond",
        "in the wood"),
        start=("{k} {i} <p:sleep> {at}", "{k} {i} <p:play> {at}", "{k} {i} <p:stand> {at}", "{k} {i} <p:eat> {at}"),
        gain=("{k} more [|{i}] <p:run> [in|to them]", "{k} more <p:be> born", "{k} [more|others] <p:hop> in",
        "{k} more <p:swim> to them"),
        loss=("{k} [|of them|{i}] <p:run> [away|off|home]", "{k} [|of them] <p:hop> away",
        "{k} [|of them] <p:swim> away", "{k} [|of them] <p:hide>"),
    ),
    _place(
        "traffic", VEHICLES, ("in the street", "at the station", "in the harbour", "in front of the shop",
        "on the road", "in the yard", "on the square"),
        start=("{k} {i} <p:stand> {at}", "{k} {i} <p:wait> {at}"),
        gain=("{k} more <p:park> there", "{k} more [|{i}] <p:drive> in", "{k} more <p:stop> [|there]",
        "{k} [more|others] <p:roll> in"),
        loss=("{k} [|of them|{i}] <p:drive> [away|off]", "{k} [|of them] <p:start> and <p:leave>",
        "{k} [|of them] <p:sink>", "{k} [|of them] <p:be> towed away"),
    ),
    _place(
        "plants", ("leaves", "apples", "flowers", "nuts", "pears", "roses", "cherries", "buds", "plums", "berries"),
        ("on the tree", "on the bush", "on the plant", "in the garden", "on the branch"),
        start=("{k} {i} <p:hang> {at}", "{k} {i} <p:grow> {at}"),
        gain=("{k} more [|{i}] <p:grow>", "{k} new ones <p:open>", "{k} more <p:bloom>", "{k} more <p:ripen>",
        "{k} more <p:sprout>", "the sun <3:bring> {k} more"),
        loss=(
            "{k} [|of them|{i}] <p:fall> [down|off]", "{k} [|of them] <p:be> picked", "{f} <3:pick> {k} [|of them]",
            "the wind <3:take> {k} [|of them]",
            "{k} [|of them] <p:dry> up", "{k} [|of them] <p:wilt>", "{k} [|of them] <p:drop>",
            "{k} [|of them] <p:wither>", "{k} [|of them] <p:rot>", "{f} <3:cut> {k} [of them|]",
            "birds <p:eat> {k} [of them|]",
        ),
    ),
    _place(
        "box", THINGS + FOOD, ("in the box", "in a jar", "in the basket", "on the table", "in the drawer", "on a shelf",
        "in the fridge", "in a bowl"),
        start=("{p} <put> {k} {i} {at}", "{k} {i} <p:lie> {at}"),
        gain=(
            "{p} <put> {k} more [|{i}] [into it|there]", "{f} <3:add> {k} [more|{i}]",
            "{f} <3:put> {k} [more|{i}] [there|with them]",
            "{k} more <p:be> [added|put there]", "{p} <bring> {k} more", "{p} <lay> {k} [more|{i}] beside them",
        ),
        loss=(
            "{p} <take> {k} [|of them|{i}] [out|away]", "{f} <3:remove> {k} [|of them]",
            "{k} [|of them] <p:be> [taken|taken out|removed|eaten|used]",
            "{f} <3:take> {k} [|{i}]", "{k} [of them|] <p:fall> out", "{f} <3:grab> {k} [|of them]",
        ),
    ),
)  # fmt: skip

PRACTICE_THEMES: Final = (
    Theme(
        name="bus",
        own=False,
        items=("children", "friends", "farmers", "dogs"),
        start=("There are {k} {i} on the bus", "{k} {i} wait for the bus"),
        gain=("{k} more {i} come to the bus", "At the bridge, {k} more {i} come in", "Then {k} {i} run to it"),
        loss=("{k} of the {i} go home from there", "At the bridge, {k} {i} go away", "At the river, {k} run home"),
        question=("How many {i} are on the bus now", "How many {i} are there in the end"),
    ),
    Theme(
        name="shelf",
        items=("books", "cups", "lamps", "toys"),
        start=("{p} has {k} {i} on a shelf", "There are {k} {i} on the shelf of {p}"),
        gain=("{f} gives {him} {k} more for it", "In the house, {he} finds {k} more {i}", "{k} {i} come from {f}"),
        loss=("{f} takes {k} of the {i} home", "At school, {he} loses {k} of them", "{He} gives {k} away to {f}"),
        question=("How many {i} are on the shelf now", "How many {i} does {p} have in the end"),
    ),
    Theme(
        name="market",
        items=("pears", "plums", "eggs", "lemons", "roses"),
        start=("At the market, {p} has {k} {i}", "{p} comes to the market with {k} {i}"),
        gain=("There {he} buys {k} more {i}", "{He} gets {k} more from {f}, too", "From {f}, {he} gets {k} {i}"),
        loss=(
            "{He} sells {k} {i} there",
            "There {he} gives {k} of them to {f}",
            "At noon, {he} eats {k} of the {i}",
        ),
        question=("How many {i} does {he} have now", "How many {i} are left in the end"),
    ),
    Theme(
        name="beach",
        items=("shells", "stones", "sticks"),
        start=("At the sea, {p} has {k} {i}", "In the sand, {p} has {k} {i}"),
        gain=("Near the water, {he} finds {k} more {i}", "{f} finds {k} more for {him}", "Then {he} picks {k} {i}"),
        loss=("In the sand, {he} loses {k} of them", "The sea takes {k} {i}", "Near the water, {f} takes {k}"),
        question=("How many {i} does {p} have now", "How many {i} are left in the end"),
    ),
    Theme(
        name="farm",
        own=False,
        items=("hens", "cows", "goats", "sheep", "pigs"),
        start=("There are {k} {i} on the farm", "The farmer has {k} {i}"),
        gain=("In spring, {k} more {i} come", "The farmer buys {k} more", "{k} more {i} come from the hill"),
        loss=("The farmer sells {k} of the {i}", "In autumn, {k} of them go away", "{k} {i} run to the wood"),
        question=("How many {i} are on the farm now", "How many {i} does the farmer have in the end"),
    ),
    Theme(
        name="party",
        own=False,
        items=("guests", "friends", "children"),
        start=("At the party, there are {k} {i}", "{k} {i} sit near the fire"),
        gain=("In the evening, {k} more {i} come", "Then {k} {i} join the party", "{k} more come with {f}"),
        loss=("At night, {k} of the {i} go home", "Then {k} {i} go to bed", "{k} of them go away with {f}"),
        question=("How many {i} are at the party now", "How many {i} are left in the end"),
    ),
    Theme(
        name="lake",
        own=False,
        items=("ducks", "geese", "swans"),
        start=("There are {k} {i} near the lake", "In spring, {k} {i} are on the lake"),
        gain=("{k} more {i} fly to the lake", "Then {k} {i} come from the sea", "{k} more come to them"),
        loss=("Then {k} {i} fly away from it", "{k} of them go to the river", "In autumn, {k} of the {i} fly away"),
        question=("How many {i} are near the lake now", "How many {i} are there in the end"),
    ),
    Theme(
        name="flowers",
        own=False,
        items=("bees", "birds"),
        start=("{k} {i} sit on the flowers", "In the morning, there are {k} {i} on the flowers"),
        gain=("{k} more {i} come from the garden", "Then {k} more {i} fly to them", "At noon, {k} more come"),
        loss=("Then {k} {i} go home to sleep", "{k} of the {i} fly to the wood", "At night, {k} fly away"),
        question=("How many {i} are on the flowers now", "How many {i} are left now"),
    ),
    Theme(
        name="wood",
        own=False,
        items=("mice", "rabbits", "cats", "frogs"),
        start=("There are {k} {i} in the wood", "{k} {i} sleep in the wood"),
        gain=("{k} more {i} run to the wood", "At night, {k} {i} come from the field", "Then {k} come to sleep"),
        loss=("Then {k} {i} run away", "At noon, {k} of the {i} go away", "Then {k} of them go to the mill"),
        question=("How many {i} are in the wood now", "How many {i} are left in the end"),
    ),
    Theme(
        name="hill",
        own=False,
        items=("sheep", "goats", "horses", "dogs"),
        start=("On the hill, there are {k} {i}", "{k} {i} are on the hill in the morning"),
        gain=("{k} more {i} come from the farm", "Then {k} {i} join them there", "After lunch, {k} more come"),
        loss=("At night, {k} {i} run home", "Then {k} of the {i} go to the river", "At noon, {k} of them go home"),
        question=("How many {i} are on the hill now", "How many {i} are there now"),
    ),
    Theme(
        name="lunch",
        items=("apples", "eggs", "carrots", "berries", "nuts"),
        start=("For lunch, {p} has {k} {i}", "{p} brings {k} {i} for lunch"),
        gain=("{f} brings {him} {k} more {i}", "{He} takes {k} more from the basket", "At home, {he} gets {k}"),
        loss=("{f} eats {k} of the {i}", "At lunch, {he} eats {k} of them", "Then {k} {i} are eaten"),
        question=("How many {i} does {p} have now", "How many {i} are left now"),
    ),
    Theme(
        name="road",
        items=("coins", "nuts", "cards", "buttons", "stones"),
        start=("On the road, {p} has {k} {i}", "On the road, {p} finds a bag with {k} {i}"),
        gain=("Near the mill, {he} finds {k} more {i}", "{f} finds {k} more", "At the bridge, {f} gives {him} {k}"),
        loss=("Near the wood, {k} {i} are lost", "{He} loses {k} of the {i} there", "{f} takes {k} and goes home"),
        question=("How many {i} does {p} have now", "How many {i} are in the bag now"),
    ),
)
"""Themes of GRPO's problems only, told in verbs the others use too: no document tells them and no conversation works
them out. With the familiar ones alone a model soon solves all it is given and still reads the numbers of a new story
in the wrong order"""

HELD_OUT_THEMES: Final = (
    Theme(
        name="kitchen",
        items=("apples", "eggs", "nuts", "carrots"),
        start=("In the kitchen, {p} has {k} {i}", "There are {k} {i} in the pot of {p}"),
        gain=("{He} gets {k} more from the shop", "{f} comes and gives {him} {k} more {i}"),
        loss=("Then {he} and {f} eat {k} of them", "{He} sells {k} of them to {f}"),
        question=("How many {i} does {p} have in the end", "How many {i} are left now"),
    ),
    Theme(
        name="pond",
        own=False,
        items=("ducks", "frogs", "geese"),
        start=("There are {k} {i} on the pond", "{k} {i} are on the water"),
        gain=("{k} more {i} come to the pond", "Then {k} more {i} join them"),
        loss=("{k} of the {i} go away", "Then {k} {i} fly home"),
        question=("How many {i} are there on the pond now", "How many {i} are left in the end"),
    ),
    Theme(
        name="school",
        items=("cards", "books", "marbles", "stones"),
        start=("At school, {p} has {k} {i} in a bag", "{p} has a box of {k} {i} at school"),
        gain=("After school, {he} finds {k} more {i}", "Then {he} buys {k} more from {f}"),
        loss=("On the way home, {he} loses {k} of them", "Then {he} gives {k} of the {i} to {f}"),
        question=("How many {i} does {p} have now", "How many {i} does {p} have in the end"),
    ),
)

NAMES: Final = (
    ("Tom", "he"), ("Rosa", "she"), ("Mia", "she"), ("Ben", "he"), ("Lily", "she"), ("Sam", "he"), ("Anna", "she"),
    ("Oscar", "he"), ("Ruby", "she"), ("Finn", "he"), ("Ivy", "she"), ("Jack", "he"), ("Nora", "she"), ("Leo", "he"),
    ("Alex", "he"), ("Maria", "she"), ("Kim", "she"), ("John", "he"), ("Sara", "she"), ("Omar", "he"), ("Lena", "she"),
    ("Nick", "he"), ("Eva", "she"), ("Kate", "she"), ("Amir", "he"), ("Yuki", "she"), ("Noah", "he"), ("Zoe", "she"),
    ("Lucas", "he"), ("Mary", "she"), ("Bob", "he"), ("Peter", "he"), ("Lucy", "she"), ("Karl", "he"), ("Ali", "he"),
    ("Grandpa", "he"), ("Grandma", "she"), ("Mr Hill", "he"), ("Mrs Green", "she"), ("Mum", "she"), ("Dad", "he"),
)  # fmt: skip
HELD_OUT_NAMES: Final = (
    ("Ella", "she"), ("Max", "he"), ("Emma", "she"), ("Paul", "he"), ("Clara", "she"), ("Hugo", "he"),
)  # fmt: skip
