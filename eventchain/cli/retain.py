"""``eventchain retain``: erase what the retention rules of the configuration say is over."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eventchain.cli.common import announce, config_option, device_options, json_option, note, print_json
from eventchain.cli.erase import (
    INCOMPLETE,
    actor_option,
    complete_records,
    confirm,
    login,
    plan_as_dict,
    print_outcome,
    print_plan,
    seal_records,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventchain.assembly import Chain
    from eventchain.erasure.plan import Plan
    from eventchain.erasure.retention import Rule


@click.command("retain")
@config_option
@actor_option
@click.option("--dry-run", is_flag=True, help="Say what would be erased, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@device_options
@json_option
def command(
    config_file: Path,
    actor: str | None,
    dry_run: bool,
    yes: bool,
    backend: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Erase the sealed events that a retention rule says are over.

    The rules stand in the configuration as [retention.NAME], with one or more of where, types and older_than,
    all of which must hold. Each rule makes one record, which names it. What is erased already is passed over,
    what is not sealed yet is left for the next time. Exit 1 while an erasure is not complete.
    """
    from eventchain.assembly import open_chain
    from eventchain.config import Config
    from eventchain.errors import ConfigError

    config = Config.load(config_file)
    if not config.retention:
        raise ConfigError("the configuration has no [retention] rules", hint="docs/erasure.md shows some")
    with open_chain(config) as chain:
        plans = _plans(chain, config.retention.values())
        if dry_run and as_json:
            print_json({rule.name: plan_as_dict(plan) for rule, plan in plans})
            return
        for rule, plan in plans:
            note(f"{rule.reason}{'' if len(plan.places) or plan.already else ': none'}")
            print_plan(chain, plan, False, dry_run)
        if dry_run:
            return
        due = [(plan, rule.reason) for rule, plan in plans if len(plan.places)]
        if due:
            if not yes:
                confirm()
            choice = chain.choose(backend, device)
            announce(choice)
            seal_records(chain, choice, due, actor or login())
        outcome = complete_records(chain)
        print_outcome(chain, outcome, as_json)
    if len(outcome.waiting) or len(outcome.lost):
        click.get_current_context().exit(INCOMPLETE)


def _plans(chain: Chain, rules: Iterable[Rule]) -> list[tuple[Rule, Plan]]:
    """Each rule's plan; an event that several mean is the first one's."""
    import numpy as np

    from eventchain.erasure.plan import plan_erasure, positions_where, sealed_among

    now, taken, plans = time.time(), np.empty(0, np.int64), []
    for rule in rules:
        found = positions_where(chain.events, rule.matches(chain.events, now))
        mine = sealed_among(chain.store, np.setdiff1d(found, taken))
        plans.append((rule, plan_erasure(chain.store, chain.events, mine)))
        taken = np.union1d(taken, mine)
    return plans
