"""`python -m flowportrait` is the console command `flowportrait`."""

from flowportrait.cli import main

main()
