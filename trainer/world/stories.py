"""Short stories: plots made of beats, each beat told in one of several ways.

A plot keeps its people, animal, place and thing from the first sentence to the last, so that a model has
something to remember, and every story ends. Which (plot, hero, animal) combinations appear only in the
held-out documents is decided by `prose.is_held_out`.
"""

from __future__ import annotations

import random
from typing import Final

from trainer.world.english import pick, say
from trainer.world.facts import ENTITIES, FACTS, Fact
from trainer.world.statements import state

# name | pronoun: children of the village, who have no facts of their own
CHILDREN: Final = (
    ("Mia", "she"), ("Ben", "he"), ("Lily", "she"), ("Sam", "he"), ("Ella", "she"), ("Max", "he"),
    ("Ruby", "she"), ("Finn", "he"), ("Ivy", "she"), ("Jack", "he"), ("Emma", "she"), ("Paul", "he"),
    ("Zoe", "she"), ("Karl", "he"), ("Lucy", "she"), ("Peter", "he"),
)  # fmt: skip

PEOPLE: Final[tuple[tuple[str, str], ...]] = CHILDREN + tuple(
    (entity.noun, entity.pronoun) for entity in ENTITIES.values() if entity.kind == "villager"
)

PLACES: Final = (
    "bridge", "river", "old wall", "market", "big tree", "well", "hill", "garden gate", "school", "church",
    "field", "pond", "mill", "barn", "little wood", "village square",
)  # fmt: skip
THINGS: Final = (
    "kite", "ball", "hat", "scarf", "basket", "bell", "ring", "drum", "book", "box", "cup", "coat", "whistle", "map",
)  # fmt: skip
TREATS: Final = ("cake", "pie", "soup", "bread", "pancakes", "jam", "tea", "biscuits", "dumplings", "toast")
ADJECTIVES: Final = ("small", "red", "blue", "old", "new", "green", "round", "pretty", "yellow", "fine")
WILD: Final = tuple(entity.noun for entity in ENTITIES.values() if entity.kind == "animal" and entity.noun != "whale")

OPENINGS: Final = (
    "it was a [sunny|cold|warm|windy|grey|bright|quiet] [morning|day|afternoon], and {h} [went|walked|ran] to "
    "the {place}.",
    "{h} was a [kind|clever|cheerful|quiet|brave] [person|soul] who lived near the {place}.",
    "there was once a {kid} named {h}, and {he} [liked|loved] the {place}.",
    "[last|one] [spring|summer|autumn|winter], {h} [often went|liked to go] to the {place}.",
    "[once|one day|long ago], {h} [sat|stood|waited] [near|by|at] the {place}.",
)

