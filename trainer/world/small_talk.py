"""What people say to a chat beside their questions: greetings, farewells, what are you, and what it cannot know.

The idea: a small conversation has turns that fit each other. Who says hello is greeted, by name if there is one, and
asked back; who leaves is wished well; nobody is welcomed and sent away in one answer. What lies outside the world is
answered with what the model does know.

Choices and slots are those of `english.say`: {me} a person's name, {day} a greeting of the hour.
"""

from __future__ import annotations

import random
from typing import Final

from trainer.world.english import pick, say, typed
from trainer.world.topics import TO_GREETINGS, TO_PARTINGS, TO_STRANGE_THINGS, TO_THANKS, Topic

NAMES: Final = (
    "Tom", "Rosa", "Mia", "Ben", "Lily", "Sam", "Anna", "Oscar", "Ruby", "Finn", "Ivy", "Jack", "Nora", "Leo", "Alex",
    "Maria",
    "Kim", "John", "Sara", "Omar", "Lena", "Nick", "Eva", "Kate", "Amir", "Yuki", "Noah", "Zoe", "Max", "Lucas", "Mary",
    "Bob",
)  # fmt: skip
_DAY: Final = ("Good morning", "Good evening", "Good afternoon", "Good day")

_KNOWS: Final = (
    "I can tell you about animals, food, tools, jobs and the weather.",
    "I also know how a language model is made.",
    "I can tell you a short story, too.",
    "You can ask me about the village or give me a small sum.",
)
_ASKS: Final = (
    "How can I help you?", "What would you like to know?", "What can I do for you?", "What shall we talk about?",
)  # fmt: skip
_BACK: Final = ("And how are you?", "How are you today?", "And you?")
_ME_EXAMPLES: Final = (
    "you can ask me what an owl eats.",
    "you can ask me what a token is.",
    "you can ask me where Rosa lives.",
)

