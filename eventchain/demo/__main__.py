"""``python -m eventchain.demo work FILE`` does a day's business, ``balances FILE`` prints what it came to.

A process of its own, as a bank would be: no two SQLite libraries ever have its file open in one process.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from eventchain.demo.bank import balances, do_business, open_bank

TRANSACTIONS = 2000


def main(arguments: list[str]) -> int:
    match arguments:
        case ["work", path]:
            with open_bank(Path(path)) as bank:
                do_business(bank, TRANSACTIONS)
        case ["balances", path]:
            with open_bank(Path(path)) as bank:
                print(json.dumps([asdict(balance) for balance in balances(bank)]))
        case _:
            print("usage: python -m eventchain.demo work|balances FILE", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
