"""The small world everything in the corpus is about: animals, foods, tools, jobs, weather, villagers, models.

Every row becomes a few `Fact`s: an entity, an attribute and a value. Facts are what the encyclopaedia
states, what conversations ask about, and what held-out questions check.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Entity:
    """Something with a name. `one` carries its article ("a rabbit", "bread", "Rosa")."""

    noun: str
    one: str
    many: str
    kind: str
    pronoun: str = "it"
    possessive: str = "its"


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One true sentence's worth: `entity` has `value` for `attribute`."""

    entity: Entity
    attribute: str
    value: str
    bare: str
    """The value without article or preposition ("burrow" for "in a burrow")."""
    many_value: bool = False
    """Whether the value is grammatically plural ("seeds are …")."""

    @property
    def key(self) -> str:
        return f"{self.entity.noun}/{self.attribute}"

    @property
    def accept(self) -> tuple[str, ...]:
        """Wordings an answer may use."""
        return ACCEPTED.get(self.key, (self.bare,))


# noun | plural | eats | lives | colour | young | sound        (- where there is nothing simple to say)
_ANIMALS = """
rabbit | rabbits | grass | in a burrow | - | kit | -
cow | cows | hay | in a barn | - | calf | moos
horse | horses | oats | in a stable | - | foal | neighs
sheep | sheep | clover | in a meadow | - | lamb | bleats
pig | pigs | turnips | in a sty | pink | piglet | grunts
dog | dogs | meat | in a kennel | - | puppy | barks
cat | cats | fish | in a house | - | kitten | meows
duck | ducks | pondweed | by a pond | - | duckling | quacks
hen | hens | corn | in a coop | - | chick | clucks
goose | geese | - | by a river | - | gosling | honks
swan | swans | - | on a lake | white | cygnet | -
owl | owls | mice | in a hollow tree | - | owlet | hoots
crow | crows | worms | in a nest | black | - | caws
fox | foxes | berries | in a den | red | - | yelps
bear | bears | honey | in a cave | brown | cub | growls
squirrel | squirrels | nuts | in an oak tree | - | - | chatters
mouse | mice | seeds | in a hole | grey | - | squeaks
frog | frogs | flies | in a marsh | green | tadpole | croaks
bee | bees | nectar | in a hive | yellow | - | buzzes
spider | spiders | insects | on a web | - | spiderling | -
snake | snakes | eggs | under a rock | - | - | hisses
goat | goats | leaves | on a mountain | - | - | -
deer | deer | bark | in a forest | - | fawn | -
lion | lions | - | on the plain | golden | - | roars
elephant | elephants | fruit | - | - | - | trumpets
whale | whales | krill | in the sea | blue | - | sings
panda | pandas | bamboo | - | - | - | -
monkey | monkeys | bananas | in a jungle | - | - | -
camel | camels | - | in a desert | - | - | -
penguin | penguins | - | on the ice | - | - | -
kangaroo | kangaroos | - | - | - | joey | -
"""

# noun | plural | grows | colour
_PLANTS = """
apple | apples | on a tree | -
carrot | carrots | under the ground | orange
grape | grapes | on a vine | purple
pea | peas | in a pod | -
strawberry | strawberries | on a low plant | -
coconut | coconuts | on a palm | -
mushroom | mushrooms | in the shade | -
lemon | lemons | - | yellow
tomato | tomatoes | - | red
"""

# food (no article) | made from | tastes
_FOODS = """
bread | flour | -
cheese | milk | salty
butter | cream | -
jam | berries | -
soup | vegetables | -
porridge | oats | -
toffee | sugar | sweet
custard | eggs | -
chocolate | cocoa beans | bitter
vinegar | wine | sour
"""

# tool | used for
_TOOLS = """
hammer | hitting nails
saw | cutting wood
needle | sewing cloth
broom | sweeping floors
spade | digging holes
lamp | giving light
rope | tying things
pot | cooking soup
key | opening doors
clock | telling the time
ladder | climbing walls
kettle | boiling water
"""

# job | what the person does | where the person works
_JOBS = """
baker | bakes bread | in a bakery
farmer | grows food | on a farm
teacher | teaches children | in a school
doctor | heals sick people | in a hospital
gardener | plants flowers | in a garden
tailor | sews clothes | in a tailor shop
carpenter | builds tables | in a workshop
fisher | catches fish | on a boat
painter | paints pictures | in a studio
postman | brings letters | -
miller | grinds grain | in a mill
beekeeper | keeps bees | -
"""

# name | pronoun | home | job | pet | favourite food
_VILLAGERS = """
Rosa | she | in the old mill | miller | cat | pancakes
Tom | he | in the red barn | farmer | dog | cheese
Anna | she | in the bakery | baker | canary | soup
Oscar | he | in the lighthouse | fisher | parrot | porridge
Clara | she | in the schoolhouse | teacher | rabbit | pears
Hugo | he | in the stone tower | painter | owl | noodles
Ida | she | in the greenhouse | gardener | tortoise | strawberries
Felix | he | in the little boathouse | carpenter | otter | potatoes
Nora | she | in the yellow cottage | doctor | goldfish | plums
Otto | he | in the tall windmill | beekeeper | pony | toast
Greta | she | in the attic above the shop | tailor | mouse | chocolate
Leo | he | in the blue caravan | postman | donkey | dumplings
"""

