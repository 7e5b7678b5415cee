"""Sentences for synthetic speech: numbers, letters, times and the talk of telephone systems.

All written here, in lower case and without punctuation, which is also what nano is taught to
write. No prompt of the evaluation set was used; the vocabulary is that of telephone systems in
general, which the prompts share.
"""

import random

from kokanee.benchmarks.heldout import cardinal


def listed(text: str, mark: str = " ") -> list[str]:
    """The parts of a text between marks."""
    return text.split(mark)


ONES = listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
ORDINALS = listed(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth "
    "thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth "
    "thirtieth"
)
LETTERS = listed("a b c d e f g h i j k l m n o p q r s t u v w x y z")
SPELLING = listed(
    "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november "
    "oscar papa quebec romeo sierra tango uniform victor whiskey xray yankee zulu"
)
DAYS = listed("monday tuesday wednesday thursday friday saturday sunday today tomorrow yesterday")
MONTHS = listed(
    "january february march april may june july august september october november december"
)
THINGS = listed(
    "message;mailbox;call;caller;conference;line;number;extension;password;pin;account;menu;"
    "name;greeting;recording;directory;operator;agent;queue;system;office;telephone;phone;"
    "folder;code;option;time;date;year;month;week;hour;minute;second;person;party;user;"
    "channel;button;key;pound key;star key;hash key;voicemail;service;server;room;door;"
    "customer;department;support;sales;technical support;billing;reception;manager;address;"
    "card;credit card;balance;transfer;forward;reminder;alarm;wake up call;weather;"
    "temperature;wind;speed;light;network;computer;volume;music;tone;beep;language;english;"
    "spanish;french;destination;location;feature;speed dial;call waiting;caller id;"
    "do not disturb;follow me;blacklist;fax;modem;pager;video;list;status;error;problem;"
    "question;answer;test;demonstration;information;news;sports;dollar;cent;euro;pound;"
    "percent;point;degree;mile;meter;plus;minus;total;limit;amount",
    ";",
)
PLURALS = listed(
    "messages calls callers people users members minutes seconds hours days weeks months "
    "years dollars cents euros pounds degrees miles meters numbers lines agents rooms "
    "options digits letters times folders points keys contacts conferences"
)
VERBS = listed(
    "enter;dial;record;press;hear;listen to;delete;erase;save;forward;send;change;check;"
    "replay;accept;cancel;confirm;review;leave;transfer;hold;join;repeat;skip;select;choose;"
    "mute;unmute;lock;unlock;increase;decrease;say;spell;play;stop;start;continue;return to;"
    "reach;call;answer;disable;enable;activate;add;remove;end;open;close;finish;try;contact;"
    "speak to;log in to;log out of",
    ";",
)
STATES = listed(
    "busy;unavailable;full;empty;open;closed;locked;unlocked;on;off;enabled;disabled;"
    "activated;cancelled;saved;deleted;new;old;urgent;invalid;correct;incorrect;available;"
    "ready;muted;on the phone;not in service;temporarily out of order;on vacation;away;"
    "online;offline;now active;not available at this time;disconnected;unknown;private;"
    "blocked;changed;recorded",
    ";",
)
WORDS = listed(
    "the of and to in for is on that by this with you it not or be are from at as your all "
    "have new more an was we will home can us about if page my has search free but our one "
    "other do no information time they site he up may what which their news out use any "
    "there see only so his when contact here business who web also now help get view online "
    "first been would how were services some these click its like service than find price "
    "date back top people had list name just over state year day into email two health next "
    "used go work last most make them should product post her city add policy number such "
    "please available support then best good well where info public high through each she "
    "review years order very book items company read group need many user said does set "
    "under general mail full life know games way days part could great hotel real item "
    "center want store travel made report off member details line before did send right type "
    "because local those using results office national car design take water world night "
    "morning afternoon evening dog cat horse bird man woman child children friend mother "
    "father brother sister house street road north south east west left black white red "
    "green blue yellow big small little long short old young hello goodbye sorry thanks "
    "welcome yes okay correct wrong again another later soon never always sometimes maybe "
    "during after between without against until while since begin complete failed successful "
    "unable required allowed received entered pressed dialed placed connected directed "
    "attempting currently temporarily following previous advanced main priority marked "
    "outside inside local remote long distance area country zip personal company marketing "
    "accounting shipping pharmacy parking flight train bus ticket doctor nurse emergency "
    "police fire hospital school simply wait hang moment mistake patience understand "
    "assistance representative approximately estimated remaining expected thank hold average "
    "less zero once twice both either none everyone someone nobody money coffee tea lunch "
    "dinner apple monkey weasel elephant airport border thunder storm cloudy sunny rain snow "
    "clear fog humidity gusts pressure dew barometer visibility kilometers per hour inches "
    "feet celsius fahrenheit east northeast southwest heavy scattered overcast partly "
    "hurricane tornado warning watch"
)
POLITE = ("please", "please", "", "", "", "thank you", "sorry", "i am sorry", "okay", "hello")