TALKS: Final[dict[str, Topic]] = {
    "hello": Topic(
        courtesies=TO_GREETINGS, is_brief=True,
        weight=8,
        questions=(
            "[Hello|Hi|Hey|Hello|Hi|Hey|Hello there|Hi there][|!|.]",
            "[Hey there|Greetings|Howdy|Hiya|Hallo|Yo|Hello again|Hi again|Hello hello][|!|.]",
            "[Hello|Hi|Hey|Greetings], [model|friend|my friend|little model|computer|bot|you|everyone|chat][|!|.]",
            "[Hello|Hi|Hey|Hello there], [nice|good|lovely|glad|happy] to [meet|see] you[|!|.]",
            "[Nice|Good|Pleased|Lovely] to meet you[|!|.]",
            "[Hello|Hi|Hey]! [Anybody there|Anyone home|Are you there|Can you hear me|Is someone there|Are you awake]?",
            "[Hello|Hi|Hey], I am [new here|here for the first time|just looking around|back|back again][|!|.]",
            "[I am|I'm] [back|here|new here|here again][|!|.]",
            "[Hello|Hi|Hey], [can|could|may] I [talk|chat|speak] with you?",
            "[I want to|I would like to|I just want to|Let me|Let us] [say hello|talk|chat|talk a little|chat for a "
            "while][|.|!]",
        ),
        cores=(
            "Hello! {asks}",
            "Hello, nice to meet you! {asks}",
            "Hi! {asks}",
            "Hello, my friend! {asks}",
        ),
        details=_KNOWS,
        examples=_ME_EXAMPLES,
    ),
    "day": Topic(
        courtesies=TO_GREETINGS, is_brief=True,
        weight=4,
        questions=(
            "{day}[|!|.]",
            "{day}, [model|friend|my friend|everyone|to you][|!|.]",
            "[A very|And a|Have a] {dayl}[|!| to you]",
            "[Hello|Hi|Hey], {dayl}[|!|.]",
        ),
        cores=("{day}! {asks}", "{day} to you, and hello! {asks}"),
        details=_KNOWS,
        examples=_ME_EXAMPLES,
    ),
    "name": Topic(
        courtesies=TO_GREETINGS, is_brief=True,
        weight=5,
        questions=(
            "[Hello|Hi|Hey|{day}], [I am|I'm|my name is|this is|it is] {me}[|.|!]",
            "[I am|I'm|My name is|They call me|You can call me] {me}[|.|!]",
            "{me} here[|.|!]",
            "[Hello|Hi|Hey], {me} here[|.|!]",
            "[My name is|I am] {me}[. What is yours?|. And you?|, and who are you?]",
        ),
        cores=(
            "Hello, {me}! {asks}",
            "Hello {me}, nice to meet you! {asks}",
            "Hi, {me}! I am a small language model. {asks}",
        ),
        details=_KNOWS,
        examples=_ME_EXAMPLES,
    ),
    "how": Topic(
        courtesies=TO_GREETINGS,
        weight=6,
        questions=(
            "How are you[| today| doing| doing today| feeling| now| this morning][|?]",
            "How [is it going|are things|is life|is your day|do you do|do you feel|have you been][|?]",
            "[Hello|Hi|Hey|{day}][,|!] how are you[| today| doing][|?]",
            "[Hello|Hi|Hey][,|!] how [is it going|are things|is your day|do you feel][|?]",
            "[What is|What's|whats] up?",
            "[Are you|You] [well|okay|ok|fine|all right|happy|good][| today]?",
            "[Is everything|Everything] [all right|okay|fine|good][| with you]?",
            "Did you [sleep well|have a good day|have a nice morning]?",
            "I hope you are [well|fine|doing well][|.|!]",
        ),
        cores=(
            "I am fine, thank you. {back}",
            "I am well, and I am ready to help. {back}",
            "I am fine, and it is a quiet day in the village. {asks}",
            "Thank you, I am well. {back}",
        ),
        details=(
            "A model does not feel like a person does.",
            "I like to answer questions.",
            "You can ask me about many small things.",
        ),
        examples=_ME_EXAMPLES,
    ),
    "fine": Topic(
        courtesies=TO_GREETINGS,
        weight=2,
        questions=(
            "[I am|I'm] [fine|well|good|great|okay|happy|doing well][| too| today|, thanks|, thank you][|.|!]",
            "[Fine|Good|Well|Great|Not bad], [thanks|thank you|and you][|.|!|?]",
            "I [had|have|am having] a [good|nice|great|lovely] [day|time|morning][|.|!]",
        ),
        cores=("I am glad to hear that. {asks}", "That is good to hear. {asks}", "How nice! {asks}"),
        details=_KNOWS,
    ),
    "sad": Topic(
        is_serious=True,
        weight=2,
        questions=(
            "[I am|I'm|I feel] [sad|tired|not well|ill|alone|afraid|angry|unhappy|down][| today| now][|.]",
            "[I had|It was] a [bad|hard|sad|long] day[|.]",
            "[Nothing goes well|Everything is bad|I do not feel good][| today][|.]",
        ),
        cores=(
            "I am sorry to hear that. A walk or a talk with a friend may help.",
            "I am sorry. Take some rest, and tell a friend about it.",
        ),
        details=("It is fine to be sad for a while.", "A warm soup can help, too.", "Tomorrow is a new day."),
    ),
    "who": Topic(
        weight=5,
        questions=(
            "[Who|What] are you[| really| exactly][|?]",
            "[What is|What's] your name[|?]",
            "[Do you have|Have you got] a name?",
            "[Tell me|Say something|I want to know more|Tell me something|Tell me a little] about [yourself|you][|.]",
            "Are you [a person|a human|a robot|a real person|alive|real|an AI|a machine|a computer|a chatbot|a bot|a "
            "program]?",
            "[Are you|Is this] [a human or a machine|a person or a program|a language model|an LLM]?",
            "[With whom|To whom] am I [speaking|talking]?",
            "Who am I [speaking|talking] [to|with][|?]",
            "[Please|Can you|Could you] introduce yourself[|.|?]",
            "What [kind|sort] of [thing|model|program|bot] are you?",
            "What should I call you?",
        ),
        cores=(
            "I am a small language model.",
            "I am a very small language model from a village world.",
            "I have no name. I am a small language model.",
        ),
        details=(
            "I learned to write from stories and facts about a small village.",
            "I am not a person, and I do not know very much.",
            "People trained me in a few short stages.",
        ),
        examples=("I can tell you where a fox lives.", "I can tell you what bread is made from."),
    ),
    "made": Topic(
        weight=3,
        questions=(
            "Who [made|built|trained|wrote|created|invented] you?",
            "How [were you|are you|did you get] [made|trained|built]?",
            "[Where do|How do] you [come from|know things|know that|learn]?",
            "[How|What|From what] did you learn[| from]?",
            "How old are you?",
            "[Where|In which place] do you live?",
            "[Do|Can] you [eat|sleep|dream|think|feel|cry|learn|remember me|see me|walk]?",
            "[Do you have|Have you got] [feelings|friends|a family|a body|a brain|eyes]?",
        ),
        cores=(
            "I am a small language model, and people trained me on stories and facts about a village.",
            "People trained me on this computer. I am only a small language model.",
        ),
        details=(
            "First I had random weights, and then I read a lot of text.",
            "After that, I learned to answer.",
            "People vote for the answers that they like.",
        ),
    ),
    "can": Topic(
        weight=5,
        questions=(
            "What [can|do] you [do|know|know about|help with|talk about|answer][|?]",
            "[How can you|Can you|Could you|Will you] help me[| with something| please][|?]",
            "[I need|I want|I would like] [help|some help|your help][|.]",
            "What [can|should|could|may] I ask[| you][|?]",
            "[Help|Help me|help please][|!|.]",
            "[Tell me|Show me] what you [can do|know][|.]",
            "What [are you good at|is this|is this for|do I do here|should I type]?",
            "I [do not|don't] know what to ask[|.]",
            "What [topics|things|questions] do you know?",
            "[Give me|Do you have] [an idea|some ideas|a hint][| what to ask| what I can ask][|?]",
        ),
        cores=(
            "I can answer questions about my small village world.",
            "I can tell you facts and short stories.",
            "You can ask me about my small village world.",
        ),
        details=(
            "I know about animals, food, tools, jobs, people and the weather.",
            "I can also solve small word problems.",
            "I know how language models are made.",
        ),
        examples=("you can ask me where a bear lives.", "you can ask me for a story about a fox."),
    ),
    "thanks": Topic(
        courtesies=TO_THANKS,
        weight=5,
        questions=(
            "[Thank you|Thanks|Thank you|Thanks|Thank you very much|Thanks a lot][|!|.]",
            "[Many thanks|Thank you so much|Thx|Cheers|Great, thanks|Ok, thanks|Thank you for all][|!|.]",
            "[Thank you|Thanks], [my friend|model|little model|that was helpful|that was nice|that helped|that is "
            "all][|!|.]",
            "[Thank you|Thanks] for [the answer|your help|that|helping me|your time|everything|the story][|!|.]",
            "[That was|This was|That is|You were] [helpful|very helpful|great|good|nice|kind|perfect][|!|.]",
            "[Well done|Good job|Good answer|Nice answer|Good work|Great|Wonderful|Very good|Perfect|Cool|Nice|I "
            "like that][|!|.]",
            "I am [thankful|very thankful|grateful][|!|.]",
            "You are [nice|kind|great|clever|smart|helpful|funny|so kind|a good model][|!|.]",
        ),
        cores=(
            "You are welcome, and it was a pleasure to help.",
            "You are welcome! It was a pleasure to talk with you.",
            "You are very welcome.",
            "It was a pleasure, you are welcome.",
        ),
        details=(
            "You can ask me something else.",
            "I am here if you want to know more.",
            "There is more to learn about the village.",
        ),
    ),
    "bye": Topic(
        courtesies=TO_PARTINGS, is_brief=True,
        weight=5,
        questions=(
            "[Goodbye|Bye|Goodbye|Bye|Bye bye|See you|See you later|Good night][|!|.]",
            "[Bye for now|Bye now|See you soon|See you tomorrow|Farewell|Take care|So long|Later][|!|.]",
            "[Goodbye|Bye|Good night|See you|Farewell], [my friend|model|little model|and thanks|and thank "
            "you|everyone|{me}][|!|.]",
            "I [have|need|must|want] to [go|leave|sleep|go home|go to bed|go now|stop|work now][|.]",
            "[I am|I'm] [leaving|going|off|going home|done|tired, good night][| now][|.]",
            "[That is|That's] all[| for today| for now]. [Goodbye|Bye|See you][|!|.]",
            "[Until|Till] [next time|tomorrow|we meet again][|!|.]",
            "Have a [good|nice|great|lovely] [day|night|evening|weekend][|!|.]",
        ),
        cores=(
            "Goodbye, and come back soon.",
            "Goodbye, see you next time.",
            "Bye! See you soon.",
            "Goodbye, and take care.",
        ),
        details=("The village will be here.", "There is always more to talk about.", "I am here when you come back."),
    ),
    "sorry": Topic(
        is_serious=True,
        weight=2,
        questions=(
            "[Sorry|I am sorry|Excuse me|My mistake|Oh, sorry|Sorry about that][|!|.]",
            "[That is|That's|This is|You are] [wrong|not right|not true|a mistake|false][|!|.]",
            "[No|Nope], [that is wrong|you are wrong|I mean something else|not that][|!|.]",
            "[I do not|I don't] [understand|get it|believe you|like that][|.]",
            "[What|Huh|Pardon|Come again|What do you mean][|?]",
        ),
        cores=(
            "I am sorry, I am only a small model and make mistakes. Please ask me again.",
            "I am sorry. Please ask me in other words.",
        ),
        details=("I know my small village world best.", "Short and clear questions are best for me."),
    ),
    "ok": Topic(
        courtesies=TO_GREETINGS,
        weight=2,
        questions=(
            "[Ok|Okay|Yes|No|Fine|I see][|.|!]",
            "[Sure|Maybe|Hm|Right|All right|Good|Oh|Ah|Aha|Really|Interesting|Wow|Ha ha|Lol][|.|!]",
            "[Go on|Tell me more|More|And then|Say more|Continue|Anything|Something|Surprise me][|.|!|?]",
            "[Test|Testing|This is a test|Just a test|One two three|Blah blah|Asdf|Hmm][|.]",
        ),
        cores=("What would you like to know about the village?", "Ask me something about my small village world."),
        details=_KNOWS,
        examples=_ME_EXAMPLES,
    ),
}  # fmt: skip

