"""``eventchain forget``: the key of a subject destroyed, and with it all that was encrypted for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from eventchain.cli.common import (
    announce,
    config_option,
    counted,
    device_options,
    json_option,
    note,
    say_set_aside,
    say_step,
)
from eventchain.cli.erase import (
    INCOMPLETE,
    actor_option,
    confirm,
    login,
    print_outcome,
    print_plan,
    reason_option,
    require_reason,
)
from eventchain.cli.keys import keys_of
from eventchain.cli.progress import shown

if TYPE_CHECKING:
    from eventchain.assembly import Chain


@click.command("forget")
@click.argument("subject")
@config_option
@reason_option
@actor_option
@click.option("--dry-run", is_flag=True, help="Say what would be touched, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@device_options
@json_option
def command(
    subject: str,
    config_file: Path,
    reason: str | None,
    actor: str | None,
    dry_run: bool,
    yes: bool,
    backend: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Destroy the key of SUBJECT, and erase its events.

    A record of the positions of all events that were encrypted for SUBJECT is sealed first; it does not name
    SUBJECT. Then the key is destroyed, so that copies of these events in backups and replicas can be read no
    more, and the events are erased in place as `eventchain erase` does it. What is appended for SUBJECT
    afterwards gets a new key. It can be broken off at any moment; the same command goes on. Exit 1 while it
    is not complete.
    """
    from eventchain.assembly import open_chain
    from eventchain.errors import ConfigError
    from eventchain.subjects.forget import finish_forgetting, record_forgetting

    if not dry_run:
        require_reason(reason)
    with open_chain(config_file) as chain:
        keys = keys_of(chain)
        handles = keys.handles(subject)
        if not handles:
            raise ConfigError(
                f"there is no key of {subject!r}",
                hint="check the name; what was forgotten has none any more",
            )
        _print_plan(chain, handles, as_json, dry_run)
        if dry_run:
            return
        if not yes:
            confirm()
        choice = chain.choose(backend, device)
        announce(choice)
        with chain.sealing(choice, say_set_aside) as sealer:
            limit = chain.mining.block_events or sealer.builder.trunk.policy.events
            with shown(sealer, chain.events.head(), limit) as report:
                handles = record_forgetting(
                    sealer, chain.events, keys, subject, reason or "", actor or login(), limit, report
                )
        try:
            note(f"destroying {counted(len(handles), 'key')}")
            with chain.store.writer():
                outcome = finish_forgetting(chain.store, chain.events, keys, handles, say_step)
        except BaseException:
            note("It is on record and not all destroyed; the same command goes on.")
            raise
        print_outcome(chain, outcome, as_json)
    if len(outcome.waiting) or len(outcome.lost):
        click.get_current_context().exit(INCOMPLETE)


def _print_plan(chain: Chain, handles: list[bytes], as_json: bool, dry_run: bool) -> None:
    from eventchain.erasure.plan import plan_erasure, positions_where, sealed_among
    from eventchain.subjects.forget import of_handles

    positions = positions_where(chain.events, of_handles(handles))
    sealed = sealed_among(chain.store, positions)
    if len(positions) > len(sealed):
        note(f"{counted(len(positions) - len(sealed), 'event')} not sealed yet: sealed first, then erased")
    print_plan(chain, plan_erasure(chain.store, chain.events, sealed), as_json, dry_run)
    note(
        "what was encrypted for it in backups and replicas can be read no more, if the key has no copy there"
    )
