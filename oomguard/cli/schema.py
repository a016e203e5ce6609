"""``oomguard schema``: what may stand in a policy file, for editors."""

from . import say


def schema() -> None:
    """Print the JSON Schema of a policy file. In the file: `#:schema PATH` as its first line."""
    from ..policy import described

    say.as_json(described.document())
