"""Words to calibrate with and words to measure with; written for this project, like the rest of it.

What calibrates must not measure: the two texts share no sentence, and each recording serves one of
them. The answers are of the kind the models give: a transcript, a description, a few sentences.
"""

from dataclasses import dataclass
from pathlib import Path

RECORDINGS = Path(__file__).parents[1] / "runtime" / "recordings"


@dataclass(frozen=True, slots=True)
class Spoken:
    """A recording, what is asked about it, and an answer."""

    recording: str
    question: str
    answer: str


CALIBRATION_SOUNDS = (
    Spoken("speech.wav", "Write down what is said.", "your message has been saved"),
    Spoken("speech.wav", "What do you hear?", "A woman is speaking. It is quiet behind her."),
    Spoken(
        "speech.wav",
        "What could the speaker do for a living?",
        "She could be the voice of a telephone system, which tells callers what became of the"
        " message that they left, and what they can do next.",
    ),
    Spoken("sound.wav", "What do you hear?", "Running water."),
    Spoken("sound.wav", "Is this speech, music or some other sound?", "Some other sound."),
    Spoken(
        "sound.wav",
        "Please describe the audio.",
        "Water runs from a tap into a basin; nobody speaks, and there is no music.",
    ),
)
MEASURED_SOUNDS = (
    Spoken("speech_over_sound.wav", "Write down what is said.", "press five to leave a message"),
    Spoken("speech_over_sound.wav", "What do you hear?", "A woman speaks while a horse gallops."),
    Spoken(
        "speech_over_sound.wav",
        "Tell me a story about this.",
        "The rider had stopped only once, at the inn by the bridge, to ask whether anyone had left"
        " a message for her. Nobody had, and so she rode on through the rain.",
    ),
)

CALIBRATION_TEXT = """\
A microphone is a small and patient thing. It does not know whether it hears a word or a door, a
quarrel or a kettle; it turns pressure into numbers, sixteen thousand of them every second, and
hands them on. What makes the numbers into news happens later. A first machine cuts them into
short pieces and asks of each how much of every pitch is in it. A second one, which has listened
to years of radio, says what a person may have said. A third one knows rain, engines, dogs and
violins. Only then does somebody come who can put it into a sentence.

Question: How long does it take to boil an egg? Answer: About eight minutes if you want it hard,
and four if you like the yolk soft. Start to count when the water boils, and put the egg into cold
water afterwards so that it can be peeled.

Question: What is the capital of Portugal, and what is it known for? Answer: Lisbon. It lies on
seven hills at the mouth of the Tagus, and is known for its yellow trams, its tiled houses, and
the sad songs that are sung there at night.

"You came back," said the old man without turning round. "I heard you on the stairs." He was
mending a net, as he had been doing on the day when she left, and the room smelled of tar and
coffee. "The third step," he said. "It creaks for nobody but you." She put her bag down. She had
prepared a speech on the train, had said it over and over to the dark window, and now she could
not find its beginning.

To change the filter, switch the pump off and close both valves. Unscrew the cover with the key
that came with it, turning to the left. Some water will run out; have a bucket ready. Take the old
cartridge out, rinse the housing, and put the new one in with the seal upwards. Tighten the cover
by hand only, open the valves slowly, and look for leaks before you switch the pump on again.

def mean(values):
    total = 0.0
    for value in values:
        total += value
    return total / len(values) if values else None

The weather for tomorrow: in the north cloudy with showers, in the south mostly sunny, between
twelve and nineteen degrees. The wind comes from the west, at times strong near the coast. On
Thursday it will be colder, with snow above nine hundred metres. One, two, three, four, five, six,
seven, eight, nine, ten. Please hold the line. Your call is important to us, and it will be
answered in the order in which it came. Press one for sales, two for support, or stay on the line
to speak to an operator. The number you have dialled is not in service; check it and try again.
You have three new messages and eleven old ones.

Birds sing for two reasons, as far as anyone can tell: to say that a place is taken, and to say
that somebody lives there whom it might be worth meeting. Most of them learn the song from their
fathers, and like all who learn by ear they make mistakes. In some valleys a mistake was so well
liked that every bird now makes it. People who record the dawn from the same hill every spring can
hear such fashions come and go, much as one hears them in the speech of schoolchildren. In a city
they sing higher and earlier than in the woods, for the traffic is low and wakes late.

It was decided on Monday that the committee would meet again in March. The treasurer reported an
income of 4,250 euros and expenses of 3,975, most of them for the roof. Mrs Okafor asked whether
the piano could be sold. The chairman thanked her for the question and promised to look for the
key. There being no other business, the meeting was closed at 9:40 p.m.
"""

MEASURED_TEXT = """\
The kokanee is a landlocked salmon. It spends its whole life in lakes and streams, and never sees
the sea. In late summer the fish turn red and swim up the creeks where they hatched, in such
numbers that a person standing on the bank can hear the water move. They dig their nests in
gravel, guard them for a week or two, and die. The eggs lie under the ice until spring, when the
fry wriggle out and drift down to the lake in the dark. Eagles and bears know the date as well as
anyone, and so do the people who come each year to listen.

Question: Why is the sky blue? Answer: Sunlight is made of all colours, and the air scatters the
short waves of blue light much more than the long waves of red. So blue reaches the eye from every
direction, while the sun itself looks a little yellow. At sunset the light has come a longer way,
most of the blue is lost, and what is left is red.

She opened the letter at the kitchen table. It was from her brother, and it was short. He had
found work at the harbour, he wrote, and a room above a bakery, so that he woke every morning at
four to the smell of bread. He did not say when he would come home. She read it twice, folded it,
and put it behind the clock with the others. Outside a car went by with its windows down and its
radio on, and for a moment the whole street was full of somebody else's song.
"""
