"""The decisions, pure: no Django, AWS, event loop, thread, clock or randomness."""
