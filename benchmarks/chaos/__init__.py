"""make chaos: faults in everything that the gateway leans on, under load, and the books after."""
