"""``plait key``: a new API key and what is kept of it."""

from __future__ import annotations

import argparse
import sys

import msgspec

from server.access.keys import BadKeys, KeyEntry, digest_of, new_secret, tenant_of_entry
from server.cli.command import Command, ExitStatus, Refused

LESSON = """\
Make an API key for a tenant.

The key is printed once, on standard output; nothing of it is kept. The entry for the key file, with its hash, goes to standard error.

examples:
  plait key alice                              a key for alice, and the entry for the file
  plait key alice --weight 2 --requests-per-minute 60 --tokens-per-minute 100000 --pictures-per-minute 10 --max-in-flight 8
  plait serve --host 0.0.0.0 --keys-file keys.json

keys.json:
  {"keys": [ENTRY, ENTRY, …]}

Several entries may name one tenant, so that a new key can be handed out before the old one is taken away.
A tenant's weight is its share of the engine beside the others'; what it may use in a minute is counted over all its keys.
Tokens are counted as usage counts them, the pictures of a prompt included; what a request may need at most is taken when it is
accepted, and what it did not use is given back when it ends. Drawn pictures have a bound of their own.
"""

BOUNDS = {
    "requests-per-minute": "requests it may begin in a minute",
    "tokens-per-minute": "tokens of prompts and answers in a minute",
    "pictures-per-minute": "pictures drawn in a minute",
    "max-in-flight": "answers under way at once",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("tenant", metavar="TENANT", help="who will hold the key: letters, digits, '.', '_' and '-'")
    parser.add_argument("--weight", type=float, metavar="W", default=1.0, help="share of the engine beside other tenants (default: 1)")
    for name, lesson in BOUNDS.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"{lesson} (default: no bound)")


def run(options: argparse.Namespace) -> ExitStatus:
    """Print a key and its entry."""
    secret = new_secret()
    entry = KeyEntry(
        options.tenant,
        digest_of(secret),
        options.weight,
        options.requests_per_minute,
        options.tokens_per_minute,
        options.pictures_per_minute,
        options.max_in_flight,
    )
    try:
        tenant_of_entry(entry)
    except BadKeys as error:
        raise Refused(str(error)) from error
    print(secret)
    print(f"entry for the key file: {msgspec.json.encode(entry).decode()}", file=sys.stderr)
    return ExitStatus.OK


COMMAND = Command("key TENANT [options]", LESSON, add_options, run)
