"""Damaged and odd input for all code that reads untrusted files: ``python -m tests.fuzz --help``.

A module of this package makes inputs of one kind and runs the product on them::

    NAME: str                                              # what --only calls it
    ALLOWED: tuple[type[Exception], ...]                   # the errors that are documented
    def prepare() -> None: ...                             # import and compile all that a run needs
    def make(random, folder: Path) -> Path: ...            # write one input into the empty folder
    def run(path: Path) -> None: ...                       # give it to the product; raise if an answer is wrong

A run that raises any other error, dies, or takes too much time or memory is a finding.
"""

MODULES = ("events", "folders", "text")
