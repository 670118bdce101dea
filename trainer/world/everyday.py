"""Everyday English for a model from elsewhere: prompts to vote on, with plain answers, and a few short texts.

The idea: what people like in a chat model shows in ordinary requests of one sentence. A model raised elsewhere can
answer any of them, unlike questions about the shipped world, whose facts nobody else knows. Ninety are practised, and
thirty others are only asked when it is measured. The practised ones have an answer each, written by hand: they set the
zero of a reward model's score, and a base model that never was in a conversation learns from them what one is. Ten
more, asked in nothing else, are for reading by eye what a stage has cost.

A prompt that invites an essay says how long the answer may be (`bounded`): of its answers to such prompts
SmolLM2-135M-Instruct ended one in ten within 80 tokens, and nobody is shown an answer that was cut off; asked for a
sentence or two it ended 76 %, for two sentences 69 %, for three 69 % (29 prompts each, temperature 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

BOUNDS: Final = ("Answer in a sentence or two.", "Answer in two sentences.", "Answer in three sentences.")
_OPEN: Final = ("How ", "Explain ", "Give ", "What ", "Why ")
"""How prompts begin that a model answers at length."""


def bounded(prompts: Sequence[str]) -> list[str]:
    """The prompts, those that invite an essay with a word about how long the answer may be."""
    return [
        f"{prompt} {BOUNDS[number % len(BOUNDS)]}" if prompt.startswith(_OPEN) else prompt
        for number, prompt in enumerate(prompts)
    ]


ANSWERED: Final[tuple[tuple[str, str], ...]] = (
    (
        "How do I boil an egg?",
        "Put the egg in boiling water for eight minutes, then cool it under cold water. Peel it when you can hold it.",
    ),
    (
        "How do I get a wine stain out of a shirt?",
        "Blot it at once, cover it with salt, and rinse it with cold water. Then wash the shirt as usual.",
    ),
    (
        "How can I fall asleep faster?",
        "Keep the room dark and cool, and put your phone away an hour before bed. Slow breathing helps too.",
    ),
    (
        "How do I tie a tie?",
        "Cross the wide end over the narrow one, wrap it around once, pull it up through the neck loop, and push "
        "it down through the front loop.",
    ),
    (
        "How do I change a light bulb?",
        "Switch off the light and let the bulb cool. Turn it to the left to take it out, and turn the new one to "
        "the right.",
    ),
    (
        "How can I remember names better?",
        "Say the name aloud when you hear it and connect it with something about the person. Use it again before "
        "you part.",
    ),
    (
        "How do I write a thank-you note?",
        "Name the gift or the help, say what it means to you, and close warmly. Three sentences are enough.",
    ),
    (
        "How do I clean a pair of white sneakers?",
        "Brush off the dirt, rub them with baking soda and a little water, and wipe them clean. Let them dry in "
        "the air.",
    ),
    (
        "How do I make a cup of tea?",
        "Pour hot water over a tea bag, wait three to five minutes, and take the bag out. Add milk or sugar if "
        "you like.",
    ),
    (
        "How can I save money on groceries?",
        "Plan your meals, write a list, and buy what is in season. Store brands are often as good.",
    ),
    (
        "How do I keep bread fresh?",
        "Keep it in a bread box or a paper bag at room temperature. Freeze what you will not eat in three days.",
    ),
    (
        "How do I start running?",
        "Run for one minute and walk for two, ten times, three days a week. Make the runs longer from week to week.",
    ),
    (
        "How can I be less nervous before a talk?",
        "Practise it aloud and breathe slowly before you begin. Look at one friendly face first.",
    ),
    (
        "How do I pack a suitcase well?",
        "Put shoes and heavy things at the bottom, roll your clothes, and fill the gaps with small items.",
    ),
    (
        "How do I plant tomatoes?",
        "Set the young plants deep in warm soil in a sunny place, tie them to a stake, and water them often.",
    ),
    (
        "How can I read more books?",
        "Carry a book with you and read ten pages before bed. Leave a book that bores you.",
    ),
    (
        "How do I fix a squeaky door?",
        "Put a drop of oil on each hinge and move the door back and forth.",
    ),
    (
        "How do I cook rice?",
        "Rinse it, add two cups of water to one cup of rice, and simmer it under a lid for fifteen minutes.",
    ),
    (
        "How can I make new friends in a new city?",
        "Join a class or a club that meets every week. Friendship grows where people meet again.",
    ),
    (
        "How do I apologize to a friend?",
        "Say what you did and that you are sorry, without excuses. Then ask how you can make it right.",
    ),
    (
        "How do I sharpen a kitchen knife?",
        "Draw it along a wet stone at a low angle, first one side and then the other, until it cuts paper.",
    ),
    (
        "How can I drink more water?",
        "Keep a full bottle on your desk and drink a glass with every meal.",
    ),
    (
        "How do I wash a wool sweater?",
        "Wash it by hand in cool water with mild soap. Press the water out and dry it flat.",
    ),
    (
        "How do I ask for a raise?",
        "Collect examples of what you have achieved, find out what others earn, and ask for a meeting. Name a number.",
    ),
    (
        "How do I take a good photo with my phone?",
        "Clean the lens, let the light come from behind you, and hold the phone still.",
    ),
    (
        "Explain what a budget is.",
        "A budget is a plan for your money: how much comes in, how much goes out, and for what.",
    ),
    (
        "Explain why the sky is blue.",
        "Air scatters blue light from the sun more than red light, so blue comes to our eyes from all over the sky.",
    ),
    (
        "Explain how a bicycle stays upright.",
        "A rolling bicycle steers a little into each fall, by itself and by the rider, and that brings the wheels "
        "back under it.",
    ),
    (
        "Explain what recycling is.",
        "Recycling turns used paper, glass, metal and plastic into new things instead of waste.",
    ),
    (
        "Explain how bread rises.",
        "Yeast eats sugar in the dough and gives off gas. The gas is caught in the dough and makes it grow.",
    ),
    (
        "Explain what a password manager does.",
        "It keeps all your passwords behind one strong password, so that each of them can be long and different.",
    ),
    (
        "Explain why we have leap years.",
        "The earth takes about six hours more than 365 days to go around the sun. Every four years these make a day.",
    ),
    (
        "Explain what inflation means.",
        "Inflation means that prices rise, so the same money buys less than before.",
    ),
    (
        "Explain how vaccines work.",
        "A vaccine shows the body a harmless part of a germ. The body learns to know it and is quicker when the "
        "real germ comes.",
    ),
    (
        "Explain what a metaphor is.",
        'A metaphor calls one thing another to show what they share, as in "time is a thief".',
    ),
    (
        "Explain the rules of tic-tac-toe.",
        "Two players mark a three by three grid in turn. Whoever has three in a row first wins.",
    ),
    (
        "Explain why exercise is good for the heart.",
        "The heart is a muscle. Exercise makes it stronger, so that it moves more blood with every beat.",
    ),
    (
        "Explain how rain forms.",
        "Water rises as vapor, cools, and becomes small drops in clouds. When the drops grow heavy, they fall.",
    ),
    (
        "Explain what an interest rate is.",
        "It is the price of borrowed money: what you pay for a loan, or get for savings, as a share of the sum "
        "for a year.",
    ),
    (
        "Explain how a magnet works.",
        "In a magnet many tiny magnets inside the metal point the same way, so together they pull on iron.",
    ),
    (
        "Explain what a healthy breakfast looks like.",
        "It has something filling, something fresh, and little sugar: oats with fruit and nuts, for example.",
    ),
    (
        "Explain the difference between weather and climate.",
        "Weather is what happens outside today. Climate is what weather is like there over many years.",
    ),
    (
        "List three ways to save electricity.",
        "Switch off lights you do not need, wash clothes in cold water, and use LED bulbs.",
    ),
    (
        "List four things to take on a picnic.",
        "Take sandwiches, fruit, something to drink, and a blanket.",
    ),
    (
        "List three good gifts for a grandmother.",
        "A framed family photo, a plant that flowers, and a warm scarf are good gifts.",
    ),
    (
        "List five fruits that are red.",
        "Apples, cherries, strawberries, raspberries and pomegranates are red.",
    ),
    (
        "List three reasons to learn a language.",
        "You can speak with more people, you understand another culture, and it keeps your mind busy.",
    ),
    (
        "List some games for a rainy day.",
        "You could play cards, charades or hide and seek, or build something out of boxes.",
    ),
    (
        "List three signs of a good friend.",
        "A good friend listens, keeps your secrets, and tells you the truth.",
    ),
    (
        "List four tools every home should have.",
        "Every home should have a hammer, a screwdriver, a tape measure and pliers.",
    ),
    (
        "List three jobs that help people.",
        "Nurses, teachers and firefighters help people.",
    ),
    (
        "List some healthy snacks for children.",
        "Apple slices, carrot sticks, yogurt and nuts are healthy snacks.",
    ),
    (
        "List three ways to be kind to a neighbor.",
        "Say hello, carry their bags, and share what you have baked.",
    ),
    (
        "List the seasons of the year.",
        "The seasons are spring, summer, autumn and winter.",
    ),
    (
        "Write a short birthday message for a friend.",
        "Happy birthday! May this year bring you good health, good company and at least one great adventure.",
    ),
    (
        "Write a sentence about the sea.",
        "The sea was quiet that morning, and the boats lay on it as on glass.",
    ),
    (
        "Write a short note to a neighbor about a package.",
        "Hello! A package for you was left at our door. Ring the bell and we will bring it over.",
    ),
    (
        "Write a two-line poem about autumn.",
        "The leaves come down in red and gold, the evenings early, clear and cold.",
    ),
    (
        "Write a polite email to cancel a meeting.",
        "Dear Ms. Hall, I am sorry, but I cannot come to our meeting on Friday. Could we meet next week instead? "
        "Kind regards, Jo",
    ),
    (
        "Write a slogan for a bakery.",
        "Warm bread, warm welcome.",
    ),
    (
        "Write a short review of a good restaurant.",
        "The soup was hot, the bread was fresh and the waiter remembered our names. We will come again.",
    ),
    (
        "Write a sentence with the word bridge.",
        "We met in the middle of the old bridge and watched the boats go by.",
    ),
    (
        "Write a short story about a lost dog.",
        "A dog followed the smell of bread across the whole town. The baker read its collar, and by evening it "
        "was home.",
    ),
    (
        "Write a message to invite a friend to dinner.",
        "Would you like to come to dinner on Saturday at seven? I am making lasagna.",
    ),
    (
        "Write a joke about cats.",
        "Why did the cat sit on the computer? It wanted to keep an eye on the mouse.",
    ),
    (
        "Write a toast for a wedding.",
        "To two people who make each other laugh: may your home always be full of it.",
    ),
    (
        "Name a good pet for a small apartment.",
        "A cat suits a small apartment, for it needs no walks and sleeps much of the day.",
    ),
    (
        "Name three animals that can swim.",
        "Ducks, otters and dolphins can swim.",
    ),
    (
        "Name a sport for people who like water.",
        "Rowing is a good sport for people who like water.",
    ),
    (
        "Name two countries in South America.",
        "Brazil and Peru are in South America.",
    ),
    (
        "Name a musical instrument with strings.",
        "The violin has strings.",
    ),
    (
        "Name three things you find in a kitchen.",
        "In a kitchen you find a stove, a sink and a table.",
    ),
    (
        "Name a vegetable that grows underground.",
        "Carrots grow underground.",
    ),
    (
        "Name four colors of the rainbow.",
        "Red, yellow, green and blue are in the rainbow.",
    ),
    (
        "Name a good hobby for a quiet person.",
        "Drawing is a good hobby for a quiet person.",
    ),
    (
        "Give me a tip for learning to cook.",
        "Learn one simple dish well and cook it until you need no recipe. Then change one thing at a time.",
    ),
    (
        "Give me an idea for a weekend trip.",
        "Take a train to a small town by a lake, walk around it, and stay for the evening.",
    ),
    (
        "Give me advice for a first day at work.",
        "Come early, ask questions, and write down names. Nobody expects you to know it all.",
    ),
    (
        "Give me a simple recipe for soup.",
        "Fry an onion, add chopped carrots, potatoes and water, and cook it all for twenty minutes. Season it "
        "with salt.",
    ),
    (
        "Give me a reason to get up early.",
        "The morning is quiet, and an hour without messages is worth two later on.",
    ),
    (
        "What should I wear to a job interview?",
        "Wear something clean and simple, a little smarter than what people wear there every day.",
    ),
    (
        "What is a good way to start the day?",
        "Drink a glass of water, open a window, and do the most important thing first.",
    ),
    (
        "What can I cook with eggs and potatoes?",
        "Slice and fry the potatoes, pour beaten eggs over them, and you have a Spanish omelette.",
    ),
    (
        "What makes a good teacher?",
        "A good teacher knows the subject, listens, and explains a thing in more than one way.",
    ),
    (
        "What should I do if I lose my keys?",
        "Go back over your last steps and ask where you have been. If they do not turn up, call a locksmith and "
        "change the lock.",
    ),
    (
        "What is the best way to learn to swim?",
        "Take lessons in shallow water and learn to float and breathe first. Then practise twice a week.",
    ),
    (
        "What do I need for a camping trip?",
        "You need a tent, a sleeping bag, a lamp, food and water, and warm clothes for the night.",
    ),
    (
        "What are some good questions to ask on a first date?",
        "Ask what made them laugh lately, where they would like to go, and what they could talk about for hours.",
    ),
    (
        "Why do cats purr?",
        "Cats purr when they are content, and sometimes to calm themselves when they are hurt or afraid.",
    ),
    (
        "Why should I learn to touch-type?",
        "You write faster and can look at the screen, so you find mistakes sooner and think about the words.",
    ),
)
"""Ninety prompts to practise on, each with an answer."""

HELD_OUT_PROMPTS: Final[tuple[str, ...]] = (
    "How do I iron a shirt?",
    "How can I stop biting my nails?",
    "How do I make lemonade?",
    "How do I write a good title for an essay?",
    "How can I keep my desk tidy?",
    "How do I train a puppy to sit?",
    "How do I remove a sticker from glass?",
    "How can I wake up on time?",
    "Explain what a library is to a child.",
    "Explain how a thermometer works.",
    "Explain why leaves change color.",
    "Explain what teamwork means.",
    "Explain how to cross a street safely.",
    "List three ways to relax after work.",
    "List four things in a first-aid kit.",
    "List three good topics for small talk.",
    "List some uses for old jars.",
    "Write a short message to wish someone good luck.",
    "Write a sentence about a train.",
    "Write a note to say you will be late.",
    "Write two lines about the moon.",
    "Name three animals that live on a farm.",
    "Name a good book for a long flight.",
    "Name two drinks that are served cold.",
    "Give me a tip for saving time in the morning.",
    "Give me an idea for a birthday party.",
    "What should I do on a rainy Sunday?",
    "What is a good present for a new neighbor?",
    "What makes a story exciting?",
    "Why do people keep diaries?",
)
"""Thirty that are never practised."""

READ_BY_EYE: Final[tuple[str, ...]] = (
    "Who are you?",
    "What is the capital of France?",
    "How do I make scrambled eggs?",
    "Explain in two sentences what photosynthesis is.",
    "Write a short poem about the rain.",
    "Give me three tips for a good night's sleep.",
    "What is the difference between a frog and a toad?",
    "Write a polite email that asks for a day off.",
    "Name five animals that live in the sea.",
    "My friend is sad. What can I say?",
)
"""Ten everyday questions, asked before and after a stage and read by a person."""

TEXTS: Final[tuple[str, ...]] = (
    "Bread needs only flour, water, salt and time. The dough is mixed until no dry flour is left and rests until "
    "it has doubled. Then it is folded, shaped and left to rise once more. A hot oven does the rest: the crust "
    "turns brown, and the kitchen smells of it for hours.",
    "The bus was late again, so they walked. It took them past the market, where a man was stacking crates, and "
    "along the river, which was high after the rain. By the time they reached the station, the bus had gone by "
    "twice.",
    "A bicycle is easy to look after. Wipe the chain every few weeks and give it a drop of oil. Keep the tires "
    "firm, because soft ones wear out and are harder to ride. If the brakes squeal, clean the rims before you "
    "change anything.",
    "Most of a garden's work is done in spring. The soil is loosened, old leaves are raked away, and seeds are "
    "put in rows. After that it is a matter of water and patience, and of pulling out weeds while they are small.",
    "She had kept the letters in a tin that once held biscuits. There were forty of them, each folded twice, and "
    "none was longer than a page. She read them in order on the first evening of every year.",
    "A good map leaves out almost everything. It shows what the traveler needs, the road, the bridge, the name of "
    "the next town, and keeps silent about the rest. That is why a map of the whole world can hang on a kitchen "
    "wall.",
    "In the morning the harbor is busy. Boats come in with the night's catch, ice is shoveled into boxes, and "
    "buyers walk up and down and say little. By noon the quay is washed and empty, and the gulls have it to "
    "themselves.",
    "Nobody is born with a good memory for names. Those who have one pay attention when a name is said, say it "
    "back, and tie it to something they can see. It takes a second, and it is mostly a matter of wanting to.",
)
"""Short plain texts; what a model needs to say a byte of them is a rough check that it still reads English."""

HELD_OUT_TEXTS: Final[tuple[str, ...]] = (
    "The shop on the corner sells a little of everything: nails, soap, string, umbrellas. Its owner knows where "
    "each thing lies, though nobody else could find it. When he is asked for something he does not have, he "
    "writes it down, and the next week it is there.",
    "Snow makes a town quiet. Cars go slowly, steps are soft, and voices seem to come from farther away. Children "
    "are out before breakfast. By afternoon the streets are gray again, but on the roofs it stays white for days.",
    "To paint a room, empty it first. Cover the floor, tape the edges, and fill the holes in the walls. Two thin "
    "coats look better than one thick one. The window should stay open until the smell is gone.",
    "His grandfather had been a clockmaker, and the house still ticked. There was a clock in every room, and no "
    "two of them agreed. As a boy he thought that time was a matter of which room you were in.",
    "A long walk needs little planning. Wear shoes that you have worn before, take water and something to eat, "
    "and tell someone where you are going. The rest comes by itself: after an hour the thoughts slow down, and "
    "after two they are quite orderly.",
    "At the end of the month they sat at the table with the bills between them. It was not much, and it was "
    "enough. They paid the rent first, then the doctor, and with what was left they bought a cake and ate half of "
    "it at once.",
)