# Slots: {h} the hero with {he} {He} {him} {his}; {f} a friend; {n} an animal; {place} {place2}; {adj} {thing}; {treat}.
PLOTS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "lost": (
        (
            "{h} had a {adj} {thing} and [loved it|took it everywhere|was proud of it].",
            "{h} [always carried|never went out without] {his} {adj} {thing}.",
        ),
        (
            "but [then|in the evening|after a while] the {thing} was [gone|lost].",
            "[at noon|on the way home|after a while], {he} saw that the {thing} was [gone|not there].",
        ),
        (
            "{h} looked [near|behind|under] the {place}, but it was not there.",
            "{he} [looked and looked|searched all day], but {he} could not find it.",
        ),
        (
            '"[do not worry|do not be sad|wait]," said {f}. "[Let us look together|I will help you|I can help]."',
            "{f} [saw|noticed] that {h} was sad and [came to help|wanted to help].",
        ),
        (
            "[at last|then], they [saw|met] a {n} near the {place2}, and the {thing} was [next to it|under its feet].",
            "a {n} had [found|taken] the {thing} and [kept it|left it] near the {place2}.",
        ),
        (
            "{h} [thanked|hugged] {f} and [went home happy|smiled all day].",
            '"[Thank you|You are a true friend]!" said {h}, and they [laughed|went home together].',
        ),
    ),
    "rescue": (
        (
            "[there|by the {place}], {he} [heard|saw] a {n} that could not [move|get out|go home].",
            "a [small|young|tired] {n} was [stuck|caught] near the {place}.",
        ),
        (
            "the {n} was [afraid|cold|tired] and [made a sad sound|looked at {him}].",
            '"[poor thing|poor little one]," said {h}. "I [will|want to] help you."',
        ),
        (
            "{h} [ran|went] to {f}, and [together they came back|they came back] with a [rope|blanket|ladder].",
            "{h} was [careful|slow|gentle] and [lifted|pulled] the {n} out [with both hands|little by little].",
        ),
        (
            "they gave the {n} some [water|food] and [let it rest|waited with it].",
            "soon the {n} was [warm|free|safe] again.",
        ),
        (
            "[after that|from that day on], the {n} [came to see|often visited] {h}.",
            "the {n} [looked back once|was thankful] and [ran|went] [home|away].",
        ),
        (
            "{h} [felt proud|was glad] and [told|wrote to] {f} about it.",
            "and {h} [learned|knew] that a small [help|act] can be [big|great].",
        ),
    ),
    "picnic": (
        (
            "{h} and {f} [wanted|planned] to eat {treat} [outside|on the grass] near the {place}.",
            "{h} asked {f} to come to a picnic with {treat} near the {place}.",
        ),
        (
            "[but soon|then] [dark clouds came|it began to rain], and [everything|the blanket] got wet.",
            "[suddenly|just then] the wind [blew|came] and took the {thing} of {f}.",
        ),
        (
            '"[What shall we do|Where can we go]?" asked {f}.',
            "{f} was [sad|cross], but {h} [had an idea|only laughed].",
        ),
        (
            "they [ran|hurried] to the {place2} and sat [under the roof|where it was dry].",
            "{h} knew a dry place near the {place2}, so they [ran|went] there.",
        ),
        (
            "there they met a {n}, which also [waited for the sun|wanted to be dry].",
            "a wet {n} came [too|as well], and they gave it a [piece|little] of their food.",
        ),
        (
            "they [ate|shared] the {treat} and [told stories|sang songs] until the sun came [back|out].",
            'in the end, {f} said, "[this was|it was] the best picnic of [the year|all]."',
        ),
    ),
    "cooking": (
        (
            "{h} wanted to [make|cook] {treat} for {f}.",
            "{f} was [ill|sad|tired], so {h} wanted to [make|cook] {treat}.",
        ),
        (
            "{he} went to the market and [bought|asked for] [milk and eggs|flour and butter|all {he} needed].",
            "first {he} [washed {his} hands|took a big pot|put wood on the fire].",
        ),
        (
            "but the first {treat} [was too hot|was burnt|fell on the floor], and a {n} [ate it|ran away with it].",
            "but {he} [used|took] too much salt, and not even a {n} would eat it.",
        ),
        (
            '"[I will try again|Once more]," said {h}, and {he} [began anew|was more careful].',
            "{h} did not give up and [began|tried] again.",
        ),
        (
            "this time it [was good|smelled good|was just right].",
            "the second time, [all went well|it was warm and good].",
        ),
        (
            "{f} [ate it all|asked for more] and [smiled|was happy].",
            '"[This is wonderful|How good it is]!" said {f}, and they ate [together|until night].',
        ),
    ),
    "garden": (
        (
            "{h} [had|found] a [small|round|brown] seed and put it in the ground near the {place}.",
            "{f} gave {h} a seed, and {he} put it in the ground near the {place}.",
        ),
        (
            "[every day|every morning], {he} [gave it water|came to look at it].",
            "{he} [waited|came back] day after day, but [nothing grew|there was only earth].",
        ),
        (
            '"[It needs time|Be patient]," said {f}.',
            "{h} [wanted to give up|was sad], but {f} [told {him} to wait|gave {him} hope].",
        ),
        (
            "[then|one morning], there was a [small|little] green leaf.",
            "after the rain, a green plant [came up|could be seen].",
        ),
        (
            "a hungry {n} came to eat it, but {h} [made a fence|built a little wall] around it.",
            "even a {n} came by to look at [the plant|it].",
        ),
        (
            "in summer, there [was a big flower|were many flowers], and {h} [gave one to|shared them with] {f}.",
            "soon it was as tall as {f}, and {h} was [proud|very glad].",
        ),
    ),
    "gift": (
        (
            "it was the birthday of {f}, and {h} [had no gift|needed a gift].",
            "{h} wanted to give {f} a [fine|good|special] gift.",
        ),
        (
            "{he} [saw|found] a {adj} {thing} at the market, but it [cost too much|was sold].",
            "{he} had only [two|three|five] coins, and a {thing} cost [ten|more].",
        ),
        (
            "so {he} [helped|worked for] a [farmer|baker|tailor] [all day|for a week] and got some coins.",
            "so {he} made a {adj} {thing} with {his} own hands.",
        ),
        (
            "on the way, a {n} [jumped|ran] into {him}, but {he} [held the {thing} tight|kept the {thing} safe].",
            "{he} put the {thing} in a box and [hid it|carried it] near the {place2}.",
        ),
        (
            '"[Is this for me|For me]?" asked {f}. "It is [beautiful|just what I wanted]!"',
            "{f} opened it [slowly|at once] and [smiled|laughed for joy].",
        ),
        (
            "they [danced|ate {treat}] until [late|the stars came out].",
            "and the {thing} [stayed with|was dear to] {f} for many years.",
        ),
    ),
    "race": (
        (
            'a {n} said to {a2}, "I am [faster|quicker] than you."',
            "{a} and {a2} wanted to know who was [faster|quicker].",
        ),
        (
            "so they [ran|raced] from the {place} to the {place2}, and {h} [watched|was the judge].",
            "{h} [drew a line|called them] at the {place}, and they [began|set off].",
        ),
        (
            "the {n} [was far ahead|was first] and [stopped to rest|lay down to sleep].",
            "the {n2} was [slow|far behind], but it [did not stop|went on and on].",
        ),
        (
            "when the {n} [woke up|looked back], the {n2} was [almost there|close to the end].",
            "then the {n} fell over a [stone|branch], and the {n2} [stopped to help|came closer].",
        ),
        (
            "they [came to|reached] the {place2} [together|at the same time].",
            "the {n2} won [by a nose|by one step].",
        ),
        (
            '"[Well done|That was fun]," said {h}, and gave both of them [food|water].',
            "from that day on, the {n} and the {n2} were [friends|good friends].",
        ),
    ),
    "boat": (
        (
            "{h} built a [small|little] boat from [old wood|a box] near the {place}.",
            "{h} and {f} wanted to cross the [river|lake] in a boat.",
        ),
        (
            "{he} [painted it|made it] {colour} and called it the [Little Star|Brave Goose|Blue Fish].",
            "{f} brought [a sail|a rope|two oars], and they [worked all day|sang as they worked].",
        ),
        (
            "but in the middle of the water, the boat [began to sink|had a hole].",
            "a strong wind [came up|blew], and [waves came|the boat shook].",
        ),
        (
            '"[Hold on|Stay calm]!" [called|cried] {f}.',
            "{h} was afraid, but {he} [kept calm|thought hard].",
        ),
        (
            "a {n} [saw them|heard them] and [called|ran for] help, and soon [a fisher came|people came] with a rope.",
            "they [put a cloth in the hole|pulled hard] and came back to the {place}.",
        ),
        (
            "[wet but happy|tired but glad], they went home to drink [tea|warm milk].",
            "the next day, they [began to build|planned] a better boat.",
        ),
    ),
    "noise": (
        (
            "[at night|in the dark], {h} heard a strange sound near the {place}.",
            "{h} could not sleep, because there was a sound near the {place}.",
        ),
        (
            '"[What is that|Who is there]?" {he} [asked|whispered].',
            "{he} [took a lamp|put on a coat] and went [outside|to look].",
        ),
        (
            "{f} was [awake|outside] too and [came along|was afraid].",
            "{he} [called|woke] {f}, and they went [on together|step by step].",
        ),
        (
            "[behind|near] the {place}, they found {a}. {fact}",
            "it was only {a}! {fact}",
        ),
        (
            "they [laughed|were glad], and the {n} [looked at them|went on its way].",
            '"[So it was you|It was only you]," said {f}, and they laughed.',
        ),
        (
            "then they [went back to bed|slept well] until [morning|the sun came up].",
            "and {h} was never afraid of [the dark|that sound] again.",
        ),
    ),
    "homeward": (
        (
            "{h} found a [young|small|lost] {n} near the {place}. It [did not know|had lost] the way home.",
            "a [young|small|lost] {n} sat near the {place} and [waited|was afraid].",
        ),
        (
            '"Where is your home?" asked {h}. {f} [knew|could tell]: {fact_low}',
            "{h} asked {f} what to do. {f} knew this: {fact_low}",
        ),
        (
            "so they [carried|took] the {n} [past|over] the {place2} [with care|in a basket].",
            "they [walked|went] with it past the {place2} [for an hour|until noon].",
        ),
        (
            "on the way, it [rained|got dark], and {h} gave the {n} {his} [coat|scarf].",
            "on the way, the {n} got [tired|hungry], so they [stopped|rested] under a tree.",
        ),
        (
            "[at last|then], they [saw|found] its [mother|family].",
            "[at last|then], the little one was home.",
        ),
        (
            "the {n} [was happy|looked back], and {h} [waved|smiled].",
            "{h} and {f} walked home in the [last light|moonlight], [tired|happy] and [glad|quiet].",
        ),
    ),
    "feeding": (
        (
            "{h} [met|saw] a hungry {n} near the {place}.",
            "a hungry {n} came to the {place} and looked at {h}.",
        ),
        (
            "{he} gave it some {treat}, but it [did not eat|turned away].",
            "{he} did not know what to [give|feed] it, so {he} asked {f}.",
        ),
        (
            '"Do you not know?" asked {f}. "{fact}"',
            "{f} had read about it in a book. {fact}",
        ),
        (
            "so {h} went to the {place2} and [found|got] the right food.",
            "so they went to find the right food [near|behind] the {place2}.",
        ),
        (
            "the {n} ate [it all|everything] and was [happy|full].",
            "now the {n} ate and ate until it was [full|tired].",
        ),
        (
            "[after that|from then on], {h} [fed|visited] it every day.",
            "and so {h} [learned|found out] something new and [made|had] a new friend.",
        ),
    ),
    "model": (
        (
            "at school, {teacher} showed the children a computer that could [write|talk].",
            "{h} [had|found] a computer with a small language model on it.",
        ),
        (
            "at first it had random weights, so it wrote only [noise|strange signs].",
            "{he} asked it a question, but it [wrote only noise|did not answer].",
        ),
        (
            "then it read many [stories|books|pages], and it learned to guess the next [word|token].",
            "in pre-training, it [read|saw] a lot of text [day and night|all week].",
        ),
        (
            "now it could write, but it did not answer, so {f} gave it [many|good] examples of questions and answers.",
            "after that came instruction fine-tuning, and it [learned to answer|began to answer] {f}.",
        ),
        (
            "{h} and {f} read two answers [each time|every day] and gave a vote to the better one.",
            "with every vote, the reward model learned what [people|{h} and {f}] like.",
        ),
        (
            "in the end, the model [answered well|was a good helper], and {h} [saved a checkpoint|was proud of it].",
            'at last, {h} asked it about the {n}, and it answered: "{fact}"',
        ),
    ),
}

