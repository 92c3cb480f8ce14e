"""What the tests share: a real fleet in processes of its own, and words for asking it."""
