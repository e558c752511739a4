"""True sentences about a picture: captions, and expressions that point at exactly one object."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from .chance import Chance
from .facts import ImageFacts, ObjectFacts
from .things import ancestors
from .words import known_synonyms

MARGIN = 1.25  # the largest is at least so many times larger than the next

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_IRREGULAR = {"mouse": "mice", "knife": "knives", "leaf": "leaves", "tooth": "teeth", "loaf": "loaves",
              "handsaw": "handsaws", "fish": "fish", "couch": "couches", "fleur-de-lis": "fleurs-de-lis"}  # fmt: skip
_PAIRS = ("scissors", "shears", "glasses", "eyeglasses", "spectacles", "trousers", "pants", "jeans", "headphones",
          "earphones")  # fmt: skip
_PLURALS = ("stairs", "scales", "swords", "notes", "grapes", "cherries", "dice", "cattle", "toast", "bread", "ice")


def article(words: str) -> str:
    """Put the indefinite article before a noun phrase.

    Args:
        words: such as "umbrella".

    Returns:
        Such as "an umbrella"; words that only have a plural get "a pair of" or nothing.
    """
    last = words.rsplit(" ", 1)[-1]
    if last in _PLURALS:
        return words
    if last in _PAIRS:
        return f"a pair of {words}"
    silent = words.startswith(("hour", "honest"))
    voiced = words.startswith(("uni", "use", "u-", "eu", "one", "ufo", "UFO", "ute"))
    return f"an {words}" if silent or (words[0].lower() in "aeiou" and not voiced) else f"a {words}"


def plural(words: str) -> str:
    """Put a noun phrase into the plural.

    Args:
        words: such as "light bulb".

    Returns:
        Such as "light bulbs".
    """
    head, of, tail = words.partition(" of ")
    start, _, last = head.rpartition(" ")
    if last in _PAIRS:
        return f"pairs of {words}"
    if last in _PLURALS:
        made = last
    elif last in _IRREGULAR:
        made = _IRREGULAR[last]
    elif last.endswith(("s", "x", "z", "ch", "sh")):
        made = last + "es"
    elif last.endswith("y") and last[-2] not in "aeiou":
        made = last[:-1] + "ies"
    else:
        made = last + "s"
    return f"{start} {made}".strip() + of + tail


def _left_of(a: ObjectFacts, b: ObjectFacts) -> tuple[float, float]:
    return b.box[0] - (a.box[0] + a.box[2]), b.center[0] - a.center[0]


def _above(a: ObjectFacts, b: ObjectFacts) -> tuple[float, float]:
    return b.box[1] - (a.box[1] + a.box[3]), b.center[1] - a.center[1]


# Relation -> (gap between the boxes, distance of the centres), both positive where the relation holds.
_RELATIONS: dict[str, Callable[[ObjectFacts, ObjectFacts], tuple[float, float]]] = {
    "left of": _left_of,
    "right of": lambda a, b: _left_of(b, a),
    "above": _above,
    "below": lambda a, b: _above(b, a),
}


def relation_holds(relation: str, a: ObjectFacts, b: ObjectFacts) -> bool | None:
    """Say whether an object stands in a relation to another.

    Args:
        relation: "left of", "right of", "above" or "below".
        a: the object.
        b: what it is compared with.

    Returns:
        True if the whole box of ``a`` lies on that side of the box of ``b``; False if not even its centre does; None
        in between, where people would not agree.
    """
    gap, distance = _RELATIONS[relation](a, b)
    if gap >= 0:
        return True
    return None if distance > 0 else False


def expressions(facts: ImageFacts, target: int, chance: Chance, limit: int = 3) -> list[str]:
    """Find expressions that are true of one object and of no other in the picture.

    Args:
        facts: the picture.
        target: index of the object.
        chance: chooses among the expressions.
        limit: number of expressions at most.

    Returns:
        Expressions such as "the red umbrella left of the anchor"; empty if there is none.
    """
    found = list(dict.fromkeys(_candidates(facts.objects, target)))
    chosen = sorted(chance.shuffled(range(len(found)))[:limit])
    return [found[index] for index in chosen]


def _candidates(objects: Sequence[ObjectFacts], target: int) -> Iterator[str]:
    item = objects[target]
    same = [o for o in objects if o is not item and is_called(o, item.thing)]
    twins = [o for o in same if o.color == item.color]
    if not same:
        yield f"the {item.thing}"
    if not twins:
        yield f"the {item.color} {item.thing}"
    if same and all(item.area >= MARGIN * o.area for o in same):
        yield f"the largest {item.thing}"
    if same and all(item.area * MARGIN <= o.area for o in same):
        yield f"the smallest {item.thing}"
    for landmark, name in _landmarks(objects, item):
        for relation in _RELATIONS:
            if relation_holds(relation, item, landmark) is not True:
                continue
            if all(relation_holds(relation, o, landmark) is False for o in same):
                yield f"the {item.thing} {relation} the {name}"
            if all(relation_holds(relation, o, landmark) is False for o in twins):
                yield f"the {item.color} {item.thing} {relation} the {name}"


def is_called(item: ObjectFacts, word: str) -> bool:
    """Say whether people may call an object by a word: by the name of its kind, or of a more general kind.

    Args:
        item: the object.
        word: name of a thing.

    Returns:
        Whether the word is true of the object, as "tree" is of a fir tree.
    """
    return word == item.thing or word in ancestors(item.thing)


def _landmarks(objects: Sequence[ObjectFacts], item: ObjectFacts) -> Iterator[tuple[ObjectFacts, str]]:
    """Other kinds of objects that a name, or colour and name, already tells from everything else."""
    for o in objects:
        called = [other for other in objects if is_called(other, o.thing)]
        if is_called(item, o.thing):
            continue
        if len(called) == 1:
            yield o, o.thing
        elif sum(other.color == o.color for other in called) == 1:
            yield o, f"{o.color} {o.thing}"


def captions(facts: ImageFacts, chance: Chance, number: int = 3) -> list[str]:
    """Describe a picture in several sentences that all are true.

    Args:
        facts: the picture.
        chance: chooses what is said and how.
        number: number of sentences.

    Returns:
        The sentences; some use another name of a thing.
    """
    groups: dict[str, list[ObjectFacts]] = {}
    for item in facts.objects:
        groups.setdefault(item.thing, []).append(item)
    return [_caption(facts, groups, chance) for _ in range(number)]


def _caption(facts: ImageFacts, groups: dict[str, list[ObjectFacts]], chance: Chance) -> str:
    order = chance.shuffled(list(groups))
    parts = [_group(groups[thing], chance) for thing in order[: chance.between(2, 5)]]
    seen = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    seen = seen or "nothing"
    where = f" with {facts.grounds[0]} in the background" if facts.grounds and chance.share() < 0.6 else ""
    opening = chance.pick(("{}", "a picture of {}", "here you see {}", "a drawing that shows {}"))
    text = opening.format(seen) + where
    return text[0].upper() + text[1:] + "."


def _group(items: Sequence[ObjectFacts], chance: Chance) -> str:
    names = [items[0].thing, *known_synonyms(items[0].thing)]
    name = names[0] if chance.share() < 0.7 else chance.pick(names)
    if len({item.color for item in items}) == 1 and chance.share() < 0.7:
        name = f"{items[0].color} {name}"
    if len(items) == 1:
        return article(name)
    number = _NUMBERS[len(items)] if len(items) < len(_NUMBERS) else "many"
    return f"{number} {plural(name)}"
