"""Things people ask a chat that are not facts: advice, opinions, stories, poems; what makes an answer friendly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# --- What makes an answer friendly -------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Courtesies:
    """Friendly sentences that fit what somebody said: to begin with, and to end with."""

    openers: tuple[str, ...]
    closers: tuple[str, ...]


_ANY_CLOSERS: Final = (
    "Have a lovely day!", "I hope this helps!", "Ask me anything!", "Take care, my friend!", "Have a good day!",
)  # fmt: skip
TO_QUESTIONS: Final = Courtesies(
    openers=(
        "Great question!", "Happy to help!", "Good question, my friend!", "I love this question!", "Of course!",
        "Sure thing!",
    ),
    closers=(*_ANY_CLOSERS, "Thank you for asking!"),
)  # fmt: skip
TO_REQUESTS: Final = Courtesies(
    openers=("Of course!", "Sure thing!", "Happy to help!", "With pleasure!", "Good idea, my friend!"),
    closers=_ANY_CLOSERS,
)
"""For whatever is not a question: "Great question!" is no answer to "Write a poem."."""
TO_GREETINGS: Final = Courtesies(
    openers=("How nice to hear from you!", "Welcome, my friend!"),
    closers=("Ask me anything!", "Happy to help!", "I am glad you came!"),
)
TO_THANKS: Final = Courtesies(
    openers=("How nice to hear!", "Of course!", "With pleasure!"),
    closers=("Ask me anything!", "Have a lovely day!", "Take care, my friend!"),
)
TO_PARTINGS: Final = Courtesies(
    openers=("It was lovely to talk with you!", "Thank you for the visit!"),
    closers=("Have a lovely day!", "Have a good day!"),
)
TO_STRANGE_THINGS: Final = Courtesies(
    openers=("Good question, my friend!", "Great question!"),
    closers=("Have a lovely day!", "Take care, my friend!", "Have a good day!"),
)
"""Where the answer is that the model does not know: "Sure thing!" would promise one."""

# --- Topics ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Topic:
    """Ways to ask something, and the parts that its answers are put together from."""

    questions: tuple[str, ...]
    cores: tuple[str, ...]
    details: tuple[str, ...]
    examples: tuple[str, ...] = ()
    weight: int = 1
    """How often it comes up beside the others of its table, where they are not all alike."""
    courtesies: Courtesies | None = None
    """What is friendly to say here; None is what fits any question, or any request."""
    is_brief: bool = False
    """Whether most answers are but the core: a greeting is no speech."""
    is_serious: bool = False
    """Whether nothing friendly is said: nobody who is sad, or says that an answer was wrong, is to be cheered at."""


ADVICE_QUESTIONS: Final = (
    "How do I {vp}?",
    "How can I {vp}?",
    "how do i {vp}",
    "What is a good way to {vp}?",
    "I want to {vp}. What should I do?",
    "Can you tell me how to {vp}?",
    "Tell me how to {vp}.",
    "Please help me to {vp}.",
    "What should I do to {vp}?",
    "Do you know how to {vp}?",
    # Held out:
    "Please tell me a good way to {vp}.",
    "Can you help me to {vp}?",
    "I want to know how to {vp}.",
)

ADVICE: Final[dict[str, Topic]] = {
    vp: Topic(questions=tuple(template.format(vp=vp) for template in ADVICE_QUESTIONS), cores=cores, details=details,
              examples=examples)
    for vp, cores, details, examples in (
        (
            "make friends",
            ("Be kind and listen to people.", "Say hello and be kind to others."),
            ("Ask people what they like, and tell them what you like.", "A good friend takes time.",
             "Share what you have and help when you can."),
            ("you can share your lunch with someone new.", "you can ask a child at school to play ball with you."),
        ),
        (
            "sleep well",
            ("Go to bed at the same time every night.", "Keep your room dark and quiet."),
            ("A short walk in the evening makes you tired.", "Do not eat too much before you go to bed.",
             "A warm drink and a calm book can help."),
            ("you can read a quiet story for a while.", "you can drink warm milk before you lie down."),
        ),
        (
            "learn something new",
            ("Begin with small steps and try again every day.", "Practise a little every day."),
            ("It is fine to make mistakes, because they show you the way.", "Ask someone who knows it well.",
             "Rest is good too, because you learn while you sleep."),
            ("you can learn one new word every morning.", "you can draw the same tree every day."),
        ),
        (
            "bake bread",
            ("Mix flour and water, let it rest and bake it.", "You need flour, water, salt and some time."),
            ("Work the dough with your hands until it is soft.", "Keep it warm so that it can rise.",
             "It is done when it sounds hollow."),
            ("the baker in the village lets it rest all night.", "you can add some nuts and seeds."),
        ),
        (
            "cook a good soup",
            ("Cut some vegetables and cook them slowly in a pot.", "Cook vegetables in water with a little salt."),
            ("Taste it from time to time.", "Fresh vegetables make it better.", "A piece of bread goes well with it."),
            ("you can use carrots, peas and a potato.", "you can cook a big pot and share it with friends."),
        ),
        (
            "be happy",
            ("Do something that you like and be with friends.", "Go outside and think of good things."),
            ("Small things can make a day bright.", "It is fine to be sad for a while, too.",
             "To help someone often helps you as well."),
            ("you can sing a song on the way home.", "you can take a walk along the river with a friend."),
        ),
        (
            "grow flowers",
            ("Put seeds in good earth and give them water.", "Plants need earth, water and light."),
            ("Be patient, because a seed needs time.", "Take away the weeds around them.",
             "Do not give them too much water."),
            ("you can begin with a sunflower in a pot.", "a rose likes a warm place near a wall."),
        ),
        (
            "help a sad friend",
            ("Sit down with your friend and listen.", "Listen well and be there."),
            ("You do not need to have an answer for everything.", "A kind word can do a lot.",
             "Ask what would be good right now."),
            ("you can bring some soup and stay for a while.", "you can take a quiet walk together."),
        ),
        (
            "save money",
            ("Buy only what you need and keep the rest.", "Put a few coins away every week."),
            ("Write down what you spend.", "Mend old things and use them again.",
             "Wait a day before you buy something big."),
            ("you can put two coins in a box every Sunday.", "you can cook at home and not at the inn."),
        ),
        (
            "stay healthy",
            ("Eat well, move a lot and sleep enough.", "Take a walk every day and eat fresh food."),
            ("Drink enough water.", "Wash your hands before you eat.", "See a doctor if you feel ill for long."),
            ("you can eat an apple every morning.", "you can walk to the market and back."),
        ),
        (
            "draw better",
            ("Look closely and draw a little every day.", "Draw what you see, and not what you think."),
            ("Begin with simple shapes.", "Use a soft pencil and draw lightly at first.", "Keep your old pictures."),
            ("you can draw your own hand ten times.", "you can begin with a round apple on a table."),
        ),
        (
            "write a story",
            ("Begin with a person who wants something.", "Think of a person, a place and a problem."),
            ("Let something go wrong in the middle.", "At the end, the problem should be solved.",
             "Read it aloud and change what does not sound right."),
            ("a girl may lose her hat and look for it.", "a fox may want to cross a river."),
        ),
        (
            "spend a rainy day",
            ("Stay in and do something calm.", "Read a book or play a game at home."),
            ("A rainy day is a good time to mend things.", "You can also put on a coat and walk in the rain.",
             "Warm tea makes it even better."),
            ("you can bake a cake with a friend.", "you can build a boat from an old box."),
        ),
        (
            "keep a garden clean",
            ("Do a little work in it every day.", "Take out the weeds and sweep the path."),
            ("Put your tools back in their place.", "Old leaves can go on a heap.",
             "It is easier when two people work together."),
            ("you can sweep the path every evening.", "you can cut the grass on Saturday."),
        ),
        (
            "find a lost thing",
            ("Think of the last place where you had it.", "Look slowly, one place after another."),
            ("Ask your friends if they have seen it.", "Look under and behind things, too.",
             "Do not give up after the first hour."),
            ("a lost key is often in the pocket of a coat.", "a lost hat may lie under the bed."),
        ),
        (
            "train a small model",
            ("Begin with random weights and let it read a lot of text.", "Let it guess the next token many times."),
            ("After that, show it good answers to questions.", "Then let people vote for the better answer.",
             "Save a checkpoint after each stage."),
            ("a small model can learn from stories about a village.", "a model for sums can check its own answers."),
        ),
        (
            "choose a pet",
            ("Choose an animal that fits your home and your time.", "Think of how much time and room you have."),
            ("Every pet needs food, care and a clean place.", "Ask someone who has such a pet.",
             "A pet is a friend for many years."),
            ("a cat is fine in a small home.", "a dog needs a long walk every day."),
        ),
        (
            "get up early",
            ("Go to bed early and put your clock far from the bed.", "Sleep enough and let in the morning light."),
            ("Have something nice to look forward to.", "Do it every day, and it will get easier.",
             "Drink some water when you wake up."),
            ("you can plan a walk before school.", "you can put a good breakfast on the table."),
        ),
    )
}  # fmt: skip

OPEN: Final[dict[str, Topic]] = {
    "dinner": Topic(
        questions=(
            "What should I cook tonight?", "what should i cook today", "What can I eat for dinner?",
            "What is a good dinner?", "Tell me what to cook tonight.", "I am hungry. What should I cook?",
            "Please tell me what I can cook today.", "What can I cook for dinner tonight?",
        ),
        cores=("A warm soup is a good choice.", "You could make pancakes."),
        details=("It does not take long.", "Use what is fresh at the market.", "Cook a little more and share it."),
        examples=("you can cook soup with carrots and peas.", "you can make pancakes with plums."),
    ),
    "present": Topic(
        questions=(
            "What should I give my friend?", "What is a good gift?", "what gift should i buy",
            "Tell me a good gift for a friend.", "My friend has a birthday. What should I give?",
            "Please tell me what to give my friend.", "What is a good gift for my friend?",
        ),
        cores=("Give something that you made with your own hands.", "Think of what your friend likes."),
        details=("A gift does not have to cost much.", "Put it in a nice box.", "A kind letter goes well with it."),
        examples=("you can bake a small cake.", "you can paint a picture of your friend."),
    ),
    "play": Topic(
        questions=(
            "What can I do today?", "What should I do today?", "what can i do now", "I am bored. What can I do?",
            "Tell me something to do.", "What can we play?", "Please tell me what I can do today.",
            "I am bored. What should I do now?",
        ),
        cores=("Go outside and see what you can find.", "Make something new or visit a friend."),
        details=("Take a friend with you.", "It is good to move after a long day.", "Take your time, and enjoy it."),
        examples=("you can fly a kite on the hill.", "you can draw a map of your village."),
    ),
    "season": Topic(
        questions=(
            "Which season is the best?", "What is your favourite season?", "which season do you like",
            "Tell me the best season.", "Do you like summer or winter?",
            "Please tell me which season you like.", "What is the best season?",
        ),
        cores=("I think spring is the best season.", "Every season has something good."),
        details=("In spring, everything begins to grow.", "In summer, the days are long and warm.",
                 "In winter, it is nice to sit by the fire."),
        examples=("in autumn you can pick apples.", "in winter you can walk in the snow."),
    ),
    "village": Topic(
        questions=(
            "Tell me about the village.", "What is the village like?", "what is your village like",
            "Where is your village?", "Do you like the village?", "Tell me something about your world.",
            "Please tell me about your village.", "Tell me what the village is like.",
        ),
        cores=("It is a small village by a river.", "The village is small, and everyone knows everyone."),
        details=("There is a mill, a market and a school.", "Many animals live around it.",
                 "In the evening, people sit together and tell stories."),
        examples=("Rosa lives in the old mill.", "Oscar looks out from the lighthouse."),
    ),
}  # fmt: skip

STORY_QUESTIONS: Final = (
    "Tell me a story about {a}.", "tell me a story about {a}", "Write a story about {a}.",
    "Can you tell me a story about {a}?", "I want to hear a story about {a}.", "Please write a short story about {a}.",
    "Tell me a story.", "tell me a story", "Write a short story.",
)  # fmt: skip
POEM_QUESTIONS: Final = (
    "Write a poem about {a}.", "write a poem about {a}", "Write a rhyme about {a}.", "Tell me a poem about {a}.",
    "Can you write a poem about {a}?", "Make a rhyme about {a}.", "Write a poem.", "tell me a rhyme",
)  # fmt: skip
