"""The words and sentence forms of the tiny world.

Three rules hold for every form and every list, and each has a reason in the causal span task:

* A statement names its entity *before* its value. A causal model reads left to right; were the value first, no
  model could know at the value's first token whom the sentence is about.
* No value is the beginning of another value of the same list, since otherwise the end of an answer would be a guess. *
A name or value never opens a line: `Anna` and ` Anna` are different tokens of a byte-level BPE, and the task
  is about matching, not about spelling.

Relations come in groups over one list of values (`lives` and `born` both take a town), so the kind of the value does
not reveal the answer: entity *and* relation must be matched.
"""

from typing import NamedTuple


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _lines(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


class Relation(NamedTuple):
    """One relation: who may have it, where its values come from, and how it is said and asked."""

    name: str
    kind: str
    values: str
    phrases: tuple[str, ...]  # follow the entity's name: "lives in {v}"
    statements: tuple[str, ...]  # whole sentences without the full stop
    questions: tuple[str, ...]


FIRST_NAMES = _split(
    "Anna Tom Clara Hugo Mina Peter Laura Ivan Nora Felix Emma Oscar Ruth Simon Alice Bruno Greta Victor Lena "
    "Martin Julia Henry Sara Leo Eva Robert Ida Frank Rosa Albert Maria Otto Diana Paul Helen Marcus Vera Daniel "
    "Olga Arthur Stella Jonas Irene Walter Sofia Edgar Judith Samuel"
)
LAST_NAMES = _split(
    "Hill Stone Brook Fisher Carter Lane Moss Wood Berg Marsh Cole Reed Frost Hunt Price Shaw Webb Ford Grant Nash "
    "Pike Rowe Dale Lamb Snow Ward Bell Finch Holt Kerr Lowe Page Quinn Ross Stark Tate Vance Yates Bloom Drake "
    "Flint Gray Hayes Knox Locke Mills North Parker"
)
PLACE_HEADS = _split(
    "Oak Silver Green High Iron Red Golden Long White Cold Amber Upper Lower Royal Saint Twin Eagle Fox Pine Maple "
    "Bright Crystal Salt Sandy"
)
PLACE_TAILS = _split("Harbor Valley Bridge Castle Island Field Bay Creek Forest Abbey Point Falls Lake Cliff Mill Gate")

VALUES: dict[str, tuple[str, ...]] = {
    "town": _lines(
        "Marlow, Velden, Torrin, Kessel, Paris, London, Vienna, Lisbon, Dublin, Prague, Madrid, Oslo, Cairo, Delhi, "
        "Tokyo, Lima, Port Arden, Port Selby, New Haven, New Bern, Fort Lyon, Fort Bray, Rome, Geneva"
    ),
    "job": _lines(
        "baker, doctor, lawyer, painter, farmer, pilot, sailor, nurse, judge, miller, tailor, singer, writer, "
        "ship captain, ship builder, piano teacher, dance teacher, bank clerk, hotel clerk, taxi driver, bus driver"
    ),
    "animal": _lines(
        "cat, dog, horse, parrot, rabbit, turtle, goat, donkey, hamster, pony, black sheep, brown bear, young owl, "
        "old mule, very old goose, small white duck"
    ),
    "food": _lines(
        "bread, cheese, honey, pasta, rice, soup, salad, butter, apple pie, plum pie, roast beef, lemon cake, "
        "carrot cake, hot bean soup, fresh goat milk, hot onion bread"
    ),
    "thing": _lines(
        "violin, flute, drum, harp, guitar, camera, kite, bicycle, boat, clock, steam engine, wooden chess set, "
        "glass lamp, silk coat, leather bag, music box"
    ),
    "goods": _lines(
        "copper, wool, timber, coal, marble, paper, cotton, sugar, leather, tin, wheat, dried fish, olive oil, "
        "sea salt, fine red wine, black tea"
    ),
    "year": _lines(
        "1204, 1318, 1347, 1402, 1456, 1499, 1511, 1533, 1578, 1602, 1624, 1666, 1689, 1703, 1745, 1761, 1788, 1804, "
        "1830, 1852, 1871, 1893, 1907, 1925"
    ),
}

RELATIONS: tuple[Relation, ...] = (
    Relation(
        "lives",
        "person",
        "town",
        ("lives in {v}", "has a house in {v}", "is at home in {v}"),
        ("The house of {e} stands in {v}", "The home of {e} is in {v}"),
        ("Where does {e} live?", "In which town is the home of {e}?", "Where is the house of {e}?"),
    ),
    Relation(
        "born",
        "person",
        "town",
        ("was born in {v}", "came into the world in {v}", "spent the first years in {v}"),
        ("The birth of {e} took place in {v}", "The first years of {e} were spent in {v}"),
        ("Where was {e} born?", "In which town did {e} spend the first years?", "What is the place of birth of {e}?"),
    ),
    Relation(
        "job",
        "person",
        "job",
        ("works as a {v}", "is a {v}", "earns money as a {v}"),
        ("The job of {e} is {v}", "The work of {e} is that of a {v}"),
        ("What is the job of {e}?", "What does {e} work as?", "How does {e} earn money?"),
    ),
    Relation(
        "dream",
        "person",
        "job",
        ("wants to be a {v}", "dreams of being a {v}", "hopes to become a {v}"),
        ("The dream of {e} is to be a {v}", "The hope of {e} is to become a {v}"),
        ("What does {e} want to be?", "What does {e} dream of being?", "What does {e} hope to become?"),
    ),
    Relation(
        "pet",
        "person",
        "animal",
        ("keeps a {v}", "looks after a {v}", "has a pet {v}"),
        ("The pet of {e} is a {v}", "The animal of {e} is a {v}"),
        ("What pet does {e} have?", "Which animal does {e} keep?", "What does {e} look after?"),
    ),
    Relation(
        "fear",
        "person",
        "animal",
        ("is afraid of a {v}", "runs away from a {v}", "was bitten by a {v}"),
        ("The fear of {e} is a {v}", "The worst dream of {e} is about a {v}"),
        ("What is {e} afraid of?", "What does {e} fear?", "Which animal does {e} run away from?"),
    ),
    Relation(
        "eats",
        "person",
        "food",
        ("likes to eat {v}", "always eats {v}", "is fond of {v}"),
        ("The meal of {e} is {v}", "The plate of {e} is full of {v}"),
        ("What does {e} like to eat?", "What is the meal of {e}?", "Which food is {e} fond of?"),
    ),
    Relation(
        "sells",
        "person",
        "food",
        ("sells {v}", "has a shop for {v}", "brings {v} to the market"),
        ("The shop of {e} is known for {v}", "The market stall of {e} offers {v}"),
        ("What does {e} sell?", "What does the shop of {e} offer?", "What does {e} bring to the market?"),
    ),
    Relation(
        "owns",
        "person",
        "thing",
        ("owns a {v}", "bought a {v}", "paid for a {v}"),
        ("The new purchase of {e} is a {v}", "The money of {e} went into a {v}"),
        ("What does {e} own?", "What did {e} buy?", "What did {e} pay for?"),
    ),
    Relation(
        "lost",
        "person",
        "thing",
        ("lost a {v}", "is looking for a {v}", "cannot find a {v}"),
        ("The lost property of {e} is a {v}", "The thief took from {e} a {v}"),
        ("What did {e} lose?", "What is {e} looking for?", "What did the thief take from {e}?"),
    ),
    Relation(
        "exports",
        "place",
        "goods",
        ("exports {v}", "sells {v} abroad", "ships {v}"),
        ("The trade of {e} lives on {v}", "The wealth of {e} comes from {v}"),
        ("What does {e} export?", "What does {e} sell abroad?", "Where does the wealth of {e} come from?"),
    ),
    Relation(
        "imports",
        "place",
        "goods",
        ("imports {v}", "buys {v}", "has no {v}"),
        ("The people of {e} must buy {v}", "The market of {e} is short of {v}"),
        ("What does {e} import?", "What must the people of {e} buy?", "What is {e} short of?"),
    ),
    Relation(
        "founded",
        "place",
        "year",
        ("was founded in {v}", "dates from {v}", "was first settled in {v}"),
        ("The history of {e} begins in {v}", "The first stone of {e} was laid in {v}"),
        ("When was {e} founded?", "In which year does the history of {e} begin?", "When was {e} first settled?"),
    ),
    Relation(
        "burned",
        "place",
        "year",
        ("burned down in {v}", "was destroyed in {v}", "saw a great fire in {v}"),
        ("The great fire of {e} was in {v}", "The end of old {e} came in {v}"),
        ("When did {e} burn down?", "When was {e} destroyed?", "In which year was the great fire of {e}?"),
    ),
    Relation(
        "leader",
        "place",
        "person",
        ("is ruled by {v}", "elected {v}", "is led by {v}"),
        ("The mayor of {e} is {v}", "The leader of {e} is {v}"),
        ("Who is the mayor of {e}?", "Who rules {e}?", "Who is the leader of {e}?"),
    ),
    Relation(
        "builder",
        "place",
        "person",
        ("was planned by {v}", "was built by {v}", "was drawn by {v}"),
        ("The builder of {e} was {v}", "The plan of {e} was made by {v}"),
        ("Who built {e}?", "Who was the builder of {e}?", "Who made the plan of {e}?"),
    ),
)

OPENERS = (
    "This is from the old book.",
    "Here are some notes.",
    "We know a few things.",
    "It is said in the news.",
    "So the story goes.",
    "These are the facts.",
    "Much was written down.",
    "Not all is known.",
)
