"""language.py: the words of the quickstart's little world and the sentences made of them.

Everything the tiny model ever reads is built here: corpus.py makes stories and small talk of it to
pre-train on, instructions.py the tasks to fine-tune on. Standard library only; the same seed gives
the same text.
"""

NAMES = """Ada Anna Ben Bob Carl Clara Dan David Ella Emma Eva Finn Frank George Grace Hana Hugo Ida
Jack Jane Jim Kate Kim Lena Leo Lily Lucy Max Mia Nina Noah Nora Oscar Otto Paul Peter Rita Rosa
Sam Sara Sofia Ted Tim Tina Tom Vera Will Zoe""".split()

# base form, present, past
VERBS = [v.split() for v in """bring brings brought; buy buys bought; carry carries carried;
catch catches caught; clean cleans cleaned; drop drops dropped; find finds found; get gets got;
hide hides hid; hold holds held; keep keeps kept; leave leaves left; like likes liked;
lose loses lost; make makes made; move moves moved; need needs needed; paint paints painted;
see sees saw; sell sells sold; show shows showed; take takes took; use uses used;
want wants wanted; wash washes washed""".split(";")]

OPPOSITES = [p.split() for p in """big small; new old; hot cold; clean dirty; heavy light; wet dry;
soft hard; empty full; long short; thick thin; cheap dear; fast slow; bright dark; smooth rough;
pretty ugly; strong weak; sharp blunt""".split(";")]

COLOURS = "black blue brown green grey pink red white yellow golden".split()

THINGS = """apple bag ball basket bell bike boat book bottle bowl box bread brush bucket bus button
cake camera candle car chair clock coat coin cup dish doll door drum egg engine feather fish flag
flower fork glass hammer hat horn jar key kite knife ladder lamp leaf letter map mirror net orange
paper pen pencil picture pillow plane plate pot ring rock rope sack shell ship shirt shoe sled
spoon stick stone stool sword table tent top train tree truck umbrella wagon watch wheel
whistle""".split()

PLACES = """at the beach; at the bridge; at the church; at the corner; at the farm; at the fire;
at the fountain; at the gate; at the lake; at the market; at the mill; at the river; at the school;
at the shop; at the station; at the tower; at the wall; at the well; in the attic; in the barn;
in the castle; in the cave; in the cellar; in the field; in the forest; in the garden; in the hall;
in the house; in the kitchen; in the park; in the street; in the village; in the woods;
in the yard""".replace("\n", " ").split("; ")

OPPOSITE = {a: b for pair in OPPOSITES for a, b in (pair, pair[::-1])}
QUALITIES = list(OPPOSITE) + COLOURS


def article(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


class Event:
    """Somebody does something with a thing somewhere: five choices, about 100 million events."""

    def __init__(self, rng, name=None, qualities=QUALITIES):
        self.name = name or rng.choice(NAMES)
        self.verb = rng.choice(VERBS)
        self.quality = rng.choice(qualities)
        self.thing = rng.choice(THINGS)
        self.place = rng.choice(PLACES)

    def what(self, quality=None):
        return article(f"{quality or self.quality} {self.thing}")

    def present(self):
        return f"{self.name} {self.verb[1]} {self.what()} {self.place}."

    def past(self, quality=None):
        return f"{self.name} {self.verb[2]} {self.what(quality)} {self.place}."
