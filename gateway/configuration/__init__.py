"""What is made of fleet.yaml, whole or not at all. What lives longer: `gateway/assembly.py`."""
