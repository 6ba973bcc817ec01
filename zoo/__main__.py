"""``python -m zoo`` is the command ``snn-zoo``."""

from zoo.command import app

app(prog_name="snn-zoo")
