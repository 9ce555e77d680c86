"""Prose without a corpus: a small recursive grammar of English that any seed expands to text nobody wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from random import Random

_WORDS: dict[str, str] = {
    "noun": """bridge river market lantern garden tower letter wagon harbour kettle ladder mirror orchard window road
        forest hammer basket engine station field barrel clock kitchen valley library museum boat table school mill
        cellar fountain stable roof gate corner shelf blanket bottle candle drum feather glove island jacket""",
    "animal": "dog cat horse fox owl goat crow otter hare deer mule swan badger heron turtle",
    "adjective": """old new small large quiet bright dark cold warm narrow wide broken heavy light empty green red blue
        grey yellow wooden strange famous simple careful early late distant local hidden gentle rough smooth""",
    "adverb": "slowly quickly quietly often rarely again soon carefully gladly calmly suddenly together alone twice",
    "did": """found carried painted repaired opened closed sold bought moved cleaned watched measured described lost
        borrowed counted drew followed forgot remembered noticed praised visited left crossed""",
    "went": "walked travelled drove returned moved wandered hurried sailed rode",
    "said": "said wrote explained answered whispered promised reported believed thought",
    "place_word": "in near behind beside under above across beyond outside inside",
    "time": "morning afternoon evening night spring summer autumn winter week month day year",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "month": "January February March April May June July August September October November December",
    "weather": "rain snow wind fog sunshine frost thunder hail",
    "good": "apples pears plums onions nails ropes candles bricks books cups coats eggs loaves pens seeds stamps",
    "unit": "metres kilometres hours minutes days crates boxes litres kilograms coins steps pages",
    "name_of_variable": "count total index value width height speed limit price offset score rate",
    "verb": "check count clean open close paint carry repair weigh sort label pack lock wash copy",
}
_TEMPLATES: dict[str, tuple[str, ...]] = {
    "thing": (
        "the {noun}", "the {noun}", "the {adjective} {noun}", "the {adjective} {noun}", "an open {noun}",
        "the {animal}", "the {adjective} {animal}", "the {noun} {place_word} the {noun}",
    ),
    "who": ("{person}", "{person}", "{person}", "{person} and {person}", "the {job} from {place}", "the {job}"),
    "where": ("{place_word} the {noun}", "in {place}", "near {place}", "on the road to {place}", "at the {noun}"),
    "when": (
        "in the {time}", "on {day}", "in {month}", "on {day} {time}", "after the {weather}", "before the {weather}",
        "every {time}", "at {hour} o'clock", "{small} days later", "that {time}",
    ),
    "clause": (
        "{who} {did} {thing}", "{who} {did} {thing} {where}", "{who} {went} to {place}", "{thing} was {adjective}",
        "{who} {went} {adverb} {place_word} {thing}", "there was {weather} {where}", "{thing} stood {where}",
        "{who} {did} {small} {good} {where}", "it took {small} {unit} to reach {place}", "{thing} cost {number} coins",
        "{who} {adverb} {did} {thing}", "nobody {did} {thing}", "{small} of the {good} were {adjective}",
    ),
    "because": ("because {clause}", "while {clause}", "although {clause}", "until {clause}", "so that {clause}"),
    "sentence": (
        "{Clause}. ", "{Clause}. ", "{Clause} {when}. ", "{Clause} {when}. ", "{Clause} {because}. ",
        "{When}, {clause}. ", "{When}, {clause}, and {clause}. ", "{Person} {said} that {clause}. ",
        "If {clause}, then {clause}. ", "\"{Clause},\" {said} {person}. ", "When {clause}, {clause}. ",
        "The {noun} of {place} is {number} {unit} away. ", "In {year}, {clause}. ", "{Clause}; {clause}. ",
        "Why did {person} go to {place}? {Clause}. ", "{Person} asked if {clause}. ",
        "Not every {noun} is {adjective}. ",
    ),
    "list": (
        "\nTo buy: {small} {good}, {small} {good}, {small} {good}.\n",
        "\nTo do:\n- {verb} the {noun}\n- {verb} the {adjective} {noun}\n- {verb} {small} {good}\n",
        "\n1. {verb} the {noun}\n2. {verb} the {noun}\n3. {verb} the {noun}\n",
        "\n{day}: {weather}, {small} degrees. {day}: {weather}, {small} degrees.\n",
        "\nname, {name_of_variable}, {name_of_variable}\n{person}, {small}, {number}\n{person}, {small}, {number}\n",
    ),
    "code": (
        "\n{name_of_variable} = {number}\nif {name_of_variable} > {small}:\n    print({name_of_variable})\n",
        "\ndef {verb}({name_of_variable}):\n    return {name_of_variable} + {small}\n",
        "\nfor i in range({small}):\n    {name_of_variable} += {number}\n",
        "\n{{ \"{name_of_variable}\": {number}, \"{name_of_variable}\": {small} }}\n",
        "\nlet {name_of_variable} = [{small}, {small}, {small}];\n",
    ),
}  # fmt: skip

Words = Mapping[str, Sequence[str]]
_Part = tuple[str, str]
_SLOT = re.compile(r"\{(\w+)\}")
_RULES: dict[str, tuple[str, ...]] = {**{name: tuple(words.split()) for name, words in _WORDS.items()}, **_TEMPLATES}


def pick(rng: Random, options: Sequence[str]) -> str:
    """One of ``options``; from ``random()`` alone, so that a seed gives the same text in every Python."""
    return options[int(rng.random() * len(options))]


def whole(rng: Random, low: int, high: int) -> int:
    """An integer from ``low`` to ``high``, both included."""
    return low + int(rng.random() * (high - low + 1))


def expand(rng: Random, rule: str, words: Words) -> str:
    """Text of ``rule``; ``words`` adds what is special to a document, such as its people and places."""
    if rule in _NUMBERS:
        return str(whole(rng, *_NUMBERS[rule]))
    name = rule.lower()
    template = pick(rng, words[name] if name in words else _RULES[name])
    text = "".join(part if not slot else expand(rng, slot, words) for part, slot in _parts(template))
    return text if name == rule else text[0].upper() + text[1:]


_NUMBERS: dict[str, tuple[int, int]] = {"small": (2, 20), "number": (21, 999), "hour": (1, 12), "year": (1700, 2050)}


@lru_cache(maxsize=100_000)
def _parts(template: str) -> tuple[_Part, ...]:
    """The template as (text, "") and ("", slot) parts. Doubled braces stand for braces."""
    masked = template.replace("{{", "\x01").replace("}}", "\x02")
    pieces = _SLOT.split(masked)
    parts = [(piece, "") if at % 2 == 0 else ("", piece) for at, piece in enumerate(pieces)]
    return tuple((text.replace("\x01", "{").replace("\x02", "}"), slot) for text, slot in parts if text or slot)
