"""A regular expression as the table of an automaton, or refused: the judge steps it once a letter, whatever it is.

What RE2 has and a table can hold: letters, ``.``, sets, ``\\d \\w \\s`` (of ASCII), ``|``, groups, ``* + ? {m,n}``,
``^ $`` and ``(?i)`` in front. What needs memory of what was matched (backreferences, looking around) no automaton can
say, and is refused by name. As a glob it describes the whole text; ``.`` is any letter, a newline too.

The way is the textbook's: a tree, Thompson's automaton of it, the sets of its states as states. Every step is bounded:
``(a|b)*a(a|b){12}`` is short, and needs 8,192 of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from ..model.policy import Expression
from .faults import Wrong, shown

MOST_LETTERS: Final = 512  # of the expression
MOST_NODES: Final = 1000  # of Thompson's automaton: what counted repeats may become
MOST_PARTS: Final = 20_000  # built for it: an empty group may be repeated as well
MOST_STATES: Final = 255  # of the table: a state is one letter of it
MOST_CELLS: Final = 8192  # states times classes of letters: bytes in the daemon's memory
MOST_REPEATS: Final = 255
MOST_DEPTH: Final = 50  # groups in groups

_LAST: Final = 0x10FFFF
_ASCII: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "d": ((48, 57),),
    "w": ((48, 57), (65, 90), (95, 95), (97, 122)),
    "s": ((9, 13), (32, 32)),
}
_CONTROLS: Final = {"n": 10, "t": 9, "r": 13, "f": 12, "v": 11}

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Letters:
    ranges: Ranges


@dataclass(frozen=True, slots=True)
class _Place:
    """^ or $."""

    begin: bool


@dataclass(frozen=True, slots=True)
class _Row:
    parts: tuple["_Tree", ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    ways: tuple["_Tree", ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    what: "_Tree"
    least: int
    most: int | None


_Tree = _Letters | _Place | _Row | _Choice | _Repeat


def compiled(text: str, longest: int | None = None, first: str = "") -> Expression:
    """``longest``: bytes of the longest name that there is; ``first``: the letter with which all begin.

    Wrong: no table can be made of it, or it matches nothing.
    """
    if len(text) > MOST_LETTERS:
        raise Wrong(f"the expression has more than {MOST_LETTERS} letters", "write it as several tables")
    tree = _Reader(text).read()
    table = _Table(text, _Automaton(text, tree))
    shortest = table.shortest()
    if not text:
        raise Wrong("an empty expression matches nothing", 'write ".*" for everything')
    if shortest is None:
        raise Wrong(f"{shown(text)} never matches anything", "^ stands at the beginning, and $ at the end")
    if longest is not None and shortest > longest:
        raise Wrong(f"{shown(text)} never matches: the kernel keeps {longest} bytes of a name")
    found = table.expression()
    if first and not table.rows[1][sum(cut <= ord(first) for cut in table.cuts)]:
        raise Wrong(f"{shown(text)} never matches: paths begin with {first}", f"did you mean .*{text}?")
    return found


# -- a tree ------------------------------------------------------------------------------------------------------------


class _Reader:
    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0
        self.folded = False

    def read(self) -> _Tree:
        if self.text.startswith("(?i)"):
            self.at, self.folded = 4, True
        tree = self._choice()
        if self.at < len(self.text):
            raise self._wrong("a ) without its (", "\\) is the letter")
        return tree

    def _wrong(self, why: str, hint: str = "") -> Wrong:
        return Wrong(f"{shown(self.text)}: {why}", hint)

    def _next(self, count: int = 1) -> str:
        return self.text[self.at : self.at + count]

    def _take(self) -> str:
        letter = self._next()
        self.at += 1
        return letter

    def _choice(self) -> _Tree:
        ways = [self._row()]
        while self._next() == "|":
            self._take()
            ways.append(self._row())
        return ways[0] if len(ways) == 1 else _Choice(tuple(ways))

    def _row(self) -> _Tree:
        parts: list[_Tree] = []
        while self._next() not in ("", "|", ")"):
            parts.append(self._repeated(self._atom()))
        return parts[0] if len(parts) == 1 else _Row(tuple(parts))

    def _repeated(self, atom: _Tree) -> _Tree:
        sign = self._next()
        if sign not in ("*", "+", "?", "{") or not sign:
            return atom
        if isinstance(atom, _Place):
            raise self._wrong(f"{sign} after ^ or $", "a place is there or not")
        least, most = self._count() if sign == "{" else {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        self.at += sign != "{"
        if self._next() == "?":  # lazy: the same texts
            self._take()
        if self._next() in ("*", "+", "?", "{") and self._next():
            raise self._wrong(f"{self._next()} after a repeat", "( ) around what is to be repeated again")
        return _Repeat(atom, least, most)

    def _count(self) -> tuple[int, int | None]:
        end = self.text.find("}", self.at)
        low, comma, high = self.text[self.at + 1 : max(end, self.at)].partition(",")
        numbers = [low, *([high] if comma and high else [])]
        if end < 0 or not all(number.isascii() and number.isdigit() for number in numbers):
            raise self._wrong("{ is no {3}, {3,} or {3,5}", "\\{ is the letter")
        self.at = end + 1
        least = int(low[:4])
        most = (int(high[:4]) if high else None) if comma else least
        if max(least, most or 0) > MOST_REPEATS or (most is not None and most < least):
            raise self._wrong(
                f"{{{low}{comma}{high}}} is out of range", f"at most {MOST_REPEATS}, the smaller one first"
            )
        return least, most

    def _atom(self) -> _Tree:
        letter = self._take()
        match letter:
            case "(":
                return self._group()
            case "[":
                return _Letters(self._set())
            case "\\":
                return _Letters(self._fold(self._escaped()))
            case "^" | "$":
                return _Place(letter == "^")
            case ".":
                return _Letters(((0, _LAST),))
            case "*" | "+" | "?" | "{":
                raise self._wrong(f"nothing stands before {letter}", f"\\{letter} is the letter")
            case _:
                return _Letters(self._fold(((ord(letter), ord(letter)),)))

    def _group(self) -> _Tree:
        if self._next(2) == "?:":
            self.at += 2
        elif self._next() == "?":
            kinds = {"?=": "ahead", "?!": "ahead", "?<=": "behind", "?<!": "behind"}
            looks = next((way for sign, way in kinds.items() if self.text.startswith(sign, self.at)), "")
            why = f"looks {looks}, which no table can" if looks else "(? is not in the language"
            raise self._wrong(why, "( ) and (?: ) are groups, (?i) may stand in front of all")
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise self._wrong(f"more than {MOST_DEPTH} groups in each other")
        found = self._choice()
        self.depth -= 1
        if self._take() != ")":
            raise self._wrong("a ( is not closed", "\\( is the letter")
        return _Row((found,))

    def _escaped(self) -> Ranges:
        letter = self._take()
        if letter.lower() in _ASCII and letter.isascii():
            ranges = _ASCII[letter.lower()]
            return ranges if letter.islower() else _but(ranges)
        if letter in _CONTROLS:
            return ((_CONTROLS[letter], _CONTROLS[letter]),)
        if not letter:
            raise self._wrong("ends in a \\", "\\\\ is the letter")
        if letter.isdigit():
            raise self._wrong(f"\\{letter} asks for what was matched before, which no table can")
        if letter.isalnum() or not letter.isascii():
            raise self._wrong(f"\\{letter} is not in the language", "there are \\d \\w \\s, and \\D \\W \\S")
        return ((ord(letter), ord(letter)),)

    def _set(self) -> Ranges:
        negated = self._next() == "^"
        self.at += negated
        ranges: list[tuple[int, int]] = []
        while self._next() != "]" or not ranges:
            first = self._member()
            last = first
            if self._next() == "-" and self._next(2) != "-]" and len(self._next(2)) == 2:
                self._take()
                last = self._member()
                if not (len(first) == len(last) == 1 and first[0][0] == first[0][1] <= last[0][0] == last[0][1]):
                    raise self._wrong("a range in [ ] is from one letter to a later one", "\\- is the letter")
                first = ((first[0][0], last[0][0]),)
            ranges += first
        self._take()
        whole = self._fold(_joined(ranges))
        return _but(whole) if negated else whole

    def _member(self) -> Ranges:
        if self._next(2) == "[:":
            raise self._wrong("[: :] is not in the language", "there are \\d \\w \\s, and a-z")
        letter = self._take()
        if not letter:
            raise self._wrong("a [ is not closed", "\\[ is the letter")
        return self._escaped() if letter == "\\" else ((ord(letter), ord(letter)),)

    def _fold(self, ranges: Ranges) -> Ranges:
        """In both cases, where that was asked for: of ASCII."""
        if not self.folded:
            return ranges
        both = list(ranges)
        for low, high in ranges:
            for first, last, other in ((65, 90, 32), (97, 122, -32)):
                if max(low, first) <= min(high, last):
                    both.append((max(low, first) + other, min(high, last) + other))
        return _joined(both)


def _joined(ranges: list[tuple[int, int]]) -> Ranges:
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return tuple(found)


def _but(ranges: Ranges) -> Ranges:
    """All letters but these."""
    edges = [-1, *(edge for low, high in ranges for edge in (low - 1, high)), _LAST]
    pairs = [(edges[i] + 1, edges[i + 1]) for i in range(0, len(edges), 2)]
    return tuple((low, high) for low, high in pairs if low <= high)


# -- Thompson's automaton ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Node:
    """Letters lead on to ``out``; without any, a fork to all of ``out`` at once, or a place to pass."""

    out: list[int]
    letters: Ranges = ()
    place: _Place | None = None


class _Automaton:
    def __init__(self, text: str, tree: _Tree) -> None:
        self.text = text
        self.nodes: list[_Node] = [_Node([])]  # the first is the end: all was read
        self.parts = 0
        self.start = self._built(tree, 0)

    def _new(self, node: _Node) -> int:
        if len(self.nodes) >= MOST_NODES:
            raise _too_large(self.text)
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _built(self, tree: _Tree, then: int) -> int:
        """The node with which the tree begins, where ``then`` comes after it."""
        self.parts += 1
        if self.parts > MOST_PARTS:
            raise _too_large(self.text)
        match tree:
            case _Letters():
                return self._new(_Node([then], letters=tree.ranges)) if tree.ranges else self._new(_Node([]))
            case _Place():
                return self._new(_Node([then], place=tree))
            case _Row():
                for part in reversed(tree.parts):
                    then = self._built(part, then)
                return then
            case _Choice():
                return self._new(_Node([self._built(way, then) for way in tree.ways]))
            case _Repeat():
                return self._repeated(tree, then)

    def _repeated(self, tree: _Repeat, then: int) -> int:
        if tree.most is None:
            fork = self._new(_Node([then]))
            self.nodes[fork].out.append(self._built(tree.what, fork))
            then = fork
        for _ in range((tree.most or tree.least) - tree.least):
            then = self._new(_Node([then, self._built(tree.what, then)]))
        for _ in range(tree.least):
            then = self._built(tree.what, then)
        return then

    def reached(self, nodes: list[int], begins: bool, ends: bool) -> frozenset[int]:
        """All that is reached without a letter. Those with letters, those that wait for the end, and the end itself."""
        seen: set[int] = set()
        stack = list(nodes)
        while stack:
            number = stack.pop()
            if number in seen:
                continue
            seen.add(number)
            node = self.nodes[number]
            if node.letters or (node.place is not None and not (begins if node.place.begin else ends)):
                continue
            stack += node.out
        return frozenset(n for n in seen if n == 0 or self.nodes[n].letters or _waits(self.nodes[n]))


def _waits(node: _Node) -> bool:
    return node.place is not None and not node.place.begin


def _too_large(text: str) -> Wrong:
    hint = "counted repeats and .* in the middle are dear; write several tables"
    return Wrong(f"{shown(text)} needs a table of more than {MOST_STATES} states, or {MOST_CELLS} cells", hint)


# -- the table ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Table:
    text: str
    automaton: _Automaton
    cuts: list[int] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)  # by state, by class: the next one; 0 is the dead end
    accepts: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        nodes = self.automaton.nodes
        edges = {edge for node in nodes for low, high in node.letters for edge in (low, high + 1)}
        self.cuts = sorted(edge for edge in edges if 0 < edge <= _LAST)
        classes = {number: list(self._classes(node.letters)) for number, node in enumerate(nodes) if node.letters}
        first = self.automaton.reached([self.automaton.start], begins=True, ends=False)
        known = {(frozenset[int](), False): 0, (first, True): 1}
        waiting = [(frozenset[int](), False), (first, True)]
        for state, begins in waiting:  # it grows meanwhile
            ends = [self.automaton.start] if begins else list(state)
            self.accepts.append(0 in self.automaton.reached(ends, begins=begins, ends=True))
            onward: list[list[int]] = [[] for _ in range(len(self.cuts) + 1)]
            for number in state:
                for place in classes.get(number, ()):
                    onward[place] += nodes[number].out
            numbers = {tuple(out): self._number(known, waiting, out) for out in onward}
            self.rows.append([numbers[tuple(out)] for out in onward])

    def _number(
        self,
        known: dict[tuple[frozenset[int], bool], int],
        waiting: list[tuple[frozenset[int], bool]],
        nodes: list[int],
    ) -> int:
        state = (self.automaton.reached(nodes, begins=False, ends=False), False)
        if state not in known:
            if len(known) > MOST_STATES or (len(known) + 1) * (len(self.cuts) + 1) > MOST_CELLS:
                raise _too_large(self.text)
            known[state] = len(known)
            waiting.append(state)
        return known[state]

    def _classes(self, ranges: Ranges) -> Iterator[int]:
        for place, low in enumerate([0, *self.cuts]):
            if any(first <= low <= last for first, last in ranges):
                yield place

    def shortest(self) -> int | None:
        """Letters of the shortest text that it describes; None: it describes none."""
        length, here, seen = 0, {1}, {1}
        while here:
            if any(self.accepts[state] for state in here):
                return length
            here = {after for state in here for after in self.rows[state]} - seen
            seen |= here
            length += 1
        return None

    def expression(self) -> Expression:
        table = "".join(chr(after) for row in self.rows for after in row)
        return Expression(self.text, tuple(self.cuts), table, "".join("01"[yes] for yes in self.accepts))