_KINDS: Final = tuple(name for name, talk in TALKS.items() for _ in range(talk.weight))


PLAIN: Final = 0.4
"""Share of messages in the first, and shortest, way to say them: most people who greet say "hi"."""


def small_talk_parts(rng: random.Random, name: str = "") -> tuple[str, str, Topic]:
    """(what somebody says, the core of an answer, the talk); of the kind `name`, or any."""
    talk = TALKS[name or pick(rng, _KINDS)]
    day = pick(rng, _DAY)
    slots = {"me": pick(rng, NAMES), "day": day, "dayl": day[0].lower() + day[1:]}
    slots |= {"asks": pick(rng, _ASKS), "back": pick(rng, _BACK)}
    words = talk.questions[0] if rng.random() < PLAIN else pick(rng, talk.questions)
    return typed(rng, say(rng, words, slots)), say(rng, pick(rng, talk.cores), slots), talk


# --- Outside of the world ----------------------------------------------------------------------------

OUTSIDE: Final = (
    "[What is|Name|Do you know|Tell me] the [capital|flag|president|language|money|population|weather] of "
    "{country}[?|.]",
    "[Who is|Who was] the [president|king|queen|leader|prime minister] of {country}?",
    "[How many people live|What language do people speak|What do people eat|What is the time|Is it warm] in {country}?",
    "[How far away is|How do I get to|Have you been to|How big is|Where is|Should I travel to] {country}?",
    "[What does|Where does] {creature} [eat|live|sleep]?",
    "What colour is {creature}?",
    "[Tell me about|What is|Have you seen|What do you know about] {creature}[?|.]",
    "[How long does {animal} live|How fast does {animal} run|How high can {animal} jump|How many legs has "
    "{animal}|How much does {animal} weigh]?",
    "[Who wrote|Who made|What is|Have you read|Have you seen|What happens in] {work}?",
    "[What is the best|Do you know a good|Which is your favourite|Tell me a] "
    "[film|song|book|game|website|restaurant|hotel|app][?|.]",
    "[Can you fix|How do I repair|How do I use|How do I turn on] my {device}?",
    "[How does a|How does the|How much does a] {device} [work|cost]?",
    "[Who invented|Where can I buy|How old is] the {device}?",
    "[Who won|When is|Who plays in] the [{game} game|next {game} match|world cup|last election|Olympics]?",
    "[Who is the best {game} player|Do you like {game}|How do I play {game}|What are the rules of {game}]?",
    "[What is|Explain|Define|How does one learn|Teach me] {science}[?|.]",
    "[What happened|Who was king|Who ruled|What was invented|Who won] in {year}?",
    "[What is the news|What day is it|What is the date|What is the weather like|Who is on television] "
    "[today|now|tonight]?",
    "[What time is it|Will it rain tomorrow|How late is it|What is the temperature][| in {country}]?",
    "[What is the meaning of life|Is there a god|What happens after death|Why are we here|What is love|Is time real]?",
    "[Can you|Please|Could you] [translate this|write an email|write code|make a website|draw a picture|"
    "play music|call my mother|"
    "order a pizza|book a flight|open a window|send a message][| for me][|?|.]",
    "[Write|Make|Give me] [a program|code|a function|a script] in {language}[|.]",
    "[Can you speak|Do you speak|How do I say hello in|Teach me] {language}[?|.]",
    "[Do you know {person}|Who is {person}|Who was {person}|When was {person} born|Where was {person} born|What did "
    "{person} do]?",
    "[Where does|What is the job of|How old is|Who is married to|How tall is] {person}[| live| now]?",
    "[What is|How much is|Can you work out] {big} [times|divided by] {big}?",
    "[How much is|What is the price of|What do I pay for] [a house|gold|bitcoin|a ticket|petrol|a {device}][| in "
    "{country}]?",
    "[Should I|Can I|Must I] [buy a {device}|invest in gold|see a lawyer|vote for him|take this pill|learn "
    "{language}|marry her]?",
    "[Which|What] [medicine|tablet|doctor] [is good|helps|do I need] for [a headache|flu|a broken leg|a cough]?",
    "[How do|How can] [planes fly|ships swim|magnets work|I get rich|I lose weight|I fix a flat tyre|computers think]?",
    "What is the [highest mountain|longest river|biggest ocean|largest city|oldest tree|deepest lake|fastest car] "
    "[in the world|on earth|in {country}]?",
    "[Who is|Who was] the [first man on the moon|richest person|best singer|strongest man|inventor of the "
    "{device}|boss of {firm}]?",
    "What is [the phone number|the address|the website|the price] of {firm}?",
    "[What do you think|What is your opinion|Tell me] about "
    "[politics|{firm}|{person}|religion|{country}|money|war][?|.]",
)  # fmt: skip
FILLERS: Final[dict[str, tuple[str, ...]]] = {
    "country": ("France", "Spain", "China", "Brazil", "India", "Japan", "Canada", "Egypt", "Germany", "Mexico", "Italy",
                "Kenya", "London", "Paris", "Berlin", "New York", "America", "Russia", "Rome", "Tokyo", "Sweden",
                "Africa",
                "Australia", "Norway", "Madrid", "Cairo", "Texas", "Poland", "Turkey", "Greece"),
    "creature": ("a dragon", "a shark", "a dinosaur", "a giraffe", "a tiger", "a robot", "a ghost", "a wizard",
    "a crocodile",
                 "a unicorn", "a zebra", "a dolphin", "an alien", "a vampire", "a hippo", "an octopus", "a gorilla",
                 "a lizard",
                 "a flamingo", "a crab", "an eagle", "a wolf", "a rhino", "a jellyfish", "a llama", "a mermaid"),
    "animal": ("a cow", "a dog", "a cat", "a horse", "a rabbit", "an elephant", "a spider", "a mouse", "an owl",
    "a lion"),
    "work": ("Hamlet", "the Bible", "Harry Potter", "Star Wars", "this song", "that film", "the Mona Lisa", "Moby Dick",
             "the last song", "this poem", "the Lion King", "Frozen", "that picture"),
    "device": ("phone", "computer", "car", "radio", "television", "plane", "printer", "camera", "laptop", "fridge",
    "telephone",
               "internet", "bicycle", "train", "rocket", "tablet", "engine", "microwave"),
    "game": ("football", "tennis", "chess", "hockey", "basketball", "golf", "poker", "baseball", "cricket", "rugby",
    "soccer"),
    "science": ("gravity", "physics", "chemistry", "biology", "electricity", "algebra", "DNA", "an atom", "evolution",
    "inflation",
                "democracy", "photosynthesis", "a black hole", "energy", "quantum mechanics", "geometry", "a virus",
                "light speed"),
    "year": ("1066", "1492", "1789", "1914", "1969", "2001", "2020", "1945", "1999", "2010"),
    "language": ("Python", "French", "German", "Chinese", "Spanish", "Java", "Latin", "Italian", "Russian", "Greek",
    "Arabic"),
    "person": ("Einstein", "Shakespeare", "Kevin", "Napoleon", "Mozart", "Picasso", "Newton", "David", "Elvis",
    "Cleopatra",
               "Beethoven", "Madonna", "Obama", "Caesar", "Columbus", "Darwin", "Gandhi", "my mother", "my boss"),
    "firm": ("Google", "Apple", "Amazon", "my bank", "the police", "the city hall", "NASA", "Toyota", "the hotel"),
    "big": ("34", "57", "123", "345", "99", "1000", "76", "48", "250", "88"),
}  # fmt: skip
UNKNOWN: Final = Topic(
    courtesies=TO_STRANGE_THINGS,
    questions=OUTSIDE,
    cores=(
        "I do not know that, because I only know my small village world.",
        "I am sorry, but I only know my small village world.",
        "I do not know. I only know my small village world.",
        "That I do not know. I only know a small village.",
    ),
    details=(
        "I know about animals, food, tools, jobs, people and the weather.",
        "You can ask me how a language model is made.",
        "It is better to say so than to guess.",
    ),
    examples=("you can ask me what a rabbit eats.", "you can ask me what a reward model is."),
)


def outside_question(rng: random.Random) -> str:
    """A question about what is not in the world."""
    return typed(rng, say(rng, pick(rng, OUTSIDE), {name: pick(rng, options) for name, options in FILLERS.items()}))