_SOUNDS: Final = {fact.entity.noun: fact for fact in FACTS if fact.attribute == "sound"}
_HOMES: Final = {fact.entity.noun: fact for fact in FACTS if fact.attribute == "lives" and fact.entity.kind == "animal"}
_MEALS: Final = {fact.entity.noun: fact for fact in FACTS if fact.attribute == "eats"}

# Plots that need a certain fact about their animal.
PLOT_FACTS: Final[dict[str, dict[str, Fact]]] = {
    "noise": _SOUNDS,
    "homeward": _HOMES,
    "feeding": _MEALS,
    "model": _MEALS,
}


def plot_animals(plot: str) -> tuple[str, ...]:
    """Animals that can play in `plot`."""
    known = PLOT_FACTS.get(plot)
    return tuple(noun for noun in WILD if known is None or noun in known)


def choose_cast(rng: random.Random) -> tuple[str, str, str]:
    """(plot, hero, animal): what decides whether a story is a training or a held-out one."""
    plot = pick(rng, tuple(PLOTS))
    return plot, pick(rng, PEOPLE)[0], pick(rng, plot_animals(plot))


_PRONOUNS: Final = dict(PEOPLE)
_KIDS: Final = {name: "girl" if pronoun == "she" else "boy" for name, pronoun in CHILDREN}


