"""The demonstration: a small bank on an event store of its own, and somebody who edits that store."""
