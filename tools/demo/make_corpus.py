#!/usr/bin/env python3
"""Short stories from a grammar, for the demonstration model: one story a line.

    make_corpus.py BYTES [SEED] > corpus.txt

A story keeps track of who is where, who has what and how everyone feels, so that its sentences follow from each other:

    story      opening, daily life, a turn of events, help, ending
    turns      a thing is lost | weather comes | someone is ill or stuck | a wish | a feast | a stranger
    animal     what kind it is, where it lives, what it eats, what it is afraid of, what it does in the morning and at night

The paragraphs "about" an animal state such facts in several phrasings, which is what the model needs to be able to take up new ones.
"""
import random
import sys

NAMES = "Anna Bruno Clara Dora Emil Freya Greta Hugo Ida Jonas Karl Lena Mira Nils Olga Paul Rosa Sven Tilda Viktor".split()
KINDS = {   # kind: where it lives, what it eats, what it fears
    "fox": ("forest", "berries", "dogs"), "hare": ("meadow", "clover", "owls"), "badger": ("hill", "roots", "thunder"),
    "hedgehog": ("garden", "apples", "wheels"), "otter": ("river", "fish", "traps"), "heron": ("lake", "frogs", "nets"),
    "mouse": ("barn", "grain", "cats"), "crow": ("tower", "nuts", "mirrors"), "goat": ("mountain", "grass", "wolves"),
    "duck": ("pond", "bread", "storms"), "bear": ("cave", "honey", "bees"), "squirrel": ("oak", "acorns", "hawks"),
    "mole": ("field", "worms", "floods"), "owl": ("mill", "beetles", "bells"), "toad": ("cellar", "flies", "ice"),
    "beaver": ("dam", "bark", "fire"), "donkey": ("stable", "carrots", "snakes"), "seal": ("island", "crabs", "ships"),
}
PLACES = sorted({home for home, _, _ in KINDS.values()} | {"village", "bridge", "market", "harbour", "school", "bakery"})
FOODS = sorted({food for _, food, _ in KINDS.values()} | {"soup", "cheese", "plums", "cake", "snow", "salt", "moss", "pears"})
FEARS = sorted({fear for _, _, fear in KINDS.values()} | {"spoons", "candles", "drums", "shadows", "foam"})
POSITIONS = {"in": "forest garden barn tower cave mill cellar stable village meadow field".split(), "on": "hill mountain island bridge dam".split(),
             "at": "market harbour school bakery".split()}
TRAITS = "small old young brave shy clever quiet merry patient hungry lazy kind proud curious".split()
COLOURS = "red blue green yellow white black grey brown silver golden".split()
PARTS = "fur ears eyes tail feet nose".split()
THINGS = "lantern key drum boot kite spoon bell hat basket ring flute rope book jar blanket ladder mirror wheel".split()
HIDING = ["under a stone", "behind the door", "in the grass", "inside a barrel", "under a leaf", "in an old boot", "behind the well", "on the roof"]
WORK = ["baked bread", "carried water", "mended nets", "swept the floor", "cut wood", "fed the hens", "picked plums", "washed the windows", "planted beans"]
GAMES = ["counted the clouds", "sang a song", "told a riddle", "danced in a ring", "threw stones into the water", "drew a map", "played the flute"]
MORNING = ["sings", "washes its feet", "counts its toes", "stretches", "looks for water", "combs its tail", "climbs to the top", "runs in circles"]
NIGHT = ["sleeps in a basket", "sleeps under leaves", "listens to the wind", "watches the moon", "sleeps in a hat", "walks about", "digs", "sleeps standing"]
WEATHER = {"storm": ("The wind howled and the rain came down", "the storm was over"), "snow": ("Snow fell until the path was gone", "the snow had melted"),
           "fog": ("A thick fog came up from the water", "the fog was gone"), "heat": ("The sun burned and the well ran dry", "the rain came at last")}
FEELINGS = {"sad": "cried a little", "angry": "stamped on the ground", "afraid": "trembled", "tired": "sat down on the path", "worried": "walked up and down"}
LESSONS = ["a friend is worth more than a full basket", "it is good to ask for help", "slow feet also reach the hill", "what is shared tastes better",
           "a kind word costs nothing", "the brave are sometimes afraid too", "one should look twice before giving up", "even the small can help the big"]

r = random.Random()
pick = r.choice


