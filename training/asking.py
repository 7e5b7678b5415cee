"""What is asked in training: questions to be answered, and questions to be written down only.

None of the evaluation's is among them.
"""

import itertools
import random
import zlib

from kokanee.benchmarks.heldout import normalised
from kokanee.benchmarks.spoken_questions import questions
from training.sentences import listed

COUNTRIES = listed(
    "France Germany Italy Spain Portugal England Ireland Scotland Norway Sweden Denmark Finland "
    "Poland Austria Hungary Greece Turkey Russia China Japan India Thailand Vietnam Egypt Kenya "
    "Nigeria Canada Mexico Brazil Peru Chile Argentina Cuba Australia Belgium Switzerland Iceland "
    "Romania Bulgaria Ukraine Iran Iraq Israel Morocco Ethiopia Ghana Tanzania Colombia Bolivia "
    "Jamaica Korea Indonesia Malaysia Pakistan Nepal Mongolia"
)
CITIES = listed(
    "Paris London Rome Madrid Berlin Vienna Prague Moscow Athens Cairo Tokyo Beijing Sydney "
    "Toronto Chicago Boston Mumbai Bangkok Istanbul Lisbon Dublin Oslo Stockholm Warsaw Budapest "
    "Venice Milan Barcelona Munich Nairobi Lagos Lima Havana Seoul Singapore Dubai Jerusalem Miami"
)
THINGS = listed(
    "milk snow grass coal sugar honey salt lemon banana tomato blood sky ocean sun moon rose "
    "carrot chocolate butter bread cheese gold silver iron wood glass paper cotton wool silk "
    "leather water ice sand rubber plastic copper steel rice coffee tea wine beer pepper soup "
    "flour oil smoke clay concrete"
)
ANIMALS = listed(
    "dog cat cow horse sheep pig duck hen frog lion tiger bear wolf fox rabbit mouse elephant "
    "giraffe monkey snake spider bee ant fish shark whale dolphin penguin eagle owl parrot camel "
    "goat donkey turtle zebra kangaroo squirrel bat crab lobster butterfly snail crocodile lizard "
    "deer goose turkey swan seal hamster gorilla panda hippo"
)
ADJECTIVES = listed(
    "hot big fast tall old happy rich light hard clean wet full early strong loud near good easy "
    "cheap long young dark high soft empty open sweet thick wide brave cold small slow short new "
    "sad poor heavy dirty dry late weak quiet far bad difficult expensive low closed bitter thin "
    "narrow rough smooth true false safe dangerous polite rude deep shallow"
)
NOUNS = listed(
    "day night summer winter north south east west up down left right inside outside before after "
    "more less always never yes no love hate war peace life death friend enemy question answer "
    "beginning end success victory day truth buy give push come start win remember arrive"
)
TOOLS = listed(
    "hammer knife spoon pen pencil key umbrella clock camera telephone computer ladder bicycle "
    "car bus boat plane lamp mirror oven fridge broom scissors needle bucket map compass "
    "microscope telescope thermometer piano guitar drum book newspaper wallet blanket pillow soap "
    "towel fork plate cup bottle candle door window chair table bed radio television train "
    "violin trumpet flute saw shovel rope helmet calendar battery magnet"
)
JOBS = listed(
    "doctor teacher baker pilot farmer nurse carpenter plumber tailor butcher dentist lawyer "
    "judge soldier sailor singer painter writer cook waiter gardener firefighter librarian "
    "scientist engineer mechanic policeman photographer journalist astronaut musician"
)
SENSES = listed("see hear smell taste walk run write speak think breathe eat swim touch sing")
TOPICS = listed(
    "gravity|electricity|photosynthesis|a volcano|an earthquake|a rainbow|thunder|lightning|rain|"
    "the wind|the moon|the sun|a planet|a star|a comet|the equator|democracy|a king|a president|"
    "music|poetry|art|history|science|mathematics|biology|chemistry|physics|a river|a mountain|"
    "a desert|an island|a forest|a glacier|an atom|a cell|the heart|the brain|the skin|a muscle|"
    "a virus|a vitamin|money|a bank|football|tennis|chess|the internet|a robot|a novel|a tide",
    "|",
)
FAMOUS = listed(
    "Einstein|Napoleon|Mozart|Beethoven|Shakespeare|Newton|Darwin|Columbus|Cleopatra|Gandhi|"
    "Picasso|Plato|Aristotle|Galileo|Marie Curie|Julius Caesar|Abraham Lincoln|Queen Victoria|"
    "Martin Luther King|Leonardo da Vinci|Charlie Chaplin|Walt Disney|Nelson Mandela|Marco Polo",
    "|",
)
INVENTED = listed(
    "the radio|the steam engine|the printing press|the airplane|the computer|the bicycle|dynamite|"
    "the camera|the car|penicillin|the piano|the thermometer|the telescope|the battery|"
    "the elevator",
    "|",
)
NUMBERS = listed("one two three four five six seven eight nine ten eleven twelve")
DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = listed(
    "January February March April May June July August September October November December"
)

