"""Commands that are no algorithm, one module each: its first line is its help, its ``command`` a click command."""
