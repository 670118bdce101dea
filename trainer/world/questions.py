"""How people ask for a fact: what they ask, in one of several shapes, in one of many frames.

The idea: a template per fact and phrasing teaches phrasings. People combine: a way to ask ("tell me", "any idea",
a bare
fragment, a little scene) with a word for what they ask about ("eats", "feeds on", "has for dinner") and a name for who
it is about ("a rabbit", "rabbits", "my rabbit"). So each attribute lists *cores* in five shapes, and frames go around
them; every question is drawn anew. Some ask the other way round ("Which animal eats honey?"), which one sentence
answers as well; a few offer a choice or ask whether something is so.

The held-out phrasings of `wordings.QUESTIONS` are never drawn: `question` tries again.

Choices and slots are those of `english.say` and `statements.fact_slots`, with {x} for "a rabbit", "the rabbit" or "my
rabbit", {d} {D} a direct question, {c} a clause, {t} a thing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Final

from trainer.tasks.words import words
from trainer.world.english import fix_articles, pick, raw, say, typed
from trainer.world.facts import FACTS, Fact
from trainer.world.statements import asked, fact_slots, held_out_phrasings
from trainer.world.wordings import ANSWERS


@dataclass(frozen=True, kw_only=True)
class Cores:
    """The ways to ask for one attribute."""

    direct: tuple[str, ...]
    """Questions without their mark: "what does {x} eat"."""
    clauses: tuple[str, ...]
    """What follows "tell me": "what {x} eats"."""
    things: tuple[str, ...]
    """What follows "what is": "the food of {x}"."""
    scenes: tuple[str, ...]
    """Whole prompts that lead up to it."""
    reverse: tuple[str, ...]
    """Direct questions whose answer is who or what it is about; only asked where that is one."""


CORES: Final[dict[str, Cores]] = {
    "eats": Cores(
        direct=(
            "what [does {x}|do {s}] [eat|like to eat|want to eat|feed on|live on|have for dinner|have for lunch]",
            "what [does {x}|do {s}] [munch on|chew on|eat all day|look for when it is time to eat]",
            "[what|which] [food|meal|dinner|snack] [does {x}|do {s}] [like|need|want|prefer|enjoy]",
            "what [should|can|do|must] [I|we|you] [feed|give to] {x}",
            "what is [good food|the right food|a good meal|a nice snack] for {x}",
            "what can {x} eat",
            "what goes into the [bowl|mouth|tummy] of {x}",
            "what [fills|feeds|nourishes] {x}",
            "what [does {x}|do {s}] [nibble on|gobble up|devour|consume|crave|have for breakfast|have for "
            "supper|snack on]",
            "what is on the menu of {x}",
            "what would be a [treat|tasty treat|good breakfast|fine supper] for {x}",
        ),
        clauses=(
            "what {x} [eats|likes to eat|wants to eat|feeds on|lives on|has for dinner]",
            "what {s} [eat|feed on|live on|like to eat|like for lunch]",
            "what to [feed|give to] {x}",
            "what [food|meal] {x} [likes|needs|wants|gets]",
            "what kind of food {s} [like|need|want]",
            "what {x} [nibbles on|devours|craves|consumes|has for breakfast]",
            "what keeps {x} [alive|full|well fed]",
        ),
        things=(
            "the [food|usual food|best food|diet|dinner|main meal|favourite meal|favourite treat|supper|nutrition] "
            "of {x}",
            "the [food|meal|snack] that {s} [like|eat|need]",
        ),
        scenes=(
            "[my|our|the] {n} is hungry. What [do|should|can] I [give|feed|bring|offer] [it|to it]?",
            "[my|our|the|a] hungry {n} [waits|stands|sits] [at the door|in the garden|outside]. "
            "[What does it want to eat?"
            "|What shall I bring?|Which food would it like?]",
            "[this week|tomorrow|today] I [look after|take care of|watch] {a}. [Which|What] food [do I need|does it "
            "need]?",
            "I am [shopping|cooking] for {a}. What [do I buy|should I get]?",
            "there is {a} at the table. What is on its plate?",
        ),
        reverse=(
            "[which|what] animal [eats|feeds on|likes|lives on|wants] {v}",
            "who [eats|feeds on|likes to eat|lives on] {v}",
            "[name|give me|tell me] an animal that [eats|likes|feeds on] {v}",
            "{v}: [which|what] animal eats that",
            "I have {v}. Which animal [can I feed|would like that|eats it]",
        ),
    ),
    "lives": Cores(
        direct=(
            "where [does {x}|do {s}] [live|sleep|stay|dwell|spend the night|make a home|go at night]",
            "where [can|could|do|should] [I|we|you] [find|see|meet|look for|visit] {a}",
            "where is [the home|the house|the bed] of {x}",
            "[what|which] [place|home] [does {x}|do {s}] [live in|call home|choose]",
            "what is [the home|the house|home] of {x}",
            "what kind of [home|place] [does {x}|do {s}] have",
            "where would {x} be at home",
            "where [does {x}|do {s}] [reside|settle|hide|rest|shelter|curl up|belong|spend its time]",
            "what is the [habitat|shelter|natural home|dwelling] of {x}",
        ),
        clauses=(
            "where {x} [lives|sleeps|stays|goes at night|makes its home]",
            "where {s} [live|sleep|stay|are at home]",
            "where [to find|to look for|I can find|one can see] {a}",
            "what kind of [home|place] {x} lives in",
            "where {x} [resides|hides|rests|finds shelter|belongs]",
        ),
        things=(
            "the [home|house|sleeping place|usual home|habitat|shelter|dwelling] of {x}",
            "the place where {s} [live|sleep|stay]",
        ),
        scenes=(
            "I [am looking|look] for {a}. Where [do|should|can] I [look|go|find it]?",
            "I [want|would like|hope] to see {a}. Where [do|should|must] I [go|look|search]?",
            "{a} is [tired|sleepy|cold] and goes home. Where [does it go|is that]?",
            "[my|our|the] {n} [ran|went] home. Where [did it go|is its home]?",
            "I want to build a home for {a}. What should it be?",
        ),
        reverse=(
            "[which|what] animal [lives|sleeps|stays|is at home|can I find] {v}",
            "who [lives|sleeps|is at home] {v}",
            "what [lives|sleeps] {v}",
            "[name|give me|tell me] an animal that lives {v}",
            "I am {v}. Which animal will I meet",
        ),
    ),
    "colour": Cores(
        direct=(
            "[what|which] colour [is {x}|are {s}|has {x}|do {s} have]",
            "how [is {x}|are {s}] coloured",
            "what is {x} like in colour",
            "[what|which] [paint|pencil|crayon|colour] do I [need|take] for {a}",
            "what [shade|hue|tint] [is {x}|has {x}|does {x} have]",
            "what colour is the [coat|skin|outside|look] of {x}",
            "[what|which] colour do people [give|paint] {a}",
        ),
        clauses=(
            "[what|which] colour {x} [is|has]",
            "[what|which] colour {s} [are|have]",
            "what {s} look like in colour",
        ),
        things=(
            "the colour of {x}",
            "the [usual|right] colour of {x}",
            "the [shade|hue|look] of {x}",
            "the colour that {s} have",
        ),
        scenes=(
            "I [draw|paint|want to draw|want to paint|must draw] {a}. [Which|What] [colour|pencil|paint] "
            "[do I need|should I take|do I use]?",
            "[look|see], there is {a}! What colour is it?",
            "I have never seen {a}. [Which|What] colour [is it|does it have]?",
            "close your eyes and think of {a}. What colour is it?",
        ),
        reverse=(
            "[which|what] [animal|plant|thing] is {v}",
            "what [is|can be] {v}",
            "[name|give me|tell me] something that is {v}",
        ),
    ),
    "young": Cores(
        direct=(
            "what is [a|the] [baby|young|newborn|little|small] {n} [called|named]",
            "what do [you|we|people|they] call [a|the] [baby|young|newborn|little|small] {n}",
            "how do [you|people] call [a|the] [baby|young|little] {n}",
            "what is the [baby|child|young|little one] of {x} [called|named]",
            "what do you call the [child|baby|young] of {x}",
            "what does {x} call its [baby|child]",
            "[what|which] name has a [baby|young] {n}",
            "what was {x} when it was [young|small|little|a baby]",
            "what are the [offspring|babies|young|little ones|kids] of {x} called",
            "what is the [word|term|name] for [the infant|the offspring|the newborn|the youngster|the child] of {x}",
        ),
        clauses=(
            "what a [baby|young|little|newborn] {n} is [called|named]",
            "what [you|people|we] call [a baby|a young|a little|the young of a] {n}",
            "how a [baby|young] {n} is called",
            "what the [child|baby|young] of {x} is called",
        ),
        things=(
            "the [name|word|right name|right word] for a [baby|young|little|newborn|small] {n}",
            "the [baby|child|young|offspring|infant|newborn|youngster|little one] of {x}",
        ),
        scenes=(
            "[my|our|the] {n} [has|got|had] a [baby|young one|small one]. What [is it called|do I call it|is the "
            "name for it]?",
            "{a} and its [baby|child] [sit|walk|play] [near the {place}|in the garden]. What is the small one called?",
            "I saw a [baby|very young|tiny] {n}. What is [the word|its name]?",
            "what will I have if [my|our|the] {n} has a baby?",
        ),
        reverse=(
            "[which|what] animal [is|was] {w}",
            "what does {w} [grow into|become|turn into]",
            "what is {w}",
            "what will {w} be when it is [big|old|grown up]",
            "[which|what] animal has {w} as its baby",
            "{w} is the baby of [what|which animal]",
            "whose baby is {w}",
        ),
    ),
    "sound": Cores(
        direct=(
            "what [sound|noise] [does {x}|do {s}] make",
            "[what|how] [does {x}|do {s}] [say|call|sing|shout]",
            "how [does {x}|do {s}] sound",
            "what [does {x}|do {s}] sound like",
            "what [sound|noise] comes from {x}",
            "what do I hear from {x}",
            "what does {x} do when it [is loud|is heard|wants to be heard|opens its mouth]",
            "how [does {x}|do {s}] [talk|speak|call out|make noise]",
            "how does {x} go",
        ),
        clauses=(
            "what [sound|noise] {x} makes",
            "how {x} sounds",
            "what {s} [say|sound like|do to be heard]",
            "what {x} [says|sounds like]",
            "the [sound|noise] that {x} makes",
        ),
        things=("the [sound|noise|call|voice|cry] of {x}", "the [sound|noise] that {s} make"),
        scenes=(
            "[I hear|there is|we have] {a} [outside|in the yard|near the {place}]. What [sound|noise] does it make?",
            "[make|do|play] [the sound of {a}|like {a}].",
            "I have never heard {a}. [How does it sound|What does it sound like]?",
            "[pretend|play] that you are {a}. What do you say?",
        ),
        reverse=(
            "[which|what] animal {v}",
            "[who|what] {v}",
            "I hear something that {v}. What [is it|animal is that]",
            "it {v}. [Which|What] animal is it",
            "[name|give me|tell me] an animal that {v}",
        ),
    ),
    "grows": Cores(
        direct=(
            "where [does {x}|do {s}] [grow|come from|hang|ripen]",
            "where [can|do|could|should] [I|we|you] [pick|find|look for|see] {s}",
            "where is {x} growing",
            "[what|which] place do {s} need to grow",
            "on or under what do {s} grow",
            "where [do farmers|do people|can one] [harvest|gather|collect|plant] {s}",
            "where do {s} [sprout|ripen|get ripe]",
        ),
        clauses=(
            "where {x} [grows|comes from]",
            "where {s} [grow|come from|can be picked|are found]",
            "where to [pick|find|look for] {s}",
        ),
        things=("the place where {s} grow", "the place to [pick|find|look for] {s}", "the home of {x} in the garden"),
        scenes=(
            "I [want|would like|need] to pick {s}. Where [do|should|must] I [look|go|search]?",
            "we need {s} for [dinner|lunch|a cake]. Where do they grow?",
            "a child asks how {s} grow. Where is that?",
        ),
        reverse=(
            "what [grows|can I pick|can I find|hangs] {v}",
            "[which|what] [plant|fruit] grows {v}",
            "[name|give me|tell me] something that grows {v}",
        ),
    ),
    "made": Cores(
        direct=(
            "what is {a} [made from|made of|made out of|made with]",
            "what do [you|I|we|people|cooks] need [to make|for|to cook] {a}",
            "what [goes into|is in|is inside] {a}",
            "how is {a} made",
            "how do [you|people|I|they] make {a}",
            "what do [people|they|cooks|you] [make|cook] {a} [from|out of|with]",
            "what do I have to buy [for|to make] {a}",
            "what turns into {a}",
            "what is the [main ingredient|base|most important ingredient] [of|in] {a}",
            "what does {a} [consist of|contain|come from]",
            "[which|what] ingredient [do I need for|goes into|is in] {a}",
            "what is the recipe for {a}",
            "how do people [prepare|produce|cook] {a}",
        ),
        clauses=(
            "what {a} is made [from|of|out of|with]",
            "what [goes into|is in] {a}",
            "what [I need|people need|you take|is needed] [for|to make] {a}",
            "how {a} is made",
            "how to make {a}",
        ),
        things=(
            "the [main thing|main part|most important thing|main ingredient|ingredient|base] in {a}",
            "the [thing|stuff|food] that {a} is made from",
            "the way to make {a}",
        ),
        scenes=(
            "I [want|would like|try] to make {a}. What do I [need|take|have to buy]?",
            "there is no {a} [left|at home]. What do I need to make [some|more]?",
            "I am in the kitchen and [make|want] {a}. What do I start with?",
        ),
        reverse=(
            "what [can|do] [I|you|we|people] make [from|out of|with] {v}",
            "what is made [from|of|out of|with] {v}",
            "I have {v}. What can I make",
            "[which|what] food [comes|is made] from {v}",
        ),
    ),
    "tastes": Cores(
        direct=(
            "how does {a} taste",
            "what does {a} taste like",
            "what is {a} like [to eat|in the mouth|on the tongue]",
            "[what|which] [taste|flavour] [has {a}|does {a} have]",
            "is {a} [sweet or sour|salty or sweet|bitter or sweet|sweet, sour, salty or bitter]",
            "what would my [tongue|mouth] say about {a}",
            "how would you describe the [taste|flavour] of {a}",
        ),
        clauses=("how {a} tastes", "what {a} tastes like", "what [taste|flavour] {a} has"),
        things=("the [taste|flavour] of {a}",),
        scenes=(
            "I have never [eaten|tried|had] {a}. [How does it taste|What does it taste like|What is it like]?",
            "I [put|have] some {a} on my tongue. How is it?",
        ),
        reverse=(
            "what tastes {v}",
            "[which|what] food [is|tastes] {v}",
            "[name|give me|tell me] [something|a food] that tastes {v}",
        ),
    ),
    "use": Cores(
        direct=(
            "what [is {x}|are {s}] [for|used for|good for|made for|there for]",
            "what do [people|you|we|they] [use|need|want] {a} for",
            "what [can|do|should|could] [I|you|we|people] do with {a}",
            "what does {a} [help with|help people with|do]",
            "why do [people|we|you] [have|need|own|buy] {a}",
            "when do [people|we|you|I] [use|need] {a}",
            "how do [people|we|you] use {a}",
            "what is {x} [meant for|designed for|intended for|handy for|useful for]",
            "what is the [purpose|function|point|use] of {x}",
            "in what work does {a} help",
        ),
        clauses=(
            "what {x} is [for|used for|good for]",
            "what {s} are [for|used for|good for]",
            "what [people|you|we|I can] do with {a}",
            "why [people|we] [need|have] {s}",
            "how to use {a}",
        ),
        things=("the [use|purpose|point|function|task] of {x}", "the work that {a} does"),
        scenes=(
            "I [found|bought|got|have] {a}. What [is it for|can I do with it|do I use it for]?",
            "[someone|my aunt|my friend] gave me {a}. What [do I do with it|is it good for]?",
            "there is {a} in [the house|my box|the kitchen]. What is it for?",
        ),
        reverse=(
            "[what|which tool|which thing] is [used|good|made] for {v}",
            "what do [I|you|we|people] [need|use|take] for {v}",
            "[what|which tool] helps [me|people|you] with {v}",
            "I am {v}. [What|Which tool] do I need",
            "[name|give me|tell me] a tool for {v}",
        ),
    ),
    "does": Cores(
        direct=(
            "what [does {a}|do {s}] do [|all day|at work|for work|every day]",
            "what is [the work|the job|the task] of {a}",
            "what is it that {a} does",
            "how does {a} [spend the day|earn money|help people]",
            "why do people need {a}",
            "what is {a} [busy with|responsible for|paid for|good at]",
            "what are the [tasks|duties] of {a}",
        ),
        clauses=(
            "what {a} does [|all day|at work|for work]",
            "what {s} do [|all day|at work|for people]",
            "what the [work|job] of {a} is",
        ),
        things=("the [work|job|task|duty] of {a}", "what {a} does"),
        scenes=(
            "I want to [be|become] {a}. What [will I do|would I do all day|is the work]?",
            "[my uncle|my aunt|a friend|our neighbour] is {a}. What [is that|does that mean|kind of work is that]?",
            "tell a child what {a} does.",
        ),
        reverse=(
            "who {v}",
            "[which|what] [person|worker] {v}",
            "what [do you|do people|do we] call [someone|a person|the one] who {v}",
            "who is it that {v}",
            "what is the job of [someone|a person] who {v}",
        ),
    ),
    "works": Cores(
        direct=(
            "where [does {a}|do {s}] [work|do the work|spend the day]",
            "where [can|do|could] [I|we|you] [find|meet|see|visit] {a} at work",
            "[what|which] [place|house] does {a} work in",
            "where is the [work place|place of work] of {a}",
            "where does one go to see {a}",
            "where is the [workplace|job] of {a}",
            "where [is {a}|are {s}] [employed|busy|to be found during the day]",
        ),
        clauses=(
            "where {a} works",
            "where {s} [work|do their work|are at work]",
            "where [to find|to meet|I can find] {a}",
        ),
        things=("the [work place|place of work] of {a}", "the place where {a} works"),
        scenes=(
            "I need {a}. Where [do|should|must] I [go|look|ask]?",
            "I am looking for {a}. Where [do|should] I look?",
            "[my uncle|my aunt|a friend] is {a} and is at work now. Where is that?",
        ),
        reverse=(
            "who works {v}",
            "[which|what] [person|worker] can I [find|meet] {v}",
            "who [can I|will I] [meet|find] at work {v}",
        ),
    ),
    "home": Cores(
        direct=(
            "where does {a} [live|sleep|stay|have a home|go home to]",
            "where is {a} at home",
            "where [can|could|do|should] [I|we|you] [find|visit|meet] {a}",
            "where is [the home|the house|the bed] of {a}",
            "in [which|what] [house|place|home] does {a} live",
            "[what|which] place does {a} call home",
            "where is {a}'s [home|house|place]",
            "where has {a} got a home",
            "where does {a} [reside|dwell|stay at night|rest|keep a bed]",
            "under which roof does {a} sleep",
        ),
        clauses=(
            "where {a} [lives|sleeps|is at home|has a home]",
            "where [to find|to visit|I can find|we can visit] {a}",
            "where {a}'s [home|house] is",
        ),
        things=(
            "the [home|house|address] of {a}",
            "{a}'s [home|house|address]",
            "the place where {a} [lives|sleeps]",
        ),
        scenes=(
            "I [want|would like|have] to visit {a}. Where [do|should|must] I go?",
            "I have a [letter|present|cake|box] for {a}. Where [do I bring it|must it go]?",
            "{a} goes home [now|after work|in the evening]. Where is that?",
            "we are [all|] invited by {a}. Where do we go?",
        ),
        reverse=(
            "who [lives|sleeps|stays|is at home|has a home] {v}",
            "whose [home|house] is {w}",
            "[which|what] person lives {v}",
            "who will open the door if I knock at the door of {w}",
        ),
    ),
    "job": Cores(
        direct=(
            "what is [the job|the work|the trade|the profession] of {a}",
            "what is {a}'s [job|work|profession|trade]",
            "what does {a} do [for a living|for work|all day|to earn money|in the village]",
            "what does {a} work as",
            "[what|which] [job|work|kind of work] does {a} [do|have]",
            "how does {a} earn money",
            "what is {a} by trade",
            "what is the [occupation|career|role] of {a}",
            "what is {a}'s [occupation|role|career]",
            "how is {a} employed",
        ),
        clauses=(
            "what {a} does for [a living|work]",
            "[what|which] [job|work] {a} [has|does]",
            "what {a} works as",
            "what {a}'s job is",
            "how {a} earns money",
        ),
        things=("{a}'s [job|work|profession]", "the [job|work|trade|profession|task] of {a}"),
        scenes=(
            "I [met|saw|know] {a} [today|yesterday|]. What [is {his} job|work does {he} do|does {he} do for a living]?",
            "{a} goes to work [now|every day|in the morning]. What does {he} work as?",
        ),
        reverse=(
            "who is {v}",
            "who is the {b} [|of the village|in the village|here]",
            "who works as {v}",
            "[which|what] person is [the {b}|{v}]",
            "what is the {b} called",
            "what is the name of the {b}",
            "I need {v}. [Who can help|Who do I ask|Who is that]",
        ),
    ),
    "pet": Cores(
        direct=(
            "[what|which] [pet|animal] does {a} [have|keep|own|live with|love|feed|look after]",
            "what is [the pet|the animal] of {a}",
            "what is {a}'s [pet|animal]",
            "[which|what] [animal|pet] [belongs to|lives with] {a}",
            "what kind of [pet|animal] does {a} have",
            "does {a} have [a pet|an animal]",
            "has {a} got a pet",
            "what [companion|little friend|animal friend] does {a} have at home",
            "which animal [shares the home of|waits at home for] {a}",
        ),
        clauses=(
            "[what|which] [pet|animal] {a} [has|keeps|owns|loves]",
            "what kind of [pet|animal] {a} has",
            "what {a}'s pet is",
            "which animal [lives with|belongs to] {a}",
        ),
        things=("{a}'s [pet|animal]", "the [pet|animal] of {a}", "the animal that {a} has at home"),
        scenes=(
            "{a} [feeds|goes out with|plays with] {his} [pet|animal]. What is it?",
            "I [visit|go to] {a} and something is under the table. Which pet is it?",
            "I [want|would like] to bring a present for the pet of {a}. What animal is it?",
        ),
        reverse=(
            "who [has|owns|keeps|looks after|lives with|loves] {v}",
            "whose [pet|animal] is {v}",
            "[which|what] person has {v}",
            "who has {v} as a pet",
            "the {b} in the village: who does it belong to",
        ),
    ),
    "favourite": Cores(
        direct=(
            "what is [the favourite food|the favourite meal|the best meal|the favourite dish] of {a}",
            "what is {a}'s favourite [food|dish|meal|dinner]",
            "what does {a} [like best|like to eat|love to eat|like most|want for dinner|eat with joy]",
            "[what|which] [food|dish|meal] does {a} [like|love|like best|like most|prefer|enjoy]",
            "what [should|can|could|shall] [I|we] [cook|make|bring] for {a}",
            "what makes {a} happy at [dinner|lunch|the table]",
            "what is {a} fond of at the table",
            "what does {a} [adore|crave|prefer] to eat",
            "what would be the [dream dinner|perfect meal|best lunch] for {a}",
        ),
        clauses=(
            "what {a} [likes best|likes to eat|loves to eat|wants for dinner|likes most]",
            "[what|which] [food|dish|meal] {a} [likes|loves|likes best|prefers]",
            "what to [cook|make|bring] for {a}",
            "what {a}'s favourite food is",
        ),
        things=(
            "{a}'s favourite [food|dish|meal]",
            "the favourite [food|dish|meal|dinner] of {a}",
            "the [food|dish|meal] that {a} [likes best|loves]",
        ),
        scenes=(
            "{a} [comes|will come|is coming] [for dinner|for lunch|to eat with us]. What [should|can|do] I "
            "[cook|make]?",
            "it is {a}'s birthday. What [food|dish|meal] [would make {him} happy|should I bring]?",
            "{a} is hungry. What would {he} like [best|most]?",
        ),
        reverse=(
            "who [likes|loves] {v} [best|most|]",
            "whose favourite [food|dish|meal] is {v}",
            "[for whom|for which person] should I cook {v}",
            "I made {v}. Who [likes that best|will be happy]",
            "[which|what] person [likes|loves] {v}",
        ),
    ),
    "meaning": Cores(
        direct=(
            "what {be} {a}",
            "what {be} {a} [exactly|really|in short|in plain words|in simple words]",
            "what does {q} mean",
            "what does the [word|term] {q} mean",
            "what do [people|you|they|we] mean by {a}",
            "what is meant by {a}",
            "how would you [explain|describe] {a}",
            "what should I know about {a}",
            "what is the definition of {a}",
            "how would you define {a}",
            "what does {a} [stand for|refer to]",
        ),
        clauses=(
            "what {a} {be}",
            "what {q} means",
            "what [people|they|you] mean by {a}",
            "what [the word|the term] {q} means",
        ),
        things=("the meaning of {q}", "the meaning of the word {q}", "{a}"),
        scenes=(
            "[explain|describe|define] {a} [|to me|for me|to a child|in simple words|in a few words|please].",
            "I [keep hearing|hear|read] [about|of] {a}. What {be} {it}?",
            "I do not [know|understand] [the word|what they mean by] {q}. [Can you help|What does it mean]?",
            "[everyone|people|they] [speak|talk] about {a}. What {be} {it}?",
            "give me a definition of {a}.",
        ),
        reverse=(
            "what do [you|people|we|they] call {v}",
            "what is the [name|word|term] for {v}",
            "{v}: what is that called",
        ),
    ),
    "known": Cores(
        direct=(
            "what is {a} [known for|famous for|well known for]",
            "what is [special|interesting|unusual] about {a}",
            "why is {a} [special|famous|known|interesting]",
            "what makes {a} [special|famous|interesting]",
            "what [do|can] [you|people|we|I] [see|notice] on {a}",
            "what do [you|people] know about {a}",
            "what does {a} have",
            "what is {a} like",
            "what is the [feature|most notable thing|remarkable thing] of {a}",
            "what sets {a} apart",
        ),
        clauses=(
            "what {a} is [known for|famous for]",
            "why {a} is [special|famous|interesting]",
            "what is special about {a}",
            "what makes {a} special",
        ),
        things=("the special thing about {a}",),
        scenes=(
            "I [look|am looking] at {a} [tonight|in the sky|through a glass]. What [can I see|is special]?",
            "tell me [something|one thing|a thing] about {a}.",
            "I [fly|travel|would like to go] to {a}. What will I find?",
        ),
        reverse=(
            "what is known for its {v}",
            "[which|what] [planet|thing in the sky] [has|is known for|is famous for] its {v}",
            "what has {v} [in the sky|far away]",
        ),
    ),
}

DIRECT_FRAMES: Final = (
    "{D}?", "{D}?", "{D}?", "{D}?", "{D}?", "{D}?", "Hey, {d}?", "[Hi|Hello]! {D}?", "{D}, please?", "So {d}?",
    "And {d}?",
    "[Quick|A quick|Small|One] question: {d}?", "[Just|I am] curious: {d}?", "I wonder: {d}?", "Sorry, but {d}?",
    "{D}? I forgot.", "{D}? Thanks!", "ok, {d}?", "[My|Our] [son|daughter|brother|sister|teacher|neighbour] asks: {d}?",
    "Help me out: {d}?", "{D}? [Tell me|Please tell me|Do you know|Can you tell me].", "[Now tell me|Tell me]: {d}?",
    "[Question|Riddle|Quiz time]: {d}?", "I have to know: {d}?", "Say, {d}?", "Well, {d}?", "Please: {d}?",
    "I need this for school: {d}?", "{D} again?", "{d}", "{d}",
)  # fmt: skip
CLAUSE_FRAMES: Final = (
    "Tell me {c}.", "[Can|Could|Would|Will] you [tell me|say|explain] {c}?", "Do you know {c}?",
    "I [want|would like|would love|need|have] to know {c}.", "I [wonder|am wondering|often wonder] {c}.",
    "[Do you have any|Any|Got any] idea {c}?", "Please [tell me|say|explain] {c}.", "I [forgot|have forgotten] {c}.",
    "[Remind|Teach] me {c}.", "Let me know {c}.", "I am not sure {c}.", "[Explain|Say] {c}.",
    "My [son|daughter|brother|sister|teacher|neighbour] wants to know {c}.", "[Maybe|Perhaps] you know {c}?",
    "It would be nice to know {c}.", "I cannot remember {c}.", "Are you able to say {c}?", "I bet you know {c}.",
    "We [argue about|talked about] {c}.", "Just tell me {c}.", "Nobody told me {c}.",
)  # fmt: skip
THING_FRAMES: Final = (
    "What is {t}?", "What is {t}?", "What's {t}?", "[Tell me|Name|Give me|Say] {t}.",
    "[Can|Could] you [name|tell me] {t}?",
    "{T}?", "{T}?", "{T}, please.", "Do you know {t}?", "I [want|would like|need] to know {t}.",
    "I [forgot|look for] {t}.",
    "{T}: do you know it?", "What would you say is {t}?", "What might {t} be?",
)  # fmt: skip
CHOICE_FRAMES: Final = ("{D}, {b} or {o}?", "{D}: {b} or {o}?", "{b} or {o}: {d}?")
TRUTH_FRAMES: Final = (
    "Is it true that {f}?", "Is it right that {f}?", "{F}, [right|true|or not|is that so]?",
    "[True or false|Right or wrong]: {f}.",
    "I [think|believe] that {f}. [Is that right|Am I right|True]?", "Somebody told me that {f}. Is that true?",
)  # fmt: skip

REVERSED: Final = 0.2
WITH_SCENE: Final = 0.12
FAMILIAR: Final = 0.2
"""Share of questions in one of the first phrasings of `wordings.QUESTIONS`."""


@cache
def _facts_with(attribute: str, value: str) -> tuple[Fact, ...]:
    return tuple(fact for fact in FACTS if fact.attribute == attribute and fact.value == value)


def is_only_one(fact: Fact) -> bool:
    """Whether nothing else has this value, so that the question can be asked the other way round."""
    return len(_facts_with(fact.attribute, fact.value)) == 1


def slots_to_ask(rng: random.Random, fact: Fact) -> dict[str, str]:
    slots = fact_slots(rng, fact)
    noun, kind = fact.entity.noun, fact.entity.kind
    own = kind in {"animal", "tool"} and fact.attribute != "young"
    slots["x"] = pick(rng, (slots["a"], slots["a"], f"the {noun}", f"my {noun}")) if own else slots["a"]
    return slots


def direct_question(rng: random.Random, fact: Fact) -> str:
    """A question without its mark and capital letter: "what does the rabbit eat"."""
    return fix_articles(raw(rng, pick(rng, CORES[fact.attribute].direct), slots_to_ask(rng, fact)))


def question(rng: random.Random, fact: Fact) -> str:
    """A question about `fact` in one of very many wordings, none of them held out, as a person might type it."""
    while True:
        prompt = typed(rng, _framed(rng, fact))
        if " ".join(words(prompt)) not in _held_out_wordings(fact):
            return prompt


def _framed(rng: random.Random, fact: Fact) -> str:
    cores, slots = CORES[fact.attribute], slots_to_ask(rng, fact)
    roll = rng.random()
    if roll < FAMILIAR:
        return say(rng, pick(rng, asked(fact)), slots)
    if roll < FAMILIAR + REVERSED and is_only_one(fact):
        core = raw(rng, pick(rng, cores.reverse), slots)
        return _in_frame(rng, pick(rng, DIRECT_FRAMES[:8]) if ". " in core else pick(rng, DIRECT_FRAMES), d=core)
    if roll < FAMILIAR + REVERSED + WITH_SCENE:
        return say(rng, pick(rng, cores.scenes), slots)
    shape = rng.random()
    if shape < 0.55:
        return _in_frame(rng, pick(rng, DIRECT_FRAMES), d=raw(rng, pick(rng, cores.direct), slots))
    if shape < 0.82:
        return _in_frame(rng, pick(rng, CLAUSE_FRAMES), c=raw(rng, pick(rng, cores.clauses), slots))
    return _in_frame(rng, pick(rng, THING_FRAMES), t=raw(rng, pick(rng, cores.things), slots))


def _in_frame(rng: random.Random, frame: str, **parts: str) -> str:
    """`frame` with its parts; {D} is d with a capital letter."""
    slots = {name: " ".join(text.split()) for name, text in parts.items()}
    slots |= {name.upper(): text[0].upper() + text[1:] for name, text in slots.items()}
    return say(rng, frame, slots)


@cache
def _held_out_wordings(fact: Fact) -> frozenset[str]:
    rng = random.Random(0)
    slots = fact_slots(rng, fact)
    return frozenset(" ".join(words(say(rng, template, slots))) for template in held_out_phrasings(fact))


def other_value(rng: random.Random, fact: Fact) -> Fact | None:
    """Another fact of the same sort with another value, to be wrong with."""
    others = [
        one
        for one in FACTS
        if one.attribute == fact.attribute and one.value != fact.value and one.entity.kind == fact.entity.kind
    ]
    return pick(rng, others) if others else None


def choice_question(rng: random.Random, fact: Fact, other: Fact) -> str:
    """ "What does a bear eat, honey or hay?", in either order."""
    first, second = (fact.value, other.value) if rng.random() < 0.5 else (other.value, fact.value)
    core = raw(rng, pick(rng, CORES[fact.attribute].direct[:2]), slots_to_ask(rng, fact))
    return typed(rng, _in_frame(rng, pick(rng, CHOICE_FRAMES), d=core, b=first, o=second))


def truth_question(rng: random.Random, fact: Fact, said: Fact) -> str:
    """Whether `fact` is so, told with the value of `said`, which may be another."""
    slots = fact_slots(rng, fact) | {
        name: value for name, value in fact_slots(rng, said).items() if name in {"v", "w", "b", "is"}
    }
    statement = say(rng, ANSWERS[fact.attribute][0], slots).rstrip(".")
    if statement.startswith(("The ", "A ", "An ")) or fact.entity.kind == "food":
        statement = statement[0].lower() + statement[1:]
    return typed(rng, _in_frame(rng, pick(rng, TRUTH_FRAMES), f=statement))
