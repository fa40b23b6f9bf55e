"""``python -m hpcmpi`` is the console script ``hpcmpi``."""

from hpcmpi.cli import main

main()
