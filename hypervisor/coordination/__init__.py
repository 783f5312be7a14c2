"""The slow path: who gets how much memory, decided once per interval and written down."""