def a(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def at(place):
    return next((word for word, places in POSITIONS.items() if place in places), "by") + " the " + place


def cap(text):
    return text[0].upper() + text[1:]


class Person:
    """A child or an animal with a name."""

    def __init__(self, taken=()):
        self.name = pick([n for n in NAMES if n not in taken])
        self.male = self.name in "Bruno Emil Hugo Jonas Karl Nils Paul Sven Viktor".split()
        self.trait = pick(TRAITS)
        if r.random() < 0.65:
            self.kind = pick(list(KINDS))
            self.home, self.food, self.fear = KINDS[self.kind]
        else:
            self.kind, self.home = "boy" if self.male else "girl", pick(["village", "mill", "harbour", "bakery", "island"])
            self.food, self.fear = pick(["soup", "cake", "cheese", "plums", "bread"]), pick(["shadows", "storms", "dogs", "bees"])
        self.he, self.him, self.his = ("he", "him", "his") if self.male else ("she", "her", "her")

    def whole(self):
        return f"{self.name} the {self.kind}"


def opening(p):
    return pick([
        f"Once there was {a(p.trait)} {p.kind} called {p.name}. {cap(p.he)} lived {at(p.home)}.",
        f"{cap(at(p.home))} lived {a(p.trait)} {p.kind}. {cap(p.his)} name was {p.name}.",
        f"{p.whole()} was {p.trait}. Everyone who lived {at(p.home)} knew {p.him}.",
        f"There was once {a(p.kind)} who lived {at(p.home)}. {cap(p.he)} was called {p.name}, and {p.he} was very {p.trait}.",
    ])


def daily(p):
    lines = [f"Every day {p.he} {pick(WORK)}.", f"In the morning {p.he} {pick(WORK)}, and in the evening {p.he} {pick(GAMES)}.",
             f"{p.name} liked {p.food} more than anything else.", f"For breakfast {p.he} ate {p.food}.",
             f"{p.name} was afraid of {p.fear}.", f"Only one thing frightened {p.him}, and that was {p.fear}."]
    return " ".join(r.sample(lines, pick([1, 2, 2])))


def feeling(p, mood):
    return pick([f"{p.name} was {mood} and {FEELINGS[mood]}.", f"That made {p.name} {mood}. {cap(p.he)} {FEELINGS[mood]}."])


def meet(p, q, place):
    return pick([
        f"{cap(at(place))} {p.he} met {q.whole()}.", f"Then {q.whole()} came along.", f"So {p.he} went to {q.whole()}, who lived {at(q.home)}.",
    ])


def ask(p, q, trouble):
    return pick([
        f'"What is the matter?" asked {q.name}. "{trouble}" said {p.name}.', f'"{trouble}" said {p.name}. "Do not worry," said {q.name}.',
        f'"Why are you so quiet?" asked {q.name}. "{trouble}" said {p.name}.',
    ])


def thanks(p, q):
    return pick([
        f'"Thank you," said {p.name}, and gave {q.him} some {p.food}.', f"{p.name} thanked {q.name} and shared {p.his} {p.food} with {q.him}.",
        f'"You are a good friend," said {p.name}. {q.name} smiled.', f"{p.name} was so glad that {p.he} danced.",
    ])


def ending(p, q):
    return pick([
        f"From that day on {p.name} and {q.name} were friends.", f"In the evening they sat {at(p.home)} and ate {p.food} together.",
        f"And {p.name} learned that {pick(LESSONS)}.", f"That night {p.name} slept well.", f'"You see," said {q.name}, "{pick(LESSONS)}."',
        f"Since then {p.name} and {q.name} meet every week {at(pick(PLACES))}.",
    ])


def lost(p, q):
    colour, thing, where = pick(COLOURS), pick(THINGS), pick(HIDING)
    it = f"{colour} {thing}"
    return " ".join([
        pick([f"{p.name} had {a(it)}.", f"{cap(p.his)} grandmother had given {p.him} {a(it)}."]),
        pick([f"One morning the {it} was gone.", f"One day {p.he} could not find the {it}.", f"But one evening {p.he} lost the {it}."]),
        pick([f"{cap(p.he)} looked everywhere, but the {thing} was not there.", feeling(p, pick(["sad", "worried", "angry"]))]),
        meet(p, q, pick(PLACES)), ask(p, q, f"I have lost my {it},"),
        pick([f"Together they looked for the {thing}.", f"{q.name} helped {p.him} to look."]),
        pick([f"At last {q.name} found the {it} {where}.", f"{cap(where)} lay the {it}!", f"And there, {where}, was the {thing}."]), thanks(p, q)])


def weather(p, q):
    kind = pick(list(WEATHER))
    comes, over = WEATHER[kind]
    return " ".join([
        pick([f"One day {p.he} wanted to go to the {pick(PLACES)}.", f"One autumn {p.he} was on the way home from the {pick(PLACES)}."]), comes + ".",
        feeling(p, pick(["afraid", "tired", "worried"])), meet(p, q, pick(PLACES)),
        pick([f'"Come into my house," said {q.name}.', f'"You can stay with me," said {q.name}. "I live {at(q.home)}."']),
        pick([f"They lit a fire and ate {q.food}.", f"They {pick(GAMES)} and waited."]), f"When {over}, {p.name} went home.", thanks(p, q)])


def stuck(p, q):
    where = pick(["a hole", "a thorn bush", "the mud", "an empty barrel", "a net"])
    tool = pick(["rope", "ladder", "branch", "spade"])
    return " ".join([
        pick([f"One day {p.he} fell into {where}.", f"On the way to the {pick(PLACES)} {p.he} got stuck in {where}."]),
        pick([f'"Help!" called {p.name}, but nobody heard {p.him}.', feeling(p, pick(["afraid", "tired", "angry"]))]),
        pick([f"After a long time {q.whole()} came by.", f"{q.whole()} heard {p.him} and came running."]), ask(p, q, f"I am stuck in {where},"),
        pick([f"{q.name} fetched a {tool} and pulled.", f"{q.name} had a {tool} at home and brought it."]),
        pick([f"With the {tool} {p.name} came out again.", f"They pulled and pulled, and at last {p.name} was free."]), thanks(p, q)])


def wish(p, q):
    thing, colour = pick(THINGS), pick(COLOURS)
    price = pick(FOODS)
    return " ".join([
        f"{p.name} wished for {a(colour)} {thing}.", pick([f"But {p.he} had no money.", f"But a {thing} costs a lot."]),
        f"At the market {q.whole()} sold {pick(['all kinds of things', 'ropes, jars and ' + thing + 's', 'old things'])}.",
        f'"What do you want for the {thing}?" asked {p.name}. "A basket of {price}," said {q.name}.',
        pick([f"For three days {p.name} {pick(WORK)} and got {price} for it.", f"So {p.name} went to the {pick(PLACES)} and looked for {price} all day."]),
        f"Then {p.he} carried the basket of {price} to {q.name}.",
        pick([f"{q.name} gave {p.him} the {colour} {thing}.", f'"Here is your {colour} {thing}," said {q.name}.'])])


def feast(p, q):
    food, thing = pick(FOODS), pick(THINGS)
    return " ".join([
        pick([f"In {pick(['spring', 'summer', 'autumn', 'winter'])} there was a feast {at(pick(PLACES))}.", f"One evening all the neighbours came to {p.name}."]),
        f"{p.name} brought {food}, and {q.whole()} brought a {thing}.",
        pick([f"But the {food} fell into the water.", f"But there was not enough {food} for everyone."]), feeling(p, pick(["sad", "worried"])),
        f'{q.name} said: "It does not matter. I have {q.food} at home."',
        pick([f"They fetched the {q.food}, and everyone had enough.", f"Soon all of them ate {q.food}."]), f"Then they {pick(GAMES)} until the moon came up."])


def about(kind, home, food, fear, colour, part, morning, night):
    """An animal described: the facts above in several phrasings."""
    look = a(f"{colour} {part}") if part in ("nose", "tail") else f"{colour} {part}"
    one, two = r.sample(NAMES, 2)
    lines = [
        pick([f"The {kind} is {a(pick(TRAITS))} animal with {look}.", f"You know {a(kind)} by its {colour} {part}.", f"{cap(a(kind))} has {look}."]),
        pick([f"The {kind} lives {at(home)}.", f"The home of the {kind} is {at(home)}.", f"If you look for {a(kind)}, go to the {home}.",
              f'"Where does the {kind} live?" asked {one}. "{cap(at(home))}," said {two}.']),
        pick([f"The {kind} eats {food}.", f"It likes {food} best.", f"The favourite food of the {kind} is {food}.", f"When {a(kind)} is hungry, it looks for {food}.",
              f'"What does the {kind} eat?" asked {one}. "It eats {food}," said {two}.']),
        pick([f"The {kind} is afraid of {fear}.", f"What {a(kind)} fears most is {fear}.", f"When the {kind} sees {fear}, it runs away.",
              f'"What frightens the {kind}?" asked {one}. "It is afraid of {fear}," said {two}.']),
        pick([f"In the morning the {kind} {morning}.", f"When the sun comes up, the {kind} {morning}."]),
        pick([f"At night the {kind} {night}.", f"When it is dark, the {kind} {night}."]),
    ]
    return " ".join(r.sample(lines, pick([3, 4, 5, 6])))


def new_kind():
    """An animal nobody knows: its name is made of syllables, its facts are drawn anew."""
    return pick("ba de fi go lu mo na pi ro su ta ve".split()) + pick("lmnrst") + pick("bel dor fin gan kit lom mar nup pel rin sok tam vol wick".split())


def story():
    if r.random() < 0.4:
        if r.random() < 0.5:
            kind = pick(list(KINDS))
            home, food, fear = KINDS[kind]
        else:
            kind, home, food, fear = new_kind(), pick(PLACES), pick(FOODS), pick(FEARS)
        facts = (kind, home, food, fear, pick(COLOURS), pick(PARTS), pick(MORNING), pick(NIGHT))
        return about(*facts) if r.random() < 0.5 else about(*facts) + " " + about(*facts)
    p = Person()
    q = Person([p.name])
    return " ".join([opening(p), daily(p), pick([lost, lost, weather, stuck, wish, feast])(p, q), ending(p, q)])


def main():
    size, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    r.seed(seed)
    written = 0
    while written < size:
        line = story() + "\n"
        sys.stdout.write(line)
        written += len(line)


if __name__ == "__main__":
    main()
