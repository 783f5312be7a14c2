"""The slow path: once per interval the policy sets every domain's targets; each is written down."""