KEPT_BACK = frozenset(normalised(q.question) for q in questions())  # the evaluation's


def asked() -> list[str]:
    """Every question, in a fixed order."""
    sets = (
        ("What is the capital of {}?", COUNTRIES),
        ("Which language do people speak in {}?", COUNTRIES),
        ("What language is spoken in {}?", COUNTRIES),
        ("On which continent is {}?", COUNTRIES),
        ("What is {} famous for?", COUNTRIES),
        ("What currency does {} use?", COUNTRIES),
        ("What do people eat in {}?", COUNTRIES),
        ("In which country is {}?", CITIES),
        ("What can I see in {}?", CITIES),
        ("What colour is {}?", THINGS),
        ("What is {} made of?", THINGS),
        ("What can you do with {}?", THINGS),
        ("Where does {} come from?", THINGS),
        ("What does a {} eat?", ANIMALS),
        ("Where does a {} live?", ANIMALS),
        ("How many legs does a {} have?", ANIMALS),
        ("Is a {} a mammal?", ANIMALS),
        ("Can a {} swim?", ANIMALS),
        ("How long does a {} live?", ANIMALS),
        ("What sound does a {} make?", ANIMALS),
        ("What is the opposite of {}?", (*ADJECTIVES, *NOUNS)),
        ("Give me another word for {}.", ADJECTIVES),
        ("What is a {} used for?", TOOLS),
        ("What is a {}?", TOOLS),
        ("How does a {} work?", TOOLS),
        ("What does a {} do?", JOBS),
        ("Where does a {} work?", JOBS),
        ("What do we need to {}?", SENSES),
        ("What is {}?", TOPICS),
        ("Tell me about {}.", TOPICS),
        ("Who was {}?", FAMOUS),
        ("What did {} do?", FAMOUS),
        ("Who invented {}?", INVENTED),
        ("When was {} invented?", INVENTED),
        ("What day comes before {}?", DAYS),
        ("What day comes after {}?", DAYS),
        ("Which month comes before {}?", MONTHS),
        ("Which month comes after {}?", MONTHS),
        ("How many days are in {}?", MONTHS),
        ("Which season is {} in?", MONTHS),
    )
    made = [
        text.replace("a {}", with_article(word)).replace("{}", word)
        for text, words in sets
        for word in words
    ]
    for a, b in itertools.product(NUMBERS, NUMBERS):
        made += [f"What is {a} plus {b}?", f"What is {a} times {b}?"][:: 1 if a < b else 2]
    made += listed(
        "Who wrote Romeo and Juliet?|Who painted the Mona Lisa?|How many days are in a week?|"
        "How many months are in a year?|How many hours are in a day?|How many minutes are in an "
        "hour?|How many seconds are in a minute?|How many weeks are in a year?|"
        "What is the largest ocean?|What is the tallest mountain?|What is the longest river?|"
        "Which planet is the largest?|Which planet is the smallest?|What is the largest country?|"
        "What is the smallest country?|What is the deepest lake?|What is the fastest bird?|"
        "What is the largest bird?|What is the hardest metal?|What is the coldest place on earth?|"
        "What is the boiling point of water?|What is the chemical symbol for iron?|"
        "What is the chemical symbol for oxygen?|How many bones does a person have?|"
        "How many teeth does a person have?|How many fingers does a hand have?|"
        "How many wheels does a car have?|How many strings does a violin have?|"
        "How many sides does a square have?|How many planets are there?|How far is the moon?|"
        "How hot is the sun?|How old is the earth?|Is the moon made of cheese?|Is fire hot?|"
        "Is sugar sweet?|Can birds fly?|Can cats swim?|Can people live on the moon?|"
        "What do plants need to grow?|Why is the sky blue?|Why is the sea salty?|"
        "Why do leaves fall?|Why do we sleep?|How do birds fly?|How do fish breathe?|What is rain?|"
        "What causes thunder?|Who wrote Hamlet?|Who wrote Don Quixote?|Who discovered America?|"
        "Who built the pyramids?|Where is the Great Wall?|Where is Big Ben?|"
        "Where do polar bears live?|Where do camels live?|What do cows eat?|What do bees make?|"
        "What do you use to write a letter?|What do you use to open a door?|"
        "What is beer made from?|What is butter made from?|What is glass made from?|"
        "What part of the body do we smell with?|What part of the body do we think with?|"
        "How do I boil an egg?|How do I make tea?|How do I bake bread?|How do I learn a language?|"
        "What should I eat for breakfast?|How can I sleep better?|Tell me a joke.|"
        "What is your name?|Who are you?|How are you?|Can you help me?|What can you do?|"
        "Say hello.|Good morning.|Thank you very much.|Tell me a story.",
        "|",
    )
    return [q for q in dict.fromkeys(made) if normalised(q) not in KEPT_BACK]