# phenomenon | what it is | key words
_WEATHER = """
rain | water that falls from clouds | falls from clouds
snow | frozen rain that falls in soft flakes | flakes
fog | a cloud that lies on the ground | on the ground
wind | air that moves | air that moves
thunder | the loud sound of lightning | sound of lightning
ice | water that is frozen hard | frozen hard
a rainbow | sunlight split into colours | split into colours
dew | small drops of water on the morning grass | morning grass
"""

# planet | known for
_SKY = """
Mars | red dust
Saturn | bright rings
Jupiter | great size
Venus | thick hot air
Neptune | cold blue storms
the sun | warm light
the moon | round craters
"""

# term | what it is | key words | how it works, in one more sentence
_MODELS = """
an LLM | a large language model that guesses the next word | guesses the next word
a token | a small piece of text that a model reads | piece of text
a prompt | the text that you give to a model | text that you give
random weights | numbers that have not learned anything yet | not learned
pre-training | learning to guess the next token in a lot of text | next token
instruction fine-tuning | learning to answer from example conversations | example conversations
a reward model | a model that learns which answers people like | answers people like
PPO | a way to train a model to get more reward | more reward
GRPO | a way to train a model by checking a group of answers | group of answers
a vote | a choice of the better answer | better answer
a checkpoint | a saved copy of a model | saved copy
a tokenizer | a tool that cuts text into tokens | into tokens
"""

_PLURAL_VALUES = {
    "oats", "turnips", "mice", "worms", "berries", "nuts", "seeds", "flies", "insects", "eggs", "leaves", "bananas",
    "vegetables", "cocoa beans", "pancakes", "pears", "noodles", "strawberries", "potatoes", "plums", "dumplings",
}  # fmt: skip

ACCEPTED: Final[dict[str, tuple[str, ...]]] = {
    "mouse/lives": ("hole",),
    "goat/lives": ("mountain",),
    "Rosa/home": ("old mill",),
    "Otto/home": ("windmill",),
    "Greta/home": ("attic",),
}


def _rows(table: str) -> Iterator[list[str]]:
    for line in table.strip().splitlines():
        yield [cell.strip() for cell in line.split("|")]


def _bare(value: str) -> str:
    """Without preposition and article: "oak tree" for "in an oak tree"."""
    words = value.split()
    while words and words[0] in {"in", "on", "by", "under", "a", "an", "the"}:
        words.pop(0)
    return " ".join(words)


def an(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _build() -> tuple[list[Fact], dict[str, Entity]]:
    facts: list[Fact] = []
    entities: dict[str, Entity] = {}

    def add(entity: Entity, **values: str) -> None:
        entities[entity.noun] = entity
        for attribute, value in values.items():
            if value != "-":
                many = value in _PLURAL_VALUES
                facts.append(Fact(entity=entity, attribute=attribute, value=value, bare=_bare(value), many_value=many))

    for noun, many, eats, lives, colour, young, sound in _rows(_ANIMALS):
        entity = Entity(noun=noun, one=an(noun), many=many, kind="animal")
        add(entity, eats=eats, lives=lives, colour=colour, young=young, sound=sound)
    for noun, many, grows, colour in _rows(_PLANTS):
        add(Entity(noun=noun, one=an(noun), many=many, kind="plant"), grows=grows, colour=colour)
    for noun, made, tastes in _rows(_FOODS):
        add(Entity(noun=noun, one=noun, many=noun, kind="food"), made=made, tastes=tastes)
    for noun, use in _rows(_TOOLS):
        add(Entity(noun=noun, one=an(noun), many=noun + "s", kind="tool"), use=use)
    for noun, does, works in _rows(_JOBS):
        many = "postmen" if noun == "postman" else noun + "s"
        add(Entity(noun=noun, one=an(noun), many=many, kind="job", pronoun="they"), does=does, works=works)
    for noun, pronoun, home, job, pet, food in _rows(_VILLAGERS):
        possessive = "her" if pronoun == "she" else "his"
        person = Entity(noun=noun, one=noun, many=noun, kind="villager", pronoun=pronoun, possessive=possessive)
        add(person, home=home, job=an(job), pet=an(pet), favourite=food)
    for table, kind in ((_WEATHER, "weather"), (_MODELS, "model")):
        for one, meaning, key_words in _rows(table):
            noun = _bare(one)
            many = "random weights" if noun == "random weights" else ""
            add(Entity(noun=noun, one=one, many=many, kind=kind), meaning=meaning)
            ACCEPTED[f"{noun}/meaning"] = (key_words,)
    for one, known in _rows(_SKY):
        add(Entity(noun=_bare(one), one=one, many="", kind="sky"), known=known)
    return facts, entities


FACTS, ENTITIES = _build()