def _number(r: random.Random) -> str:
    return cardinal(r.choice((r.randrange(20), r.randrange(100), r.randrange(1000))))


def _digits(r: random.Random) -> str:
    zero = r.choice(("zero", "zero", "oh"))
    return " ".join(zero if d == 0 else ONES[d] for d in r.choices(range(10), k=r.randint(1, 7)))


def _clock(r: random.Random) -> str:
    minute = r.choice(("", "o'clock", cardinal(r.randrange(10, 60)), f"oh {ONES[r.randrange(10)]}"))
    half = r.choice(("", "a m", "p m", "in the morning", "in the evening"))
    return " ".join(f"{cardinal(r.randint(1, 12))} {minute} {half}".split())


def _date(r: random.Random) -> str:
    year = r.choice(("", f"two thousand {cardinal(r.randint(1, 30))}", f"twenty {_number(r)}"))
    day = r.choice(ORDINALS)
    return " ".join(f"{r.choice((*DAYS, ''))} {r.choice(MONTHS)} {day} {year}".split())


def _amount(r: random.Random) -> str:
    return f"{_number(r)} {r.choice(PLURALS)}"


def _menu(r: random.Random) -> str:
    key = r.choice((r.choice(ONES[:10]), r.choice(ONES[:10]), "pound", "star", "the pound key"))
    action = f"{r.choice(VERBS)} {r.choice(('the', 'your', 'a', 'this'))} {r.choice(THINGS)}"
    return r.choice(
        (
            f"press {key} to {action}",
            f"to {action} press {key}",
            f"for {r.choice(THINGS)} press {key}",
            f"or press {key} for {r.choice(PLURALS)}",
            f"{action} followed by {key}",
            f"if you would like to {action} press {key} now",
        )
    )


def _notice(r: random.Random) -> str:
    thing, state = r.choice(THINGS), r.choice(STATES)
    determiner = r.choice(("the", "your", "this", "that"))
    verb = f"{r.choice(VERBS)} {r.choice(('the', 'your', 'a', 'another'))} {r.choice(THINGS)}"
    return r.choice(
        (
            f"{determiner} {thing} is {state}",
            f"{determiner} {thing} is {state}",
            f"{determiner} {thing} has been {state}",
            f"{determiner} {thing} you have {r.choice(('entered', 'dialed', 'called'))} is {state}",
            f"you have {_amount(r)}",
            f"there are {_amount(r)} in the {thing}",
            f"you are {r.choice(('caller', 'number'))} {_number(r)} in the queue",
            f"you are now {r.choice(('in', 'entering', 'leaving'))} the {thing}",
            f"we were unable to {verb}",
            f"you must {verb}",
            f"you may {verb} at any time",
            f"{determiner} {thing} will be {state} {r.choice(('', 'shortly', 'after the tone'))}",
            f"is not a valid {thing}",
            f"{thing} {state}",
            f"all of our {r.choice(PLURALS)} are {state}",
            f"{r.choice(POLITE)} {verb} and {r.choice(('try again', 'hang up', 'wait'))}",
            f"{r.choice(POLITE)} {verb} {r.choice(('', 'now', 'again', 'later'))}",
            f"at the {r.choice(('tone', 'beep'))} {r.choice(POLITE)} {verb}",
        )
    )


def sentence(r: random.Random) -> str:
    """One phrase of 1 to about 14 words."""
    kind = r.random()
    if kind < 0.08:
        text = _number(r)
    elif kind < 0.15:
        text = _digits(r)
    elif kind < 0.19:
        text = _clock(r)
    elif kind < 0.23:
        text = _date(r)
    elif kind < 0.27:
        text = r.choice(THINGS + PLURALS + ORDINALS + STATES + VERBS)
    elif kind < 0.31:
        text = " ".join(r.choices(r.choice((LETTERS, SPELLING, MONTHS, DAYS)), k=r.randint(1, 4)))
    elif kind < 0.34:
        text = _amount(r)
    elif kind < 0.48:
        text = _menu(r)
    elif kind < 0.72:
        text = _notice(r)
    else:
        text = " ".join(r.choices(WORDS + THINGS, k=r.randint(1, 7)))
    return " ".join(text.split())


def few_words(r: random.Random) -> str:
    """One word in six cases of ten, two or three otherwise."""
    kind = r.random()
    if kind < 0.25:
        return r.choice((*LETTERS, *SPELLING, *DAYS, *MONTHS, *ORDINALS))
    if kind < 0.35:
        return cardinal(r.choice((r.randrange(20), r.randrange(100))))
    if kind < 0.6:
        return r.choice(WORDS + PLURALS + [w for w in THINGS + STATES + VERBS if " " not in w])
    if kind < 0.75:
        return r.choice([w for w in THINGS + STATES + VERBS if " " in w])
    if kind < 0.85:
        return f"{r.choice(VERBS)} {r.choice(('the', 'your', 'a'))} {r.choice(THINGS)}"
    if kind < 0.92:
        return f"{r.choice(THINGS)} {r.choice(STATES)}"
    return " ".join(r.choices(WORDS, k=r.randint(2, 3)))