def with_article(noun: str) -> str:
    """With the article that it takes."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


_IRREGULAR = {"mouse": "mice", "goose": "geese", "wolf": "wolves", "knife": "knives"}
_ALIKE = {"fish", "sheep", "deer", "scissors"}


def several(noun: str) -> str:
    """The plural."""
    if noun in _IRREGULAR or noun in _ALIKE:
        return _IRREGULAR.get(noun, noun)
    if noun.endswith("man"):
        return noun.removesuffix("man") + "men"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun.removesuffix("y") + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "sh", "ch")) else "s")


def wondered(r: random.Random) -> str:
    """A question of any two of those words, sensible or not: to be written down, not answered."""
    animal, tool, job = r.choice(ANIMALS), r.choice(TOOLS), r.choice(JOBS)
    adjective, noun, thing = r.choice(ADJECTIVES), r.choice(NOUNS), r.choice(THINGS)
    country, city, sense = r.choice(COUNTRIES), r.choice(CITIES), r.choice(SENSES)
    someone, topic = r.choice(FAMOUS), r.choice(TOPICS)
    return r.choice(
        (
            f"Is the {r.choice((animal, tool, thing, job))} {adjective}?",
            f"What colour is the {adjective} {r.choice((animal, tool))}?",
            f"What is the most {adjective} {r.choice((animal, tool, job))} in {country}?",
            f"Which {tool} is more {adjective} than {with_article(animal)}?",
            f"In which {r.choice(('city', 'country', 'street', 'house'))} is the {tool}?",
            f"Who made the first {tool} in {r.choice((country, city))}?",
            f"Who {r.choice(('painted', 'wrote', 'found', 'built'))} the {adjective} {tool}?",
            f"Why is the {animal} so {adjective}?",
            f"How many {several(animal)} are in {city}?",
            f"How many {several(tool)} does {with_article(job)} have?",
            f"Can {with_article(animal)} {sense} in the {r.choice(DAYS)} {noun}?",
            f"Do {several(job)} use {with_article(tool)}?",
            f"What do {several(animal)} {sense} in {r.choice(MONTHS)}?",
            f"Where do {several(r.choice((animal, job)))} {sense}?",
            f"What does {with_article(job)} do with {thing}?",
            f"What do you use to {sense} the {adjective} {thing}?",
            f"Is {city} in {country}?",
            f"When did {someone} go to {country}?",
            f"What did {someone} say about {topic}?",
            f"What part of the {r.choice((animal, tool))} is made of {thing}?",
            f"At what time does the {job} come on {r.choice(DAYS)}?",
            f"What is the name of the {adjective} {animal}?",
            f"Which {tool} is closer to the {animal}, the {adjective} one?",
            f"How far is {city} from {r.choice(CITIES)}?",
            f"Which {noun} comes after {r.choice(NUMBERS)} {several(animal)}?",
        )
    )


def is_validation(question: str) -> bool:
    """One in ten; these the validation voice asks, and nobody else."""
    return zlib.crc32(question.encode()) % 10 == 0
