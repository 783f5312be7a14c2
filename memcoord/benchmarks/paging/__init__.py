"""The bench of the guest: references that hit, faults served by tmem, faults served by disk."""