def write_story(rng: random.Random, plot: str, hero: str, animal: str) -> str:
    """A story of about eight sentences that begins, has a problem, solves it and ends."""
    pronoun = _PRONOUNS[hero]
    place, place2 = rng.sample(PLACES, 2)
    friend = pick(rng, [name for name, _ in PEOPLE if name != hero])
    other = pick(rng, [noun for noun in WILD if noun != animal])
    slots = {
        "h": hero,
        "he": pronoun,
        "He": pronoun.capitalize(),
        "him": "her" if pronoun == "she" else "him",
        "his": "her" if pronoun == "she" else "his",
        "kid": _KIDS.get(hero, "woman" if pronoun == "she" else "man"),
        "f": friend,
        "teacher": "Clara",
        "n": animal,
        "a": ENTITIES[animal].one,
        "n2": other,
        "a2": ENTITIES[other].one,
        "place": place,
        "place2": place2,
        "adj": pick(rng, ADJECTIVES),
        "thing": pick(rng, THINGS),
        "treat": pick(rng, TREATS),
        "colour": pick(rng, ("red", "blue", "green", "white", "yellow")),
    }
    facts = PLOT_FACTS.get(plot)
    if facts is not None:
        slots["fact"] = state(rng, facts[animal], plain=True)
        slots["fact_low"] = slots["fact"][0].lower() + slots["fact"][1:]
    beats = [pick(rng, OPENINGS), *(pick(rng, beat) for beat in PLOTS[plot])]
    return " ".join(say(rng, beat, slots) for beat in beats)
