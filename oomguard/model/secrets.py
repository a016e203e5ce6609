"""What of a command line is nobody's business: the rules by which incidents are kept free of it.

For the scribe, who keeps command lines, and for whoever hands an incident on. docs/incidents.md says the same in words.
"""

import re
from typing import Final

_SECRET: Final = (
    r"(?:pass(?:word|wd|phrase|code)|pass(?![a-z])|pwd|secret|tokens?(?![a-z])|credentials?|cookies?(?![a-z])|bearer"
    r"|(?:api|access|private|signing|encryption|master|account|shared)[-_]?keys?(?![a-z])|(?<![a-z])keys?(?![a-z])"
    r"|auth(?![a-z])|authorization)"
)
_WORDY: Final = rf"[\w.-]{{0,40}}{_SECRET}[\w.-]{{0,40}}"
_ASSIGNED: Final = re.compile(rf"(?i)((?:^|[\s,;&?\"'{{])-{{0,2}}{_WORDY}[\"']?\s?[=:]\s?[\"']?)(?!//)([^\s,;&\"'}}]+)")
_FLAG: Final = re.compile(rf"(?i)^-{{1,2}}{_WORDY}$")
_URL: Final = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,30}://[^\s/:@]{0,200}):[^\s/@]{1,200}@")
_BEARER: Final = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}")
_SHAPES: Final = re.compile(
    r"\beyJ[\w-]{8,}\.[\w-]{4,}\.?[\w-]*"  # a JSON web token
    r"|\bAKIA[0-9A-Z]{16}\b"  # AWS
    r"|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}|\bxox[abprs]-[\w-]{10,}|\bsk-[\w-]{16,}"
)
_USER_PASS: Final = re.compile(r"^[^:\s]{1,100}:\S+$")
_HIDDEN: Final = "[redacted]"
_WORD_MAX: Final = 2000  # what is longer is no word, and costs time


def redact(words: list[str]) -> str:
    """A command line for people, without what looks like a secret.

    Hidden are: the value of every NAME=VALUE, NAME:VALUE, --NAME=VALUE and ``--NAME VALUE`` whose NAME speaks of a
    password, secret, token, key, credential, cookie or authorization; the password in a URL and after ``-u USER:``;
    what follows Bearer and Basic; tokens known by their shape. What a program takes as a bare word cannot be known.
    """
    found: list[str] = []
    hide = ""
    for given in words:
        word = given
        if hide == "all" and not word.startswith("-"):
            word = _HIDDEN
        elif hide == "user" and _USER_PASS.match(word):
            word = f"{word.partition(':')[0]}:{_HIDDEN}"
        hide = "all" if _FLAG.match(word) else "user" if word in ("-u", "--user", "--proxy-user") else ""
        found.append(clean(word))
    return " ".join(found)


def clean(word: str) -> str:
    """A word of a command line, or a line of any text, without the secrets that are known by what they look like."""
    word = _BEARER.sub(rf"\1 {_HIDDEN}", word[:_WORD_MAX])
    word = _URL.sub(rf"\1:{_HIDDEN}@", word)
    word = _ASSIGNED.sub(rf"\1{_HIDDEN}", word)
    return _SHAPES.sub(_HIDDEN, word)
