"""Lawful erasure: what an erasure would touch, its record on the chain, and the act.

An erasure in place leaves rows, leaves and blocks as they are. It destroys the payloads of events and the
salts that hid them; in a salt's place stands the commitment that was made with it. Nothing is mined again but
the block of the record that says what was erased, by whom and why, and that block is sealed first.

A removal takes whole events out of the log. Everything from their block on is built anew beside the old part,
mined as one batch, and put in its place in one transaction; its record is sealed first, too.
"""
