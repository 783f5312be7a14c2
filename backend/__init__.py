"""Host half of the split drivers: ring service and memory mechanisms."""
