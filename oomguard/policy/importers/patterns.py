"""Other daemons' regular expressions as patterns of ours: exactly, or not at all.

What is finite is written out ("^(a|b)c?$" is four globs), ".*" is a star: globs are what people read. What is left
becomes a table with ``re``, with ".*" on both sides, for theirs are looked for anywhere. All else is ``Wrong``.
"""

from itertools import product

from ..expression import compiled
from ..faults import Wrong, shown
from ..spoken import Value
from ..values import COMM_BYTES

# Places in a sequence that are no letters of the text.
BEGIN, END, ONE, ANY = "\ue000", "\ue001", "\ue002", "\ue003"
_MOST = 64  # globs that one expression may become
_SPECIAL = "*?[]{}"  # letters that a glob of ours cannot mean
_CLASSES = {"d": "0123456789"}


Pattern = str | dict[str, str]


def comms(expression: str) -> list[Pattern]:
    """Over names of processes: there a star is any text."""
    try:
        return [*_globs(expression, "*")]
    except Wrong:
        return _tables(expression, COMM_BYTES)


def cgroups(expression: str) -> list[Pattern]:
    """Over cgroup paths."""
    try:
        globs = _globs(expression, "**")
    except Wrong:
        return _tables(expression)
    found: list[Pattern] = []
    for glob in globs:
        if glob.startswith("/"):
            found.append(glob)
        elif glob.startswith("**/"):  # at any depth: at the top, too
            found += [glob[2:], f"/{glob}"]
        elif glob.startswith("**"):
            found.append(f"/{glob}")
    return found


def as_value(pattern: Pattern) -> str | dict[str, Value]:
    """For a table of the policy."""
    return pattern if isinstance(pattern, str) else {**pattern}


def _tables(expression: str, longest: int | None = None) -> list[Pattern]:
    """None: it can match no name that there is."""
    compiled(expression)  # if it is wrong, by itself
    folded, inner = ("(?i)", expression[4:]) if expression.startswith("(?i)") else ("", expression)
    anywhere = f"{folded}.*(?:{inner}).*"
    try:
        compiled(anywhere, longest)
    except Wrong as wrong:
        if "never matches" in wrong.message:
            return []
        raise
    return [{"re": anywhere}]


def exact(expression: str) -> list[str]:
    """The texts that it matches, all of them."""
    texts = []
    for sequence in sequences(expression):
        body = sequence.removeprefix(BEGIN).removesuffix(END)
        if len(body) + 2 != len(sequence) or {ONE, ANY} & set(body):
            raise Wrong(f"{shown(expression)} is not a list of names")
        texts.append(body)
    return texts


def _globs(expression: str, star: str) -> list[str]:
    found: list[str] = []
    for sequence in sequences(expression):
        if any(c in _SPECIAL for c in sequence):
            raise Wrong(f"{shown(expression)}: no pattern of ours can mean a * ? [ ] {{ or }} itself")
        body = sequence.removeprefix(BEGIN) if sequence.startswith(BEGIN) else ANY + sequence
        body = body.removesuffix(END) if body.endswith(END) else body + ANY
        while ANY + ANY in body:
            body = body.replace(ANY + ANY, ANY)
        glob = body.replace(ONE, "?").replace(ANY, star)
        if glob and glob not in found:
            found.append(glob)
    return found


def sequences(expression: str) -> list[str]:
    """Every text that it can mean, with the four places in it; those that can never match are left out."""
    reader = _Reader(expression)
    found = reader.alternatives()
    if reader.rest():
        raise Wrong(f"{shown(expression)}: a ) without its (")
    whole = []
    for sequence in found:
        before, begins, inner = sequence.rpartition(BEGIN)
        inner, ends, after = inner.partition(END)
        if before.strip(BEGIN + ANY) or after.strip(END + ANY):
            continue  # "a^b": nothing is so; ".*^b" is "^b", since the star may be empty
        whole.append(begins + inner + ends)
    return whole


class _Reader:
    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.at = 0

    def rest(self) -> str:
        return self.expression[self.at :]

    def _take(self, count: int = 1) -> str:
        taken = self.expression[self.at : self.at + count]
        self.at += count
        return taken

    def _wrong(self, why: str) -> Wrong:
        return Wrong(f"{shown(self.expression)}: {why}")

    def alternatives(self) -> list[str]:
        found = self._row()
        while self.rest().startswith("|"):
            self._take()
            found = self._bounded([*found, *self._row()])
        return found

    def _row(self) -> list[str]:
        found = [""]
        while self.rest() and self.rest()[0] not in "|)":
            found = self._bounded(["".join(pair) for pair in product(found, self._repeated(self._atom()))])
        return found

    def _bounded(self, found: list[str]) -> list[str]:
        if len(found) > _MOST:
            raise self._wrong(f"more than {_MOST} patterns of ours")
        return found

    def _repeated(self, atom: list[str]) -> list[str]:
        sign = self.rest()[:1]
        if sign not in ("*", "+", "?"):
            if sign == "{":
                raise self._wrong("counted repeats cannot be said")
            return atom
        self._take()
        if self.rest()[:1] == "?":  # lazy: the same texts
            self._take()
        if sign == "?":
            return ["", *atom]
        if atom != [ONE]:
            raise self._wrong("repeats of anything but a dot cannot be said")
        return [ANY] if sign == "*" else [ONE + ANY]

    def _atom(self) -> list[str]:
        letter = self._take()
        match letter:
            case "(":
                return self._group()
            case "[":
                return self._letters()
            case "\\":
                return self._escaped()
            case "^":
                return [BEGIN]
            case "$":
                return [END]
            case ".":
                return [ONE]
            case "*" | "+" | "?" | "{":
                raise self._wrong(f"nothing stands before {letter}")
            case _:
                return [letter]

    def _group(self) -> list[str]:
        if self.rest().startswith("?:"):
            self._take(2)
        elif self.rest().startswith("?"):
            raise self._wrong("(? cannot be said")
        found = self.alternatives()
        if self._take() != ")":
            raise self._wrong("a ( is not closed")
        return found

    def _escaped(self) -> list[str]:
        letter = self._take()
        if letter in _CLASSES:
            return list(_CLASSES[letter])
        if not letter or letter.isalnum():
            raise self._wrong(f"\\{letter} cannot be said")
        return [letter]

    def _letters(self) -> list[str]:
        inside = self._take(max(2, self.expression.find("]", self.at + 1) + 1 - self.at))
        if not inside.endswith("]") or inside[0] in "^[" or "\\" in inside:
            raise self._wrong(f"[{inside} cannot be said")
        letters: list[str] = []
        body = inside[:-1]
        while body:
            if len(body) > 2 and body[1] == "-" and body[0] <= body[2]:
                letters += map(chr, range(ord(body[0]), min(ord(body[2]), ord(body[0]) + _MOST) + 1))
                body = body[3:]
            else:
                letters.append(body[0])
                body = body[1:]
        return self._bounded(letters)
