"""The live service behind ``eventchain run``: sealing as events arrive, metrics, announcements."""
